//! Which hosts a world has and how they are joined.
//!
//! ```text
//!  controller ──10 ms──┐                      ┌── 5 ms ── re-1 ──┐
//!                      ├── net (a router, ────┼──12 ms ── re-2 ──┼── backbone (a switch, 2 ms each)
//!  node-1 ──── 1 ms ───┤   "the internet")    └──25 ms ── re-3 ──┘
//!  node-2 ──── 1 ms ───┘
//! ```
//!
//! Every host has one link to `net`, named after the host; a regional edge has one more to the
//! backbone, `<edge>-bb`. Where the first site has several nodes, each has one more to that site's
//! own network, `<node>-lan`, which a switch of the name `lan` joins. Delays are one way. The addresses outside are of 198.18.0.0/15, which is kept for
//! such tests (RFC 2544); the backbone is 10.255.0.0/24, and every edge answers at
//! [`SERVICE`], so that traffic of a site has somewhere to go over any of its tunnels.

use super::spec::{WorldName, WorldSpec};
use crate::emulator::{End, Link, LinkModel};
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

/// What stands behind every regional edge: each of them has this address.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 1);
/// What sites reach through their tunnels.
pub const SERVICE_NET: &str = "10.254.0.0/16";
/// Port of the controller's API.
pub const CONTROLLER_PORT: u16 = 6443;
/// Interface of every host towards `net`.
pub const WAN: &str = "wan0";
/// Interface of an edge towards the backbone.
pub const BACKBONE: &str = "bb0";
/// Interface of a node towards the other nodes of its site.
pub const LAN: &str = "lan0";
/// The bridge of a host that is a switch.
const SWITCH: &str = "br0";
const MTU: u32 = 1500;

/// A host of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// The router that plays the internet.
    Net,
    /// The switch between the edges.
    Backbone,
    /// The switch between the nodes of the first site.
    Lan,
    /// The global controller.
    Controller,
    /// A regional edge, from 1.
    Edge(u8),
    /// A node, from 1.
    Node(u8),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Net => f.write_str("net"),
            Host::Backbone => f.write_str("backbone"),
            Host::Lan => f.write_str("lan"),
            Host::Controller => f.write_str("controller"),
            Host::Edge(number) => write!(f, "re-{number}"),
            Host::Node(number) => write!(f, "node-{number}"),
        }
    }
}

impl std::str::FromStr for Host {
    type Err = UnknownHost;

    fn from_str(text: &str) -> Result<Self, UnknownHost> {
        let numbered = |prefix: &str| text.strip_prefix(prefix)?.parse().ok().filter(|n| *n > 0);
        match text {
            "net" => Ok(Host::Net),
            "backbone" => Ok(Host::Backbone),
            "lan" => Ok(Host::Lan),
            "controller" => Ok(Host::Controller),
            _ => numbered("re-")
                .map(Host::Edge)
                .or_else(|| numbered("node-").map(Host::Node))
                .ok_or_else(|| UnknownHost(text.into())),
        }
    }
}

/// A text that names no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no host; hosts are controller, re-1…, node-1…, net, backbone and lan")]
pub struct UnknownHost(pub String);

impl Host {
    /// The name of its network namespace.
    pub fn netns(self, world: &WorldName) -> String {
        format!("{}{self}", netns_prefix(world))
    }

    /// Its address in the internet of the world; none for those that are the network.
    pub fn address(self) -> Option<Ipv4Addr> {
        match self {
            Host::Net | Host::Backbone | Host::Lan => None,
            Host::Controller => Some(Ipv4Addr::new(198, 18, 0, 2)),
            Host::Edge(number) => Some(Ipv4Addr::new(198, 18, number, 2)),
            Host::Node(number) => Some(Ipv4Addr::new(198, 19, number, 2)),
        }
    }

    /// Its address on the backbone; edges only.
    pub fn backbone_address(self) -> Option<Ipv4Addr> {
        match self {
            Host::Edge(number) => Some(Ipv4Addr::new(10, 255, 0, number)),
            Host::Net | Host::Backbone | Host::Lan | Host::Controller | Host::Node(_) => None,
        }
    }

    /// The router's address on the link to this host.
    pub fn gateway(self) -> Option<Ipv4Addr> {
        self.address().map(|address| Ipv4Addr::from_bits(address.to_bits() - 1))
    }

