//! Parts of the control plane and conditions of a node, as states.
//!
//! `/readyz?verbose` lists the API server's checks, one per line (Kubernetes docs, "Kubernetes API
//! health endpoints"); `etcd` is one of them. Scheduler and controller manager are asked by the
//! API server itself (`ComponentStatus`: deprecated since 1.19, still served by every version).
//! The kubelet speaks through the node's condition `Ready`, and so does containerd.

use super::condition;
use holdfast_api::kubernetes::ComponentState;
use serde_json::Value;

/// Node conditions that must be `True`.
const TRUE: [&str; 1] = ["Ready"];
/// Node conditions that must not be `True`.
const FALSE: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"];
/// Where scheduler and controller manager listened without TLS.
const OLD_PORTS: [&str; 2] = ["http://127.0.0.1:10251/", "http://127.0.0.1:10252/"];

/// A check of the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Such as `etcd`, `poststarthook/rbac/bootstrap-roles`.
    pub name: String,
    /// It passed.
    pub ok: bool,
    /// What the server says of it.
    pub message: String,
}

/// Understands the answer to `/readyz?verbose`: `[+]etcd ok`, `[-]etcd failed: reason withheld`.
/// Lines of another form are passed over.
pub fn parse_checks(text: &str) -> Vec<Check> {
    let line = |line: &str| {
        let (ok, rest) = match line.strip_prefix("[+]") {
            Some(rest) => (true, rest),
            None => (false, line.strip_prefix("[-]")?),
        };
        let (name, message) = rest.split_once(' ').unwrap_or((rest, ""));
        Some(Check { name: name.to_owned(), ok, message: message.trim().to_owned() })
    };
    text.lines().filter_map(line).collect()
}

/// API server and etcd. The API server is well when all checks are; etcd is left out where the
/// server does not look at it.
pub fn of_checks(checks: &[Check]) -> Vec<ComponentState> {
    let failed: Vec<_> = checks.iter().filter(|check| !check.ok).collect();
    let words: Vec<_> =
        failed.iter().map(|check| format!("{} {}", check.name, check.message)).collect();
    let ok = failed.is_empty() && !checks.is_empty();
    let mut states = vec![state("apiserver", ok, words.join(", "))];
    if let Some(etcd) = checks.iter().find(|check| check.name == "etcd") {
        let message = if etcd.ok { String::new() } else { etcd.message.clone() };
        states.push(state("etcd", etcd.ok, message));
    }
    states
}

/// Scheduler and controller manager, from the list of `ComponentStatus`.
pub fn of_statuses(statuses: &[Value]) -> Vec<ComponentState> {
    let known = statuses.iter().filter_map(|status| {
        let name = status["metadata"]["name"].as_str()?;
        if !matches!(name, "scheduler" | "controller-manager") {
            return None;
        }
        let healthy =
            status["conditions"].as_array()?.iter().find(|one| one["type"] == "Healthy")?;
        let ok = healthy["status"] == "True";
        let words = [&healthy["message"], &healthy["error"]];
        let words: Vec<_> = words.iter().filter_map(|word| word.as_str()).collect();
        let words = words.join(" ");
        // Servers before 1.22 ask at the old ports without TLS, which are switched off.
        if !ok && OLD_PORTS.iter().any(|port| words.contains(port)) && words.contains("refused") {
            return None;
        }
        Some(state(name, ok, if ok { String::new() } else { words }))
    });
    known.collect()
}

/// Kubelet and containerd of a node; of one that is not there, the kubelet has not come up.
pub fn of_node(node: Option<&Value>) -> Vec<ComponentState> {
    let Some(node) = node else {
        return vec![state("kubelet", false, "the node is not registered")];
    };
    let (ready, words) = condition(node, "Ready").unwrap_or((false, String::new()));
    let message = if ready { "" } else { &words };
    // The kubelet's own words (pkg/kubelet/nodestatus, ReadyCondition).
    let runtime_down = !ready && words.contains("container runtime");
    let silent = words.contains("NodeStatusUnknown") || words.is_empty();
    let mut states = vec![state("kubelet", ready || (runtime_down && !silent), message)];
    if !silent {
        states.push(state("containerd", !runtime_down, if runtime_down { message } else { "" }));
    }
    states
}

/// The conditions of a node, `Ready` first; empty when it is not there. Conditions that others
/// add are left out, for what they should be is not known.
pub fn conditions(node: Option<&Value>) -> Vec<ComponentState> {
    let Some(node) = node else { return Vec::new() };
    let must = TRUE.iter().map(|name| (name, true)).chain(FALSE.iter().map(|name| (name, false)));
    let told = must.filter_map(|(name, wanted)| {
        let found = crate::kubernetes::readiness::condition(node, name)?;
        // Unknown is not as it should be either way.
        let ok = found.status == if wanted { "True" } else { "False" };
        Some(state(name, ok, if ok { String::new() } else { found.words() }))
    });
    told.collect()
}

