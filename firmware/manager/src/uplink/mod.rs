//! The talk with the controller: register, then follow the node's configuration and report status.
//!
//! One task for the whole life of the manager. It never gives up: whatever fails is told to the
//! loop with its reason and tried again with jitter, for a controller that comes back meets its
//! whole fleet at one moment. What it learns it keeps on disk, so a restart resumes where it was.
//!
//! * `registration`: token → `Registration` → certificate.
//! * `service`: certificate → `NodeConfig`, `NodeStatus`, renewal.

mod registration;
mod service;

use crate::releases::ReleaseStore;
use crate::settings::Settings;
use holdfast_api::Reason;
use holdfast_api::kubernetes::ReleaseRef;
use holdfast_api::local::{NodeReport, Problem, TokenInput};
use holdfast_api::paths::Root;
use holdfast_api::resources::{DeviceFacts, NodeConfigSpec};
use holdfast_api::token::Envelope;
use holdfast_client::{AdmissionError, Backoff, ClientError, backoff};
use holdfast_durable::{Loaded, Slots};
use holdfast_identity::{CertificateStore, DeviceKey, IdentityError, token_sources};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

/// Events that wait for the loop; each is rare, and a full queue only slows this task.
const EVENTS: usize = 32;
/// cloud-init may write its seed after us; a person may plug in a stick.
const TOKEN_LOOK: Duration = Duration::from_secs(2);

/// What the loop is told.
#[derive(Debug)]
pub enum UplinkEvent {
    /// A token is known: this is where and for whom we register.
    Target {
        /// The tenant.
        tenant: String,
        /// Address of the controller.
        controller: String,
    },
    /// Something failed and will be tried again.
    Trouble(Problem),
    /// The controller answered.
    Reached,
    /// An operator must approve.
    Pending,
    /// We have a certificate.
    Admitted {
        /// The tenant.
        tenant: String,
        /// Our site.
        site: String,
        /// Our name.
        node: String,
    },
    /// Only a new token helps.
    Refused(Problem),
    /// The controller's word on what we should be.
    Config(Box<NodeConfigSpec>),
    /// The release that the configuration names is on the disk.
    Release,
    /// It could not be fetched; it will be tried again.
    ReleaseTrouble(Problem),
}

/// Who we are to the controller: kept beside the certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Address of the controller.
    pub controller: String,
    /// The tenant.
    pub tenant: String,
    /// Our site.
    pub site: String,
    /// Our name.
    pub node: String,
}

/// Why the talk broke off.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The controller or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Our keys or certificates.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The controller says no, and says why.
    #[error("{1}")]
    Refused(Reason, String),
    /// A setting is missing or impossible.
    #[error("{1}")]
    Settings(Reason, String),
    /// Our membership cannot be kept.
    #[error("cannot keep who we are to the controller")]
    Keep(#[source] holdfast_durable::SlotError),
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
            UplinkError::Refused(reason, _) | UplinkError::Settings(reason, _) => *reason,
            UplinkError::Keep(error) => crate::releases::reason(error),
        }
    }

    /// Whether only a person with a new token can help.
    fn is_final(&self) -> bool {
        match self.reason() {
            Reason::TokenExpired
            | Reason::TokenUsedUp
            | Reason::TokenUnknown
            | Reason::TokenForeign
            | Reason::RegistrationRejected
            | Reason::RegistrationRetired => true,
            _ => matches!(self, UplinkError::Refused(..)),
        }
    }
}

/// The loop's end of the task.
#[derive(Debug)]
pub struct Uplink {
    root: Root,
    settings: Arc<Settings>,
    token_changed: Arc<Notify>,
    task: JoinHandle<()>,
}

/// Whether a certificate was ever issued to this device.
pub fn is_admitted(root: &Root) -> bool {
    membership(root).is_some()
}

/// The task's end.
struct Talk {
    root: Root,
    settings: Arc<Settings>,
    facts: DeviceFacts,
    generation: u64,
    /// The release that is not on the disk yet.
    fetch: Option<ReleaseRef>,
    events: mpsc::Sender<UplinkEvent>,
    report: watch::Receiver<NodeReport>,
    token_changed: Arc<Notify>,
}

