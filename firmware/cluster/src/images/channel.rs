//! A connection to the container runtime: gRPC over its Unix socket.
//!
//! Made without asking whether anybody listens; every call connects when it must, so a runtime
//! that restarts is met again by the next call. Each call has a deadline but a pull, which its
//! caller watches. Left out: TLS and other addresses; the socket's permissions are the guard.

use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

/// containerd keeps what belongs to Kubernetes in this namespace (pkg/cri/constants).
const NAMESPACE: &str = "k8s.io";

/// Names the namespace in a call (namespaces/grpc.go).
const NAMESPACE_HEADER: &str = "containerd-namespace";

/// Names the lease that everything made by a call belongs to (leases/grpc.go).
const LEASE_HEADER: &str = "containerd-lease";

/// What everything but a pull takes at most. Deleting a lease waits for the garbage collection,
/// which walks the whole store.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    socket: PathBuf,
    channel: Channel,
}

impl Connection {
    /// To the runtime that listens at `socket`.
    pub(super) fn lazy(socket: &Path) -> Self {
        let path = socket.to_path_buf();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The name is only what the other side reads in the HTTP header.
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Self { socket: socket.to_path_buf(), channel }
    }

    /// Where the runtime listens.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// One question, one answer.
    pub(super) async fn call<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut request = request(question);
        request.set_timeout(PATIENCE);
        self.unary(path, request).await
    }

    /// The same without a deadline, what it makes belonging to `lease`.
    pub(super) async fn call_under<Q, A>(
        &self,
        path: &'static str,
        question: Q,
        lease: MetadataValue<Ascii>,
    ) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut request = request(question);
        request.metadata_mut().insert(LEASE_HEADER, lease);
        self.unary(path, request).await
    }

    /// One question, many answers.
    pub(super) async fn stream<Q, A>(
        &self,
        path: &'static str,
        question: Q,
    ) -> Result<tonic::Streaming<A>, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut request = request(question);
        request.set_timeout(PATIENCE);
        let mut grpc = self.ready().await?;
        let answer = grpc
            .server_streaming(
                request,
                PathAndQuery::from_static(path),
                ProstCodec::<Q, A>::default(),
            )
            .await?;
        Ok(answer.into_inner())
    }

    async fn unary<Q, A>(&self, path: &'static str, request: Request<Q>) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        let answer = grpc.unary(request, PathAndQuery::from_static(path), codec).await?;
        Ok(answer.into_inner())
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(grpc)
    }
}

fn request<Q>(question: Q) -> Request<Q> {
    let mut request = Request::new(question);
    request.metadata_mut().insert(NAMESPACE_HEADER, MetadataValue::from_static(NAMESPACE));
    request
}
