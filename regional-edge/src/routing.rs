//! Which way packets to nodes go: pure.
//!
//! | rule | packets | table | says |
//! |---|---|---|---|
//! | [`names::CARRIER_RULE`] | datagrams that carry tunnels | main | as if we were not there |
//! | [`names::LOCAL_RULE`] | all | [`names::LOCAL_TABLE`] | into the tunnel of a node that is up here |
//! | [`names::INGRESS_RULE`] | in from the backbone | [`names::LAST_TABLE`] | nowhere |
//! | [`names::BACKBONE_RULE`] | all | [`names::BACKBONE_TABLE`] | to an edge that has the node up |
//! | [`names::LAST_RULE`] | all | [`names::LAST_TABLE`] | nowhere |
//!
//! The way over the backbone stands ready while the node is up here as well, so losing a tunnel
//! takes nothing but the removal of the node's local routes. What came over the backbone never
//! reaches the table that leads back to it: whatever the edges believe of each other, a packet
//! crosses the backbone at most once (docs/decisions/0010-edge-backbone-routing.md).
//!
//! A kernel without IPv6 takes nothing of it: all of that is left out. Where it is off on links (`all`,
//! `default`), our link has it all the same.
//!
//! The last table keeps packets for known sites from leaving in the clear by the default route.
//! Only the nodes' own addresses lead into the tunnel there, so that the kernel's check of return
//! paths lets their BFD packets in before they are up.

use crate::names;
use crate::nodes::{NodeKey, Nodes};
use ipnet::IpNet;
use netd::model::{Item, Keyed, MAIN_TABLE, RouteKey};
use netd::{
    Address, Family, Link, LinkKind, LinkName, LinkSysctl, Network, Nexthop, Route, RouteTarget,
    Rule, Step,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The backbone as seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backbone {
    /// The link that it is on.
    pub link: LinkName,
    /// Addresses of the other edges on it, by name.
    pub edges: BTreeMap<String, IpAddr>,
}

/// What decides.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The nodes that may be served.
    pub nodes: &'a Nodes,
    /// Those whose tunnel here passes data.
    pub up: &'a BTreeSet<NodeKey>,
    /// Which other edges say that they have a node up.
    pub elsewhere: &'a BTreeMap<NodeKey, BTreeSet<String>>,
    /// The backbone, when there is one.
    pub backbone: Option<&'a Backbone>,
    /// Whether the kernel has IPv6.
    pub ipv6: bool,
}

impl View<'_> {
    fn families(&self) -> impl Iterator<Item = Family> {
        [Family::V4, Family::V6].into_iter().filter(|family| *family == Family::V4 || self.ipv6)
    }

    /// Destinations that no way leads to because the kernel has no IPv6.
    pub fn left_out(&self) -> impl Iterator<Item = &IpNet> {
        let all = self.nodes.claims().map(|(prefix, _)| prefix);
        all.filter(|prefix| prefix.addr().is_ipv6() && !self.ipv6)
    }
}

/// The device that ends the tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub link: LinkName,
    /// How it is made.
    pub kind: LinkKind,
    /// This edge's address inside the tunnels.
    pub overlay: IpAddr,
    /// Bytes of the largest packet inside.
    pub mtu: u32,
}

/// Everything that the kernel shall have.
pub fn want(device: &Device, view: &View<'_>) -> Network {
    let mut network = Network::default();
    let mut link = Link::new(device.link.clone(), device.kind.clone())
        .with_mtu(device.mtu)
        // Loose: what a node sends here may be answered over the backbone. WireGuard itself
        // checks that a source address is the sender's.
        .with_sysctl(LinkSysctl::rp_filter(), "2");
    if view.ipv6 {
        // Links take over what `net.ipv6.conf.default` has.
        link = link.with_sysctl(LinkSysctl::disable_ipv6(), "0");
    }
    network.links.insert(link);
    network.addresses.insert(Address::new(device.link.clone(), device.overlay.into()));
    for family in view.families() {
        let local = Nexthop::dev(names::local_nexthop(family), family, device.link.clone());
        network.nexthops.insert(local);
        network.rules.extend(rules(family, view.backbone));
    }
    if let Some(backbone) = view.backbone {
        for (edge, id) in names::edge_nexthops(backbone.edges.keys().map(String::as_str)) {
            let gateway = backbone.edges[edge];
            network.nexthops.insert(Nexthop::via(id, gateway, backbone.link.clone()));
        }
    }
    let ids = edge_ids(view.backbone);
    for (prefix, _) in view.nodes.claims() {
        network.routes.extend(routes_to(prefix, view, &ids).into_iter().flatten());
    }
    network
}

/// What changes of the routes to `prefixes` take: new ways before old ones go.
pub fn change(have: &Keyed<Route>, prefixes: &BTreeSet<IpNet>, view: &View<'_>) -> Vec<Step> {
    let ids = edge_ids(view.backbone);
    let (mut steps, mut deletions) = (Vec::new(), Vec::new());
    for prefix in prefixes {
        for (table, want) in TABLES.into_iter().zip(routes_to(prefix, view, &ids)) {
            let have = have.get(&key(table, *prefix)).cloned();
            match (have, want) {
                (Some(from), Some(to)) if from == to => {}
                (Some(from), Some(to)) => steps.push(Step::ReplaceRoute { from, to }),
                (None, Some(to)) => steps.push(Step::AddRoute(to)),
                (Some(from), None) => deletions.push(Step::DeleteRoute(from)),
                (None, None) => {}
            }
        }
    }
    steps.append(&mut deletions);
    steps
}

