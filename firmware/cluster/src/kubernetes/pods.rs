//! Pods: evicted one by one, and asked why an object does not become ready.

use super::connect::Api;
use super::error::ApiError;
use super::request::Question;
use crate::object::ObjectId;
use http::Method;
use serde_json::json;

impl Api {
    /// Asks a pod to leave as disruption budgets allow (Kubernetes docs, "API-initiated
    /// Eviction"). False when it was gone already. It goes after its grace period; whoever must
    /// know asks for it again.
    ///
    /// # Errors
    /// [`ApiError::Budget`] when a budget keeps it: try again later.
    pub async fn evict(&self, namespace: &str, name: &str) -> Result<bool, ApiError> {
        let pod = ObjectId {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: Some(namespace.into()),
            name: name.into(),
        };
        // `policy/v1` from 1.22 on, `policy/v1beta1` before.
        let resources = self.version_resources("v1").await?;
        let version = resources
            .iter()
            .find(|one| one.plural == "pods/eviction")
            .map_or("policy/v1", |one| one.api_version.as_str());
        let path = self.object_path(&pod, "evict").await?;
        let question =
            Question::new(Method::POST, &format!("{path}/eviction"), format!("evict {pod}")).body(
                "application/json",
                &json!({
                    "apiVersion": version,
                    "kind": "Eviction",
                    "metadata": { "name": name, "namespace": namespace },
                }),
            );
        match self.call(&question).await {
            Ok(_) => Ok(true),
            Err(ApiError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
