//! What a node reports of Kubernetes, in Prometheus' text exposition format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! Names and labels are an interface: a series is never renamed. What is not known is left out.
//! Phases are given as one series per phase, of which exactly one is 1, so that a query needs no
//! list of numbers. Times are in seconds.

use holdfast_api::kubernetes::{KubernetesPhase, KubernetesState, ReleasePhase};
use jiff::Timestamp;
use std::fmt::Write;

/// Content type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const PHASES: [KubernetesPhase; 7] = [
    KubernetesPhase::Off,
    KubernetesPhase::Preparing,
    KubernetesPhase::Starting,
    KubernetesPhase::Ready,
    KubernetesPhase::NotReady,
    KubernetesPhase::Backoff,
    KubernetesPhase::Restoring,
];

const RELEASE_PHASES: [ReleasePhase; 11] = [
    ReleasePhase::None,
    ReleasePhase::Waiting,
    ReleasePhase::Preflight,
    ReleasePhase::PrePull,
    ReleasePhase::Applying,
    ReleasePhase::Verifying,
    ReleasePhase::Pruning,
    ReleasePhase::Committed,
    ReleasePhase::RollingBack,
    ReleasePhase::RolledBack,
    ReleasePhase::Refused,
];

/// The metrics of `state`, as of `now`. Ages are at least zero, whatever the clock did.
pub fn render(state: &KubernetesState, now: Timestamp) -> String {
    let mut page = Page::default();
    kubernetes(&mut page, state, now);
    page.into_text()
}

/// Adds the metrics of `state` to a page that has others.
pub fn kubernetes(page: &mut Page, state: &KubernetesState, now: Timestamp) {
    of_the_node(page, state);
    of_the_release(page, state);
    of_snapshots(page, state, now);
}

fn of_the_node(page: &mut Page, state: &KubernetesState) {
    page.metric(
        "holdfast_kubernetes_phase",
        GAUGE,
        "Where Kubernetes is in its life; 1 for the one that holds.",
    );
    for phase in PHASES {
        page.sample(&[("phase", &format!("{phase:?}"))], truth(phase == state.phase));
    }
    page.metric(
        "holdfast_kubernetes_info",
        GAUGE,
        "Version of the distribution and role of the node; always 1.",
    );
    let role = format!("{:?}", state.role);
    page.sample(&[("version", &state.version), ("role", &role)], 1.0);
    page.metric(
        "holdfast_kubernetes_starts_total",
        COUNTER,
        "Times that the distribution was started since the manager was.",
    );
    page.sample(&[], f64::from(state.starts));
    page.metric(
        "holdfast_kubernetes_ends_total",
        COUNTER,
        "Times that the distribution ended by itself since the manager was started.",
    );
    page.sample(&[], f64::from(state.ends));
    if let Some(millis) = state.ready_after_ms {
        page.metric(
            "holdfast_kubernetes_ready_seconds",
            GAUGE,
            "Seconds from the last start to ready.",
        );
        page.sample(&[], seconds(millis));
    }
    page.metric("holdfast_node_not_true_condition", GAUGE, "1 when a condition of the node is not as it should be: Ready not True, or a pressure not False.");
    for condition in unique(&state.conditions, |one| &one.name) {
        page.sample(&[("condition", &condition.name)], truth(!condition.ok));
    }
    page.metric(
        "holdfast_component_not_true_status",
        GAUGE,
        "1 when a part of Kubernetes is not well.",
    );
    for component in unique(&state.components, |one| &one.name) {
        page.sample(&[("component", &component.name)], truth(!component.ok));
    }
    page.metric("holdfast_pods", GAUGE, "Pods of the node by how they are.");
    let pods = &state.pods;
    let counts =
        [("deployed", pods.deployed), ("in_progress", pods.in_progress), ("failed", pods.failed)];
    for (name, count) in counts {
        page.sample(&[("state", name)], f64::from(count));
    }
    page.metric(
        "holdfast_pod_problem",
        GAUGE,
        "Pods that do not run as they should, with Kubernetes' word and our code; always 1.",
    );
    for problem in unique(&pods.problems, |one| &one.pod) {
        let labels = [
            ("pod", problem.pod.as_str()),
            ("reason", &problem.reason),
            ("code", problem.code.code()),
        ];
        page.sample(&labels, 1.0);
    }
}

