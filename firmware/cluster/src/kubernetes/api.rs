//! Read, apply, change, delete.
//!
//! Objects are applied server-side under the field manager `holdfast` (Kubernetes docs,
//! "Server-Side Apply"): fields, labels and annotations that others own stay as they are, and
//! taking a field from another manager needs [`Mode::force`]. An object of a kind with namespaces
//! that names none is in `default`; [`Api::place`] tells.

use super::connect::Api;
use super::discovery::Resource;
use super::error::ApiError;
use super::request::{Question, encode, is_name};
use crate::object::{Object, ObjectId};
use holdfast_api::marks::{FIELD_MANAGER, MANAGED_BY_LABEL};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Patience for `/readyz` and `/version`.
const QUICK: Duration = Duration::from_secs(8);
/// Kinds that controllers make and label like what they belong to, or that are no objects of a
/// release. (`Endpoints` and `EndpointSlice` copy the labels of their Service.)
pub(super) const NOT_RELEASED: [&str; 7] = [
    "ComponentStatus",
    "Endpoints",
    "EndpointSlice",
    "Event",
    "Lease",
    "NodeMetrics",
    "PodMetrics",
];

/// How to apply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mode {
    /// All checks are made and nothing is stored.
    pub dry_run: bool,
    /// Takes fields that other managers own.
    pub force: bool,
}

/// What applying did, or would do in a dry run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It was not there.
    Created,
    /// Something other than its status is different now.
    Changed,
    /// It was as it should be.
    Unchanged,
}

/// What happens to the objects that a deleted one owns (Kubernetes docs, "Garbage Collection").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted after it.
    #[default]
    Background,
    /// They are deleted before it.
    Foreground,
    /// They stay.
    Orphan,
}

impl Propagation {
    fn word(self) -> &'static str {
        match self {
            Propagation::Background => "Background",
            Propagation::Foreground => "Foreground",
            Propagation::Orphan => "Orphan",
        }
    }
}

impl Api {
    /// Succeeds when the API server says that it is ready.
    ///
    /// # Errors
    /// [`ApiError::Busy`] with the checks that fail, or it does not answer.
    pub async fn ready(&self) -> Result<(), ApiError> {
        let question = Question::get("/readyz", "say that it is ready").patience(QUICK);
        self.call(&question).await.map(|_| ())
    }

