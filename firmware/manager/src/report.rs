//! The node's report: what the pass, the tunnels and the controller say, brought together.
//!
//! Pure: everything that is shown on the console, in the JSON and in `NodeStatus` is decided here.

use crate::lifecycle::Health;
use holdfast_api::kubernetes::KubernetesState;
use holdfast_api::local::{HealthCheck, HealthReport, ItemReport, ItemState, NodeReport, Stage};
use holdfast_api::resources::NodeStatusStatus;
use holdfast_api::tunnel::{BfdState, TunnelsState};
use holdfast_api::{Reason, Severity};

/// What the lifecycle learns from a pass and from the tunnels.
pub fn observed(
    configured: bool,
    wanted: u8,
    items: &[ItemReport],
    tunnels: Option<&TunnelsState>,
) -> Health {
    let failed = items.iter().find(|item| item.state == ItemState::Failed);
    let missing = failed
        .map(|item| item.reason.unwrap_or(Reason::Internal))
        .or_else(|| (wanted > 0).then(|| tunnels_missing(wanted, tunnels)).flatten());
    Health { configured, missing }
}

fn tunnels_missing(wanted: u8, tunnels: Option<&TunnelsState>) -> Option<Reason> {
    let Some(state) = tunnels else { return Some(Reason::TunnelDaemonDown) };
    match state.up() {
        up if up >= usize::from(wanted) => None,
        0 => Some(state.reason.unwrap_or(Reason::TunnelNoData)),
        _ => Some(Reason::TunnelSingle),
    }
}

/// One line for people: `systemctl status`, the console's head, `holdfast status`.
pub fn headline(report: &NodeReport) -> String {
    let carried = report
        .tunnels
        .iter()
        .flat_map(|state| &state.tunnels)
        .filter(|tunnel| tunnel.state == BfdState::Up)
        .map(|tunnel| if tunnel.active { format!("{}*", tunnel.edge) } else { tunnel.edge.clone() })
        .collect::<Vec<_>>();
    let stage = match report.stage {
        Stage::NoToken => "Waiting for a registration token".into(),
        Stage::Registering => format!("Registering with {}", or_unknown(&report.controller)),
        Stage::AwaitingApproval => "Waiting for an operator's approval".into(),
        Stage::Bootstrapping => format!("Setting up {}", or_unknown(&report.node)),
        Stage::Online => format!("{} is online over {}", report.node, carried.join(" and ")),
        Stage::Degraded if carried.is_empty() => {
            format!("{} is degraded, no tunnel passes data", report.node)
        }
        Stage::Degraded => {
            format!("{} is degraded, online over {}", report.node, carried.join(" and "))
        }
        Stage::Refused => "Refused by the controller".into(),
    };
    match report.reason {
        Some(reason) if reason.severity() > Severity::Info => format!("{stage} [{reason}]"),
        _ => stage,
    }
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "(not known yet)" } else { text }
}

/// Without a token or an address there is nobody who could answer.
fn why_unreachable(report: &NodeReport) -> Reason {
    match report.reason {
        Some(reason) if report.controller.is_empty() => reason,
        Some(Reason::ControllerWrongCa) => Reason::ControllerWrongCa,
        _ => Reason::ControllerUnreachable,
    }
}

/// The checks of `holdfast health`.
pub fn health(report: &NodeReport) -> HealthReport {
    let mut checks = vec![HealthCheck {
        name: "lifecycle".into(),
        ok: report.stage == Stage::Online,
        reason: report.reason.filter(|_| report.stage != Stage::Online),
        message: headline(report),
    }];
    checks.push(HealthCheck {
        name: "controller".into(),
        // Away is no fault of a node that holds a configuration: it is made to live without.
        ok: report.controller_reachable || report.generation > 0,
        reason: (!report.controller_reachable).then(|| why_unreachable(report)),
        message: String::new(),
    });
    checks.extend(report.items.iter().map(|item| HealthCheck {
        name: item.domain.clone(),
        ok: matches!(item.state, ItemState::Ok | ItemState::Changed),
        reason: item.reason,
        message: item.message.clone(),
    }));
    match &report.tunnels {
        // Nobody asked for tunnels yet.
        None if report.generation == 0 => {}
        None => checks.push(HealthCheck {
            name: "tunneld".into(),
            ok: false,
            reason: Some(Reason::TunnelDaemonDown),
            message: String::new(),
        }),
        Some(state) => checks.extend(state.tunnels.iter().map(|tunnel| HealthCheck {
            name: format!("tunnel {}", tunnel.edge),
            ok: tunnel.state == BfdState::Up,
            reason: tunnel.reason,
            message: String::new(),
        })),
    }
    HealthReport { healthy: checks.iter().all(|check| check.ok), checks }
}

/// What the controller is told.
pub fn node_status(report: &NodeReport, at: jiff::Timestamp) -> NodeStatusStatus {
    NodeStatusStatus {
        site: report.site.clone(),
        stage: report.stage,
        generation: report.generation,
        profile: report.profile.clone(),
        version: report.version.clone(),
        reason: report.reason,
        message: report.message.clone(),
        items: report.items.clone(),
        tunnels: report.tunnels.clone(),
        reported_at: Some(at),
        kubernetes: report.kubernetes.clone(),
    }
}

