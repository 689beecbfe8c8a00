//! A thread that moves packets between a TUN device and the network.
//!
//! It owns the TUN device, the UDP socket and the clock; the [`Engine`] is shared under one
//! short lock with whoever asks for the state or changes peers.
//!
//! Fails: making the socket, for the caller to report. When the TUN device is taken away the
//! thread ends, and [`Device::is_alive`] says so. A datagram that cannot be sent is dropped, as
//! IP may. When the last handle is dropped the thread ends and with it the link, unless the
//! TUN device was made persistent.

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
use std::time::Instant;

/// Packets that are moved one way before the other way has its turn.
const TURN: usize = 64;
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

struct Shared {
    engine: Mutex<Engine>,
    socket: Mutex<Arc<UdpSocket>>,
    fwmark: Mutex<u32>,
    name: String,
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
        let socket = udp::open(options.listen_port, options.fwmark).map_err(|source| {
            DeviceError::Listen { name: name.clone(), port: options.listen_port, source }
        })?;
        let fail = |source| DeviceError::Start { name: name.clone(), source };
        let limit = options.handshakes_per_second.max(1);
        let engine = Engine::new(options.private_key, limit, Instant::now());
        let shared = Arc::new(Shared {
            engine: Mutex::new(engine),
            socket: Mutex::new(Arc::new(socket)),
            fwmark: Mutex::new(options.fwmark),
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
                    if let Err(error) = run(&shared, &tun) {
                        tracing::error!(link = shared.name, %error, "the WireGuard device failed");
                    }
                    shared.alive.store(false, Ordering::Release);
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
        self.shared.listen_port()
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

    /// The UDP port and the mark.
    pub(super) fn listen(&self) -> Option<(u16, u32)> {
        let shared = self.0.upgrade()?;
        let mark = *shared.fwmark.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Some((shared.listen_port(), mark))
    }

    /// Listens on another port or with another mark from now on.
    pub(super) fn listen_on(&self, port: u16, mark: u32) -> io::Result<()> {
        let Some(shared) = self.0.upgrade() else { return Ok(()) };
        if self.listen() == Some((port, mark)) {
            return Ok(());
        }
        if port == shared.listen_port() {
            socket2::SockRef::from(shared.socket().as_ref()).set_mark(mark)?;
        } else {
            let socket = Arc::new(udp::open(port, mark)?);
            *shared.socket.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = socket;
        }
        *shared.fwmark.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = mark;
        shared.wake.wake();
        Ok(())
    }
}

impl Shared {
    /// A panic elsewhere leaves the engine usable: at worst one packet was not finished.
    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn socket(&self) -> Arc<UdpSocket> {
        Arc::clone(&self.socket.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn listen_port(&self) -> u16 {
        self.socket().local_addr().map_or(0, |address| address.port())
    }
}

/// Writes straight to the kernel. What it does not take now is lost, as on any wire.
struct Wires<'a> {
    tun: &'a OwnedFd,
    socket: &'a UdpSocket,
    socket_is_v6: bool,
}

impl Output for Wires<'_> {
    fn to_network(&mut self, to: SocketAddr, datagram: &[u8]) {
        if let Err(error) = self.socket.send_to(datagram, udp::address_for(self.socket_is_v6, to)) {
            tracing::debug!(%to, %error, "datagram not sent");
        }
    }

    fn to_link(&mut self, packet: &[u8]) {
        if let Err(error) = nix::unistd::write(self.tun, packet) {
            tracing::debug!(%error, "packet not delivered");
        }
    }
}

fn run(shared: &Shared, tun: &OwnedFd) -> io::Result<()> {
    let mut buffer = vec![0; PACKET_BYTES];
    while !shared.stop.load(Ordering::Acquire) {
        let socket = shared.socket();
        let socket_is_v6 = socket.local_addr().is_ok_and(|address| address.is_ipv6());
        let mut wires = Wires { tun, socket: &socket, socket_is_v6 };
        let deadline = {
            let mut engine = shared.engine();
            let now = Instant::now();
            if now >= engine.wake_at() {
                engine.timers(now, &mut wires);
            }
            engine.wake_at()
        };
        let mut fds = [
            PollFd::new(shared.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(tun.as_fd(), PollFlags::POLLIN),
        ];
        wait(&mut fds, Deadline::at(Some(deadline)))?;
        let ready = fds.map(|fd| fd.any().unwrap_or(true));
        let [woken, from_network, from_link] = ready;
        if woken {
            shared.wake.clear();
        }
        if from_network {
            drain_network(shared, &socket, &mut buffer, &mut wires);
        }
        if from_link {
            drain_link(shared, tun, &mut buffer, &mut wires)?;
        }
    }
    Ok(())
}

fn drain_network(shared: &Shared, socket: &UdpSocket, buffer: &mut [u8], wires: &mut Wires<'_>) {
    let mut engine = shared.engine();
    for _ in 0..TURN {
        match socket.recv_from(buffer) {
            Ok((bytes, from)) => engine.from_network(from, &buffer[..bytes], wires),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // ICMP errors about datagrams sent earlier say nothing about the socket.
            Err(error) => tracing::debug!(%error, "UDP receive"),
        }
    }
}

fn drain_link(
    shared: &Shared,
    tun: &OwnedFd,
    buffer: &mut [u8],
    wires: &mut Wires<'_>,
) -> io::Result<()> {
    let mut engine = shared.engine();
    for _ in 0..TURN {
        match nix::unistd::read(tun, buffer) {
            Ok(bytes) => engine.from_link(&buffer[..bytes], wires),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            // EBADFD: the link was deleted under us.
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
