//! A real TLS and HTTP/2 server in the test's process. It answers what the test tells it to and
//! records everything that reaches it: the bytes on the wire and the bytes inside TLS.
// Each test file uses another part of it.
#![allow(dead_code)]
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::DigitallySignedStruct;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

pub(crate) fn certificate_file(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/certificates", name].iter().collect()
}

pub(crate) fn pem(name: &str) -> String {
    std::fs::read_to_string(certificate_file(name)).unwrap()
}

pub(crate) fn der(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(certificate_file(name)).unwrap()
}

/// What the server saw of one request.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) if_none_match: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) body: Bytes,
}

/// What the server answers.
pub(crate) enum Reply {
    /// Code, headers, body.
    Whole(u16, Vec<(&'static str, String)>, Bytes),
    /// A body that comes piece by piece; an error resets the stream.
    Pieces(mpsc::Receiver<Result<Bytes, io::Error>>),
    /// Nothing, ever.
    Silence,
}

impl Reply {
    pub(crate) fn json(code: u16, value: &impl serde::Serialize) -> Self {
        Reply::Whole(code, Vec::new(), serde_json::to_vec(value).unwrap().into())
    }
}

#[derive(Default)]
pub(crate) struct Record {
    pub(crate) wire: Mutex<Vec<u8>>,
    pub(crate) inside: Mutex<Vec<u8>>,
    pub(crate) requests: Mutex<Vec<Seen>>,
    pub(crate) client_certificates: Mutex<Vec<Option<CertificateDer<'static>>>>,
    connections: Mutex<Vec<AbortHandle>>,
}

impl Record {
    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.requests.lock().unwrap().clone()
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) record: Arc<Record>,
    accept: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accept.abort();
        self.cut();
    }
}

type Handler = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

impl Server {
    /// A server that presents the chain in these files; the first one has its key beside it.
    pub(crate) async fn start(
        chain: &[&str],
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), chain, &[b"h2"], handler).await
    }

    pub(crate) async fn start_at(
        address: SocketAddr,
        chain: &[&str],
        protocols: &[&[u8]],
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config(chain, protocols)));
        let record = Arc::new(Record::default());
        let handler: Handler = Arc::new(handler);
        let accept = tokio::spawn({
            let record = record.clone();
            async move {
                while let Ok((tcp, _)) = listener.accept().await {
                    let task = serve(tcp, acceptor.clone(), record.clone(), handler.clone());
                    let handle = tokio::spawn(task).abort_handle();
                    record.connections.lock().unwrap().push(handle);
                }
            }
        })
        .abort_handle();
        Server { address, record, accept }
    }

    /// Breaks every connection there is.
    pub(crate) fn cut(&self) {
        self.record.connections.lock().unwrap().drain(..).for_each(|handle| handle.abort());
    }

    pub(crate) fn connections(&self) -> usize {
        self.record.connections.lock().unwrap().len()
    }

    pub(crate) fn endpoint(&self) -> holdfast_client::Endpoint {
        format!("https://{}", self.address).parse().unwrap()
    }
}

fn config(chain: &[&str], protocols: &[&[u8]]) -> rustls::ServerConfig {
    let key = certificate_file(&chain[0].replace(".pem", ".key"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(Anybody))
        .with_single_cert(
            chain.iter().map(|name| der(name)).collect(),
            PrivateKeyDer::from_pem_file(key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    config
}

async fn serve(
    tcp: tokio::net::TcpStream,
    acceptor: tokio_rustls::TlsAcceptor,
    record: Arc<Record>,
    handler: Handler,
) {
    let wire = Recorder { io: tcp, into: record.clone(), which: |r| &r.wire };
    let Ok(tls) = acceptor.accept(wire).await else { return };
    let certificate = tls.get_ref().1.peer_certificates().map(|chain| chain[0].clone());
    record.client_certificates.lock().unwrap().push(certificate.map(|c| c.into_owned()));
    let inside = Recorder { io: tls, into: record.clone(), which: |r| &r.inside };
    let service = service_fn(move |request| answer(request, record.clone(), handler.clone()));
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(inside), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    record: Arc<Record>,
    handler: Handler,
) -> Result<Response<ReplyBody>, Infallible> {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).map(|v| v.to_str().unwrap().to_string());
    let seen = Seen {
        method: head.method.to_string(),
        path: head.uri.path_and_query().unwrap().to_string(),
        authorization: header("authorization"),
        if_none_match: header("if-none-match"),
        content_type: header("content-type"),
        body: body.collect().await.map(|b| b.to_bytes()).unwrap_or_default(),
    };
    record.requests.lock().unwrap().push(seen.clone());
    Ok(match handler(&seen) {
        Reply::Whole(code, headers, body) => {
            let mut response = Response::builder().status(code);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            response.body(ReplyBody::Whole(Some(body))).unwrap()
        }
        Reply::Pieces(pieces) => Response::new(ReplyBody::Pieces(pieces)),
        Reply::Silence => std::future::pending().await,
    })
}

pub(crate) enum ReplyBody {
    Whole(Option<Bytes>),
    Pieces(mpsc::Receiver<Result<Bytes, io::Error>>),
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            ReplyBody::Whole(body) => Poll::Ready(body.take().map(|b| Ok(Frame::data(b)))),
            ReplyBody::Pieces(pieces) => {
                pieces.poll_recv(context).map(|p| p.map(|p| p.map(Frame::data)))
            }
        }
    }
}

/// Copies what is read through it.
struct Recorder<T> {
    io: T,
    into: Arc<Record>,
    which: fn(&Record) -> &Mutex<Vec<u8>>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Recorder<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.io).poll_read(context, buffer);
        (self.which)(&self.into).lock().unwrap().extend_from_slice(&buffer.filled()[before..]);
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Recorder<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, data)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// Asks for a client certificate and takes any or none, as the controller does with devices.
#[derive(Debug)]
struct Anybody;

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
