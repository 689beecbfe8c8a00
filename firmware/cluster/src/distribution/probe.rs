//! Whether the node is ready: the API server says so, and so does the node's own object.
//!
//! Of a node that joins, both can tell of the process before: the API server is another's, and
//! the node's object says Ready for forty seconds after its kubelet died. So a heartbeat of this
//! process is waited for: one later than its start, or, lest a clock that was set back makes that
//! hours, one that is another than the first one seen.

use crate::kubernetes::Api;
use crate::object::ObjectId;
use crate::paths::ClusterPaths;
use jiff::Timestamp;
use serde_json::Value;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

/// Says whether the node is ready.
pub trait Probe: Send + Sync + 'static {
    /// Ready, or why not, for people. `since` is the start of its process, where we started it:
    /// what is known from before does not count. It is asked about every second while it is not
    /// ready, and given up after five.
    fn ready<'a>(
        &'a self,
        node: &'a str,
        since: Option<Timestamp>,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;
}

/// Asks the API server, as the kubelet does, so that it works on servers and agents.
#[derive(Debug)]
pub struct ApiProbe {
    kubeconfig: PathBuf,
    api: Mutex<Option<Api>>,
    first: Mutex<First>,
}

/// The heartbeat that was seen first after a start.
#[derive(Debug, Default)]
struct First {
    since: Option<Timestamp>,
    heartbeat: String,
}

impl ApiProbe {
    /// With the kubelet's rights: it may read its own Node.
    pub fn new(paths: &ClusterPaths) -> Self {
        ApiProbe {
            kubeconfig: paths.kubelet_kubeconfig(),
            api: Mutex::default(),
            first: Mutex::default(),
        }
    }

    /// The connection; made when the distribution has written the kubeconfig.
    fn api(&self) -> Result<Api, String> {
        let mut kept = self.api.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(api) = &*kept {
            return Ok(api.clone());
        }
        let api = Api::connect(&self.kubeconfig).map_err(|error| error.to_string())?;
        *kept = Some(api.clone());
        Ok(api)
    }
}

impl Probe for ApiProbe {
    fn ready<'a>(
        &'a self,
        node: &'a str,
        since: Option<Timestamp>,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>> {
        Box::pin(async move {
            let api = self.api()?;
            api.ready().await.map_err(|error| error.to_string())?;
            let id = ObjectId {
                api_version: "v1".into(),
                kind: "Node".into(),
                namespace: None,
                name: node.to_owned(),
            };
            match api.get(&id).await.map_err(|error| error.to_string())? {
                Some(object) => {
                    let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
                    node_ready(&object, since, &mut first)
                }
                None => Err(format!("the cluster does not know the node {node} yet")),
            }
        })
    }
}

/// The condition `Ready` of a Node (Kubernetes API reference, "NodeCondition").
fn node_ready(node: &Value, since: Option<Timestamp>, first: &mut First) -> Result<(), String> {
    let conditions = node["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let Some(ready) = conditions.iter().find(|condition| condition["type"] == "Ready") else {
        return Err("the node has not said whether it is ready".into());
    };
    if ready["status"] != "True" {
        return Err(ready["message"].as_str().unwrap_or("the node is not ready").to_owned());
    }
    let Some(start) = since else { return Ok(()) };
    let heartbeat = ready["lastHeartbeatTime"].as_str().unwrap_or_default();
    if first.since != since {
        *first = First { since, heartbeat: heartbeat.to_owned() };
    }
    // Heartbeats have whole seconds.
    let is_later = heartbeat
        .parse::<Timestamp>()
        .is_ok_and(|heartbeat| heartbeat.as_second() >= start.as_second());
    if is_later || first.heartbeat != heartbeat {
        return Ok(());
    }
    Err("the kubelet has not reported since it was started".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn judge(conditions: Value, since: Option<&str>, first: &mut First) -> Result<(), String> {
        let since = since.map(|since| since.parse().unwrap());
        node_ready(&json!({"status": {"conditions": conditions}}), since, first)
    }

    #[test]
    fn a_node_is_ready_by_its_condition() {
        let judge = |conditions| judge(conditions, None, &mut First::default());
        let other = json!({"type": "DiskPressure", "status": "True"});
        assert_eq!(judge(json!([other, {"type": "Ready", "status": "True"}])), Ok(()));
        let waiting = json!([{"type": "Ready", "status": "False", "message": "no network"}]);
        assert_eq!(judge(waiting), Err("no network".into()));
        assert!(judge(json!([other])).is_err());
        assert!(judge(json!(null)).is_err());
    }

    #[test]
    fn what_the_process_before_said_does_not_count() {
        let mut first = First::default();
        let mut beat = |at: &str, since: &str| {
            let ready = json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": at}]);
            judge(ready, Some(since), &mut first).is_ok()
        };
        let start = "2026-01-01T10:00:00.9Z";
        assert!(!beat("2026-01-01T09:59:59Z", start));
        assert!(beat("2026-01-01T10:00:00Z", start));
        // The clock was set back by an hour after the next start.
        let start = "2026-01-01T11:00:00Z";
        assert!(!beat("2026-01-01T10:00:00Z", start));
        assert!(beat("2026-01-01T10:00:05Z", start));
    }
}
