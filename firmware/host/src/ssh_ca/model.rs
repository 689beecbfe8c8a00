//! What sshd shall trust, parsed once at the edge, and what is installed.

use super::key::{KeyError, PublicKey};
use super::set::SetId;
use holdfast_api::Reason;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

/// A user of the machine: a portable name (useradd(8)), so that it is safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UserName(String);

impl TryFrom<&str> for UserName {
    type Error = WantError;
    fn try_from(text: &str) -> Result<Self, WantError> {
        let fits = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-'
        };
        let first =
            text.as_bytes().first().is_some_and(|byte| byte.is_ascii_lowercase() || *byte == b'_');
        if first && text.len() <= 32 && text.bytes().all(fits) {
            Ok(UserName(text.to_string()))
        } else {
            Err(WantError::User(text.to_string()))
        }
    }
}

impl UserName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A principal of certificates: one word, since blanks and quotes start options in sshd's file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Principal(String);

impl TryFrom<&str> for Principal {
    type Error = WantError;
    fn try_from(text: &str) -> Result<Self, WantError> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@:+/=".contains(&byte);
        if (1..=255).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Principal(text.to_string()))
        } else {
            Err(WantError::Principal(text.to_string()))
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What sshd refuses whatever signed it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Revoked {
    /// No list is installed.
    #[default]
    Nothing,
    /// These keys, and certificates signed by them.
    Keys(Vec<PublicKey>),
    /// A binary key revocation list (OpenSSH's PROTOCOL.krl); ssh-keygen reads it before it is
    /// installed.
    Krl(Vec<u8>),
}

impl Revoked {
    /// `SSHKRL\n\0` and format version 1.
    const KRL_HEAD: &'static [u8] = b"SSHKRL\n\0\0\0\0\x01";

    pub(crate) fn is_krl(content: &[u8]) -> bool {
        content.starts_with(Self::KRL_HEAD)
    }

    /// Reads a list of keys, one per line with `#` comments, or a binary list.
    ///
    /// # Errors
    /// [`WantError::Revoked`]: sshd refuses everybody when it cannot read its list, so a doubtful
    /// one must not reach it.
    pub fn parse(content: &[u8]) -> Result<Self, WantError> {
        if Self::is_krl(content) {
            return Ok(Revoked::Krl(content.to_vec()));
        }
        let bad = |line, source| WantError::Revoked { line, source };
        let text = std::str::from_utf8(content).map_err(|_| bad(1, KeyError::NotOneLine))?;
        let lines = text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        let keys =
            lines.map(|(at, line)| PublicKey::parse(line).map_err(|source| bad(at + 1, source)));
        let keys: Vec<PublicKey> = keys.collect::<Result<_, _>>()?;
        Ok(if keys.is_empty() { Revoked::Nothing } else { Revoked::Keys(keys) })
    }
}

/// What sshd shall trust. No authorities means that nothing of ours is installed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Want {
    /// Keys that may sign users' certificates: the old and the new one while a rotation lasts.
    pub authorities: Vec<PublicKey>,
    /// Whose certificates log in as which user. Nobody logs in by certificate as other users.
    pub principals: BTreeMap<UserName, BTreeSet<Principal>>,
    /// What is refused.
    pub revoked: Revoked,
}

/// Why a declaration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WantError {
    /// An authority is no public key.
    #[error("authority {number} is not a public key")]
    Authority {
        /// Which, counted from 1.
        number: usize,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// A revocation list that sshd could not read.
    #[error("line {line} of the revocation list is not a public key")]
    Revoked {
        /// Which, counted from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// Not a user name.
    #[error("{0:?} is not a user name")]
    User(String),
    /// Not a principal.
    #[error("{0:?} is not a principal")]
    Principal(String),
}

impl WantError {
    /// The code that people see.
    pub fn reason(&self) -> Reason {
        match self {
            WantError::Authority { .. } | WantError::Revoked { .. } => Reason::SshBadKey,
            WantError::User(_) | WantError::Principal(_) => Reason::ConfigInvalid,
        }
    }
}

impl Want {
    /// Reads a declaration whole; one bad part and nothing is wanted, so the last good set stays.
    /// The same key twice counts once.
    ///
    /// # Errors
    /// [`WantError`] names the part.
    pub fn parse<'a>(
        authorities: impl IntoIterator<Item = &'a str>,
        principals: impl IntoIterator<Item = (&'a str, Vec<&'a str>)>,
        revoked: Option<&[u8]>,
    ) -> Result<Self, WantError> {
        let mut want = Want::default();
        for (at, line) in authorities.into_iter().enumerate() {
            let key = PublicKey::parse(line)
                .map_err(|source| WantError::Authority { number: at + 1, source })?;
            if !want.authorities.iter().any(|known| known.same_key(&key)) {
                want.authorities.push(key);
            }
        }
        want.authorities.sort();
        for (user, names) in principals {
            let names =
                names.into_iter().map(Principal::try_from).collect::<Result<BTreeSet<_>, _>>()?;
            want.principals.entry(UserName::try_from(user)?).or_default().extend(names);
        }
        want.revoked = revoked.map_or(Ok(Revoked::Nothing), Revoked::parse)?;
        Ok(want)
    }
}

/// What is installed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Have {
    /// Whether there is an sshd. Without one nothing is planned.
    pub sshd: bool,
    /// Where sets are kept; part of what drop-ins say.
    pub place: PathBuf,
    /// Content of our drop-in.
    pub drop_in: Option<Vec<u8>>,
    /// Every set found, and whether its content is what its name says.
    pub sets: BTreeMap<SetId, bool>,
    /// The set that was in force before the present one.
    pub last_good: Option<SetId>,
    /// What sshd was last reloaded with in this boot; `Some(None)` is without a set.
    pub loaded: Option<Option<SetId>>,
}

impl Have {
    /// What somebody should know about this machine.
    pub fn reason(&self) -> Option<Reason> {
        (!self.sshd).then_some(Reason::SshAbsent)
    }
}
