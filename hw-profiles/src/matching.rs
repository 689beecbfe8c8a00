//! Which machines a profile is for: patterns on DMI fields, and how specific they are.
//!
//! A profile has any number of rules; it matches when one of them does. A rule matches when all
//! of its fields do. Letters are compared without regard to ASCII case, because vendors do not
//! agree with themselves ("Supermicro", "SUPERMICRO").

use crate::facts::Dmi;
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// One way to recognise a machine: every field that is given has to match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the names are those of the files in /sys/class/dmi/id
pub struct Rule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sys_vendor: Option<Pattern>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_name: Option<Pattern>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_version: Option<Pattern>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_family: Option<Pattern>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_sku: Option<Pattern>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub board_vendor: Option<Pattern>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub board_name: Option<Pattern>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bios_vendor: Option<Pattern>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bios_version: Option<Pattern>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chassis_vendor: Option<Pattern>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chassis_type: Option<Pattern>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chassis_asset_tag: Option<Pattern>,
}

/// How narrowly a rule describes a machine; the larger wins.
///
/// The sum over its fields: 1000 for an exact text, 900 for one of several, 500 plus the length
/// for a beginning (at most 300 counted), 100 plus the number of plain characters for a glob (at
/// most 300 counted).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Specificity(pub u32);

impl fmt::Display for Specificity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Rule {
    /// The fields that are given, by name.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &Pattern)> {
        [
            ("sys_vendor", &self.sys_vendor),
            ("product_name", &self.product_name),
            ("product_version", &self.product_version),
            ("product_family", &self.product_family),
            ("product_sku", &self.product_sku),
            ("board_vendor", &self.board_vendor),
            ("board_name", &self.board_name),
            ("bios_vendor", &self.bios_vendor),
            ("bios_version", &self.bios_version),
            ("chassis_vendor", &self.chassis_vendor),
            ("chassis_type", &self.chassis_type),
            ("chassis_asset_tag", &self.chassis_asset_tag),
        ]
        .into_iter()
        .filter_map(|(name, pattern)| pattern.as_ref().map(|pattern| (name, pattern)))
    }

    /// The sum over the fields.
    pub fn specificity(&self) -> Specificity {
        Specificity(self.fields().map(|(_, pattern)| pattern.weight()).sum())
    }

    /// The first field that does not match, with what the machine has there.
    ///
    /// A rule without fields matches nothing, not everything: it is a mistake in the file.
    pub fn mismatch<'a>(&'a self, dmi: &'a Dmi) -> Option<Mismatch<'a>> {
        if self.fields().next().is_none() {
            return Some(Mismatch { field: "(no field)", want: None, have: "" });
        }
        self.fields().find_map(|(field, pattern)| {
            let have = field_of(dmi, field);
            (!pattern.matches(have)).then_some(Mismatch { field, want: Some(pattern), have })
        })
    }

    /// Whether the machine is of this kind.
    pub fn matches(&self, dmi: &Dmi) -> bool {
        self.mismatch(dmi).is_none()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (field, pattern)) in self.fields().enumerate() {
            write!(f, "{}{field} {pattern}", if at == 0 { "" } else { " and " })?;
        }
        Ok(())
    }
}

/// Why a rule does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch<'a> {
    /// Name of the DMI field.
    pub field: &'static str,
    /// What the rule asks for.
    pub want: Option<&'a Pattern>,
    /// What the machine says.
    pub have: &'a str,
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.want {
            Some(want) => write!(f, "{} is {:?}, wanted: {want}", self.field, self.have),
            None => f.write_str("the rule names no field"),
        }
    }
}

fn field_of<'a>(dmi: &'a Dmi, field: &str) -> &'a str {
    match field {
        "sys_vendor" => &dmi.sys_vendor,
        "product_name" => &dmi.product_name,
        "product_version" => &dmi.product_version,
        "product_family" => &dmi.product_family,
        "product_sku" => &dmi.product_sku,
        "board_vendor" => &dmi.board_vendor,
        "board_name" => &dmi.board_name,
        "bios_vendor" => &dmi.bios_vendor,
        "bios_version" => &dmi.bios_version,
        "chassis_vendor" => &dmi.chassis_vendor,
        "chassis_type" => &dmi.chassis_type,
        "chassis_asset_tag" => &dmi.chassis_asset_tag,
        _ => "",
    }
}

/// What one DMI field has to look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// The whole text.
    Exact(String),
    /// The beginning of the text.
    Prefix(String),
    /// `*` for any characters, `?` for one.
    Glob(String),
    /// The whole text is one of these.
    OneOf(Vec<String>),
}

/// Characters of a beginning or glob that count towards its weight, so that no length outweighs
/// an exact match.
const COUNTED_LENGTH: u32 = 300;

