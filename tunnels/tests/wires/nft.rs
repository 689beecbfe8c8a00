//! Datagrams on a wire, counted and changed by nft(8): what a device marks them with.

use super::End;
use std::process::Command;

/// The table of a test, which is its namespace's and goes with it.
const TABLE: &str = "inet holdfast-test";
const COUNTER: &str = "seen";

/// Why there is no nft here.
fn missing() -> Option<String> {
    match Command::new("nft").args(["list", "tables"]).output() {
        Err(error) => Some(format!("cannot run nft (package nftables): {error}")),
        Ok(output) if !output.status.success() => {
            let why = String::from_utf8_lossy(&output.stderr);
            Some(format!("this kernel has no nftables: {}", why.trim()))
        }
        Ok(_) => None,
    }
}

/// Whether there is no nft here, which is said then.
pub(crate) fn is_missing() -> bool {
    let why = missing();
    why.iter().for_each(|why| eprintln!("skipped: {why}"));
    why.is_some()
}

/// Rules at one hook of an end.
pub(crate) struct Rules<'a>(&'a End);

impl<'a> Rules<'a> {
    /// At `hook`, such as "output".
    pub(crate) fn at(end: &'a End, hook: &str) -> Self {
        end.run("nft", &[&format!("add table {TABLE}")]);
        let chain = format!("{{ type filter hook {hook} priority -150; }}");
        end.run("nft", &[&format!("add chain {TABLE} rules {chain}")]);
        end.run("nft", &[&format!("add counter {TABLE} {COUNTER}")]);
        Rules(end)
    }

    /// Has `what` done to whatever matches.
    pub(crate) fn add(&self, what: &str) {
        self.0.run("nft", &[&format!("add rule {TABLE} rules {what}")]);
    }

    /// Counts what matches.
    pub(crate) fn count(&self, matches: &str) {
        self.add(&format!("{matches} counter name {COUNTER}"));
    }

    /// The packets that were counted since the last time.
    pub(crate) fn counted(&self) -> u64 {
        let text = self.0.run("nft", &[&format!("reset counter {TABLE} {COUNTER}")]);
        let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
        words.nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Rules<'_> {
    fn drop(&mut self) {
        let _ = self.0.namespace.run("nft", &[&format!("delete table {TABLE}")]);
    }
}
