//! What came of the tests.

use super::wire::Event;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Outcome {
    /// As it should.
    Passed,
    /// Not so.
    Failed,
    /// It wrote a line `skipped: <reason>`.
    Skipped {
        /// Why.
        reason: String,
    },
}

/// One test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TestResult {
    /// Package, file and path of the test: `netd::kernel::a_test`.
    pub test: String,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How long it took in the machine, milliseconds.
    pub millis: u64,
    /// What it wrote, or the end of that.
    pub output: String,
}

/// All tests of one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Release of the machine's kernel; empty when it did not come up.
    pub kernel: String,
    /// The tests in the order in which they ran.
    pub results: Vec<TestResult>,
    /// Why not all of them ran.
    pub cut_short: Option<String>,
}

impl Report {
    /// Whether everything ran and nothing failed.
    pub fn passed(&self) -> bool {
        self.cut_short.is_none() && self.failed().next().is_none()
    }

    /// The tests that failed.
    pub fn failed(&self) -> impl Iterator<Item = &TestResult> {
        self.results.iter().filter(|result| result.outcome == Outcome::Failed)
    }

    /// Adds what came of another machine with the same kernel, where these tests had to run.
    pub(super) fn join(&mut self, other: Report, tests: &[&str]) {
        let has_run = |test: &&&str| {
            let ran = |one: &TestResult| !matches!(one.outcome, Outcome::Skipped { .. });
            other.results.iter().any(|result| result.test == ***test && ran(result))
        };
        let missing = tests.iter().find(|test| !has_run(test));
        let missing = missing.map(|test| format!("{test} did not run where it should"));
        self.cut_short = self.cut_short.take().or(other.cut_short).or(missing);
        self.results.extend(other.results);
    }

    fn count(&self, which: impl Fn(&Outcome) -> bool) -> usize {
        self.results.iter().filter(|result| which(&result.outcome)).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernel = if self.kernel.is_empty() { "not reached" } else { &self.kernel };
        let passed = self.count(|outcome| *outcome == Outcome::Passed);
        let failed = self.count(|outcome| *outcome == Outcome::Failed);
        let skipped = self.count(|outcome| matches!(outcome, Outcome::Skipped { .. }));
        write!(f, "machine: kernel {kernel}: {passed} passed, {failed} failed, {skipped} skipped")?;
        match &self.cut_short {
            Some(why) => write!(f, "; cut short: {why}"),
            None => Ok(()),
        }
    }
}

/// Makes a report of events. A test that began and never ended has failed.
#[derive(Debug, Default)]
pub(super) struct Collector {
    report: Report,
    running: Option<String>,
    finished: bool,
}

impl Collector {
    /// Takes a line of the machine; gives one for people.
    pub(super) fn on(&mut self, line: &str) -> Option<String> {
        match Event::parse(line)? {
            Event::Booted { kernel } => {
                self.report.kernel.clone_from(&kernel);
                Some(format!("kernel {kernel} is up"))
            }
            Event::Note { text } => Some(text),
            Event::Began { test } => {
                self.running = Some(test);
                None
            }
            Event::Ended { test, outcome, millis, output } => {
                self.running = None;
                let how = match &outcome {
                    Outcome::Passed => "ok".to_owned(),
                    Outcome::Failed => "FAILED".to_owned(),
                    Outcome::Skipped { reason } => format!("skipped: {reason}"),
                };
                let seconds = std::time::Duration::from_millis(millis).as_secs_f64();
                let line = format!("{test} ... {how} ({seconds:.1} s)");
                self.report.results.push(TestResult { test, outcome, millis, output });
                Some(line)
            }
            Event::Finished { cut_short } => {
                self.finished = true;
                self.report.cut_short = cut_short;
                None
            }
        }
    }

    /// Whether the machine said that it is up.
    pub(super) fn booted(&self) -> bool {
        !self.report.kernel.is_empty()
    }

    /// Whether the machine said that it is done.
    pub(super) fn finished(&self) -> bool {
        self.finished
    }

    /// The report, with why it ends here if the machine did not say that it is done.
    pub(super) fn report(mut self, cut_short: Option<String>) -> Report {
        if let Some(test) = self.running {
            let output = "the machine ended while this test ran".to_owned();
            let outcome = Outcome::Failed;
            self.report.results.push(TestResult { test, outcome, millis: 0, output });
        }
        self.report.cut_short = cut_short.or(self.report.cut_short);
        self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(events: &[Event], cut_short: Option<&str>) -> Report {
        let mut collector = Collector::default();
        for event in events {
            collector.on(&event.render());
        }
        collector.report(cut_short.map(str::to_owned))
    }

    fn booted() -> Event {
        Event::Booted { kernel: "6.1.0-1-test".into() }
    }

    fn ended(test: &str, outcome: Outcome) -> Event {
        Event::Ended { test: test.into(), outcome, millis: 1500, output: "said".into() }
    }

    #[test]
    fn every_test_is_counted_once() {
        let skipped = Outcome::Skipped { reason: "no TUN".into() };
        let events = [
            booted(),
            Event::Began { test: "a".into() },
            ended("a", Outcome::Passed),
            ended("b", Outcome::Failed),
            ended("c", skipped),
            Event::Finished { cut_short: None },
        ];
        let report = told(&events, None);
        assert_eq!(
            report.to_string(),
            "machine: kernel 6.1.0-1-test: 1 passed, 1 failed, 1 skipped"
        );
        assert!(!report.passed());
        assert_eq!(report.failed().map(|result| result.test.as_str()).collect::<Vec<_>>(), ["b"]);
        assert!(
            told(
                &[booted(), ended("a", Outcome::Passed), Event::Finished { cut_short: None }],
                None
            )
            .passed()
        );
    }

    #[test]
    fn of_two_machines_all_counts() {
        let one = |outcome| {
            told(&[booted(), ended("a", outcome), Event::Finished { cut_short: None }], None)
        };
        let joined = |mut first: Report, second| {
            first.join(second, &["a"]);
            first
        };
        assert!(joined(one(Outcome::Passed), one(Outcome::Passed)).passed());
        assert!(!joined(one(Outcome::Passed), one(Outcome::Failed)).passed());
        assert!(!joined(one(Outcome::Failed), one(Outcome::Passed)).passed());
        assert!(!joined(one(Outcome::Passed), told(&[], Some("it stopped"))).passed());
        let skipped = Outcome::Skipped { reason: "it has IPv6".into() };
        assert!(!joined(one(Outcome::Passed), one(skipped)).passed());
        let none = told(&[booted(), Event::Finished { cut_short: None }], None);
        assert!(!joined(one(Outcome::Passed), none).passed());
    }

    #[test]
    fn the_test_that_took_the_machine_down_has_failed() {
        let events = [booted(), Event::Began { test: "a".into() }];
        let report = told(&events, Some("it stopped"));
        assert!(!report.passed());
        assert_eq!(report.failed().next().unwrap().test, "a");
        assert_eq!(
            report.to_string(),
            "machine: kernel 6.1.0-1-test: 0 passed, 1 failed, 0 skipped; cut short: it stopped"
        );
        assert!(!told(&[], Some("it stopped")).passed(), "nothing ran, nothing passed");
    }
}