fn state(name: &str, ok: bool, message: impl Into<String>) -> ComponentState {
    ComponentState { name: name.into(), ok, message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn names(states: &[ComponentState]) -> Vec<(&str, bool)> {
        states.iter().map(|state| (state.name.as_str(), state.ok)).collect()
    }

    #[test]
    fn the_servers_checks_are_read() {
        let text = "[+]ping ok\n[+]log ok\n[-]etcd failed: reason withheld\n\
                    [+]poststarthook/rbac/bootstrap-roles ok\nreadyz check failed\n";
        let checks = parse_checks(text);
        assert_eq!(checks.len(), 4);
        let states = of_checks(&checks);
        assert_eq!(names(&states), [("apiserver", false), ("etcd", false)]);
        assert_eq!(states[0].message, "etcd failed: reason withheld");
        let states = of_checks(&parse_checks("[+]ping ok\n[+]etcd ok\nreadyz check passed\n"));
        assert_eq!(names(&states), [("apiserver", true), ("etcd", true)]);
    }

    #[test]
    fn a_server_that_tells_no_checks_is_not_well() {
        assert_eq!(names(&of_checks(&parse_checks(""))), [("apiserver", false)]);
    }

    #[test]
    fn scheduler_and_controller_manager_speak_through_the_server() {
        let statuses = [
            json!({"metadata": {"name": "scheduler"}, "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]}),
            json!({"metadata": {"name": "controller-manager"}, "conditions": [{"type": "Healthy", "status": "False",
                   "message": "Get \"https://127.0.0.1:10257/healthz\": connect: connection refused"}]}),
            json!({"metadata": {"name": "etcd-0"}, "conditions": [{"type": "Healthy", "status": "True"}]}),
        ];
        let states = of_statuses(&statuses);
        assert_eq!(names(&states), [("scheduler", true), ("controller-manager", false)]);
        assert!(states[1].message.contains("refused"));
    }

    #[test]
    fn a_port_that_is_switched_off_tells_nothing() {
        let refused = "Get \"http://127.0.0.1:10251/healthz\": dial tcp 127.0.0.1:10251: connect: connection refused";
        let status = |message: &str| json!({"metadata": {"name": "scheduler"}, "conditions": [{"type": "Healthy", "status": "False", "message": message}]});
        assert_eq!(of_statuses(&[status(refused)]), []);
        let asked_with_tls = refused.replace("http://127.0.0.1:10251", "https://127.0.0.1:10259");
        assert_eq!(names(&of_statuses(&[status(&asked_with_tls)])), [("scheduler", false)]);
    }

    fn node(conditions: &[(&str, &str, &str, &str)]) -> Value {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(name, status, reason, message)| {
                json!({"type": name, "status": status, "reason": reason, "message": message})
            })
            .collect();
        json!({"status": {"conditions": conditions}})
    }

    #[test]
    fn a_node_whose_runtime_is_down_has_a_kubelet() {
        let node = node(&[(
            "Ready",
            "False",
            "KubeletNotReady",
            "[container runtime is down, PLEG is not healthy]",
        )]);
        assert_eq!(names(&of_node(Some(&node))), [("kubelet", true), ("containerd", false)]);
    }

    #[test]
    fn of_a_silent_kubelet_nothing_is_known_of_containerd() {
        let node = node(&[(
            "Ready",
            "Unknown",
            "NodeStatusUnknown",
            "Kubelet stopped posting node status.",
        )]);
        assert_eq!(names(&of_node(Some(&node))), [("kubelet", false)]);
        assert_eq!(names(&of_node(None)), [("kubelet", false)]);
    }

    #[test]
    fn pressures_must_be_false_and_foreign_conditions_do_not_count() {
        let node = node(&[
            ("MemoryPressure", "False", "KubeletHasSufficientMemory", ""),
            ("DiskPressure", "True", "KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("PIDPressure", "Unknown", "NodeStatusUnknown", ""),
            ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
            ("ReadonlyFilesystem", "True", "Whoever", ""),
        ]);
        let states = conditions(Some(&node));
        assert_eq!(
            names(&states),
            [
                ("Ready", true),
                ("MemoryPressure", true),
                ("DiskPressure", false),
                ("PIDPressure", false)
            ]
        );
        assert_eq!(states[2].message, "KubeletHasDiskPressure: kubelet has disk pressure");
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "([\\[\\]+\\- a-z:/\\n]|\\PC)*") {
            for check in parse_checks(&text) {
                prop_assert!(!check.name.contains(' '));
            }
        }

        #[test]
        fn a_component_that_is_well_has_nothing_to_say(
            ready in prop::sample::select(vec!["True", "False", "Unknown"]),
            pressure in prop::sample::select(vec!["True", "False", "Unknown"]),
        ) {
            let node = node(&[("Ready", ready, "R", "m"), ("DiskPressure", pressure, "R", "m")]);
            for state in conditions(Some(&node)) {
                prop_assert_eq!(state.ok, state.message.is_empty());
            }
        }
    }
}
