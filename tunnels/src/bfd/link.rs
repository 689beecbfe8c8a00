//! One link with its sessions: over sockets, or through a WireGuard device of this process.
//!
//! Who drives the sessions differs. Those over sockets are driven by the service's thread.
//! Those on a device are driven by the device's own thread, as its [`Resident`]: it is awake
//! when one of their packets came, and answers it without waking anybody else. Changes of
//! state always go to the service's thread, which also looks whether the device's thread still
//! comes: one that stands still would never notice that nobody answers.
//!
//! Fails: a packet that cannot be sent is logged at DEBUG and counts as lost. When a device
//! ends, its sessions are held down, so that nobody trusts what nobody watches.

use super::datagram::{LONGEST, unwrap, wrap};
use super::path_mtu::PathMtu;
use super::session::{Change, Settings};
use super::sessions::{LinkId, Outgoing, Sessions, Status};
use super::socket::{CONTROL_PORT, LinkSocket, SOURCE_PORTS};
use crate::path_mtu::packet::PORT as PATH_MTU_PORT;
use crate::path_mtu::{Phase, Search};
use crate::wake::Wake;
use crate::wireguard::{Fragments, Resident, WeakDevice};
use holdfast_api::tunnel::BfdState;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What is due for so long on a device was left alone: its thread stands still. Longer than any
/// thread waits for a processor, and the service's thread wakes about as seldom for it.
pub(super) const UNATTENDED: Duration = Duration::from_secs(1);

/// The way that packets take.
enum Carrier {
    Sockets(LinkSocket),
    Device(OnDevice),
}

/// A device, and who we are on it. Does not keep the device running.
struct OnDevice {
    device: WeakDevice,
    local: IpAddr,
    source_port: u16,
}

struct State<K> {
    sessions: Sessions<K>,
    /// Changes that the follower is still to be told.
    told: Vec<(K, Change)>,
    path_mtu: PathMtu<K>,
    path_mtus_told: Vec<(K, Option<u16>)>,
    closed: bool,
}

pub(super) struct Link<K> {
    id: LinkId,
    carrier: Carrier,
    /// Taken last of all locks: nothing else is locked by whoever holds it.
    state: Mutex<State<K>>,
    /// Wakes the thread of the service.
    service: Arc<Wake>,
    seed: u64,
}

impl<K: Ord + Clone> Link<K> {
    pub(super) fn over(id: LinkId, socket: LinkSocket, seed: u64, service: Arc<Wake>) -> Self {
        Self::new(id, Carrier::Sockets(socket), seed, service)
    }

    pub(super) fn on(
        id: LinkId,
        device: WeakDevice,
        local: IpAddr,
        seed: u64,
        service: Arc<Wake>,
    ) -> Self {
        let offset = u16::try_from(seed % SOURCE_PORTS.len() as u64).unwrap_or(0);
        let source_port = SOURCE_PORTS.start() + offset;
        Self::new(id, Carrier::Device(OnDevice { device, local, source_port }), seed, service)
    }

    fn new(id: LinkId, carrier: Carrier, seed: u64, service: Arc<Wake>) -> Self {
        let sessions = Sessions::new(seed);
        let state = Mutex::new(State {
            sessions,
            told: Vec::new(),
            path_mtu: PathMtu::new(),
            path_mtus_told: Vec::new(),
            closed: false,
        });
        Link { id, carrier, state, service, seed }
    }

    /// The sockets, when it has some: then the service's thread calls [`Link::serve`].
    pub(super) fn socket(&self) -> Option<&LinkSocket> {
        match &self.carrier {
            Carrier::Sockets(socket) => Some(socket),
            Carrier::Device(_) => None,
        }
    }

    pub(super) fn insert(&self, key: K, peer: IpAddr, settings: Settings) {
        self.lock().sessions.insert(key, self.id, peer, settings, Instant::now());
        self.stir();
    }

    pub(super) fn hold_down(&self, key: &K, hold: bool) {
        let mut state = self.lock();
        let change = state.sessions.hold_down(key, hold, Instant::now());
        state.told.extend(change.map(|change| (key.clone(), change)));
        drop(state);
        self.service.wake();
        self.stir();
    }

    /// Searches for the largest packet that passes to the peer of a session, up to `most` bytes; one
    /// search a link. Over sockets there is none.
    pub(super) fn search_path_mtu(&self, key: K, peer: IpAddr, most: u16) {
        if let Carrier::Device(_) = &self.carrier {
            let search = Search::new(most, self.seed, Instant::now());
            self.lock().path_mtu.begin(key, peer, search);
            self.stir();
        }
    }

