//! Many sessions: which one a packet belongs to (RFC 5880 §6.3), and whose timer is next.

use super::packet::{Diag, PACKET_BYTES, Packet, ParseError};
use super::session::{Change, Session, Settings};
use crate::random::Random;
use holdfast_api::tunnel::BfdState;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// A link that packets come in on, as the caller numbers them.
pub type LinkId = u32;

/// Why a packet was discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Discard {
    /// The bytes are no usable packet.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// RFC 5881 §5: whoever is not on the link has a smaller TTL.
    #[error("a TTL of {0} is not 255: the packet was routed")]
    Ttl(u8),
    /// It names a session that we do not have.
    #[error("no session has the discriminator {0}")]
    UnknownDiscriminator(u32),
    /// It names none, and no session is with its sender.
    #[error("no session is with {0}")]
    UnknownPeer(IpAddr),
    /// It names a session that is with somebody else or on another link.
    #[error("the session is not with {0}, or not on this link")]
    WrongPeer(IpAddr),
}

/// A packet to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outgoing {
    /// Over which link.
    pub link: LinkId,
    /// To whom.
    pub to: IpAddr,
    /// What.
    pub bytes: [u8; PACKET_BYTES],
}

/// What can be said about one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Its state.
    pub state: BfdState,
    /// Why it last changed.
    pub diag: Diag,
    /// When it last changed.
    pub since: Instant,
    /// How long silence lasts until the peer counts as gone; none before it was heard.
    pub detection_time: Option<Duration>,
}

#[derive(Debug)]
struct Entry<K> {
    key: K,
    link: LinkId,
    peer: IpAddr,
    session: Session,
    wake: Option<Instant>,
}

/// Sessions by a key of the caller's.
#[derive(Debug)]
pub struct Sessions<K> {
    /// By our discriminator.
    entries: BTreeMap<u32, Entry<K>>,
    keys: BTreeMap<K, u32>,
    peers: BTreeMap<(LinkId, IpAddr), u32>,
    timers: BTreeSet<(Instant, u32)>,
    random: Random,
}

impl<K: Ord + Clone> Sessions<K> {
    /// None yet. `seed` drives discriminators and jitter.
    pub fn new(seed: u64) -> Self {
        Sessions {
            entries: BTreeMap::new(),
            keys: BTreeMap::new(),
            peers: BTreeMap::new(),
            timers: BTreeSet::new(),
            random: Random::new(seed),
        }
    }

    /// Adds a session with `peer` on `link`. One with the same key on the same link with the
    /// same peer only takes the new settings and is not interrupted; any other of this key, or
    /// with this peer, is replaced.
    pub fn insert(&mut self, key: K, link: LinkId, peer: IpAddr, settings: Settings, now: Instant) {
        if let Some(id) = self.keys.get(&key).copied()
            && let Some(entry) = self.entries.get_mut(&id)
            && (entry.link, entry.peer) == (link, peer)
        {
            entry.session.set(settings);
            self.reschedule(id);
            return;
        }
        self.remove(&key);
        if let Some(other) = self.peers.get(&(link, peer)).and_then(|id| self.entries.get(id)) {
            let other = other.key.clone();
            self.remove(&other);
        }
        let discriminator = self.free_discriminator();
        let id = discriminator.get();
        let session = Session::new(settings, discriminator, self.random.next(), now);
        self.keys.insert(key.clone(), id);
        self.peers.insert((link, peer), id);
        self.entries.insert(id, Entry { key, link, peer, session, wake: None });
        self.reschedule(id);
    }

    /// Forgets a session without a word to its peer; false when there was none.
    pub fn remove(&mut self, key: &K) -> bool {
        let Some(id) = self.keys.remove(key) else { return false };
        if let Some(entry) = self.entries.remove(&id) {
            self.peers.remove(&(entry.link, entry.peer));
            if let Some(at) = entry.wake {
                self.timers.remove(&(at, id));
            }
        }
        true
    }

    /// Holds a session down, or lets it go. The peer is told by the next [`Sessions::run`].
    pub fn hold_down(&mut self, key: &K, hold: bool, now: Instant) -> Option<Change> {
        let id = *self.keys.get(key)?;
        let change = self.entries.get_mut(&id)?.session.hold_down(hold, now);
        self.reschedule(id);
        change
    }

