//! A [`Target`] that is real: this site's API server, this node's images, and what the manager
//! knows of the node's health.
//!
//! What the API server says is translated into [`Failure`]s here: an answer that will stay the
//! same, one that may pass, a server that is away. A dry run is the API server's own
//! (`dryRun=All`), so a misspelt field is refused by the schema of the version that runs. Three
//! things cannot be tried that way. Objects in a namespace that the release itself brings are
//! tried in `default`; custom resources whose definition it brings are compared with that
//! definition ([`super::schema`]); pods are tried without what they name of it.

mod answers;
mod everywhere;
mod lead;
mod missing;
mod record;

pub use lead::lead;

use super::journal::Kept;
use super::model::{Item, Release, SiteRecord};
use super::schema;
use super::stuck::Stuck;
use super::target::{Check, Explained, Failure, Lead, Observed, Progress, Retry, Target};
use super::texts;
use crate::images::{Lacking, PrePuller, Want, is_ready, lacking, may_replace};
use crate::kubernetes::{Api, ApiError, Mode, Propagation, Readiness, readiness};
use crate::object::{Object, ObjectId, Origin};
use answers::{brings_namespace, failure, in_default, own_failure, refused};
use everywhere::{Everywhere, Look};
use holdfast_api::marks::{MANAGED_BY_LABEL, RELEASE_ANNOTATION, SYSTEM_NAMESPACE};
use holdfast_api::{Reason, chain};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::PoisonError;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, watch};

/// The ConfigMap in which the site remembers releases.
pub const RECORD_NAME: &str = "holdfast-release";
/// How often the nodes are asked how far they are with pulling.
const NODES_EVERY: Duration = Duration::from_secs(1);

/// An answer that comes later.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

/// What the manager does for an engine.
pub trait Manager: Send + Sync + 'static {
    /// Makes a check; all but [`Check::ApiServer`] and [`Check::Nodes`] come here.
    fn check(&self, check: Check) -> Later<'_, ()>;

    /// Whether this node leads the site; takes that place when it is free.
    fn lead(&self) -> Later<'_, Lead>;
}

/// A real target.
#[derive(Debug)]
pub struct Live<M> {
    api: Api,
    node: ObjectId,
    puller: PrePuller,
    manager: M,
    stuck: Mutex<Stuck>,
    everywhere: std::sync::Mutex<Everywhere>,
}

impl<M: Manager> Live<M> {
    /// The cluster behind `api`, on the node named `node`. The kubelet's rights are enough for a
    /// node that never leads.
    pub fn new(api: Api, node: &str, puller: PrePuller, manager: M) -> Self {
        let node = ObjectId {
            api_version: "v1".into(),
            kind: "Node".into(),
            namespace: None,
            name: node.into(),
        };
        Live { api, node, puller, manager, stuck: Mutex::default(), everywhere: Default::default() }
    }

    async fn nodes(&self) -> Result<Vec<Value>, Failure> {
        self.api.list("v1", "Node", None, "", "").await.map_err(|error| failure(&error))
    }

    /// Our own objects: no part of a release, without its label.
    async fn keep_own(
        &self,
        kind: &str,
        namespace: Option<&str>,
        name: &str,
        rest: Value,
    ) -> Result<(), Failure> {
        let mut value = json!({
            "apiVersion": "v1",
            "kind": kind,
            "metadata": {"name": name},
        });
        if let (Value::Object(value), Value::Object(rest)) = (&mut value, rest) {
            value.extend(rest);
        }
        let id = ObjectId {
            api_version: "v1".into(),
            kind: kind.into(),
            namespace: namespace.map(str::to_owned),
            name: name.into(),
        };
        if let Some(namespace) = namespace {
            value["metadata"]["namespace"] = namespace.into();
        }
        let object = Object { id, origin: Origin::default(), value };
        let mode = Mode { force: true, ..Mode::default() };
        self.api.put(&object, mode).await.map_err(|error| own_failure(&error))
    }

    async fn try_apply(&self, object: &Object) -> Result<(), ApiError> {
        self.api.put(object, Mode { dry_run: true, force: false }).await
    }

