//! The handshake: `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` (whitepaper §5.4), by snow.
//!
//! What it gives are the two keys of a session. What is around it on the wire is
//! [`super::message`]'s, the macs are [`super::cookie`]'s, and whether a timestamp is new is the
//! peer's to know. Each failure is the other side's fault and leaves nothing behind: whoever
//! waits for an answer goes on waiting for a better one.
//!
//! Private keys and the results of multiplications are wiped. snow wipes nothing of its own: its
//! chaining key and its copy of the preshared key are overwritten here once a handshake is done
//! with. What it leaves on the stack is for whoever calls to wipe ([`super::key::wipe_stack`]).

mod kept;
mod primitives;

use super::key::{PresharedKey, PrivateKey};
use super::message::{NOISE_INITIATION_BYTES, NOISE_RESPONSE_BYTES};
use holdfast_api::tunnel::PublicKey;
use kept::Kept;
use primitives::Primitives;
use snow::params::NoiseParams;
use snow::{Builder, HandshakeState};
use std::fmt;
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// Where the preshared key is mixed in: `psk2`.
const PSK: usize = 2;

/// TAI64N: seconds and nanoseconds, big-endian, so that they compare like numbers.
pub(crate) type Timestamp = [u8; 12];

/// A handshake that is not one: forged, damaged, for another key, or the kernel has no
/// randomness. Nobody on the other side may learn which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid handshake")]
pub(crate) struct Refused;

/// The keys of a session.
pub(crate) struct SessionKeys {
    /// Of what goes to the peer.
    pub send: Zeroizing<[u8; 32]>,
    /// Of what comes from it.
    pub receive: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKeys(…)")
    }
}

/// A device's key pair, ready to shake hands.
pub(crate) struct Identity {
    secret: StaticSecret,
    public: x25519_dalek::PublicKey,
    pattern: NoiseParams,
    kept: Kept,
}

impl Identity {
    /// Of a private key.
    ///
    /// # Errors
    /// None with the snow that this was built with: it knows the pattern.
    pub(crate) fn new(key: &PrivateKey) -> Result<Self, Refused> {
        let secret = key.secret();
        let public = x25519_dalek::PublicKey::from(&secret);
        let pattern = PATTERN.parse().map_err(|_| Refused)?;
        Ok(Identity { secret, public, pattern, kept: Kept::default() })
    }

    /// Handshakes with `peer` will come again: what they have in common is kept.
    pub(crate) fn know(&self, peer: &PublicKey) {
        self.kept.know(peer.0);
    }

    /// There will be no more with it.
    pub(crate) fn forget(&self, peer: &PublicKey) {
        self.kept.forget(&peer.0);
    }

    /// Its public key.
    #[cfg(test)]
    pub(crate) fn public(&self) -> PublicKey {
        PublicKey(self.public.to_bytes())
    }

    /// Begins a handshake with `peer`.
    ///
    /// # Errors
    /// The peer's key is none that anybody can have, or there is no randomness.
    pub(crate) fn initiate(
        &self,
        peer: &PublicKey,
        preshared: Option<&PresharedKey>,
        timestamp: &Timestamp,
    ) -> Result<(Initiated, [u8; NOISE_INITIATION_BYTES]), Refused> {
        let mut state = self.build(Some(peer))?;
        state.set_preshared(preshared)?;
        let mut message = [0; NOISE_INITIATION_BYTES];
        let length = state.write(timestamp, &mut message)?;
        (length == message.len()).then_some((Initiated(state), message)).ok_or(Refused)
    }

    /// Reads a peer's first message. Costs two multiplications: ask for its macs first.
    ///
    /// # Errors
    /// It is none, or for somebody else.
    pub(crate) fn receive(
        &self,
        message: &[u8; NOISE_INITIATION_BYTES],
    ) -> Result<Received, Refused> {
        let mut state = self.build(None)?;
        let mut timestamp = Timestamp::default();
        let length = state.read(message, &mut timestamp)?;
        let peer =
            state.0.get_remote_static().and_then(|key| key.try_into().ok()).ok_or(Refused)?;
        (length == timestamp.len())
            .then_some(Received { state, peer: PublicKey(peer), timestamp })
            .ok_or(Refused)
    }

