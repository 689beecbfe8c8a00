//! The macs of handshakes, and cookies under load (whitepaper §5.4.4 and §5.4.7).
//!
//! mac1 proves that the sender knows whom it writes to, at the price of one hash. mac2 proves
//! that it receives what is sent to the address it writes from; it is asked for only under load.
//! [`Checker`] is the receiving side, one per device. [`Stamper`] is the sending side, one per
//! peer.

use super::message::{self, COOKIE_REPLY_BYTES, MAC_BYTES, TAG_BYTES};
use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, Mac as _};
use blake2::{Blake2s256, Blake2sMac, Digest};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, Tag, XChaCha20Poly1305};
use holdfast_api::tunnel::PublicKey;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const LABEL_MAC1: &[u8] = b"mac1----";
const LABEL_COOKIE: &[u8] = b"cookie--";
/// How long a cookie holds, and what makes it.
const COOKIE_AGE: Duration = Duration::from_secs(120);
/// A cookie is not shown in the last seconds of its life: it might die on the way
/// (`COOKIE_SECRET_LATENCY` in drivers/net/wireguard/messages.h).
const COOKIE_LATENCY: Duration = Duration::from_secs(5);

type Mac = [u8; MAC_BYTES];

/// What a handshake message proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Nothing: it is dropped unheard.
    None,
    /// That its sender knows our key.
    Key,
    /// That it also receives at the address it writes from.
    Address,
}

/// Looks at the macs of what comes.
pub(crate) struct Checker {
    mac1_key: [u8; 32],
    cookie_key: [u8; 32],
    secret: Zeroizing<[u8; 32]>,
    secret_until: Instant,
}

impl Checker {
    /// For the device with this public key.
    pub(crate) fn new(public: &PublicKey, now: Instant) -> Self {
        Checker {
            mac1_key: keyed(LABEL_MAC1, public),
            cookie_key: keyed(LABEL_COOKIE, public),
            secret: Zeroizing::new([0; 32]),
            secret_until: now,
        }
    }

    /// What the handshake message `datagram` from `from` proves.
    pub(crate) fn check(&self, datagram: &[u8], from: SocketAddr, now: Instant) -> Proof {
        let Some((text, mac1, mac2)) = parts(datagram) else { return Proof::None };
        if !bool::from(mac(&self.mac1_key, &[text]).ct_eq(mac1)) {
            return Proof::None;
        }
        let shown = now < self.secret_until
            && bool::from(mac(&self.cookie(from), &[text, mac1]).ct_eq(mac2));
        if shown { Proof::Address } else { Proof::Key }
    }

    /// The answer to a handshake message of `sender` that proves no address; none for lack of
    /// randomness.
    pub(crate) fn reply(
        &mut self,
        datagram: &[u8],
        sender: u32,
        from: SocketAddr,
        now: Instant,
    ) -> Option<[u8; COOKIE_REPLY_BYTES]> {
        let (_, mac1, _) = parts(datagram)?;
        if now >= self.secret_until {
            getrandom::fill(self.secret.as_mut()).ok()?;
            self.secret_until = now + COOKIE_AGE;
        }
        let mut nonce = [0; 24];
        getrandom::fill(&mut nonce).ok()?;
        let mut sealed = [0; MAC_BYTES + TAG_BYTES];
        let (cookie, tag) = sealed.split_at_mut(MAC_BYTES);
        cookie.copy_from_slice(&self.cookie(from));
        let cipher = XChaCha20Poly1305::new(&self.cookie_key.into());
        tag.copy_from_slice(&cipher.encrypt_in_place_detached(&nonce.into(), mac1, cookie).ok()?);
        Some(message::cookie_reply(sender, &nonce, &sealed))
    }

    fn cookie(&self, from: SocketAddr) -> Mac {
        let port = from.port().to_be_bytes();
        match from.ip() {
            IpAddr::V4(ip) => mac(&*self.secret, &[&ip.octets(), &port]),
            IpAddr::V6(ip) => mac(&*self.secret, &[&ip.octets(), &port]),
        }
    }
}

