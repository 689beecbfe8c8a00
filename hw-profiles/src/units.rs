//! Sizes as people write them in a profile: `"1 GiB"`, `"512 MB"`, and page sizes such as `"2M"`.
//!
//! Both are parsed once, where the file is read; inside they are exact numbers of bytes.

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

/// An amount of memory or disk in bytes.
///
/// Written as a number and a unit: `B`, `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024) or `kB`, `MB`,
/// `GB`, `TB` (powers of 1000). The number may have a fraction; the result is rounded down to
/// whole bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// No number, no unit, or a unit we do not know.
    #[error("{0:?} is not a size; write a number and a unit, such as \"1.5 GiB\" or \"64 GB\"")]
    Malformed(String),
    /// More than 2⁶⁴ − 1 bytes.
    #[error("{0:?} is more than can be counted")]
    TooLarge(String),
    /// Not a page size.
    #[error(
        "{0:?} is not a page size; write a power of two and K, M or G, such as \"2M\" or \"1G\""
    )]
    Page(String),
}

const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Digits behind the decimal point that count; more would overflow and mean nothing.
const FRACTION_DIGITS: usize = 6;

impl FromStr for Bytes {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let malformed = || SizeError::Malformed(text.to_owned());
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(malformed)?;
        let (number, unit) = text.split_at(split);
        let scale = UNITS
            .iter()
            .find(|(name, _)| *name == unit.trim_start())
            .map(|(_, scale)| u128::from(*scale))
            .ok_or_else(malformed)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let dotted = number.contains('.');
        if whole.is_empty() || fraction.len() > FRACTION_DIGITS || (dotted && fraction.is_empty()) {
            return Err(malformed());
        }
        let too_large = || SizeError::TooLarge(text.to_owned());
        let whole: u128 = u128::from(whole.parse::<u64>().map_err(|_| too_large())?);
        let mut parts: u128 = 0;
        let mut divisor: u128 = 1;
        for digit in fraction.chars() {
            parts = parts * 10 + u128::from(digit.to_digit(10).ok_or_else(malformed)?);
            divisor *= 10;
        }
        let bytes = whole * scale + parts * scale / divisor;
        u64::try_from(bytes).map(Bytes).map_err(|_| too_large())
    }
}

impl fmt::Display for Bytes {
    /// In the largest binary unit that fits, with up to two decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fitting = UNITS[..5].iter().rev().find(|(_, scale)| self.0 >= *scale);
        let (name, scale) = fitting.unwrap_or(&UNITS[0]);
        let hundredths = (u128::from(self.0) * 100 + u128::from(scale / 2)) / u128::from(*scale);
        let number = format!("{}.{:02}", hundredths / 100, hundredths % 100);
        write!(f, "{} {name}", number.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl Serialize for Bytes {
    /// As a text that reads back to the same number: the largest unit without remainder.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let exact = UNITS[..5]
            .iter()
            .rev()
            .find(|(_, scale)| self.0 >= *scale && self.0.is_multiple_of(*scale));
        let (name, scale) = exact.unwrap_or(&UNITS[0]);
        serializer.collect_str(&format_args!("{} {name}", self.0 / scale))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

/// The size of a huge page: a power of two, at least 4 KiB, in bytes.
///
/// Written as the kernel's command line writes it (`hugepagesz=`): `2M`, `1G`, `64K`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(u64);

impl PageSize {
    /// 2 MiB.
    pub const M2: PageSize = PageSize(2 << 20);
    /// 1 GiB.
    pub const G1: PageSize = PageSize(1 << 30);

    /// The page size of this many bytes, when it can be one.
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        (bytes.is_power_of_two() && bytes >= 4096).then_some(PageSize(bytes))
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// In KiB, as in `/sys/kernel/mm/hugepages/hugepages-2048kB`.
    pub const fn kib(self) -> u64 {
        self.0 >> 10
    }
}

impl FromStr for PageSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let malformed = || SizeError::Page(text.to_owned());
        let (number, shift) = match text.as_bytes().last() {
            Some(b'K') => (text.trim_end_matches('K'), 10),
            Some(b'M') => (text.trim_end_matches('M'), 20),
            Some(b'G') => (text.trim_end_matches('G'), 30),
            _ => return Err(malformed()),
        };
        let number: u64 = number.parse().map_err(|_| malformed())?;
        number
            .checked_mul(1 << shift)
            .and_then(PageSize::from_bytes)
            .filter(|size| size.to_string() == text)
            .ok_or_else(malformed)
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.trailing_zeros() {
            30.. => write!(f, "{}G", self.0 >> 30),
            20.. => write!(f, "{}M", self.0 >> 20),
            _ => write!(f, "{}K", self.0 >> 10),
        }
    }
}

impl Serialize for PageSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PageSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

/// Deserializes from a text by parsing it. A visitor rather than a `String` that is parsed
/// afterwards, so that an error carries the place of this very text, also inside a list.
pub(crate) fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    struct Parse<T>(PhantomData<T>);
    impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Parse<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Parse(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0 B", 0),
            ("512 MiB", 512 << 20),
            ("7.5 GiB", 15 << 29),
            ("1GiB", 1 << 30),
            ("64 GB", 64_000_000_000),
            ("0.000001 MB", 1),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "5", "GiB", ".5 GiB", "5. GiB", "5 gib", "-1 GiB", "1.2.3 GiB", "1 GiB "] {
            assert_eq!(text.parse::<Bytes>(), Err(SizeError::Malformed(text.into())), "{text}");
        }
        let huge = "99999999999 TiB";
        assert_eq!(huge.parse::<Bytes>(), Err(SizeError::TooLarge(huge.into())));
    }

    #[test]
    fn sizes_are_shown_short_and_saved_exact() {
        assert_eq!(Bytes(8 << 30).to_string(), "8 GiB");
        assert_eq!(Bytes(8_165_916 << 10).to_string(), "7.79 GiB");
        assert_eq!("1.7 GiB".parse::<Bytes>().unwrap().to_string(), "1.7 GiB");
        assert_eq!(Bytes(1536 << 20).to_string(), "1.5 GiB");
        assert_eq!(Bytes(100).to_string(), "100 B");
        assert_eq!(Bytes(u64::MAX).to_string(), "16777216 TiB");
        assert_eq!(Bytes(0).to_string(), "0 B");
        assert_eq!(serde_json::to_string(&Bytes(8_165_916 << 10)).unwrap(), "\"8165916 KiB\"");
    }

    #[test]
    fn page_sizes_have_one_spelling() {
        for text in ["4K", "64K", "2M", "512M", "1G", "16G"] {
            assert_eq!(text.parse::<PageSize>().unwrap().to_string(), text);
        }
        for text in ["", "2", "3M", "2048K", "2MM", "02M", "1024M", "1K", "M", "99999999999G"] {
            assert_eq!(text.parse::<PageSize>(), Err(SizeError::Page(text.into())), "{text}");
        }
        assert_eq!(PageSize::M2.kib(), 2048);
    }
}