    fn build(&self, peer: Option<&PublicKey>) -> Result<State, Refused> {
        let primitives = Primitives::new(&self.secret, self.public, self.kept.clone());
        let builder = Builder::with_resolver(self.pattern.clone(), Box::new(primitives))
            .prologue(PROLOGUE)
            .and_then(|builder| builder.local_private_key(self.secret.as_bytes()))
            .map_err(|_| Refused)?;
        let state = match peer {
            Some(peer) => builder.remote_public_key(&peer.0).and_then(Builder::build_initiator),
            None => builder.build_responder(),
        };
        state.map(|state| State(Box::new(state))).map_err(|_| Refused)
    }
}

/// A handshake that waits for the peer's answer.
pub(crate) struct Initiated(State);

impl Initiated {
    /// Reads the answer. After an error it goes on waiting; after the keys it is done.
    ///
    /// # Errors
    /// It is no answer to this handshake.
    pub(crate) fn finish(
        &mut self,
        message: &[u8; NOISE_RESPONSE_BYTES],
    ) -> Result<SessionKeys, Refused> {
        self.0.read(message, &mut [])?;
        let (send, receive) = self.0.split();
        Ok(SessionKeys { send, receive })
    }
}

/// A peer's first message, read.
pub(crate) struct Received {
    state: State,
    /// Who sent it.
    pub peer: PublicKey,
    /// When, as it says. Only a newer one than the last may be answered.
    pub timestamp: Timestamp,
}

impl Received {
    /// Answers it.
    ///
    /// # Errors
    /// There is no randomness.
    pub(crate) fn respond(
        mut self,
        preshared: Option<&PresharedKey>,
    ) -> Result<(SessionKeys, [u8; NOISE_RESPONSE_BYTES]), Refused> {
        self.state.set_preshared(preshared)?;
        let mut message = [0; NOISE_RESPONSE_BYTES];
        let length = self.state.write(&[], &mut message)?;
        let (receive, send) = self.state.split();
        (length == message.len()).then_some((SessionKeys { send, receive }, message)).ok_or(Refused)
    }
}

/// A handshake under way, of which nothing is left when it is dropped.
struct State(Box<HandshakeState>);

impl State {
    fn set_preshared(&mut self, key: Option<&PresharedKey>) -> Result<(), Refused> {
        // Without one WireGuard mixes in zeros (whitepaper §5.2).
        let key = key.map_or(&[0; 32], PresharedKey::expose);
        self.0.set_psk(PSK, key).map_err(|_| Refused)
    }

    fn write(&mut self, payload: &[u8], message: &mut [u8]) -> Result<usize, Refused> {
        self.0.write_message(payload, message).map_err(|_| Refused)
    }

    fn read(&mut self, message: &[u8], payload: &mut [u8]) -> Result<usize, Refused> {
        self.0.read_message(message, payload).map_err(|_| Refused)
    }

    /// The initiator's sending key and the responder's.
    fn split(&mut self) -> (Zeroizing<[u8; 32]>, Zeroizing<[u8; 32]>) {
        let (first, second) = self.0.dangerously_get_raw_split();
        (Zeroizing::new(first), Zeroizing::new(second))
    }

