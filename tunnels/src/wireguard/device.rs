//! A device and its handles.
//!
//! Its thread alone has the [`Engine`] ([`worker`]); whoever asks for the state or changes peers
//! sends it a command ([`commands`]), which it does between two turns, so there is no lock on the
//! way of packets. Changes are made in the order in which they were asked for, and before the answer
//! to what is asked after them; nobody waits for them. A [`Resident`] may live on it, whose packets
//! need not cross the link; the thread calls it, so it asks nothing of the device.
//!
//! Fails: making the socket, for the caller to report. When the TUN device is taken away the
//! thread ends, and [`Device::is_alive`] says so; from then on there are no peers. When the last
//! handle is dropped the thread ends and with it the link, unless the TUN device was made
//! persistent; a thread that stands still is left behind with its link, and ends when it comes to.
//! However the thread ends, its resident is told. One that has not answered once is not waited for
//! again before it does something; changes for it wait meanwhile, and are lost only with it.

mod commands;
mod worker;

pub(super) use commands::PEERS_AT_ONCE;

use super::engine::{Engine, Start};
use super::key::PrivateKey;
use super::limiter::HandshakeCounts;
use super::memory::Pages;
use super::outbox::Fragments;
use super::peer::{PeerConfig, PeerStatus};
use super::port::Port;
use super::tun::LinkEnd;
use crate::wake::Wake;
use holdfast_api::Reason;
use holdfast_api::tunnel::PublicKey;
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Notify;

/// A thread that shall end and has not for so long stands still.
const LAST_TURN: Duration = Duration::from_secs(2);
/// Between two looks whether it has.
const END_PAUSE: Duration = Duration::from_micros(200);
/// Helpers at most, unless more are asked for: beyond that the device's own thread is the bound.
const MOST_HELPERS: usize = 4;

/// How a device shall be.
#[derive(Debug, Clone)]
pub struct Options {
    /// The name of its link, for the thread and the log.
    pub name: String,
    /// Its key.
    pub private_key: PrivateKey,
    /// The UDP port to listen on; 0 lets the kernel choose.
    pub listen_port: u16,
    /// `SO_MARK` of its datagrams; 0 for none. Needs CAP_NET_ADMIN.
    pub fwmark: u32,
    /// Handshakes per second beyond which cookies are asked for; at least 1.
    pub handshakes_per_second: u64,
    /// What it works with.
    pub tuning: Tuning,
}

/// What a device works with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Threads that help to seal and open what comes in large pieces; none: half as many as cores.
    pub helpers: Option<usize>,
    /// Which pages packets are in, if there are enough of them.
    pub pages: Pages,
}