/// What of a status is worth telling at once; counters and ages are not.
pub fn same_news(a: &NodeReport, b: &NodeReport) -> bool {
    let tunnels = |report: &NodeReport| -> Vec<(String, BfdState, bool)> {
        let all = report.tunnels.iter().flat_map(|state| &state.tunnels);
        all.map(|tunnel| (tunnel.edge.clone(), tunnel.state, tunnel.active)).collect()
    };
    let worst = |report: &NodeReport| report.tunnels.as_ref().and_then(|state| state.reason);
    (a.stage, a.generation, a.reason, &a.items, &a.profile)
        == (b.stage, b.generation, b.reason, &b.items, &b.profile)
        && same_kubernetes(a.kubernetes.as_ref(), b.kubernetes.as_ref())
        && tunnels(a) == tunnels(b)
        && worst(a) == worst(b)
}

/// The same but for what changes all the time: messages of progress, counters, the next snapshot.
fn same_kubernetes(a: Option<&KubernetesState>, b: Option<&KubernetesState>) -> bool {
    let news = |state: &KubernetesState| {
        let KubernetesState { phase, version, role, reason, components, conditions, .. } =
            state.clone();
        let release = (state.release.phase, state.release.reason, state.release.good.clone());
        let pods = (state.pods.failed, state.pods.problems.clone());
        let drill = (state.snapshots.drill.clone(), state.snapshots.snapshots.len());
        (phase, version, role, reason, components, conditions, release, pods, drill)
    };
    a.map(news) == b.map(news)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use holdfast_api::tunnel::{LastFailover, TunnelKind, TunnelState};

    pub(crate) fn tunnels(states: &[(&str, BfdState)]) -> TunnelsState {
        let tunnel = |(index, (edge, state)): (usize, &(&str, BfdState))| TunnelState {
            edge: (*edge).into(),
            link: format!("hf-wg{index}"),
            kind: TunnelKind::WireguardUserspace,
            state: *state,
            active: index == 0,
            rtt_us: Some(10_000),
            rx_bytes: 0,
            tx_bytes: 0,
            handshake_age_secs: None,
            path_mtu: None,
            since_ms: 0,
            reason: None,
        };
        TunnelsState {
            generation: 1,
            tunnels: states.iter().enumerate().map(tunnel).collect(),
            candidates: Vec::new(),
            failovers: 0,
            last_failover: None,
            pending: Vec::new(),
            reason: None,
            message: String::new(),
        }
    }

    #[test]
    fn a_node_is_well_only_with_all_tunnels_passing_data() {
        use BfdState::{Down, Up};
        let missing =
            |states: &[(&str, BfdState)]| observed(true, 2, &[], Some(&tunnels(states))).missing;
        assert_eq!(missing(&[("a", Up), ("b", Up)]), None);
        assert_eq!(missing(&[("a", Up), ("b", Down)]), Some(Reason::TunnelSingle));
        assert_eq!(missing(&[("a", Down), ("b", Down)]), Some(Reason::TunnelNoData));
        assert_eq!(observed(true, 2, &[], None).missing, Some(Reason::TunnelDaemonDown));
        assert_eq!(observed(true, 0, &[], None).missing, None);
    }

    /// RFC 7396, as the controller does it.
    fn merge(target: &mut serde_json::Value, patch: &serde_json::Value) {
        let serde_json::Value::Object(patch) = patch else {
            *target = patch.clone();
            return;
        };
        if !target.is_object() {
            *target = serde_json::json!({});
        }
        for (key, value) in patch {
            match value {
                serde_json::Value::Null => drop(target.as_object_mut().unwrap().remove(key)),
                value => merge(&mut target[key], value),
            }
        }
    }

    #[test]
    fn a_status_leaves_nothing_of_the_one_before_it() {
        let json = |status: &NodeStatusStatus| serde_json::to_value(status).unwrap();
        let mut full = tunnels(&[("a", BfdState::Up)]);
        full.reason = Some(Reason::TunnelSingle);
        full.message = "x".into();
        full.pending = vec!["y".into()];
        full.last_failover = Some(LastFailover {
            from: Some("a".into()),
            to: Some("b".into()),
            switch_us: 1,
            age_secs: 2,
        });
        let calm = tunnels(&[("a", BfdState::Up)]);
        let gone = LastFailover { from: None, to: None, switch_us: 1, age_secs: 2 };
        let status = |tunnels: Option<TunnelsState>, reason| NodeStatusStatus {
            tunnels,
            reason,
            reported_at: reason.map(|_| jiff::Timestamp::UNIX_EPOCH),
            ..NodeStatusStatus::default()
        };
        let all = [
            status(Some(full.clone()), Some(Reason::TunnelSingle)),
            status(Some(calm), None),
            status(Some(TunnelsState { last_failover: Some(gone), ..full }), None),
            status(None, None),
        ];
        for before in &all {
            for after in &all {
                let mut kept = serde_json::json!({});
                merge(&mut kept, &json(before));
                merge(&mut kept, &json(after));
                let read: NodeStatusStatus = serde_json::from_value(kept).unwrap();
                assert_eq!(&read, after);
            }
        }
    }

    #[test]
    fn a_failed_domain_comes_before_tunnels() {
        let items = [ItemReport {
            domain: "hugepages".into(),
            state: ItemState::Failed,
            reason: Some(Reason::HugepagesShort),
            message: String::new(),
        }];
        assert_eq!(observed(true, 2, &items, None).missing, Some(Reason::HugepagesShort));
    }
}
