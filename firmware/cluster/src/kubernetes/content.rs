//! What goes with an object that is deleted, though nobody asked for it: the content of a
//! namespace, the resources of a definition.
//!
//! Left out is what Kubernetes makes in every namespace, what is being removed already, and what
//! the garbage collector removes because its owner is gone. What an object owns that is named
//! itself is not named once more.

use super::api::{NOT_RELEASED, id_of};
use super::connect::Api;
use super::discovery::Resource;
use super::error::ApiError;
use super::request::Question;
use crate::object::ObjectId;
use serde_json::Value;
use std::collections::BTreeSet;

/// Only metadata is needed, whatever the size of the objects.
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

impl Api {
    /// What would go with `object`; nothing for kinds other than namespaces and definitions.
    ///
    /// # Errors
    /// The server does not answer, or a part of it that has kinds of its own: then nobody knows.
    pub async fn content(&self, object: &Value) -> Result<Vec<ObjectId>, ApiError> {
        let found = match object["kind"].as_str() {
            Some("Namespace") => {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                self.content_of_namespace(name).await?
            }
            Some("CustomResourceDefinition") => self.resources_of_definition(object).await?,
            _ => return Ok(Vec::new()),
        };
        let uids: BTreeSet<&str> = found.iter().filter_map(|(_, one)| uid(one)).collect();
        let mut content = Vec::new();
        for (id, one) in &found {
            if is_made_by_kubernetes(id, one) || one["metadata"]["deletionTimestamp"].is_string() {
                continue;
            }
            let owners = one["metadata"]["ownerReferences"].as_array();
            let owners = owners.map(Vec::as_slice).unwrap_or_default();
            let is_named =
                |owner: &Value| owner["uid"].as_str().is_some_and(|it| uids.contains(it));
            if owners.iter().any(is_named) {
                continue;
            }
            if owners.is_empty() || self.has_owner(id, owners).await? {
                content.push(id.clone());
            }
        }
        content.sort();
        Ok(content)
    }

    async fn content_of_namespace(&self, name: &str) -> Result<Vec<(ObjectId, Value)>, ApiError> {
        let mut found = Vec::new();
        for version in self.versions().await? {
            for resource in self.version_resources(&version).await?.iter() {
                if resource.namespaced
                    && !resource.plural.contains('/')
                    && resource.can("list")
                    && !NOT_RELEASED.contains(&resource.kind.as_str())
                {
                    found.extend(self.metadata_of(resource, Some(name)).await?);
                }
            }
        }
        Ok(found)
    }

    async fn resources_of_definition(
        &self,
        definition: &Value,
    ) -> Result<Vec<(ObjectId, Value)>, ApiError> {
        let spec = &definition["spec"];
        let group = spec["group"].as_str().unwrap_or_default();
        let kind = spec["names"]["kind"].as_str().unwrap_or_default();
        let versions = spec["versions"].as_array().into_iter().flatten();
        for version in versions.filter(|version| version["served"] != false) {
            let api_version = format!("{group}/{}", version["name"].as_str().unwrap_or_default());
            match self.resource(&api_version, kind).await {
                Ok(resource) => return self.metadata_of(&resource, None).await,
                // Not established, or its names are another one's.
                Err(ApiError::UnknownKind { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Vec::new())
    }

    async fn metadata_of(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
    ) -> Result<Vec<(ObjectId, Value)>, ApiError> {
        let attempt = format!("list {}", resource.plural);
        let question = Question::get(&resource.path(namespace), attempt).accept(METADATA);
        match self.pages(resource, question).await {
            Ok(objects) => Ok(objects
                .into_iter()
                .filter_map(|object| Some((id_of(resource, &object)?, object)))
                .collect()),
            Err(ApiError::NotFound { .. }) => {
                self.discovery().forget(&resource.api_version);
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// Whether one of the owners is there. An owner without namespace may be of the whole cluster,
    /// else it is in that of the object (Kubernetes docs, "Owners and Dependents").
    async fn has_owner(&self, id: &ObjectId, owners: &[Value]) -> Result<bool, ApiError> {
        for owner in owners {
            let text = |field: &str| owner[field].as_str().unwrap_or_default().to_owned();
            let owner_id = ObjectId {
                api_version: text("apiVersion"),
                kind: text("kind"),
                namespace: id.namespace.clone(),
                name: text("name"),
            };
            match self.get(&owner_id).await {
                Ok(Some(found)) if uid(&found) == owner["uid"].as_str() => return Ok(true),
                Ok(_) | Err(ApiError::UnknownKind { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

fn uid(object: &Value) -> Option<&str> {
    object["metadata"]["uid"].as_str()
}

/// What every namespace has, or what follows an object of another name (Kubernetes docs, "Service
/// Accounts" and "Root CA certificate").
fn is_made_by_kubernetes(id: &ObjectId, object: &Value) -> bool {
    let of_account = &object["metadata"]["annotations"]["kubernetes.io/service-account.name"];
    match (id.api_version.as_str(), id.kind.as_str()) {
        ("v1", "ServiceAccount") => id.name == "default",
        ("v1", "ConfigMap") => id.name == "kube-root-ca.crt",
        ("v1", "Secret") => of_account.is_string(),
        _ => false,
    }
}
