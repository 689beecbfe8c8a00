//! A WireGuard device without sockets: packets and datagrams in, datagrams and packets out.
//!
//! Who the peers are is here; [`link`] has the way of packets out, [`network`] the way of
//! datagrams in, [`Peer`] the protocol. There is no clock: `now` is an argument, read once for many
//! packets. The only thing that waits by itself are deadlines, and [`Engine::due_at`] is the
//! earliest of them; at rest there is none.

mod link;
mod network;

pub(crate) use link::LinkPacket;
pub(crate) use network::Datagrams;

use super::allowed_ips::AllowedIps;
use super::cookie::Checker;
use super::deadlines::Deadlines;
use super::initiations::Initiations;
use super::inner::join::{Joiner, Offers};
use super::key::{PrivateKey, wipe_stack};
use super::limiter::{HandshakeCounts, Limiter};
use super::noise::{Identity, Timestamp};
use super::outbox::{Network, Outbox};
use super::peer::{Peer, PeerConfig, PeerStatus};
use super::session::Session;
use super::staged::Budget;
use holdfast_api::tunnel::PublicKey;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

/// Peers that timers are run for at a time: handshakes of as many take a few milliseconds.
const MOST_DUE: usize = 32;
/// Peers are numbered with 24 bits in the indices on the wire.
const MOST_PEERS: usize = 1 << 24;
/// TAI is so many seconds ahead of UTC's count, as WireGuard has it (whitepaper §5.4.2; leap
/// seconds since 1970 do not matter, as only this device's own stamps are compared).
const TAI64_BASE: u64 = 0x4000_0000_0000_000a;

/// How an engine begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    /// Now.
    pub now: Instant,
    /// The same moment, since 1970.
    pub wall: Duration,
    /// For jitter.
    pub seed: u64,
}

/// The device.
pub(crate) struct Engine {
    private_key: Option<PrivateKey>,
    /// None without a key.
    identity: Option<Identity>,
    checker: Checker,
    limiter: Limiter,
    handshakes: HandshakeCounts,
    start: Start,
    last_stamp: Duration,
    peers: Vec<Option<Box<Peer>>>,
    keys: BTreeMap<PublicKey, u32>,
    /// Numbers that are nobody's now.
    free: Vec<u32>,
    allowed: AllowedIps,
    deadlines: Deadlines,
    initiations: Initiations,
    joiner: Joiner,
    link: link::Link,
    budget: Budget,
}

impl Engine {
    /// A device without peers, on a link that takes `offers`. Beyond `handshakes_per_second` (1
    /// and up) it answers with cookies, which costs an honest peer one more round trip; of each
    /// peer one more is taken in a burst, as after a restart.
    pub(crate) fn new(
        private_key: PrivateKey,
        handshakes_per_second: u64,
        offers: Offers,
        start: Start,
    ) -> Self {
        let identity = Identity::new(&private_key).ok();
        Engine {
            checker: Checker::new(&private_key.public(), start.now),
            private_key: Some(private_key),
            identity,
            limiter: Limiter::new(handshakes_per_second, start.now),
            handshakes: HandshakeCounts::default(),
            start,
            last_stamp: Duration::ZERO,
            peers: Vec::new(),
            keys: BTreeMap::new(),
            free: Vec::new(),
            allowed: AllowedIps::default(),
            deadlines: Deadlines::default(),
            initiations: Initiations::default(),
            joiner: Joiner::new(offers),
            link: link::Link::default(),
            budget: Budget::default(),
        }
    }

    /// Tells the time since 1970, for the stamps of handshakes. One that is earlier than before
    /// does no harm: stamps only go forward, or peers would refuse them as old.
    pub(crate) fn set_wall(&mut self, now: Instant, wall: Duration) {
        (self.start.now, self.start.wall) = (now, wall);
    }

    /// The private key; none where it was taken away, and nothing is sealed or opened.
    pub(crate) fn private_key(&self) -> Option<&PrivateKey> {
        self.private_key.as_ref()
    }

