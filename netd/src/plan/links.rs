//! Links: made parents first, removed children first.

use crate::error::PlanError;
use crate::model::{Link, LinkKind, LinkName, Network, Observed, Peer};
use crate::ownership::Ownership;
use crate::step::Step;
use std::collections::BTreeSet;

/// What an Ethernet-like link has that nobody told otherwise.
const DEFAULT_MTU: u32 = 1500;

/// Steps on links, and the links that lose everything that rests on them.
#[derive(Debug, Default)]
pub(super) struct Links {
    pub(super) make: Vec<Step>,
    pub(super) remove: Vec<Step>,
    /// Removed so that they can be made anew, and whatever falls with them.
    pub(super) lost: BTreeSet<LinkName>,
}

pub(super) fn plan(want: &Network, have: &Observed, owner: &Ownership) -> Result<Links, PlanError> {
    let mut links = Links { lost: lost(want, have), ..Links::default() };
    links.make = deletions(have, |link| links.lost.contains(&link.name), |_| true);

    let mut made: BTreeSet<LinkName> = BTreeSet::new();
    for link in in_order(want)? {
        let seen = match have.link(&link.name) {
            Some(seen) if !links.lost.contains(&link.name) => {
                let mut seen = seen.clone();
                if let Some(gone) = seen.controller.take_if(|name| links.lost.contains(name)) {
                    seen.up &= !is_bond(have.link(&gone));
                }
                seen
            }
            _ if made.contains(&link.name) => fresh(link, peer_mtu(want, link)),
            _ => {
                links.make.push(Step::CreateLink(link.clone()));
                if let LinkKind::Veth { peer: Peer::Here(peer) } = &link.kind {
                    made.insert(peer.clone());
                }
                fresh(link, link.mtu)
            }
        };
        settings(link, &seen, want, have, owner, &mut links.make);
    }

    let stays = |link: &Link| {
        want.links.contains(&link.name)
            || links.lost.contains(&link.name)
            // The other end of a wanted pair is part of it, declared or not.
            || want.links.iter().any(|w| matches!(&w.kind, LinkKind::Veth { peer: Peer::Here(p) } if *p == link.name))
    };
    // Declared ports have been taken out, or moved, by then.
    let left_in = |port: &Link| !want.links.contains(&port.name);
    links.remove = deletions(have, |link| owner.owns_link(&link.name) && !stays(link), left_in);
    Ok(links)
}

/// Links of the wrong kind, which are ours, and everything that the kernel takes down with them.
fn lost(want: &Network, have: &Observed) -> BTreeSet<LinkName> {
    let mut lost = BTreeSet::new();
    let wrong = want.links.iter().filter(|link| {
        have.ours.links.get(&link.name).is_some_and(|seen| !link.kind.is_met_by(&seen.kind))
    });
    let mut next: Vec<LinkName> = wrong.map(|link| link.name.clone()).collect();
    // The name of the other end of a pair may be taken by something else of ours.
    for link in &want.links {
        if let LinkKind::Veth { peer: Peer::Here(peer) } = &link.kind
            && have.ours.links.get(&link.name).is_none_or(|seen| !link.kind.is_met_by(&seen.kind))
            && have.ours.links.contains(peer)
        {
            next.push(peer.clone());
        }
    }
    while let Some(name) = next.pop() {
        if !lost.insert(name.clone()) {
            continue;
        }
        for link in &have.ours.links {
            let on_it = link.parent() == Some(&name);
            let other_end =
                matches!(&link.kind, LinkKind::Veth { peer: Peer::Here(p) } if *p == name);
            if on_it || other_end {
                next.push(link.name.clone());
            }
        }
    }
    lost
}

/// Removes those of ours that `which` says, children before parents, ports before their
/// controllers, each pair once.
fn deletions(
    have: &Observed,
    which: impl Fn(&Link) -> bool,
    left_in: impl Fn(&Link) -> bool,
) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut gone: BTreeSet<&LinkName> = BTreeSet::new();
    let mut rest: Vec<&Link> = have.ours.links.iter().filter(|link| which(link)).collect();
    while !rest.is_empty() {
        // The kernel has no circles of parents; should it ever show one, order does not matter.
        let rests_on = |other: &Link, link: &Link| {
            other.parent() == Some(&link.name) || other.controller.as_ref() == Some(&link.name)
        };
        let free = |link: &&Link| !rest.iter().any(|other| rests_on(other, link));
        let (mut now, later): (Vec<&Link>, Vec<&Link>) = rest.iter().partition(|l| free(l));
        if now.is_empty() {
            now = later.clone();
            rest = Vec::new();
        } else {
            rest = later;
        }
        for link in now {
            let by_peer =
                matches!(&link.kind, LinkKind::Veth { peer: Peer::Here(p) } if gone.contains(p));
            gone.insert(&link.name);
            if by_peer {
                continue;
            }
            if let LinkKind::Veth { peer: Peer::Here(peer) } = &link.kind
                && let Some(peer) = have.ours.links.get(peer)
            {
                strip(peer, link, &mut steps);
            }
            // It is said, not left to the kernel, so that taking the plan back puts them in again.
            let all = have.ours.links.iter().chain(&have.others.links);
            let is_port = |port: &&Link| port.controller.as_ref() == Some(&link.name);
            for port in all.filter(is_port).filter(|port| !which(port) && left_in(port)) {
                let (from, to) = (port.controller.clone(), None);
                steps.push(Step::SetController { link: port.name.clone(), from, to });
            }
            steps.push(Step::DeleteLink(link.clone()));
        }
    }
    steps
}

