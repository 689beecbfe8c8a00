//! Label selectors
//! (<https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#api>).
//!
//! ```text
//! selector = requirement *( "," requirement )
//! requirement = key | "!" key | key ("=" | "==" | "!=") value | key ("in" | "notin") "(" values ")"
//!             | key (">" | "<") number
//! ```

use super::SelectorError;
use serde_json::Value;

/// What labels must be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Exists,
    Missing,
    In(Vec<String>),
    /// Also true where the label is missing.
    NotIn(Vec<String>),
    Above(i64),
    Below(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Word<'a> {
    Text(&'a str),
    Sign(&'static str),
}

impl LabelSelector {
    /// Reads a selector; an empty one selects everything.
    ///
    /// # Errors
    /// It is not a selector.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let fail = |what: &str| SelectorError::new(text, what);
        let words = split(text);
        let mut words = words.as_slice();
        let mut requirements = Vec::new();
        while !words.is_empty() {
            let (requirement, rest) = requirement(words).map_err(|what| fail(&what))?;
            requirements.push(requirement);
            words = match rest {
                [] => rest,
                [Word::Sign(","), more @ ..] if !more.is_empty() => more,
                _ => return Err(fail("a comma and another requirement must follow")),
            };
        }
        Ok(LabelSelector(requirements))
    }

    /// Whether it selects an object with these labels (`metadata.labels`).
    pub fn matches(&self, labels: Option<&Value>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.and_then(|all| all.get(&requirement.key)).and_then(Value::as_str);
            requirement.test.holds(value)
        })
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|text| text.parse::<i64>().ok());
        match self {
            Test::Exists => value.is_some(),
            Test::Missing => value.is_none(),
            Test::In(words) => value.is_some_and(|v| words.iter().any(|word| word == v)),
            Test::NotIn(words) => value.is_none_or(|v| words.iter().all(|word| word != v)),
            Test::Above(limit) => number().is_some_and(|n| n > *limit),
            Test::Below(limit) => number().is_some_and(|n| n < *limit),
        }
    }
}

fn split(text: &str) -> Vec<Word<'_>> {
    const SIGNS: &[&str] = &["==", "!=", "=", "!", ",", "(", ")", ">", "<"];
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            words.push(Word::Sign(sign));
            rest = rest[sign.len()..].trim_start();
        } else {
            let end = rest
                .find(|c: char| c.is_whitespace() || "=!,()<>".contains(c))
                .unwrap_or(rest.len());
            words.push(Word::Text(&rest[..end]));
            rest = rest[end..].trim_start();
        }
    }
    words
}

fn requirement<'w, 't>(words: &'w [Word<'t>]) -> Result<(Requirement, &'w [Word<'t>]), String> {
    let (key, test, rest) = match words {
        [Word::Sign("!"), Word::Text(key), rest @ ..] => (key, Test::Missing, rest),
        [Word::Text(key), Word::Text("in"), rest @ ..] => {
            let (values, rest) = values(rest)?;
            (key, Test::In(values), rest)
        }
        [Word::Text(key), Word::Text("notin"), rest @ ..] => {
            let (values, rest) = values(rest)?;
            (key, Test::NotIn(values), rest)
        }
        [Word::Text(key), Word::Sign("=" | "=="), rest @ ..] => {
            let (value, rest) = one_value(rest)?;
            (key, Test::In(vec![value]), rest)
        }
        [Word::Text(key), Word::Sign("!="), rest @ ..] => {
            let (value, rest) = one_value(rest)?;
            (key, Test::NotIn(vec![value]), rest)
        }
        [Word::Text(key), Word::Sign(sign @ (">" | "<")), Word::Text(number), rest @ ..] => {
            let limit = number.parse().map_err(|_| format!("{number:?} is not a whole number"))?;
            (key, if *sign == ">" { Test::Above(limit) } else { Test::Below(limit) }, rest)
        }
        [Word::Text(key), rest @ ..] => (key, Test::Exists, rest),
        _ => return Err("a label's name must come first".into()),
    };
    if !is_label_key(key) {
        return Err(format!("{key:?} is not a label's name"));
    }
    Ok((Requirement { key: (*key).to_owned(), test }, rest))
}

