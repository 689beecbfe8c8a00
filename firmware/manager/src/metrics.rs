//! `GET /metrics`: the node in Prometheus' text format (docs/reference/metrics.md).
//!
//! Rendered from the report when it is asked for, so that it costs nothing at rest and says the
//! same as `holdfast status`.

use holdfast_api::Severity;
use holdfast_api::local::{ItemState, NodeReport, Stage};
use holdfast_api::tunnel::BfdState;
use holdfast_cluster::status::metrics::{COUNTER, GAUGE, Page, kubernetes};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// The page. `uptime` is the manager's.
pub fn render(report: &NodeReport, uptime: Duration, now: Timestamp) -> String {
    let mut page = Page::default();
    let count = |number: usize| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    let truth = |is: bool| if is { 1.0 } else { 0.0 };
    page.metric("holdfast_info", GAUGE, "Version and hardware profile of the node; always 1.");
    page.sample(&[("version", &report.version), ("profile", &report.profile)], 1.0);
    page.metric("holdfast_uptime_seconds", GAUGE, "Seconds since the manager started.");
    page.sample(&[], uptime.as_secs_f64());
    page.metric("holdfast_online", GAUGE, "1 when the node is in the stage Online.");
    page.sample(&[], truth(report.stage == Stage::Online));
    page.metric(
        "holdfast_provisioning_seconds",
        GAUGE,
        "Seconds from the manager's start until a stage was reached first.",
    );
    let mut told = Vec::new();
    for reached in report.stages.iter().filter(|reached| reached.stage != Stage::Degraded) {
        if !told.contains(&reached.stage) {
            told.push(reached.stage);
            let seconds = Duration::from_millis(reached.at_ms).as_secs_f64();
            page.sample(&[("stage", &format!("{:?}", reached.stage))], seconds);
        }
    }
    page.metric("holdfast_config_generation", GAUGE, "Generation of the configuration in force.");
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 changes")]
    page.sample(&[], report.generation as f64);
    page.metric(
        "holdfast_controller_reachable",
        GAUGE,
        "1 when the controller answered last time.",
    );
    page.sample(&[], truth(report.controller_reachable));
    page.metric(
        "holdfast_item_failed",
        GAUGE,
        "1 when a domain of the pass is not as it should be.",
    );
    // A domain may have several things to say, and is one series.
    let mut domains = BTreeMap::new();
    for item in &report.items {
        *domains.entry(&item.domain).or_insert(false) |= item.state == ItemState::Failed;
    }
    for (domain, failed) in domains {
        page.sample(&[("domain", domain)], truth(failed));
    }
    page.metric(
        "holdfast_reason",
        GAUGE,
        "Reasons of warnings and errors that hold now; always 1.",
    );
    let reasons = report.items.iter().filter_map(|item| item.reason).chain(report.reason);
    let mut reasons: Vec<_> = reasons.filter(|r| r.severity() > Severity::Info).collect();
    reasons.sort();
    reasons.dedup();
    for reason in reasons {
        page.sample(&[("code", reason.code())], 1.0);
    }
    if let Some(tunnels) = &report.tunnels {
        page.metric("holdfast_tunnels_up", GAUGE, "Tunnels that pass data.");
        page.sample(&[], count(tunnels.up()));
        page.metric("holdfast_tunnel_up", GAUGE, "1 when the tunnel to an edge passes data.");
        for tunnel in &tunnels.tunnels {
            page.sample(&[("edge", &tunnel.edge)], truth(tunnel.state == BfdState::Up));
        }
        page.metric("holdfast_failovers_total", COUNTER, "Failovers since tunneld started.");
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 failovers")]
        page.sample(&[], tunnels.failovers as f64);
    }
    if let Some(state) = &report.kubernetes {
        kubernetes(&mut page, state, now);
    }
    page.into_text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::Reason;
    use holdfast_api::kubernetes::{
        ComponentState, DrillResult, KubernetesState, PodCounts, PodProblem, SnapshotInfo,
        SnapshotsState,
    };
    use holdfast_api::local::{ItemReport, Problem, StageTime};
    use holdfast_api::tunnel::{TunnelKind, TunnelState, TunnelsState};
    use std::collections::BTreeSet;

    /// Something of everything, and some things twice.
    fn full() -> NodeReport {
        let component =
            |name: &str| ComponentState { name: name.into(), ok: false, message: String::new() };
        let item = |state| ItemReport {
            domain: "dhcp".into(),
            state,
            reason: Some(Reason::ControllerUnreachable),
            message: String::new(),
        };
        let pod = PodProblem {
            pod: "default/web".into(),
            reason: "CrashLoopBackOff".into(),
            code: Reason::PodCrashing,
            message: String::new(),
        };
        let taken = |place: &str| SnapshotInfo {
            name: "s".into(),
            taken: Timestamp::UNIX_EPOCH,
            bytes: 1,
            place: place.into(),
            portable: false,
        };
        let drill = DrillResult {
            snapshot: "s".into(),
            at: Timestamp::UNIX_EPOCH,
            took_ms: 1,
            ok: true,
            message: String::new(),
        };
        let kubernetes = KubernetesState {
            components: vec![component("etcd"), component("etcd")],
            conditions: vec![component("Ready")],
            pods: PodCounts { failed: 2, problems: vec![pod.clone(), pod], ..PodCounts::default() },
            ready_after_ms: Some(7000),
            release_ms: [("Applying".into(), 3)].into(),
            snapshots: SnapshotsState {
                snapshots: vec![taken("local"), taken("local"), taken("s3")],
                drill: Some(drill),
                problem: Some(Problem::new(Reason::Internal, "")),
                ..SnapshotsState::default()
            },
            ..KubernetesState::default()
        };
        let tunnel = TunnelState {
            edge: "re-1".into(),
            link: "hf-wg-1".into(),
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
            tunnels: vec![tunnel],
            candidates: Vec::new(),
            failovers: 1,
            last_failover: None,
            pending: Vec::new(),
            reason: None,
            message: String::new(),
        };
        let reached = |stage| StageTime { stage, at_ms: 1 };
        NodeReport {
            stages: vec![reached(Stage::Online), reached(Stage::Degraded), reached(Stage::Online)],
            items: vec![item(ItemState::Failed), item(ItemState::Ok)],
            tunnels: Some(tunnels),
            kubernetes: Some(kubernetes),
            ..crate::manager::empty_report()
        }
    }

    fn page(report: &NodeReport) -> String {
        render(report, Duration::from_secs(1), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn the_page_and_its_documentation_name_the_same() {
        let page = page(&full());
        let told: BTreeSet<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        let documented: BTreeSet<&str> = include_str!("../../../docs/reference/metrics.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        assert_eq!(told, documented);
    }

    #[test]
    fn no_series_is_given_twice() {
        let page = page(&full());
        let mut seen = BTreeSet::new();
        for series in page.lines().filter(|line| !line.starts_with('#')) {
            let series = series.rsplit_once(' ').expect("a series and its value").0;
            assert!(seen.insert(series), "{series}\n{page}");
        }
        assert!(page.contains("holdfast_item_failed{domain=\"dhcp\"} 1\n"), "the worst counts");
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let bare = page(&crate::manager::empty_report());
        assert!(
            !bare.contains("holdfast_kubernetes") && !bare.contains("holdfast_tunnel"),
            "{bare}"
        );
        assert!(bare.contains("holdfast_online 0\n"), "{bare}");
    }
}
