//! The rules of each field: what k3s, the kubelet or the API server would refuse later. Those that
//! the controller knows too are in [`rules`].

use super::model::WantsError;
use holdfast_api::kubernetes::{KubernetesIntent, KubernetesRole};
use hw_profiles::kubernetes::{self as rules, host_of};

type Checked<T = ()> = Result<T, WantsError>;

fn refuse<T>(field: impl Into<String>, problem: impl Into<String>) -> Checked<T> {
    Err(WantsError { field: field.into(), problem: problem.into() })
}

/// A DNS subdomain in lower case, at most 253 characters (Kubernetes, "Object Names and IDs").
pub(super) fn node_name(name: &str) -> Checked {
    let label = |label: &str| {
        !label.is_empty()
            && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return refuse("nodeName", format!("{name:?} is not a DNS name in lower case"));
    }
    Ok(())
}

/// Server and token belong together.
pub(super) fn membership(intent: &KubernetesIntent) -> Checked {
    let token = &intent.token.0;
    if token.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return refuse("kubernetes.token", "it has white space in it");
    }
    if intent.role == KubernetesRole::ClusterInit {
        return Ok(());
    }
    match intent.server.as_deref() {
        None => return refuse("kubernetes.server", "a node that joins needs a server to join"),
        Some(url) if !url.starts_with("https://") || host_of(url).is_none() => {
            return refuse("kubernetes.server", format!("{url:?} is not https://HOST:PORT"));
        }
        Some(_) => {}
    }
    if token.is_empty() {
        return refuse("kubernetes.token", "a node that joins needs the token of the site");
    }
    Ok(())
}

/// What the controller checks as well, with the field as the node knows it.
pub(super) fn shared<T>(checked: Result<T, rules::Wrong>) -> Checked<T> {
    checked.or_else(|wrong| refuse(format!("kubernetes.{}", wrong.field), wrong.problem))
}
