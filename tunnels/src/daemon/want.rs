//! What the kernel shall have for the tunnels that stand. Pure.
//!
//! | what | which |
//! |---|---|
//! | link | `hf-wg<slot>`, up, MTU 1420 or what the path takes, loose reverse-path filter; IPv6 on when something goes over it; forwarding when there are site prefixes |
//! | address | the node's overlay address, peer: the edge's |
//! | nexthop | one per slot over its link; one that leads nowhere; the group with one member |
//! | routes, table 7200 | each prefix over the group, and behind it one to nowhere; each edge over its own link |
//! | routes, table 7200 | each prefix behind the node: on to the next table, so that a route that covers it does not take the node's own network into a tunnel |
//! | rule 7200 | packets without our mark look into table 7200 |
//!
//! Where IPv6 is off ([`Ipv6`]) nothing of it goes over the group, for there is no nexthop to nowhere for
//! it; its routes to nowhere stay, so that nothing of it leaves in the clear. Nexthops that once were of
//! IPv6 stay so, for IPv4 goes over them as well, and the kernel refuses the way back under routes of IPv6.
//!
//! The reverse-path filter is loose because replies may come back over the tunnel that is not
//! the active one. The routes to nowhere take over in the moment in which the group is gone
//! (a link was deleted, `tunneld` was killed): nothing leaves in the clear.

use super::settings::Settings;
use crate::names::{self, CATCH_METRIC, FWMARK, GROUP, NOWHERE, RULE_PRIORITY, TABLE};
use holdfast_api::tunnel::TunnelKind;
use ipnet::IpNet;
use netd::{
    Address, Family, Ipv6, Link, LinkKind, LinkName, LinkSysctl, Network, Nexthop, NexthopTarget,
    Observed, Route, RouteTarget, Rule, Step, WgKey, WireguardDevice, WireguardPeer,
};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// The MTU of links whose path takes what a path usually takes, [`crate::wireguard::DEFAULT_MTU`].
pub(super) const MOST_MTU: u16 = 1420;

/// A tunnel as far as the kernel knows it.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Its slot.
    pub(super) slot: u8,
    /// How it is made.
    pub(super) kind: TunnelKind,
    /// The edge's overlay address.
    pub(super) peer: IpAddr,
    /// The edge's key.
    pub(super) public_key: holdfast_api::tunnel::PublicKey,
    /// Where the edge is.
    pub(super) endpoint: SocketAddr,
    /// The link's MTU.
    pub(super) mtu: u32,
    /// The kernel refuses to set it up or to mend it: what is there of it stays as it is.
    pub(super) refused: bool,
}

/// The link of a slot.
pub(super) fn link_name(slot: u8) -> LinkName {
    // Checked by a test for every slot.
    names::link(slot).parse().expect("the name is four letters, a dash and a digit")
}

/// All of it. The group's member is left to whoever does failover: it stays as `have` shows it
/// when it leads somewhere we know.
pub(super) fn network(settings: &Settings, tunnels: &[Wanted], have: &Observed) -> Network {
    let mut network = Network::default();
    let families = families(settings);
    let was_v6 = have
        .ours
        .nexthops
        .get(&NOWHERE)
        .is_some_and(|nexthop| nexthop.target == NexthopTarget::Blackhole(Family::V6));
    let is_v6 = families.contains(&Family::V6) && settings.ipv6 == Ipv6::On;
    let family = if was_v6 || is_v6 { Family::V6 } else { Family::V4 };
    for tunnel in tunnels {
        let link = link_name(tunnel.slot);
        if tunnel.refused {
            keep(&mut network, &link, have);
            continue;
        }
        let mut described = describe_link(settings, tunnel, &families);
        if family == Family::V6 || families.contains(&Family::V6) {
            // Links take over what `net.ipv6.conf.default` has.
            described = described.with_sysctl(LinkSysctl::disable_ipv6(), "0");
        }
        network.links.insert(described);
        network.addresses.insert(Address {
            link: link.clone(),
            net: IpNet::from(settings.overlay),
            peer: Some(tunnel.peer),
        });
        network.nexthops.insert(Nexthop::dev(names::nexthop(tunnel.slot), family, link));
    }
    network.nexthops.insert(Nexthop { id: NOWHERE, target: NexthopTarget::Blackhole(family) });
    network.nexthops.insert(group(&network, have));

    let source =
        |prefix: &IpNet| Some(settings.overlay).filter(|o| o.is_ipv4() == prefix.addr().is_ipv4());
    let is_known = |prefix: &&IpNet| prefix.addr().is_ipv4() || settings.ipv6 != Ipv6::Absent;
    let own = &settings.own_prefixes;
    let throw = |prefix: &IpNet| Route::new(TABLE, *prefix, RouteTarget::Throw);
    network.routes.extend(own.iter().filter(is_known).map(throw));
    let takes_ipv6 = settings.ipv6 == Ipv6::On && are_all_of_ipv6(&network);
    for prefix in settings.routes.iter().filter(|prefix| !own.contains(prefix)).filter(is_known) {
        let is_taken = prefix.addr().is_ipv4() || takes_ipv6;
        // Without a tunnel no link has the address that is to be the source.
        if is_taken && !network.addresses.is_empty() {
            let over_group = Route::new(TABLE, *prefix, RouteTarget::Nexthop(GROUP));
            network.routes.insert(Route { source: source(prefix), ..over_group });
        }
        network
            .routes
            .insert(Route::new(TABLE, *prefix, RouteTarget::Blackhole).with_metric(CATCH_METRIC));
    }
    // After the others, so that an edge is reached over its own tunnel even when a route
    // names its very address.
    for tunnel in tunnels {
        let link = link_name(tunnel.slot);
        if tunnel.refused {
            network.routes.extend(have.ours.routes.iter().filter(|of| is_over(of, &link)).cloned());
            continue;
        }
        let prefix = IpNet::from(tunnel.peer);
        let over_link = Route::new(TABLE, prefix, RouteTarget::Dev(link));
        network.routes.insert(Route { source: source(&prefix), ..over_link });
    }
    for family in families {
        let rule = Rule::new(RULE_PRIORITY, family, TABLE);
        network.rules.insert(Rule { fwmark: Some((0, FWMARK)), ..rule });
    }
    network
}

