//! A thread that runs many sessions over the sockets of several links.
//!
//! It owns the sockets and the clock. Sessions and links are changed from any thread under one
//! short lock; changes of state are handed to a [`Follower`] *in the thread of the service*, so
//! that nothing lies between noticing a dead tunnel and acting on it.
//!
//! Fails: opening a link's sockets, for the caller to report. A packet that cannot be sent is
//! logged at DEBUG and counts as lost. When the service is dropped the thread ends.

use super::session::{Change, Settings};
use super::sessions::{LinkId, Outgoing, Sessions, Status};
use super::socket::{LinkSocket, SocketError};
use crate::wake::{Deadline, Wake};
use nix::poll::{PollFd, PollFlags};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Instant;

/// Who is told of changes, in the thread of the service.
pub trait Follower<K>: Send + 'static {
    /// A session changed its state.
    fn changed(&mut self, key: &K, change: Change, now: Instant);

    /// Called on each turn of the service; the answer is when it wants to be called again at
    /// the latest.
    fn turn(&mut self, now: Instant) -> Option<Instant> {
        let _ = now;
        None
    }
}

struct Shared<K> {
    sessions: Sessions<K>,
    links: BTreeMap<LinkId, Arc<LinkSocket>>,
    /// Changes made by callers, still to be told.
    told: Vec<(K, Change)>,
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
            sessions: Sessions::new(seed),
            links: BTreeMap::new(),
            told: Vec::new(),
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
        let id = self.lock().next_link;
        let socket = Arc::new(LinkSocket::open(link, local, self.seed.wrapping_add(id.into()))?);
        let mut shared = self.lock();
        let id = shared.next_link;
        shared.next_link += 1;
        shared.links_version += 1;
        shared.links.insert(id, socket);
        drop(shared);
        self.wake.wake();
        Ok(id)
    }

    /// Closes a link's sockets; its sessions find nobody any more and should be removed first.
    pub fn close_link(&self, id: LinkId) {
        let mut shared = self.lock();
        shared.links.remove(&id);
        shared.links_version += 1;
        drop(shared);
        self.wake.wake();
    }

    /// Adds or changes a session; see [`Sessions::insert`].
    pub fn insert(&self, key: K, link: LinkId, peer: IpAddr, settings: Settings) {
        self.lock().sessions.insert(key, link, peer, settings, Instant::now());
        self.wake.wake();
    }

    /// Forgets a session. Its peer is told "AdminDown" once, so that it need not wait for
    /// silence; the follower is not told.
    pub fn remove(&self, key: &K) -> bool {
        let now = Instant::now();
        let mut shared = self.lock();
        if shared.sessions.hold_down(key, true, now).is_some() {
            let Shared { sessions, links, .. } = &mut *shared;
            sessions.run(now, |out| send(links, &out), &mut Vec::new());
        }
        shared.sessions.remove(key)
    }

    /// Holds a session down, or lets it go.
    pub fn hold_down(&self, key: &K, hold: bool) {
        let mut shared = self.lock();
        if let Some(change) = shared.sessions.hold_down(key, hold, Instant::now()) {
            shared.told.push((key.clone(), change));
        }
        drop(shared);
        self.wake.wake();
    }

    /// What can be said about one session.
    pub fn status(&self, key: &K) -> Option<Status> {
        self.lock().sessions.status(key)
    }

    /// All sessions, in the order of their keys.
    pub fn statuses(&self) -> Vec<(K, Status)> {
        self.lock().sessions.iter().map(|(key, status)| (key.clone(), status)).collect()
    }

    /// Makes the service take a turn now, which calls [`Follower::turn`].
    pub fn wake(&self) {
        self.wake.wake();
    }

    fn lock(&self) -> MutexGuard<'_, Shared<K>> {
        lock(&self.shared)
    }
}

impl<K> Drop for Service<K> {
    fn drop(&mut self) {
        lock(&self.shared).stop = true;
        self.wake.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the BFD thread panicked");
        }
    }
}

/// A panic of a follower leaves the sessions whole: they are never half changed.
fn lock<K>(shared: &Mutex<Shared<K>>) -> MutexGuard<'_, Shared<K>> {
    shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn run<K: Ord + Clone>(shared: &Mutex<Shared<K>>, wake: &Wake, mut follower: impl Follower<K>) {
    let mut told = Vec::new();
    let mut sockets: Vec<(LinkId, Arc<LinkSocket>)> = Vec::new();
    let mut version = u64::MAX;
    let mut control = LinkSocket::control_buffer();
    // Which sockets have something, by their place in `sockets`; all that are new.
    let mut ready: Vec<bool> = Vec::new();
    loop {
        let now = Instant::now();
        let session_wake = {
            let mut shared = lock(shared);
            if shared.stop {
                return;
            }
            if shared.links_version != version {
                version = shared.links_version;
                sockets = shared.links.iter().map(|(id, s)| (*id, Arc::clone(s))).collect();
                ready = vec![true; sockets.len()];
            }
            told.append(&mut shared.told);
            let Shared { sessions, links, .. } = &mut *shared;
            for ((link, socket), _) in sockets.iter().zip(&ready).filter(|(_, ready)| **ready) {
                receive_all(sessions, *link, socket, &mut control, now, &mut told);
            }
            sessions.run(now, |out| send(links, &out), &mut told);
            sessions.wake_at()
        };
        for (key, change) in told.drain(..) {
            follower.changed(&key, change, now);
        }
        let until = [session_wake, follower.turn(now)].into_iter().flatten().min();
        let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
        fds.extend(sockets.iter().map(|(_, s)| PollFd::new(s.as_listen_fd(), PollFlags::POLLIN)));
        if let Err(error) = crate::wake::wait(&mut fds, Deadline::at(until)) {
            tracing::error!(%error, "poll failed in the BFD thread");
            return;
        }
        let mut any = fds.iter().map(|fd| fd.any().unwrap_or(true));
        let woken = any.next().unwrap_or(true);
        ready.clear();
        ready.extend(any);
        drop(fds);
        if woken {
            wake.clear();
        }
    }
}

fn receive_all<K: Ord + Clone>(
    sessions: &mut Sessions<K>,
    link: LinkId,
    socket: &LinkSocket,
    control: &mut [u8],
    now: Instant,
    told: &mut Vec<(K, Change)>,
) {
    let mut buffer = [0; 256];
    // More than the sessions of one edge send between two turns; the rest waits for the next.
    for _ in 0..4096 {
        let (from, ttl, bytes) = match socket.receive(&mut buffer, control) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => {
                tracing::debug!(link, %error, "BFD receive failed");
                return;
            }
        };
        match sessions.receive(link, from, ttl, &buffer[..bytes], now) {
            Ok(change) => told.extend(change),
            Err(reason) => tracing::debug!(link, %from, %reason, "BFD packet discarded"),
        }
    }
}

fn send(links: &BTreeMap<LinkId, Arc<LinkSocket>>, out: &Outgoing) {
    let Some(socket) = links.get(&out.link) else { return };
    if let Err(error) = socket.send(out.to, &out.bytes) {
        tracing::debug!(link = out.link, to = %out.to, %error, "BFD packet not sent");
    }
}
