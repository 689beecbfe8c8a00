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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl InNetwork {
    pub fn run(node: &Node, work: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let network = node.network().unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let told = ends.clone();
        let thread = std::thread::spawn(move || network.enter(|| work(&told)).unwrap());
        Self { ends, thread: Some(thread) }
    }
}

impl Drop for InNetwork {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// The registry's name in images that come over a [`Way`]: containerd asks loopback addresses by
/// plain HTTP, and no other place instead when they do not answer.
pub const WAY: &str = "127.0.0.1:5001";

/// The way to the registry, which breaks when it is told to.
pub struct Way {
    state: Arc<WayState>,
    _thread: InNetwork,
}

#[derive(Default)]
struct WayState {
    /// Bytes that came from the registry, in all.
    carried: AtomicU64,
    /// The way is cut once it has carried so many; 0 is cut already.
    cut_at: AtomicU64,
}

impl Way {
    /// From port 5001 of the node to its registry's.
    pub fn open(node: &Node) -> Self {
        let state = Arc::new(WayState::default());
        state.cut_at.store(u64::MAX, Ordering::Relaxed);
        let shared = state.clone();
        let thread = InNetwork::run(node, move |ends| {
            let listener = TcpListener::bind(WAY).unwrap();
            listener.set_nonblocking(true).unwrap();
            while !ends.load(Ordering::Relaxed) {
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
        self.state.carried.load(Ordering::Relaxed)
    }

    pub fn cut_after(&self, bytes: u64) {
        self.state.cut_at.store(self.carried() + bytes, Ordering::Relaxed);
    }

    pub fn mend(&self) {
        self.state.cut_at.store(u64::MAX, Ordering::Relaxed);
    }
}

impl WayState {
    fn is_cut(&self) -> bool {
        self.carried.load(Ordering::Relaxed) >= self.cut_at.load(Ordering::Relaxed)
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
            let mut buffer = [0u8; 64 << 10];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                if state.is_cut() || to.write_all(&buffer[..length]).is_err() {
                    break;
                }
                state.carried.fetch_add(length as u64, Ordering::Relaxed);
                // An uplink of some 20 MiB/s, so that there is something to see.
                std::thread::sleep(Duration::from_millis(3));
            }
            // What is on its way arrives; then nothing more comes.
            let _gone = (to.shutdown(Shutdown::Write), from.shutdown(Shutdown::Both));
        });
    }
}
