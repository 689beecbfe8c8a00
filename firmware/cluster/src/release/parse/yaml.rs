//! Documents of a YAML text as JSON, within bounds: an alias repeats what it names, so a small
//! text can stand for more than there is memory.

use super::{MAX_CONTENT_BYTES, MAX_DEPTH, NAME_SHOWN};
use holdfast_api::brief;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::Cell;
use std::fmt;

/// What every value and every name takes beside its text.
const VALUE_BYTES: usize = 64;

/// What a release may still take in memory.
pub(super) struct Budget(Cell<usize>);

impl Budget {
    /// All of it.
    pub(super) fn new() -> Self {
        Budget(Cell::new(MAX_CONTENT_BYTES))
    }

    fn pay<E: Error>(&self, text: &str) -> Result<(), E> {
        let left = self.0.get().checked_sub(text.len().saturating_add(VALUE_BYTES));
        self.0.set(left.ok_or_else(|| {
            let most = MAX_CONTENT_BYTES >> 20;
            E::custom(format!(
                "the release takes more than {most} MiB when aliases are written out"
            ))
        })?);
        Ok(())
    }
}

/// The documents of `text`; after one that cannot be read there are no more.
pub(super) fn documents<'a>(
    text: &'a str,
    budget: &'a Budget,
) -> impl Iterator<Item = Result<Value, serde_yaml_ng::Error>> + 'a {
    let mut ended = false;
    serde_yaml_ng::Deserializer::from_str(text)
        .map(move |document| Bounded { budget, depth: MAX_DEPTH }.deserialize(document))
        .take_while(move |document| !std::mem::replace(&mut ended, document.is_err()))
}

#[derive(Clone, Copy)]
struct Bounded<'a> {
    budget: &'a Budget,
    depth: usize,
}

impl Bounded<'_> {
    fn inner<E: Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        let depth = depth.ok_or_else(|| E::custom(format!("more than {MAX_DEPTH} levels")))?;
        self.budget.pay("")?;
        Ok(Bounded { depth, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.budget.pay("")?;
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.budget.pay("")?;
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.budget.pay("")?;
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.budget.pay("")?;
        let number = Number::from_f64(value);
        number.map(Value::Number).ok_or_else(|| E::custom("JSON has no such number"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.budget.pay(value)?;
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.budget.pay("")?;
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.budget.pay("")?;
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut list = Vec::new();
        while let Some(value) = entries.next_element_seed(inner)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut map = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            self.budget.pay(&name)?;
            let value = entries.next_value_seed(inner)?;
            if map.contains_key(&name) {
                let name = brief(&name, NAME_SHOWN);
                return Err(A::Error::custom(format!("the field {name:?} is there twice")));
            }
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}
