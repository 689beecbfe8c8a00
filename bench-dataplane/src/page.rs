//! `docs/performance.md`, out of the reports of a run on the project's own test machine.

use crate::scenario;
use crate::table::number;
use crate::{Report, Series};
use std::fmt::Write;

/// What a number is to be.
struct Goal {
    series: &'static str,
    what: &'static str,
    /// How it is measured.
    method: &'static str,
    bound: Bound,
    goal: f64,
    stretch: Option<f64>,
}

enum Bound {
    AtLeast,
    AtMost,
}

const GOALS: [Goal; 8] = [
    Goal {
        series: "tcp.ratio.wireguard-go",
        what: "TCP, one stream, against wireguard-go with offloads",
        method: "iperf3, what arrived in a turn, the first second left out",
        bound: Bound::AtLeast,
        goal: 1.5,
        stretch: Some(2.5),
    },
    Goal {
        series: "tcp.ratio.boringtun-cli",
        what: "the same against boringtun-cli",
        method: "the same",
        bound: Bound::AtLeast,
        goal: 6.0,
        stretch: Some(10.0),
    },
    Goal {
        series: "udp.ratio.wireguard-go",
        what: "UDP, 1200 bytes, rate without loss, against wireguard-go",
        method: "searched by halves in trials of a second in which not one datagram may be lost",
        bound: Bound::AtLeast,
        goal: 1.3,
        stretch: Some(2.0),
    },
    Goal {
        series: "tcp.tax, holdfast beside wireguard-go",
        what: "tax: processor time over that of sealing and opening alone",
        method: "processor time of both programs for a byte of the stream of TCP, over that of `ring` \
                 sealing and opening packets of 1420 bytes on one core just before",
        bound: Bound::AtMost,
        goal: 3.0,
        stretch: Some(2.0),
    },
    Goal {
        series: "memory.load, holdfast beside wireguard-go",
        what: "memory under load, PSS in MiB",
        method: "the most of the larger end, looked at every 200 ms under a stream of TCP",
        bound: Bound::AtMost,
        goal: 24.0,
        stretch: Some(12.0),
    },
    Goal {
        series: "memory.load.ratio.wireguard-go",
        what: "the same against wireguard-go",
        method: "the same",
        bound: Bound::AtMost,
        goal: 0.2,
        stretch: None,
    },
    Goal {
        series: "latency.rest.p99.ratio.wireguard-go",
        what: "latency that the tunnel adds at rest, p99, against wireguard-go",
        method: "64 bytes there and back, less the same over the wire alone",
        bound: Bound::AtMost,
        goal: 1.0,
        stretch: Some(0.5),
    },
    Goal {
        series: "memory.wakeups, holdfast beside wireguard-go",
        what: "at rest with one tunnel, wake-ups a second",
        method: "voluntary context switches of all threads over 20 seconds, of the end with more",
        bound: Bound::AtMost,
        goal: 2.0,
        stretch: None,
    },
];

/// The page; `notes` in Markdown come after the goals: why one falls short, and profiles.
pub fn render(reports: &[Report], notes: &str) -> String {
    let mut page = String::from(
        "# Performance of WireGuard in userspace\n\n\
         Made by `bench-dataplane page`; do not edit. Each number is the median of turns that were\n\
         taken one by one beside the same of a peer, in the same run, between two network namespaces of one machine; both ends are\n\
         the same program. A ratio is the median of the ratios of neighbours, with the interval that holds it in 95 of 100 bootstrap\n\
         draws. How to run it, and how each scenario measures: [bench](reference/bench.md).\n\n## Goals\n\n\
         | what | goal | stretch | measured | | how | turns |\n|---|---|---|---|---|---|---|\n",
    );
    for goal in &GOALS {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "{}", row(goal, reports));
    }
    if !notes.trim().is_empty() {
        let _ = write!(page, "\n{}\n", notes.trim());
    }
    for report in reports {
        let about = scenario::find(&report.scenario).map_or("", |scenario| scenario.about);
        let _ = write!(page, "\n## {}\n\n{about}.\n\n", report.scenario);
        for fault in &report.faults {
            let _ = writeln!(page, "* **fault**: {fault}");
        }
        for (key, value) in &report.setup {
            let _ = writeln!(page, "* {key}: {value}");
        }
        page.push_str("\n| series | unit | median | in | p99 | n |\n|---|---|---|---|---|---|\n");
        for series in &report.results {
            let Series { name, unit, median, p99, n, .. } = series;
            let (median, p99, interval) = (number(*median), number(*p99), interval(series));
            let _ = writeln!(page, "| {name} | {unit} | {median} | {interval} | {p99} | {n} |");
        }
    }
    page
}