/// Why a device could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The UDP socket.
    #[error("cannot listen on UDP port {port} for the WireGuard device {name}")]
    Listen {
        /// The device.
        name: String,
        /// The port; 0 if any would do.
        port: u16,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The thread or what wakes it.
    #[error("cannot start the thread of the WireGuard device {name}")]
    Start {
        /// The device.
        name: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl DeviceError {
    /// The reason code.
    pub fn reason(&self) -> Reason {
        Reason::TunnelEngineFailed
    }
}

/// Something that lives on a device: it exchanges packets with the peers without crossing the
/// link. It is called in the device's thread: it is quick, and asks nothing of the device.
pub(crate) trait Resident: Send + Sync {
    /// Sees a packet before the link does; true: it took it. [`Resident::run`] follows soon.
    fn receive(&self, packet: &[u8], now: Instant) -> bool;

    /// Does what is due; what it sends goes out as if it had come from the link. When it wants
    /// to be called again at the latest is the answer; [`WeakDevice::wake`] makes it sooner.
    fn run(&self, now: Instant, send: &mut dyn FnMut(&[u8], Fragments)) -> Option<Instant>;

    /// The device moves no packets any more.
    fn ended(&self);
}

/// What can be said about a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceStatus {
    /// Its peers, in the order of their keys.
    pub peers: Vec<PeerStatus>,
    /// What became of the handshake messages that came.
    pub handshakes: HandshakeCounts,
}

struct Shared {
    commands: mpsc::Sender<commands::Command>,
    port: Mutex<Arc<Port>>,
    fwmark: Mutex<u32>,
    resident: Mutex<Option<Arc<dyn Resident>>>,
    name: String,
    pages: Pages,
    /// After a command, or a change of `port` or `resident`: the thread looks at them only then.
    wake: Wake,
    stop: AtomicBool,
    /// It has not answered and done nothing since.
    is_silent: AtomicBool,
    alive: AtomicBool,
    ended: Notify,
}

/// A running device.
pub struct Device {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A handle that does not keep the device running.
#[derive(Clone)]
pub struct WeakDevice(Weak<Shared>);

impl Device {
    /// Starts the device over `link`, in the calling thread's network namespace.
    ///
    /// # Errors
    /// The port is taken, or the kernel gives no thread.
    pub fn start(link: LinkEnd, options: Options) -> Result<Self, DeviceError> {
        let name = options.name.clone();
        let port = Port::open(options.listen_port, options.fwmark).map_err(|source| {
            DeviceError::Listen { name: name.clone(), port: options.listen_port, source }
        })?;
        let fail = |source| DeviceError::Start { name: name.clone(), source };
        let limit = options.handshakes_per_second.max(1);
        let mut seed = [0; 8];
        // Without randomness there are no handshakes either, so jitter does not matter.
        let _ = getrandom::fill(&mut seed);
        let start = Start { now: Instant::now(), wall: wall(), seed: u64::from_ne_bytes(seed) };
        let engine = Engine::new(options.private_key, limit, link.offers(), start);
        let (commands, todo) = mpsc::channel();
        let helpers = options.tuning.helpers.unwrap_or_else(usual_helpers);
        let means = worker::Means::new(&name, helpers, options.tuning.pages).map_err(fail)?;
        let shared = Arc::new(Shared {
            commands,
            port: Mutex::new(Arc::new(port)),
            fwmark: Mutex::new(options.fwmark),
            resident: Mutex::new(None),
            name: options.name.clone(),
            pages: means.pages,
            wake: Wake::new().map_err(fail)?,
            stop: AtomicBool::new(false),
            is_silent: AtomicBool::new(false),
            alive: AtomicBool::new(true),
            ended: Notify::new(),
        });
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(options.name)
                .spawn(move || {
                    let _end = End(&shared);
                    if let Err(error) = worker::run(&shared, &link, engine, &todo, means) {
                        tracing::error!(link = shared.name, %error, "the WireGuard device failed");
                    }
                })
                .map_err(fail)?
        };
        Ok(Device { shared, thread: Some(thread) })
    }

    /// A handle that does not keep it running, for a UAPI socket.
    pub fn downgrade(&self) -> WeakDevice {
        WeakDevice(Arc::downgrade(&self.shared))
    }

    /// The name of its link.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Which pages its packets are in: those that were asked for, or the usual ones where there
    /// were not enough.
    pub fn pages(&self) -> Pages {
        self.shared.pages
    }

    /// Whether it still moves packets.
    pub fn is_alive(&self) -> bool {
        self.shared.alive.load(Ordering::Acquire)
    }

    /// Waits until it moves no packets any more, as when its link is deleted.
    pub async fn ended(&self) {
        // Before the flag is looked at: who ends after that is heard.
        let ended = self.shared.ended.notified();
        if self.is_alive() {
            ended.await;
        }
    }

    /// The UDP port that it listens on.
    pub fn listen_port(&self) -> u16 {
        self.shared.port().number
    }

    /// Adds a peer or changes one. The session of a known peer goes on, unless its preshared key
    /// changed. An endpoint of `None` leaves a known peer where it is. Prefixes that another peer
    /// had become this one's.
    pub fn set_peer(&self, key: PublicKey, config: PeerConfig) {
        self.shared.change(move |engine, now| engine.set_peer(key, config, now));
    }

    /// Removes peers, those that are there, and then adds or changes others.
    pub fn change_peers(
        &self,
        gone: impl IntoIterator<Item = PublicKey>,
        set: impl IntoIterator<Item = (PublicKey, PeerConfig)>,
    ) {
        for some in commands::chunks(gone) {
            self.shared.change(move |engine, _| {
                for key in some {
                    engine.remove_peer(&key);
                }
            });
        }
        for some in commands::chunks(set) {
            self.shared.change(move |engine, now| {
                for (key, config) in some {
                    engine.set_peer(key, config, now);
                }
            });
        }
    }

    /// Makes exactly these the peers; those that stay keep their sessions.
    pub fn set_peers(&self, peers: impl IntoIterator<Item = (PublicKey, PeerConfig)>) {
        let peers: Vec<_> = peers.into_iter().collect();
        let stay: BTreeSet<PublicKey> = peers.iter().map(|(key, _)| *key).collect();
        self.shared.change(move |engine, _| {
            for key in engine.keys() {
                if !stay.contains(&key) {
                    engine.remove_peer(&key);
                }
            }
        });
        self.change_peers([], peers);
    }

    /// Removes a peer, if there is such a one.
    pub fn remove_peer(&self, key: &PublicKey) {
        self.change_peers([*key], []);
    }

    /// Takes another private key, or none; all sessions begin anew.
    pub fn set_private_key(&self, key: impl Into<Option<PrivateKey>>) {
        let key = key.into();
        self.shared.change(move |engine, now| engine.set_private_key(key, now));
    }

    /// Shakes hands with a peer anew, because no data passes.
    pub fn renew(&self, key: &PublicKey) {
        let key = *key;
        self.shared.change(move |engine, now| engine.renew(&key, now));
    }

    /// Has `resident` live on it from now on, instead of whoever did.
    pub(crate) fn set_resident(&self, resident: Arc<dyn Resident>) {
        *lock(&self.shared.resident) = Some(Arc::clone(&resident));
        self.shared.wake.wake();
        // If the thread has ended before it saw this, nobody else will say so.
        if !self.is_alive() {
            resident.ended();
        }
    }

    /// What can be said about one peer; waits for the thread.
    pub fn peer(&self, key: &PublicKey) -> Option<PeerStatus> {
        let key = *key;
        self.shared.ask(move |engine, now| engine.status(&key, now)).flatten()
    }

    /// The same for whoever must not wait: when the thread does not say it at once, none.
    pub fn glance(&self, key: &PublicKey) -> Option<PeerStatus> {
        let key = *key;
        self.shared.glance(move |engine, now| engine.status(&key, now)).flatten()
    }

    /// What can be said about all peers, in the order of their keys; waits for the thread.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.shared.peers()
    }

    /// Has `told` called with what can be said, soon and in the device's thread, so that it is
    /// quick. It is dropped when that thread ends before.
    pub fn tell_status(&self, told: impl FnOnce(DeviceStatus) + Send + 'static) {
        self.downgrade().gather(Vec::new(), Box::new(told));
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake.wake();
        let Some(thread) = self.thread.take() else { return };
        let patience = Instant::now() + LAST_TURN;
        while !thread.is_finished() {
            if Instant::now() >= patience {
                // Whoever ends a device that stands still must not stand still with it.
                let link = &self.shared.name;
                tracing::error!(link, "the thread of a WireGuard device does not end; it is left");
                return;
            }
            std::thread::park_timeout(END_PAUSE);
        }
        if thread.join().is_err() {
            tracing::error!(link = self.shared.name, "the thread of a WireGuard device panicked");
        }
    }
}

