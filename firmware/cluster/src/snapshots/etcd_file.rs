//! Whether a file is a whole snapshot of etcd.
//!
//! Such a file is etcd's database (bbolt) followed by the SHA-256 of it (etcd
//! `etcdutl/snapshot/v3_snapshot.go`: a file whose length is 32 beyond a multiple of 512 has one).
//! The database begins with two pages that describe it, written in turns, each with a sum of its
//! own (bbolt `internal/common/meta.go`). A database that was only copied has no SHA-256 and is
//! refused: nothing would tell whether the copy is whole.

use holdfast_api::hex;
use ring::digest::{Context, SHA256};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Length of the SHA-256 at the end.
const SUM: usize = 32;
/// What the length of the database is a multiple of.
const SECTOR: u64 = 512;
/// bbolt's `common.Magic`.
const MAGIC: u32 = 0xED0C_DAED;
/// bbolt's `common.Version`.
const VERSION: u32 = 2;
/// Bit of a page's flags that says that it is a description.
const META_FLAG: u16 = 0x04;
/// The description's length without its own sum, and where it begins in its page.
const META: usize = 56;
const META_AT: usize = 16;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum NotASnapshot {
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// It is cut short, or a copy of a database that was never finished as a snapshot.
    #[error("its length of {0} bytes is not that of a database with a SHA-256 behind it")]
    Length(u64),
    /// It does not begin as a database of etcd does.
    #[error("it does not begin as a database of etcd does")]
    NoDatabase,
    /// Its database says that it is longer than it is.
    #[error("its database has {said} bytes by its own account and {there} in truth")]
    Short {
        /// What it says.
        said: u64,
        /// What is there.
        there: u64,
    },
    /// The SHA-256 at its end is not that of its content.
    #[error("the SHA-256 at its end is not that of its content")]
    Sum,
}

/// A whole snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// Length of the file.
    pub bytes: u64,
    /// SHA-256 of the whole file, hex.
    pub sha256: String,
}

/// Reads all of it. Blocks; a hundred megabytes take about a second.
///
/// # Errors
/// [`NotASnapshot`] says what is wrong.
pub fn verify(path: &Path) -> Result<Whole, NotASnapshot> {
    let mut file = File::open(path).map_err(NotASnapshot::Read)?;
    let bytes = file.metadata().map_err(NotASnapshot::Read)?.len();
    if bytes % SECTOR != SUM as u64 || bytes < SECTOR {
        return Err(NotASnapshot::Length(bytes));
    }
    let database = bytes - SUM as u64;
    let said = described_length(&mut file)?;
    if said > database {
        return Err(NotASnapshot::Short { said, there: database });
    }
    file.seek(SeekFrom::Start(0)).map_err(NotASnapshot::Read)?;
    let mut of_database = Context::new(&SHA256);
    let mut of_file = Context::new(&SHA256);
    let mut left = database;
    let mut buffer = vec![0u8; 256 * 1024];
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        file.read_exact(&mut buffer[..want]).map_err(NotASnapshot::Read)?;
        of_database.update(&buffer[..want]);
        of_file.update(&buffer[..want]);
        left -= want as u64;
    }
    let mut sum = [0u8; SUM];
    file.read_exact(&mut sum).map_err(NotASnapshot::Read)?;
    of_file.update(&sum);
    if of_database.finish().as_ref() != sum {
        return Err(NotASnapshot::Sum);
    }
    Ok(Whole { bytes, sha256: hex(of_file.finish().as_ref()) })
}

/// SHA-256 of a file of any kind, hex. Blocks.
///
/// # Errors
/// It cannot be read.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut sum = Context::new(&SHA256);
    let mut buffer = vec![0u8; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(sum.finish().as_ref())),
            length => sum.update(&buffer[..length]),
        }
    }
}

/// Length of the database by its newer whole description: pages in use times their size.
fn described_length(file: &mut File) -> Result<u64, NotASnapshot> {
    let first = description(file, 0)?;
    // Where the second one is, only a whole first one can tell; else bbolt tries the usual sizes
    // (bbolt `db.go`, getPageSize).
    let sizes = match &first {
        Some(first) => vec![first.page_size],
        None => (9..=16).map(|power| 1 << power).collect(),
    };
    let mut second = None;
    for size in sizes {
        second = description(file, size)?.filter(|found| found.page_size == size);
        if second.is_some() {
            break;
        }
    }
    first
        .into_iter()
        .chain(second)
        .max_by_key(|found| found.transaction)
        .map(|found| found.pages.saturating_mul(found.page_size))
        .ok_or(NotASnapshot::NoDatabase)
}

struct Description {
    page_size: u64,
    pages: u64,
    transaction: u64,
}

