//! What snow computes with: X25519, BLAKE2s and ChaCha20-Poly1305 of the same crates as
//! everywhere here, which wipe their keys (snow's own set does not) and, for X25519, refuse points
//! of low order.

use super::kept::Kept;
use blake2::Blake2s256;
use blake2::digest::{Digest, FixedOutputReset};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, Tag};
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

const TAG_BYTES: usize = 16;

/// For one handshake of the device whose static key pair it holds: snow asks for the public key
/// in every handshake anew, which would cost a multiplication each time.
pub(super) struct Primitives {
    secret: StaticSecret,
    public: PublicKey,
    kept: Kept,
}

impl Primitives {
    pub(super) fn new(secret: &StaticSecret, public: PublicKey, kept: Kept) -> Self {
        Primitives { secret: secret.clone(), public, kept }
    }
}

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(OfKernel))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => {
                let known = (self.secret.clone(), self.public);
                Some(Box::new(X25519 {
                    known,
                    kept: self.kept.clone(),
                    is_known: false,
                    pair: None,
                }))
            }
            DHChoice::Curve448 => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::Blake2s)
            .then(|| Box::new(Blake2s(Blake2s256::new())) as Box<dyn Hash>)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::ChaChaPoly)
            .then(|| Box::new(ChaChaPoly(None)) as Box<dyn Cipher>)
    }
}

struct OfKernel;

impl Random for OfKernel {
    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Error> {
        getrandom::fill(to).map_err(|_| Error::Rng)
    }
}

struct X25519 {
    known: (StaticSecret, PublicKey),
    /// What the known pair gives with the keys of peers.
    kept: Kept,
    /// The pair is the known one.
    is_known: bool,
    pair: Option<(StaticSecret, PublicKey)>,
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, private: &[u8]) {
        let Ok(bytes) = <[u8; 32]>::try_from(private).map(Zeroizing::new) else { return };
        self.is_known = self.known.0.as_bytes() == &*bytes;
        let pair = if self.is_known {
            self.known.clone()
        } else {
            let secret = StaticSecret::from(*bytes);
            let public = PublicKey::from(&secret);
            (secret, public)
        };
        self.pair = Some(pair);
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        random.try_fill_bytes(bytes.as_mut())?;
        let secret = StaticSecret::from(*bytes);
        let public = PublicKey::from(&secret);
        (self.is_known, self.pair) = (false, Some((secret, public)));
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        self.pair.as_ref().map_or(&[0; 32], |(_, public)| public.as_bytes())
    }

    fn privkey(&self) -> &[u8] {
        self.pair.as_ref().map_or(&[0; 32], |(secret, _)| secret.as_bytes())
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let (secret, _) = self.pair.as_ref().ok_or(Error::Dh)?;
        let public = public.first_chunk::<32>().ok_or(Error::Dh)?;
        let make = || {
            let shared = secret.diffie_hellman(&PublicKey::from(*public));
            // RFC 7748 §6.1: the zero of a point of low order would let a stranger know the keys.
            shared.was_contributory().then(|| Zeroizing::new(*shared.as_bytes()))
        };
        let shared = if self.is_known { self.kept.get(public, make) } else { make() };
        let shared = shared.ok_or(Error::Dh)?;
        out.first_chunk_mut::<32>().ok_or(Error::Dh)?.copy_from_slice(&*shared);
        Ok(())
    }
}

struct Blake2s(Blake2s256);

impl Hash for Blake2s {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        Digest::reset(&mut self.0);
    }

    fn input(&mut self, data: &[u8]) {
        Digest::update(&mut self.0, data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let hash = self.0.finalize_fixed_reset();
        for (to, from) in out.iter_mut().zip(hash) {
            *to = from;
        }
    }
}

/// Without a key it seals nothing; snow sets one before it is used.
struct ChaChaPoly(Option<ChaCha20Poly1305>);

/// Noise §12.3: four bytes of zero and the number.
fn nonce(number: u64) -> Nonce {
    let mut nonce = Nonce::default();
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    nonce
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0 = Some(ChaCha20Poly1305::new(key.into()));
    }

    fn encrypt(&self, number: u64, aad: &[u8], plain: &[u8], out: &mut [u8]) -> usize {
        let sealed = (|| {
            let (text, rest) = out.split_at_mut_checked(plain.len())?;
            let to = rest.first_chunk_mut::<TAG_BYTES>()?;
            text.copy_from_slice(plain);
            let cipher = self.0.as_ref()?;
            let tag = cipher.encrypt_in_place_detached(&nonce(number), aad, text).ok()?;
            to.copy_from_slice(&tag);
            Some(plain.len() + TAG_BYTES)
        })();
        sealed.unwrap_or(0)
    }

    fn decrypt(
        &self,
        number: u64,
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let (text, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(Error::Decrypt)?;
        let out = out.get_mut(..text.len()).ok_or(Error::Decrypt)?;
        out.copy_from_slice(text);
        let cipher = self.0.as_ref().ok_or(Error::Decrypt)?;
        cipher
            .decrypt_in_place_detached(&nonce(number), aad, out, Tag::from_slice(tag))
            .map_err(|_| Error::Decrypt)?;
        Ok(text.len())
    }
}
