//! What the laws do not say: which error, which order.

use super::*;
use crate::error::PlanError;
use holdfast_api::Reason;

fn host_plan(want: &Network, kernel: &FakeKernel) -> Result<Vec<Step>, PlanError> {
    let owner = Ownership::host();
    plan(want, &kernel.observe(&owner, want), &owner)
}

fn with_link(link: Link) -> Network {
    let mut want = Network::default();
    want.links.insert(link);
    want
}

fn bridge(text: &str) -> Link {
    Link::new(name(text), LinkKind::Bridge)
}

#[test]
fn a_missing_port_is_named_and_can_be_left_out() {
    let kernel = FakeKernel::with_ports(&["eth0"]);
    let mut want = with_link(Link::new(name("eth7"), LinkKind::Physical));
    want.links.insert(Link::new(name("hf-vlan7"), LinkKind::Vlan { parent: name("eth7"), id: 7 }));
    want.addresses.insert(Address::new(name("hf-vlan7"), "10.0.0.1/24".parse().unwrap()));
    want.links.insert(bridge("hf-br0"));
    let error = host_plan(&want, &kernel).unwrap_err();
    assert!(
        matches!(&error, PlanError::LinkMissing { link, .. } if *link == name("eth7")),
        "{error}"
    );
    assert_eq!((error.reason(), error.retryable()), (Reason::NetLinkMissing, true));

    want.remove_link(&name("eth7"));
    let steps = host_plan(&want, &kernel).unwrap();
    assert_eq!(listing(&steps), "create link hf-br0 (bridge)\nset link hf-br0 up\n");
}

#[test]
fn what_is_outside_of_ones_own_is_refused() {
    let kernel = FakeKernel::with_ports(&["eth0"]);
    let refused = |want: &Network| {
        let error = host_plan(want, &kernel).unwrap_err();
        assert!(matches!(error, PlanError::NotOurs { .. }), "{error}");
        assert_eq!(error.reason(), Reason::ConfigInvalid);
    };
    refused(&with_link(bridge("br0")));
    refused(&with_link(bridge("hf-wg0")));
    let mut want = Network::default();
    want.rules.insert(Rule::new(7200, Family::V4, 7250));
    refused(&want);
    let mut want = Network::default();
    want.nexthops.insert(Nexthop::dev(0x4846_0000, Family::V4, name("eth0")));
    refused(&want);
    let mut want = Network::default();
    want.routes.insert(Route::new(7200, "10.0.0.0/8".parse().unwrap(), RouteTarget::Blackhole));
    refused(&want);
    let mut want = Network::default();
    want.addresses.insert(Address::new(name("hf-wg0"), "10.0.0.1/8".parse().unwrap()));
    refused(&want);
}

#[test]
fn a_route_of_others_in_the_place_is_a_conflict() {
    let mut kernel = FakeKernel::with_ports(&["eth0"]);
    kernel.foreign();
    let mut want = Network::default();
    let route =
        Route::new(MAIN_TABLE, "0.0.0.0/0".parse().unwrap(), RouteTarget::Dev(name("eth0")));
    want.routes.insert(route.clone());
    assert_eq!(host_plan(&want, &kernel), Err(PlanError::RouteTaken { key: route.key(), mark: 4 }));
    want = Network::default();
    want.routes.insert(route.with_metric(50));
    assert_eq!(host_plan(&want, &kernel).unwrap().len(), 1);
}

#[test]
fn a_wish_that_contradicts_itself_is_refused() {
    let kernel = FakeKernel::with_ports(&["eth0"]);
    let nonsense = |want: &Network, part: &str| {
        let error = host_plan(want, &kernel).unwrap_err();
        assert!(
            matches!(&error, PlanError::Contradiction { why, .. } if why.contains(part)),
            "{error}"
        );
    };
    nonsense(&with_link(bridge("hf-br0").in_controller(name("hf-br0"))), "rests on itself");
    let mut want = Network::default();
    want.nexthops.insert(Nexthop::group(0x4846_8000, []));
    nonsense(&want, "at least one member");
    want = Network::default();
    want.nexthops.insert(Nexthop::dev(0x4846_8000, Family::V4, name("eth0")));
    want.routes.insert(Route::new(
        7250,
        "::/0".parse().unwrap(),
        RouteTarget::Nexthop(0x4846_8000),
    ));
    nonsense(&want, "IPv4 nexthop");
    want = Network::default();
    want.routes.insert(Route::new(
        7250,
        "0.0.0.0/0".parse().unwrap(),
        RouteTarget::Nexthop(0x4846_8000),
    ));
    let error = host_plan(&want, &kernel).unwrap_err();
    assert!(matches!(error, PlanError::NexthopUnknown { id: 0x4846_8000, .. }), "{error}");
}

