//! Which tests were skipped, and why.
//!
//! A test that cannot run here ends well and writes `skipped: <reason>` to standard error; test
//! runners hide what a test wrote that ended well. nextest keeps it in a report in the JUnit format
//! (<https://nexte.st/docs/machine-readable/junit/>), which is read here. A test that leaves out a part says so in the
//! same way and counts as well.

use anyhow::Context;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A test that was skipped, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Skip {
    /// Program and name of the test.
    pub(super) test: String,
    /// Why.
    pub(super) reason: String,
}

/// A directory for one report of nextest, gone when dropped.
pub(super) struct Keeper(PathBuf);

impl Keeper {
    pub(super) fn new() -> anyhow::Result<Self> {
        let keeper =
            Keeper(std::env::temp_dir().join(format!("holdfast-lab-test-{}", std::process::id())));
        let config = format!(
            "[profile.default.junit]\npath = {:?}\nstore-success-output = true\nstore-failure-output = false\n",
            keeper.report()
        );
        holdfast_durable::write(&keeper.config(), config.as_bytes(), 0o644)
            .context("cannot tell nextest where to report")?;
        Ok(keeper)
    }

    /// Arguments for nextest.
    pub(super) fn arguments(&self) -> [String; 2] {
        ["--tool-config-file".into(), format!("lab:{}", self.config().display())]
    }

    /// The tests that the report names as skipped; none when there is no report.
    pub(super) fn skips(&self) -> Option<Vec<Skip>> {
        std::fs::read_to_string(self.report()).ok().map(|report| read(&report))
    }

    fn config(&self) -> PathBuf {
        self.0.join("nextest.toml")
    }

    fn report(&self) -> PathBuf {
        self.0.join("junit.xml")
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(Path::new(&self.0));
    }
}

/// What a report in the JUnit format says. As much of XML is read as nextest writes: an element
/// begins on a line of its own, and its text on the line of its tag.
fn read(report: &str) -> Vec<Skip> {
    let mut skips = Vec::new();
    let mut test = String::new();
    for line in report.lines() {
        let line = line.trim_start();
        if line.starts_with("<testcase ") {
            let value = |key: &str| line.split_once(&format!(" {key}=\""))?.1.split('"').next();
            let name = [value("classname"), value("name")].map(Option::unwrap_or_default);
            test = plain(&name.join(" "));
        }
        let line = line.strip_prefix("<system-err>").unwrap_or(line);
        if let Some(reason) = line.strip_prefix("skipped: ") {
            let reason = reason.strip_suffix("</system-err>").unwrap_or(reason);
            skips.push(Skip { test: test.clone(), reason: plain(reason) });
        }
    }
    skips
}

/// Text without XML's references.
fn plain(text: &str) -> String {
    let named = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    named
        .iter()
        .fold(text.into(), |text: String, (reference, plain)| text.replace(reference, plain))
}

/// For people: how many tests were skipped, reason by reason.
pub(super) fn tell(skips: &[Skip]) -> String {
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for skip in skips {
        by_reason.entry(&skip.reason).or_default().push(&skip.test);
    }
    let mut tests: Vec<&str> = skips.iter().map(|skip| skip.test.as_str()).collect();
    tests.sort_unstable();
    tests.dedup();
    let mut text = match tests.len() {
        0 => return "No test was skipped.".into(),
        1 => String::from("1 test was skipped, wholly or in part:"),
        count => format!("{count} tests were skipped, wholly or in part:"),
    };
    for (reason, tests) in by_reason {
        text += &format!("\n  {reason}");
        tests.iter().for_each(|test| text += &format!("\n    {test}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="3" failures="0">
    <testsuite name="netd::kernel" tests="2">
        <testcase name="kinds" classname="netd::kernel" time="0.260">
            <system-out>
running 1 test
</system-out>
            <system-err>skipped: bond: no links of kind &quot;bond&quot;
skipped: vlan
</system-err>
        </testcase>
        <testcase name="whole" classname="netd::kernel" time="0.1">
            <system-err>nothing was skipped: all is there</system-err>
        </testcase>
        <testcase name="short" classname="netd" time="0.1">
            <system-err>skipped: vlan</system-err>
        </testcase>
    </testsuite>
</testsuites>
"#;

    #[test]
    fn skips_are_found_with_their_tests_and_told_by_reason() {
        let skip = |test: &str, reason: &str| Skip { test: test.into(), reason: reason.into() };
        let skips = read(REPORT);
        assert_eq!(
            skips,
            [
                skip("netd::kernel kinds", "bond: no links of kind \"bond\""),
                skip("netd::kernel kinds", "vlan"),
                skip("netd short", "vlan"),
            ]
        );
        assert_eq!(
            tell(&skips),
            "2 tests were skipped, wholly or in part:\n  bond: no links of kind \"bond\"\n    \
             netd::kernel kinds\n  vlan\n    netd::kernel kinds\n    netd short"
        );
        assert_eq!(tell(&[]), "No test was skipped.");
    }
}
