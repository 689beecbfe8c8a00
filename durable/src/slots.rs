//! Two copies of one value: the newest and the last good one.
//!
//! Each copy is one line of header (`holdfast-state 1 <crc32 of body> <length>`) and the body as
//! JSON. Storing first keeps the newest readable copy as `<name>.last`, then replaces the newest.
//! Loading takes the newest copy whose checksum holds. So a file that a power loss cut short
//! costs one generation, never the state.

use crate::{WriteError, write};
use serde::{Serialize, de::DeserializeOwned};
use std::path::{Path, PathBuf};

const MAGIC: &str = "holdfast-state 1";

/// A value kept in two copies beside each other.
#[derive(Debug, Clone)]
pub struct Slots {
    newest: PathBuf,
    last: PathBuf,
    mode: u32,
}

/// What was found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded<T> {
    /// Nothing was ever stored.
    Empty,
    /// The newest copy is whole.
    Newest(T),
    /// The newest copy is damaged (why); this is the one before it.
    LastGood(T, String),
}

/// Why a value could not be loaded or stored.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// Both copies are unusable.
    #[error("both copies of {} are damaged: {newest}; {last}", path.display())]
    Damaged {
        /// The newest copy.
        path: PathBuf,
        /// What is wrong with the newest copy.
        newest: String,
        /// What is wrong with the copy before it.
        last: String,
    },
    /// The value has no JSON form.
    #[error("cannot encode the content of {}", path.display())]
    Encode {
        /// Where it was to be stored.
        path: PathBuf,
        /// The encoder's answer.
        #[source]
        source: serde_json::Error,
    },
    /// The disk refused.
    #[error("cannot store {}", path.display())]
    Write {
        /// Where it was to be stored.
        path: PathBuf,
        /// What failed.
        #[source]
        source: WriteError,
    },
}

impl Slots {
    /// Copies at `path` and `path` + `.last`, both with mode `mode`.
    pub fn new(path: impl Into<PathBuf>, mode: u32) -> Self {
        let newest = path.into();
        let mut last = newest.clone().into_os_string();
        last.push(".last");
        Slots { newest, last: last.into(), mode }
    }

    /// The newest copy that is whole.
    ///
    /// # Errors
    /// [`SlotError::Damaged`] when something was stored and no copy of it is usable.
    pub fn load<T: DeserializeOwned>(&self) -> Result<Loaded<T>, SlotError> {
        match (read(&self.newest), read(&self.last)) {
            (Copy::Whole(value), _) => Ok(Loaded::Newest(value)),
            (Copy::Absent, Copy::Absent) => Ok(Loaded::Empty),
            (Copy::Absent, Copy::Whole(value)) => {
                Ok(Loaded::LastGood(value, "the newest copy is gone".into()))
            }
            (Copy::Damaged(why), Copy::Whole(value)) => Ok(Loaded::LastGood(value, why)),
            (newest, last) => Err(SlotError::Damaged {
                path: self.newest.clone(),
                newest: newest.complaint(),
                last: last.complaint(),
            }),
        }
    }

    /// Stores `value` as the newest copy and keeps the one before it.
    ///
    /// # Errors
    /// [`SlotError::Write`] when the disk refuses: what was loadable before still is.
    pub fn store<T: Serialize>(&self, value: &T) -> Result<(), SlotError> {
        let body = serde_json::to_vec_pretty(value)
            .map_err(|source| SlotError::Encode { path: self.newest.clone(), source })?;
        let mut content = format!("{MAGIC} {:08x} {}\n", crc32(&body), body.len()).into_bytes();
        content.extend_from_slice(&body);
        if let Copy::Whole(_) = read::<serde_json::Value>(&self.newest) {
            let kept = std::fs::read(&self.newest).unwrap_or_default();
            self.put(&self.last, &kept)?;
        }
        self.put(&self.newest, &content)
    }

    fn put(&self, path: &Path, content: &[u8]) -> Result<(), SlotError> {
        write(path, content, self.mode)
            .map_err(|source| SlotError::Write { path: path.into(), source })
    }
}

enum Copy<T> {
    Absent,
    Whole(T),
    Damaged(String),
}

impl<T> Copy<T> {
    fn complaint(&self) -> String {
        match self {
            Copy::Absent => "absent".into(),
            Copy::Whole(_) => "whole".into(),
            Copy::Damaged(why) => why.clone(),
        }
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Copy<T> {
    let content = match std::fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Copy::Absent,
        Err(error) => return Copy::Damaged(format!("unreadable: {error}")),
    };
    match check(&content).and_then(|body| serde_json::from_slice(body).map_err(|e| e.to_string())) {
        Ok(value) => Copy::Whole(value),
        Err(why) => Copy::Damaged(why),
    }
}

fn check(content: &[u8]) -> Result<&[u8], String> {
    let end = content.iter().position(|b| *b == b'\n').ok_or("no header")?;
    let header = std::str::from_utf8(&content[..end]).map_err(|_| "header is not text")?;
    let body = &content[end + 1..];
    let rest = header.strip_prefix(MAGIC).ok_or("unknown header")?;
    let (sum, length) = rest.trim().split_once(' ').ok_or("short header")?;
    if length.parse() != Ok(body.len()) {
        return Err(format!("cut short: {} of {length} bytes", body.len()));
    }
    match u32::from_str_radix(sum, 16) {
        Ok(sum) if sum == crc32(body) => Ok(body),
        _ => Err("checksum does not match".into()),
    }
}

/// CRC-32 as in IEEE 802.3 (reflected, polynomial 0x04C11DB7): finds torn writes, not attackers.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots() -> (tempfile::TempDir, Slots) {
        let dir = tempfile::tempdir().unwrap();
        let slots = Slots::new(dir.path().join("ledger.json"), 0o600);
        (dir, slots)
    }

    #[test]
    fn crc_matches_the_published_check_value() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    /// The law: however the newest copy is cut, loading gives the newest or the one before it.
    #[test]
    fn every_truncation_of_the_newest_copy_is_survived() {
        let (_dir, slots) = slots();
        assert_eq!(slots.load::<u32>().unwrap(), Loaded::Empty);
        slots.store(&1u32).unwrap();
        slots.store(&2u32).unwrap();
        let whole = std::fs::read(&slots.newest).unwrap();
        for cut in 0..whole.len() {
            write(&slots.newest, &whole[..cut], 0o600).unwrap();
            let loaded = slots.load::<u32>().unwrap();
            assert!(matches!(loaded, Loaded::LastGood(1, _)), "cut at {cut}: {loaded:?}");
        }
    }

    #[test]
    fn storing_over_a_damaged_copy_does_not_lose_the_good_one() {
        let (_dir, slots) = slots();
        slots.store(&1u32).unwrap();
        slots.store(&2u32).unwrap();
        write(&slots.newest, b"holdfast-state 1 0 0", 0o600).unwrap();
        slots.store(&3u32).unwrap();
        assert_eq!(slots.load::<u32>().unwrap(), Loaded::Newest(3));
        write(&slots.newest, b"", 0o600).unwrap();
        assert!(matches!(slots.load::<u32>().unwrap(), Loaded::LastGood(1, _)));
    }

    #[test]
    fn two_damaged_copies_are_an_error_that_names_both() {
        let (_dir, slots) = slots();
        write(&slots.newest, b"junk", 0o600).unwrap();
        let error = slots.load::<u32>().unwrap_err();
        assert!(matches!(error, SlotError::Damaged { .. }), "{error}");
    }
}
