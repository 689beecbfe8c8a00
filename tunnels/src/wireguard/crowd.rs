//! Many devices in one process: the other side of an edge in tests and benches of its load.
//!
//! Each is a whole engine with a key and addresses of its own; they have one UDP socket together
//! and no links. Datagrams of a device go out from its address, which must be a local one of this
//! network namespace, and those to it come to it. Nothing is shared between what is measured and
//! this but the machine.
//!
//! Fails: making the socket or waiting, for the caller to report.

use super::deadlines::Deadlines;
use super::engine::{Engine, Start};
use super::inner::checksum::Sum;
use super::inner::join::Offers;
use super::key::PrivateKey;
use super::memory::{self, Pages, Places};
use super::outbox::{Fragments, Network, Outbox, Run, Way};
use super::peer::PeerConfig;
use super::port::{Inbox, Port, SLOT_BYTES};
use super::sys::MOST_MESSAGES;
use super::wire::Wire;
use crate::wake::{Deadline, wait};
use holdfast_api::tunnel::PublicKey;
use nix::poll::{PollFd, PollFlags};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Devices whose timers are run before the network has its turn: few, for an answer that waits too
/// long is an answer to a call that was made again.
const MOST_DUE: usize = 4;
const IP_HEADER_BYTES: usize = 20;
const UDP_HEADER_BYTES: usize = 8;
const UDP: u8 = 17;

/// Where a crowd lives. Device `n` has the first address of each kind, plus `n`.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The edge's key.
    pub edge: PublicKey,
    /// Where it is.
    pub endpoint: SocketAddr,
    /// Its address inside the tunnels, and the port that packets are sent to.
    pub inside: (Ipv4Addr, u16),
    /// The first address outside.
    pub first_outer: Ipv4Addr,
    /// The first address inside.
    pub first_inner: Ipv4Addr,
}

/// What came through the tunnels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Packets.
    pub packets: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
}

struct Member {
    engine: Engine,
    key: PublicKey,
    outer: IpAddr,
    inner: Ipv4Addr,
    queued_at: Option<Instant>,
    completed_at: Option<Instant>,
}

/// The devices.
pub struct Crowd {
    place: Place,
    members: Vec<Member>,
    port: Arc<Port>,
    inbox: Inbox,
    outbox: Outbox<Voice>,
    deadlines: Deadlines,
    arrived: Arrived,
}

/// Sends from the address of whoever speaks, as long as it was not answered there.
struct Voice {
    wire: Wire,
    from: Option<IpAddr>,
}

impl Network for Voice {
    fn send(&mut self, memory: &[u8], runs: &[Run]) {
        let from = |run: &Run| Way { from: run.way.from.or(self.from), ..run.way };
        let runs: Vec<Run> = runs.iter().map(|run| run.by(from(run))).collect();
        self.wire.send(memory, &runs);
    }
}

impl Crowd {
    /// `count` devices that know the edge, in the calling thread's network namespace. They are
    /// silent until they are told something.
    ///
    /// # Errors
    /// There is no socket, or no randomness for keys.
    pub fn new(count: u32, place: Place) -> io::Result<Self> {
        let port = Arc::new(Port::open(0, 0)?);
        let now = Instant::now();
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let member = |n: u32| -> io::Result<Member> {
            let private = PrivateKey::generate().map_err(io::Error::other)?;
            let (key, start) = (private.public(), Start { now, wall, seed: n.into() });
            let mut engine = Engine::new(private, 1000, Offers::default(), start);
            let config = PeerConfig {
                endpoint: Some(place.endpoint),
                allowed_ips: [IpAddr::V4(place.inside.0).into()].into(),
                ..PeerConfig::default()
            };
            engine.set_peer(place.edge, config, now);
            let at = |first: Ipv4Addr| Ipv4Addr::from(first.to_bits().wrapping_add(n));
            Ok(Member {
                engine,
                key,
                outer: at(place.first_outer).into(),
                inner: at(place.first_inner),
                queued_at: None,
                completed_at: None,
            })
        };
        let (slots, _) = memory::take(&[SLOT_BYTES; MOST_MESSAGES], Pages::Usual)?;
        Ok(Crowd {
            place,
            members: (0..count).map(member).collect::<io::Result<_>>()?,
            inbox: Inbox::new(slots),
            outbox: Outbox::alone(Voice { wire: Wire::new(Arc::clone(&port)), from: None }),
            port,
            deadlines: Deadlines::default(),
            arrived: Arrived::default(),
        })
    }

    /// Their keys and addresses inside, in their order.
    pub fn members(&self) -> impl Iterator<Item = (PublicKey, Ipv4Addr)> {
        self.members.iter().map(|member| (member.key, member.inner))
    }

