//! All parts together, for one edge.
//!
//! The data plane starts as soon as this edge's address inside the tunnels is known, from the disk
//! or from the controller, and is made anew when that address changes. Everything ends when the
//! future is dropped.

use crate::controller::Uplink;
use crate::dataplane::{self, Dataplane, Event};
use crate::knowledge::Knowledge;
use crate::local_api;
use crate::mesh::dial::Listeners;
use crate::mesh::listen::{self, Speaker};
use crate::nodes::NodeKey;
use crate::settings::Settings;
use crate::state::{DataState, EdgeState};
use anyhow::Context;
use holdfast_api::paths::Root;
use holdfast_identity::WireguardKey;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// An address may appear later than we do.
const AGAIN: Duration = Duration::from_secs(2);

/// Runs an edge below `root` until it cannot go on, which it nearly always can.
///
/// # Errors
/// The key cannot be had, or the local socket cannot be made.
pub async fn run(root: Root, settings: Settings) -> anyhow::Result<()> {
    let settings = Arc::new(settings);
    let key = WireguardKey::load_or_create(&root.identity_dir()).context("the WireGuard key")?;
    let (data_sender, data) = watch::channel(Arc::<DataState>::default());
    let (up_sender, up) = watch::channel(Arc::<BTreeSet<NodeKey>>::default());
    let uplink = Uplink::start(root.clone(), settings.clone(), data.clone());

    let mut tasks = JoinSet::new();
    let socket = local_api::bind(&root.run_dir().join("edge.sock"))?;
    tasks.spawn(answer_probes(settings.listen_probe, data.clone()));
    let controller = uplink.state();
    let name = settings.name.clone();
    tasks.spawn(async move {
        let describe = Arc::new(move || EdgeState {
            name: name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            controller: controller.borrow().clone(),
            data: (**data.borrow()).clone(),
        });
        local_api::serve(socket, describe).await.context("the local socket")
    });

    let mut mesh = Listeners::new(uplink.mesh(), settings.backbone.map(|at| at.ip()));
    let mut knowledge = uplink.knowledge();
    let mut running: Option<Running> = None;
    let (listeners, may_listen) = watch::channel(BTreeSet::new());
    let mut speaking = false;
    loop {
        let known = knowledge.borrow_and_update().clone();
        listeners.send_replace(known.neighbours.keys().cloned().collect());
        if let Some(overlay) = known.overlay {
            if running.as_ref().is_none_or(|r| r.overlay != overlay) {
                // The old one lets go of link and port before the new one takes them.
                drop(running.take());
                let options = options(&root, &settings, &known, overlay, &key);
                let dataplane = Dataplane::start(options).context("the data plane's thread")?;
                running = Some(Running::start(
                    dataplane,
                    overlay,
                    data_sender.clone(),
                    up_sender.clone(),
                ));
                // Whoever was told by the old one is told again by the new connections.
                mesh = Listeners::new(uplink.mesh(), settings.backbone.map(|at| at.ip()));
            }
            if let Some(running) = &running {
                tell(&running.dataplane, &known, &settings, &mut mesh);
            }
        }
        if !speaking
            && !known.edge.is_empty()
            && let Some(at) = settings.listen_backbone
        {
            speaking = true;
            let speaker = Speaker {
                edge: known.edge.clone(),
                heartbeat: settings.heartbeat,
                tls: uplink.mesh(),
                listeners: may_listen.clone(),
                up: up.clone(),
            };
            tasks.spawn(speak(at, speaker));
        }
        tokio::select! {
            changed = knowledge.changed() => changed.context("the talk with the controller ended")?,
            Some(ended) = tasks.join_next() => ended.context("a task")??,
        }
    }
}

struct Running {
    overlay: IpAddr,
    dataplane: Dataplane,
    /// Hands on what the data plane publishes; the receivers outlive a data plane.
    _relays: JoinSet<()>,
}

impl Running {
    fn start(
        dataplane: Dataplane,
        overlay: IpAddr,
        data: watch::Sender<Arc<DataState>>,
        up: watch::Sender<Arc<BTreeSet<NodeKey>>>,
    ) -> Self {
        let mut relays = JoinSet::new();
        relays.spawn(relay(dataplane.state(), data));
        relays.spawn(relay(dataplane.up(), up));
        Running { overlay, dataplane, _relays: relays }
    }
}