    /// One-way delay between this host and `net`.
    pub fn delay(self) -> Duration {
        match self {
            Host::Net | Host::Backbone | Host::Lan => Duration::ZERO,
            Host::Controller => Duration::from_millis(10),
            Host::Edge(1) => Duration::from_millis(5),
            Host::Edge(2) => Duration::from_millis(12),
            Host::Edge(number) => Duration::from_millis(25 + 5 * u64::from(number - 3)),
            Host::Node(_) => Duration::from_millis(1),
        }
    }
}

/// What the names of all namespaces of a world begin with.
pub fn netns_prefix(world: &WorldName) -> String {
    format!("hfl-{world}-")
}

/// How one host is set up, beyond its interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostSetup {
    /// Lines of `ip -batch` to run in its namespace.
    pub ip: Vec<String>,
    /// Kernel settings of its namespace: path below `/proc/sys`, value.
    pub sysctls: Vec<(String, String)>,
}

/// Hosts and links of a world.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    /// The world.
    pub world: WorldName,
    /// Whether nodes get their addresses from their own managers.
    pub nodes_set_themselves_up: bool,
    /// Every host.
    pub hosts: Vec<Host>,
    /// Every link, with both ends.
    pub links: Vec<Link>,
}

impl Topology {
    /// The topology of this world.
    pub fn of(spec: &WorldSpec) -> Self {
        let edges = (1..=spec.edges).map(Host::Edge);
        let leaves = [Host::Controller]
            .into_iter()
            .chain(edges.clone())
            .chain((1..=spec.nodes).map(Host::Node));
        let link = |name: String, host: Host, interface: &str, to: Host, delay| Link {
            a: End { netns: host.netns(&spec.name), interface: interface.into() },
            b: End { netns: to.netns(&spec.name), interface: host.to_string() },
            mtu: MTU,
            // Each link has its own sequence of losses, the same in every run.
            model: LinkModel { seed: seed(&name), ..LinkModel::delayed(delay) },
            name,
        };
        let wan =
            leaves.clone().map(|host| link(host.to_string(), host, WAN, Host::Net, host.delay()));
        let backbone_delay = Duration::from_millis(2);
        let backbone = edges
            .map(|host| link(format!("{host}-bb"), host, BACKBONE, Host::Backbone, backbone_delay));
        let lan = spec.site_nodes > 1;
        let site = spec.first_site().filter(|_| lan).map(Host::Node);
        let lan_delay = Duration::from_micros(100);
        let site = site.map(|host| link(format!("{host}-lan"), host, LAN, Host::Lan, lan_delay));
        Topology {
            world: spec.name.clone(),
            nodes_set_themselves_up: spec.nodes_set_themselves_up,
            links: wan.chain(backbone).chain(site).collect(),
            hosts: [Host::Net, Host::Backbone]
                .into_iter()
                .chain(lan.then_some(Host::Lan))
                .chain(leaves)
                .collect(),
        }
    }

    /// What has to be set up for `links` (and the hosts themselves) once the interfaces are there.
    /// Only what belongs to these links is touched, so links can be added to a running world.
    pub fn setup(&self, hosts: &[Host], links: &[Link]) -> BTreeMap<Host, HostSetup> {
        let mut setups: BTreeMap<Host, HostSetup> = BTreeMap::new();
        for host in hosts {
            setups.insert(*host, own_setup(*host));
        }
        for host in &self.hosts {
            let name = host.to_string();
            if links.iter().any(|link| link.name == name) {
                let itself = self.nodes_set_themselves_up && matches!(host, Host::Node(_));
                wan_setup(*host, itself, &mut setups);
            }
            if links.iter().any(|link| link.name == format!("{name}-bb")) {
                backbone_setup(*host, &mut setups);
            }
            if links.iter().any(|link| link.name == format!("{name}-lan")) {
                setups.entry(Host::Lan).or_default().ip.push(plugged_in(*host));
            }
        }
        setups
    }
}

fn own_setup(host: Host) -> HostSetup {
    let on = |name: &str| (name.to_owned(), "1".to_owned());
    let lo = "link set dev lo up".to_owned();
    match host {
        Host::Net => HostSetup { ip: vec![lo], sysctls: vec![on("net/ipv4/ip_forward")] },
        Host::Backbone | Host::Lan => HostSetup {
            ip: vec![
                lo,
                format!("link add {SWITCH} type bridge"),
                format!("link set dev {SWITCH} up"),
            ],
            sysctls: vec![],
        },
        Host::Edge(_) => HostSetup {
            ip: vec![lo, format!("address replace {SERVICE}/32 dev lo")],
            sysctls: vec![on("net/ipv4/ip_forward")],
        },
        // A node routes for its site.
        Host::Node(_) => HostSetup { ip: vec![lo], sysctls: vec![on("net/ipv4/ip_forward")] },
        Host::Controller => HostSetup { ip: vec![lo], sysctls: vec![] },
    }
}