fn interval(series: &Series) -> String {
    series
        .interval
        .map_or(String::new(), |[low, high]| format!("{} to {}", number(low), number(high)))
}

fn row(goal: &Goal, reports: &[Report]) -> String {
    let (sign, holds): (_, fn(f64, f64) -> bool) = match goal.bound {
        Bound::AtLeast => ("≥", |measured, goal| measured >= goal),
        Bound::AtMost => ("≤", |measured, goal| measured <= goal),
    };
    let Goal { what, method, goal: aim, .. } = goal;
    let stretch = goal.stretch.map_or(String::new(), |stretch| format!("{sign} {stretch}"));
    let mut all = reports.iter().flat_map(|report| &report.results);
    let found = all.find(|series| series.name == goal.series && series.n > 0);
    let Some(series) = found else {
        return format!("| {what} | {sign} {aim} | {stretch} | not measured | | {method} | |");
    };
    let is = |bound: Option<f64>| bound.is_some_and(|bound| holds(series.median, bound));
    let verdict = match (is(goal.stretch), is(Some(*aim))) {
        (true, _) => "stretch reached",
        (false, true) => "reached",
        (false, false) => "**falls short**",
    };
    let measured = match interval(series) {
        none if none.is_empty() => number(series.median),
        interval => format!("{} ({interval})", number(series.median)),
    };
    let n = series.n;
    format!("| {what} | {sign} {aim} | {stretch} | {measured} | {verdict} | {method} | {n} |")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn with(name: &str, median: f64) -> Vec<Report> {
        let mut report = Report::new("tcp");
        report.results = vec![Series::new(name, "ratio", vec![median])];
        vec![report]
    }

    #[test]
    fn what_falls_short_is_said() {
        let verdicts = [(1.0, "falls short"), (1.5, "| reached"), (2.5, "stretch reached")];
        for (median, verdict) in verdicts {
            let page = render(&with("tcp.ratio.wireguard-go", median), "");
            assert!(page.contains(verdict), "{page}");
        }
        for (median, verdict) in [(3.1, "falls short"), (3.0, "| reached"), (1.9, "stretch")] {
            let page = render(&with("tcp.tax, holdfast beside wireguard-go", median), "");
            assert!(page.contains(verdict), "{page}");
        }
        assert!(render(&[], "").contains("not measured"));
    }
    #[test]
    fn notes_come_after_the_goals_and_faults_are_told() {
        let mut reports = with("tcp.ratio.wireguard-go", 1.0);
        reports[0].faults = vec!["it stood still".into()];
        let page = render(&reports, "## Why\n\nIt is slow.\n");
        let [goals, why, tcp] = ["## Goals", "## Why", "## tcp"].map(|at| page.find(at).unwrap());
        assert!(goals < why && why < tcp, "{page}");
        assert!(page.contains("it stood still"), "{page}");
        assert!(GOALS.iter().all(|goal| page.contains(goal.what)));
    }

    /// The committed page is what the committed run makes; as long as there is no run, there is no
    /// page either.
    #[test]
    fn the_page_is_made_of_the_committed_run() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let read = |name: &str| std::fs::read_to_string(docs.join(name)).ok();
        let made = read("performance.json").map(|json| {
            let notes = read("performance-notes.md").unwrap_or_default();
            render(&Report::parse(&json).unwrap(), &notes)
        });
        assert!(
            read("performance.md") == made,
            "make it anew: bench-dataplane page docs/performance.json \
             --notes docs/performance-notes.md > docs/performance.md"
        );
    }
}