    /// Has device `n` shake hands, now and again until it is answered.
    pub fn call(&mut self, n: usize) {
        if let Some(member) = self.members.get_mut(n) {
            member.engine.renew(&self.place.edge, Instant::now());
            self.keep_deadline(n);
        }
    }

    /// Has device `n` send `count` datagrams of UDP of so many bytes, headers included, to the edge's
    /// address inside. They leave at the latest with the next [`Crowd::run`].
    pub fn send(&mut self, n: usize, count: usize, bytes: usize) {
        let now = Instant::now();
        let Some(member) = self.members.get_mut(n) else { return };
        let packet = datagram(member.inner, self.place.inside, bytes);
        self.outbox.network.from = Some(member.outer);
        for _ in 0..count {
            member.engine.send(&packet, Fragments::Allowed, &mut self.outbox, now);
        }
        self.keep_deadline(n);
    }

    /// What came through the tunnels until now.
    pub fn arrived(&self) -> Arrived {
        self.arrived
    }

    /// Does what there is to do, and waits for it no longer than `patience`. Gives who completed
    /// a handshake.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    pub fn run(&mut self, patience: Duration) -> io::Result<Vec<usize>> {
        let now = Instant::now();
        self.outbox.network.wire.begin_turn(now);
        self.outbox.flush();
        let until = now + patience;
        let until = self.deadlines.next().map_or(until, |at| at.min(until));
        let mut fds = [PollFd::new(self.port.as_fd(), PollFlags::POLLIN)];
        wait(&mut fds, Deadline::at(Some(until)))?;
        let mut completed = Vec::new();
        if fds[0].any().unwrap_or(true) {
            self.receive(&mut completed);
        }
        let now = Instant::now();
        for _ in 0..MOST_DUE {
            let Some((n, at)) = self.deadlines.pop(now) else { break };
            let n = n as usize;
            let Some(member) = self.members.get_mut(n) else { continue };
            if member.queued_at != Some(at) {
                continue;
            }
            member.queued_at = None;
            self.outbox.network.from = Some(member.outer);
            member.engine.timers(&mut self.outbox, now);
            self.outbox.flush();
            self.keep_deadline(n);
        }
        Ok(completed)
    }

    fn receive(&mut self, completed: &mut Vec<usize>) {
        self.inbox.receive(&self.port);
        let now = Instant::now();
        let mut came = std::mem::take(&mut self.inbox.datagrams);
        for (datagrams, letters) in &mut came {
            let Some(n) = self.number(datagrams.at) else { continue };
            let Some(member) = self.members.get_mut(n) else { continue };
            let arrived = &mut self.arrived;
            let mut take = |packet: &[u8]| {
                arrived.packets += 1;
                arrived.bytes += packet.len() as u64;
                true
            };
            let slots = &mut self.inbox.slots;
            member.engine.sort(slots, datagrams, letters, now);
            letters.open(slots.at_mut(datagrams.range.clone()).unwrap_or_default());
            let came = (&*datagrams, &*letters);
            member.engine.take(slots, came, &mut self.outbox, &mut take, now);
            let at = member.engine.completed_at(&self.place.edge);
            if at != member.completed_at {
                member.completed_at = at;
                completed.push(n);
            }
            self.keep_deadline(n);
        }
        self.inbox.datagrams = came;
        self.outbox.flush();
    }

    /// Whose address this is.
    fn number(&self, at: Option<IpAddr>) -> Option<usize> {
        let IpAddr::V4(at) = at?.to_canonical() else { return None };
        let number = at.to_bits().checked_sub(self.place.first_outer.to_bits())?;
        usize::try_from(number).ok()
    }

    fn keep_deadline(&mut self, n: usize) {
        if let Some(member) = self.members.get_mut(n)
            && let Ok(number) = u32::try_from(n)
        {
            let due_at = member.engine.due_at();
            member.queued_at = self.deadlines.set(number, member.queued_at, due_at);
        }
    }
}

/// A datagram of UDP without a checksum, which IPv4 allows (RFC 768).
fn datagram(from: Ipv4Addr, (to, port): (Ipv4Addr, u16), bytes: usize) -> Vec<u8> {
    let bytes = bytes.max(IP_HEADER_BYTES + UDP_HEADER_BYTES);
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    let [total, udp] = [length(bytes), length(bytes - IP_HEADER_BYTES)];
    let mut packet = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, UDP, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    let checksum = Sum::default().add(&packet).checksum().to_be_bytes();
    packet[10..12].copy_from_slice(&checksum);
    for part in [port.to_be_bytes(), port.to_be_bytes(), udp, [0; 2]] {
        packet.extend(part);
    }
    packet.resize(bytes, 0);
    packet
}