/// Signs what goes to a peer.
#[derive(Debug)]
pub(crate) struct Stamper {
    mac1_key: [u8; 32],
    /// Of the last message, to which a cookie reply would belong.
    last_mac1: Option<Mac>,
    /// What the peer wants to see, and until when it does.
    cookie: Option<(Zeroizing<Mac>, Instant)>,
}

impl Stamper {
    /// For the peer with this key.
    pub(crate) fn new(peer: &PublicKey) -> Self {
        Stamper { mac1_key: keyed(LABEL_MAC1, peer), last_mac1: None, cookie: None }
    }

    /// Writes both macs into a handshake message.
    pub(crate) fn stamp(&mut self, datagram: &mut [u8], now: Instant) {
        let Some((rest, mac2)) = datagram.split_last_chunk_mut::<MAC_BYTES>() else { return };
        let Some((text, mac1)) = rest.split_last_chunk_mut::<MAC_BYTES>() else { return };
        *mac1 = mac(&self.mac1_key, &[text]);
        self.last_mac1 = Some(*mac1);
        self.cookie.take_if(|(_, until)| now >= *until);
        *mac2 = self
            .cookie
            .as_ref()
            .map_or([0; MAC_BYTES], |(cookie, _)| mac(&**cookie, &[text, mac1]));
    }

    /// Takes a cookie reply of `peer` to the last message; false when it is none. One message
    /// takes one cookie.
    pub(crate) fn take_reply(
        &mut self,
        peer: &PublicKey,
        nonce: &[u8; 24],
        sealed: &[u8; MAC_BYTES + TAG_BYTES],
        now: Instant,
    ) -> bool {
        let Some(mac1) = self.last_mac1 else { return false };
        let Some((text, tag)) = sealed.split_last_chunk::<TAG_BYTES>() else { return false };
        let Ok(mut cookie) = Mac::try_from(text).map(Zeroizing::new) else { return false };
        let cipher = XChaCha20Poly1305::new(&keyed(LABEL_COOKIE, peer).into());
        let opened = cipher.decrypt_in_place_detached(
            nonce.into(),
            &mac1,
            cookie.as_mut(),
            Tag::from_slice(tag),
        );
        if opened.is_err() {
            return false;
        }
        self.last_mac1 = None;
        self.cookie = Some((cookie, now + COOKIE_AGE - COOKIE_LATENCY));
        true
    }
}

/// What mac1 is of, mac1 and mac2.
fn parts(datagram: &[u8]) -> Option<(&[u8], &Mac, &Mac)> {
    let (rest, mac2) = datagram.split_last_chunk::<MAC_BYTES>()?;
    let (text, mac1) = rest.split_last_chunk::<MAC_BYTES>()?;
    Some((text, mac1, mac2))
}

fn keyed(label: &[u8], public: &PublicKey) -> [u8; 32] {
    Blake2s256::new().chain_update(label).chain_update(public.0).finalize().into()
}

