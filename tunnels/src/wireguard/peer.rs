//! One peer of a device: its handshakes, its sessions, what waits for one.
//!
//! Whatever comes is looked at in this order: is it authentic, is it new, and only then does it
//! change anything. So nobody but the peer can move it, and what the peer sent before cannot be
//! played back to do it.

use super::cookie::Stamper;
use super::key::PresharedKey;
use super::keyring::Keyring;
use super::message::{self, INITIATION_BYTES, NOISE_RESPONSE_BYTES, RESPONSE_BYTES, TAG_BYTES};
use super::noise::{Identity, Initiated, Received, Timestamp};
use super::outbox::Way;
use super::session::{Sealing, Session};
use super::staged::{Budget, Staged};
use super::timers::{Due, REKEY_TIMEOUT, Timers};
use crate::random::Random;
use holdfast_api::tunnel::PublicKey;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// A peer may begin so many handshakes in a second (`INITIATIONS_PER_SECOND` in
/// drivers/net/wireguard/messages.h).
const INITIATION_PAUSE: Duration = Duration::from_millis(20);

/// How a peer shall be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerConfig {
    /// Where it is; none: wherever it speaks up from. It may roam.
    pub endpoint: Option<SocketAddr>,
    /// Extra symmetric key.
    pub preshared_key: Option<PresharedKey>,
    /// Seconds between keepalives, 0 for none.
    pub keepalive_secs: u16,
    /// What is sent to it and accepted from it.
    pub allowed_ips: BTreeSet<IpNet>,
    /// Shake hands at once and keep trying, not only when there is something to send.
    pub eager: bool,
}

/// What can be said about a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its key.
    pub public_key: PublicKey,
    /// How it is set up, with the endpoint it was last heard from.
    pub config: PeerConfig,
    /// Time since the last handshake was completed; none before the first.
    pub handshake_age: Option<Duration>,
    /// The moment of that: an age grows while it is told.
    pub handshake_at: Option<Instant>,
    /// Bytes of datagrams received from it.
    pub rx_bytes: u64,
    /// Bytes of datagrams sent to it.
    pub tx_bytes: u64,
}

/// What an authentic packet was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// New.
    Fresh,
    /// New, and the first of its session: what waits for one may go out.
    Confirms,
    /// Seen before, or too old.
    Replayed,
}

pub(super) struct Peer {
    pub(super) public_key: PublicKey,
    /// Without the prefixes.
    pub(super) config: PeerConfig,
    /// Sorted.
    pub(super) prefixes: Vec<IpNet>,
    pub(super) timers: Timers,
    /// The deadline under which the device keeps it, if any.
    pub(super) queued_at: Option<Instant>,
    /// Our address that it was last heard at.
    local: Option<IpAddr>,
    /// The high 24 bits of its indices on the wire.
    slot: u32,
    /// The low 8 bits of the last one.
    serial: u8,
    stamper: Stamper,
    /// Our handshake under way, and how the peer addresses it.
    initiated: Option<(u32, Initiated)>,
    initiated_at: Option<Instant>,
    keyring: Keyring,
    greatest_timestamp: Timestamp,
    answered_at: Option<Instant>,
    completed_at: Option<Instant>,
    /// The session was renewed because it grows old while only the peer sends.
    renewed_for_receiving: bool,
    staged: Staged,
    random: Random,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
}

impl Peer {
    /// In the slot `slot` of its device. `seed` is for jitter.
    pub(super) fn new(public_key: PublicKey, slot: u32, seed: u64, budget: Budget) -> Self {
        let mut random = Random::new(seed ^ u64::from(slot));
        Peer {
            public_key,
            config: PeerConfig::default(),
            prefixes: Vec::new(),
            timers: Timers::default(),
            queued_at: None,
            local: None,
            slot,
            serial: random.next().to_le_bytes()[0],
            stamper: Stamper::new(&public_key),
            initiated: None,
            initiated_at: None,
            keyring: Keyring::default(),
            greatest_timestamp: Timestamp::default(),
            answered_at: None,
            completed_at: None,
            renewed_for_receiving: false,
            staged: Staged::new(budget),
            random,
            rx_bytes: 0,
            tx_bytes: 0,
        }
    }

    /// Changes it. Sessions go on, unless the preshared key is another one.
    pub(super) fn set(&mut self, config: PeerConfig, now: Instant) {
        let begins_anew = config.preshared_key != self.config.preshared_key;
        if begins_anew {
            self.forget();
        }
        let is_wanted = config.eager || config.keepalive_secs > 0;
        let was_wanted = (self.config.eager || self.config.keepalive_secs > 0)
            && self.config.endpoint.is_some()
            && !begins_anew;
        let is_elsewhere = config.endpoint != self.config.endpoint;
        let moved = is_elsewhere && self.timers.is_shaking();
        self.local = self.local.filter(|_| !is_elsewhere);
        let begins = self.timers.set_persistent(config.keepalive_secs);
        self.config = config;
        if is_wanted && !was_wanted && !moved && self.can_send(now) {
            // What both have goes on; only whoever is between learns of it.
            if begins {
                self.timers.greet(now);
            }
        } else if is_wanted && (!was_wanted || moved) {
            self.hurry(now);
        }
        if moved {
            self.timers.call_again(now);
        }
        if !is_wanted {
            self.timers.calm();
        }
    }