    /// What can be said about a session.
    pub fn status(&self, key: &K) -> Option<Status> {
        self.keys.get(key).and_then(|id| self.entries.get(id)).map(Entry::status)
    }

    /// All sessions, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, Status)> {
        self.keys
            .iter()
            .filter_map(|(key, id)| self.entries.get(id).map(|entry| (key, entry.status())))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Takes in what arrived on `link` from `from` with this TTL. Call [`Sessions::run`] after
    /// it: an answer may be due.
    ///
    /// # Errors
    /// The packet was discarded and changed nothing.
    pub fn receive(
        &mut self,
        link: LinkId,
        from: IpAddr,
        ttl: u8,
        bytes: &[u8],
        now: Instant,
    ) -> Result<Option<(K, Change)>, Discard> {
        if ttl != 255 {
            return Err(Discard::Ttl(ttl));
        }
        let packet = Packet::parse(bytes)?;
        let id = match packet.your_discriminator {
            0 => *self.peers.get(&(link, from)).ok_or(Discard::UnknownPeer(from))?,
            id => id,
        };
        let entry = self.entries.get_mut(&id).ok_or(Discard::UnknownDiscriminator(id))?;
        if (entry.link, entry.peer) != (link, from) {
            return Err(Discard::WrongPeer(from));
        }
        let change = entry.session.receive(&packet, now);
        let told = change.map(|change| (entry.key.clone(), change));
        self.reschedule(id);
        Ok(told)
    }

    /// Does what is due at `now`: puts packets into `send` and changes of state into `told`.
    pub fn run(
        &mut self,
        now: Instant,
        mut send: impl FnMut(Outgoing),
        told: &mut Vec<(K, Change)>,
    ) {
        // Each turn moves the entry's timer; one that would not move must not hold us here.
        let mut turns = self.timers.len() + 1;
        while turns > 0
            && let Some((at, id)) = self.timers.first().copied()
            && at <= now
        {
            turns -= 1;
            let Some(entry) = self.entries.get_mut(&id) else {
                self.timers.remove(&(at, id));
                continue;
            };
            if let Some(change) = entry.session.tick(now) {
                told.push((entry.key.clone(), change));
            }
            while let Some(packet) = entry.session.transmit(now) {
                send(Outgoing { link: entry.link, to: entry.peer, bytes: packet.emit() });
            }
            self.reschedule(id);
        }
    }

    /// When [`Sessions::run`] is due next.
    pub fn wake_at(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn reschedule(&mut self, id: u32) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let wake = entry.session.wake_at();
        let before = std::mem::replace(&mut entry.wake, wake);
        if before == wake {
            return;
        }
        if let Some(at) = before {
            self.timers.remove(&(at, id));
        }
        if let Some(at) = wake {
            self.timers.insert((at, id));
        }
    }

    fn free_discriminator(&mut self) -> NonZeroU32 {
        loop {
            // Unpredictable to whoever does not know the seed, so that nobody hits a session
            // of an earlier start by accident.
            let [a, b, c, d, ..] = self.random.next().to_be_bytes();
            if let Some(id) = NonZeroU32::new(u32::from_be_bytes([a, b, c, d]))
                && !self.entries.contains_key(&id.get())
            {
                return id;
            }
        }
    }
}