    /// An object that the API server would put elsewhere has two names: by the one it would be
    /// applied, and by the other removed as one that the release no longer has.
    async fn is_in_place(&self, object: &Object) -> Result<(), Failure> {
        let Object { id, origin, .. } = object;
        match self.api.place(id).await {
            Ok(place) if place == *id => Ok(()),
            Ok(place) => {
                let problem = match place.namespace {
                    Some(_) => "must be given: objects of this kind are in namespaces",
                    None => "must be left out: the kind belongs to the whole cluster",
                };
                let message = format!("{origin}: metadata.namespace: {problem} ({id})");
                Err(Failure::never(Reason::ReleaseInvalid, message))
            }
            Err(error) => refused(object, &id.name, &error),
        }
    }

    /// The object, by the version that `id` names or another one that the cluster serves instead;
    /// with the id by which it was found.
    async fn find(&self, id: &ObjectId) -> Result<Option<(ObjectId, Value)>, Failure> {
        let mut by = id.clone();
        let mut found = self.api.get(&by).await;
        if let Err(ApiError::UnknownKind { .. }) = &found
            && let Some(other) = self.api.elsewhere(id).await.map_err(|error| failure(&error))?
        {
            found = self.api.get(&other).await;
            by = other;
        }
        match found {
            Ok(object) => Ok(object.map(|object| (by, object))),
            Err(ApiError::UnknownKind { .. }) => Ok(None),
            Err(error) => Err(failure(&error)),
        }
    }

    /// What others have in a namespace, or made of a definition, is not removed with it.
    async fn is_empty(&self, id: &ObjectId, object: &Value) -> Result<(), Failure> {
        let content = self.api.content(object).await.map_err(|error| match error {
            ApiError::Kubeconfig { .. } | ApiError::Unavailable { .. } => failure(&error),
            _ => {
                let text = format!("{id} stays: nobody can tell what it holds: {}", chain(&error));
                Failure::soon(Reason::ReleaseLeftover, text)
            }
        })?;
        if content.is_empty() {
            return Ok(());
        }
        let named: Vec<String> = content.iter().take(3).map(ToString::to_string).collect();
        let more = match content.len().saturating_sub(named.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let text = format!("{id} stays: it holds {}{more}", named.join(", "));
        Err(Failure::never(Reason::ReleaseLeftover, text))
    }
}

impl<M: Manager> Target for Live<M> {
    fn node(&self) -> &str {
        &self.node.name
    }

    async fn keep_text(&self, text: &Kept) -> Result<(), Failure> {
        self.keep_own("Namespace", None, SYSTEM_NAMESPACE, json!({})).await?;
        texts::keep(&self.api, text).await.map_err(|error| failure(&error))
    }

    async fn text(&self, digest: &str) -> Result<Option<Kept>, Failure> {
        texts::find(&self.api, digest).await.map_err(|error| failure(&error))
    }

    async fn clear_way(&self, id: &ObjectId, grace: Duration) -> Result<(), Failure> {
        let mut stuck = self.stuck.lock().await;
        stuck.clear(&self.api, id, grace).await.map_err(|error| failure(&error))
    }

    async fn lead(&self) -> Result<Lead, Failure> {
        self.manager.lead().await
    }

    async fn recall(&self) -> Result<Option<SiteRecord>, Failure> {
        let found = self.api.get(&record_id()).await.map_err(|error| failure(&error))?;
        found.as_ref().map(record::read).transpose()
    }

    async fn record(&self, record: &SiteRecord) -> Result<(), Failure> {
        self.keep_own("Namespace", None, SYSTEM_NAMESPACE, json!({})).await?;
        let data = record::write(record);
        self.keep_own("ConfigMap", Some(SYSTEM_NAMESPACE), RECORD_NAME, data).await
    }

    async fn check(&self, check: Check) -> Result<(), Failure> {
        match check {
            Check::ApiServer => {
                self.api.ready().await.map_err(|error| {
                    Failure::always(Reason::KubernetesApiUnavailable, chain(&error))
                })
            }
            Check::Nodes => all_ready(&self.nodes().await?),
            Check::Disk | Check::Certificates | Check::Tunnels | Check::Snapshot => {
                self.manager.check(check).await
            }
        }
    }