    pub(super) fn path_mtu(&self, key: &K) -> Option<(Phase, Option<u16>)> {
        self.lock().path_mtu.status(key)
    }

    /// Forgets a session and tells its peer.
    pub(super) fn remove(&self, key: &K) -> bool {
        let removed = match &self.carrier {
            Carrier::Sockets(socket) => {
                self.farewell(key, |out| log(self.id, out, socket.send(out.to, &out.bytes)))
            }
            Carrier::Device(on) => {
                let mut packets = Vec::new();
                let mut send = |packet: &[u8], _| packets.push(packet.to_vec());
                let removed = self.farewell(key, |out| on.send(self.id, out, &mut send));
                on.device.send(packets);
                removed
            }
        };
        self.service.wake();
        self.stir();
        removed
    }

    /// Forgets a session without a word to its peer.
    pub(super) fn forget(&self, key: &K) -> bool {
        let mut state = self.lock();
        state.path_mtu.forget(key);
        state.sessions.remove(key)
    }

    pub(super) fn status(&self, key: &K) -> Option<Status> {
        self.lock().sessions.status(key)
    }

    pub(super) fn statuses(&self) -> Vec<(K, Status)> {
        self.lock().sessions.iter().map(|(key, status)| (key.clone(), status)).collect()
    }

    /// Hands over what the follower is to be told.
    pub(super) fn take_told(
        &self,
        into: &mut Vec<(K, Change)>,
        path_mtus: &mut Vec<(K, Option<u16>)>,
    ) {
        let mut state = self.lock();
        into.append(&mut state.told);
        path_mtus.append(&mut state.path_mtus_told);
    }

    /// Takes in what came over the sockets if they are `ready`, and does what is due; of a link
    /// that the device's thread drives, only what it left undone. When to call it again is the
    /// answer.
    pub(super) fn serve(&self, ready: bool, control: &mut [u8], now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        match &self.carrier {
            Carrier::Sockets(socket) => {
                if ready {
                    state.receive_all(self.id, socket, control, now);
                }
                let State { sessions, told, .. } = &mut *state;
                sessions.run(now, |out| log(self.id, &out, socket.send(out.to, &out.bytes)), told);
                sessions.wake_at()
            }
            Carrier::Device(_) => {
                state.look_after(self.id, now);
                state.sessions.wake_at().map(|due| due + UNATTENDED)
            }
        }
    }

    fn farewell(&self, key: &K, mut send: impl FnMut(&Outgoing)) -> bool {
        let now = Instant::now();
        let State { sessions, told, path_mtu, .. } = &mut *self.lock();
        path_mtu.forget(key);
        if sessions.hold_down(key, true, now).is_some() {
            // This may turn up something about other sessions as well.
            sessions.run(now, |out| send(&out), told);
        }
        sessions.remove(key)
    }

    /// Has the sessions looked at by the thread that drives them.
    fn stir(&self) {
        match &self.carrier {
            Carrier::Sockets(_) => self.service.wake(),
            Carrier::Device(on) => on.device.wake(),
        }
    }
}

impl<K> Link<K> {
    /// Ends all sessions without a word.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.told.clear();
    }

    /// A panic elsewhere leaves the sessions whole: they are never half changed.
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<K: Ord + Clone> State<K> {
    fn receive(&mut self, link: LinkId, from: IpAddr, ttl: u8, bytes: &[u8], now: Instant) {
        match self.sessions.receive(link, from, ttl, bytes, now) {
            Ok(change) => self.told.extend(change),
            Err(reason) => tracing::debug!(link, %from, %reason, "BFD packet discarded"),
        }
    }

    /// Has time pass for sessions that nobody drives: their peers are silent, since nobody listens.
    /// Nothing is sent. When their driver comes back they go on by themselves.
    fn look_after(&mut self, link: LinkId, now: Instant) {
        let is_left_alone = |due: Instant| now >= due + UNATTENDED;
        if self.closed || !self.sessions.wake_at().is_some_and(is_left_alone) {
            return;
        }
        let before = self.told.len();
        self.sessions.run(now, |_| {}, &mut self.told);
        if self.told.len() > before {
            tracing::error!(link, "the thread of a WireGuard device stands still");
        }
    }

    fn receive_all(&mut self, link: LinkId, socket: &LinkSocket, control: &mut [u8], now: Instant) {
        let mut buffer = [0; 256];
        // More than the sessions of one edge send between two turns; the rest waits for the next.
        for _ in 0..4096 {
            match socket.receive(&mut buffer, control) {
                Ok((from, ttl, bytes)) => self.receive(link, from, ttl, &buffer[..bytes], now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::debug!(link, %error, "BFD receive failed");
                    return;
                }
            }
        }
    }
}

