//! What follows from the nodes: the pods' network (each node's range of addresses, and the routes
//! to the others'), the labels of servers, and the end of a removed server's membership.
//!
//! Nodes are on one link, so a route by the other node's address is enough; this is what
//! flannel's `host-gw` does. Left out: tunnels between nodes of different links.

use super::{Plan, files, inner};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// One line for each event: what, name, whether it has a member of the datastore, range, address.
/// No tabs: kubectl aligns what they separate.
const COLUMNS: &str = r#"jsonpath={.type}{";"}{.object.metadata.name}{";"}{.object.metadata.labels.node-role\.kubernetes\.io/etcd}{";"}{.object.spec.podCIDR}{";"}{.object.status.addresses[?(@.type=="InternalIP")].address}{"\n"}"#;

/// Labels of servers, as k3s gives them.
const SERVER_LABELS: &[&str] = &[
    "node-role.kubernetes.io/control-plane=true",
    "node-role.kubernetes.io/etcd=true",
    "node-role.kubernetes.io/master=true",
];

/// A node, as it matters to the others.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line<'a> {
    is_gone: bool,
    name: &'a str,
    is_member: bool,
    /// Range and address, once it has both.
    network: Option<(&'a str, &'a str)>,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split(';');
        let (what, name, member) = (words.next()?, words.next()?, words.next()?);
        let (range, address) = (words.next()?, words.next()?);
        Some(Self {
            is_gone: what == "DELETED",
            name,
            is_member: member == "true",
            network: (!range.is_empty() && !address.is_empty()).then_some((range, address)),
        })
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
    let mut is_labelled = plan.manifests.is_none();
    loop {
        let words = ["get", "nodes", "--watch", "--output-watch-events", "--output", COLUMNS];
        let watching = kubectl(plan, &words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        if let Ok(mut watching) = watching {
            let lines =
                watching.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines);
            for line in lines.map_while(Result::ok) {
                let Some(line) = Line::parse(&line) else { continue };
                if line.name == plan.node && !line.is_gone && !is_labelled {
                    is_labelled = label(plan);
                }
                if line.is_gone && line.is_member {
                    leave(plan, line.name);
                }
                if !line.is_gone {
                    connect(plan, &line);
                }
            }
            let _ended = watching.wait();
        }
        // The API server is not there yet, or not there any more.
        thread::sleep(Duration::from_millis(150));
    }
}

fn label(plan: &Plan) -> bool {
    let words = ["label", "--overwrite", "node", &plan.node];
    let words: Vec<&str> = words.into_iter().chain(SERVER_LABELS.iter().copied()).collect();
    kubectl(plan, &words).output().is_ok_and(|output| output.status.success())
}

/// The node is deleted: its member of the datastore goes too. Every server tries, one succeeds.
fn leave(plan: &Plan, name: &str) {
    let Some(datastore) = &plan.datastore else { return };
    let removed = datastore.etcdctl.members().and_then(|members| {
        members
            .iter()
            .filter(|one| one.name == name)
            .try_for_each(|one| datastore.etcdctl.remove(one))
    });
    if let Err(error) = removed {
        eprintln!("the member {name} of the datastore is not removed: {error}");
    }
}

fn connect(plan: &Plan, line: &Line<'_>) {
    let (Some(state), Some((range, address))) = (&plan.network, line.network) else { return };
    if line.name == plan.node {
        let network = files::network(range, state).to_string();
        if let Err(error) = holdfast_durable::write_if_changed(&plan.cni, network.as_bytes(), 0o644)
        {
            eprintln!("{error}");
        }
        return;
    }
    let words = ["ip", "route", "replace", range, "via", address].map(str::to_owned);
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
        let line = Line {
            is_gone: false,
            name: "a",
            is_member: true,
            network: Some(("10.42.0.0/24", "10.0.0.1")),
        };
        assert_eq!(Line::parse("ADDED;a;true;10.42.0.0/24;10.0.0.1"), Some(line.clone()));
        let alone = Line { network: None, is_member: false, ..line.clone() };
        assert_eq!(Line::parse("MODIFIED;a;;;10.0.0.1"), Some(alone.clone()));
        assert_eq!(Line::parse("ADDED;a;;10.42.0.0/24;"), Some(alone));
        assert_eq!(
            Line::parse("DELETED;a;true;10.42.0.0/24;10.0.0.1"),
            Some(Line { is_gone: true, ..line })
        );
        assert_eq!(Line::parse("a"), None);
    }
}
