//! `GET /metrics`: the node in Prometheus' text format (docs/reference/metrics.md).
//!
//! Rendered from the report when it is asked for, so that it costs nothing at rest and says the
//! same as `holdfast status`.

use holdfast_api::Severity;
use holdfast_api::local::{ItemState, NodeReport, Stage};
use holdfast_api::tunnel::BfdState;
use holdfast_cluster::status::metrics::{COUNTER, GAUGE, Page, kubernetes};
use jiff::Timestamp;
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
    for item in &report.items {
        page.sample(&[("domain", &item.domain)], truth(item.state == ItemState::Failed));
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