impl<K> Entry<K> {
    fn status(&self) -> Status {
        Status {
            state: self.session.state(),
            diag: self.session.diag(),
            since: self.session.since(),
            detection_time: self.session.detection_time(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bfd::Role;
    use holdfast_api::tunnel::BfdTimers;

    fn settings() -> Settings {
        Settings::new(BfdTimers::default(), Role::Active).unwrap()
    }

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    /// An edge with sessions towards `nodes`, each of which has one towards it.
    struct World {
        edge: Sessions<u8>,
        nodes: Vec<Sessions<&'static str>>,
        now: Instant,
    }

    impl World {
        fn new(nodes: u8) -> Self {
            let now = Instant::now();
            let mut edge = Sessions::new(1);
            let nodes = (0..nodes)
                .map(|n| {
                    edge.insert(n, 5, ip(n), Settings { role: Role::Passive, ..settings() }, now);
                    let mut node = Sessions::new(u64::from(n) + 100);
                    node.insert("edge", 0, ip(200), settings(), now);
                    node
                })
                .collect();
            World { edge, nodes, now }
        }

        fn step(&mut self, lost: impl Fn(u8) -> bool) {
            let wakes = self.nodes.iter().filter_map(Sessions::wake_at).chain(self.edge.wake_at());
            self.now = self.now.max(wakes.min().unwrap());
            let (mut to_edge, mut to_nodes, now) = (Vec::new(), Vec::new(), self.now);
            for (node, n) in self.nodes.iter_mut().zip(0u8..) {
                node.run(now, |out| to_edge.push((n, out)), &mut Vec::new());
            }
            self.edge.run(now, |out| to_nodes.push(out), &mut Vec::new());
            for (n, out) in to_edge {
                if !lost(n) {
                    self.edge.receive(5, ip(n), 255, &out.bytes, now).unwrap();
                }
            }
            for out in to_nodes {
                let IpAddr::V4(to) = out.to else { panic!() };
                let n = to.octets()[3];
                if !lost(n) {
                    self.nodes[usize::from(n)].receive(0, ip(200), 255, &out.bytes, now).unwrap();
                }
            }
        }

        fn up(&self) -> Vec<u8> {
            self.edge.iter().filter(|(_, s)| s.state == BfdState::Up).map(|(k, _)| *k).collect()
        }
    }

    #[test]
    fn an_edge_ends_many_sessions_and_loses_only_the_one_that_is_cut() {
        let mut world = World::new(50);
        let start = world.now;
        while world.up().len() < 50 {
            world.step(|_| false);
        }
        assert!(world.now - start < Duration::from_millis(10), "no timer is waited for");
        let settled = world.now + Duration::from_secs(2);
        while world.now < settled {
            world.step(|_| false);
        }
        let cut = world.now;
        while world.up().len() == 50 {
            world.step(|n| n == 7);
        }
        assert!(!world.up().contains(&7) && world.up().len() == 49);
        assert!(world.now - cut <= Duration::from_millis(300));
    }

    #[test]
    fn strangers_and_routed_packets_are_discarded_for_the_right_reason() {
        let now = Instant::now();
        let mut sessions = Sessions::new(3);
        sessions.insert("a", 1, ip(1), settings(), now);
        let mut peer = Session::new(settings(), NonZeroU32::MIN, 1, now);
        let hello = peer.transmit(now).unwrap();
        let bytes = hello.emit();
        assert_eq!(sessions.receive(1, ip(1), 254, &bytes, now), Err(Discard::Ttl(254)));
        assert_eq!(sessions.receive(1, ip(2), 255, &bytes, now), Err(Discard::UnknownPeer(ip(2))));
        assert_eq!(sessions.receive(2, ip(1), 255, &bytes, now), Err(Discard::UnknownPeer(ip(1))));
        let id = *sessions.entries.keys().next().unwrap();
        let named = Packet { your_discriminator: id, ..hello }.emit();
        assert_eq!(sessions.receive(1, ip(2), 255, &named, now), Err(Discard::WrongPeer(ip(2))));
        let other = Packet { your_discriminator: id ^ 1, ..hello }.emit();
        let unknown = Err(Discard::UnknownDiscriminator(id ^ 1));
        assert_eq!(sessions.receive(1, ip(1), 255, &other, now), unknown);
        assert!(sessions.receive(1, ip(1), 255, &bytes, now).unwrap().is_some());
    }

    #[test]
    fn the_same_session_again_is_not_interrupted() {
        let mut world = World::new(1);
        while world.up().is_empty() {
            world.step(|_| false);
        }
        let faster = Settings { required_min_rx: Duration::from_millis(20), ..settings() };
        world.edge.insert(0, 5, ip(0), faster, world.now);
        assert_eq!(world.up(), [0]);
        world.edge.insert(0, 6, ip(0), faster, world.now);
        assert!(world.up().is_empty(), "another link is another session");
        assert!(world.edge.remove(&0) && !world.edge.remove(&0));
        assert!(
            world.edge.is_empty() && world.edge.timers.is_empty() && world.edge.peers.is_empty()
        );
    }
}
