//! One link with its sessions: over sockets, or through a WireGuard device of this process.
//!
//! Who drives the sessions differs. Those over sockets are driven by the service's thread.
//! Those on a device are driven by the device's own thread, as its [`Resident`]: it is awake
//! when one of their packets came, and answers it without waking anybody else. Changes of
//! state always go to the service's thread, which also looks whether the device's thread still
//! comes: one that stands still would never notice that nobody answers. It waits for nobody
//! while it looks: where the sessions themselves are kept from it, it tells what it knows of them.
//!
//! Fails: a packet that cannot be sent is logged at DEBUG and counts as lost. When a device
//! ends, its sessions are held down, so that nobody trusts what nobody watches.

use super::datagram::{LONGEST, unwrap, wrap};
use super::path_mtu::PathMtu;
use super::session::Settings;
use super::sessions::{LinkId, Outgoing, Sessions, Status};
use super::socket::{CONTROL_PORT, LinkSocket, SOURCE_PORTS};
use super::watch::{Told, UNATTENDED, Watch};
use crate::path_mtu::packet::PORT as PATH_MTU_PORT;
use crate::path_mtu::{Phase, Search};
use crate::wake::Wake;
use crate::wireguard::{Fragments, Resident, WeakDevice};
use holdfast_api::tunnel::BfdState;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

/// Attempts at the lock before the service's thread goes on with other links: whoever has it has it
/// for microseconds, unless it has to wait for a processor.
const MOST_ATTEMPTS: u32 = 64;

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
    /// What the follower is still to be told.
    told: Told<K>,
    path_mtu: PathMtu<K>,
}

pub(super) struct Link<K> {
    id: LinkId,
    carrier: Carrier,
    /// Taken last of all locks: whoever holds it waits for nothing else, neither a lock nor a packet
    /// that goes out.
    state: Mutex<State<K>>,
    /// Of the service's thread alone.
    watch: Mutex<Watch<K>>,
    is_closed: AtomicBool,
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
        let state = State { sessions, told: Told::default(), path_mtu: PathMtu::new() };
        let (state, watch) = (Mutex::new(state), Mutex::new(Watch::default()));
        Link { id, carrier, state, watch, is_closed: AtomicBool::new(false), service, seed }
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
        state.told.changes.extend(change.map(|change| (key.clone(), change)));
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

    /// Takes in what came over the sockets if they are `ready`, and does what is due; of a link
    /// that the device's thread drives, only what it left undone. What the follower is to be told
    /// goes into `told`. When to call it again is the answer.
    pub(super) fn serve(
        &self,
        ready: bool,
        control: &mut [u8],
        now: Instant,
        told: &mut Told<K>,
    ) -> Option<Instant> {
        if self.is_closed() {
            return None;
        }
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut state) = self.try_lock() else {
            return Some(watch.locked_out(self.id, now, told));
        };
        let due = match &self.carrier {
            Carrier::Sockets(socket) => {
                if ready {
                    state.receive_all(self.id, socket, control, now);
                }
                let State { sessions, told, .. } = &mut *state;
                let send = |out: Outgoing| log(self.id, &out, socket.send(out.to, &out.bytes));
                sessions.run(now, send, &mut told.changes);
                sessions.wake_at()
            }
            Carrier::Device(_) => {
                state.look_after(self.id, now);
                state.sessions.wake_at().map(|due| due + UNATTENDED)
            }
        };
        let State { sessions, told: new, .. } = &mut *state;
        watch.let_in(sessions, new);
        told.append(new);
        due
    }

    fn farewell(&self, key: &K, mut send: impl FnMut(&Outgoing)) -> bool {
        let now = Instant::now();
        let State { sessions, told, path_mtu, .. } = &mut *self.lock();
        path_mtu.forget(key);
        if sessions.hold_down(key, true, now).is_some() {
            // This may turn up something about other sessions as well.
            sessions.run(now, |out| send(&out), &mut told.changes);
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
    /// Ends all sessions without a word. Waits for nobody.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// A panic elsewhere leaves the sessions whole: they are never half changed.
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None where somebody else has it for longer than it takes.
    fn try_lock(&self) -> Option<MutexGuard<'_, State<K>>> {
        for _ in 0..MOST_ATTEMPTS {
            match self.state.try_lock() {
                Ok(state) => return Some(state),
                Err(TryLockError::Poisoned(state)) => return Some(state.into_inner()),
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
            }
        }
        None
    }
}

impl<K: Ord + Clone> State<K> {
    fn receive(&mut self, link: LinkId, from: IpAddr, ttl: u8, bytes: &[u8], now: Instant) {
        match self.sessions.receive(link, from, ttl, bytes, now) {
            Ok(change) => self.told.changes.extend(change),
            Err(reason) => tracing::debug!(link, %from, %reason, "BFD packet discarded"),
        }
    }

    /// Has time pass for sessions that nobody drives: their peers are silent, since nobody listens.
    /// Nothing is sent. When their driver comes back they go on by themselves.
    fn look_after(&mut self, link: LinkId, now: Instant) {
        let is_left_alone = |due: Instant| now >= due + UNATTENDED;
        if !self.sessions.wake_at().is_some_and(is_left_alone) {
            return;
        }
        let before = self.told.changes.len();
        self.sessions.run(now, |_| {}, &mut self.told.changes);
        if self.told.changes.len() > before {
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
        if self.is_closed() {
            return false;
        }
        let mut state = self.lock();
        if datagram.port == PATH_MTU_PORT {
            // RFC 5881 §5 for these as well: nobody but the other end of the tunnel.
            return datagram.ttl == 255 && state.path_mtu.receive(&datagram, now);
        }
        state.receive(self.id, datagram.from, datagram.ttl, datagram.payload, now);
        true
    }

    fn run(&self, now: Instant, send: &mut dyn FnMut(&[u8], Fragments)) -> Option<Instant> {
        let Carrier::Device(on) = &self.carrier else { return None };
        if self.is_closed() {
            return None;
        }
        let mut outgoing: Vec<Outgoing> = Vec::new();
        let mut whole: Vec<Vec<u8>> = Vec::new();
        let mut state = self.lock();
        let State { sessions, told, path_mtu } = &mut *state;
        sessions.run(now, |out| outgoing.push(out), &mut told.changes);
        let session = path_mtu.key().and_then(|key| sessions.status(key));
        let up = session.is_some_and(|status| status.state == BfdState::Up);
        let new = path_mtu.run(on.local, up, now, |packet| whole.push(packet.to_vec()));
        told.path_mtus.extend(new);
        let is_news = !told.is_empty();
        let due = [sessions.wake_at(), path_mtu.wake_at()].into_iter().flatten().min();
        // Sending may take until the network has room: nobody shall wait for that at the lock.
        drop(state);
        if is_news {
            self.service.wake();
        }
        for out in &outgoing {
            on.send(self.id, out, send);
        }
        for packet in &whole {
            send(packet, Fragments::Forbidden);
        }
        due
    }

    fn ended(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        let State { sessions, told, .. } = &mut *state;
        let keys: Vec<K> = sessions.iter().map(|(key, _)| key.clone()).collect();
        for key in keys {
            let change = sessions.hold_down(&key, true, now);
            told.changes.extend(change.map(|change| (key, change)));
        }
        drop(state);
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
mod tests;
