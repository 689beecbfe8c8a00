//! Many sessions over several links, and a thread that tells a follower of their changes.
//!
//! Each link has its own sessions, behind its own short lock ([`super::link`]). The service's
//! thread owns the clock of those over sockets of the kernel; those on a WireGuard device of
//! this process are driven by the device's thread; ours looks about once a second whether it does.
//! Sessions and links are changed from any thread. Changes of state are handed to a
//! [`Follower`] *in the thread of the service* and without a lock, whoever noticed them.
//!
//! Whoever holds the lock of a link's sessions takes no other and sends nothing, and nobody takes it
//! while holding that of the list. The service's thread does not wait for it either: who stands still
//! with it would take the liveness of all other links along.
//!
//! Fails: opening a link's sockets, for the caller to report. A packet that cannot be sent is
//! logged at DEBUG and counts as lost. When the kernel cannot wait for all sockets, for want of
//! memory (ppoll(2)), that is logged and tried again, and all are looked at meanwhile. When the service is dropped all sessions end, without a
//! word to their peers. When a device ends, its sessions are held down and the follower told; when
//! its thread stands still they go down within a little more than a second, and come back with it.

use super::link::Link;
use super::session::{Change, Settings};
use super::sessions::{LinkId, Status};
use super::socket::{LinkSocket, SocketError};
use super::watch::Told;
use crate::path_mtu::Phase;
use crate::wake::{Deadline, Wake};
use crate::wireguard::Device;
use nix::poll::{PollFd, PollFlags};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Until the kernel is asked again to wait for sockets: much less than any session's detection time,
/// and no load to speak of.
const PAUSE: Duration = Duration::from_millis(5);

/// Who is told of changes, in the thread of the service.
pub trait Follower<K>: Send + 'static {
    /// A session changed its state.
    fn changed(&mut self, key: &K, change: Change, now: Instant);

    /// Packets up to so many bytes pass to the peer of a session; none: as many as usual.
    fn path_mtu(&mut self, key: &K, mtu: Option<u16>) {
        let _ = (key, mtu);
    }

    /// Called on each turn of the service; the answer is when it wants to be called again at
    /// the latest.
    fn turn(&mut self, now: Instant) -> Option<Instant> {
        let _ = now;
        None
    }
}

/// What the service's thread and its callers share.
struct Shared<K> {
    links: BTreeMap<LinkId, Arc<Link<K>>>,
    /// Where each session is.
    homes: BTreeMap<K, LinkId>,
    next_link: LinkId,
    links_version: u64,
    stop: bool,
}

/// The running service.
pub struct Service<K> {
    shared: Arc<Mutex<Shared<K>>>,
    wake: Arc<Wake>,
    seed: u64,
    thread: Option<JoinHandle<()>>,
}

