//! Which kinds the cluster has.
//!
//! Each `apiVersion` is asked for when it is first needed and kept. A kind that is not among what
//! is kept is asked for once more, so a definition made a moment ago is found; and whoever learns
//! that a kept kind is gone (`Discovery::forget`) makes it be asked for again.

use super::connect::Api;
use super::error::ApiError;
use super::request::{Question, encode};
use crate::object::ObjectId;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A kind as the API server serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Such as `apps/v1`.
    pub api_version: String,
    /// Such as `Deployment`.
    pub kind: String,
    /// As it stands in paths, such as `deployments`; of a subresource, `pods/eviction`.
    pub plural: String,
    /// Its objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it, such as `list`.
    pub verbs: Vec<String>,
}

impl Resource {
    /// Whether the verb is supported.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|one| one == verb)
    }

    /// The path of its objects in a namespace; of all of them without one.
    pub(crate) fn path(&self, namespace: Option<&str>) -> String {
        let root = version_path(&self.api_version);
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => {
                format!("{root}/namespaces/{}/{}", encode(namespace), encode(&self.plural))
            }
            None => format!("{root}/{}", encode(&self.plural)),
        }
    }
}

/// What is known so far.
#[derive(Debug, Default)]
pub(crate) struct Discovery {
    known: Mutex<BTreeMap<String, Arc<Vec<Resource>>>>,
}

impl Discovery {
    fn get(&self, api_version: &str) -> Option<Arc<Vec<Resource>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(api_version).cloned()
    }

    fn put(&self, api_version: &str, resources: Arc<Vec<Resource>>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(api_version.to_owned(), resources);
    }

    pub(crate) fn forget(&self, api_version: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(api_version);
    }
}

impl Api {
    /// How the API server serves a kind.
    ///
    /// # Errors
    /// [`ApiError::UnknownKind`] when it has none such; or it does not answer.
    pub async fn resource(&self, api_version: &str, kind: &str) -> Result<Resource, ApiError> {
        let find = |all: &[Resource]| {
            all.iter().find(|one| one.kind == kind && !one.plural.contains('/')).cloned()
        };
        if let Some(found) = self.discovery().get(api_version).and_then(|all| find(&all)) {
            return Ok(found);
        }
        let all = self.ask_version(api_version).await?;
        find(&all).ok_or_else(|| ApiError::UnknownKind {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
        })
    }

    /// All that an `apiVersion` has, with subresources; empty when there is no such version.
    pub(crate) async fn version_resources(
        &self,
        api_version: &str,
    ) -> Result<Arc<Vec<Resource>>, ApiError> {
        match self.discovery().get(api_version) {
            Some(known) => Ok(known),
            None => self.ask_version(api_version).await,
        }
    }

    /// The same object by a version of its group that the server has, when it does not serve the
    /// one that `id` names (any more).
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn elsewhere(&self, id: &ObjectId) -> Result<Option<ObjectId>, ApiError> {
        let Some((group, _)) = id.api_version.split_once('/') else { return Ok(None) };
        for version in self.groups().await?.into_iter().flat_map(|group| group.versions) {
            let version = version.group_version;
            if version.split_once('/').is_none_or(|(other, _)| other != group) {
                continue;
            }
            match self.resource(&version, &id.kind).await {
                Ok(_) => return Ok(Some(ObjectId { api_version: version, ..id.clone() })),
                Err(ApiError::UnknownKind { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn groups(&self) -> Result<Vec<Group>, ApiError> {
        let question = Question::get("/apis", "list the groups of kinds");
        Ok(self.call_json::<Groups>(&question).await?.groups)
    }

    /// Every `apiVersion`, of each group the one that the server prefers.
    pub(crate) async fn versions(&self) -> Result<Vec<String>, ApiError> {
        let preferred = self.groups().await?.into_iter().map(|group| group.preferred_version);
        Ok(std::iter::once("v1".into())
            .chain(preferred.map(|version| version.group_version))
            .collect())
    }

    async fn ask_version(&self, api_version: &str) -> Result<Arc<Vec<Resource>>, ApiError> {
        let attempt = format!("list the kinds of {api_version}");
        let question = Question::get(&version_path(api_version), attempt);
        let found: Resources = match self.call_json(&question).await {
            Ok(found) => found,
            Err(ApiError::NotFound { .. }) => Resources::default(),
            Err(error) => return Err(error),
        };
        let resources = found.resources.into_iter().map(|one| Resource {
            // A subresource may have a kind of another version, such as pods/eviction.
            api_version: match (&one.group[..], &one.version[..]) {
                (_, "") => api_version.to_owned(),
                ("", version) => version.to_owned(),
                (group, version) => format!("{group}/{version}"),
            },
            kind: one.kind,
            plural: one.name,
            namespaced: one.namespaced,
            verbs: one.verbs,
        });
        let resources: Arc<Vec<_>> = Arc::new(resources.collect());
        if resources.is_empty() {
            self.discovery().forget(api_version);
        } else {
            self.discovery().put(api_version, Arc::clone(&resources));
        }
        Ok(resources)
    }
}

/// `/api/v1`, `/apis/apps/v1`.
fn version_path(api_version: &str) -> String {
    match api_version.split_once('/') {
        Some((group, version)) => format!("/apis/{}/{}", encode(group), encode(version)),
        None => format!("/api/{}", encode(api_version)),
    }
}

#[derive(Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    preferred_version: GroupVersion,
    #[serde(default)]
    versions: Vec<GroupVersion>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupVersion {
    group_version: String,
}

#[derive(Default, Deserialize)]
struct Resources {
    resources: Vec<Served>,
}

#[derive(Deserialize)]
struct Served {
    name: String,
    kind: String,
    namespaced: bool,
    #[serde(default)]
    group: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    verbs: Vec<String>,
}
