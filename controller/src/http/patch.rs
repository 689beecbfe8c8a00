//! Patches: JSON merge patch (RFC 7386) and JSON patch (RFC 6902).

use super::ApiError;
use serde::Deserialize;
use serde_json::Value;

/// RFC 7386 §2: `null` removes, objects merge, everything else replaces.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (name, change) in patch {
        if change.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name).or_insert(Value::Null), change);
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Operation {
    Add { path: String, value: Value },
    Remove { path: String },
    Replace { path: String, value: Value },
    Move { from: String, path: String },
    Copy { from: String, path: String },
    Test { path: String, value: Value },
}

/// A list of operations, all of which happen or none.
#[derive(Debug)]
pub(super) struct JsonPatch(Vec<Operation>);

impl JsonPatch {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        let bad = |e| ApiError::bad_request(format!("the patch cannot be decoded: {e}"));
        serde_json::from_slice(bytes).map(JsonPatch).map_err(bad)
    }

    pub(super) fn apply(&self, old: &Value) -> Result<Value, ApiError> {
        let mut value = old.clone();
        for operation in &self.0 {
            step(&mut value, operation).map_err(|path| {
                ApiError::bad_request(format!("the patch does not fit the object at {path:?}"))
            })?;
        }
        Ok(value)
    }
}

/// `Err` carries the path that does not fit.
fn step(value: &mut Value, operation: &Operation) -> Result<(), String> {
    let at =
        |value: &Value, path: &str| value.pointer(path).cloned().ok_or_else(|| path.to_owned());
    match operation {
        Operation::Add { path, value: new } => add(value, path, new.clone()),
        Operation::Remove { path } => remove(value, path).map(drop),
        Operation::Replace { path, value: new } => {
            *value.pointer_mut(path).ok_or(path)? = new.clone();
            Ok(())
        }
        Operation::Move { from, path } => {
            let moved = remove(value, from)?;
            add(value, path, moved)
        }
        Operation::Copy { from, path } => {
            let copied = at(value, from)?;
            add(value, path, copied)
        }
        Operation::Test { path, value: want } => {
            if at(value, path)? == *want {
                Ok(())
            } else {
                Err(path.clone())
            }
        }
    }
}

/// The container that a path leads into, and its last step.
fn parent<'a>(value: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    let last = last.replace("~1", "/").replace("~0", "~");
    Some((value.pointer_mut(parent)?, last))
}

fn add(value: &mut Value, path: &str, new: Value) -> Result<(), String> {
    if path.is_empty() {
        *value = new;
        return Ok(());
    }
    match parent(value, path).ok_or(path)? {
        (Value::Object(map), name) => {
            map.insert(name, new);
            Ok(())
        }
        (Value::Array(list), index) => {
            let index = if index == "-" { Some(list.len()) } else { index.parse().ok() };
            let index = index.filter(|index| *index <= list.len()).ok_or(path)?;
            list.insert(index, new);
            Ok(())
        }
        _ => Err(path.into()),
    }
}

fn remove(value: &mut Value, path: &str) -> Result<Value, String> {
    match parent(value, path).ok_or(path)? {
        (Value::Object(map), name) => map.remove(&name).ok_or_else(|| path.to_owned()),
        (Value::Array(list), index) => {
            let index = index.parse().ok().filter(|index| *index < list.len()).ok_or(path)?;
            Ok(list.remove(index))
        }
        _ => Err(path.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z]{0,3}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[abc]", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Applying a patch twice is applying it once, and no null of the patch stays.
        #[test]
        fn merging_twice_changes_nothing_more(old in values(), patch in values()) {
            let mut once = old;
            merge(&mut once, &patch);
            let mut twice = once.clone();
            merge(&mut twice, &patch);
            prop_assert_eq!(once, twice);
        }

        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..64), old in values()) {
            if let Ok(patch) = JsonPatch::parse(&bytes) {
                let _ = patch.apply(&old);
            }
        }
    }

    /// The examples of RFC 7386, appendix A.
    #[test]
    fn merges_as_the_rfc_says() {
        let cases = [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":"foo"}), json!("bar"), json!("bar")),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ];
        for (mut old, patch, want) in cases {
            merge(&mut old, &patch);
            assert_eq!(old, want);
        }
    }

    #[test]
    fn operations_happen_all_or_none() {
        let old = json!({"a": [1, 2], "b": {"c/d": 1}});
        let patch = |text: &str| JsonPatch::parse(text.as_bytes()).unwrap().apply(&old);
        let done = patch(
            r#"[{"op":"test","path":"/a/0","value":1},{"op":"add","path":"/a/-","value":3},
            {"op":"remove","path":"/b/c~1d"},{"op":"copy","from":"/a/2","path":"/x"},{"op":"move","from":"/a/0","path":"/y"}]"#,
        );
        assert_eq!(done.unwrap(), json!({"a": [2, 3], "b": {}, "x": 3, "y": 1}));
        let refused =
            patch(r#"[{"op":"replace","path":"/b","value":0},{"op":"remove","path":"/nothing"}]"#);
        assert_eq!(refused.unwrap_err().code(), 400);
        assert_eq!(patch(r#"[{"op":"test","path":"/a","value":1}]"#).unwrap_err().code(), 400);
    }
}
