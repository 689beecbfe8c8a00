//! A port of this machine that leads to a host of a world.
//!
//! The controller lives in a namespace; an ordinary `kubectl` runs on the machine. So a small process
//! listens on the machine's loopback and connects inside the namespace: the listening socket is
//! made before the namespace is entered and stays where it was made.

use crate::netns;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

/// Why a port cannot be forwarded.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The port cannot be listened on.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The host cannot be entered.
    #[error("cannot enter the host")]
    Host(#[source] netd::netns::NetNsError),
    /// The address cannot be told.
    #[error("cannot write the address down")]
    Tell(#[source] holdfast_durable::WriteError),
    /// The runtime failed.
    #[error("cannot forward")]
    Run(#[source] io::Error),
}

/// Listens on `listen` (port 0 for any), writes the real address to `address_file`, and carries every
/// connection to `to` inside the namespace. Ends only when it fails.
///
/// # Errors
/// [`ForwardError`]; a connection that fails is none.
pub fn run(
    listen: SocketAddr,
    netns: &str,
    to: SocketAddr,
    address_file: &Path,
) -> Result<(), ForwardError> {
    let listening = |error| ForwardError::Listen(listen, error);
    let listener = TcpListener::bind(listen).map_err(listening)?;
    listener.set_nonblocking(true).map_err(listening)?;
    let address = listener.local_addr().map_err(listening)?;
    holdfast_durable::write(address_file, format!("{address}\n").as_bytes(), 0o644)
        .map_err(ForwardError::Tell)?;
    let carry = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(serve(listener, to))
    };
    netns::inside(netns, carry).map_err(ForwardError::Host)?.map_err(ForwardError::Run)
}

async fn serve(listener: TcpListener, to: SocketAddr) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (mut client, _) = listener.accept().await?;
        connections.spawn(async move {
            let carried = async {
                let mut server = tokio::net::TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            };
            if let Err(error) = carried.await {
                tracing::debug!(%to, %error, "connection ended");
            }
        });
        // Those that ended would else be kept until the process ends.
        while connections.try_join_next().is_some() {}
    }
}
