//! The listening side: one task per other edge, which dials it again and again.

use super::Heard;
use super::feed::{Feed, FeedError};
use super::message::{MAX_LINE, Message};
use super::tls::{MeshTls, edge_name};
use holdfast_client::{Backoff, backoff};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{timeout, timeout_at};

/// TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(3);
/// An edge that is back should be heard soon; a mesh is small enough to ask often.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("this edge has no certificate yet")]
    NoCertificate,
    #[error("the certificate is that of {0:?}")]
    SomebodyElse(Option<String>),
    #[error("the connection broke")]
    Read(#[source] io::Error),
    #[error("it was silent for too long")]
    Silent,
    #[error("a line is not a message")]
    Line(#[source] serde_json::Error),
    #[error("a line is longer than {MAX_LINE} bytes")]
    LongLine,
    #[error("what it says cannot be followed")]
    Feed(#[source] FeedError),
    #[error("the other side closed the connection")]
    Ended,
}

/// An end without the farewell of TLS is an end; nothing that is said in the mesh can be cut short
/// without being seen.
fn ended_or(other: impl Fn(io::Error) -> DialError, error: io::Error) -> DialError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => DialError::Ended,
        _ => other(error),
    }
}

/// The tasks, by the edge that each listens to. Dropping this ends them.
#[derive(Debug)]
pub struct Listeners {
    tls: watch::Receiver<Option<MeshTls>>,
    from: Option<IpAddr>,
    tasks: BTreeMap<String, (SocketAddr, AbortHandle)>,
}

impl Listeners {
    /// None yet. Connections leave from `from`, our address on the backbone.
    pub fn new(tls: watch::Receiver<Option<MeshTls>>, from: Option<IpAddr>) -> Self {
        Listeners { tls, from, tasks: BTreeMap::new() }
    }

    /// Listens to exactly these edges from now on. `tell` is called with what each says; edges
    /// that are not listened to any more are [`Heard::Lost`].
    pub fn set<F>(&mut self, edges: &BTreeMap<String, SocketAddr>, tell: F)
    where
        F: Fn(&str, Heard) + Clone + Send + Sync + 'static,
    {
        self.tasks.retain(|edge, (at, task)| {
            let stays = edges.get(edge) == Some(at);
            if !stays {
                task.abort();
                tell(edge, Heard::Lost);
            }
            stays
        });
        for (edge, at) in edges {
            if !self.tasks.contains_key(edge) {
                let listen = listen(edge.clone(), *at, self.from, self.tls.clone(), tell.clone());
                let task = tokio::spawn(listen).abort_handle();
                self.tasks.insert(edge.clone(), (*at, task));
            }
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.tasks.values().for_each(|(_, task)| task.abort());
    }
}

async fn listen(
    edge: String,
    at: SocketAddr,
    from: Option<IpAddr>,
    mut tls: watch::Receiver<Option<MeshTls>>,
    tell: impl Fn(&str, Heard) + Send + Sync,
) {
    let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
    let mut last = String::new();
    loop {
        let mut followed = false;
        let ended = once(&edge, at, from, &tls, |heard| {
            if !followed {
                tracing::info!(edge, "another edge speaks");
            }
            followed = true;
            tell(&edge, heard);
        })
        .await;
        if followed {
            backoff.succeeded();
            tell(&edge, Heard::Lost);
        }
        let Err(error) = ended;
        let chain = holdfast_api::chain(&error);
        // Every few seconds the same: once is enough.
        if followed || chain != last {
            tracing::warn!(edge, %at, error = chain, "another edge is not heard");
        }
        last = chain;
        let pause = backoff.failed(backoff::seed());
        if matches!(error, DialError::NoCertificate) {
            // Admission may come at any moment.
            let _ = timeout(pause, tls.changed()).await;
        } else {
            tokio::time::sleep(pause).await;
        }
    }
}

async fn once(
    edge: &str,
    at: SocketAddr,
    from: Option<IpAddr>,
    tls: &watch::Receiver<Option<MeshTls>>,
    mut tell: impl FnMut(Heard) + Send,
) -> Result<std::convert::Infallible, DialError> {
    let tls = tls.borrow().clone().ok_or(DialError::NoCertificate)?;
    let connected = timeout(CONNECT, async {
        let tcp = dial(at, from).await?;
        // Certificates of edges name no host; whose it is is compared below.
        tls.connector.connect(at.ip().into(), tcp).await
    });
    let stream = connected
        .await
        .map_err(|_| DialError::Connect(io::ErrorKind::TimedOut.into()))?
        .map_err(|error| ended_or(DialError::Connect, error))?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let name = shown.and_then(edge_name);
    if name.as_deref() != Some(edge) {
        return Err(DialError::SomebodyElse(name));
    }
    let mut feed = Feed::new(edge, Instant::now());
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
        let mut bounded = (&mut lines).take(limit);
        // The time is for a whole line, so dripping bytes does not keep a dead edge alive.
        let read = timeout_at(feed.due().into(), bounded.read_until(b'\n', &mut line));
        match read.await {
            Err(_) => return Err(DialError::Silent),
            Ok(Err(error)) => return Err(ended_or(DialError::Read, error)),
            Ok(Ok(0)) => return Err(DialError::Ended),
            Ok(Ok(_)) => {}
        }
        if line.last() != Some(&b'\n') {
            let long = line.len() >= MAX_LINE;
            return Err(if long { DialError::LongLine } else { DialError::Ended });
        }
        let message: Message = serde_json::from_slice(&line).map_err(DialError::Line)?;
        if let Some(heard) = feed.on(message, Instant::now()).map_err(DialError::Feed)? {
            tell(heard);
        }
        if line.capacity() > 1 << 16 {
            // A snapshot is large and rare.
            line = Vec::new();
        }
    }
}

async fn dial(at: SocketAddr, from: Option<IpAddr>) -> io::Result<tokio::net::TcpStream> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(from) = from.filter(|from| from.is_ipv4() == at.is_ipv4()) {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    let stream = socket.connect(at).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
