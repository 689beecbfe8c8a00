//! A thread that moves packets between a TUN device and the network.
//!
//! It owns the TUN device, the UDP socket and the clock; the [`Engine`] is shared under one
//! short lock with whoever asks for the state or changes peers. A [`Resident`] may live on it,
//! whose packets need not cross the link; it is called with the engine locked, so its own lock
//! comes after the engine's, and it calls nothing of the device.
//!
//! At rest a wake-up is what costs, not the work in it: the thread sleeps until a packet comes
//! or something is really due, and a packet that comes alone takes three system calls, answer
//! included.
//!
//! Fails: making the socket, for the caller to report. When the TUN device is taken away the
//! thread ends, and [`Device::is_alive`] says so. A datagram that cannot be sent is dropped, as
//! IP may. When the last handle is dropped the thread ends and with it the link, unless the
//! TUN device was made persistent. However the thread ends, its resident is told.

use super::engine::{Engine, Output};
use super::key::PrivateKey;
use super::peer::{PeerConfig, PeerStatus};
use crate::udp;
use crate::wake::{Deadline, Wake, wait};
use holdfast_api::Reason;
use holdfast_api::tunnel::PublicKey;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Packets that are moved one way before the other way has its turn.
const TURN: usize = 64;
/// A turn that comes so long after the last one found the device at rest.
const REST: Duration = Duration::from_millis(5);
/// The largest packet that a link can have.
const PACKET_BYTES: usize = 65_535;

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
/// link. It is called in the device's thread with the engine locked: it is quick, and does not
/// call the device.
pub(crate) trait Resident: Send + Sync {
    /// Sees a packet before the link does; true: it took it. [`Resident::run`] follows soon.
    fn receive(&self, packet: &[u8], now: Instant) -> bool;

    /// Does what is due; what it sends goes out as if it had come from the link. When it wants
    /// to be called again at the latest is the answer; [`WeakDevice::wake`] makes it sooner.
    fn run(&self, now: Instant, send: &mut dyn FnMut(&[u8])) -> Option<Instant>;

    /// The device moves no packets any more. Called without the lock.
    fn ended(&self);
}

/// The UDP socket, and what would cost a system call to ask it.
struct Port {
    socket: UdpSocket,
    is_v6: bool,
    number: u16,
}

impl Port {
    fn open(number: u16, mark: u32) -> io::Result<Self> {
        let socket = udp::open(number, mark)?;
        let address = socket.local_addr()?;
        Ok(Port { socket, is_v6: address.is_ipv6(), number: address.port() })
    }
}

struct Shared {
    engine: Mutex<Engine>,
    port: Mutex<Arc<Port>>,
    fwmark: Mutex<u32>,
    resident: Mutex<Option<Arc<dyn Resident>>>,
    name: String,
    /// Also after a change of `port` or `resident`, which the thread looks at only then.
    wake: Wake,
    stop: AtomicBool,
    alive: AtomicBool,
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
    /// Starts the device over `tun`, a TUN device without packet information that does not
    /// block, in the calling thread's network namespace.
    ///
    /// # Errors
    /// The port is taken, or the kernel gives no thread.
    pub fn start(tun: impl Into<OwnedFd>, options: Options) -> Result<Self, DeviceError> {
        let name = options.name.clone();
        let port = Port::open(options.listen_port, options.fwmark).map_err(|source| {
            DeviceError::Listen { name: name.clone(), port: options.listen_port, source }
        })?;
        let fail = |source| DeviceError::Start { name: name.clone(), source };
        let limit = options.handshakes_per_second.max(1);
        let engine = Engine::new(options.private_key, limit, Instant::now());
        let shared = Arc::new(Shared {
            engine: Mutex::new(engine),
            port: Mutex::new(Arc::new(port)),
            fwmark: Mutex::new(options.fwmark),
            resident: Mutex::new(None),
            name: options.name.clone(),
            wake: Wake::new().map_err(fail)?,
            stop: AtomicBool::new(false),
            alive: AtomicBool::new(true),
        });
        let thread = {
            let (shared, tun) = (Arc::clone(&shared), tun.into());
            std::thread::Builder::new()
                .name(options.name)
                .spawn(move || {
                    let _end = End(&shared);
                    if let Err(error) = run(&shared, &tun) {
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

    /// Whether it still moves packets.
    pub fn is_alive(&self) -> bool {
        self.shared.alive.load(Ordering::Acquire)
    }

    /// The UDP port that it listens on.
    pub fn listen_port(&self) -> u16 {
        self.shared.port().number
    }

    /// Adds or changes a peer; see [`Engine::set_peer`].
    pub fn set_peer(&self, key: PublicKey, config: PeerConfig) {
        self.shared.engine().set_peer(key, config, Instant::now());
        self.shared.wake.wake();
    }

    /// Makes exactly these the peers; those that stay keep their sessions.
    pub fn set_peers(&self, peers: impl IntoIterator<Item = (PublicKey, PeerConfig)>) {
        let mut engine = self.shared.engine();
        let mut gone: std::collections::BTreeSet<_> = engine.keys().into_iter().collect();
        for (key, config) in peers {
            gone.remove(&key);
            engine.set_peer(key, config, Instant::now());
        }
        for key in gone {
            engine.remove_peer(&key);
        }
        drop(engine);
        self.shared.wake.wake();
    }

    /// Removes a peer; false when there was none.
    pub fn remove_peer(&self, key: &PublicKey) -> bool {
        self.shared.engine().remove_peer(key)
    }

    /// Takes another private key; all sessions begin anew.
    pub fn set_private_key(&self, key: PrivateKey) {
        self.shared.engine().set_private_key(key, Instant::now());
        self.shared.wake.wake();
    }

    /// Shakes hands with a peer anew, because no data passes.
    pub fn renew(&self, key: &PublicKey) {
        self.shared.engine().renew(key, Instant::now());
        self.shared.wake.wake();
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

    /// What can be said about one peer.
    pub fn peer(&self, key: &PublicKey) -> Option<PeerStatus> {
        self.shared.engine().status(key)
    }

    /// What can be said about all peers, in the order of their keys.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.shared.engine().statuses().collect()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(link = self.shared.name, "the thread of a WireGuard device panicked");
        }
    }
}

impl WeakDevice {
    /// Runs `work` with the engine and wakes the device after it; none when it is gone.
    pub(super) fn with_engine<T>(&self, work: impl FnOnce(&mut Engine) -> T) -> Option<T> {
        let shared = self.0.upgrade()?;
        let result = work(&mut shared.engine());
        shared.wake.wake();
        Some(result)
    }

    /// Has the resident called soon.
    pub(crate) fn wake(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.wake.wake();
        }
    }

    /// Runs `work`, which may send packets as if they came from the link, in the calling
    /// thread and with the engine locked; none when the device is gone.
    pub(crate) fn with_link<T>(&self, work: impl FnOnce(&mut dyn FnMut(&[u8])) -> T) -> Option<T> {
        let shared = self.0.upgrade()?;
        let (port, now) = (shared.port(), Instant::now());
        let mut engine = shared.engine();
        let mut wires = Wires { tun: None, port: &port, resident: None, now };
        Some(work(&mut |packet| engine.from_link(packet, &mut wires)))
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
            socket2::SockRef::from(&before.socket).set_mark(mark)?;
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
    /// A panic elsewhere leaves the engine usable: at worst one packet was not finished.
    fn engine(&self) -> MutexGuard<'_, Engine> {
        lock(&self.engine)
    }

    fn port(&self) -> Arc<Port> {
        Arc::clone(&lock(&self.port))
    }

    fn resident(&self) -> Option<Arc<dyn Resident>> {
        lock(&self.resident).clone()
    }
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
    }
}

/// Writes straight to the kernel. What it does not take now is lost, as on any wire.
struct Wires<'a> {
    /// None where packets are only sent.
    tun: Option<&'a OwnedFd>,
    port: &'a Port,
    resident: Option<&'a dyn Resident>,
    now: Instant,
}

impl Output for Wires<'_> {
    fn to_network(&mut self, to: SocketAddr, datagram: &[u8]) {
        let address = udp::address_for(self.port.is_v6, to);
        if let Err(error) = self.port.socket.send_to(datagram, address) {
            tracing::debug!(%to, %error, "datagram not sent");
        }
    }