impl WeakDevice {
    /// Has the resident called soon.
    pub(crate) fn wake(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.wake.wake();
        }
    }

    /// Sends packets as if they came from the link, without waiting for it.
    pub(crate) fn send(&self, packets: Vec<Vec<u8>>) {
        if let Some(shared) = self.0.upgrade() {
            shared.tell(Box::new(move |worker, now| {
                for packet in packets {
                    worker.send(&packet, now);
                }
            }));
        }
    }

    /// Of a device that was dropped.
    #[cfg(test)]
    pub(crate) fn gone() -> Self {
        WeakDevice(Weak::new())
    }

    /// The UDP port and the mark.
    pub(super) fn listen(&self) -> Option<(u16, u32)> {
        let shared = self.0.upgrade()?;
        let mark = *lock(&shared.fwmark);
        Some((shared.port().number, mark))
    }

    /// Listens on another port or with another mark from now on.
    pub(super) fn listen_on(&self, port: u16, mark: u32) -> io::Result<()> {
        let Some(shared) = self.0.upgrade() else { return Ok(()) };
        if self.listen() == Some((port, mark)) {
            return Ok(());
        }
        let before = shared.port();
        if port == before.number {
            before.set_mark(mark)?;
        } else {
            let port = Arc::new(Port::open(port, mark)?);
            *lock(&shared.port) = port;
        }
        *lock(&shared.fwmark) = mark;
        shared.wake.wake();
        Ok(())
    }
}

impl Shared {
    fn port(&self) -> Arc<Port> {
        Arc::clone(&lock(&self.port))
    }

    fn resident(&self) -> Option<Arc<dyn Resident>> {
        lock(&self.resident).clone()
    }
}

/// One by two cores: the others have what the device moves packets for.
fn usual_helpers() -> usize {
    std::thread::available_parallelism().map_or(0, |cores| (cores.get() / 2).min(MOST_HELPERS))
}

/// The time since 1970; none before.
fn wall() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Says that the thread has ended, also when it panicked.
struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        // In this order: whoever is told finds that it is so.
        self.0.alive.store(false, Ordering::Release);
        if let Some(resident) = self.0.resident() {
            resident.ended();
        }
        self.0.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