/// What is sent into which tunnel. A prefix that several nodes of a site share belongs to the
/// first of them that is up, since WireGuard knows one peer for a destination.
pub fn allowed_ips(view: &View<'_>) -> BTreeMap<NodeKey, BTreeSet<IpNet>> {
    let mut allowed: BTreeMap<NodeKey, BTreeSet<IpNet>> =
        view.nodes.iter().map(|node| (node.key.clone(), BTreeSet::new())).collect();
    for (prefix, claimants) in view.nodes.claims() {
        let owner = claimants.iter().find(|key| view.up.contains(*key)).or(claimants.first());
        if let Some(prefixes) = owner.and_then(|owner| allowed.get_mut(owner)) {
            prefixes.insert(*prefix);
        }
    }
    allowed
}

/// The other edge that a step makes reachable.
pub fn neighbour<'a>(step: &Step, backbone: &'a Backbone) -> Option<&'a str> {
    let (Step::CreateNexthop(nexthop) | Step::ReplaceNexthop { to: nexthop, .. }) = step else {
        return None;
    };
    let mut ids = edge_ids(Some(backbone)).into_iter();
    ids.find(|(_, id)| *id == nexthop.id).map(|(edge, _)| edge)
}

const TABLES: [u32; 3] = [names::LOCAL_TABLE, names::BACKBONE_TABLE, names::LAST_TABLE];

fn key(table: u32, prefix: IpNet) -> RouteKey {
    Route::new(table, prefix, RouteTarget::Unreachable).normal().key()
}

fn edge_ids(backbone: Option<&Backbone>) -> BTreeMap<&str, u32> {
    let names = backbone.iter().flat_map(|b| b.edges.keys()).map(String::as_str);
    names::edge_nexthops(names).into_iter().collect()
}

/// The routes to `prefix` in the order of [`TABLES`].
fn routes_to(prefix: &IpNet, view: &View<'_>, ids: &BTreeMap<&str, u32>) -> [Option<Route>; 3] {
    let family = Family::from(prefix.addr());
    if !view.families().any(|spoken| spoken == family) {
        return [None, None, None];
    }
    let into_tunnel = RouteTarget::Nexthop(names::local_nexthop(family));
    let mut claimants = view.nodes.claimants(prefix).peekable();
    let known = claimants.peek().is_some();
    let up = claimants.any(|key| view.up.contains(key));
    let last = match view.nodes.is_overlay(prefix) {
        true => into_tunnel.clone(),
        false => RouteTarget::Unreachable,
    };
    let backup = backup(prefix, view).and_then(|edge| ids.get(edge).copied());
    [
        up.then(|| route(names::LOCAL_TABLE, *prefix, into_tunnel)),
        backup.map(|id| route(names::BACKBONE_TABLE, *prefix, RouteTarget::Nexthop(id))),
        known.then(|| route(names::LAST_TABLE, *prefix, last)),
    ]
}

fn route(table: u32, prefix: IpNet, target: RouteTarget) -> Route {
    Route::new(table, prefix, target).normal()
}

/// The edge to send packets for `prefix` to. Among several the node's name decides, so that the
/// nodes of an edge that dies spread over all that are left, and a node's choice does not move
/// when an edge that it does not use comes or goes (rendezvous hashing).
pub fn backup<'a>(prefix: &IpNet, view: &View<'a>) -> Option<&'a str> {
    let backbone = view.backbone?;
    let usable = |edge: &&String| {
        // IPv6 packets have no way over an IPv4 neighbour (RFC 8950 is the other way round).
        backbone.edges.get(*edge).is_some_and(|at| at.is_ipv6() || prefix.addr().is_ipv4())
    };
    view.nodes.claimants(prefix).find_map(|key| {
        let node = key.to_string();
        let edges = view.elsewhere.get(key)?.iter().filter(usable);
        edges.max_by_key(|edge| names::hash(&[&node, edge])).map(String::as_str)
    })
}

fn rules(family: Family, backbone: Option<&Backbone>) -> Vec<Rule> {
    let mark = tunnels::names::FWMARK;
    let mut carrier = Rule::new(names::CARRIER_RULE, family, MAIN_TABLE);
    carrier.fwmark = Some((mark, mark));
    let mut rules = vec![
        carrier,
        Rule::new(names::LOCAL_RULE, family, names::LOCAL_TABLE),
        Rule::new(names::LAST_RULE, family, names::LAST_TABLE),
    ];
    if let Some(backbone) = backbone {
        let mut ingress = Rule::new(names::INGRESS_RULE, family, names::LAST_TABLE);
        ingress.iif = Some(backbone.link.clone());
        rules.push(ingress);
        rules.push(Rule::new(names::BACKBONE_RULE, family, names::BACKBONE_TABLE));
    }
    rules
}

#[cfg(test)]
mod tests;
