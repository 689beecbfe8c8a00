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
}

/// The goal, and one beyond it.
enum Bound {
    AtLeast(f64, Option<f64>),
    AtMost(f64, Option<f64>),
    /// It is told as it is, and only when it was measured.
    None,
}

impl Goal {
    /// What goals are about. A ratio is one to the peer of exactly that name; what ours takes beside
    /// a peer is its own, whatever that peer was built without.
    fn is_about(&self, series: &Series) -> bool {
        let name = series.name.as_str();
        series.n > 0
            && match self.series.contains(", holdfast beside ") {
                true => name.starts_with(self.series),
                false => name == self.series,
            }
    }
}

const GOALS: &[Goal] = &[
    Goal {
        series: "tcp.ratio.wireguard-go",
        what: "TCP, one stream, against wireguard-go with offloads",
        method: "iperf3, what arrived in a turn, the first second left out",
        bound: Bound::AtLeast(1.5, Some(2.5)),
    },
    Goal {
        series: "tcp.ratio.boringtun-cli",
        what: "the same against boringtun-cli",
        method: "the same",
        bound: Bound::AtLeast(6.0, Some(10.0)),
    },
    Goal {
        series: "udp.ratio.wireguard-go",
        what: "UDP, 1200 bytes, rate without loss, against wireguard-go",
        method: "searched by halves in trials of a second in which not one datagram may be lost, and \
                 confirmed by one of five seconds",
        bound: Bound::AtLeast(1.3, Some(2.0)),
    },
    Goal {
        series: "tcp.tax, holdfast beside wireguard-go",
        what: "tax: processor time per byte of the data path over that of bare seal and open",
        method: "processor time of both programs for a byte of the stream of TCP, over that of `ring` \
                 sealing and opening packets of 1420 bytes in the bench's own process, warmed up: the \
                 median of ten passes, half of them before the turn and half after it; the same clock on \
                 both sides, which is not a counter of cycles",
        bound: Bound::AtMost(3.0, Some(2.0)),
    },
    Goal {
        series: "memory.load, holdfast beside wireguard-go",
        what: "memory under load, PSS in MiB",
        method: "the most of the larger end, looked at every 200 ms under a stream of TCP",
        bound: Bound::AtMost(24.0, Some(12.0)),
    },
    Goal {
        series: "memory.load.ratio.wireguard-go",
        what: "the same against wireguard-go",
        method: "the same",
        bound: Bound::AtMost(0.2, None),
    },
    Goal {
        series: "latency.rest.p99.ratio.wireguard-go",
        what: "latency that the tunnel adds at rest, p99, against wireguard-go",
        method: "64 bytes there and back, less the same over the wire alone; one that is lost counts \
                 half a second",
        bound: Bound::AtMost(1.0, Some(0.5)),
    },
    Goal {
        series: "memory.wakeups, holdfast beside wireguard-go",
        what: "at rest with one tunnel, wake-ups a second",
        method: "voluntary context switches of all threads over ten seconds, of the end with more",
        bound: Bound::AtMost(2.0, None),
    },
    Goal {
        series: "many-tunnels.configure, holdfast beside wireguard-go",
        what: "10,000 peers configured, in seconds",
        method: "`wg setconf` from start to end; each peer has a preshared key and three prefixes",
        bound: Bound::AtMost(1.0, None),
    },
    Goal {
        series: "many-tunnels.idle, holdfast beside wireguard-go",
        what: "memory per idle peer, in bytes",
        method: "PSS a second after that, less PSS before, for each of them",
        bound: Bound::None,
    },
    Goal {
        series: "many-tunnels.idle.ratio.wireguard-go",
        what: "memory per idle peer against wireguard-go",
        method: "the same",
        bound: Bound::None,
    },
    Goal {
        series: "handshakes.restart, holdfast beside wireguard-go",
        what: "handshakes of 6,000 tunnels after a restart, in seconds",
        method: "from the program's start, before it is set up, until the last is answered; the other \
                 side is one thread on the same machine",
        bound: Bound::AtMost(5.0, None),
    },
    Goal {
        series: "many-tunnels.6000.up.ratio.wireguard-go",
        what: "data through 6,000 tunnels to their edge, against wireguard-go",
        method: "datagrams of 1,200 bytes through all of them in turns, what arrives",
        bound: Bound::None,
    },
    Goal {
        series: "many-tunnels.6000.down.ratio.wireguard-go",
        what: "the same from their edge",
        method: "the same",
        bound: Bound::None,
    },
    Goal {
        series: "many-tunnels.6000.memory, holdfast beside wireguard-go",
        what: "memory of 6,000 tunnels with data through all, PSS in MiB",
        method: "at the end of a turn",
        bound: Bound::None,
    },
    Goal {
        series: "time without traffic, BFD 3 × 100 ms",
        what: "failover, BFD 3 × 100 ms, in milliseconds without traffic",
        method: "the link of the active edge cut both ways under one datagram per millisecond",
        bound: Bound::None,
    },
    Goal {
        series: "time without traffic, BFD 3 × 20 ms",
        what: "the same, BFD 3 × 20 ms",
        method: "the same",
        bound: Bound::None,
    },
    Goal {
        series: "program, 100000 routes, netd",
        what: "two tunnels and 100,000 routes programmed, in milliseconds",
        method: "by netlink, from an empty kernel until everything stands",
        bound: Bound::None,
    },
    Goal {
        series: "switch, 100000 routes / 1 route, in turns",
        what: "traffic switched to the other tunnel, 100,000 routes against one",
        method: "one message that replaces the group of nexthops",
        bound: Bound::None,
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
    for row in GOALS.iter().filter_map(|goal| row(goal, reports)) {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "{row}");
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

fn row(goal: &Goal, reports: &[Report]) -> Option<String> {
    type Holds = fn(f64, f64) -> bool;
    let at_least: (_, Holds) = ("≥", |measured, goal| measured >= goal);
    let at_most: (_, Holds) = ("≤", |measured, goal| measured <= goal);
    let (bound, aim, beyond) = match goal.bound {
        Bound::AtLeast(aim, beyond) => (Some(at_least), Some(aim), beyond),
        Bound::AtMost(aim, beyond) => (Some(at_most), Some(aim), beyond),
        Bound::None => (None, None, None),
    };
    let told = |to_be: Option<f64>| match (bound, to_be) {
        (Some((sign, _)), Some(to_be)) => format!("{sign} {to_be}"),
        _ => String::new(),
    };
    let (what, method) = (goal.what, goal.method);
    let begin = format!("| {what} | {} | {}", told(aim), told(beyond));
    let mut all = reports.iter().flat_map(|report| &report.results);
    let Some(series) = all.find(|series| goal.is_about(series)) else {
        let is_goal = bound.is_some();
        return is_goal.then(|| format!("{begin} | not measured | | {method} | |"));
    };
    let is = |to_be: Option<f64>| {
        bound.zip(to_be).is_some_and(|((_, holds), to_be)| holds(series.median, to_be))
    };
    let verdict = match (is(beyond), is(aim)) {
        _ if bound.is_none() => "",
        (true, _) => "stretch reached",
        (false, true) => "reached",
        (false, false) => "**falls short**",
    };
    let measured = match interval(series) {
        none if none.is_empty() => number(series.median),
        interval => format!("{} ({interval})", number(series.median)),
    };
    let n = series.n;
    Some(format!("{begin} | {measured} | {verdict} | {method} | {n} |"))
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
        for goal in GOALS {
            let is_told = page.contains(&format!("| {} |", goal.what));
            assert_eq!(is_told, !matches!(goal.bound, Bound::None), "{}", goal.what);
        }
    }

    #[test]
    fn what_has_no_goal_is_told_when_it_was_measured() {
        let page = render(&with("many-tunnels.idle, holdfast beside wireguard-go", 880.0), "");
        assert!(page.contains("| memory per idle peer, in bytes |  |  | 880 |  |"), "{page}");
    }

    #[test]
    fn a_peer_without_offloads_is_none_that_a_goal_is_held_against() {
        let of = |name: &str| {
            let reports = with(name, 9.0);
            GOALS.iter().filter(|goal| goal.is_about(&reports[0].results[0])).count()
        };
        assert_eq!(of("tcp.ratio.wireguard-go"), 1);
        assert_eq!(of("tcp.ratio.wireguard-go-without-offloads"), 0);
        assert_eq!(of("tcp.tax, holdfast beside wireguard-go"), 1);
        assert_eq!(of("tcp.tax, holdfast beside wireguard-go-without-offloads"), 1);
        assert_eq!(of("tcp.tax, wireguard-go"), 0);
    }

    /// The page of a run, and what both are made of.
    struct Committed {
        page: Option<String>,
        run: Option<String>,
        notes: Option<String>,
    }

    impl Committed {
        /// There is nothing yet, or the page is what the run and the notes make.
        fn holds(&self) -> bool {
            match (&self.page, &self.run) {
                (None, None) => self.notes.is_none(),
                (Some(page), Some(run)) => Report::parse(run).is_ok_and(|reports| {
                    *page == render(&reports, self.notes.as_deref().unwrap_or_default())
                }),
                (Some(_), None) | (None, Some(_)) => false,
            }
        }
    }

    #[test]
    fn a_page_needs_its_run_and_a_run_its_page() {
        let run = serde_json::to_string(&with("tcp.ratio.wireguard-go", 2.0)).unwrap();
        let page = render(&Report::parse(&run).unwrap(), "Why.");
        let holds = |page: Option<&str>, run: Option<&str>, notes: Option<&str>| {
            let [page, run, notes] = [page, run, notes].map(|text| text.map(str::to_owned));
            Committed { page, run, notes }.holds()
        };
        let (page, run) = (Some(page.as_str()), Some(run.as_str()));
        assert!(holds(page, run, Some("Why.")));
        assert!(holds(None, None, None), "there is none yet");
        assert!(!holds(page, None, None) && !holds(None, run, None));
        assert!(!holds(None, None, Some("Why.")));
        assert!(!holds(page, run, None) && !holds(page, Some("[]"), Some("Why.")));
    }

    #[test]
    fn the_page_is_made_of_the_committed_run() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let read = |name: &str| std::fs::read_to_string(docs.join(name)).ok();
        let committed = Committed {
            page: read("performance.md"),
            run: read("performance.json"),
            notes: read("performance-notes.md"),
        };
        assert!(
            committed.holds(),
            "make it anew: bench-dataplane page docs/performance.json \
             --notes docs/performance-notes.md > docs/performance.md"
        );
    }
}