async fn relay<T: Clone>(mut from: watch::Receiver<T>, to: watch::Sender<T>) {
    loop {
        let value = from.borrow_and_update().clone();
        to.send_replace(value);
        if from.changed().await.is_err() {
            return;
        }
    }
}

fn options(
    root: &Root,
    settings: &Settings,
    known: &Knowledge,
    overlay: IpAddr,
    key: &WireguardKey,
) -> dataplane::Options {
    dataplane::Options {
        edge: known.edge.clone(),
        overlay,
        private_key: key.path().to_path_buf(),
        listen_port: settings.listen_port,
        kinds: settings.kinds.clone(),
        mtu: settings.mtu,
        packet_pages: settings.packet_pages,
        backbone: settings.backbone.map(|at| at.ip()),
        uapi: Some((root.wireguard_dir(), tokio::runtime::Handle::current())),
    }
}

fn tell(dataplane: &Dataplane, known: &Knowledge, settings: &Settings, mesh: &mut Listeners) {
    // Without a backbone of our own there is no way to those who have one.
    let neighbours = known.neighbours.iter().filter(|_| settings.backbone.is_some());
    let edges: std::collections::BTreeMap<String, SocketAddr> =
        neighbours.map(|(name, edge)| (name.clone(), edge.backbone)).collect();
    let mut protected = known.protected.clone();
    protected.extend(settings.backbone.map(|at| at.ip()));
    protected.extend(settings.controller.host().parse::<IpAddr>().ok());
    let backbone = edges.iter().map(|(name, at)| (name.clone(), at.ip())).collect();
    dataplane.tell(Event::Edges { backbone, protected });
    if let Some(peers) = &known.peers {
        dataplane.tell(Event::Peers(peers.clone()));
    }
    let events = dataplane.sender();
    mesh.set(&edges, move |edge, heard| {
        // The data plane is gone only when everything ends.
        let _ = events.send(Event::Mesh { edge: edge.into(), heard });
    });
}

/// Answers probes while tunnels can end here: a node that measures an edge will want to use it.
async fn answer_probes(
    at: SocketAddr,
    mut data: watch::Receiver<Arc<DataState>>,
) -> anyhow::Result<()> {
    loop {
        wait_for(&mut data, |data| data.kind.is_some()).await?;
        let answered = async {
            let socket = UdpSocket::bind(at).await?;
            tunnels::probe::serve(&socket).await
        };
        tokio::select! {
            result = answered => if let Err(error) = result {
                tracing::warn!(%at, %error, "probes are not answered");
                tokio::time::sleep(AGAIN).await;
            },
            // The socket is closed with it.
            ended = wait_for(&mut data, |data| data.kind.is_none()) => ended?,
        }
    }
}

async fn wait_for(
    data: &mut watch::Receiver<Arc<DataState>>,
    holds: impl Fn(&DataState) -> bool,
) -> anyhow::Result<()> {
    data.wait_for(|data| holds(data)).await.map(drop).context("the data plane's state")
}

async fn speak(at: SocketAddr, speaker: Speaker) -> anyhow::Result<()> {
    loop {
        match TcpListener::bind(at).await {
            Ok(listener) => listen::serve(listener, speaker.clone()).await,
            Err(error) => tracing::warn!(%at, %error, "other edges cannot listen to this one"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::tunnel::TunnelKind;
    use tunnels::probe::{Kind, PACKET_BYTES, Probe};

    #[tokio::test]
    async fn probes_are_answered_only_while_tunnels_can_end_here() {
        // A port that is free now; the window until it is taken again is ours alone on loopback.
        let at = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (data, receiver) = watch::channel(Arc::<DataState>::default());
        let task = tokio::spawn(answer_probes(at, receiver));
        let asker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        asker.connect(at).await.unwrap();
        let answered = async || {
            let _ = asker.send(&Probe { kind: Kind::Request, nonce: 7 }.emit()).await;
            let mut reply = [0; PACKET_BYTES];
            let wait = Duration::from_millis(50);
            matches!(tokio::time::timeout(wait, asker.recv(&mut reply)).await, Ok(Ok(_)))
        };
        assert!(!answered().await);
        let able = DataState { kind: Some(TunnelKind::WireguardUserspace), ..DataState::default() };
        data.send_replace(Arc::new(able));
        while !answered().await {}
        data.send_replace(Arc::default());
        while answered().await {}
        task.abort();
    }
}