/// The description in the page at this place, when there is a whole one.
fn description(file: &mut File, at: u64) -> Result<Option<Description>, NotASnapshot> {
    let mut page = [0u8; META_AT + META + 8];
    file.seek(SeekFrom::Start(at)).map_err(NotASnapshot::Read)?;
    match file.read_exact(&mut page) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result.map_err(NotASnapshot::Read)?,
    }
    let flags = u16::from_ne_bytes([page[8], page[9]]);
    let (meta, sum) = page[META_AT..].split_at(META);
    let short =
        |at: usize| u32::from_ne_bytes([meta[at], meta[at + 1], meta[at + 2], meta[at + 3]]);
    let long = |bytes: &[u8]| {
        let mut word = [0u8; 8];
        word.copy_from_slice(&bytes[..8]);
        u64::from_ne_bytes(word)
    };
    let whole = flags & META_FLAG != 0
        && short(0) == MAGIC
        && short(4) == VERSION
        && long(sum) == fnv1a(meta)
        && short(8) > 0;
    Ok(whole.then(|| Description {
        page_size: u64::from(short(8)),
        pages: long(&meta[40..]),
        transaction: long(&meta[48..]),
    }))
}

/// FNV-1a with 64 bits, as bbolt sums its descriptions.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A file that [`verify`] finds whole, for tests: two descriptions and `pages` pages in all.
#[cfg(test)]
pub(super) fn sample(pages: u64) -> Vec<u8> {
    let size = 4096usize;
    let mut database = vec![0u8; size * usize::try_from(pages).unwrap()];
    for number in 0..2u64 {
        let mut meta = Vec::new();
        meta.extend(MAGIC.to_ne_bytes());
        meta.extend(VERSION.to_ne_bytes());
        meta.extend(4096u32.to_ne_bytes());
        meta.extend(0u32.to_ne_bytes());
        for word in [3, 0, 2, pages, number] {
            meta.extend(u64::to_ne_bytes(word));
        }
        meta.extend(fnv1a(&meta).to_ne_bytes());
        let at = size * usize::try_from(number).unwrap();
        database[at..at + 8].copy_from_slice(&number.to_ne_bytes());
        database[at + 8..at + 10].copy_from_slice(&META_FLAG.to_ne_bytes());
        database[at + META_AT..at + META_AT + meta.len()].copy_from_slice(&meta);
    }
    let sum = ring::digest::digest(&SHA256, &database);
    database.extend_from_slice(sum.as_ref());
    database
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn verified(content: &[u8]) -> Result<Whole, NotASnapshot> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot");
        holdfast_durable::write(&path, content, 0o600).unwrap();
        verify(&path)
    }

    /// The sum behind a database that was changed afterwards is made right again.
    fn resum(mut content: Vec<u8>) -> Vec<u8> {
        let at = content.len() - 32;
        let sum = ring::digest::digest(&SHA256, &content[..at]);
        content[at..].copy_from_slice(sum.as_ref());
        content
    }

    #[test]
    fn a_whole_one_is_known_and_summed_as_sha256sum_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot");
        holdfast_durable::write(&path, &sample(5), 0o600).unwrap();
        let whole = verify(&path).unwrap();
        assert_eq!(whole.bytes, 5 * 4096 + 32);
        assert_eq!(whole.sha256, sha256(&path).unwrap());
    }

    #[test]
    fn other_files_are_told_apart() {
        assert!(matches!(verified(b""), Err(NotASnapshot::Length(0))));
        assert!(matches!(verified(&sample(5)[..5 * 4096]), Err(NotASnapshot::Length(20480))));
        assert!(matches!(verified(&resum(vec![7; 4096 + 32])), Err(NotASnapshot::NoDatabase)));
        let mut short = sample(5);
        short.drain(2 * 4096..3 * 4096);
        let error = verified(&resum(short)).unwrap_err();
        assert!(matches!(error, NotASnapshot::Short { said: 20480, there: 16384 }), "{error}");
        let missing = verify(Path::new("/nowhere")).unwrap_err();
        assert!(matches!(missing, NotASnapshot::Read(_)), "{missing}");
    }

    #[test]
    fn one_description_is_enough_whichever_it_is() {
        for damaged in [META_AT, 4096 + META_AT] {
            let mut content = sample(5);
            content[damaged] ^= 1;
            assert_eq!(verified(&resum(content)).unwrap().bytes, 5 * 4096 + 32);
        }
        let mut content = sample(5);
        content[META_AT] ^= 1;
        content[4096 + META_AT] ^= 1;
        assert!(matches!(verified(&resum(content)), Err(NotASnapshot::NoDatabase)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_changed_byte_or_a_lost_end_is_always_seen(at in 0usize..(4 * 4096 + 32), bit in 0u8..8) {
            let mut changed = sample(4);
            changed[at] ^= 1 << bit;
            prop_assert!(verified(&changed).is_err());
            prop_assert!(verified(&sample(4)[..at]).is_err());
        }
    }
}
