//! Addresses: added before others are removed.

use super::Halves;
use crate::model::{Address, LinkSysctl};
use crate::step::Step;
use ipnet::IpNet;
use std::collections::BTreeSet;

pub(super) fn plan(
    want: &BTreeSet<Address>,
    have: &BTreeSet<Address>,
    others: &BTreeSet<Address>,
) -> Halves {
    let mut halves = Halves::default();
    let unwanted: Vec<&Address> = have.difference(want).collect();
    // IPv6 knows an address by the address alone: another prefix length for it is refused
    // while it is there.
    let (first, last): (Vec<&Address>, Vec<&Address>) = unwanted.into_iter().partition(|old| {
        old.net.addr().is_ipv6()
            && want.iter().any(|new| new.link == old.link && new.net.addr() == old.net.addr())
    });
    halves.make.extend(first.into_iter().cloned().map(Step::DeleteAddress));
    // What somebody else has set just so already is there; it stays theirs.
    let missing = want.difference(have).filter(|address| !others.contains(*address));
    halves.make.extend(missing.cloned().map(Step::AddAddress));

    let mut promoted = BTreeSet::new();
    for old in last {
        // With the first IPv4 address of a subnet the kernel removes the others of it, also
        // those just added, unless it is told to promote one (`promote_secondaries`).
        let mut around = want.iter().chain(have).chain(others).filter(|other| *other != old);
        let has_heirs = around.any(|other| other.link == old.link && same_subnet(other, old));
        if has_heirs && promoted.insert(&old.link) {
            let (link, sysctl) = (old.link.clone(), LinkSysctl::promote_secondaries());
            halves.remove.push(Step::SetSysctl { link, sysctl, from: None, to: "1".into() });
        }
        halves.remove.push(Step::DeleteAddress(old.clone()));
    }
    halves
}

fn same_subnet(a: &Address, b: &Address) -> bool {
    match (a.net, b.net) {
        (IpNet::V4(a), IpNet::V4(b)) => a.trunc() == b.trunc(),
        _ => false,
    }
}