impl Uplink {
    /// Starts the task. `generation` is what the ledger holds, `release` what it names.
    pub fn start(
        root: Root,
        settings: Arc<Settings>,
        facts: DeviceFacts,
        generation: u64,
        release: Option<ReleaseRef>,
        report: watch::Receiver<NodeReport>,
    ) -> (Self, mpsc::Receiver<UplinkEvent>) {
        let (events, receiver) = mpsc::channel(EVENTS);
        let token_changed = Arc::new(Notify::new());
        let talk = Talk {
            root: root.clone(),
            settings: settings.clone(),
            facts,
            generation,
            fetch: release.filter(|wanted| ReleaseStore::new(&root).load(&wanted.digest).is_none()),
            events,
            report,
            token_changed: token_changed.clone(),
        };
        let task = tokio::spawn(talk.run());
        (Uplink { root, settings, token_changed, task }, receiver)
    }

    /// Keeps a token that a person typed, and registers with it.
    ///
    /// # Errors
    /// It is no token, the address is none, nobody names a controller, or the disk refuses.
    pub fn set_token(&self, input: &TokenInput) -> Result<(), Problem> {
        let envelope = Envelope::parse(&input.token)
            .map_err(|error| Problem::new(error.reason(), error.to_string()))?;
        let controller =
            input.controller.as_deref().map(token_sources::check_controller).transpose();
        let controller = controller
            .map_err(|error| Problem::new(error.reason(), holdfast_api::chain(&error)))?;
        let known = || {
            controller.is_some()
                || self.settings.controller.is_some()
                || token_sources::controller(&self.root).is_some()
        };
        if !known() {
            let text =
                "the token was not kept: nothing names a controller; give its address as well";
            return Err(Problem::new(Reason::ConfigMissing, text));
        }
        token_sources::store_typed(&self.root, &envelope, controller.as_deref())
            .map_err(|error| Problem::new(error.reason(), holdfast_api::chain(&error)))?;
        info!(tenant = envelope.tenant, "a token was typed");
        self.token_changed.notify_one();
        Ok(())
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Talk {
    async fn run(mut self) {
        // A node is asked to come back soon at first: a person may be waiting in front of it.
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(60));
        loop {
            let error = match self.once(&mut backoff).await {
                Ok(()) => continue,
                Err(error) => error,
            };
            let problem = Problem::new(error.reason(), holdfast_api::chain(&error));
            warn!(reason = %problem.reason, message = problem.message, "controller");
            if error.is_final() {
                self.tell(UplinkEvent::Refused(problem)).await;
                // A refused device asks again now and then: an operator may have changed his mind.
                self.wait(Duration::from_secs(60) + backoff.failed(backoff::seed())).await;
            } else {
                self.tell(UplinkEvent::Trouble(problem)).await;
                self.wait(backoff.failed(backoff::seed())).await;
            }
        }
    }

    async fn once(&mut self, backoff: &mut Backoff) -> Result<(), UplinkError> {
        let dir = self.root.identity_dir();
        let key = DeviceKey::load_or_create(&dir)?;
        let store = CertificateStore::new(&dir);
        // A certificate that cannot be read is no end: the device key can ask for a new one.
        let certificate = store.load(&key).unwrap_or_else(|error| {
            warn!(reason = %error.reason(), error = holdfast_api::chain(&error), "certificate");
            None
        });
        match (certificate, membership(&self.root)) {
            (Some((certificate, facts)), Some(member)) => {
                self.serve(&key, certificate, facts, member, backoff).await
            }
            _ => self.register(&key, &store, backoff).await,
        }
    }

    async fn tell(&self, event: UplinkEvent) {
        // The loop only goes away when the process ends.
        let _ = self.events.send(event).await;
    }

    /// Waits, but not when a person has just typed a token.
    async fn wait(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.token_changed.notified() => {}
        }
    }
}

fn membership_slots(root: &Root) -> Slots {
    Slots::new(root.identity_dir().join("membership.json"), 0o600)
}

/// Who we were told to be.
pub fn membership(root: &Root) -> Option<Membership> {
    match membership_slots(root).load() {
        Ok(Loaded::Newest(member) | Loaded::LastGood(member, _)) => Some(member),
        Ok(Loaded::Empty) => None,
        Err(error) => {
            warn!(error = holdfast_api::chain(&error), "membership");
            None
        }
    }
}
