//! Names and addresses that the node shall know, and the file as it is.

use std::fmt;
use std::net::IpAddr;

/// A host name: labels of letters, digits, hyphens (RFC 1123 section 2.1) and underscores, at most
/// 253 characters (RFC 1035 section 2.3.4), kept in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostName(String);

/// Not a host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host name")]
pub struct NameError(pub String);

impl HostName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for HostName {
    type Error = NameError;
    fn try_from(text: &str) -> Result<Self, NameError> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(fits)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() <= 253 && text.split('.').all(label) {
            Ok(HostName(text.to_ascii_lowercase()))
        } else {
            Err(NameError(text.to_string()))
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One line: an address and its names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The address.
    pub address: IpAddr,
    /// The canonical name.
    pub name: HostName,
    /// Other names.
    pub aliases: Vec<HostName>,
}

/// Our lines, in this order. No entries means no block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Want {
    /// The lines.
    pub entries: Vec<Entry>,
}

/// The file as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Have {
    /// There is none.
    Missing,
    /// Its bytes (they need not be text) and permission bits.
    File {
        /// All of it.
        content: Vec<u8>,
        /// Permission bits.
        mode: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_their_line() {
        assert_eq!(HostName::try_from("RE-1.Holdfast.dev").unwrap().as_str(), "re-1.holdfast.dev");
        for bad in [
            "",
            ".",
            "a..b",
            "a b",
            "a\nb",
            "-a",
            "a-",
            "a#b",
            "ä",
            &"x".repeat(64),
            &"x.".repeat(127),
        ] {
            assert_eq!(HostName::try_from(bad), Err(NameError(bad.to_string())));
        }
    }
}