    /// Takes another private key, or none; all sessions end and begin anew.
    pub(crate) fn set_private_key(&mut self, private_key: Option<PrivateKey>, now: Instant) {
        let is_same = match (&private_key, &self.private_key) {
            (Some(new), Some(old)) => new.expose() == old.expose(),
            (new, old) => new.is_none() && old.is_none(),
        };
        if is_same {
            return;
        }
        self.identity = private_key.as_ref().and_then(|key| Identity::new(key).ok());
        if let Some(key) = &private_key {
            self.checker = Checker::new(&key.public(), now);
        }
        for key in self.keys.keys() {
            self.identity.iter().for_each(|identity| identity.know(key));
        }
        self.private_key = private_key;
        self.initiations = Initiations::default();
        for number in 0..self.peers.len() {
            let Some(peer) = self.peers.get_mut(number).and_then(Option::as_mut) else { continue };
            peer.restart(now);
            self.keep_deadline(number);
        }
    }

    /// Adds a peer or changes one. The session of a known peer goes on, unless its preshared
    /// key changed. An endpoint of `None` leaves a known peer where it is. Prefixes that another
    /// peer had become this one's.
    pub(crate) fn set_peer(&mut self, key: PublicKey, mut config: PeerConfig, now: Instant) {
        let known = self.keys.get(&key).copied();
        if let Some(peer) = known.and_then(|number| self.peer(number)) {
            config.endpoint = config.endpoint.or(peer.config.endpoint);
        }
        let mut prefixes: Vec<IpNet> =
            std::mem::take(&mut config.allowed_ips).iter().map(IpNet::trunc).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        prefixes.shrink_to_fit();
        let Some(number) = known.or_else(|| self.add_peer(key)) else {
            tracing::error!("more peers than WireGuard can number");
            return;
        };
        let before = self.peer_mut(number).map(|peer| std::mem::take(&mut peer.prefixes));
        for net in before.into_iter().flatten() {
            if prefixes.binary_search(&net).is_err() {
                self.allowed.remove(net);
            }
        }
        for net in &prefixes {
            if let Some(before) = self.allowed.insert(*net, number)
                && before != number
                && let Some(other) = self.peer_mut(before)
                && let Ok(at) = other.prefixes.binary_search(net)
            {
                other.prefixes.remove(at);
            }
        }
        if let Some(peer) = self.peer_mut(number) {
            peer.prefixes = prefixes;
            peer.set(config, now);
        }
        self.keep_deadline(number as usize);
    }

    /// Removes a peer; false when there was none.
    pub(crate) fn remove_peer(&mut self, key: &PublicKey) -> bool {
        let Some(number) = self.keys.remove(key) else { return false };
        self.identity.iter().for_each(|identity| identity.forget(key));
        let peer = self.peers.get_mut(number as usize).and_then(Option::take);
        if let Some(queued) = peer.as_ref().and_then(|peer| peer.queued_at) {
            self.deadlines.forget(number, queued);
        }
        for net in peer.into_iter().flat_map(|peer| peer.prefixes) {
            self.allowed.remove(net);
        }
        self.free.push(number);
        true
    }

    /// The keys of all peers.
    pub(crate) fn keys(&self) -> Vec<PublicKey> {
        self.keys.keys().copied().collect()
    }

    /// What can be said about one peer.
    pub(crate) fn status(&self, key: &PublicKey, now: Instant) -> Option<PeerStatus> {
        self.keys.get(key).and_then(|number| self.peer(*number)).map(|peer| peer.status(now))
    }

    /// What can be said about the peers behind `after`, none for all, in the order of their keys.
    pub(crate) fn statuses(
        &self,
        after: Option<PublicKey>,
        now: Instant,
    ) -> impl Iterator<Item = PeerStatus> {
        let behind = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let peers = self.keys.range(behind).filter_map(|(_, number)| self.peer(*number));
        peers.map(move |peer| peer.status(now))
    }

    /// When the last handshake with a peer was completed.
    pub(crate) fn completed_at(&self, key: &PublicKey) -> Option<Instant> {
        self.keys.get(key).and_then(|number| self.peer(*number))?.completed_at()
    }

    /// What became of the handshake messages that came.
    pub(crate) fn handshakes(&self) -> HandshakeCounts {
        self.handshakes
    }

    /// Has a session with a peer as if both had shaken hands, which takes a fuzzer longer than
    /// all the rest.
    pub(super) fn begin_session(&mut self, key: &PublicKey, session: Session, now: Instant) {
        if let Some(number) = self.keys.get(key).copied()
            && let Some(peer) = self.peer_mut(number)
        {
            peer.begin(session, now);
            self.keep_deadline(number as usize);
        }
    }

    /// Whether there is a session to send with.
    #[cfg(test)]
    fn has_session(&mut self, key: &PublicKey, now: Instant) -> bool {
        let number = self.keys.get(key).copied();
        number.and_then(|number| self.peer_mut(number)).is_some_and(|peer| peer.can_send(now))
    }

