//! Our section of a `#cloud-config` document, out of whatever else cloud-init is told.
//!
//! Written for hostile input: the document's size is bounded by the caller, foreign keys are
//! skipped without following aliases, and ours may only hold plain text, so that no document can
//! make us allocate more than its own size. The scanner's work grows with the depth of flow
//! collections times the length, so the number of their brackets is bounded too. No error repeats
//! content: that could be the token.

use serde::de::{
    Deserialize, Deserializer, EnumAccess, IgnoredAny, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use std::fmt;
use zeroize::Zeroizing;

/// Most opening brackets in a document; its flow collections cannot be deeper than that.
const BRACKETS_MAX: usize = 8192;

/// What our section says.
#[derive(PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) token: Zeroizing<String>,
    pub(crate) controller: Option<String>,
}

/// Why a document gives no section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not YAML, at this line and column (from 1).
    NotYaml { line: usize, column: usize },
    /// More than [`BRACKETS_MAX`] brackets.
    TooManyBrackets,
    /// Our section is there and wrong.
    Field(&'static str),
}

/// Our section; none when the document has none.
pub(crate) fn parse(text: &str) -> Result<Option<Section>, Refusal> {
    if text.bytes().filter(|b| matches!(b, b'[' | b'{')).count() > BRACKETS_MAX {
        return Err(Refusal::TooManyBrackets);
    }
    match serde_yaml_ng::from_str::<Document>(text) {
        Ok(Document(None)) => Ok(None),
        Ok(Document(Some(Err(wrong)))) => Err(Refusal::Field(wrong)),
        Ok(Document(Some(Ok(section)))) => Ok(Some(section)),
        Err(error) => {
            let (line, column) =
                error.location().map_or((1, 1), |place| (place.line(), place.column()));
            Err(Refusal::NotYaml { line, column })
        }
    }
}

type Answer = Result<Section, &'static str>;

struct Document(Option<Answer>);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DocumentVisitor)
    }
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping")
    }

    /// A document of comments alone.
    fn visit_unit<E>(self) -> Result<Document, E> {
        Ok(Document(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        let mut found = None;
        while let Some(Plain(key)) = map.next_key()? {
            if key.is_none_or(|key| *key != "holdfast") {
                map.next_value::<IgnoredAny>()?;
            } else if found.is_some() {
                map.next_value::<IgnoredAny>()?;
                found = Some(Err("`holdfast` is there twice"));
            } else {
                found = Some(map.next_value::<SectionReader>()?.0);
            }
        }
        Ok(Document(found))
    }
}

struct SectionReader(Answer);

impl<'de> Deserialize<'de> for SectionReader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SectionVisitor)
    }
}

struct SectionVisitor;

impl<'de> Visitor<'de> for SectionVisitor {
    type Value = SectionReader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping with `token`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SectionReader, A::Error> {
        let (mut token, mut controller, mut wrong) = (None, None, None);
        while let Some(Plain(key)) = map.next_key()? {
            let Plain(value) = map.next_value()?;
            match (key.as_deref().map(String::as_str), value) {
                (Some("token"), None) => wrong = Some("`token` is not text: put it in quotes"),
                (Some("controller"), None) => {
                    wrong = Some("`controller` is not text: put it in quotes");
                }
                (Some("token"), Some(_)) if token.is_some() => {
                    wrong = Some("`token` is there twice");
                }
                (Some("controller"), Some(_)) if controller.is_some() => {
                    wrong = Some("`controller` is there twice");
                }
                (Some("token"), Some(value)) => token = Some(value),
                (Some("controller"), Some(value)) => controller = Some(value.to_string()),
                (_, _) => wrong = Some("it has a key other than `token` and `controller`"),
            }
        }
        Ok(SectionReader(match (wrong, token) {
            (Some(wrong), _) => Err(wrong),
            (None, None) => Err("`token` is missing"),
            (None, Some(token)) => Ok(Section { token, controller }),
        }))
    }

    fn visit_str<E>(self, _: &str) -> Result<SectionReader, E> {
        Ok(SectionReader(Err("`holdfast` is not a mapping: write `token:` below it")))
    }

    fn visit_unit<E>(self) -> Result<SectionReader, E> {
        Ok(SectionReader(Err("`holdfast` is empty")))
    }
}

/// Text; or `None` for anything else, which is skipped.
struct Plain(Option<Zeroizing<String>>);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlainVisitor)
    }
}

struct PlainVisitor;

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Plain;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Plain, E> {
        Ok(Plain(Some(Zeroizing::new(text.to_owned()))))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Plain, E> {
        Ok(Plain(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Plain, E> {
        Ok(Plain(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Plain, E> {
        Ok(Plain(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Plain, E> {
        Ok(Plain(None))
    }

    fn visit_unit<E>(self) -> Result<Plain, E> {
        Ok(Plain(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Plain, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Plain(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Plain, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Plain(None))
    }

    /// A value with a tag of its own, such as `!secret`.
    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Plain, A::Error> {
        let (_, value) = data.variant::<IgnoredAny>()?;
        value.newtype_variant::<IgnoredAny>()?;
        Ok(Plain(None))
    }
}