    fn to_link(&mut self, packet: &[u8]) {
        if self.resident.is_some_and(|resident| resident.receive(packet, self.now)) {
            return;
        }
        if let Some(tun) = self.tun
            && let Err(error) = nix::unistd::write(tun, packet)
        {
            tracing::debug!(%error, "packet not delivered");
        }
    }
}

fn run(shared: &Shared, tun: &OwnedFd) -> io::Result<()> {
    let mut buffer = vec![0; PACKET_BYTES];
    let (mut port, mut resident) = (shared.port(), shared.resident());
    // Nothing is known yet, so everything is looked at.
    let [mut woken, mut from_network, mut from_link] = [true; 3];
    let mut before = Instant::now();
    while !shared.stop.load(Ordering::Acquire) {
        if woken {
            shared.wake.clear();
            (port, resident) = (shared.port(), shared.resident());
        }
        let now = Instant::now();
        // What comes after a rest mostly comes alone: asking for a second packet would be a
        // system call for nothing. If it did not come alone, poll says so at once.
        let most = if now.duration_since(before) >= REST { 1 } else { TURN };
        before = now;
        let resident = resident.as_deref();
        let mut wires = Wires { tun: Some(tun), port: &port, resident, now };
        let deadline = {
            let mut engine = shared.engine();
            if from_network {
                drain_network(&mut engine, &port.socket, most, &mut buffer, &mut wires);
            }
            // Before what comes from the link: it is in a hurry, and answers what just came.
            let resident = resident.and_then(|resident| {
                resident.run(now, &mut |packet| engine.from_link(packet, &mut wires))
            });
            if now >= engine.due_at() {
                engine.timers(now, &mut wires);
            }
            if from_link {
                drain_link(&mut engine, tun, most, &mut buffer, &mut wires)?;
            }
            resident.map_or(engine.wake_at(), |at| at.min(engine.wake_at()))
        };
        let mut fds = [
            PollFd::new(shared.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(port.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(tun.as_fd(), PollFlags::POLLIN),
        ];
        wait(&mut fds, Deadline::at(Some(deadline)))?;
        [woken, from_network, from_link] = fds.map(|fd| fd.any().unwrap_or(true));
    }
    Ok(())
}

fn drain_network(
    engine: &mut Engine,
    socket: &UdpSocket,
    most: usize,
    buffer: &mut [u8],
    wires: &mut Wires<'_>,
) {
    for _ in 0..most {
        match socket.recv_from(buffer) {
            Ok((bytes, from)) => engine.from_network(from, &buffer[..bytes], wires),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // ICMP errors about datagrams sent earlier say nothing about the socket.
            Err(error) => tracing::debug!(%error, "UDP receive"),
        }
    }
}

fn drain_link(
    engine: &mut Engine,
    tun: &OwnedFd,
    most: usize,
    buffer: &mut [u8],
    wires: &mut Wires<'_>,
) -> io::Result<()> {
    for _ in 0..most {
        match nix::unistd::read(tun, buffer) {
            Ok(bytes) => engine.from_link(&buffer[..bytes], wires),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            // EBADFD: the link was deleted under us.
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
