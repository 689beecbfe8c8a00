//! Which Nodes are removed from the cluster, and when that would cost the datastore.
//!
//! A Node is removed when an operator retired it (by name and uid, so that its successor of the
//! same name stays), or when the site does not name it any more and it has been silent for
//! [`GRACE`]. Removing means: its reboot lock is broken, the Node is deleted, and its pods are
//! deleted without waiting for a kubelet that is not there (what a pass that broke off leaves of
//! them, Kubernetes collects within a minute). Everything else follows in the cluster: k3s takes a deleted server out of etcd (a finalizer of its `managed-etcd-controller`) and
//! forgets the node's password, so that a new machine may join under the same name and role.
//!
//! A server is only removed while etcd can agree to it and goes on without it: a majority of the
//! members before and after must be healthy. One server at a time; the plan is made anew after it.
//!
//! Fails by holding a node back, with the reason ([`Held`]). What it leaves out: who carries it
//! out (one manager at a time, [`crate::nodes::leader`]).

use super::model::{NodeView, Readiness};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

/// How long a node that the site does not name must have been silent. Longer than a reboot takes,
/// so that a late configuration never removes a node that is on its way back.
pub const GRACE: Duration = Duration::from_secs(600);

/// What the site wants of its nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Nodes that the site has, by name. Empty means that it is not known, and nothing is removed
    /// for not being named.
    pub names: BTreeSet<String>,
    /// Nodes that an operator retired, name and uid.
    pub retired: BTreeSet<(String, String)>,
}

/// One step of a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Break the reboot lock of this group, held by the node.
    BreakLock {
        /// The lock's group.
        group: String,
        /// Its holder.
        node: String,
    },
    /// Delete the pods that were on the node at once.
    DeletePods {
        /// The node.
        node: String,
    },
    /// Delete the Node, if it still has this uid.
    DeleteNode {
        /// Its name.
        node: String,
        /// Its uid.
        uid: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::BreakLock { group, node } => {
                write!(f, "break the reboot lock {group} of node {node}")
            }
            Step::DeletePods { node } => write!(f, "delete the pods of node {node}"),
            Step::DeleteNode { node, .. } => write!(f, "delete node {node}"),
        }
    }
}

/// Why a node that is to go is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is alive; the site may only not name it yet.
    Alive,
    /// It may come back until then.
    Grace {
        /// When it is removed.
        until: Instant,
    },
    /// etcd could not agree to it, or not go on without it.
    Quorum {
        /// Healthy members.
        healthy: usize,
        /// Members.
        members: usize,
    },
    /// Another server goes first.
    OneAtATime,
    /// It is this node.
    Myself,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Alive => f.write_str("it is alive"),
            Why::Grace { .. } => f.write_str("it may come back"),
            Why::Quorum { healthy, members } => write!(
                f,
                "{healthy} of {members} servers are healthy, the datastore would not go on"
            ),
            Why::OneAtATime => f.write_str("another server goes first"),
            Why::Myself => f.write_str("it is this node"),
        }
    }
}

/// A node that is to go and is held back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The node.
    pub node: String,
    /// Why.
    pub why: Why,
}

/// What is done now, and what is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// Nodes that are held back.
    pub held: Vec<Held>,
}

/// Since when nodes are silent, as far as this manager has seen; kept between plans.
#[derive(Debug, Clone, Default)]
pub struct Silence(BTreeMap<String, Instant>);

impl Silence {
    /// Takes note of which nodes are not Ready. A node of another uid begins anew.
    pub fn note(&mut self, nodes: &[NodeView], now: Instant) {
        let silent: BTreeSet<&String> = nodes
            .iter()
            .filter(|node| node.readiness != Readiness::Ready)
            .map(|node| &node.uid)
            .collect();
        self.0.retain(|uid, _| silent.contains(uid));
        for uid in silent {
            self.0.entry(uid.clone()).or_insert(now);
        }
    }

    fn since(&self, node: &NodeView) -> Option<Instant> {
        self.0.get(&node.uid).copied()
    }
}

/// What is to be removed. `locks` are groups and holders of reboot locks, `me` is this node.
pub fn plan(
    wanted: &Wanted,
    nodes: &[NodeView],
    locks: &[(String, String)],
    silence: &Silence,
    me: &str,
    now: Instant,
) -> Plan {
    let mut plan = Plan::default();
    // A lock of a node that is not there any more is nobody's, whoever removed the node.
    for (group, holder) in locks {
        if !nodes.iter().any(|node| node.name == *holder) {
            plan.steps.push(Step::BreakLock { group: group.clone(), node: holder.clone() });
        }
    }
    let mut server_goes = nodes.iter().any(|node| node.server && node.deleting);
    for node in nodes.iter().filter(|node| !node.deleting) {
        let retired = wanted.retired.contains(&(node.name.clone(), node.uid.clone()));
        let unnamed = !wanted.names.is_empty() && !wanted.names.contains(&node.name);
        if !retired && !unnamed {
            continue;
        }
        match held(node, retired, nodes, silence, me, now, server_goes) {
            Some(why) => plan.held.push(Held { node: node.name.clone(), why }),
            None => {
                server_goes |= node.server;
                let own = locks.iter().filter(|(_, holder)| *holder == node.name);
                plan.steps.extend(own.map(|(group, _)| Step::BreakLock {
                    group: group.clone(),
                    node: node.name.clone(),
                }));
                plan.steps
                    .push(Step::DeleteNode { node: node.name.clone(), uid: node.uid.clone() });
                // After the Node: before it, DaemonSets would put theirs back at once.
                plan.steps.push(Step::DeletePods { node: node.name.clone() });
            }
        }
    }
    plan
}

fn held(
    node: &NodeView,
    retired: bool,
    nodes: &[NodeView],
    silence: &Silence,
    me: &str,
    now: Instant,
    server_goes: bool,
) -> Option<Why> {
    if node.name == me {
        return Some(Why::Myself);
    }
    if !retired {
        match silence.since(node) {
            None => return Some(Why::Alive),
            Some(since) if now < since + GRACE => {
                return Some(Why::Grace { until: since + GRACE });
            }
            Some(_) => {}
        }
    }
    if !node.server {
        return None;
    }
    if server_goes {
        return Some(Why::OneAtATime);
    }
    let (healthy, members) = health(nodes);
    let after = healthy - usize::from(node.readiness == Readiness::Ready);
    let goes_on = members > 1 && healthy >= majority(members) && after >= majority(members - 1);
    (!goes_on).then_some(Why::Quorum { healthy, members })
}

/// Whether the datastore goes on while `node` reboots. With one or two servers it never does, and
/// that is no reason to refuse a reboot forever.
pub fn survives_reboot_of(node: &NodeView, nodes: &[NodeView]) -> bool {
    let (healthy, members) = health(nodes);
    let without = healthy - usize::from(node.server && node.readiness == Readiness::Ready);
    !node.server || members < 3 || without >= majority(members)
}

/// Healthy servers, and servers.
fn health(nodes: &[NodeView]) -> (usize, usize) {
    let servers = nodes.iter().filter(|node| node.server);
    (servers.clone().filter(|node| node.readiness == Readiness::Ready).count(), servers.count())
}

/// etcd's quorum: more than half of the members.
fn majority(members: usize) -> usize {
    members / 2 + 1
}

#[cfg(test)]
mod tests;
