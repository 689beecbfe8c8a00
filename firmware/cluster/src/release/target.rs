//! What an engine needs from outside: a cluster, the nodes' image stores, the node's own health.
//!
//! Every method may be called again after it was cut off in the middle, and then does what is
//! left to do. Methods wait for answers, never for objects to become ready; that is the engine's.

use super::journal::Kept;
use super::model::{Item, Release, SiteRecord};
use crate::images::Lacking;
use crate::object::ObjectId;
use holdfast_api::{Reason, brief};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::future::Future;
use std::time::Duration;

/// A check before a release begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Check {
    /// The API server is ready.
    ApiServer,
    /// Every node of the site is Ready; made where a release has something on every node.
    Nodes,
    /// There is room for images and datastore.
    Disk,
    /// Certificates of Kubernetes outlive the attempt; the node's own are its tunnels' to prove.
    Certificates,
    /// The tunnels pass data.
    Tunnels,
    /// A snapshot of the datastore is taken now.
    Snapshot,
}

impl Check {
    /// All of them, in the order in which they are made.
    pub const ALL: [Check; 6] = [
        Check::ApiServer,
        Check::Nodes,
        Check::Disk,
        Check::Certificates,
        Check::Tunnels,
        Check::Snapshot,
    ];
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Check::ApiServer => "the API server is ready",
            Check::Nodes => "every node is Ready",
            Check::Disk => "the disk has room",
            Check::Certificates => "certificates are valid",
            Check::Tunnels => "the tunnels pass data",
            Check::Snapshot => "a snapshot of the datastore is taken",
        })
    }
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// No: the answer stays the same.
    Never,
    /// Perhaps, for as long as the object may take (a webhook's pod that is not up yet).
    Soon,
    /// Yes, whenever what is away comes back (API server, registry, disk space).
    Always,
}

/// Bytes of a message that is kept, told to the controller and written to the site's record.
pub const MESSAGE_BYTES: usize = 1024;

/// Why something of the target failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// One word for it.
    pub reason: Reason,
    /// In detail, with the object, node or image; at most [`MESSAGE_BYTES`].
    pub message: String,
    /// Whether trying again can help.
    pub retry: Retry,
    /// How long who said it wants to be left alone.
    pub after: Option<Duration>,
}

impl Failure {
    /// A failure, in whoever's words, cut where they are long.
    pub fn new(reason: Reason, message: impl AsRef<str>, retry: Retry) -> Self {
        Failure { reason, message: brief(message.as_ref(), MESSAGE_BYTES), retry, after: None }
    }

    /// A failure that stays.
    pub fn never(reason: Reason, message: impl AsRef<str>) -> Self {
        Failure::new(reason, message, Retry::Never)
    }

    /// A failure that may pass while the object is being waited for.
    pub fn soon(reason: Reason, message: impl AsRef<str>) -> Self {
        Failure::new(reason, message, Retry::Soon)
    }

    /// A failure that passes when what is away comes back.
    pub fn always(reason: Reason, message: impl AsRef<str>) -> Self {
        Failure::new(reason, message, Retry::Always)
    }

    /// The same, and so long nobody wants to be asked again.
    #[must_use]
    pub fn after(self, pause: Option<Duration>) -> Self {
        Failure { after: pause, ..self }
    }
}

/// How an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// It is not there.
    Absent,
    /// It is there without our label: somebody else's.
    Foreign,
    /// It is being removed.
    Leaving,
    /// It is on its way; with what it waits for.
    Waiting(String),
    /// It will not become ready by itself; with why.
    Failed(Reason, String),
    /// It is as it should be. Kinds that have no readiness are ready when they are there.
    Ready,
}

/// Why an object is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// One word for it.
    pub reason: Reason,
    /// In detail: which pod, and what it says.
    pub message: String,
    /// It will hardly pass by itself.
    pub hopeless: bool,
}

/// Who applies the site's releases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lead {
    /// This node.
    Ours,
    /// This node, as the site says; but that cannot be renewed, and why not. What keeps it from
    /// being written may be the very release that is to be taken back.
    Unrenewed(Failure),
    /// Another one.
    Others,
}

/// Takes the progress of something long, for people.
pub type Progress<'a> = &'a (dyn Fn(String) + Send + Sync);