impl<K: Ord + Clone + Send> Resident for Link<K> {
    fn receive(&self, packet: &[u8], now: Instant) -> bool {
        let Carrier::Device(on) = &self.carrier else { return false };
        let ours = unwrap(packet, &[CONTROL_PORT, PATH_MTU_PORT]);
        let Some(datagram) = ours.filter(|datagram| datagram.to == on.local) else {
            return false;
        };
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        if datagram.port == PATH_MTU_PORT {
            // RFC 5881 §5 for these as well: nobody but the other end of the tunnel.
            return datagram.ttl == 255 && state.path_mtu.receive(&datagram, now);
        }
        state.receive(self.id, datagram.from, datagram.ttl, datagram.payload, now);
        true
    }

    fn run(&self, now: Instant, send: &mut dyn FnMut(&[u8], Fragments)) -> Option<Instant> {
        let Carrier::Device(on) = &self.carrier else { return None };
        let State { sessions, told, path_mtu, path_mtus_told, closed } = &mut *self.lock();
        if *closed {
            return None;
        }
        sessions.run(now, |out| on.send(self.id, &out, send), told);
        let session = path_mtu.key().and_then(|key| sessions.status(key));
        let up = session.is_some_and(|status| status.state == BfdState::Up);
        let whole = |packet: &[u8]| send(packet, Fragments::Forbidden);
        path_mtus_told.extend(path_mtu.run(on.local, up, now, whole));
        if !told.is_empty() || !path_mtus_told.is_empty() {
            self.service.wake();
        }
        [sessions.wake_at(), path_mtu.wake_at()].into_iter().flatten().min()
    }

    fn ended(&self) {
        let now = Instant::now();
        let State { sessions, told, .. } = &mut *self.lock();
        let keys: Vec<K> = sessions.iter().map(|(key, _)| key.clone()).collect();
        for key in keys {
            let change = sessions.hold_down(&key, true, now);
            told.extend(change.map(|change| (key, change)));
        }
        self.service.wake();
    }
}

impl OnDevice {
    fn send(&self, link: LinkId, out: &Outgoing, send: &mut dyn FnMut(&[u8], Fragments)) {
        let mut buffer = [0; LONGEST];
        let ports = [self.source_port, CONTROL_PORT];
        match wrap(self.local, out.to, ports, &out.bytes, &mut buffer) {
            Some(packet) => send(packet, Fragments::Allowed),
            None => log(link, out, Err(io::Error::other("the addresses are of two families"))),
        }
    }
}

