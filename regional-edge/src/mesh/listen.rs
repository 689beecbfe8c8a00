//! The speaking side: whoever dials hears whom we have up.
//!
//! Each listener is told from the latest set, not from a queue: one who is slow gets fewer and
//! larger changes, and one who takes nothing for three heartbeats is dropped.

use super::message::{Message, VERSION, difference};
use super::tls::{MeshTls, edge_name};
use crate::nodes::NodeKey;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Edges that may listen at once; a mesh has tens.
const LISTENERS: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(5);

/// What is said, by whom.
#[derive(Debug, Clone)]
pub struct Speaker {
    /// Our name.
    pub edge: String,
    /// How often something is said at the least.
    pub heartbeat: Duration,
    /// The certificates in force; none before admission, when nobody is let in.
    pub tls: watch::Receiver<Option<MeshTls>>,
    /// The edges that may listen.
    pub listeners: watch::Receiver<BTreeSet<String>>,
    /// The nodes that are up here.
    pub up: watch::Receiver<Arc<BTreeSet<NodeKey>>>,
}

/// Speaks to all who dial `listener`, until dropped.
pub async fn serve(listener: TcpListener, speaker: Speaker) {
    let mut talks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(_) if talks.len() >= LISTENERS => {}
                Ok((tcp, from)) => {
                    let speaker = speaker.clone();
                    talks.spawn(async move {
                        if let Err(error) = welcome(tcp, speaker).await {
                            tracing::debug!(%from, %error, "a listener of the mesh left");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the mesh cannot accept a connection");
                    // Out of descriptors, most likely: more haste would not make more.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            },
            Some(_) = talks.join_next() => {}
        }
    }
}

async fn welcome(tcp: TcpStream, speaker: Speaker) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let tls = speaker.tls.borrow().clone();
    let tls = tls.ok_or_else(|| io::Error::other("this edge has no certificate yet"))?;
    let stream = timeout(HANDSHAKE, tls.acceptor.accept(tcp)).await??;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let listener = shown.and_then(edge_name).unwrap_or_default();
    if !speaker.listeners.borrow().contains(&listener) {
        return Err(io::Error::other(format!("{listener:?} is no edge that the controller named")));
    }
    tracing::info!(edge = listener, "another edge listens");
    let (mut read, mut write) = split(stream);
    let mut byte = [0];
    tokio::select! {
        result = speak(&mut write, speaker) => result,
        // Listeners say nothing; what can come is the end.
        _ = read.read(&mut byte) => Ok(()),
    }
}

async fn speak(to: &mut (impl AsyncWriteExt + Unpin), mut speaker: Speaker) -> io::Result<()> {
    let heartbeat = speaker.heartbeat;
    let heartbeat_ms = u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX);
    let hello = Message::Hello { version: VERSION, edge: speaker.edge.clone(), heartbeat_ms };
    say(to, &hello, heartbeat).await?;
    let mut seq = 1;
    let mut told = speaker.up.borrow_and_update().clone();
    say(to, &Message::Snapshot { seq, up: (*told).clone() }, heartbeat).await?;
    loop {
        let message = match timeout(heartbeat, speaker.up.changed()).await {
            // The data plane is gone, and we with it.
            Ok(Err(_)) => return Ok(()),
            Ok(Ok(())) => {
                let now = speaker.up.borrow_and_update().clone();
                let change = difference(seq + 1, &told, &now);
                told = now;
                change
            }
            Err(_) => None,
        };
        seq += u64::from(message.is_some());
        say(to, &message.unwrap_or(Message::Alive { seq }), heartbeat).await?;
    }
}

async fn say(
    to: &mut (impl AsyncWriteExt + Unpin),
    message: &Message,
    heartbeat: Duration,
) -> io::Result<()> {
    timeout(heartbeat * 3, async {
        to.write_all(&message.to_line()).await?;
        to.flush().await
    })
    .await?
}
