//! The pods' network: each node's range of addresses, and the routes to the others'.
//!
//! Nodes are on one link, so a route by the other node's address is enough; this is what
//! flannel's `host-gw` does. Left out: tunnels between nodes of different links.

use super::{Plan, files, inner};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// One line for each node: name, range, address. No tabs: kubectl aligns what they separate.
const COLUMNS: &str = r#"jsonpath={.metadata.name}{";"}{.spec.podCIDR}{";"}{.status.addresses[?(@.type=="InternalIP")].address}{"\n"}"#;

/// A node, as it matters to the others.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line<'a> {
    name: &'a str,
    range: &'a str,
    address: &'a str,
}

impl<'a> Line<'a> {
    /// Nothing while the node has no range or no address yet.
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split(';');
        let line = Self { name: words.next()?, range: words.next()?, address: words.next()? };
        (!line.range.is_empty() && !line.address.is_empty()).then_some(line)
    }
}

/// `kubectl` with the node's own rights.
pub(super) fn kubectl(plan: &Plan, words: &[&str]) -> Command {
    let own = [plan.hyperkube.display().to_string(), "kubectl".into()];
    let words: Vec<String> =
        own.into_iter().chain(words.iter().map(|word| (*word).to_owned())).collect();
    let mut command = inner::command(plan, &words);
    command.env("KUBECONFIG", &plan.kubeconfig).stdin(Stdio::null());
    command
}

/// Watches the nodes for as long as this process lives.
pub(super) fn follow(plan: &Plan) {
    loop {
        let watching = kubectl(plan, &["get", "nodes", "--watch", "--output", COLUMNS])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        if let Ok(mut watching) = watching {
            let lines =
                watching.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines);
            for line in lines.map_while(Result::ok) {
                if let Some(line) = Line::parse(&line) {
                    apply(plan, &line);
                }
            }
            let _ended = watching.wait();
        }
        // The API server is not there yet, or not there any more.
        thread::sleep(Duration::from_millis(150));
    }
}

fn apply(plan: &Plan, line: &Line<'_>) {
    if line.name == plan.node {
        let Some(state) = &plan.network else { return };
        let network = files::network(line.range, state).to_string();
        if let Err(error) = holdfast_durable::write_if_changed(&plan.cni, network.as_bytes(), 0o644)
        {
            eprintln!("{error}");
        }
        return;
    }
    let words = ["ip", "route", "replace", line.range, "via", line.address].map(str::to_owned);
    match inner::command(plan, &words).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => eprintln!(
            "no route to {}: {}",
            line.name,
            String::from_utf8_lossy(&output.stderr).trim()
        ),
        Err(error) => eprintln!("cannot start ip: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_without_range_or_address_wait() {
        let line = Line { name: "a", range: "10.42.0.0/24", address: "10.0.0.1" };
        assert_eq!(Line::parse("a;10.42.0.0/24;10.0.0.1"), Some(line));
        assert_eq!(Line::parse("a;;10.0.0.1"), None);
        assert_eq!(Line::parse("a;10.42.0.0/24;"), None);
        assert_eq!(Line::parse("a"), None);
    }
}
