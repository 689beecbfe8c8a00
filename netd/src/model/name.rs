//! Names of links that the kernel accepts, checked once.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name of a link: 1 to 15 bytes, no white space, no `/`, no `:`, not `.` or `..`.
///
/// The rule is the kernel's (`dev_valid_name()` in `net/core/dev.c`; `IFNAMSIZ` is 16 with the
/// terminating zero). The kernel would also take bytes that are not UTF-8 and `%d` patterns;
/// we take neither. Cheap to clone: a hundred thousand routes name the same few links.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkName(Arc<str>);

/// Why a text is no name of a link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} cannot name a link: {why}")]
pub struct LinkNameError {
    /// The text.
    pub name: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl LinkName {
    /// Most bytes that a name has.
    pub const MAX_BYTES: usize = 15;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn check(name: &str) -> Result<(), &'static str> {
        match name {
            "" => Err("it is empty"),
            "." | ".." => Err("it would be a directory in /sys/class/net"),
            _ if name.len() > Self::MAX_BYTES => Err("it is longer than 15 bytes"),
            _ if name.contains(['/', ':']) => Err("it contains '/' or ':'"),
            _ if name.contains('%') => Err("it contains '%', which the kernel would fill in"),
            // isspace(3) in the kernel knows six ASCII characters; Unicode's are refused as well.
            _ if name.chars().any(|c| c.is_whitespace() || c.is_control()) => {
                Err("it contains white space or a control character")
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for LinkName {
    type Err = LinkNameError;
    fn from_str(name: &str) -> Result<Self, LinkNameError> {
        match Self::check(name) {
            Ok(()) => Ok(LinkName(name.into())),
            Err(why) => Err(LinkNameError { name: name.to_string(), why }),
        }
    }
}

impl TryFrom<&str> for LinkName {
    type Error = LinkNameError;
    fn try_from(name: &str) -> Result<Self, LinkNameError> {
        name.parse()
    }
}

impl TryFrom<String> for LinkName {
    type Error = LinkNameError;
    fn try_from(name: String) -> Result<Self, LinkNameError> {
        name.parse()
    }
}

impl From<LinkName> for String {
    fn from(name: LinkName) -> String {
        name.as_str().to_string()
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_accepted_obeys_the_kernels_rule(text in ".{0,20}") {
            if let Ok(name) = LinkName::from_str(&text) {
                prop_assert_eq!(name.as_str(), &text);
                prop_assert!((1..=15).contains(&text.len()));
                prop_assert!(text != "." && text != "..");
                prop_assert!(!text.bytes().any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace() || b == 0x0b));
            }
        }
    }

    #[test]
    fn each_rule_has_its_reason() {
        let why = |name: &str| LinkName::from_str(name).unwrap_err().why;
        assert!(why("").contains("empty"));
        assert!(why("..").contains("directory"));
        assert!(why("sixteen-bytes-xx").contains("15"));
        assert!(why("a/b").contains('/'));
        assert!(why("a b").contains("white space"));
        assert!(why("eth%d").contains('%'));
        assert_eq!(LinkName::from_str("fifteen-bytes-x").unwrap().as_str(), "fifteen-bytes-x");
    }
}
