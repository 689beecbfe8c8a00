//! `docs/performance.md`, out of the reports of a run on the project's own test machine.

mod goals;

use crate::scenario;
use crate::table::number;
use crate::{Report, Series};
use goals::{Bound, GOALS, Goal};
use std::fmt::Write;

/// The page; `notes` in Markdown come after the goals: why one falls short, and profiles.
pub fn render(reports: &[Report], notes: &str) -> String {
    let mut page = String::from(
        "# Performance of WireGuard in userspace\n\n\
         Made by `bench-dataplane page`; do not edit. Each number is the median of turns that were\n\
         taken one by one beside the same of a peer, in the same run, between two network namespaces of one machine; both ends are\n\
         the same program. A ratio is the median of the ratios of neighbours, with the interval that holds it in 95 of 100 bootstrap\n\
         draws; what has no peer is told with its least and its most. How to run it, and how each scenario measures: [bench](reference/bench.md).\n\n## Goals\n\n\
         | what | goal | stretch | measured | | how | turns |\n|---|---|---|---|---|---|---|\n",
    );
    let is_quick = |report: &Report| report.setup.contains_key("quick");
    let judges = !reports.iter().any(is_quick);
    for row in GOALS.iter().filter_map(|goal| row(goal, reports, judges)) {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "{row}");
    }
    if !judges {
        page.push_str("\nOf a quick run: few and short turns, from which nothing is judged.\n");
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

/// From the least to the most of several.
fn range(samples: &[f64]) -> Option<String> {
    let least = samples.iter().copied().reduce(f64::min)?;
    let most = samples.iter().copied().reduce(f64::max)?;
    (samples.len() > 1).then(|| format!("{} to {}", number(least), number(most)))
}

fn row(goal: &Goal, reports: &[Report], judges: bool) -> Option<String> {
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
    let Some(series) = goal.measured(reports) else {
        let is_goal = bound.is_some();
        return is_goal.then(|| format!("{begin} | not measured | | {method} | |"));
    };
    let holds = |to_be: Option<f64>, value: f64| {
        bound.zip(to_be).is_some_and(|((_, holds), to_be)| holds(value, to_be))
    };
    let ends = series.interval.unwrap_or([series.median; 2]);
    let is = |to_be| holds(to_be, series.median);
    let surely = |to_be| ends.iter().all(|end| holds(to_be, *end));
    let verdict = match (is(beyond), is(aim)) {
        _ if bound.is_none() || !judges => "",
        (true, _) if surely(beyond) => "stretch reached",
        (_, true) if surely(aim) => "reached",
        (_, true) => "reached, but not surely",
        _ => "**falls short**",
    };
    let measured = match interval(&series) {
        none if none.is_empty() => match range(&series.samples) {
            Some(range) => format!("{}, each {range}", number(series.median)),
            None => number(series.median),
        },
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
        let page = render(&with("many-tunnels.idle.ratio.wireguard-go", 0.5), "");
        let row = "| memory per idle peer against wireguard-go |  |  | 0.5000 |  | the same | 1 |";
        assert!(page.contains(row), "{page}");
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

    fn read(name: &str) -> Option<String> {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        std::fs::read_to_string(docs.join(name)).ok()
    }

    #[test]
    fn the_committed_run_has_every_scenario_of_a_tunnel() {
        let Some(run) = read("performance.json") else { return };
        let told = Report::parse(&run).unwrap();
        let missing: Vec<_> = scenario::of_a_tunnel()
            .into_iter()
            .map(|scenario| scenario.name)
            .chain(["hugepages", "helpers", "soak"])
            .filter(|name| !told.iter().any(|report| report.scenario == *name))
            .collect();
        assert_eq!(missing, [""; 0], "measure them, and join them to the others");
    }

    #[test]
    fn the_page_is_made_of_the_committed_run() {
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
