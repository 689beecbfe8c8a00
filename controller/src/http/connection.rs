//! One connection from its first byte to its end, and how long its client may take.
//!
//! ```text
//!  accepted ──handshake──▶ TLS ──headers──▶ first request ──▶ requests, watches … ──▶ closed
//! ```
//!
//! hyper limits the headers of HTTP/1 itself, but only once it knows which version is spoken, and
//! of HTTP/2 nothing before the preface is complete. So whoever has not asked for anything in time
//! is cut off here. Later, a client of HTTP/2 that stops in the middle of a frame cannot answer
//! pings any more and goes the same way as one that vanished. Bodies have a limit of their own
//! where they are read; answers end by TCP's.

use super::dispatch::{App, respond};
use crate::trust::{PeerVerifier, peer};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// Unacknowledged data for so long means that the client is gone (tcp(7), TCP_USER_TIMEOUT).
const GONE: Duration = Duration::from_secs(60);
/// Requests that one HTTP/2 connection may have open; kubectl and controllers hold many watches.
const STREAMS: u32 = 1_000;

/// How long clients may take. All are longer than zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// From there to the end of the first request's headers; with HTTP/1 also from the end of one
    /// answer to the end of the next request's headers.
    pub headers: Duration,
    /// HTTP/2: a client that is silent for so long is asked whether it is there, and has as long
    /// to answer.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            handshake: Duration::from_secs(10),
            headers: Duration::from_secs(10),
            silence: Duration::from_secs(20),
        }
    }
}

/// What every connection needs.
pub(super) struct Serving {
    pub(super) app: Arc<App>,
    pub(super) acceptor: TlsAcceptor,
    pub(super) verifier: Arc<PeerVerifier>,
    pub(super) limits: Limits,
}

/// Serves one connection until it ends, the client is too slow, or the server stops.
pub(super) async fn serve(serving: Arc<Serving>, stream: TcpStream, from: SocketAddr) {
    let limits = &serving.limits;
    // Both only make things better.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(GONE));
    let handshake = serving.acceptor.accept(stream);
    let stream = match tokio::time::timeout(limits.handshake, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%from, %error, "handshake failed"),
        Err(_) => return tracing::debug!(%from, "handshake took too long"),
    };
    let app = serving.app.clone();
    let certificates = stream.get_ref().1.peer_certificates();
    let identity = Arc::new(peer::identify(&serving.verifier, certificates, (app.clock)()));
    let mut shutdown = app.shutdown.clone();
    let asked = Arc::new(AtomicBool::new(false));
    let told = asked.clone();
    let service = service_fn(move |request| {
        told.store(true, Ordering::Relaxed);
        let (app, identity) = (app.clone(), identity.clone());
        async move { Ok::<_, Infallible>(respond(&app, &identity, request).await) }
    });
    let builder = http(limits);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let stopped = async {
        let _ = shutdown.wait_for(|stop| *stop).await;
    };
    let mute = async {
        tokio::time::sleep(limits.headers).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    };
    // Waiting for signal and time loses nothing; the connection itself is dropped only when
    // nothing was asked.
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopped => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = mute => return tracing::debug!(%from, "asked for nothing in time"),
    };
    if let Err(error) = result {
        tracing::debug!(%from, %error, "connection ended");
    }
}

fn http(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.headers);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.silence)
        .keep_alive_timeout(limits.silence)
        .max_concurrent_streams(STREAMS);
    builder
}