    /// Puts one without secrets into its place.
    fn wipe(&mut self) {
        if let Ok(blank) = blank() {
            *self.0 = blank;
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.wipe();
    }
}

/// The handshake of a key that everybody knows. No multiplication is made for it.
fn blank() -> Result<HandshakeState, Refused> {
    let (secret, public) = (StaticSecret::from([0; 32]), x25519_dalek::PublicKey::from([0; 32]));
    let primitives = Primitives::new(&secret, public, Kept::default());
    Builder::with_resolver(PATTERN.parse().map_err(|_| Refused)?, Box::new(primitives))
        .local_private_key(secret.as_bytes())
        .and_then(Builder::build_responder)
        .map_err(|_| Refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity() -> Identity {
        Identity::new(&PrivateKey::generate().unwrap()).unwrap()
    }

    fn shake(
        psk_a: Option<PresharedKey>,
        psk_b: Option<PresharedKey>,
    ) -> Result<(SessionKeys, SessionKeys), Refused> {
        let (a, b) = (identity(), identity());
        let (mut waiting, message) = a.initiate(&b.public(), psk_a.as_ref(), &[7; 12])?;
        let received = b.receive(&message)?;
        assert_eq!((received.peer, received.timestamp), (a.public(), [7; 12]));
        let (theirs, answer) = received.respond(psk_b.as_ref())?;
        Ok((waiting.finish(&answer)?, theirs))
    }

    #[test]
    fn both_sides_get_the_same_keys_the_other_way_round() {
        for psk in [None, PresharedKey::from_bytes([9; 32])] {
            let (ours, theirs) = shake(psk.clone(), psk).unwrap();
            assert_eq!(ours.send, theirs.receive);
            assert_eq!(ours.receive, theirs.send);
            assert_ne!(ours.send, ours.receive);
        }
        let one = PresharedKey::from_bytes([1; 32]);
        assert!(shake(one, PresharedKey::from_bytes([2; 32])).is_err(), "other preshared keys");
    }

    /// What is kept of a peer is used: with a wrong one nothing comes of it.
    #[test]
    fn handshakes_with_known_peers_are_those_with_strangers() {
        let (a, b) = (identity(), identity());
        a.know(&b.public());
        b.know(&a.public());
        for round in 0..3 {
            let (mut waiting, message) = a.initiate(&b.public(), None, &[round; 12]).unwrap();
            let (theirs, answer) = b.receive(&message).unwrap().respond(None).unwrap();
            assert_eq!(waiting.finish(&answer).unwrap().send, theirs.receive);
        }
        b.forget(&a.public());
        let (_, message) = a.initiate(&b.public(), None, &[9; 12]).unwrap();
        assert!(b.receive(&message).is_ok());
        b.know(&a.public());
        b.kept.get(&a.public().0, || Some([1; 32].into()));
        assert!(b.receive(&message).is_err());
    }

    #[test]
    fn a_forged_answer_does_not_end_the_wait_for_the_real_one() {
        let (a, b) = (identity(), identity());
        let (mut waiting, message) = a.initiate(&b.public(), None, &[0; 12]).unwrap();
        let (theirs, answer) = b.receive(&message).unwrap().respond(None).unwrap();
        for byte in 0..answer.len() {
            let mut forged = answer;
            forged[byte] ^= 1;
            assert!(waiting.finish(&forged).is_err(), "byte {byte}");
        }
        assert!(waiting.finish(&[0; NOISE_RESPONSE_BYTES]).is_err(), "a point of low order");
        assert_eq!(waiting.finish(&answer).unwrap().send, theirs.receive);
    }

    #[test]
    fn nothing_is_for_another_device() {
        let (a, b, c) = (identity(), identity(), identity());
        let (_, message) = a.initiate(&b.public(), None, &[0; 12]).unwrap();
        assert!(c.receive(&message).is_err());
        assert!(a.initiate(&PublicKey([0; 32]), None, &[0; 12]).is_err(), "nobody's key");
        assert_eq!(format!("{:?}", shake(None, None).unwrap().0), "SessionKeys(…)");
    }

    /// What snow makes the keys of is not what it made them of any more.
    #[test]
    fn nothing_is_left_of_a_handshake_that_is_done() {
        let (a, b) = (identity(), identity());
        let preshared = PresharedKey::from_bytes([9; 32]);
        let (mut waiting, message) = a.initiate(&b.public(), preshared.as_ref(), &[0; 12]).unwrap();
        let (theirs, answer) = b.receive(&message).unwrap().respond(preshared.as_ref()).unwrap();
        assert_eq!(waiting.finish(&answer).unwrap().send, theirs.receive);
        assert_eq!(waiting.0.split().0, theirs.receive, "it is there still");
        waiting.0.wipe();
        let (first, second) = waiting.0.split();
        assert!(![&theirs.send, &theirs.receive].contains(&&first));
        assert!(![&theirs.send, &theirs.receive].contains(&&second));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_damaged_message_is_refused(byte in 0..NOISE_INITIATION_BYTES, bit in 0u8..8) {
            let (a, b) = (identity(), identity());
            let (_, mut message) = a.initiate(&b.public(), None, &[0; 12]).unwrap();
            message[byte] ^= 1 << bit;
            // The highest bit of a point is ignored (RFC 7748 §5), but it is hashed.
            prop_assert!(b.receive(&message).is_err());
        }
    }
}