fn wan_setup(host: Host, itself: bool, setups: &mut BTreeMap<Host, HostSetup>) {
    let (Some(address), Some(gateway)) = (host.address(), host.gateway()) else { return };
    if !itself {
        setups.entry(host).or_default().ip.extend([
            format!("address replace {address}/30 dev {WAN}"),
            format!("route replace default via {gateway}"),
        ]);
    }
    setups
        .entry(Host::Net)
        .or_default()
        .ip
        .push(format!("address replace {gateway}/30 dev {host}"));
}

fn backbone_setup(host: Host, setups: &mut BTreeMap<Host, HostSetup>) {
    let Some(address) = host.backbone_address() else { return };
    setups.entry(host).or_default().ip.push(format!("address replace {address}/24 dev {BACKBONE}"));
    setups.entry(Host::Backbone).or_default().ip.push(plugged_in(host));
}

fn plugged_in(host: Host) -> String {
    format!("link set dev {host} master {SWITCH}")
}

/// The network of the backbone.
pub fn backbone_net() -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, 255, 0, 0), 24)
}

/// FNV-1a over the name: any spread will do, but the same on every machine.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn spec() -> impl Strategy<Value = WorldSpec> {
        (0u8..=99, 0u8..=99, 1u8..=99).prop_map(|(edges, nodes, site_nodes)| WorldSpec {
            edges,
            nodes,
            site_nodes,
            ..WorldSpec::default()
        })
    }

    proptest! {
        #[test]
        fn addresses_names_and_interfaces_are_unique(spec in spec()) {
            let topology = Topology::of(&spec);
            let addresses: Vec<_> = topology.hosts.iter().flat_map(|h| [h.address(), h.gateway(), h.backbone_address()]).flatten().collect();
            prop_assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), addresses.len());
            let ends: Vec<_> = topology.links.iter().flat_map(|l| [&l.a, &l.b]).collect();
            prop_assert_eq!(ends.iter().collect::<BTreeSet<_>>().len(), ends.len());
            // IFNAMSIZ is 16 with the final zero.
            prop_assert!(ends.iter().all(|end| end.interface.len() <= 15));
        }

        #[test]
        fn host_names_read_back(spec in spec()) {
            for host in Topology::of(&spec).hosts {
                prop_assert_eq!(host.to_string().parse::<Host>(), Ok(host));
            }
        }

        #[test]
        fn nearer_edges_come_first(edge in 1u8..99) {
            prop_assert!(Host::Edge(edge).delay() < Host::Edge(edge + 1).delay());
        }
    }

    #[test]
    fn setting_up_a_new_link_leaves_the_others_alone() {
        let topology = Topology::of(&WorldSpec { nodes: 2, ..WorldSpec::default() });
        let new: Vec<Link> =
            topology.links.iter().filter(|l| l.name == "node-2").cloned().collect();
        let setups = topology.setup(&[Host::Node(2)], &new);
        assert_eq!(setups.keys().copied().collect::<Vec<_>>(), [Host::Net, Host::Node(2)]);
        assert_eq!(setups[&Host::Net].ip, ["address replace 198.19.2.1/30 dev node-2"]);
    }

    #[test]
    fn a_network_of_the_site_is_there_for_those_who_share_it() {
        let links = |nodes, site_nodes| {
            let topology = Topology::of(&WorldSpec { nodes, site_nodes, ..WorldSpec::default() });
            let names = topology.links.iter().map(|link| link.name.clone());
            names.filter(|name| name.ends_with("-lan")).collect::<Vec<_>>()
        };
        assert_eq!(links(3, 1), [] as [&str; 0]);
        assert_eq!(links(3, 2), ["node-1-lan", "node-2-lan"]);
        let topology = Topology::of(&WorldSpec { nodes: 2, site_nodes: 2, ..WorldSpec::default() });
        let setups = topology.setup(&[Host::Lan], &topology.links);
        let lan = &setups[&Host::Lan].ip;
        assert_eq!(lan.last().unwrap(), "link set dev node-2 master br0");
    }

    #[test]
    fn what_is_no_host_is_told() {
        for bad in ["re-0", "re-", "node-x", "moon", "node-256"] {
            assert_eq!(bad.parse::<Host>(), Err(UnknownHost(bad.into())));
        }
    }
}
