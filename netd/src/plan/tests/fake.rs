//! A kernel that remembers, and refuses and cascades as the real one does.

use crate::model::*;
use crate::ownership::Ownership;
use crate::step::Step;
use std::collections::{BTreeMap, BTreeSet};

const OURS: Mark = 72;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FakeKernel {
    links: BTreeMap<LinkName, Link>,
    addresses: BTreeMap<Address, Mark>,
    /// In the order in which they came: the first of a subnet takes the later ones with it.
    seniority: Vec<Address>,
    nexthops: BTreeMap<u32, (Nexthop, Mark)>,
    routes: BTreeMap<RouteKey, (Route, Mark)>,
    rules: BTreeSet<Rule>,
}

impl FakeKernel {
    pub(super) fn with_ports(ports: &[&str]) -> Self {
        let mut kernel = FakeKernel::default();
        for port in ports {
            let link = Link::new(port.parse().unwrap(), LinkKind::Physical).with_mtu(1500);
            kernel.links.insert(link.name.clone(), link);
        }
        kernel
    }

    /// Things of others in every place where ours could be.
    pub(super) fn foreign(&mut self) {
        let eth0: LinkName = "eth0".parse().unwrap();
        for (net, mark) in [("198.51.100.7/24", 0), ("10.0.0.200/24", 0), ("fe80::7/64", 3)] {
            let address = Address::new(eth0.clone(), net.parse().unwrap());
            self.seniority.push(address.clone());
            self.addresses.insert(address, mark);
        }
        self.nexthops.insert(5, (Nexthop::dev(5, Family::V4, eth0.clone()), 4));
        let routes = [
            ("0.0.0.0/0", 0),
            ("172.16.1.0/24", 0),
            ("172.16.1.0/24", 800),
            ("2001:db8::/32", 1024),
        ];
        for (prefix, metric) in routes {
            let target = RouteTarget::Dev(eth0.clone());
            let route = Route::new(MAIN_TABLE, prefix.parse().unwrap(), target).with_metric(metric);
            self.routes.insert(route.key(), (route, 4));
        }
        self.rules.insert(Rule::new(100, Family::V4, 100));

        let tunnel = Link::new("hf-wg0".parse().unwrap(), LinkKind::Tun).with_mtu(1420);
        let address = Address::new(tunnel.name.clone(), "10.0.0.9/32".parse().unwrap());
        self.addresses.insert(address, OURS);
        let nexthop = Nexthop::dev(0x4846_0001, Family::V6, tunnel.name.clone());
        self.nexthops.insert(nexthop.id, (nexthop, OURS));
        let target = RouteTarget::Nexthop(0x4846_0001);
        let route = Route::new(7200, "172.16.1.0/24".parse().unwrap(), target);
        self.routes.insert(route.key(), (route, OURS));
        self.links.insert(tunnel.name.clone(), tunnel);
        self.rules.insert(Rule::new(7200, Family::V4, 7200));
    }

    pub(super) fn observe(&self, owner: &Ownership, want: &Network) -> Observed {
        let mut observed = Observed::default();
        for link in self.links.values() {
            let mut link = link.clone();
            let read = want.links.get(&link.name).map(|w| &w.sysctls);
            link.sysctls.retain(|sysctl, _| read.is_some_and(|read| read.contains_key(sysctl)));
            observed.add_link(owner, link);
        }
        for (address, mark) in &self.addresses {
            observed.add_address(owner, address.clone(), *mark);
        }
        for (nexthop, mark) in self.nexthops.values() {
            observed.add_nexthop(owner, nexthop.clone(), *mark);
        }
        for (route, mark) in self.routes.values() {
            observed.add_route(owner, route.clone(), *mark);
        }
        for rule in &self.rules {
            observed.add_rule(owner, rule.clone());
        }
        observed
    }

    /// Everything that the host must not touch, by the letter of the marks and not by
    /// [`Ownership`], which is under test here. Left out are the settings of links that the wish
    /// declares, and the one setting that keeps the addresses of others in place when one of
    /// ours is removed from beside them.
    pub(super) fn of_others(&self, declared: &BTreeSet<LinkName>) -> FakeKernel {
        let mut others = self.clone();
        let ours = |name: &LinkName| {
            let name = name.as_str();
            name.starts_with("hf-") && !name.starts_with("hf-wg")
        };
        others.links.retain(|name, _| !ours(name) && !declared.contains(name));
        for link in others.links.values_mut() {
            link.sysctls.remove(&LinkSysctl::promote_secondaries());
            // Being a port of a controller of ours is our doing.
            link.controller = link.controller.take().filter(|name| !ours(name));
        }
        let tunnels = |link: &LinkName| link.as_str().starts_with("hf-wg");
        others.addresses.retain(|address, mark| tunnels(&address.link) || *mark != OURS);
        others.seniority.clear();
        others.nexthops.retain(|id, _| !(0x4846_8000..=0x4846_ffff).contains(id));
        others.routes.retain(|key, (_, mark)| *mark != OURS || (7200..7250).contains(&key.table));
        others.rules.retain(|rule| !(7250..=7299).contains(&rule.priority));
        others
    }