impl<K: Ord + Clone + Send + 'static> Service<K> {
    /// Starts the thread, without sessions. `seed` drives discriminators, ports and jitter and
    /// should be random.
    ///
    /// # Errors
    /// The kernel gives no thread or no pair of sockets to wake it with.
    pub fn start(seed: u64, follower: impl Follower<K>) -> io::Result<Self> {
        let wake = Arc::new(Wake::new()?);
        let shared = Arc::new(Mutex::new(Shared {
            links: BTreeMap::new(),
            homes: BTreeMap::new(),
            next_link: 1,
            links_version: 0,
            stop: false,
        }));
        let thread = {
            let (shared, wake) = (Arc::clone(&shared), Arc::clone(&wake));
            std::thread::Builder::new()
                .name("bfd".into())
                .spawn(move || run(&shared, &wake, follower))?
        };
        Ok(Service { shared, wake, seed, thread: Some(thread) })
    }

    /// Opens the sockets of a link in the calling thread's network namespace.
    ///
    /// # Errors
    /// See [`LinkSocket::open`].
    pub fn open_link(&self, link: &str, local: IpAddr) -> Result<LinkId, SocketError> {
        let (id, seed) = self.next_link();
        let socket = LinkSocket::open(link, local, seed)?;
        self.add(id, Link::over(id, socket, seed, Arc::clone(&self.wake)));
        Ok(id)
    }

    /// Runs sessions through a device of this process, as `local`: what it decrypts for BFD
    /// is taken off before it reaches the link, and what is sent is encrypted without having
    /// crossed the link. On the wire nothing differs from sockets. A device has one service,
    /// and one such link.
    ///
    /// What this does not prove is that the link itself is up: see to that elsewhere.
    pub fn open_device(&self, device: &Device, local: IpAddr) -> LinkId {
        let (id, seed) = self.next_link();
        let wake = Arc::clone(&self.wake);
        let link = self.add(id, Link::on(id, device.downgrade(), local, seed, wake));
        device.set_resident(link);
        id
    }

    fn next_link(&self) -> (LinkId, u64) {
        let mut shared = self.lock();
        let id = shared.next_link;
        shared.next_link += 1;
        (id, self.seed.wrapping_add(u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    fn add(&self, id: LinkId, link: Link<K>) -> Arc<Link<K>> {
        let link = Arc::new(link);
        let mut shared = self.lock();
        shared.links_version += 1;
        shared.links.insert(id, Arc::clone(&link));
        drop(shared);
        self.wake.wake();
        link
    }

    /// Closes a link; its sessions end without a word and should be removed first.
    pub fn close_link(&self, id: LinkId) {
        let mut shared = self.lock();
        let link = shared.links.remove(&id);
        shared.homes.retain(|_, home| *home != id);
        shared.links_version += 1;
        drop(shared);
        if let Some(link) = link {
            link.close();
        }
        self.wake.wake();
    }

    /// Adds or changes a session; see [`Sessions::insert`](super::Sessions::insert). On a link
    /// that was closed nothing happens.
    pub fn insert(&self, key: K, link: LinkId, peer: IpAddr, settings: Settings) {
        let mut shared = self.lock();
        let Some(new) = shared.links.get(&link).cloned() else { return };
        let before = shared.homes.insert(key.clone(), link).filter(|before| *before != link);
        let before = before.and_then(|id| shared.links.get(&id)).cloned();
        drop(shared);
        if let Some(before) = before {
            before.forget(&key);
        }
        new.insert(key, peer, settings);
    }

    /// Searches for the largest packet that passes to `peer`, up to `most` bytes, while the session
    /// is up, and tells the follower. Only through a device of this process, one search a link; the
    /// other end has to run sessions through a device of its process as well.
    pub fn search_path_mtu(&self, key: K, peer: IpAddr, most: u16) {
        if let Some(link) = self.link_of(&key) {
            link.search_path_mtu(key, peer, most);
        }
    }

    /// Where the search of a session is, and what it has found.
    pub fn path_mtu(&self, key: &K) -> Option<(Phase, Option<u16>)> {
        self.link_of(key)?.path_mtu(key)
    }

    /// Forgets a session. Its peer is told "AdminDown" once, so that it need not wait for
    /// silence; the follower is not told.
    pub fn remove(&self, key: &K) -> bool {
        let link = self.link_of(key);
        self.lock().homes.remove(key);
        link.is_some_and(|link| link.remove(key))
    }

    /// Holds a session down, or lets it go.
    pub fn hold_down(&self, key: &K, hold: bool) {
        if let Some(link) = self.link_of(key) {
            link.hold_down(key, hold);
        }
    }

    /// What can be said about one session.
    pub fn status(&self, key: &K) -> Option<Status> {
        self.link_of(key)?.status(key)
    }

    /// All sessions, in the order of their keys.
    pub fn statuses(&self) -> Vec<(K, Status)> {
        let links: Vec<_> = self.lock().links.values().cloned().collect();
        let mut all: Vec<_> = links.iter().flat_map(|link| link.statuses()).collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    /// Makes the service take a turn now, which calls [`Follower::turn`].
    pub fn wake(&self) {
        self.wake.wake();
    }

    fn link_of(&self, key: &K) -> Option<Arc<Link<K>>> {
        let shared = self.lock();
        shared.homes.get(key).and_then(|id| shared.links.get(id)).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Shared<K>> {
        lock(&self.shared)
    }
}

impl<K> Drop for Service<K> {
    fn drop(&mut self) {
        let links = {
            let mut shared = lock(&self.shared);
            shared.stop = true;
            std::mem::take(&mut shared.links)
        };
        // A device goes on without us, and would go on driving its sessions.
        links.into_values().for_each(|link| link.close());
        self.wake.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the BFD thread panicked");
        }
    }
}

/// A panic of a follower leaves the list whole: it is never half changed.
fn lock<K>(shared: &Mutex<Shared<K>>) -> MutexGuard<'_, Shared<K>> {
    shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn run<K: Ord + Clone>(shared: &Mutex<Shared<K>>, wake: &Wake, mut follower: impl Follower<K>) {
    let mut told = Told::default();
    let mut links: Vec<Arc<Link<K>>> = Vec::new();
    let mut version = u64::MAX;
    let mut control = LinkSocket::control_buffer();
    // Which links have something on their sockets, by their place in `links`; all that are new.
    let mut ready: Vec<bool> = Vec::new();
    let mut is_failing = false;
    loop {
        let now = Instant::now();
        {
            let shared = lock(shared);
            if shared.stop {
                return;
            }
            if shared.links_version != version {
                version = shared.links_version;
                links = shared.links.values().cloned().collect();
                // Those with sockets first, as they are polled.
                links.sort_by_key(|link| link.socket().is_none());
                ready = vec![true; links.len()];
            }
        }
        let ready_or_not = ready.iter().copied().chain(std::iter::repeat(false));
        let mut until: Option<Instant> = None;
        for (link, ready) in links.iter().zip(ready_or_not) {
            let due = link.serve(ready, &mut control, now, &mut told);
            until = [until, due].into_iter().flatten().min();
        }
        for (key, change) in told.changes.drain(..) {
            follower.changed(&key, change, now);
        }
        for (key, mtu) in told.path_mtus.drain(..) {
            follower.path_mtu(&key, mtu);
        }
        until = [until, follower.turn(now)].into_iter().flatten().min();
        let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
        let sockets = links.iter().map_while(|link| link.socket());
        fds.extend(sockets.map(|socket| PollFd::new(socket.as_listen_fd(), PollFlags::POLLIN)));
        let outcome = crate::wake::wait(&mut fds, Deadline::at(until));
        let mut any = fds.iter().map(|fd| outcome.is_err() || fd.any().unwrap_or(true));
        let woken = any.next().unwrap_or(true);
        ready.clear();
        ready.extend(any);
        drop(fds);
        if let Err(error) = &outcome {
            // Without this thread nobody would see a tunnel die.
            if !std::mem::replace(&mut is_failing, true) {
                tracing::error!(%error, "the BFD thread cannot wait for its sockets, and looks again and again");
            }
            std::thread::sleep(PAUSE);
        } else if std::mem::take(&mut is_failing) {
            tracing::info!("the BFD thread waits for its sockets again");
        }
        if woken {
            wake.take(true);
        }
    }
}