    async fn dry_run(&self, release: &Release, item: &Item) -> Result<(), Failure> {
        let object = &item.object;
        if item.data_plane {
            // Without nodes: what is wrong with the object itself.
            may_replace(object, &[], &release.reference.digest, 0).map_err(|blocked| {
                let message = format!("{}: {blocked}", object.origin);
                Failure::never(blocked.reason(), message)
            })?;
        }
        if let Some(definition) = schema::definition(release, &object.id) {
            return schema::check(definition, object).map_err(|misfit| {
                let message = format!("{}: {misfit} ({})", object.origin, object.id);
                Failure::never(Reason::ReleaseInvalid, message)
            });
        }
        self.is_in_place(object).await?;
        let mut tried = object.clone();
        loop {
            let Err(error) = self.try_apply(&tried).await else { return Ok(()) };
            let other = match error.missing_namespace() {
                Some(missing) if brings_namespace(release, missing) => {
                    (tried.id.namespace != Some("default".into())).then(|| in_default(&tried))
                }
                _ => missing::without(release, object, &tried, &error),
            };
            match other {
                Some(other) => tried = other,
                None => return refused(object, &tried.id.name, &error),
            }
        }
    }

    async fn may_replace(&self, release: &Release, item: &Item) -> Result<(), Failure> {
        let (digest, force) = (&release.reference.digest, release.reference.force);
        may_replace(&item.object, &self.nodes().await?, digest, force).map_err(|blocked| {
            let (reason, message) = (blocked.reason(), blocked.to_string());
            if blocked.retryable() {
                // Some of the release is applied by now: it does not stay like that for long.
                Failure::soon(reason, message)
            } else {
                Failure::never(reason, message)
            }
        })
    }

    async fn apply(&self, item: &Item, force: bool) -> Result<(), Failure> {
        let outcome = self.api.put(&item.object, Mode { dry_run: false, force }).await;
        outcome.map_err(|error| {
            let mut failure = failure(&error);
            if missing::is_looked_up(&item.object, &error) {
                // What was applied a moment ago has not reached those who look it up.
                failure.retry = Retry::Soon;
            }
            let message = format!("{}: {}", item.object.origin, failure.message);
            Failure::new(failure.reason, message, failure.retry).after(failure.after)
        })
    }

    async fn observe(&self, id: &ObjectId) -> Result<Observed, Failure> {
        let Some((id, object)) = self.find(id).await? else { return Ok(Observed::Absent) };
        if object["metadata"]["labels"].get(MANAGED_BY_LABEL).is_none() {
            return Ok(Observed::Foreign);
        }
        if object["metadata"]["deletionTimestamp"].is_string() {
            return Ok(Observed::Leaving);
        }
        let is = match id.kind.as_str() {
            // Whether a claim waits for its first pod is said by its class.
            "PersistentVolumeClaim" => {
                let is = self.api.readiness(&id).await.map_err(|error| failure(&error))?;
                is.unwrap_or_else(|| readiness(&object))
            }
            _ => readiness(&object),
        };
        Ok(match is {
            Readiness::Ready => Observed::Ready,
            Readiness::Waiting(what) => Observed::Waiting(what),
            Readiness::Failed(reason, message) => Observed::Failed(reason, message),
        })
    }

    async fn explain(&self, id: &ObjectId) -> Result<Option<Explained>, Failure> {
        let why = self.api.explain(id).await.map_err(|error| failure(&error))?;
        Ok(why.map(|why| Explained {
            reason: why.reason,
            message: format!("{}: {}", why.word, why.message),
            hopeless: why.hopeless,
        }))
    }

    async fn delete(&self, id: &ObjectId) -> Result<(), Failure> {
        let Some((id, object)) = self.find(id).await? else { return Ok(()) };
        if object["metadata"]["labels"].get(MANAGED_BY_LABEL).is_none() {
            return Ok(());
        }
        self.is_empty(&id, &object).await?;
        // The very object that has the label, and none that takes its name meanwhile.
        let uid = object["metadata"]["uid"].as_str();
        let outcome = self.api.delete(&id, uid, Propagation::Background).await;
        outcome.map(|_| ()).map_err(|error| failure(&error))
    }

    async fn pull_here(&self, release: &Release, progress: Progress<'_>) -> Result<(), Failure> {
        let digest = &release.reference.digest;
        // What else is pinned may be what the site goes back to.
        self.puller.want(want(release, None));
        let node = &self.node.name;
        let (says, mut problem) = watch::channel(None);
        let held = self.puller.held(digest, |state| {
            progress(format!("{node}: {}", state.totals));
            says.send_replace(state.problem.clone());
        });
        // A problem that may pass is told, and asked about again; the pull goes on meanwhile.
        let problem = tokio::select! {
            held = held => match held {
                Ok(()) => return Ok(()),
                Err(problem) => problem,
            },
            Ok(problem) = problem.wait_for(Option::is_some) => match problem.clone() {
                Some(problem) => problem,
                None => return Ok(()),
            },
        };
        let message = format!("{node}: {}", problem.message);
        Err(if problem.retryable {
            Failure::always(problem.reason, message)
        } else {
            Failure::never(problem.reason, message)
        })
    }