#[test]
fn a_link_of_another_kind_is_made_anew_with_all_that_rests_on_it() {
    let mut kernel = FakeKernel::with_ports(&["eth0"]);
    let mut want = with_link(bridge("hf-x"));
    want.links.insert(Link::new(name("hf-vlan7"), LinkKind::Vlan { parent: name("hf-x"), id: 7 }));
    want.addresses.insert(Address::new(name("hf-x"), "10.0.0.1/24".parse().unwrap()));
    want.nexthops.insert(Nexthop::dev(0x4846_8001, Family::V4, name("hf-vlan7")));
    want.nexthops.insert(Nexthop::active(0x4846_8002, 0x4846_8001));
    want.routes.insert(Route::new(
        7250,
        "10.9.0.0/16".parse().unwrap(),
        RouteTarget::Nexthop(0x4846_8002),
    ));
    let steps = host_plan(&want, &kernel).unwrap();
    apply(&mut kernel, &steps);

    want.links.insert(Link::new(name("hf-x"), LinkKind::Macvlan { parent: name("eth0") }));
    let steps = host_plan(&want, &kernel).unwrap();
    assert_eq!(
        listing(&steps),
        "delete link hf-vlan7 (vlan 7 on hf-x)\n\
         delete link hf-x (bridge)\n\
         create link hf-x (macvlan on eth0)\n\
         set link hf-x up\n\
         create link hf-vlan7 (vlan 7 on hf-x)\n\
         set link hf-vlan7 up\n\
         add address 10.0.0.1/24 on hf-x\n\
         create nexthop 1212579841 on hf-vlan7 (IPv4)\n\
         create nexthop 1212579842 over 1212579841\n\
         add route 10.9.0.0/16 in table 7250 over nexthop 1212579842\n"
    );
    apply(&mut kernel, &steps);
    assert_eq!(host_plan(&want, &kernel), Ok(vec![]));
}

#[test]
fn the_ports_of_a_controller_that_is_made_anew_are_put_back() {
    let mut kernel = FakeKernel::with_ports(&["eth0"]);
    let mut want = with_link(bridge("hf-x"));
    want.links.insert(Link::new(name("eth0"), LinkKind::Physical).in_controller(name("hf-x")));
    let steps = host_plan(&want, &kernel).unwrap();
    apply(&mut kernel, &steps);
    let bond = LinkKind::Bond { mode: BondMode::Lacp, miimon_ms: 100 };
    want.links.insert(Link::new(name("hf-x"), bond));
    let steps = host_plan(&want, &kernel).unwrap();
    apply(&mut kernel, &steps);
    assert_eq!(host_plan(&want, &kernel), Ok(vec![]), "after\n{}", listing(&steps));
}

#[test]
fn a_group_that_becomes_single_is_made_anew_with_its_routes() {
    let mut kernel = FakeKernel::with_ports(&["eth0"]);
    let mut want = Network::default();
    want.nexthops.insert(Nexthop::dev(0x4846_8001, Family::V4, name("eth0")));
    want.nexthops.insert(Nexthop::active(0x4846_8002, 0x4846_8001));
    want.routes.insert(Route::new(
        7250,
        "10.9.0.0/16".parse().unwrap(),
        RouteTarget::Nexthop(0x4846_8002),
    ));
    let steps = host_plan(&want, &kernel).unwrap();
    apply(&mut kernel, &steps);
    want.nexthops.insert(Nexthop::dev(0x4846_8002, Family::V4, name("eth0")));
    let steps = host_plan(&want, &kernel).unwrap();
    assert_eq!(steps.len(), 3, "{}", listing(&steps));
    apply(&mut kernel, &steps);
    assert_eq!(host_plan(&want, &kernel), Ok(vec![]));
}

#[test]
fn an_address_that_others_have_set_is_as_good_as_ours_and_stays_theirs() {
    let mut kernel = FakeKernel::with_ports(&["eth0"]);
    kernel.foreign();
    let mut want = Network::default();
    want.addresses.insert(Address::new(name("eth0"), "198.51.100.7/24".parse().unwrap()));
    assert_eq!(host_plan(&want, &kernel), Ok(vec![]));
    assert_eq!(host_plan(&Network::default(), &kernel), Ok(vec![]));
}

#[test]
fn a_port_goes_down_to_enter_a_bond() {
    let mut kernel = FakeKernel::with_ports(&["eth0"]);
    let bond = LinkKind::Bond { mode: BondMode::ActiveBackup, miimon_ms: 100 };
    let mut want = with_link(Link::new(name("hf-bond0"), bond));
    want.links.insert(Link::new(name("eth0"), LinkKind::Physical).in_controller(name("hf-bond0")));
    let steps = host_plan(&want, &kernel).unwrap();
    assert_eq!(
        listing(&steps),
        "create link hf-bond0 (bond)\nset link hf-bond0 up\nset link eth0 down\n\
         make link eth0 a port of hf-bond0\nset link eth0 up\n"
    );
    apply(&mut kernel, &steps);
    assert_eq!(host_plan(&want, &kernel), Ok(vec![]));
}

#[test]
fn a_port_that_a_bond_gives_back_is_raised_again() {
    let mut kernel = FakeKernel::with_ports(&["eth0"]);
    let bond = LinkKind::Bond { mode: BondMode::ActiveBackup, miimon_ms: 100 };
    let port = Link::new(name("eth0"), LinkKind::Physical);
    let mut bonded = with_link(Link::new(name("hf-x"), bond));
    bonded.links.insert(port.clone().in_controller(name("hf-x")));
    let mut bridged = with_link(bridge("hf-x"));
    bridged.links.insert(port.clone().in_controller(name("hf-x")));
    let alone = with_link(port);
    for want in [&bonded, &alone, &bonded, &bridged, &bonded] {
        let steps = host_plan(want, &kernel).unwrap();
        apply(&mut kernel, &steps);
        assert_eq!(host_plan(want, &kernel), Ok(vec![]), "after\n{}", listing(&steps));
    }
}