    /// Whose prefix `net` is.
    #[cfg(test)]
    pub(crate) fn owner(&self, net: IpNet) -> Option<PublicKey> {
        let mut peers = self.peers.iter().flatten();
        peers.find(|peer| peer.prefixes.contains(&net)).map(|peer| peer.public_key)
    }

    /// Shakes hands with a peer anew, now and with short pauses: data does not pass, and it may
    /// have lost its session. Goes out with the next [`Engine::timers`].
    pub(crate) fn renew(&mut self, key: &PublicKey, now: Instant) {
        if let Some(number) = self.keys.get(key).copied()
            && let Some(peer) = self.peer_mut(number)
        {
            peer.hurry(now);
            self.keep_deadline(number as usize);
        }
    }

    /// Does what is due: answers to handshakes, handshakes, keepalives, the end of sessions. Of so
    /// many peers at a time that what comes from the network is not kept waiting; there may be more
    /// to do at once.
    pub(crate) fn timers<N: Network>(&mut self, outbox: &mut Outbox<N>, now: Instant) {
        self.answer_some(outbox, now);
        for _ in 0..MOST_DUE {
            let Some((number, at)) = self.deadlines.pop(now) else { return };
            let number = number as usize;
            let Some(peer) = self.peers.get_mut(number).and_then(Option::as_mut) else { continue };
            if peer.queued_at != Some(at) {
                continue;
            }
            peer.queued_at = None;
            let due = peer.expire(now);
            if due.initiate {
                self.initiate(number, outbox, now);
            }
            if due.keepalive {
                self.keepalive(number, outbox, now);
            }
            self.keep_deadline(number);
        }
    }

    /// From when on [`Engine::timers`] may have something to do.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        match self.initiations.is_empty() {
            true => self.deadlines.next(),
            false => Some(self.start.now),
        }
    }

    /// Sends a first message, if anybody knows where to.
    fn initiate<N: Network>(&mut self, number: usize, outbox: &mut Outbox<N>, now: Instant) {
        let stamp = self.stamp(now);
        let Some(peer) = self.peers.get_mut(number).and_then(Option::as_mut) else { return };
        let Some(way) = peer.way() else { return };
        let Some(identity) = &self.identity else { return };
        let datagram = peer.initiate(identity, &stamp, now);
        wipe_stack();
        if let Some(datagram) = datagram {
            peer.tx_bytes += datagram.len() as u64;
            outbox.push(way, &datagram);
        }
    }

    /// A timestamp later than every one before, also when a peer is called twice in an instant.
    fn stamp(&mut self, now: Instant) -> Timestamp {
        let since = self.start.wall + now.saturating_duration_since(self.start.now);
        let stamp = since.max(self.last_stamp + Duration::from_nanos(1));
        self.last_stamp = stamp;
        let mut bytes = Timestamp::default();
        let (seconds, nanos) = bytes.split_at_mut(8);
        seconds.copy_from_slice(&(TAI64_BASE + stamp.as_secs()).to_be_bytes());
        nanos.copy_from_slice(&stamp.subsec_nanos().to_be_bytes());
        bytes
    }

    /// Has [`Engine::timers`] called in time for a peer.
    fn keep_deadline(&mut self, number: usize) {
        if let Some(peer) = self.peers.get_mut(number).and_then(Option::as_mut)
            && let Ok(key) = u32::try_from(number)
        {
            peer.queued_at = self.deadlines.set(key, peer.queued_at, peer.timers.due_at());
        }
    }

    fn peer(&self, number: u32) -> Option<&Peer> {
        self.peers.get(number as usize)?.as_deref()
    }

    fn peer_mut(&mut self, number: u32) -> Option<&mut Peer> {
        self.peers.get_mut(number as usize)?.as_deref_mut()
    }

    fn add_peer(&mut self, key: PublicKey) -> Option<u32> {
        let new = u32::try_from(self.peers.len()).ok().filter(|_| self.peers.len() < MOST_PEERS);
        let number = self.free.pop().or(new)?;
        let peer = Box::new(Peer::new(key, number, self.start.seed, self.budget.clone()));
        match self.peers.get_mut(number as usize) {
            Some(place) => *place = Some(peer),
            None => self.peers.push(Some(peer)),
        }
        self.keys.insert(key, number);
        self.identity.iter().for_each(|identity| identity.know(&key));
        Some(number)
    }
}

#[cfg(test)]
mod tests;