    /// Version of Kubernetes, such as `v1.33.1+k3s1`.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn version(&self) -> Result<String, ApiError> {
        let question = Question::get("/version", "tell its version").patience(QUICK);
        let version: Value = self.call_json(&question).await?;
        Ok(version["gitVersion"].as_str().unwrap_or_default().to_owned())
    }

    /// What the server answers at a path, whatever it is.
    ///
    /// # Errors
    /// It refuses, or does not answer within `patience`.
    pub async fn raw(&self, path: &str, patience: Duration) -> Result<Vec<u8>, ApiError> {
        let question = Question::get(path, format!("read {path}")).patience(patience);
        Ok(self.call(&question).await?.body.to_vec())
    }

    /// Where an object really is: in `default` when its kind has namespaces and it names none, in
    /// no namespace when its kind has none.
    ///
    /// # Errors
    /// [`ApiError::UnknownKind`]; or the server does not answer.
    pub async fn place(&self, id: &ObjectId) -> Result<ObjectId, ApiError> {
        let resource = self.resource(&id.api_version, &id.kind).await?;
        let namespace = resource
            .namespaced
            .then(|| id.namespace.clone().unwrap_or_else(|| "default".to_owned()));
        Ok(ObjectId { namespace, ..id.clone() })
    }

    /// Brings an object to what `object` says.
    ///
    /// # Errors
    /// [`ApiError::Conflict`] names fields that others own, [`ApiError::Refused`] those that are
    /// wrong; the object is as it was then.
    pub async fn apply(&self, object: &Object, mode: Mode) -> Result<Applied, ApiError> {
        let before = self.get(&object.id).await?;
        let (code, after) = self.send(object, mode).await?;
        Ok(match before {
            None => Applied::Created,
            Some(_) if code == StatusCode::CREATED => Applied::Created,
            Some(before) if same(&before, &after) => Applied::Unchanged,
            Some(_) => Applied::Changed,
        })
    }

    /// The same in one request, for whom it is enough that the object is so then.
    ///
    /// # Errors
    /// As [`Api::apply`].
    pub async fn put(&self, object: &Object, mode: Mode) -> Result<(), ApiError> {
        self.send(object, mode).await.map(|_| ())
    }

    /// The answer's code and the object as it is then.
    async fn send(&self, object: &Object, mode: Mode) -> Result<(StatusCode, Value), ApiError> {
        let verb = if mode.dry_run { "try" } else { "apply" };
        let path = self.object_path(&object.id, verb).await?;
        let mut question = Question::new(Method::PATCH, &path, format!("{verb} {}", object.id))
            .query("fieldManager", FIELD_MANAGER)
            // Older servers than 1.25 take no notice; their schema refuses unknown fields anyway.
            .query("fieldValidation", "Strict")
            .body("application/apply-patch+yaml", &object.value);
        if mode.force {
            question = question.query("force", "true");
        }
        if mode.dry_run {
            question = question.query("dryRun", "All");
        }
        let told = self.kinds_checked(&object.id, self.call(&question).await)?;
        Ok((told.code, told.json(&question)?))
    }

    /// An object, or none when it is not there.
    ///
    /// # Errors
    /// [`ApiError::UnknownKind`] when the cluster has no such kind; or it does not answer.
    pub async fn get(&self, id: &ObjectId) -> Result<Option<Value>, ApiError> {
        let path = self.object_path(id, "read").await?;
        let question = Question::get(&path, format!("read {id}"));
        match self.kinds_checked(id, self.call(&question).await) {
            Ok(told) => told.json(&question).map(Some),
            Err(ApiError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes an object; with `uid`, only the very one. False when it was not there (any more).
    /// It may stay a while: until its pods have ended, or finalizers are done.
    ///
    /// # Errors
    /// [`ApiError::Stale`] when another object has the name now.
    pub async fn delete(
        &self,
        id: &ObjectId,
        uid: Option<&str>,
        propagation: Propagation,
    ) -> Result<bool, ApiError> {
        let path = self.object_path(id, "delete").await?;
        let mut options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation.word(),
        });
        if let Some(uid) = uid {
            options["preconditions"] = json!({ "uid": uid });
        }
        let question = Question::new(Method::DELETE, &path, format!("delete {id}"))
            .body("application/json", &options);
        match self.kinds_checked(id, self.call(&question).await) {
            Ok(_) => Ok(true),
            Err(ApiError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The objects of a kind, in one namespace or in all; `labels` and `fields` are selectors
    /// such as `app=web,tier!=test` and `spec.nodeName=n1`, empty for all.
    ///
    /// # Errors
    /// [`ApiError::UnknownKind`]; or the server does not answer.
    pub async fn list(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
        labels: &str,
        fields: &str,
    ) -> Result<Vec<Value>, ApiError> {
        let resource = self.resource(api_version, kind).await?;
        let mut question =
            Question::get(&resource.path(namespace), format!("list {}", resource.plural));
        if !labels.is_empty() {
            question = question.query("labelSelector", labels);
        }
        if !fields.is_empty() {
            question = question.query("fieldSelector", fields);
        }
        self.pages(&resource, question).await
    }

    /// Every object that carries our label with this release, of every kind that can be listed,
    /// in the order of their ids. What another object controls is left out: it comes and goes with
    /// that one. A group of kinds whose server is away is passed over with a warning.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn managed(&self, release: &str) -> Result<Vec<ObjectId>, ApiError> {
        let mut found = BTreeMap::new();
        for version in self.versions().await? {
            let resources = match self.version_resources(&version).await {
                Ok(resources) => resources,
                Err(error @ ApiError::Busy { .. }) => {
                    tracing::warn!(%version, %error, "kinds are passed over");
                    continue;
                }
                Err(error) => return Err(error),
            };
            for resource in resources.iter() {
                if resource.plural.contains('/')
                    || !resource.can("list")
                    || NOT_RELEASED.contains(&resource.kind.as_str())
                {
                    continue;
                }
                let question =
                    Question::get(&resource.path(None), format!("list {}", resource.plural))
                        .query("labelSelector", &format!("{MANAGED_BY_LABEL}={release}"))
                        .accept("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
                match self.pages(resource, question).await {
                    Ok(objects) => found.extend(
                        objects.iter().filter(|one| !is_controlled(one)).filter_map(|one| {
                            // The same object may be served in several groups.
                            let uid = one["metadata"]["uid"].as_str()?.to_owned();
                            Some((uid, id_of(resource, one)?))
                        }),
                    ),
                    // A definition that was deleted meanwhile.
                    Err(ApiError::NotFound { .. }) => self.discovery().forget(&version),
                    Err(error @ ApiError::Busy { .. }) => {
                        tracing::warn!(kind = %resource.plural, %error, "a kind is passed over");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found.into_values().collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// Sets annotations, and removes those without a value. Others stay.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when the object is not there.
    pub async fn annotate(
        &self,
        id: &ObjectId,
        annotations: &BTreeMap<String, Option<String>>,
    ) -> Result<(), ApiError> {
        let patch = json!({ "metadata": { "annotations": annotations } });
        self.patch(id, &patch).await.map(|_| ())
    }

    /// Changes an object by a JSON merge patch (RFC 7386) and answers what it is then.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when it is not there; [`ApiError::Stale`] when the patch names a
    /// `metadata.resourceVersion` and that is not the object's any more.
    pub async fn patch(&self, id: &ObjectId, patch: &Value) -> Result<Value, ApiError> {
        let path = self.object_path(id, "change").await?;
        let question = Question::new(Method::PATCH, &path, format!("change {id}"))
            .query("fieldManager", FIELD_MANAGER)
            .body("application/merge-patch+json", patch);
        self.kinds_checked(id, self.call(&question).await)?.json(&question)
    }

    /// Changes an object's status by a JSON merge patch.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when it, or a status of its kind, is not there.
    pub async fn patch_status(&self, id: &ObjectId, patch: &Value) -> Result<Value, ApiError> {
        let path = self.object_path(id, "change").await?;
        let path = format!("{path}/status");
        let question = Question::new(Method::PATCH, &path, format!("change the status of {id}"))
            .query("fieldManager", FIELD_MANAGER)
            .body("application/merge-patch+json", patch);
        self.call_json(&question).await
    }

    /// Makes an object, and answers what it is then.
    ///
    /// # Errors
    /// [`ApiError::Exists`] when it is there already.
    pub async fn create(&self, object: &Object) -> Result<Value, ApiError> {
        let id = self.place(&object.id).await?;
        let resource = self.resource(&id.api_version, &id.kind).await?;
        let path = resource.path(id.namespace.as_deref());
        let question = Question::new(Method::POST, &path, format!("make {id}"))
            .query("fieldManager", FIELD_MANAGER)
            .body("application/json", &object.value);
        self.kinds_checked(&id, self.call(&question).await)?.json(&question)
    }

    /// Replaces an object whole, and answers what it is then. `value` carries the
    /// `metadata.resourceVersion` that was read.
    ///
    /// # Errors
    /// [`ApiError::Stale`] when somebody changed it since it was read.
    pub async fn update(&self, id: &ObjectId, value: &Value) -> Result<Value, ApiError> {
        let path = self.object_path(id, "replace").await?;
        let question = Question::new(Method::PUT, &path, format!("replace {id}"))
            .query("fieldManager", FIELD_MANAGER)
            .body("application/json", value);
        self.kinds_checked(id, self.call(&question).await)?.json(&question)
    }

    /// The path of an object.
    pub(crate) async fn object_path(&self, id: &ObjectId, verb: &str) -> Result<String, ApiError> {
        for name in std::iter::once(&id.name).chain(&id.namespace) {
            if !is_name(name) {
                return Err(ApiError::Refused {
                    attempt: format!("{verb} {id}"),
                    fields: vec!["metadata.name".into()],
                    message: format!("{name:?} cannot be a name"),
                });
            }
        }
        let id = self.place(id).await?;
        let resource = self.resource(&id.api_version, &id.kind).await?;
        let folder = resource.path(id.namespace.as_deref());
        Ok(format!("{folder}/{}", encode(&id.name)))
    }

    /// A 404 that names no object means that the kind is gone, since it was asked for.
    fn kinds_checked<T>(&self, id: &ObjectId, told: Result<T, ApiError>) -> Result<T, ApiError> {
        match told {
            Err(ApiError::NotFound { name, .. }) if name.is_empty() => {
                self.discovery().forget(&id.api_version);
                Err(ApiError::UnknownKind {
                    api_version: id.api_version.clone(),
                    kind: id.kind.clone(),
                })
            }
            told => told,
        }
    }
}

pub(super) fn id_of(resource: &Resource, object: &Value) -> Option<ObjectId> {
    let metadata = object.get("metadata")?;
    Some(ObjectId {
        api_version: resource.api_version.clone(),
        kind: resource.kind.clone(),
        namespace: metadata.get("namespace").and_then(Value::as_str).map(str::to_owned),
        name: metadata.get("name")?.as_str()?.to_owned(),
    })
}

/// Whether another object makes and removes this one.
fn is_controlled(object: &Value) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.is_some_and(|owners| owners.iter().any(|owner| owner["controller"] == true))
}

/// Whether two versions of an object differ in nothing that anybody asks for. The version itself
/// does not tell: an apply that changes nothing but the time in `managedFields` makes a new one on
/// older servers, and so does a status that changed meanwhile.
fn same(before: &Value, after: &Value) -> bool {
    asked(before) == asked(after)
}

fn asked(object: &Value) -> Value {
    let mut asked = object.clone();
    if let Some(fields) = asked.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = asked.get_mut("metadata").and_then(Value::as_object_mut) {
        for name in ["managedFields", "resourceVersion", "generation", "selfLink"] {
            metadata.remove(name);
        }
    }
    asked
}

#[cfg(test)]
#[path = "api/tests.rs"]
mod tests;
