//! Edges talking over real TLS on loopback.

#![allow(clippy::unwrap_used)]

use holdfast_poll::until_async;
use regional_edge::mesh::Heard;
use regional_edge::mesh::dial::Listeners;
use regional_edge::mesh::listen::{self, Speaker};
use regional_edge::mesh::message::{Message, VERSION};
use regional_edge::mesh::tls::MeshTls;
use regional_edge::nodes::NodeKey;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Three of them without a word are the end; a machine that is busy is silent for less.
const HEARTBEAT: Duration = Duration::from_millis(700);

/// In the executable, so that it can be taken to another machine.
fn pem(name: &str) -> &'static str {
    macro_rules! files {
        ($($file:literal)+) => {
            match name {
                $( $file => include_str!(concat!("certificates/", $file)), )+
                other => panic!("no file {other}"),
            }
        };
    }
    files!(
        "ca.pem" "other-ca.pem" "re-1.pem" "re-1.key" "re-2.pem" "re-2.key" "re-2-old.pem"
        "re-2-old.key" "impostor.pem" "impostor.key" "node.pem" "node.key" "sly-node.pem"
        "sly-node.key"
    )
}

fn tls(who: &str, ca: &str) -> MeshTls {
    let (chain, key) = (pem(&format!("{who}.pem")), pem(&format!("{who}.key")));
    MeshTls::from_pem(chain, pem(&format!("{ca}.pem")), key).unwrap()
}

fn nodes(names: &[&str]) -> BTreeSet<NodeKey> {
    names.iter().map(|name| NodeKey::new("acme", name).unwrap()).collect()
}

/// An edge that speaks.
struct Edge {
    at: SocketAddr,
    up: watch::Sender<Arc<BTreeSet<NodeKey>>>,
    tls: watch::Sender<Option<MeshTls>>,
    _listeners: watch::Sender<BTreeSet<String>>,
    task: JoinHandle<()>,
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Edge {
    /// Waits until so many follow the nodes that are up.
    async fn followers(&self, what: &str, mut enough: impl FnMut(usize) -> bool) {
        until_async(what, Duration::from_secs(60), async || match self.up.receiver_count() {
            count if enough(count) => Ok(()),
            count => Err(count),
        })
        .await;
    }
}

async fn speaking(name: &str, tls: Option<MeshTls>, at: SocketAddr) -> Edge {
    let listener = TcpListener::bind(at).await.unwrap();
    let at = listener.local_addr().unwrap();
    let (up, up_receiver) = watch::channel(Arc::new(nodes(&["a"])));
    let (tls, tls_receiver) = watch::channel(tls);
    let (_listeners, listeners) = watch::channel(["re-1".to_string()].into());
    let speaker = Speaker {
        edge: name.into(),
        heartbeat: HEARTBEAT,
        tls: tls_receiver,
        listeners,
        up: up_receiver,
    };
    Edge { at, up, tls, _listeners, task: tokio::spawn(listen::serve(listener, speaker)) }
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// What `re-1` hears of `re-2` at `at`.
struct Ear {
    listeners: Listeners,
    heard: mpsc::UnboundedReceiver<Heard>,
    sender: mpsc::UnboundedSender<Heard>,
    _tls: watch::Sender<Option<MeshTls>>,
}

impl Ear {
    fn new(at: SocketAddr) -> Self {
        let (keep, tls) = watch::channel(Some(tls("re-1", "ca")));
        let (sender, heard) = mpsc::unbounded_channel();
        let mut ear = Ear { listeners: Listeners::new(tls, None), heard, sender, _tls: keep };
        ear.set(&[("re-2", at)]);
        ear
    }

    fn set(&mut self, edges: &[(&str, SocketAddr)]) {
        let edges: BTreeMap<_, _> = edges.iter().map(|(e, at)| (e.to_string(), *at)).collect();
        let sender = self.sender.clone();
        self.listeners.set(&edges, move |edge, heard| {
            assert_eq!(edge, "re-2");
            let _ = sender.send(heard);
        });
    }

    async fn next(&mut self) -> Heard {
        timeout(Duration::from_secs(60), self.heard.recv()).await.unwrap().unwrap()
    }

    /// Nothing is heard for a while in which much would have been.
    async fn hears_nothing(&mut self) {
        self.hears_nothing_for(Duration::from_millis(500)).await;
    }

    async fn hears_nothing_for(&mut self, pause: Duration) {
        let heard = timeout(pause, self.heard.recv()).await;
        assert!(heard.is_err(), "{heard:?}");
    }
}

#[tokio::test]
async fn edges_hear_snapshots_changes_and_the_end() {
    let edge = speaking("re-2", Some(tls("re-2", "ca")), any()).await;
    let mut ear = Ear::new(edge.at);
    assert_eq!(ear.next().await, Heard::All(nodes(&["a"])));
    edge.up.send_replace(Arc::new(nodes(&["b", "c"])));
    let change = Heard::Changed { up: nodes(&["b", "c"]), down: nodes(&["a"]) };
    assert_eq!(ear.next().await, change);
    // Heartbeats keep it alive and say nothing.
    ear.hears_nothing_for(HEARTBEAT * 4).await;

    let at = edge.at;
    drop(edge);
    assert_eq!(ear.next().await, Heard::Lost);
    let edge = speaking("re-2", Some(tls("re-2", "ca")), at).await;
    assert_eq!(ear.next().await, Heard::All(nodes(&["a"])));
    ear.set(&[]);
    assert_eq!(ear.next().await, Heard::Lost);
    edge.up.send_replace(Arc::new(nodes(&["x"])));
    ear.hears_nothing().await;
}

#[tokio::test]
async fn only_edges_of_the_same_controller_are_heard() {
    for (who, ca, name) in [
        // Another controller's edge.
        ("impostor", "other-ca", "re-2"),
        // A node of the same controller, and one whose name looks like an edge's.
        ("node", "ca", "re-2"),
        ("sly-node", "ca", "re-2"),
        // An edge of the same controller that is not the one at this address.
        ("re-1", "ca", "re-1"),
    ] {
        // What is listened to is `re-2`.
        let edge = speaking(name, Some(tls(who, ca)), any()).await;
        let mut ear = Ear::new(edge.at);
        ear.hears_nothing().await;
    }
}

#[tokio::test]
async fn only_edges_of_the_same_controller_may_listen() {
    let edge = speaking("re-2", Some(tls("re-2", "ca")), any()).await;
    // Who trusts another CA gives up himself; so all who dial trust the right one here.
    let read = async |who: &str| {
        let tcp = TcpStream::connect(edge.at).await.unwrap();
        let mut stream = tls(who, "ca").connector.connect(edge.at.ip().into(), tcp).await.unwrap();
        let mut byte = [0];
        stream.read(&mut byte).await
    };
    assert_eq!(read("re-1").await.unwrap(), 1);
    for who in ["impostor", "node", "sly-node"] {
        // In TLS 1.3 the refusal of a client's certificate comes after the handshake.
        let error = read(who).await.unwrap_err();
        assert!(error.to_string().contains("alert"), "{who}: {error}");
    }
    // An edge, but not one that the controller named.
    assert!(matches!(read("re-2").await, Ok(0) | Err(_)));
}

/// The controller may have been away for longer than certificates live.
#[tokio::test]
async fn certificates_that_ran_out_are_good_enough_between_edges() {
    let edge = speaking("re-2", Some(tls("re-2-old", "ca")), any()).await;
    let mut ear = Ear::new(edge.at);
    assert_eq!(ear.next().await, Heard::All(nodes(&["a"])));
}

#[tokio::test]
async fn before_admission_nobody_is_let_in_and_afterwards_at_once() {
    let edge = speaking("re-2", None, any()).await;
    let mut ear = Ear::new(edge.at);
    ear.hears_nothing().await;
    edge.tls.send_replace(Some(tls("re-2", "ca")));
    assert_eq!(ear.next().await, Heard::All(nodes(&["a"])));
}

/// A speaker with the right certificate that says these bytes and then nothing.
async fn saying(lines: Vec<Vec<u8>>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(any()).await.unwrap();
    let at = listener.local_addr().unwrap();
    let tls = tls("re-2", "ca");
    let task = tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = tls.acceptor.accept(tcp).await else { continue };
            for line in &lines {
                let _ = stream.write_all(line).await;
            }
            let _ = stream.flush().await;
            open.push(stream);
        }
    });
    (at, task)
}

