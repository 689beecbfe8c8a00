//! One HTTP/2 connection that is kept, and made anew when it is gone.
//!
//! The connection's task ends by itself when the last handle to it (this slot, or the body of a
//! watch) is dropped or the peer goes away. While a request or a watch is under way the peer is
//! asked for a sign of life (HTTP/2 PING), so a dead connection is noticed within
//! `Options::ping_every + Options::ping_timeout`; an idle connection costs nothing.

use crate::client::Options;
use crate::error::HANDSHAKE;
use crate::plain::Plain;
use crate::{ClientError, Endpoint};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

/// Enough for a page of a list in flight; a watch that is read slowly cannot starve the rest.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const MAX_HEADERS: u32 = 32 * 1024;

type Sender = SendRequest<Full<Bytes>>;

/// The kept connection.
pub(crate) struct Connection {
    pub(crate) endpoint: Endpoint,
    tls: TlsConnector,
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    sender: Option<Sender>,
    /// Counts connections, so that a late failure of an old one does not close a new one.
    serial: u64,
}

impl Connection {
    pub(crate) fn new(endpoint: Endpoint, config: Arc<rustls::ClientConfig>) -> Self {
        Connection { endpoint, tls: TlsConnector::from(config), slot: Mutex::default() }
    }

    /// Sends a request and waits for the head of the answer; also tells until when the whole of it
    /// may take, which begins when there is a connection.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        options: &Options,
    ) -> Result<(Response<Incoming>, Instant), ClientError> {
        let mut request = request;
        // A kept connection may have died since its last use. Such a request was not sent at
        // all, so it may be sent once more whatever its method is.
        for fresh in [false, true] {
            let (mut sender, serial) = self.sender(fresh, options).await?;
            let deadline = Instant::now() + options.request_timeout;
            let answer = match timeout_at(deadline, sender.try_send_request(request)).await {
                Ok(answer) => answer,
                Err(_) => {
                    self.forget(serial).await;
                    return Err(self.timed_out("request", options));
                }
            };
            match answer {
                Ok(response) => return Ok((response, deadline)),
                Err(mut failed) => {
                    self.forget(serial).await;
                    match failed.take_message() {
                        Some(unsent) if !fresh => request = unsent,
                        _ => return Err(self.unreachable("request", failed.into_error())),
                    }
                }
            }
        }
        Err(self.unreachable("request", io::Error::from(io::ErrorKind::ConnectionReset)))
    }

    pub(crate) fn unreachable(
        &self,
        attempt: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> ClientError {
        let endpoint = self.endpoint.to_string();
        ClientError::Unreachable { endpoint, attempt, source: source.into() }
    }

    fn timed_out(&self, attempt: &'static str, options: &Options) -> ClientError {
        let after = match attempt {
            "request" => options.request_timeout,
            _ => options.connect_timeout,
        };
        ClientError::TimedOut { endpoint: self.endpoint.to_string(), attempt, after }
    }

    async fn sender(&self, fresh: bool, options: &Options) -> Result<(Sender, u64), ClientError> {
        let mut slot = self.slot.lock().await;
        match &slot.sender {
            Some(sender) if !fresh && !sender.is_closed() => Ok((sender.clone(), slot.serial)),
            _ => {
                slot.sender = None;
                let sender = self.connect(options).await?;
                slot.serial += 1;
                slot.sender = Some(sender.clone());
                Ok((sender, slot.serial))
            }
        }
    }

    async fn forget(&self, serial: u64) {
        let mut slot = self.slot.lock().await;
        if slot.serial == serial {
            slot.sender = None;
        }
    }

    async fn connect(&self, options: &Options) -> Result<Sender, ClientError> {
        let deadline = Instant::now() + options.connect_timeout;
        let late = |attempt| move |_: Elapsed| self.timed_out(attempt, options);
        let tcp = timeout_at(deadline, self.dial(options)).await.map_err(late("connect"))??;
        // Requests are small and wait for their answer.
        tcp.set_nodelay(true).map_err(|error| self.unreachable("connect", error))?;
        let name = self.endpoint.server_name();
        let tls = timeout_at(deadline, self.tls.connect(name, tcp))
            .await
            .map_err(late("TLS handshake"))?
            .map_err(|error| ClientError::handshake(self.endpoint.to_string(), error))?;
        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(ClientError::Protocol {
                endpoint: self.endpoint.to_string(),
                attempt: HANDSHAKE.into(),
                why: "the server does not speak HTTP/2".into(),
            });
        }
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADERS)
            .keep_alive_interval(options.ping_every)
            .keep_alive_timeout(options.ping_timeout)
            .keep_alive_while_idle(false)
            .handshake(TokioIo::new(Plain(tls)));
        let (sender, driver) = timeout_at(deadline, handshake)
            .await
            .map_err(late("HTTP/2 handshake"))?
            .map_err(|error| self.unreachable("HTTP/2 handshake", error))?;
        let endpoint = self.endpoint.to_string();
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%endpoint, %error, "connection to the controller ended");
            }
        });
        Ok(sender)
    }

    /// Tries every address of the host; one that does not answer gets only its share of the time.
    async fn dial(&self, options: &Options) -> Result<TcpStream, ClientError> {
        let addresses: Vec<_> =
            tokio::net::lookup_host((self.endpoint.host(), self.endpoint.port()))
                .await
                .map_err(|error| self.unreachable("name lookup", error))?
                .collect();
        let tries = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match timeout(options.connect_timeout / tries, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(self.unreachable("connect", last))
    }
}
