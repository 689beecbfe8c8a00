//! Versions of the distribution that failed, as the nodes of a site tell each other of them: in an
//! annotation of each one's own Node.
//!
//! A node writes it before it gives its turn back, and a server reads those of the others before it
//! takes its own, so that a version that does not come up costs the site one node's restart and no
//! more. An agent does not read: a kubelet may see its own Node only (kubernetes.io, "Node
//! Authorization"), and its servers went before it. A version that is asked for by another address is
//! asked for anew, and what failed before does not count.

use crate::distribution::upgrade::{Failed, Version};
use crate::kubernetes::{Api, ApiError};
use crate::object::ObjectId;
use holdfast_api::kubernetes::DistributionArtifact;
use holdfast_api::marks::FAILED_VERSIONS_ANNOTATION;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    version: Version,
    url: String,
}

/// Writes what failed on the node `name` into its Node.
///
/// # Errors
/// The API server does not answer, or refuses.
pub async fn note(api: &Api, name: &str, failed: &[Failed]) -> Result<(), ApiError> {
    let id = ObjectId {
        api_version: "v1".into(),
        kind: "Node".into(),
        namespace: None,
        name: name.to_owned(),
    };
    let Some(node) = api.get(&id).await? else { return Ok(()) };
    let want = written(failed);
    if node["metadata"]["annotations"][FAILED_VERSIONS_ANNOTATION].as_str() == want.as_deref() {
        return Ok(());
    }
    let annotations = BTreeMap::from([(FAILED_VERSIONS_ANNOTATION.to_owned(), want)]);
    api.annotate(&id, &annotations).await
}

/// The node beside `own` on which this failed, if any.
///
/// # Errors
/// The API server does not answer, or refuses.
pub async fn elsewhere(
    api: &Api,
    own: &str,
    artifact: &DistributionArtifact,
) -> Result<Option<String>, ApiError> {
    Ok(who(&api.list("v1", "Node", None, "", "").await?, own, artifact))
}

/// Nothing for nothing.
fn written(failed: &[Failed]) -> Option<String> {
    let note = |one: &Failed| Note { version: one.version.clone(), url: one.url.clone() };
    let notes: Vec<Note> = failed.iter().map(note).collect();
    (!notes.is_empty()).then(|| serde_json::to_string(&notes).unwrap_or_default())
}

fn who(nodes: &[Value], own: &str, artifact: &DistributionArtifact) -> Option<String> {
    let version = Version::of(artifact);
    let is_this =
        |note: &Note| note.version == version && (note.url.is_empty() || note.url == artifact.url);
    let names = nodes.iter().filter(|node| {
        let text = &node["metadata"]["annotations"][FAILED_VERSIONS_ANNOTATION];
        // One that cannot be read is of another manager's version, and says nothing.
        let notes: Vec<Note> =
            serde_json::from_str(text.as_str().unwrap_or_default()).unwrap_or_default();
        notes.iter().any(is_this)
    });
    names
        .filter_map(|node| node["metadata"]["name"].as_str())
        .find(|name| *name != own)
        .map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn artifact(version: &str, url: &str) -> DistributionArtifact {
        DistributionArtifact { version: version.into(), url: url.into(), sha256: "A".repeat(64) }
    }

    fn node(name: &str, failed: &[Failed]) -> Value {
        json!({ "metadata": { "name": name, "annotations": {
            FAILED_VERSIONS_ANNOTATION: written(failed),
        }}})
    }

    #[test]
    fn what_failed_on_another_node_is_found_until_it_is_asked_for_anew() {
        let bad = artifact("v2", "https://a.example/k3s");
        let failed =
            Failed { version: Version::of(&bad), message: "it ended".into(), url: bad.url.clone() };
        let nodes = [node("one", &[]), node("two", &[failed])];
        assert_eq!(who(&nodes, "one", &bad).as_deref(), Some("two"));
        assert_eq!(who(&nodes, "two", &bad), None, "that is this node's own affair");
        assert_eq!(who(&nodes, "one", &artifact("v3", &bad.url)), None);
        assert_eq!(who(&nodes, "one", &artifact("v2", "https://a.example/k3s#2")), None);
        let other = json!({ "metadata": { "name": "x", "annotations": {
            FAILED_VERSIONS_ANNOTATION: "of another manager",
        }}});
        assert_eq!(who(&[other, json!({})], "one", &bad), None);
    }

    #[test]
    fn nothing_that_failed_is_no_annotation() {
        assert_eq!(written(&[]), None);
    }
}
