//! Private keys: in a file, in memory, never in a log.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_api::tunnel::PublicKey;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// More than what is done with keys takes of the stack, optimised or not.
const STACK_BYTES: usize = 64 * 1024;

/// A Curve25519 private key. Wiped when dropped, and `Debug` shows nothing of it.
#[derive(Clone)]
pub struct PrivateKey(Zeroizing<[u8; 32]>);

/// A symmetric key that is mixed into the handshake. Wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct PresharedKey(Zeroizing<[u8; 32]>);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file.
    #[error("cannot read the private key at {}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// What is in it.
    #[error("{} does not hold a WireGuard key: 32 bytes in base64", path.display())]
    Malformed {
        /// Its path.
        path: PathBuf,
    },
    /// No randomness.
    #[error("the kernel gives no randomness for a key")]
    Random,
}

impl PrivateKey {
    /// A new one.
    ///
    /// # Errors
    /// The kernel gives no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut()).map_err(|_| KeyError::Random)?;
        Ok(PrivateKey(bytes))
    }

    /// From its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        PrivateKey(Zeroizing::new(bytes))
    }

    /// From a file that holds it in base64, as wg(8) writes it.
    ///
    /// # Errors
    /// The file cannot be read or holds something else.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let text = std::fs::read_to_string(path)
            .map(Zeroizing::new)
            .map_err(|source| KeyError::Read { path: path.to_path_buf(), source })?;
        let malformed = || KeyError::Malformed { path: path.to_path_buf() };
        let bytes = STANDARD.decode(text.trim()).map(Zeroizing::new).map_err(|_| malformed())?;
        let bytes: [u8; 32] = bytes.as_slice().try_into().map_err(|_| malformed())?;
        Ok(PrivateKey(Zeroizing::new(bytes)))
    }

    /// In base64, for a file of mode 0600.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0.as_ref()))
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.secret()).to_bytes())
    }

    /// The bytes, for whoever must hand them on (the kernel, wg(8)).
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    pub(super) fn secret(&self) -> x25519_dalek::StaticSecret {
        x25519_dalek::StaticSecret::from(*self.0)
    }
}

impl PresharedKey {
    /// From its bytes; all zeros mean that there is none.
    pub fn from_bytes(bytes: [u8; 32]) -> Option<Self> {
        (bytes != [0; 32]).then(|| PresharedKey(Zeroizing::new(bytes)))
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(…)")
    }
}

/// Overwrites what calls that have returned left on the stack: whoever moves a key leaves it behind.
#[inline(never)]
pub(super) fn wipe_stack() {
    std::hint::black_box([0u8; STACK_BYTES]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireguard::{PeerConfig, PeerStatus, uapi};

    #[test]
    fn keys_are_those_of_wg_and_do_not_show() {
        let key = PrivateKey::generate().unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey(…)");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        holdfast_durable::write(&path, format!("{}\n", *key.to_base64()).as_bytes(), 0o600)
            .unwrap();
        assert_eq!(PrivateKey::read(&path).unwrap().public(), key.public());
        holdfast_durable::write(&path, b"AAAA", 0o600).unwrap();
        assert!(matches!(PrivateKey::read(&path), Err(KeyError::Malformed { .. })));
        let missing = PrivateKey::read(&dir.path().join("none"));
        assert!(matches!(missing, Err(KeyError::Read { .. })));
        assert_eq!(PresharedKey::from_bytes([0; 32]), None);
    }

    /// Neither by themselves nor in what has them, in whichever form bytes are shown.
    #[test]
    fn nothing_that_has_a_key_shows_it() {
        let bytes = [0xab; 32];
        let private = PrivateKey::from_bytes(bytes);
        let preshared = PresharedKey::from_bytes(bytes);
        assert_eq!(format!("{preshared:?}"), "Some(PresharedKey(…))");
        let config = PeerConfig { preshared_key: preshared.clone(), ..PeerConfig::default() };
        let status = PeerStatus {
            public_key: PublicKey([1; 32]),
            config: config.clone(),
            handshake_age: None,
            handshake_at: None,
            rx_bytes: 0,
            tx_bytes: 0,
        };
        let request = uapi::Request::Set(vec![
            uapi::Change::PrivateKey(Some(private.clone())),
            uapi::Change::PresharedKey(preshared),
        ]);
        let base64 = private.to_base64();
        for shown in [
            format!("{config:?} {config:#?} {config:x?}"),
            format!("{status:?} {status:#?} {status:x?}"),
            format!("{request:?} {request:#?} {request:x?}"),
        ] {
            assert!(shown.contains("PresharedKey(…)"), "{shown}");
            for form in ["171", "ab, ab", "abab", "ABAB", &base64[..8]] {
                assert!(!shown.contains(form), "{form} in {shown}");
            }
        }
    }

    fn hex(text: &str) -> [u8; 32] {
        std::array::from_fn(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap())
    }

    /// RFC 7748 §6.1.
    #[test]
    fn the_public_key_is_that_of_the_rfc() {
        let bob = hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        let public = hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
        assert_eq!(PrivateKey::from_bytes(bob).public(), PublicKey(public));
    }
}