#[tokio::test]
async fn silence_and_nonsense_end_what_was_believed() {
    let hello = Message::Hello { version: VERSION, edge: "re-2".into(), heartbeat_ms: 50 };
    let snapshot = Message::Snapshot { seq: 1, up: nodes(&["a"]) };
    let begin = [hello.to_line(), snapshot.to_line()];
    let gap = Message::Change { seq: 3, up: nodes(&["b"]), down: nodes(&[]) };
    for end in [
        Vec::new(),
        b"garbage\n".to_vec(),
        b"{\"type\":\"alive\"".to_vec(),
        gap.to_line(),
        begin[1].clone(),
    ] {
        let mut lines = begin.to_vec();
        lines.push(end.clone());
        let (at, task) = saying(lines).await;
        let mut ear = Ear::new(at);
        assert_eq!(ear.next().await, Heard::All(nodes(&["a"])));
        assert_eq!(ear.next().await, Heard::Lost, "{:?}", String::from_utf8_lossy(&end));
        // And it is tried again.
        assert_eq!(ear.next().await, Heard::All(nodes(&["a"])));
        task.abort();
    }
}

#[tokio::test]
async fn who_listens_and_reads_nothing_is_dropped() {
    let edge = speaking("re-2", Some(tls("re-2", "ca")), any()).await;
    let tcp = TcpStream::connect(edge.at).await.unwrap();
    let stream = tls("re-1", "ca").connector.connect(edge.at.ip().into(), tcp).await.unwrap();
    // One follows the nodes to take people in, and one for each who was taken in.
    edge.followers("the listener is taken in", |count| count == 2).await;
    // More than the buffers in between take.
    let many: Vec<String> = (0..40_000).map(|n| format!("{n:0>60}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let sets = [Arc::new(nodes(&many)), Arc::new(nodes(&[]))];
    let mut sets = sets.iter().cycle();
    edge.followers("the listener is given up", |count| {
        if let Some(set) = sets.next() {
            edge.up.send_replace(set.clone());
        }
        count == 1
    })
    .await;
    // What had been sent is read, and then comes the end.
    let (mut read, _write) = tokio::io::split(stream);
    let mut sink = vec![0; 1 << 20];
    let end = timeout(Duration::from_secs(60), async {
        while !matches!(read.read(&mut sink).await, Ok(0) | Err(_)) {}
    });
    end.await.unwrap();
    // Others are not held up.
    let mut ear = Ear::new(edge.at);
    assert!(matches!(ear.next().await, Heard::All(_)));
}