    /// Wants a handshake now, whatever the state of the session, if anybody knows where the peer
    /// is.
    pub(super) fn hurry(&mut self, now: Instant) {
        if self.config.endpoint.is_some() {
            self.timers.hurry(now);
        }
    }

    /// The device has another key: everything begins anew.
    pub(super) fn restart(&mut self, now: Instant) {
        self.forget();
        self.stamper = Stamper::new(&self.public_key);
        if self.config.eager || self.config.keepalive_secs > 0 {
            self.hurry(now);
        }
    }

    /// Ends all sessions and handshakes.
    fn forget(&mut self) {
        self.keyring.clear();
        self.staged.clear();
        self.initiated = None;
        self.initiated_at = None;
        self.timers.stop();
    }

    /// A first message to the peer; none where nobody knows where it is, or without randomness.
    pub(super) fn initiate(
        &mut self,
        identity: &Identity,
        timestamp: &Timestamp,
        now: Instant,
    ) -> Option<[u8; INITIATION_BYTES]> {
        self.config.endpoint?;
        let preshared = self.config.preshared_key.as_ref();
        let (initiated, noise) = identity.initiate(&self.public_key, preshared, timestamp).ok()?;
        let index = self.fresh_index();
        let mut datagram = message::initiation(index, &noise);
        self.stamper.stamp(&mut datagram, now);
        self.initiated = Some((index, initiated));
        self.initiated_at = Some(now);
        self.timers.initiated(now, self.random.next());
        Some(datagram)
    }

    /// Whether an initiation may be sent that no timer asked for.
    pub(super) fn may_initiate(&self, now: Instant) -> bool {
        self.config.endpoint.is_some()
            && self.initiated_at.is_none_or(|at| now.saturating_duration_since(at) >= REKEY_TIMEOUT)
    }

    /// Answers a first message of the peer; none when it is old, too soon after another, or
    /// cannot be answered.
    pub(super) fn answer(
        &mut self,
        received: Received,
        sender: u32,
        now: Instant,
    ) -> Option<[u8; RESPONSE_BYTES]> {
        let is_flood =
            self.answered_at.is_some_and(|at| now.saturating_duration_since(at) < INITIATION_PAUSE);
        if received.timestamp <= self.greatest_timestamp || is_flood {
            return None;
        }
        self.greatest_timestamp = received.timestamp;
        self.answered_at = Some(now);
        let (keys, noise) = received.respond(self.config.preshared_key.as_ref()).ok()?;
        let index = self.fresh_index();
        self.begin(Session::new(keys, (index, sender), false, now), now);
        let mut datagram = message::response(index, sender, &noise);
        self.stamper.stamp(&mut datagram, now);
        Some(datagram)
    }

    /// Takes the answer to our handshake; false when it is none.
    pub(super) fn take_answer(
        &mut self,
        (sender, receiver): (u32, u32),
        noise: &[u8; NOISE_RESPONSE_BYTES],
        now: Instant,
    ) -> bool {
        let Some((index, initiated)) = &mut self.initiated else { return false };
        if *index != receiver {
            return false;
        }
        let Ok(keys) = initiated.finish(noise) else { return false };
        self.initiated = None;
        self.begin(Session::new(keys, (receiver, sender), true, now), now);
        true
    }

    /// Has a session from now on, as a handshake gave it.
    pub(super) fn begin(&mut self, session: Session, now: Instant) {
        self.timers.session_made(now);
        self.timers.authenticated_received(now);
        if session.is_initiator() {
            self.keyring.add_initiated(Box::new(session));
            self.completed(now);
        } else {
            self.keyring.add_answered(Box::new(session));
            self.timers.authenticated_sent(now);
        }
    }

    /// Takes a cookie for our handshake; false when it is none.
    pub(super) fn take_cookie(
        &mut self,
        receiver: u32,
        nonce: &[u8; 24],
        sealed: &[u8; 16 + TAG_BYTES],
        now: Instant,
    ) -> bool {
        let is_ours = self.initiated.as_ref().is_some_and(|(index, _)| *index == receiver)
            || self.keyring.has(receiver);
        is_ours && self.stamper.take_reply(&self.public_key, nonce, sealed, now)
    }

