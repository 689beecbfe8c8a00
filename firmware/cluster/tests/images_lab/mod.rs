//! What tests of images share: a node's runtime from outside of the node, and ways to its registry
//! that break.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test uses a part; helpers fail by panics"
)]

pub mod faraway;
pub mod probe;

use holdfast_lab_kubernetes::find::Kubernetes;
use holdfast_lab_kubernetes::image::Image;
use holdfast_lab_kubernetes::node::{Node, web_image};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

pub fn socket(node: &Node) -> PathBuf {
    node.path("run/k3s/containerd/containerd.sock")
}

/// The tests' web server with `mib` MiB that no registry and no disk can make smaller.
pub fn image(kubernetes: &Kubernetes, name: &str, mib: usize) -> Image {
    let mut ballast = vec![0u8; mib << 20];
    getrandom::fill(&mut ballast).unwrap();
    web_image(kubernetes.built(), name).unwrap().file("ballast", 0o644, ballast)
}

/// A thread in the node's network; it is told to end when this is dropped.
#[derive(Debug)]
pub struct InNetwork {
    lives: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Tells such a thread when to end.
pub struct End(Receiver<()>);

impl End {
    /// Waits for it for so long at most; whether it came.
    pub fn comes_within(&self, time: Duration) -> bool {
        self.0.recv_timeout(time) == Err(RecvTimeoutError::Disconnected)
    }
}

impl InNetwork {
    pub fn run(node: &Node, work: impl FnOnce(&End) + Send + 'static) -> Self {
        let network = node.network().unwrap();
        let (lives, end) = channel();
        let thread = std::thread::spawn(move || network.enter(|| work(&End(end))).unwrap());
        Self { lives: Some(lives), thread: Some(thread) }
    }
}

impl Drop for InNetwork {
    fn drop(&mut self) {
        drop(self.lives.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// The registry's name in images that come over a [`Way`]: containerd asks loopback addresses by
/// plain HTTP, and no other place instead when they do not answer.
pub const WAY: &str = "127.0.0.1:5001";

/// An uplink of some 8 MiB/s, so that there is something to see.
const PIECE: usize = 64 << 10;
const PIECE_EVERY: Duration = Duration::from_millis(8);

/// The way to the registry, which breaks when it is told to.
pub struct Way {
    state: Arc<WayState>,
    _thread: InNetwork,
}

struct WayState {
    load: Mutex<Load>,
    /// Told of every change of where it is cut.
    changed: Condvar,
}

struct Load {
    /// Bytes that came from the registry, in all.
    carried: u64,
    /// The way is cut once it has carried so many; 0 is cut already.
    cut_at: u64,
}

impl Load {
    fn is_cut(&self) -> bool {
        self.carried >= self.cut_at
    }
}

impl Way {
    /// From port 5001 of the node to its registry's.
    pub fn open(node: &Node) -> Self {
        let load = Mutex::new(Load { carried: 0, cut_at: u64::MAX });
        let state = Arc::new(WayState { load, changed: Condvar::new() });
        let shared = state.clone();
        let thread = InNetwork::run(node, move |end| {
            let listener = TcpListener::bind(WAY).unwrap();
            listener.set_nonblocking(true).unwrap();
            while !end.comes_within(Duration::ZERO) {
                // It looks up now and then, to see whether it shall end.
                let waits = &mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
                if poll(waits, PollTimeout::from(50u8)) != Ok(1) {
                    continue;
                }
                match listener.accept() {
                    Ok((client, _)) if !shared.is_cut() => shared.carry(client),
                    // Dropped: the caller sees a reset.
                    Ok(_) | Err(_) => {}
                }
            }
        });
        Self { state, _thread: thread }
    }

    pub fn carried(&self) -> u64 {
        self.state.load().carried
    }

    pub fn cut_after(&self, bytes: u64) {
        self.state.change(|load| load.cut_at = load.carried + bytes);
    }

    pub fn mend(&self) {
        self.state.change(|load| load.cut_at = u64::MAX);
    }
}

impl WayState {
    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut Load)) {
        change(&mut self.load());
        self.changed.notify_all();
    }

    fn is_cut(&self) -> bool {
        self.load().is_cut()
    }

    /// Until the next piece may go, unless it is cut before.
    fn pace(&self) {
        let waits = |load: &mut Load| !load.is_cut();
        drop(self.changed.wait_timeout_while(self.load(), PIECE_EVERY, waits));
    }

    fn carry(self: &Arc<Self>, client: TcpStream) {
        client.set_nonblocking(false).unwrap();
        let Ok(registry) = TcpStream::connect("127.0.0.1:5000") else { return };
        let (mut asks, mut asked) = (client.try_clone().unwrap(), registry.try_clone().unwrap());
        // Both end with their connections, at the latest with the node.
        std::thread::spawn(move || {
            let _ended = std::io::copy(&mut asks, &mut asked);
            let _gone = asked.shutdown(Shutdown::Write);
        });
        let state = self.clone();
        std::thread::spawn(move || {
            let (mut from, mut to) = (registry, client);
            let mut buffer = [0u8; PIECE];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                if state.is_cut() || to.write_all(&buffer[..length]).is_err() {
                    break;
                }
                state.change(|load| load.carried += length as u64);
                state.pace();
            }
            // What is on its way arrives; then nothing more comes.
            let _gone = (to.shutdown(Shutdown::Write), from.shutdown(Shutdown::Both));
        });
    }
}
