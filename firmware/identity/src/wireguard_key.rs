//! The WireGuard key: X25519, base64 in `wireguard.key`, as `wg(8)` writes it.
//!
//! `tunneld` reads the file itself ([`WireguardKey::path`]); the manager only needs the public key.

use crate::IdentityError;
use crate::files::read_or_make;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_api::tunnel::PublicKey;
use std::fmt;
use std::path::{Path, PathBuf};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

const FILE: &str = "wireguard.key";

/// The WireGuard key of this node. The private half stays in its file.
pub struct WireguardKey {
    public: PublicKey,
    path: PathBuf,
}

impl WireguardKey {
    /// The key in `dir`, made there when there is none; `dir` becomes 0700, the file 0600.
    ///
    /// # Errors
    /// As [`crate::DeviceKey::load_or_create`].
    pub fn load_or_create(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(FILE);
        let text = read_or_make(dir, &path, || {
            let mut random = Zeroizing::new([0; 32]);
            getrandom::fill(random.as_mut()).map_err(|error| IdentityError::Crypto {
                what: "the WireGuard key",
                why: error.to_string(),
            })?;
            // The clamped form (RFC 7748 §5), which is what `wg genkey` prints.
            random[0] &= 248;
            random[31] = random[31] & 127 | 64;
            Ok(Zeroizing::new(STANDARD.encode(random.as_ref()) + "\n"))
        })?;
        let damaged = |why: &str| IdentityError::Damaged { path: path.clone(), why: why.into() };
        let bytes =
            Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| damaged("it is not base64"))?);
        let secret: Zeroizing<[u8; 32]> =
            Zeroizing::new(bytes.as_slice().try_into().map_err(|_| damaged("it is not 32 bytes"))?);
        let public =
            PublicKey(x25519_dalek::PublicKey::from(&StaticSecret::from(*secret)).to_bytes());
        Ok(WireguardKey { public, path })
    }

    /// What the other side needs to know.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Where the private key lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for WireguardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WireguardKey").field("public", &self.public).finish_non_exhaustive()
    }
}
