//! Public keys in the form of authorized_keys: `type base64 comment`.
//!
//! The blob is taken apart as RFC 4253 section 6.6, RFC 5656 section 3.1, RFC 8709 section 4 and
//! OpenSSH's PROTOCOL.u2f lay it out, since sshd skips a line that it cannot read, and a CA that is
//! silently not trusted locks people out.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use std::fmt;

/// Smallest RSA modulus that is accepted, in bits (NIST SP 800-57 part 1, 112 bits of strength).
const RSA_BITS: usize = 2048;

/// Kinds of keys that may be an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyKind {
    /// `ssh-ed25519`.
    Ed25519,
    /// `ecdsa-sha2-nistp256`, `…384`, `…521`; the number is the curve's.
    Ecdsa(u16),
    /// `ssh-rsa`, of at least 2048 bits.
    Rsa,
    /// `sk-ssh-ed25519@openssh.com`: in a security key.
    SkEd25519,
    /// `sk-ecdsa-sha2-nistp256@openssh.com`: in a security key.
    SkEcdsa,
}

impl KeyKind {
    const ALL: [KeyKind; 7] = [
        KeyKind::Ed25519,
        KeyKind::Ecdsa(256),
        KeyKind::Ecdsa(384),
        KeyKind::Ecdsa(521),
        KeyKind::Rsa,
        KeyKind::SkEd25519,
        KeyKind::SkEcdsa,
    ];

    /// The name in front of the key.
    pub const fn name(self) -> &'static str {
        match self {
            KeyKind::Ed25519 => "ssh-ed25519",
            KeyKind::Ecdsa(256) => "ecdsa-sha2-nistp256",
            KeyKind::Ecdsa(384) => "ecdsa-sha2-nistp384",
            KeyKind::Ecdsa(_) => "ecdsa-sha2-nistp521",
            KeyKind::Rsa => "ssh-rsa",
            KeyKind::SkEd25519 => "sk-ssh-ed25519@openssh.com",
            KeyKind::SkEcdsa => "sk-ecdsa-sha2-nistp256@openssh.com",
        }
    }
}

/// A public key that sshd can read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey {
    kind: KeyKind,
    blob: Vec<u8>,
    comment: String,
}

/// Why a line is no public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing but blanks.
    #[error("the key is empty")]
    Empty,
    /// More than one line, or control characters.
    #[error("the key is not one line of text")]
    NotOneLine,
    /// The first word is no type that may be an authority (DSA, certificates, options).
    #[error("{0:?} is no type of key that can be an authority")]
    Kind(String),
    /// The second word is missing or no base64.
    #[error("the {0} key is not base64")]
    Base64(&'static str),
    /// The blob is not laid out as its type says.
    #[error("the {kind} key is damaged: {what}")]
    Blob {
        /// The type.
        kind: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl PublicKey {
    /// Reads one line.
    ///
    /// # Errors
    /// [`KeyError`] says what is wrong with it.
    pub fn parse(line: &str) -> Result<Self, KeyError> {
        let line = line.trim();
        if line.is_empty() {
            return Err(KeyError::Empty);
        }
        if line.chars().any(|c| c.is_control() && c != '\t') {
            return Err(KeyError::NotOneLine);
        }
        let mut words = line.splitn(3, [' ', '\t']);
        let name = words.next().unwrap_or_default();
        let known = KeyKind::ALL.into_iter().find(|kind| kind.name() == name);
        let kind = known.ok_or_else(|| KeyError::Kind(name.chars().take(40).collect()))?;
        let text = words.next().unwrap_or_default();
        let blob = STANDARD
            .decode(text)
            .ok()
            .filter(|blob| !blob.is_empty())
            .ok_or(KeyError::Base64(kind.name()))?;
        check(kind, &blob).map_err(|what| KeyError::Blob { kind: kind.name(), what })?;
        let comment = words.next().unwrap_or_default().trim().to_string();
        Ok(PublicKey { kind, blob, comment })
    }

    /// The type.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// `SHA256:…`, as ssh-keygen(1) -l prints it.
    pub fn fingerprint(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.blob);
        format!("SHA256:{}", STANDARD_NO_PAD.encode(digest))
    }

    /// Whether both are the same key, whatever their comments.
    pub fn same_key(&self, other: &PublicKey) -> bool {
        self.blob == other.blob
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), STANDARD.encode(&self.blob))?;
        if self.comment.is_empty() { Ok(()) } else { write!(f, " {}", self.comment) }
    }
}

fn check(kind: KeyKind, blob: &[u8]) -> Result<(), &'static str> {
    let mut rest = blob;
    if string(&mut rest)? != kind.name().as_bytes() {
        return Err("it says that it is of another type");
    }
    match kind {
        KeyKind::Ed25519 => ed25519(&mut rest)?,
        KeyKind::Ecdsa(curve) => ecdsa(&mut rest, curve)?,
        KeyKind::Rsa => rsa(&mut rest)?,
        KeyKind::SkEd25519 => {
            ed25519(&mut rest)?;
            application(&mut rest)?;
        }
        KeyKind::SkEcdsa => {
            ecdsa(&mut rest, 256)?;
            application(&mut rest)?;
        }
    }
    if rest.is_empty() { Ok(()) } else { Err("there is more behind its end") }
}

fn ed25519(rest: &mut &[u8]) -> Result<(), &'static str> {
    if string(rest)?.len() == 32 { Ok(()) } else { Err("it is not 32 bytes long") }
}

fn ecdsa(rest: &mut &[u8], curve: u16) -> Result<(), &'static str> {
    if string(rest)? != format!("nistp{curve}").as_bytes() {
        return Err("it names another curve");
    }
    let point = string(rest)?;
    let coordinate = usize::from(curve.div_ceil(8));
    match point.first() {
        Some(4) if point.len() == 1 + 2 * coordinate => Ok(()),
        _ => Err("its point is not an uncompressed one of the curve"),
    }
}

fn rsa(rest: &mut &[u8]) -> Result<(), &'static str> {
    let (exponent, modulus) = (mpint(rest)?, mpint(rest)?);
    if exponent.last().is_none_or(|byte| byte % 2 == 0)
        || modulus.last().is_none_or(|byte| byte % 2 == 0)
    {
        return Err("its numbers are not those of an RSA key");
    }
    let leading = modulus.first().map_or(8, |byte| byte.leading_zeros() as usize);
    if modulus.len() * 8 - leading >= RSA_BITS {
        Ok(())
    } else {
        Err("it is shorter than 2048 bits")
    }
}

fn application(rest: &mut &[u8]) -> Result<(), &'static str> {
    if string(rest)?.is_empty() { Err("it names no application") } else { Ok(()) }
}

/// A positive mpint without its sign byte (RFC 4251 section 5).
fn mpint<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], &'static str> {
    match string(rest)? {
        [0, tail @ ..] if tail.first().is_some_and(|byte| *byte >= 0x80) => Ok(tail),
        [0 | 0x80..=0xff, ..] | [] => {
            Err("a number in it is not a positive one in its shortest form")
        }
        number => Ok(number),
    }
}

/// A string with its length in front (RFC 4251 section 5).
fn string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], &'static str> {
    const SHORT: &str = "it is cut short";
    let (length, tail) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| SHORT)?;
    let (field, tail) = tail.split_at_checked(length).ok_or(SHORT)?;
    *rest = tail;
    Ok(field)
}

#[cfg(test)]
mod tests;