/// What an engine works on.
pub trait Target: Send + Sync + 'static {
    /// Name of this node.
    fn node(&self) -> &str;

    /// Whether this node is the one of the site that applies releases; takes that place when it
    /// is free.
    ///
    /// # Errors
    /// The API server is away.
    fn lead(&self) -> impl Future<Output = Result<Lead, Failure>> + Send;

    /// What the site remembers; none when nothing was ever recorded.
    ///
    /// # Errors
    /// The API server is away; or it cannot be read ([`Reason::ReleaseRecordUnreadable`]).
    fn recall(&self) -> impl Future<Output = Result<Option<SiteRecord>, Failure>> + Send;

    /// Makes the site remember.
    ///
    /// # Errors
    /// The API server is away or refuses.
    fn record(&self, record: &SiteRecord) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Keeps the text of the release in force on the site, for a node that comes later and may
    /// have to put it back; and no other.
    ///
    /// # Errors
    /// The API server is away or refuses.
    fn keep_text(&self, text: &Kept) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The text with this digest, when the site keeps it. It may be another one than its name
    /// says: the digest is to be compared.
    ///
    /// # Errors
    /// The API server is away.
    fn text(&self, digest: &str) -> impl Future<Output = Result<Option<Kept>, Failure>> + Send;

    /// Makes one check.
    ///
    /// # Errors
    /// It does not hold; [`Retry::Always`] when it may hold later.
    fn check(&self, check: Check) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Asks whether the API server would take the object, without changing anything.
    ///
    /// # Errors
    /// It would not, and the message names file, document and field; or it is away.
    fn dry_run(
        &self,
        release: &Release,
        item: &Item,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Whether an object that carries the site's traffic may be applied now: its images are on
    /// every node, and its pods start without asking a registry.
    ///
    /// # Errors
    /// Why not, or the API server is away.
    fn may_replace(
        &self,
        release: &Release,
        item: &Item,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Applies the object server-side; `force` takes over fields that somebody else took.
    ///
    /// # Errors
    /// The API server refuses it, or is away.
    fn apply(&self, item: &Item, force: bool) -> impl Future<Output = Result<(), Failure>> + Send;

    /// How the object is; absent also when the cluster has no such kind (yet).
    ///
    /// # Errors
    /// The API server is away.
    fn observe(&self, id: &ObjectId) -> impl Future<Output = Result<Observed, Failure>> + Send;

    /// Why the object is not ready, from conditions, pods and events.
    ///
    /// # Errors
    /// The API server is away.
    fn explain(
        &self,
        id: &ObjectId,
    ) -> impl Future<Output = Result<Option<Explained>, Failure>> + Send;

    /// Clears what keeps the object from taking its newest form and does not go by itself; what
    /// has been broken for less than `grace` may still heal.
    ///
    /// # Errors
    /// The API server refuses, or is away.
    fn clear_way(
        &self,
        id: &ObjectId,
        grace: Duration,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Asks for the object's removal. One that is not there, or not ours, is left as it is.
    ///
    /// # Errors
    /// The API server refuses, or is away.
    fn delete(&self, id: &ObjectId) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Pulls the images on this node, pins them for the release and says so on the Node.
    ///
    /// # Errors
    /// An image is not there ([`Retry::Never`]), or the registry is away.
    fn pull_here(
        &self,
        release: &Release,
        progress: Progress<'_>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// What every node of the site would have to pull.
    ///
    /// # Errors
    /// The API server is away.
    fn lacking(
        &self,
        release: &Release,
    ) -> impl Future<Output = Result<Vec<Lacking>, Failure>> + Send;

    /// Ends when every node of the site says that it has the images.
    ///
    /// # Errors
    /// The API server is away, or a node says that an image is not there.
    fn pulled_everywhere(
        &self,
        release: &Release,
        progress: Progress<'_>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Marks the site's nodes with the digest of the release in force.
    ///
    /// # Errors
    /// The API server is away.
    fn announce(&self, digest: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Changes this node's mark to what it is already: a change like any other for what may refuse
    /// the one that counts.
    ///
    /// # Errors
    /// The API server is away or refuses.
    fn may_announce(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Digest of the release in force, as this node's mark says.
    ///
    /// # Errors
    /// The API server is away.
    fn in_force(&self) -> impl Future<Output = Result<Option<String>, Failure>> + Send;

    /// Lets go of all pinned images on this node but those of this release.
    ///
    /// # Errors
    /// The container runtime is away.
    fn keep_only(
        &self,
        release: Option<&Release>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}
