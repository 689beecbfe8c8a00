//! The talk with the controller: register, then follow edges and peers, and report.
//!
//! One task that never gives up. What it learns it publishes ([`Uplink::knowledge`]) and keeps on
//! disk; losing the controller changes nothing for traffic.
//!
//! * `enrol`: token → `Registration` → certificate.
//! * `service`: certificate → `RegionalEdge`s and `TunnelPeer`s, status, renewal.

mod enrol;
mod service;

use crate::knowledge::{Knowledge, Store, reason_of};
use crate::mesh::tls::MeshTls;
use crate::settings::Settings;
use crate::state::{ControllerState, DataState};
use holdfast_api::Reason;
use holdfast_api::paths::Root;
use holdfast_client::{
    AdmissionError, Backoff, Client, ClientError, Identity, Options, Trust, backoff,
};
use holdfast_durable::SlotError;
use holdfast_identity::{CertificateStore, CheckedClock, DeviceKey, IdentityError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A person may be waiting; a refused edge asks more rarely.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));

/// Why the talk broke off.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The request failed.
    #[error("the controller")]
    Client(#[source] ClientError),
    /// Our key or certificate.
    #[error("this edge's identity")]
    Identity(#[source] IdentityError),
    /// What was learnt cannot be kept.
    #[error("what the controller told cannot be kept")]
    Keep(#[source] SlotError),
    /// The mesh cannot use the certificate.
    #[error("the mesh")]
    Mesh(#[source] crate::mesh::tls::TlsError),
    /// Neither a certificate nor a token.
    #[error("there is neither a certificate nor a token to register with")]
    NoToken,
    /// The controller said no.
    #[error("the registration: {1}")]
    Refused(Reason, String),
}

impl From<AdmissionError> for UplinkError {
    fn from(error: AdmissionError) -> Self {
        match error {
            AdmissionError::Client(error) => UplinkError::Client(error),
            AdmissionError::Refused(reason, text) => UplinkError::Refused(reason, text),
        }
    }
}

impl UplinkError {
    /// The reason code to report.
    pub fn reason(&self) -> Reason {
        match self {
            UplinkError::Client(error) => error.reason(),
            UplinkError::Identity(error) => error.reason(),
            UplinkError::Keep(error) => reason_of(error),
            UplinkError::Mesh(_) => Reason::IdentityUnusable,
            UplinkError::NoToken => Reason::TokenMissing,
            UplinkError::Refused(reason, _) => *reason,
        }
    }
}

/// The talk, running. Dropping it ends it.
#[derive(Debug)]
pub struct Uplink {
    knowledge: watch::Receiver<Knowledge>,
    state: watch::Receiver<ControllerState>,
    mesh: watch::Receiver<Option<MeshTls>>,
    task: JoinHandle<()>,
}

/// The task's end.
struct Talk {
    root: Root,
    settings: Arc<Settings>,
    store: Store,
    knowledge: watch::Sender<Knowledge>,
    state: watch::Sender<ControllerState>,
    mesh: watch::Sender<Option<MeshTls>>,
    data: watch::Receiver<Arc<DataState>>,
}

impl Uplink {
    /// Starts the talk with what is on disk. `data` is what is reported.
    pub fn start(
        root: Root,
        settings: Arc<Settings>,
        data: watch::Receiver<Arc<DataState>>,
    ) -> Self {
        let store = Store::new(&root);
        let (known, damage) = store.load();
        if let Some((reason, why)) = damage {
            tracing::warn!(%reason, why, "the last good list of nodes");
        }
        let (knowledge_sender, knowledge) = watch::channel(known);
        let first =
            ControllerState { url: settings.controller.to_string(), ..ControllerState::default() };
        let (state_sender, state) = watch::channel(first);
        let (mesh_sender, mesh) = watch::channel(None);
        let talk = Talk {
            root,
            settings,
            store,
            knowledge: knowledge_sender,
            state: state_sender,
            mesh: mesh_sender,
            data,
        };
        Uplink { knowledge, state, mesh, task: tokio::spawn(talk.run()) }
    }

    /// What the controller told, from the disk at first.
    pub fn knowledge(&self) -> watch::Receiver<Knowledge> {
        self.knowledge.clone()
    }

    /// How the talk goes.
    pub fn state(&self) -> watch::Receiver<ControllerState> {
        self.state.clone()
    }

    /// This edge's certificate for the mesh.
    pub fn mesh(&self) -> watch::Receiver<Option<MeshTls>> {
        self.mesh.clone()
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Talk {
    async fn run(self) {
        let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
        loop {
            let error = match self.once(&mut backoff).await {
                Ok(()) => continue,
                Err(error) => error,
            };
            self.trouble(error.reason(), holdfast_api::chain(&error));
            let mut pause = backoff.failed(backoff::seed());
            if let UplinkError::Client(error) = &error {
                pause = pause.max(error.retry_after().unwrap_or_default());
            }
            if matches!(error, UplinkError::Refused(..)) {
                // An operator may change his mind, but not at once.
                pause += AGAIN.1;
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn once(&self, backoff: &mut Backoff) -> Result<(), UplinkError> {
        let dir = self.root.identity_dir();
        let key = DeviceKey::load_or_create(&dir).map_err(UplinkError::Identity)?;
        let store = CertificateStore::new(&dir);
        // A certificate that cannot be read is no end: the device key can ask for a new one.
        let kept = store.load(&key).unwrap_or_else(|error| {
            tracing::warn!(reason = %error.reason(), error = holdfast_api::chain(&error), "certificate");
            None
        });
        let known = !self.knowledge.borrow().edge.is_empty();
        match kept.filter(|_| known) {
            Some((certificate, facts)) => {
                let mesh = MeshTls::new(&key, &certificate).map_err(UplinkError::Mesh)?;
                self.mesh.send_replace(Some(mesh));
                self.state.send_modify(|state| state.admitted = true);
                self.serve(&key, &certificate, &facts, backoff).await
            }
            None => self.enrol(&key, &store, backoff).await,
        }
    }

    fn clock(&self) -> Arc<CheckedClock> {
        Arc::new(CheckedClock::new(&self.root))
    }

    fn client(&self, trust: Trust, identity: Identity) -> Result<Client, UplinkError> {
        let options = Options { time: self.clock(), ..Options::default() };
        Client::with_options(self.settings.controller.clone(), trust, identity, options)
            .map_err(UplinkError::Client)
    }

    /// With the key alone, which never expires.
    fn device_client(&self, trust: Trust, key: &DeviceKey) -> Result<Client, UplinkError> {
        let chain = key.self_signed_pem().map_err(UplinkError::Identity)?;
        self.client(trust, Identity::Certificate { chain, key: key.key_pem() })
    }

    fn reached(&self) {
        self.state.send_if_modified(|state| {
            let news = !state.reachable || state.reason.is_some();
            state.reachable = true;
            state.reason = None;
            state.message.clear();
            news
        });
    }

    fn trouble(&self, reason: Reason, message: String) {
        let news = self.state.send_if_modified(|state| {
            let reachable = !matches!(
                reason,
                Reason::ControllerUnreachable
                    | Reason::ControllerWrongCa
                    | Reason::ClockImplausible
            );
            let news = state.reason != Some(reason) || state.message != message;
            state.reachable = reachable;
            (state.reason, state.message) = (Some(reason), message.clone());
            news
        });
        if news {
            tracing::warn!(%reason, message, "controller");
        }
    }

    /// Publishes what `change` makes of the knowledge, if it says that it is news, and keeps it.
    fn learn(&self, change: impl FnOnce(&mut Knowledge) -> bool) -> Result<(), UplinkError> {
        if self.knowledge.send_if_modified(change) {
            let known = self.knowledge.borrow().clone();
            self.store.keep(&known).map_err(UplinkError::Keep)?;
        }
        Ok(())
    }
}