    /// The session that the peer addresses so.
    pub(super) fn session(&mut self, local_index: u32) -> Option<&mut Session> {
        self.keyring.find(local_index)
    }

    /// Takes the number of an authentic packet in the session that the peer addresses so.
    pub(super) fn take(&mut self, local_index: u32, counter: u64, now: Instant) -> Taken {
        let session = self.keyring.find(local_index);
        if !session.is_some_and(|session| session.take(counter)) {
            return Taken::Replayed;
        }
        if !self.keyring.confirm(local_index) {
            return Taken::Fresh;
        }
        self.completed(now);
        Taken::Confirms
    }

    fn completed(&mut self, now: Instant) {
        self.timers.completed();
        self.completed_at = Some(now);
        self.renewed_for_receiving = false;
    }

    /// When the last handshake was completed.
    pub(super) fn completed_at(&self) -> Option<Instant> {
        self.completed_at
    }

    /// Something authentic came from there, so this is where the peer is now.
    pub(super) fn heard_from(&mut self, way: Way) {
        if self.way() != Some(way) {
            self.config.endpoint = Some(way.to);
            self.local = way.from;
        }
    }

    /// The way to it; none when nobody knows where it is.
    pub(super) fn way(&self) -> Option<Way> {
        self.config.endpoint.map(|to| Way { to, from: self.local })
    }

    /// Whether there is a session to send with.
    pub(super) fn can_send(&mut self, now: Instant) -> bool {
        self.keyring.sending(now).is_some()
    }

    /// Takes numbers for `count` packets; none without a session.
    pub(super) fn reserve(&mut self, count: u64, now: Instant) -> Option<Sealing> {
        self.keyring.sending(now)?.reserve(count, now)
    }

    /// Whether the session wants to be renewed, after packets were sent in it.
    pub(super) fn is_stale_to_send(&mut self, now: Instant) -> bool {
        let stale = self.keyring.sending(now).is_some_and(|session| session.is_stale_to_send(now));
        stale && self.may_initiate(now)
    }

    /// Whether the session wants to be renewed, after packets were received; once per session.
    pub(super) fn is_stale_to_receive(&mut self, now: Instant) -> bool {
        let stale = !self.renewed_for_receiving
            && self.keyring.sending(now).is_some_and(|session| session.is_stale_to_receive(now))
            && self.may_initiate(now);
        self.renewed_for_receiving |= stale;
        stale
    }

    /// What is due; keys that are too old are forgotten by it, and packets that wait in vain.
    pub(super) fn expire(&mut self, now: Instant) -> Due {
        let due = self.timers.expire(now);
        if due.initiate {
            // Nobody answers: perhaps the address that it was heard at is of no use any more, though
            // we have it still. The kernel knows by which it gets there now
            // (wg_expired_retransmit_handshake in drivers/net/wireguard/timers.c).
            self.local = None;
        }
        // Who never gives up drops at least what has become old.
        if due.is_stale || due.give_up {
            self.staged.clear();
        }
        if due.give_up {
            self.initiated = None;
        }
        if due.retire {
            let next = self.keyring.retire(now);
            self.timers.retire_at(next);
        }
        if due.forget {
            self.keyring.clear();
            self.initiated = None;
        }
        due
    }

    /// Sessions that are kept.
    #[cfg(test)]
    pub(super) fn sessions(&self) -> usize {
        self.keyring.len()
    }

    /// Keeps a packet until there is a session.
    pub(super) fn stage(&mut self, packet: &[u8]) {
        self.staged.push(packet);
    }

    /// Takes out the oldest packet that waits.
    pub(super) fn unstage(&mut self) -> Option<Box<[u8]>> {
        self.staged.pop()
    }

    /// Whether a packet waits.
    pub(super) fn has_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// A packet with something in it goes out.
    pub(super) fn data_sent(&mut self, now: Instant) {
        self.timers.data_sent(now, self.random.next());
    }

    pub(super) fn status(&self, now: Instant) -> PeerStatus {
        PeerStatus {
            public_key: self.public_key,
            config: PeerConfig {
                allowed_ips: self.prefixes.iter().copied().collect(),
                ..self.config.clone()
            },
            handshake_age: self.completed_at.map(|at| now.saturating_duration_since(at)),
            handshake_at: self.completed_at,
            rx_bytes: self.rx_bytes,
            tx_bytes: self.tx_bytes,
        }
    }

    /// An index that nothing of this peer has.
    fn fresh_index(&mut self) -> u32 {
        loop {
            self.serial = self.serial.wrapping_add(1);
            let index = self.slot << 8 | u32::from(self.serial);
            let is_taken = self.keyring.has(index)
                || self.initiated.as_ref().is_some_and(|(taken, _)| *taken == index);
            if !is_taken {
                return index;
            }
        }
    }
}