    async fn lacking(&self, release: &Release) -> Result<Vec<Lacking>, Failure> {
        Ok(lacking(&self.nodes().await?, &release.reference.digest, &release.images))
    }

    async fn pulled_everywhere(
        &self,
        release: &Release,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        loop {
            let nodes = self.nodes().await?;
            let look = {
                let mut everywhere = self.everywhere.lock().unwrap_or_else(PoisonError::into_inner);
                everywhere.look(&nodes, release, Instant::now())
            };
            match look {
                Look::Ready(absent) if absent.is_empty() => return Ok(()),
                Look::Ready(absent) => {
                    tracing::warn!(?absent, "nodes are not Ready and do not hold the images");
                    return Ok(());
                }
                Look::Pulls(words) => progress(words),
                Look::Fails(failure) => return Err(failure),
            }
            tokio::time::sleep(NODES_EVERY).await;
        }
    }

    async fn announce(&self, digest: &str) -> Result<(), Failure> {
        let mark = BTreeMap::from([(RELEASE_ANNOTATION.to_owned(), Some(digest.to_owned()))]);
        let mut nodes = self.nodes().await?;
        // This one first; one that cannot be told keeps no other from being told.
        nodes.sort_by_key(|node| node["metadata"]["name"] != *self.node.name);
        let mut told = Ok(());
        for node in nodes {
            let Some(name) = node["metadata"]["name"].as_str() else { continue };
            if node["metadata"]["annotations"][RELEASE_ANNOTATION] == digest {
                continue;
            }
            let id = ObjectId { name: name.into(), ..self.node.clone() };
            match self.api.annotate(&id, &mark).await {
                // It was removed meanwhile.
                Ok(()) | Err(ApiError::NotFound { .. }) => {}
                Err(error) => told = told.and(Err(failure(&error))),
            }
        }
        told
    }

    async fn may_announce(&self) -> Result<(), Failure> {
        let mark = BTreeMap::from([(RELEASE_ANNOTATION.to_owned(), self.in_force().await?)]);
        match self.api.annotate(&self.node, &mark).await {
            // A server need not be a node.
            Ok(()) | Err(ApiError::NotFound { .. }) => Ok(()),
            Err(error) => Err(own_failure(&error)),
        }
    }

    async fn in_force(&self) -> Result<Option<String>, Failure> {
        let node = self.api.get(&self.node).await.map_err(|error| failure(&error))?;
        let mark = node.as_ref().map(|node| &node["metadata"]["annotations"][RELEASE_ANNOTATION]);
        Ok(mark.and_then(Value::as_str).map(str::to_owned))
    }

    async fn keep_only(&self, release: Option<&Release>) -> Result<(), Failure> {
        // The service lets go by itself, and again after a restart; nothing waits for that.
        self.puller.want(release.map_or_else(
            || Want { keep: Some(BTreeSet::new()), ..Want::default() },
            |release| want(release, Some(BTreeSet::new())),
        ));
        Ok(())
    }
}

fn want(release: &Release, keep: Option<BTreeSet<String>>) -> Want {
    Want {
        release: release.reference.digest.clone(),
        force: release.reference.force,
        images: release.images.iter().cloned().collect(),
        credentials: release.credentials.clone(),
        keep,
    }
}

/// A node that is away comes back without the images, or never; only people know which.
fn all_ready(nodes: &[Value]) -> Result<(), Failure> {
    let absent: Vec<&str> = nodes
        .iter()
        .filter(|node| !is_ready(node))
        .filter_map(|node| node["metadata"]["name"].as_str())
        .collect();
    if absent.is_empty() {
        return Ok(());
    }
    let message = format!(
        "not Ready, and the release has something on every node: {}; bring it back, or replace it \
         (holdfast-controller token create --replaces)",
        absent.join(", ")
    );
    Err(Failure::always(Reason::KubernetesNotReady, message))
}

fn record_id() -> ObjectId {
    ObjectId {
        api_version: "v1".into(),
        kind: "ConfigMap".into(),
        namespace: Some(SYSTEM_NAMESPACE.into()),
        name: RECORD_NAME.into(),
    }
}
