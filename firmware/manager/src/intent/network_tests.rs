use super::*;
use holdfast_api::resources::NodeConfigSpec;
use holdfast_api::tunnel::{BfdTimers, TunnelIntent};
use hw_profiles::facts::NicKind;
use netd::Ownership;
use std::sync::Arc;

fn nic(name: &str, pci: &str) -> Nic {
    Nic {
        name: name.into(),
        pci_address: Some(pci.into()),
        driver: Some("igc".into()),
        speed_mbps: Some(1000),
        mac: Some("02:00:00:00:00:01".into()),
        kind: NicKind::Ethernet,
    }
}

fn with_ports(names: &[&str]) -> Inputs {
    let mut inputs = Inputs::for_tests();
    let nics =
        names.iter().enumerate().map(|(at, name)| nic(name, &format!("0000:0{}:00.0", at + 1)));
    let mut facts = (*inputs.facts).clone();
    facts.nics = nics.collect();
    inputs.facts = Arc::new(facts);
    inputs
}

fn desired(inputs: &mut Inputs, spec: NodeConfigSpec) {
    inputs.desired = Some(Arc::new(spec));
}

fn tunnels(prefix: &str) -> TunnelIntent {
    TunnelIntent {
        overlay_address: "100.64.0.1".parse().unwrap(),
        site_prefixes: vec![prefix.parse().unwrap()],
        routes: Vec::new(),
        candidates: Vec::new(),
        bfd: BfdTimers::default(),
        want: 2,
    }
}

fn local(inputs: &mut Inputs, network: NetworkIntent) {
    let mut settings = (*inputs.settings).clone();
    settings.network = network;
    inputs.settings = Arc::new(settings);
}

fn port(name: &str, address: &str) -> LinkIntent {
    LinkIntent {
        name: name.into(),
        addresses: vec![address.parse().unwrap()],
        ..LinkIntent::default()
    }
}

#[test]
fn a_box_that_is_plugged_in_asks_a_dhcp_server_outside() {
    let wanted = wanted(&with_ports(&["eth0"]));
    let asking: Vec<_> = wanted.dhcp.iter().map(LinkName::as_str).collect();
    assert_eq!(asking, ["eth0"]);
    assert_eq!(wanted.problems, []);
}

#[test]
fn a_static_port_does_not_ask() {
    let mut inputs = with_ports(&["eth0"]);
    local(
        &mut inputs,
        NetworkIntent { links: vec![port("eth0", "192.0.2.10/24")], routes: Vec::new() },
    );
    let wanted = wanted(&inputs);
    assert!(wanted.dhcp.is_empty());
    assert_eq!(wanted.network.addresses.len(), 1);
}

#[test]
fn a_gateway_is_found_on_the_link_that_covers_it_or_refused() {
    let mut inputs = with_ports(&["eth0"]);
    let route = |via: &str| RouteIntent {
        prefix: "0.0.0.0/0".parse().unwrap(),
        via: Some(via.parse().unwrap()),
        link: None,
        metric: None,
    };
    let links = vec![port("eth0", "192.0.2.10/24")];
    local(&mut inputs, NetworkIntent { links: links.clone(), routes: vec![route("192.0.2.1")] });
    let good = wanted(&inputs);
    assert_eq!(good.problems, []);
    assert_eq!(good.network.routes.iter().next().unwrap().link().unwrap().as_str(), "eth0");
    local(&mut inputs, NetworkIntent { links, routes: vec![route("198.51.100.1")] });
    let bad = wanted(&inputs);
    assert_eq!(bad.problems[0].reason, Reason::ConfigInvalid);
    assert!(bad.network.routes.is_empty());
}

#[test]
fn the_controller_speaks_of_one_port_and_the_other_stays() {
    let mut inputs = with_ports(&["eth0", "eth1"]);
    let links = vec![port("eth0", "192.0.2.10/24"), port("eth1", "198.51.100.1/24")];
    local(&mut inputs, NetworkIntent { links, routes: Vec::new() });
    let network = NetworkIntent { links: vec![port("eth1", "203.0.113.1/24")], routes: Vec::new() };
    desired(&mut inputs, NodeConfigSpec { network: Some(network), ..NodeConfigSpec::default() });
    let addresses: Vec<String> =
        wanted(&inputs).network.addresses.iter().map(|a| a.net.to_string()).collect();
    assert_eq!(addresses, ["192.0.2.10/24", "203.0.113.1/24"]);
}

#[test]
fn a_site_prefix_gets_its_first_address_on_the_lan_bridge() {
    let mut inputs = with_ports(&["eth0"]);
    desired(
        &mut inputs,
        NodeConfigSpec { tunnels: Some(tunnels("10.128.7.0/24")), ..NodeConfigSpec::default() },
    );
    let wanted = wanted(&inputs);
    let lan = wanted.network.links.get(&LAN.parse().unwrap()).unwrap();
    assert_eq!(lan.kind, LinkKind::Bridge);
    assert!(
        wanted
            .network
            .addresses
            .iter()
            .any(|a| a.link.as_str() == LAN && a.net.to_string() == "10.128.7.1/24")
    );
    assert!(Ownership::host().owns_link(&lan.name), "it must be ours to make");
}

#[test]
fn a_node_has_the_address_in_the_lan_that_the_controller_gives_it() {
    let mut inputs = with_ports(&["eth0"]);
    let lan_addresses = vec!["10.128.7.3/24".parse().unwrap()];
    let tunnels = Some(tunnels("10.128.7.0/24"));
    desired(&mut inputs, NodeConfigSpec { lan_addresses, tunnels, ..NodeConfigSpec::default() });
    let addresses: Vec<String> = wanted(&inputs)
        .network
        .addresses
        .iter()
        .filter(|a| a.link.as_str() == LAN)
        .map(|a| a.net.to_string())
        .collect();
    assert_eq!(addresses, ["10.128.7.3/24"]);
}

#[test]
fn bad_names_are_reported_and_the_rest_is_wanted() {
    let mut inputs = with_ports(&["eth0"]);
    let mut bond = LinkIntent { name: "hf-bond".into(), ..LinkIntent::default() };
    bond.make = Some(LinkMake::Bond { mode: "sometimes".into() });
    let links =
        vec![port("a name with spaces", "192.0.2.1/24"), bond, port("eth0", "192.0.2.10/24")];
    local(&mut inputs, NetworkIntent { links, routes: Vec::new() });
    let wanted = wanted(&inputs);
    assert_eq!(
        wanted.problems.iter().map(|p| p.reason).collect::<Vec<_>>(),
        [Reason::ConfigInvalid; 2]
    );
    assert_eq!(wanted.network.addresses.len(), 1);
}
