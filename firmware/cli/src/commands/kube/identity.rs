//! The age identity that opens a portable snapshot: out of a file as `age-keygen` writes it, or
//! from standard input. Lines that begin with `#` and empty ones mean nothing
//! (<https://age-encryption.org/v1>, and the manual page age(1), "Recipients and identities").
//!
//! It is kept in memory that is wiped, and never printed.

use holdfast_api::Reason;
use holdfast_api::kubernetes::Secret;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Longest file that is read, bytes; an identity has 74.
const MAX: usize = 16 * 1024;
const BEGIN: &str = "AGE-SECRET-KEY-1";
/// First lines of a file that is itself encrypted, bare and as PEM.
const ENCRYPTED: [&str; 2] = ["age-encryption.org/v1", "-----BEGIN AGE ENCRYPTED FILE-----"];

/// Why an identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// It cannot be read.
    #[error("cannot read the identity from {}", place.display())]
    Read {
        place: PathBuf,
        #[source]
        source: io::Error,
    },
    /// There is none.
    #[error("no line of {} is an age identity (AGE-SECRET-KEY-1...)", place.display())]
    Nothing { place: PathBuf },
    /// There are several, and a restore takes one.
    #[error("{} holds {count} identities", place.display())]
    Several { place: PathBuf, count: usize },
    /// It is protected by a passphrase.
    #[error("{} is itself encrypted", place.display())]
    Encrypted { place: PathBuf },
}

impl IdentityError {
    pub(crate) fn reason(&self) -> Reason {
        match self {
            IdentityError::Read { .. }
            | IdentityError::Nothing { .. }
            | IdentityError::Several { .. }
            | IdentityError::Encrypted { .. } => Reason::SnapshotWrongKey,
        }
    }

    pub(crate) fn next_step(&self) -> &'static str {
        match self {
            IdentityError::Read { .. } => "Check the path and who may read it.",
            IdentityError::Nothing { .. } => {
                "Name the file that `age-keygen` wrote for the site's recovery key."
            }
            IdentityError::Several { .. } => {
                "Leave only the one that belongs to the site's recovery key."
            }
            IdentityError::Encrypted { .. } => {
                "Hand it over opened: age -d FILE | holdfast kube restore NAME --identity - --yes"
            }
        }
    }
}

/// An identity, and whether others on this machine could have read its file.
pub(super) struct Identity {
    pub(super) secret: Secret,
    pub(super) exposed: bool,
}

/// Reads the identity from a file, or from standard input for `-`.
pub(super) fn read(from: &Path) -> Result<Identity, IdentityError> {
    if from == Path::new("-") {
        let place = Path::new("standard input");
        let secret = find(&read_all(io::stdin().lock(), place)?, place)?;
        return Ok(Identity { secret, exposed: false });
    }
    let fail = |source| IdentityError::Read { place: from.into(), source };
    let file = File::open(from).map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    let exposed = meta.is_file() && meta.permissions().mode() & 0o077 != 0;
    let secret = find(&read_all(file, from)?, from)?;
    Ok(Identity { secret, exposed })
}

fn read_all(from: impl Read, place: &Path) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    // As large as it can get: growing would leave a copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX + 1));
    let read = from.take(MAX as u64).read_to_end(&mut bytes);
    read.map_err(|source| IdentityError::Read { place: place.into(), source })?;
    Ok(bytes)
}

fn find(bytes: &[u8], place: &Path) -> Result<Secret, IdentityError> {
    let place = || place.to_owned();
    if ENCRYPTED.iter().any(|begin| bytes.starts_with(begin.as_bytes())) {
        return Err(IdentityError::Encrypted { place: place() });
    }
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let found: Vec<&str> = text.lines().map(str::trim).filter(|l| l.starts_with(BEGIN)).collect();
    match found[..] {
        [] => Err(IdentityError::Nothing { place: place() }),
        [one] => Ok(Secret(one.to_owned())),
        _ => Err(IdentityError::Several { place: place(), count: found.len() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const KEY: &str = "AGE-SECRET-KEY-1QQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQP";

    fn found(text: &str) -> Result<Secret, IdentityError> {
        find(text.as_bytes(), Path::new("k"))
    }

    #[test]
    fn an_identity_is_found_as_age_keygen_writes_it() {
        let file = format!("# created: 2026-01-01T00:00:00Z\n# public key: age1xyz\n{KEY}\n");
        for text in [&file, KEY, &file.replace('\n', "\r\n"), &format!("\n  {KEY}  \n\n")] {
            assert_eq!(found(text).unwrap().0, KEY);
        }
    }

    #[test]
    fn what_is_no_single_identity_is_told() {
        for text in ["", "# AGE-SECRET-KEY-1", "age1xyz", "\u{fffd}"] {
            assert!(matches!(found(text), Err(IdentityError::Nothing { .. })), "{text:?}");
        }
        assert!(matches!(find(b"\xff", Path::new("k")), Err(IdentityError::Nothing { .. })));
        let two = found(&format!("{KEY}\n{KEY}"));
        assert!(matches!(two, Err(IdentityError::Several { count: 2, .. })), "{two:?}");
        for begin in ENCRYPTED {
            let error = found(&format!("{begin}\n-> scrypt")).unwrap_err();
            assert!(matches!(error, IdentityError::Encrypted { .. }), "{error}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        File::create(&path).unwrap().write_all(KEY.as_bytes()).unwrap();
        for (mode, exposed) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let identity = read(&path).unwrap();
            assert_eq!((identity.exposed, identity.secret.0.as_str()), (exposed, KEY), "{mode:o}");
        }
        let missing = read(&dir.path().join("no"));
        assert!(matches!(missing, Err(IdentityError::Read { .. })));
    }

    #[test]
    fn an_endless_file_ends() {
        assert!(matches!(read(Path::new("/dev/zero")), Err(IdentityError::Nothing { .. })));
    }
}