/// What there is of a link but its routes, into `network`.
fn keep(network: &mut Network, link: &LinkName, have: &Observed) {
    let have = &have.ours;
    network.links.extend(have.links.get(link).cloned());
    network.addresses.extend(have.addresses.iter().filter(|of| of.link == *link).cloned());
    let over =
        |of: &&Nexthop| matches!(&of.target, NexthopTarget::Single { link: l, .. } if l == link);
    network.nexthops.extend(have.nexthops.iter().filter(over).cloned());
}

/// Whether routes of IPv6 may go over all nexthops that the group can lead to.
fn are_all_of_ipv6(network: &Network) -> bool {
    network.nexthops.iter().all(|nexthop| match &nexthop.target {
        NexthopTarget::Single { family, .. } | NexthopTarget::Blackhole(family) => {
            *family == Family::V6
        }
        NexthopTarget::Group(_) => true,
    })
}

fn is_over(route: &Route, link: &LinkName) -> bool {
    matches!(&route.target, RouteTarget::Dev(over) if over == link)
}

fn families(settings: &Settings) -> BTreeSet<Family> {
    let routes = settings.routes.iter().map(|net| Family::from(net.addr()));
    let mut all: BTreeSet<Family> =
        routes.filter(|family| *family == Family::V4 || settings.ipv6 != Ipv6::Absent).collect();
    all.insert(settings.overlay.into());
    all
}

fn describe_link(settings: &Settings, tunnel: &Wanted, families: &BTreeSet<Family>) -> Link {
    let kind = match tunnel.kind {
        TunnelKind::WireguardUserspace => LinkKind::Tun,
        TunnelKind::WireguardKernel => LinkKind::Wireguard(describe_device(settings, tunnel)),
    };
    let mut link = Link::new(link_name(tunnel.slot), kind)
        .with_mtu(tunnel.mtu)
        .with_sysctl(LinkSysctl::rp_filter(), "2");
    if settings.forwards {
        for family in families {
            link = link.with_sysctl(LinkSysctl::forwarding(*family), "1");
        }
    }
    link
}

fn describe_device(settings: &Settings, tunnel: &Wanted) -> WireguardDevice {
    let peer = WireguardPeer {
        endpoint: Some(tunnel.endpoint),
        preshared_key: None,
        keepalive_secs: 0,
        allowed_ips: everything().into(),
    };
    WireguardDevice {
        private_key: Some(WgKey(*settings.private_key.expose())),
        listen_port: listen_port(settings, tunnel.slot),
        fwmark: FWMARK,
        peers: [(WgKey(tunnel.public_key.0), peer)].into(),
    }
}

/// What makes a device of the kernel forget its session and where its peer was: the peer is taken
/// out and put in again. By itself the kernel shakes hands anew 15 s after the last answer
/// (`KEEPALIVE_TIMEOUT` + `REKEY_TIMEOUT`), and it never goes back from where a peer roamed to.
pub(super) fn renewal(settings: &Settings, tunnel: &Wanted) -> [Step; 2] {
    let with = describe_device(settings, tunnel);
    let without = WireguardDevice { peers: Default::default(), ..with.clone() };
    let step = |from: &WireguardDevice, to: &WireguardDevice| Step::SetWireguard {
        link: link_name(tunnel.slot),
        from: from.clone(),
        to: to.clone(),
    };
    [step(&with, &without), step(&without, &with)]
}

