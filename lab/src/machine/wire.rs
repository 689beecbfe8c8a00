//! What goes into the machine, and what comes out of it: JSON, one event per line.

use super::report::Outcome;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where the machine finds its [`Job`].
pub(super) const JOB_FILE: &str = "/job.json";

/// What the machine is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Job {
    /// Only tests with this in their name.
    pub(super) filter: Option<String>,
    /// Those that run where the kernel has no IPv6, and only there.
    pub(super) without_ipv6: Vec<String>,
    /// The machine ends itself after this time.
    pub(super) limit_secs: u64,
    /// A test is killed, and has failed, after this time.
    pub(super) limit_each_secs: u64,
    /// Where the tests are.
    pub(super) executables: Vec<Executable>,
}

/// A program of tests, as `cargo test` builds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Executable {
    /// Package and file, such as `netd::kernel`.
    pub(super) name: String,
    /// The program; at the same place in the machine as here.
    pub(super) path: PathBuf,
    /// Where cargo would run it: the folder of the package.
    pub(super) dir: PathBuf,
}

/// What the machine tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Event {
    /// It runs.
    Booted {
        /// The kernel's release, as uname(1) tells.
        kernel: String,
    },
    /// Something that people should know.
    Note {
        /// One line.
        text: String,
    },
    /// A test begins.
    Began {
        /// Its full name.
        test: String,
    },
    /// A test ended.
    Ended {
        /// Its full name.
        test: String,
        /// How.
        outcome: Outcome,
        /// How long it took.
        millis: u64,
        /// What it wrote, or the end of that.
        output: String,
    },
    /// There are no more tests.
    Finished {
        /// Why some were left out.
        cut_short: Option<String>,
    },
}

impl Event {
    /// As one line without its end.
    pub(super) fn render(&self) -> String {
        // JSON escapes line ends; and these types have no keys that are no text.
        serde_json::to_string(self).expect("an event has only text keys")
    }

    /// Reads a line; none for what is no event, as firmware may write to the line as well.
    pub(super) fn parse(line: &str) -> Option<Event> {
        serde_json::from_str(line.get(line.find('{')?..)?.trim_end()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(Outcome::Passed),
            Just(Outcome::Failed),
            any::<String>().prop_map(|reason| Outcome::Skipped { reason })
        ]
    }

    proptest! {
        #[test]
        fn events_survive_the_line(test: String, outcome in outcome(), millis: u64, output: String) {
            let event = Event::Ended { test, outcome, millis, output };
            let line = event.render();
            prop_assert!(!line.contains(['\n', '\r']), "one line each");
            prop_assert_eq!(Event::parse(&format!("{line}\r\n")), Some(event.clone()));
            prop_assert_eq!(Event::parse(&format!("noise{line}")), Some(event));
        }

        #[test]
        fn noise_is_no_event(line in "[^{]*") {
            prop_assert_eq!(Event::parse(&line), None);
        }
    }
}