fn log(link: LinkId, out: &Outgoing, sent: io::Result<()>) {
    if let Err(error) = sent {
        tracing::debug!(link, to = %out.to, %error, "BFD packet not sent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bfd::Role;
    use crate::path_mtu::LEAST;
    use holdfast_api::tunnel::BfdTimers;

    const HERE: [u8; 4] = [10, 0, 0, 1];
    const THERE: [u8; 4] = [10, 0, 0, 2];

    fn link(local: [u8; 4]) -> Link<u8> {
        Link::on(1, WeakDevice::gone(), local.into(), 7, Arc::new(Wake::new().unwrap()))
    }

    fn settings() -> Settings {
        Settings::new(BfdTimers::default(), Role::Active).unwrap()
    }

    /// Two links on devices, joined by memory, until both sessions are up.
    fn up() -> (Link<u8>, Link<u8>) {
        let (here, there) = (link(HERE), link(THERE));
        here.insert(0, THERE.into(), settings());
        there.insert(0, HERE.into(), settings());
        let is_up = |link: &Link<u8>| link.status(&0).unwrap().state == BfdState::Up;
        for _ in 0..10 {
            for (from, to) in [(&here, &there), (&there, &here)] {
                let now = Instant::now();
                let mut sent: Vec<Vec<u8>> = Vec::new();
                from.run(now, &mut |packet, _| sent.push(packet.to_vec()));
                assert!(sent.iter().all(|packet| to.receive(packet, now)));
            }
        }
        assert!(is_up(&here) && is_up(&there));
        (here, there)
    }

    #[test]
    fn packets_of_others_are_not_taken() {
        let (here, there) = up();
        let mut sent = Vec::new();
        there.hold_down(&0, true);
        there.run(Instant::now(), &mut |packet, _| sent.push(packet.to_vec()));
        let bye = sent.first().unwrap();
        let now = Instant::now();
        assert!(!there.receive(bye, now), "to another address of ours");
        assert!(!here.receive(&bye[..27], now) && !here.receive(&[], now));
        assert!(here.receive(bye, now));
        here.close();
        assert!(!here.receive(bye, now), "nobody is there any more");
        assert_eq!(here.run(now, &mut |_, _| panic!("nothing is said")), None);
    }

    #[test]
    fn a_device_that_ends_takes_its_sessions_down() {
        let (here, _there) = up();
        let mut told = Vec::new();
        here.take_told(&mut told, &mut Vec::new());
        told.clear();
        here.ended();
        here.take_told(&mut told, &mut Vec::new());
        let changes: Vec<_> =
            told.iter().map(|(key, change)| (*key, change.from, change.to)).collect();
        assert_eq!(changes, [(0, BfdState::Up, BfdState::AdminDown)]);
        assert_eq!(here.status(&0).unwrap().state, BfdState::AdminDown);
        assert!(here.remove(&0) && !here.remove(&0));
    }

    /// Who is looked after by nobody is not up: BFD's own timers would run in the thread that
    /// stands still.
    #[test]
    fn a_device_that_stands_still_takes_its_sessions_down_and_brings_them_back() {
        let (here, there) = up();
        let mut told = Vec::new();
        here.take_told(&mut told, &mut Vec::new());
        told.clear();
        let due = here.lock().sessions.wake_at().unwrap();
        let soon = due + UNATTENDED / 2;
        assert_eq!(here.serve(false, &mut [], soon), Some(due + UNATTENDED));
        assert_eq!(here.status(&0).unwrap().state, BfdState::Up, "late is not dead");

        let late = here.serve(false, &mut [], due + UNATTENDED);
        assert!(late > Some(due + UNATTENDED), "looked after again");
        here.take_told(&mut told, &mut Vec::new());
        let changes: Vec<_> = told.iter().map(|(_, change)| (change.from, change.to)).collect();
        assert_eq!(changes, [(BfdState::Up, BfdState::Down)]);

        let mut now = due + UNATTENDED;
        let is_up = |link: &Link<u8>| link.status(&0).unwrap().state == BfdState::Up;
        for _ in 0..100 {
            now += Duration::from_millis(100);
            for (from, to) in [(&here, &there), (&there, &here)] {
                let mut sent: Vec<Vec<u8>> = Vec::new();
                from.run(now, &mut |packet, _| sent.push(packet.to_vec()));
                assert!(sent.iter().all(|packet| to.receive(packet, now)));
            }
        }
        assert!(is_up(&here) && is_up(&there));
        here.close();
        here.serve(false, &mut [], now + UNATTENDED * 10);
        assert!(is_up(&here), "nobody asks any more");
    }

    /// What is larger than the way between them takes vanishes.
    #[test]
    fn what_passes_between_two_links_is_found_and_told_once() {
        let (here, there) = up();
        here.search_path_mtu(0, THERE.into(), 1420);
        let mut now = Instant::now();
        let mut told = Vec::new();
        for _ in 0..600 {
            now += Duration::from_millis(50);
            for (from, to) in [(&here, &there), (&there, &here)] {
                let mut sent: Vec<(Vec<u8>, Fragments)> = Vec::new();
                from.run(now, &mut |packet, fragments| sent.push((packet.to_vec(), fragments)));
                for (packet, fragments) in sent {
                    assert_eq!(fragments == Fragments::Forbidden, packet.len() > 100);
                    if packet.len() <= 1340 {
                        assert!(to.receive(&packet, now));
                    }
                }
            }
            here.take_told(&mut Vec::new(), &mut told);
        }
        let (phase, mtu) = here.path_mtu(&0).unwrap();
        assert!(phase == Phase::Complete && (1337..=1340).contains(&mtu.unwrap()), "{mtu:?}");
        assert_eq!(told, [(0, Some(LEAST)), (0, mtu)]);
        assert_eq!(there.path_mtu(&0), None, "who answers does not search");
        here.remove(&0);
        assert_eq!(here.path_mtu(&0), None);
    }

    #[test]
    fn a_packet_of_another_family_is_not_sent() {
        let here = link(HERE);
        here.insert(0, "::1".parse().unwrap(), settings());
        let now = Instant::now();
        assert!(here.run(now, &mut |_, _| panic!("nothing is sent")) > Some(now));
    }
}