/// Takes from `peer`, which falls with `link`, what it would not have when the pair is made
/// again, so that taking the plan back brings it back as it was.
fn strip(peer: &Link, link: &Link, steps: &mut Vec<Step>) {
    let name = || peer.name.clone();
    if let Some(from) = peer.controller.clone() {
        steps.push(Step::SetController { link: name(), from: Some(from), to: None });
    }
    if peer.up {
        steps.push(Step::SetUp { link: name(), up: false });
    }
    if let (Some(from), Some(to)) = (peer.mtu, link.mtu)
        && from != to
    {
        steps.push(Step::SetMtu { link: name(), from, to });
    }
}

/// The wanted links, each after its parent and its controller.
fn in_order(want: &Network) -> Result<Vec<&Link>, PlanError> {
    let mut ordered = Vec::new();
    let mut placed: BTreeSet<&LinkName> = BTreeSet::new();
    let mut rest: Vec<&Link> = want.links.iter().collect();
    while !rest.is_empty() {
        let ready = |link: &Link| {
            let below = [link.parent(), link.controller.as_ref()];
            below.into_iter().flatten().all(|n| placed.contains(n) || !want.links.contains(n))
        };
        let (now, later): (Vec<&Link>, Vec<&Link>) = rest.into_iter().partition(|link| ready(link));
        if now.is_empty() {
            let what = format!("link {}", later.first().map_or("", |link| link.name.as_str()));
            return Err(PlanError::Contradiction { what, why: "it rests on itself" });
        }
        placed.extend(now.iter().map(|link| &link.name));
        ordered.extend(now);
        rest = later;
    }
    Ok(ordered)
}

/// A link as it is right after it was made.
fn fresh(link: &Link, mtu: Option<u32>) -> Link {
    let mut fresh = Link::new(link.name.clone(), link.kind.clone());
    fresh.up = false;
    fresh.mtu = Some(mtu.unwrap_or(DEFAULT_MTU));
    fresh.address = link.address;
    if let LinkKind::Wireguard(device) = &mut fresh.kind {
        *device = Default::default();
    }
    fresh
}

/// With which MTU the other end of `link` was made, and so this one.
fn peer_mtu(want: &Network, link: &Link) -> Option<u32> {
    match &link.kind {
        LinkKind::Veth { peer: Peer::Here(peer) } => want.links.get(peer)?.mtu,
        _ => None,
    }
}

/// A bond takes only ports that are down (Documentation/networking/bonding.rst), and leaves those
/// down that it gives back.
fn is_bond(controller: Option<&Link>) -> bool {
    controller.is_some_and(|link| matches!(link.kind, LinkKind::Bond { .. }))
}

fn settings(
    want: &Link,
    have: &Link,
    all_wanted: &Network,
    all: &Observed,
    owner: &Ownership,
    steps: &mut Vec<Step>,
) {
    let link = || want.name.clone();
    if let (LinkKind::Wireguard(to), LinkKind::Wireguard(from)) = (&want.kind, &have.kind)
        && !to.is_met_by(from)
    {
        steps.push(Step::SetWireguard { link: link(), from: from.clone(), to: to.clone() });
    }
    if let Some(to) = want.address
        && have.address != Some(to)
    {
        steps.push(Step::SetMac { link: link(), from: have.address, to });
    }
    if let Some(to) = want.mtu
        && have.mtu != Some(to)
    {
        steps.push(Step::SetMtu { link: link(), from: have.mtu.unwrap_or(DEFAULT_MTU), to });
    }
    for (sysctl, to) in &want.sysctls {
        let from = have.sysctls.get(sysctl);
        if from != Some(to) {
            let (sysctl, from, to) = (sysctl.clone(), from.cloned(), to.clone());
            steps.push(Step::SetSysctl { link: link(), sysctl, from, to });
        }
    }
    let mut up = have.up;
    // A port of somebody else's bridge stays there unless we want it in ours.
    let leaves =
        have.controller.as_ref().is_some_and(|c| owner.owns_link(c) || owner.owns_link(&want.name));
    if want.controller != have.controller && (want.controller.is_some() || leaves) {
        if is_bond(want.controller.as_ref().and_then(|name| all_wanted.links.get(name))) && up {
            steps.push(Step::SetUp { link: link(), up: false });
            up = false;
        }
        up &= !is_bond(have.controller.as_ref().and_then(|name| all.link(name)));
        let (from, to) = (have.controller.clone(), want.controller.clone());
        steps.push(Step::SetController { link: link(), from, to });
    }
    if want.up != up {
        steps.push(Step::SetUp { link: link(), up: want.up });
    }
}