/// Keyed BLAKE2s of sixteen bytes (RFC 7693 §2.9). Keys are of 16 or 32 bytes, which it takes.
fn mac(key: &[u8], parts: &[&[u8]]) -> Mac {
    let Ok(mut mac) = <Blake2sMac<U16> as KeyInit>::new_from_slice(key) else {
        return [0; MAC_BYTES];
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize_fixed().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireguard::message::{INITIATION_BYTES, Message};

    const PEER: PublicKey = PublicKey([5; 32]);

    fn from() -> SocketAddr {
        ([192, 0, 2, 1], 51820).into()
    }

    fn stamped(stamper: &mut Stamper, now: Instant) -> [u8; INITIATION_BYTES] {
        let mut datagram = message::initiation(7, &[3; message::NOISE_INITIATION_BYTES]);
        stamper.stamp(&mut datagram, now);
        datagram
    }

    fn take(stamper: &mut Stamper, reply: &[u8], now: Instant) -> bool {
        let Some(Message::CookieReply { receiver: 7, nonce, sealed }) = Message::parse(reply)
        else {
            panic!("no cookie reply")
        };
        stamper.take_reply(&PEER, nonce, sealed, now)
    }

    #[test]
    fn a_message_proves_the_key_and_with_a_cookie_the_address() {
        let now = Instant::now();
        let (mut checker, mut stamper) = (Checker::new(&PEER, now), Stamper::new(&PEER));
        let first = stamped(&mut stamper, now);
        assert_eq!(checker.check(&first, from(), now), Proof::Key);
        let reply = checker.reply(&first, 7, from(), now).unwrap();
        assert!(take(&mut stamper, &reply, now));
        assert!(!take(&mut stamper, &reply, now), "one message takes one cookie");

        let second = stamped(&mut stamper, now);
        assert_eq!(checker.check(&second, from(), now), Proof::Address);
        let elsewhere = SocketAddr::new(from().ip(), 1);
        assert_eq!(checker.check(&second, elsewhere, now), Proof::Key, "another port");
        let elsewhere = SocketAddr::new("2001:db8::1".parse().unwrap(), from().port());
        assert_eq!(checker.check(&second, elsewhere, now), Proof::Key, "another address");
        let later = now + COOKIE_AGE;
        assert_eq!(checker.check(&second, from(), later), Proof::Key, "too old");
        let third = stamped(&mut stamper, now + COOKIE_AGE - COOKIE_LATENCY);
        assert_eq!(third[INITIATION_BYTES - MAC_BYTES..], [0; MAC_BYTES], "not shown when old");
    }

    #[test]
    fn a_changed_message_and_one_for_another_key_prove_nothing() {
        let now = Instant::now();
        let (checker, mut stamper) = (Checker::new(&PEER, now), Stamper::new(&PEER));
        let honest = stamped(&mut stamper, now);
        for byte in 0..INITIATION_BYTES - MAC_BYTES {
            let mut changed = honest;
            changed[byte] ^= 0x10;
            assert_eq!(checker.check(&changed, from(), now), Proof::None, "byte {byte}");
        }
        let other = Checker::new(&PublicKey([6; 32]), now);
        assert_eq!(other.check(&honest, from(), now), Proof::None);
        assert_eq!(checker.check(&honest[..20], from(), now), Proof::None);
    }

    #[test]
    fn no_cookie_is_shown_before_there_is_a_secret() {
        let now = Instant::now();
        let checker = Checker::new(&PEER, now);
        let mut datagram = stamped(&mut Stamper::new(&PEER), now);
        let (text, _, _) = parts(&datagram).unwrap();
        let mac1_end = INITIATION_BYTES - MAC_BYTES;
        let mac1: Mac = datagram[mac1_end - MAC_BYTES..mac1_end].try_into().unwrap();
        let guessed =
            mac(&mac(&[0; 32], &[&[192, 0, 2, 1], &51820u16.to_be_bytes()]), &[text, &mac1]);
        datagram[mac1_end..].copy_from_slice(&guessed);
        assert_eq!(checker.check(&datagram, from(), now), Proof::Key);
    }

    #[test]
    fn a_forged_cookie_is_not_taken() {
        let now = Instant::now();
        let (mut checker, mut stamper) = (Checker::new(&PEER, now), Stamper::new(&PEER));
        let first = stamped(&mut stamper, now);
        let reply = checker.reply(&first, 7, from(), now).unwrap();
        for byte in 8..reply.len() {
            let mut forged = reply;
            forged[byte] ^= 1;
            assert!(!take(&mut stamper, &forged, now), "byte {byte}");
        }
        assert!(!take(&mut Stamper::new(&PEER), &reply, now), "nothing was sent");
        assert!(take(&mut stamper, &reply, now));
    }
}