impl Pattern {
    /// Whether `text` looks like this; case of ASCII letters does not matter.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Pattern::Exact(want) => want.eq_ignore_ascii_case(text),
            Pattern::Prefix(want) => {
                text.get(..want.len()).is_some_and(|start| start.eq_ignore_ascii_case(want))
            }
            Pattern::Glob(pattern) => glob(pattern, text),
            Pattern::OneOf(wants) => wants.iter().any(|want| want.eq_ignore_ascii_case(text)),
        }
    }

    fn weight(&self) -> u32 {
        let counted = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).min(COUNTED_LENGTH);
        match self {
            Pattern::Exact(_) => 1000,
            Pattern::OneOf(_) => 900,
            Pattern::Prefix(want) => 500 + counted(want.chars().count()),
            Pattern::Glob(pattern) => 100 + counted(literal_characters(pattern)),
        }
    }

    /// Why this pattern cannot be meant, if so: it is empty or fits everything.
    pub fn fault(&self) -> Option<&'static str> {
        match self {
            Pattern::Exact(want) if want.is_empty() => {
                Some("an empty text matches machines that say nothing")
            }
            Pattern::Prefix(want) if want.is_empty() => {
                Some("an empty beginning matches everything")
            }
            Pattern::OneOf(wants) if wants.is_empty() => Some("an empty list matches nothing"),
            Pattern::OneOf(wants) if wants.iter().any(String::is_empty) => {
                Some("an empty text matches machines that say nothing")
            }
            Pattern::Glob(pattern) if literal_characters(pattern) == 0 => {
                Some("a glob without a plain character matches everything")
            }
            Pattern::Exact(_) | Pattern::Prefix(_) | Pattern::Glob(_) | Pattern::OneOf(_) => None,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Exact(want) => write!(f, "is {want:?}"),
            Pattern::Prefix(want) => write!(f, "begins with {want:?}"),
            Pattern::Glob(pattern) => write!(f, "looks like {pattern:?}"),
            Pattern::OneOf(wants) => write!(f, "is one of {wants:?}"),
        }
    }
}

fn literal_characters(pattern: &str) -> usize {
    pattern.chars().filter(|c| !matches!(c, '*' | '?')).count()
}

/// `*` and `?` only. Linear in time for one star at a time: on a mismatch only the last star
/// takes one character more.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                last_star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || c.eq_ignore_ascii_case(&text[t]) => {
                p += 1;
                t += 1;
            }
            _ => match last_star {
                Some((star, taken)) => {
                    last_star = Some((star, taken + 1));
                    p = star + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = match self {
            Pattern::Exact(want) => return serializer.serialize_str(want),
            Pattern::Prefix(_) | Pattern::Glob(_) | Pattern::OneOf(_) => {
                serializer.serialize_map(Some(1))?
            }
        };
        match self {
            Pattern::Exact(want) => map.serialize_entry("exact", want)?,
            Pattern::Prefix(want) => map.serialize_entry("prefix", want)?,
            Pattern::Glob(pattern) => map.serialize_entry("glob", pattern)?,
            Pattern::OneOf(wants) => map.serialize_entry("one_of", wants)?,
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Pattern {
    /// By hand rather than as an untagged enum, so that a misspelt key is named in the error.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PatternVisitor;
        impl<'de> Visitor<'de> for PatternVisitor {
            type Value = Pattern;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or a table with one of `exact`, `prefix`, `glob`, `one_of`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Pattern, E> {
                Ok(Pattern::Exact(text.to_owned()))
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Pattern, M::Error> {
                let key: Option<String> = map.next_key()?;
                let pattern = match key.as_deref() {
                    Some("exact") => Pattern::Exact(map.next_value()?),
                    Some("prefix") => Pattern::Prefix(map.next_value()?),
                    Some("glob") => Pattern::Glob(map.next_value()?),
                    Some("one_of") => Pattern::OneOf(map.next_value()?),
                    Some(other) => {
                        return Err(de::Error::unknown_field(
                            other,
                            &["exact", "prefix", "glob", "one_of"],
                        ));
                    }
                    None => return Err(de::Error::invalid_length(0, &self)),
                };
                match map.next_key::<String>()? {
                    None => Ok(pattern),
                    Some(second) => Err(de::Error::custom(format!(
                        "a pattern is of one kind, not of two (`{}` and `{second}`)",
                        key.unwrap_or_default()
                    ))),
                }
            }
        }
        deserializer.deserialize_any(PatternVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_they_say() {
        for (pattern, text, want) in [
            (Pattern::Exact("QEMU".into()), "qemu", true),
            (Pattern::Exact("QEMU".into()), "QEMU 2", false),
            (Pattern::Prefix("NUC11".into()), "NUC11TNHi5", true),
            (Pattern::Prefix("NUC11".into()), "NUC1", false),
            (Pattern::Prefix("NUC1\u{e9}".into()), "NUC11", false),
            (Pattern::Glob("NUC1?*i5".into()), "NUC11TNHi5", true),
            (Pattern::Glob("NUC1?*i5".into()), "NUC11TNHi7", false),
            (Pattern::Glob("*a*b*".into()), "xxaxxbxx", true),
            (Pattern::Glob("*a*b".into()), "xxaxxbxx", false),
            (Pattern::Glob("".into()), "", true),
            (Pattern::OneOf(vec!["a".into(), "b".into()]), "B", true),
            (Pattern::OneOf(vec![]), "", false),
        ] {
            assert_eq!(pattern.matches(text), want, "{pattern} on {text:?}");
        }
    }

    #[test]
    fn exact_outweighs_any_beginning_and_any_glob() {
        let long = "x".repeat(10_000);
        let exact = Pattern::Exact("x".into()).weight();
        let one_of = Pattern::OneOf(vec!["x".into()]).weight();
        let prefix = Pattern::Prefix(long.clone()).weight();
        let glob = Pattern::Glob(long).weight();
        assert!(exact > one_of && one_of > prefix && prefix > glob);
        assert!(Pattern::Prefix("x".into()).weight() > glob);
    }

    #[test]
    fn a_rule_without_fields_matches_nothing() {
        assert!(!Rule::default().matches(&Dmi::default()));
    }

    #[test]
    fn a_misspelt_kind_of_pattern_is_named() {
        let error = toml::from_str::<Rule>("sys_vendor = { prefx = 'x' }").unwrap_err();
        assert!(error.to_string().contains("unknown field `prefx`"), "{error}");
        let error =
            toml::from_str::<Rule>("sys_vendor = { prefix = 'x', glob = 'y' }").unwrap_err();
        assert!(error.to_string().contains("not of two"), "{error}");
    }
}