fn of_the_release(page: &mut Page, state: &KubernetesState) {
    let release = &state.release;
    page.metric(
        "holdfast_release_phase",
        GAUGE,
        "Where the wanted release is; 1 for the phase that holds.",
    );
    for phase in RELEASE_PHASES {
        let phase_name = format!("{phase:?}");
        let labels = [
            ("release", release.wanted.name.as_str()),
            ("version", &release.wanted.version),
            ("phase", &phase_name),
        ];
        page.sample(&labels, truth(phase == release.phase));
    }
    page.metric("holdfast_release_steps", GAUGE, "Steps of the release's plan.");
    page.sample(&[], f64::from(release.steps));
    page.metric("holdfast_release_steps_done", GAUGE, "Steps of the release's plan that are done.");
    page.sample(&[], f64::from(release.done));
    page.metric(
        "holdfast_release_failed_versions",
        GAUGE,
        "Versions that failed and are not tried again.",
    );
    page.sample(&[], count(release.failed.len()));
    page.metric(
        "holdfast_release_phase_duration_seconds",
        GAUGE,
        "Seconds that the last release took, by phase.",
    );
    for (phase, millis) in &state.release_ms {
        page.sample(&[("phase", phase)], seconds(*millis));
    }
}

/// The place of snapshots that are on the node.
const LOCAL: &str = "local";

fn of_snapshots(page: &mut Page, state: &KubernetesState, now: Timestamp) {
    let snapshots = &state.snapshots;
    let age = |then: Timestamp| now.duration_since(then).as_secs_f64().max(0.0);
    page.metric("holdfast_snapshots", GAUGE, "Snapshots of the datastore, by place.");
    let mut places: Vec<_> = snapshots.snapshots.iter().map(|one| one.place.as_str()).collect();
    // A server that has none is what somebody is to be woken for; agents have no datastore.
    places.extend(state.role.is_server().then_some(LOCAL));
    places.sort_unstable();
    places.dedup();
    for place in &places {
        let held = snapshots.snapshots.iter().filter(|one| one.place == *place).count();
        page.sample(&[("place", place)], count(held));
    }
    page.metric("holdfast_snapshot_age_seconds", GAUGE, "Age of the newest snapshot, by place.");
    for place in &places {
        let of_place = snapshots.snapshots.iter().filter(|one| one.place == *place);
        if let Some(newest) = of_place.map(|one| one.taken).max() {
            page.sample(&[("place", place)], age(newest));
        }
    }
    page.metric(
        "holdfast_snapshot_problem",
        GAUGE,
        "1 when the last attempt to take, store or restore a snapshot failed, or the last drill.",
    );
    page.sample(&[], truth(snapshots.problem.is_some()));
    if let Some(drill) = &snapshots.drill {
        page.metric(
            "holdfast_snapshot_drill_ok",
            GAUGE,
            "1 when the newest drill restored its snapshot.",
        );
        page.sample(&[], truth(drill.ok));
        page.metric(
            "holdfast_snapshot_drill_age_seconds",
            GAUGE,
            "Seconds since the newest drill.",
        );
        page.sample(&[], age(drill.at));
        page.metric(
            "holdfast_snapshot_drill_duration_seconds",
            GAUGE,
            "Seconds that the newest drill took.",
        );
        page.sample(&[], seconds(drill.took_ms));
    }
}

/// A value that goes up and down.
pub const GAUGE: &str = "gauge";
/// A value that only grows.
pub const COUNTER: &str = "counter";

/// A page under way: the metric begun last names the samples that follow.
#[derive(Debug, Default)]
pub struct Page(String, &'static str);

impl Page {
    /// Begins a metric; its samples follow.
    pub fn metric(&mut self, name: &'static str, kind: &str, help: &str) {
        self.1 = name;
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _infallible = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Adds a sample to the metric that was begun last. The labels of two samples differ.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(self.1);
        for (place, (name, text)) in labels.iter().enumerate() {
            let mark = if place == 0 { '{' } else { ',' };
            let _infallible = write!(self.0, "{mark}{name}=\"{}\"", escape(text));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _infallible = writeln!(self.0, " {value}");
    }

    /// The page's text.
    pub fn into_text(self) -> String {
        self.0
    }
}

/// A label's value: backslash, quotation mark and line feed are escaped.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The first of each name; the same series twice would make the page invalid.
fn unique<T>(all: &[T], name: impl Fn(&T) -> &String) -> impl Iterator<Item = &T> {
    all.iter().enumerate().filter_map(move |(place, one)| {
        let first = all.iter().position(|other| name(other) == name(one));
        (first == Some(place)).then_some(one)
    })
}

fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// Milliseconds as seconds; exact up to a thousand years.
#[allow(clippy::cast_precision_loss, reason = "metrics are floating point numbers")]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
#[path = "metrics/tests.rs"]
mod tests;