    pub(super) fn apply(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::CreateLink(link) => self.create(link),
            Step::DeleteLink(link) => {
                need(self.links.contains_key(&link.name), "no such link")?;
                self.drop_link(&link.name);
                Ok(())
            }
            Step::SetUp { link, up } => {
                self.link(link)?.up = *up;
                if !up {
                    self.drop_paths(link);
                }
                Ok(())
            }
            Step::SetMtu { link, from, to } => {
                let link = self.link(link)?;
                need(link.mtu == Some(*from), "the MTU was another")?;
                link.mtu = Some(*to);
                Ok(())
            }
            Step::SetMac { link, to, .. } => {
                self.link(link)?.address = Some(*to);
                Ok(())
            }
            Step::SetController { link, from, to } => {
                need(to.as_ref().is_none_or(|c| self.links.contains_key(c)), "no such controller")?;
                let is_bond = |name: &Option<LinkName>| {
                    let link = name.as_ref().and_then(|name| self.links.get(name));
                    link.is_some_and(|link| matches!(link.kind, LinkKind::Bond { .. }))
                };
                let (out_of_bond, into_bond) = (is_bond(from), is_bond(to));
                let link = self.link(link)?;
                need(link.controller == *from, "the controller was another")?;
                link.up &= !out_of_bond;
                need(!into_bond || !link.up, "EPERM: a bond takes no port that is up")?;
                link.up |= into_bond;
                link.controller.clone_from(to);
                Ok(())
            }
            Step::SetWireguard { link, to, .. } => {
                self.link(link)?.kind = LinkKind::Wireguard(to.clone());
                Ok(())
            }
            Step::SetSysctl { link, sysctl, to, .. } => {
                self.link(link)?.sysctls.insert(sysctl.clone(), to.clone());
                Ok(())
            }
            Step::AddAddress(address) => {
                self.link(&address.link)?;
                let v6 = address.net.addr().is_ipv6();
                let taken = |a: &Address| {
                    a == address
                        || (v6 && a.link == address.link && a.net.addr() == address.net.addr())
                };
                need(!self.addresses.keys().any(taken), "EEXIST")?;
                self.addresses.insert(address.clone(), OURS);
                self.seniority.push(address.clone());
                Ok(())
            }
            Step::DeleteAddress(address) => {
                need(self.addresses.remove(address).is_some(), "EADDRNOTAVAIL")?;
                let promote = self
                    .link(&address.link)?
                    .sysctls
                    .get(&LinkSysctl::promote_secondaries())
                    .is_some_and(|v| v == "1");
                let beside =
                    |a: &Address| a.link == address.link && a.net.trunc() == address.net.trunc();
                let primary = self.seniority.iter().find(|a| beside(a)) == Some(address);
                if primary && !promote && address.net.addr().is_ipv4() {
                    self.addresses.retain(|a, _| !beside(a));
                }
                self.tidy();
                Ok(())
            }
            Step::CreateNexthop(nexthop) => {
                need(!self.nexthops.contains_key(&nexthop.id), "EEXIST")?;
                self.put_nexthop(nexthop)
            }
            Step::ReplaceNexthop { from, to } => {
                let have = self.nexthops.get(&to.id).map(|(n, _)| n);
                need(have == Some(from), "the nexthop was another")?;
                need(from.is_group() == to.is_group(), "EINVAL: group and single")?;
                self.put_nexthop(to)
            }
            Step::DeleteNexthop(nexthop) => {
                need(self.nexthops.contains_key(&nexthop.id), "ENOENT")?;
                self.drop_nexthop(nexthop.id);
                Ok(())
            }
            Step::AddRoute(route) => {
                need(!self.routes.contains_key(&route.key()), "EEXIST")?;
                self.put_route(route)
            }
            Step::ReplaceRoute { from, to } => {
                need(
                    self.routes.get(&to.key()) == Some(&(from.clone(), OURS)),
                    "the route was another",
                )?;
                need(from.key() == to.key(), "another place")?;
                self.put_route(to)
            }
            Step::DeleteRoute(route) => need(
                self.routes.remove(&route.key()).is_some_and(|(have, _)| have == *route),
                "ESRCH",
            ),
            Step::AddRule(rule) => need(self.rules.insert(rule.clone()), "EEXIST"),
            Step::DeleteRule(rule) => need(self.rules.remove(rule), "ENOENT"),
        }
    }

    fn create(&mut self, link: &Link) -> Result<(), String> {
        need(!self.links.contains_key(&link.name), "EEXIST")?;
        need(link.parent().is_none_or(|p| self.links.contains_key(p)), "ENODEV: parent")?;
        let mtu = link.mtu.unwrap_or(1500);
        let mut add = |name: &LinkName, kind: LinkKind, address| {
            let mut link = Link::new(name.clone(), kind).with_mtu(mtu);
            (link.up, link.address) = (false, address);
            self.links
                .insert(name.clone(), link)
                .map_or(Ok(()), |_| Err("EEXIST: peer".to_string()))
        };
        match &link.kind {
            LinkKind::Veth { peer: Peer::Here(peer) } => {
                add(peer, LinkKind::Veth { peer: Peer::Here(link.name.clone()) }, None)?;
                add(&link.name, link.kind.clone(), link.address)
            }
            LinkKind::Veth { .. } => {
                add(&link.name, LinkKind::Veth { peer: Peer::Elsewhere }, link.address)
            }
            LinkKind::Wireguard(_) => {
                add(&link.name, LinkKind::Wireguard(Default::default()), link.address)
            }
            LinkKind::Physical | LinkKind::Tun | LinkKind::Other(_) => Err("EOPNOTSUPP".into()),
            kind => add(&link.name, kind.clone(), link.address),
        }
    }

    fn put_nexthop(&mut self, nexthop: &Nexthop) -> Result<(), String> {
        if let Some(link) = nexthop.link() {
            need(self.link(link)?.up, "ENETDOWN")?;
        }
        if let NexthopTarget::Group(members) = &nexthop.target {
            let single = |id| self.nexthops.get(id).is_some_and(|(n, _)| !n.is_group());
            need(!members.is_empty() && members.keys().all(single), "EINVAL: members")?;
        }
        self.nexthops.insert(nexthop.id, (nexthop.clone(), OURS));
        Ok(())
    }

    fn put_route(&mut self, route: &Route) -> Result<(), String> {
        if let Some(link) = route.link() {
            need(self.link(link)?.up, "ENETDOWN")?;
        }
        if let RouteTarget::Nexthop(id) = &route.target {
            need(self.nexthops.contains_key(id), "EINVAL: nexthop")?;
        }
        self.routes.insert(route.key(), (route.clone(), OURS));
        Ok(())
    }

    fn link(&mut self, name: &LinkName) -> Result<&mut Link, String> {
        self.links.get_mut(name).ok_or_else(|| format!("ENODEV: {name}"))
    }

    fn drop_link(&mut self, name: &LinkName) {
        let Some(gone) = self.links.remove(name) else { return };
        self.addresses.retain(|address, _| address.link != *name);
        self.tidy();
        self.drop_paths(name);
        for port in self.links.values_mut().filter(|link| link.controller.as_ref() == Some(name)) {
            port.controller = None;
            port.up &= !matches!(gone.kind, LinkKind::Bond { .. });
        }
        let on_it: Vec<LinkName> = self
            .links
            .values()
            .filter(|link| link.parent() == Some(name))
            .map(|link| link.name.clone())
            .collect();
        for link in on_it {
            self.drop_link(&link);
        }
        if let LinkKind::Veth { peer: Peer::Here(peer) } = &gone.kind {
            self.drop_link(peer);
        }
    }

    fn tidy(&mut self) {
        self.seniority.retain(|address| self.addresses.contains_key(address));
    }

    fn drop_paths(&mut self, link: &LinkName) {
        self.routes.retain(|_, (route, _)| route.link() != Some(link));
        let ids: Vec<u32> = self
            .nexthops
            .values()
            .filter(|(n, _)| n.link() == Some(link))
            .map(|(n, _)| n.id)
            .collect();
        for id in ids {
            self.drop_nexthop(id);
        }
    }

    fn drop_nexthop(&mut self, id: u32) {
        self.nexthops.remove(&id);
        self.routes.retain(|_, (route, _)| route.target != RouteTarget::Nexthop(id));
        let mut empty = Vec::new();
        for (nexthop, _) in self.nexthops.values_mut() {
            if let NexthopTarget::Group(members) = &mut nexthop.target
                && members.remove(&id).is_some()
                && members.is_empty()
            {
                empty.push(nexthop.id);
            }
        }
        for id in empty {
            self.drop_nexthop(id);
        }
    }
}

fn need(met: bool, otherwise: &str) -> Result<(), String> {
    if met { Ok(()) } else { Err(otherwise.to_string()) }
}
