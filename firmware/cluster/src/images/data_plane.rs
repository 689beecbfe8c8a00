//! The data-plane rule: what carries the site's traffic is replaced only by what is on the nodes
//! already. Pure.
//!
//! The old pod ends before the new one begins, and images come over the old one. So the rule is
//! asked at the last moment before the object is applied, not only when images were pulled.

use super::reference::Reference;
use super::site::site_pull;
use crate::object::Object;
use holdfast_api::Reason;
use serde_json::Value;

/// Why a workload that carries traffic is not touched now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// Its pods would ask the registry each time they start.
    #[error(
        "{object} carries the site's traffic and its image {image} is asked for at the registry each time it starts; set imagePullPolicy: IfNotPresent, or a tag other than latest"
    )]
    AsksRegistry {
        /// The workload.
        object: String,
        /// The image.
        image: String,
    },
    /// A node does not hold the release's images.
    #[error("{object} carries the site's traffic and {node} does not hold its images: {progress}")]
    NotHeld {
        /// The workload.
        object: String,
        /// The node.
        node: String,
        /// How far it is.
        progress: String,
    },
}

impl Blocked {
    /// The reason code.
    pub fn reason(&self) -> Reason {
        match self {
            Blocked::AsksRegistry { .. } => Reason::ReleaseInvalid,
            Blocked::NotHeld { .. } => Reason::ReleasePrePull,
        }
    }

    /// Whether it passes by itself.
    pub fn retryable(&self) -> bool {
        matches!(self, Blocked::NotHeld { .. })
    }
}

/// Whether the workload may be applied on the site with these Node objects, as part of the release
/// of this digest, asked for with this `force`. A node that is away without the images would come back to a data plane that it
/// cannot start, and so without a way to get it.
///
/// # Errors
/// Why not.
pub fn may_replace(
    object: &Object,
    nodes: &[Value],
    digest: &str,
    force: u32,
) -> Result<(), Blocked> {
    let name = || object.id.to_string();
    if let Some(image) = asks_registry(&object.value) {
        return Err(Blocked::AsksRegistry { object: name(), image });
    }
    let site = site_pull(nodes, digest, force);
    let absent = site.absent.into_iter().map(|node| (node, "it is not Ready".to_owned()));
    let behind = site.behind.into_iter().map(|behind| match behind.progress.is_empty() {
        true => (behind.node, "it said nothing of them".to_owned()),
        false => (behind.node, behind.progress),
    });
    match behind.chain(absent).next() {
        None => Ok(()),
        Some((node, progress)) => Err(Blocked::NotHeld { object: name(), node, progress }),
    }
}

/// The first image of a pod template in there that its pods would ask the registry for each time.
fn asks_registry(value: &Value) -> Option<String> {
    match value {
        Value::Object(fields) => ["initContainers", "containers"]
            .iter()
            .filter_map(|list| fields.get(*list)?.as_array())
            .flatten()
            .find_map(|container| {
                let image = container.get("image")?.as_str()?;
                let policy = container.get("imagePullPolicy").and_then(Value::as_str);
                let asks = Reference::parse(image).ok()?.asks_each_time(policy);
                asks.then(|| image.to_owned())
            })
            .or_else(|| fields.values().find_map(asks_registry)),
        Value::Array(entries) => entries.iter().find_map(asks_registry),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{ObjectId, Origin};
    use holdfast_api::marks::PRE_PULLED_ANNOTATION;
    use serde_json::json;

    fn way(container: Value) -> Object {
        let id = ObjectId {
            api_version: "apps/v1".into(),
            kind: "DaemonSet".into(),
            namespace: Some("net".into()),
            name: "way".into(),
        };
        let value = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
        Object { id, origin: Origin::default(), value }
    }

    fn node(holds: &str) -> Value {
        json!({
            "metadata": {"name": "a", "annotations": {PRE_PULLED_ANNOTATION: holds}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        })
    }

    #[test]
    fn it_waits_for_every_node() {
        let object = way(json!({"image": "r.lab/way:v2"}));
        assert_eq!(may_replace(&object, &[node("0f")], "0f", 0), Ok(()));
        let blocked = may_replace(&object, &[node("0f"), node("0e")], "0f", 0).unwrap_err();
        assert_eq!((blocked.reason(), blocked.retryable()), (Reason::ReleasePrePull, true));
        assert!(blocked.to_string().starts_with("DaemonSet net/way carries"), "{blocked}");
        // It would come back without the images and without a way to them.
        let mut away = node("0e");
        away["status"]["conditions"][0]["status"] = json!("Unknown");
        let blocked = may_replace(&object, &[node("0f"), away], "0f", 0).unwrap_err();
        assert!(
            blocked.retryable() && blocked.to_string().ends_with("it is not Ready"),
            "{blocked}"
        );
    }

    #[test]
    fn what_asks_the_registry_each_time_is_refused_for_good() {
        for container in [
            json!({"image": "r.lab/way"}),
            json!({"image": "r.lab/way:v2", "imagePullPolicy": "Always"}),
        ] {
            let blocked = may_replace(&way(container), &[node("0f")], "0f", 0).unwrap_err();
            assert_eq!((blocked.reason(), blocked.retryable()), (Reason::ReleaseInvalid, false));
        }
        let never = json!({"image": "r.lab/way", "imagePullPolicy": "IfNotPresent"});
        assert_eq!(may_replace(&way(never), &[node("0f")], "0f", 0), Ok(()));
    }
}
