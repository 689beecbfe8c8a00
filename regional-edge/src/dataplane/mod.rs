//! The data plane: a thread that owns the tunnels' ends and the routes to them.
//!
//! It is told who may be served, what other edges say and how liveness changes ([`Event`]), keeps
//! what follows from that ([`Model`], pure), and brings the kernel and the WireGuard device
//! (`ends`) to it. It knows no controller: while nobody tells it anything it goes on.
//!
//! Liveness has a short way: when a node's session goes down its routes are withdrawn by one
//! message to the kernel, without looking around. Everything else is done by comparing what the
//! kernel has with what is wanted, which also mends what others changed: at once when something
//! structural changed, soon after somebody touched the kernel's network, and once a minute.
//!
//! Fails: when the device or the addresses cannot be had, that is published with its reason and
//! tried again with backoff; meanwhile events are still taken in.

mod ends;
mod error;
mod model;
mod rounds;
mod thread;

pub use model::Model;

use crate::mesh::Heard;
use crate::nodes::NodeKey;
use crate::state::DataState;
use holdfast_api::resources::TunnelPeer;
use holdfast_api::tunnel::{Pages, TunnelKind};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use tokio::sync::watch;
use tunnels::wireguard::DeviceStatus;

/// How a data plane is set up; for its whole life.
#[derive(Debug, Clone)]
pub struct Options {
    /// This edge's name.
    pub edge: String,
    /// Its address inside the tunnels.
    pub overlay: IpAddr,
    /// Where its WireGuard key lies.
    pub private_key: PathBuf,
    /// UDP port of WireGuard; 0 lets the kernel choose.
    pub listen_port: u16,
    /// How tunnels are made, by preference.
    pub kinds: Vec<TunnelKind>,
    /// Bytes of the largest packet inside the tunnels.
    pub mtu: u32,
    /// The pages that packets are in where tunnels are in userspace, as far as the pool has them.
    pub packet_pages: Pages,
    /// This edge's address on the backbone.
    pub backbone: Option<IpAddr>,
    /// Where the UAPI socket for wg(8) is published, and the runtime that serves it; nowhere when
    /// absent.
    pub uapi: Option<(PathBuf, tokio::runtime::Handle)>,
}

/// What the data plane is told.
#[derive(Debug)]
pub enum Event {
    /// These are all peers that the controller knows for this edge.
    Peers(Vec<TunnelPeer>),
    /// These are the other edges on the backbone, and addresses that no site may cover.
    Edges {
        /// Addresses on the backbone by name.
        backbone: BTreeMap<String, IpAddr>,
        /// Addresses of edges and of the controller.
        protected: BTreeSet<IpAddr>,
    },
    /// Another edge said something, or is gone.
    Mesh {
        /// Which.
        edge: String,
        /// What.
        heard: Heard,
    },
    /// A node's session came up or went down.
    Liveness {
        /// The node.
        node: NodeKey,
        /// Whether data passes.
        up: bool,
    },
    /// What the device has done so far.
    Device(DeviceStatus),
    /// The end.
    Stop,
}

/// A running data plane. Dropping it ends the thread and takes the tunnels down.
#[derive(Debug)]
pub struct Dataplane {
    events: mpsc::Sender<Event>,
    up: watch::Receiver<Arc<BTreeSet<NodeKey>>>,
    state: watch::Receiver<Arc<DataState>>,
    thread: Option<JoinHandle<()>>,
}

impl Dataplane {
    /// Starts the thread, in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub fn start(options: Options) -> io::Result<Self> {
        let (events, inbox) = mpsc::channel();
        let (up_sender, up) = watch::channel(Arc::default());
        let (state_sender, state) = watch::channel(Arc::default());
        let own = events.clone();
        let thread = std::thread::Builder::new().name("dataplane".into()).spawn(move || {
            thread::Thread::new(options, own, up_sender, state_sender).run(&inbox);
        })?;
        Ok(Dataplane { events, up, state, thread: Some(thread) })
    }

    /// Tells it something. Once it has ended, nothing happens.
    pub fn tell(&self, event: Event) {
        // The thread only ends when this value is dropped, or by a panic that was logged.
        let _ = self.events.send(event);
    }

    /// A way to tell it something from elsewhere.
    pub fn sender(&self) -> mpsc::Sender<Event> {
        self.events.clone()
    }

    /// The nodes that are up.
    pub fn up(&self) -> watch::Receiver<Arc<BTreeSet<NodeKey>>> {
        self.up.clone()
    }

    /// What can be said about it.
    pub fn state(&self) -> watch::Receiver<Arc<DataState>> {
        self.state.clone()
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        let _ = self.events.send(Event::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the data plane panicked");
        }
    }
}