/// One value; none at all means the empty one.
fn one_value<'w, 't>(words: &'w [Word<'t>]) -> Result<(String, &'w [Word<'t>]), String> {
    match words {
        [Word::Text(value), rest @ ..] => Ok((label_value(value)?, rest)),
        rest => Ok((String::new(), rest)),
    }
}

fn values<'w, 't>(words: &'w [Word<'t>]) -> Result<(Vec<String>, &'w [Word<'t>]), String> {
    let [Word::Sign("("), rest @ ..] = words else {
        return Err("values in parentheses must follow".into());
    };
    let mut values = Vec::new();
    let mut rest = rest;
    loop {
        let (value, more) = one_value(rest)?;
        values.push(value);
        match more {
            [Word::Sign(","), more @ ..] => rest = more,
            [Word::Sign(")"), more @ ..] => return Ok((values, more)),
            _ => return Err("the parenthesis is not closed".into()),
        }
    }
}

fn label_value(text: &str) -> Result<String, String> {
    if is_label_value(text) {
        Ok(text.into())
    } else {
        Err(format!("{text:?} is not a label's value"))
    }
}

/// An optional DNS subdomain and slash, and a name of up to 63 characters.
pub(crate) fn is_label_key(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    prefix.is_none_or(holdfast_api::meta::is_dns_subdomain)
        && !name.is_empty()
        && is_label_value(name)
}

/// Up to 63 letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit; or empty.
pub(crate) fn is_label_value(text: &str) -> bool {
    let alphanumeric = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        && alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn matches(selector: &str, labels: Value) -> bool {
        LabelSelector::parse(selector).unwrap().matches(Some(&labels))
    }

    #[test]
    fn the_whole_grammar() {
        let labels = json!({"a": "1", "b": "x", "example.com/c": "", "n": "15"});
        for (selector, want) in [
            ("", true),
            ("a", true),
            ("!a", false),
            ("! zz", true),
            ("a=1", true),
            ("a==1,b=x", true),
            ("a = 2", false),
            ("a!=1", false),
            ("zz!=1", true),
            ("b in (y, x)", true),
            ("b in (y)", false),
            ("b notin (y,z)", true),
            ("zz notin (y)", true),
            ("zz in (y)", false),
            ("example.com/c=", true),
            ("example.com/c in (,q)", true),
            ("n>14", true),
            ("n<15", false),
            ("in", false),
            ("a,b,!zz,a in (1),b notin (1)", true),
        ] {
            assert_eq!(matches(selector, labels.clone()), want, "{selector}");
        }
        for bad in [
            "a in", "a in (", "a in b", "(", "a=1,", ",a", "a b", "=1", "a=b c", "-a", "a=-",
            "n>x", "a/b/c", "!",
        ] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in ".{0,60}", labels in prop::collection::btree_map("[a-c]", "[x-z]", 0..3)) {
            if let Ok(selector) = LabelSelector::parse(&text) {
                selector.matches(Some(&json!(labels)));
            }
        }

        /// A selector and its negation never agree.
        #[test]
        fn negations_negate(key in "[a-c]", value in "[x-z]", labels in prop::collection::btree_map("[a-c]", "[x-z]", 0..3)) {
            let labels = json!(labels);
            for (yes, no) in [("{k}={v}", "{k}!={v}"), ("{k}", "!{k}"), ("{k} in ({v},q)", "{k} notin ({v},q)")] {
                let fill = |text: &str| text.replace("{k}", &key).replace("{v}", &value);
                prop_assert_ne!(matches(&fill(yes), labels.clone()), matches(&fill(no), labels.clone()));
            }
        }
    }
}