/// All addresses: what goes into which tunnel is for routes to say.
pub(super) fn everything() -> [IpNet; 2] {
    [ipnet::Ipv4Net::default().into(), ipnet::Ipv6Net::default().into()]
}

/// The UDP port of a slot; none when the kernel shall choose.
pub(super) fn listen_port(settings: &Settings, slot: u8) -> Option<u16> {
    (settings.listen_port != 0).then(|| settings.listen_port.saturating_add(slot.into()))
}

fn group(network: &Network, have: &Observed) -> Nexthop {
    let seen = have.ours.nexthops.get(&GROUP).filter(|nexthop| match &nexthop.target {
        NexthopTarget::Group(members) => {
            members.len() == 1 && members.keys().all(|id| network.nexthops.contains(id))
        }
        NexthopTarget::Single { .. } | NexthopTarget::Blackhole(_) => false,
    });
    seen.cloned().unwrap_or_else(|| Nexthop::active(GROUP, NOWHERE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::settings::tests::{edge, settings};
    use netd::{Ownership, Step, plan};

    fn wanted(slot: u8) -> Wanted {
        let edge = edge(slot + 1);
        Wanted {
            slot,
            kind: TunnelKind::WireguardUserspace,
            peer: edge.overlay_address,
            public_key: edge.public_key,
            endpoint: edge.endpoint,
            mtu: MOST_MTU.into(),
            refused: false,
        }
    }

    /// What the kernel has after `network` was applied to it.
    fn applied(network: &Network) -> Observed {
        let owner = Ownership::tunnels();
        let mut have = Observed { ours: network.clone(), ..Observed::default() };
        // Settings are read back as they are.
        assert_eq!(plan(network, &have, &owner), Ok(Vec::new()));
        have.others = Default::default();
        have
    }

    #[test]
    fn a_link_has_the_mtu_of_its_path_and_the_usual_one_otherwise() {
        assert_eq!(u32::from(MOST_MTU), crate::wireguard::DEFAULT_MTU);
        let narrow = Wanted { mtu: 1340, ..wanted(0) };
        let network = network(&settings(), &[narrow, wanted(1)], &Observed::default());
        let mtus: Vec<_> = network.links.iter().map(|link| link.mtu).collect();
        assert_eq!(mtus, [Some(1340), Some(1420)]);
    }

    #[test]
    fn every_slot_has_a_name() {
        for slot in 0..names::SLOTS {
            assert_eq!(link_name(slot).as_str(), names::link(slot));
        }
    }

    #[test]
    fn all_of_it_is_ours_to_make() {
        let settings = settings();
        let mut have = Observed::default();
        for slot in [0, 1] {
            // TUN devices are there before the plan is made.
            have.add_link(
                &Ownership::tunnels(),
                Link { up: false, ..Link::new(link_name(slot), LinkKind::Tun) },
            );
        }
        let want = network(&settings, &[wanted(0), wanted(1)], &have);
        let steps = plan(&want, &have, &Ownership::tunnels()).unwrap();
        assert!(steps.iter().any(|step| matches!(step, Step::AddRule(_))));
        let group = steps
            .iter()
            .position(|s| matches!(s, Step::CreateNexthop(n) if n.id == GROUP))
            .unwrap();
        let route = steps.iter().position(|s| matches!(s, Step::AddRoute(_))).unwrap();
        assert!(group < route);
    }

    #[test]
    fn the_groups_member_is_left_to_failover() {
        let settings = settings();
        let two = [wanted(0), wanted(1)];
        let fresh = network(&settings, &two, &Observed::default());
        assert_eq!(fresh.nexthops.get(&GROUP), Some(&Nexthop::active(GROUP, NOWHERE)));
        let mut have = applied(&fresh);
        let on_one = Nexthop::active(GROUP, names::nexthop(1));
        have.ours.nexthops.insert(on_one.clone());
        assert_eq!(network(&settings, &two, &have).nexthops.get(&GROUP), Some(&on_one));
        assert_eq!(
            plan(&network(&settings, &two, &have), &have, &Ownership::tunnels()),
            Ok(Vec::new())
        );
        // Its tunnel is gone, so it cannot stay.
        let without = network(&settings, &two[..1], &have);
        assert_eq!(without.nexthops.get(&GROUP), Some(&Nexthop::active(GROUP, NOWHERE)));
    }

    #[test]
    fn another_tunnel_touches_nothing_of_the_first() {
        let settings = settings();
        let one = network(&settings, &[wanted(0)], &Observed::default());
        let mut have = applied(&one);
        have.add_link(
            &Ownership::tunnels(),
            Link { up: false, ..Link::new(link_name(1), LinkKind::Tun) },
        );
        let both = network(&settings, &[wanted(0), wanted(1)], &have);
        let steps = plan(&both, &have, &Ownership::tunnels()).unwrap();
        let first = link_name(0);
        assert!(!steps.is_empty());
        assert!(steps.iter().all(|step| !step.to_string().contains(first.as_str())), "{steps:?}");
    }

    #[test]
    fn ipv6_does_not_go_over_what_a_refused_tunnel_has_of_ipv4() {
        let mut settings = settings();
        let before = applied(&network(&settings, &[wanted(0), wanted(1)], &Observed::default()));
        settings.routes.insert("fd00:1::/48".parse().unwrap());
        let over_group = |tunnels: &[Wanted], settings: &Settings| {
            let want = network(settings, tunnels, &before);
            plan(&want, &before, &Ownership::tunnels()).unwrap();
            let ways = want.routes.iter().filter(|route| route.prefix.addr().is_ipv6());
            let (over, catch): (Vec<_>, Vec<_>) =
                ways.partition(|route| route.target == RouteTarget::Nexthop(GROUP));
            assert_eq!(catch.len(), usize::from(settings.ipv6 != Ipv6::Absent));
            over.len()
        };
        let refused = Wanted { refused: true, ..wanted(0) };
        assert_eq!(over_group(&[wanted(0), wanted(1)], &settings), 1);
        assert_eq!(over_group(&[refused, wanted(1)], &settings), 0);
        for ipv6 in [Ipv6::Off, Ipv6::Absent] {
            settings.ipv6 = ipv6;
            assert_eq!(over_group(&[wanted(0), wanted(1)], &settings), 0);
            assert_eq!(settings.left_out().count(), 1);
        }
    }

    #[test]
    fn of_a_tunnel_that_the_kernel_refuses_everything_stays_as_it_is() {
        let mut settings = settings();
        settings.routes.insert(IpNet::from(wanted(1).peer));
        let owner = Ownership::tunnels();
        let refused = Wanted { refused: true, ..wanted(1) };
        let steps = |wanted: &[Wanted], have: &Observed| {
            plan(&network(&settings, wanted, have), have, &owner).unwrap()
        };
        // Nothing but its device is there.
        let one = network(&settings, &[wanted(0)], &Observed::default());
        let mut have = applied(&one);
        have.add_link(&owner, Link { up: false, ..Link::new(link_name(1), LinkKind::Tun) });
        assert_eq!(steps(&[wanted(0), refused.clone()], &have), []);
        // It stands, carries all and lost its MTU, as the other did.
        let both = network(&settings, &[wanted(0), wanted(1)], &Observed::default());
        let mut have = applied(&both);
        have.ours.nexthops.insert(Nexthop::active(GROUP, names::nexthop(1)));
        for slot in [0, 1] {
            let link = have.ours.links.remove(&link_name(slot)).unwrap();
            have.ours.links.insert(link.with_mtu(1300));
        }
        let mended = steps(&[wanted(0), refused.clone()], &have);
        assert!(matches!(&mended[..], [Step::SetMtu { link, .. }] if *link == link_name(0)));
        let alone = Wanted { refused: true, ..wanted(0) };
        assert_eq!(steps(&[alone, refused], &have), []);
    }

    #[test]
    fn what_is_behind_the_node_is_not_reached_through_a_tunnel() {
        let own: IpNet = "10.128.0.0/24".parse().unwrap();
        let wide: IpNet = "10.0.0.0/8".parse().unwrap();
        let mut settings = Settings { own_prefixes: vec![own], ..settings() };
        settings.routes.insert(own);
        let network = network(&settings, &[wanted(0)], &Observed::default());
        let targets = |prefix: IpNet| -> Vec<RouteTarget> {
            let routes = network.routes.iter().filter(|route| route.prefix == prefix);
            routes.map(|route| route.target.clone()).collect()
        };
        assert_eq!(targets(own), [RouteTarget::Throw]);
        assert!(targets(wide).contains(&RouteTarget::Nexthop(GROUP)));
    }

    #[test]
    fn an_edge_is_reached_over_its_own_tunnel_whatever_the_routes_say() {
        let mut settings = settings();
        settings.routes.insert("100.64.0.1/32".parse().unwrap());
        let network = network(&settings, &[wanted(0)], &Observed::default());
        let key = Route::new(TABLE, "100.64.0.1/32".parse().unwrap(), RouteTarget::Blackhole);
        use netd::model::Item;
        let route = network.routes.get(&key.key()).unwrap();
        assert_eq!(route.target, RouteTarget::Dev(link_name(0)));
    }
}
