//! What is known of a site, from what its nodes report. Pure.

use holdfast_api::Reason;
use holdfast_api::local::Stage;
use holdfast_api::meta::Condition;
use holdfast_api::resources::{NodeStatusStatus, SiteNode, SiteStatus};
use holdfast_api::tunnel::BfdState;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// A later `last_seen` alone is written this often, so that heartbeats are no flood of changes.
const SEEN_EVERY: SignedDuration = SignedDuration::from_secs(60);

/// The last report of a node.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What it said.
    pub status: NodeStatusStatus,
    /// When it was last heard, by the controller's clock.
    pub heard: Option<Timestamp>,
}

/// Status of a site and the moment at which it could change by mere silence.
pub fn site_status(
    nodes: &[SiteNode],
    reports: &BTreeMap<String, Report>,
    before: &SiteStatus,
    now: Timestamp,
    offline_after: SignedDuration,
) -> (SiteStatus, Option<Timestamp>) {
    let reports: Vec<&Report> = nodes.iter().filter_map(|node| reports.get(&node.name)).collect();
    let silent_at =
        |report: &Report| report.heard.and_then(|at| at.checked_add(offline_after).ok());
    let live: Vec<&Report> =
        reports.iter().copied().filter(|r| silent_at(r).is_some_and(|at| now < at)).collect();
    let online = live
        .iter()
        .filter(|report| matches!(report.status.stage, Stage::Online | Stage::Degraded))
        .count();
    let well = live.iter().filter(|report| report.status.stage == Stage::Online).count();
    let up: Vec<&str> = live
        .iter()
        .flat_map(|report| report.status.tunnels.iter().flat_map(|tunnels| &tunnels.tunnels))
        .filter(|tunnel| tunnel.state == BfdState::Up)
        .map(|tunnel| tunnel.edge.as_str())
        .collect();
    let phase = if reports.iter().all(|report| report.heard.is_none()) {
        "Pending"
    } else if live.is_empty() {
        "Offline"
    } else if online == 0 {
        "Pending"
    } else if well == nodes.len() {
        "Online"
    } else {
        "Degraded"
    };
    let heard = reports.iter().filter_map(|report| report.heard).max();
    let mut status = SiteStatus {
        phase: phase.into(),
        nodes_online: u32::try_from(online).unwrap_or(u32::MAX),
        tunnels_up: u32::try_from(up.len()).unwrap_or(u32::MAX),
        edges: up.into_iter().collect::<BTreeSet<_>>().into_iter().map(Into::into).collect(),
        last_seen: before.last_seen,
        conditions: vec![ready(phase, &live, before, now)],
    };
    let stale = match (before.last_seen, heard) {
        (Some(before), Some(heard)) => heard.duration_since(before) >= SEEN_EVERY,
        (None, Some(_)) => true,
        (_, None) => false,
    };
    if stale || status != *before {
        let whole = |at: Timestamp| at.round(jiff::Unit::Second).unwrap_or(at);
        status.last_seen = heard.map(whole).max(before.last_seen);
    }
    let next = live.iter().filter_map(|report| silent_at(report)).min();
    (status, next)
}

fn ready(phase: &str, live: &[&Report], before: &SiteStatus, now: Timestamp) -> Condition {
    let status = match phase {
        "Online" => "True",
        "Pending" => "Unknown",
        _ => "False",
    };
    let worst = live.iter().find(|report| report.status.reason.is_some());
    let (reason, message) = match (phase, worst) {
        ("Offline", _) => (
            Reason::ControllerUnreachable.code(),
            "No node of the site has been heard lately.".into(),
        ),
        (_, Some(report)) => {
            (report.status.reason.map_or("", Reason::code), report.status.message.clone())
        }
        (_, None) => ("", String::new()),
    };
    let old = before.conditions.iter().find(|condition| condition.kind == "Ready");
    let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time);
    Condition {
        kind: "Ready".into(),
        status: status.into(),
        reason: reason.into(),
        message,
        last_transition_time: since.or_else(|| now.round(jiff::Unit::Second).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::resources::NodeRole;
    use holdfast_api::tunnel::{TunnelKind, TunnelState, TunnelsState};

    const SILENCE: SignedDuration = SignedDuration::from_secs(100);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn nodes(n: usize) -> Vec<SiteNode> {
        let node = |n| SiteNode {
            name: format!("n{n}"),
            registration: format!("r{n}"),
            role: NodeRole::Worker,
            address: None,
        };
        (0..n).map(node).collect()
    }

    fn report(stage: Stage, edges: &[&str], heard: i64) -> Report {
        let tunnel = |edge: &&str| TunnelState {
            edge: (*edge).into(),
            link: "hf-wg0".into(),
            kind: TunnelKind::WireguardKernel,
            state: BfdState::Up,
            active: true,
            rtt_us: None,
            rx_bytes: 0,
            tx_bytes: 0,
            handshake_age_secs: None,
            path_mtu: None,
            since_ms: 0,
            reason: None,
        };
        let tunnels = TunnelsState {
            generation: 1,
            tunnels: edges.iter().map(tunnel).collect(),
            candidates: vec![],
            failovers: 0,
            last_failover: None,
            pending: vec![],
            reason: None,
            message: String::new(),
        };
        let status = NodeStatusStatus { stage, tunnels: Some(tunnels), ..Default::default() };
        Report { status, heard: Some(at(heard)) }
    }

    #[test]
    fn a_site_goes_from_pending_over_online_and_degraded_to_offline() {
        let members = nodes(2);
        let none = SiteStatus::default();
        let mut reports = BTreeMap::new();
        let (status, next) = site_status(&members, &reports, &none, at(0), SILENCE);
        assert_eq!((status.phase.as_str(), next), ("Pending", None));
        reports.insert("n0".to_owned(), report(Stage::Online, &["b", "a"], 0));
        let (status, next) = site_status(&members, &reports, &status, at(1), SILENCE);
        assert_eq!(
            (status.phase.as_str(), status.nodes_online, status.tunnels_up),
            ("Degraded", 1, 2)
        );
        assert_eq!((status.edges.join(","), next), ("a,b".into(), Some(at(100))));
        reports.insert("n1".to_owned(), report(Stage::Online, &["a"], 5));
        let (status, _) = site_status(&members, &reports, &status, at(6), SILENCE);
        assert_eq!((status.phase.as_str(), status.tunnels_up), ("Online", 3));
        assert_eq!(status.conditions[0].status, "True");
        let (status, next) = site_status(&members, &reports, &status, at(105), SILENCE);
        assert_eq!((status.phase.as_str(), status.last_seen, next), ("Offline", Some(at(5)), None));
    }

    #[test]
    fn a_heartbeat_alone_is_no_change() {
        let members = nodes(1);
        let mut reports = BTreeMap::from([("n0".to_owned(), report(Stage::Online, &["a"], 0))]);
        let (first, _) = site_status(&members, &reports, &SiteStatus::default(), at(0), SILENCE);
        reports.insert("n0".to_owned(), report(Stage::Online, &["a"], 30));
        let (same, next) = site_status(&members, &reports, &first, at(30), SILENCE);
        assert_eq!((same, next), (first.clone(), Some(at(130))));
        reports.insert("n0".to_owned(), report(Stage::Online, &["a"], 61));
        let (later, _) = site_status(&members, &reports, &first, at(61), SILENCE);
        assert_eq!(later.last_seen, Some(at(61)));
    }
}
