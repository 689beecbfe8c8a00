//! The host's network, as `netd` wants it.
//!
//! The controller's word, when it gives one, replaces the local settings link by link: a node whose
//! uplink is configured on the spot stays reachable when the controller speaks of other ports only.
//! A port with the role `outside` that nobody speaks of asks a DHCP server, so that a box can be
//! plugged in anywhere. The bridge `hf-lan`, which joins the ports
//! with the role `inside`, has the node's addresses in the site's LAN.

use crate::inputs::Inputs;
use holdfast_api::Reason;
use holdfast_api::local::Problem;
use holdfast_api::resources::{LinkIntent, LinkMake, NetworkIntent, RouteIntent};
use hw_profiles::facts::Nic;
use hw_profiles::{Role, resolve_nics};
use ipnet::IpNet;
use netd::model::MAIN_TABLE;
use netd::{
    Address, BondMode, Family, Link, LinkKind, LinkName, LinkSysctl, Network, Peer, Route,
    RouteTarget,
};
use std::collections::{BTreeMap, BTreeSet};

/// The bridge towards the site's machines.
pub const LAN: &str = "hf-lan";

/// What is wanted, and on which links a DHCP server is asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// For `netd`.
    pub network: Network,
    /// Links that ask a DHCP server.
    pub dhcp: BTreeSet<LinkName>,
    /// What of the intent cannot be had.
    pub problems: Vec<Problem>,
}

type Roles = BTreeMap<Role, Vec<Nic>>;

/// Brings settings, desired state, profile and leases together.
pub fn wanted(inputs: &Inputs) -> Wanted {
    let mut wanted = Wanted::default();
    let roles = match resolve_nics(&inputs.profile, &inputs.facts) {
        Ok(roles) => roles,
        Err(error) => {
            wanted.problems.push(Problem::new(error.reason(), error.to_string()));
            Roles::new()
        }
    };
    let desired = inputs.desired.as_deref();
    let intent =
        layered(&inputs.settings.network, desired.and_then(|spec| spec.network.as_ref()), &roles);
    let intent = with_defaults(intent, &roles, lan_addresses(inputs));
    for link in &intent.links {
        add_link(&mut wanted, link, &roles);
    }
    for route in &intent.routes {
        match static_route(route, &roles, &wanted.network) {
            Ok(route) => drop(wanted.network.routes.insert(route)),
            Err(problem) => wanted.problems.push(problem),
        }
    }
    for (link, lease) in &inputs.leases {
        if wanted.dhcp.contains(link) {
            wanted.network.merge(lease.clone());
        }
    }
    wanted
}

/// The node's addresses in the LAN: those that the controller gives it, else the first of each
/// prefix that is behind it.
fn lan_addresses(inputs: &Inputs) -> Vec<IpNet> {
    let Some(desired) = inputs.desired.as_deref() else { return Vec::new() };
    if !desired.lan_addresses.is_empty() {
        return desired.lan_addresses.clone();
    }
    let prefixes = desired.tunnels.iter().flat_map(|intent| &intent.site_prefixes);
    prefixes.copied().filter_map(first_address).collect()
}

fn layered(local: &NetworkIntent, global: Option<&NetworkIntent>, roles: &Roles) -> NetworkIntent {
    let Some(global) = global else { return local.clone() };
    let names = |link: &LinkIntent| link_names(link, roles);
    let kept = local.links.iter().filter(|link| {
        !global.links.iter().any(|other| names(other).iter().any(|name| names(link).contains(name)))
    });
    let routes = local
        .routes
        .iter()
        .filter(|route| !global.routes.iter().any(|other| other.prefix == route.prefix));
    NetworkIntent {
        links: kept.chain(&global.links).cloned().collect(),
        routes: routes.chain(&global.routes).cloned().collect(),
    }
}

fn with_defaults(mut intent: NetworkIntent, roles: &Roles, lan: Vec<IpNet>) -> NetworkIntent {
    let spoken_of: BTreeSet<String> =
        intent.links.iter().flat_map(|link| link_names(link, roles)).collect();
    let silent = |role: Role| {
        let ports = roles.get(&role).into_iter().flatten();
        ports
            .map(|nic| nic.name.clone())
            .filter(|name| !spoken_of.contains(name))
            .collect::<Vec<_>>()
    };
    let outside = silent(Role::Outside);
    let inside = silent(Role::Inside);
    intent.links.extend(outside.into_iter().map(|name| LinkIntent {
        name,
        dhcp: true,
        ..LinkIntent::default()
    }));
    if !lan.is_empty() && !spoken_of.contains(LAN) {
        intent.links.push(LinkIntent {
            name: LAN.into(),
            make: Some(LinkMake::Bridge),
            addresses: lan,
            ..LinkIntent::default()
        });
        intent.links.extend(inside.into_iter().map(|name| LinkIntent {
            name,
            master: Some(LAN.into()),
            ..LinkIntent::default()
        }));
    }
    intent
}

fn first_address(prefix: IpNet) -> Option<IpNet> {
    let first = prefix.hosts().next()?;
    IpNet::new(first, prefix.prefix_len()).ok()
}

/// The interfaces that a link of the intent speaks of: itself, or all ports of its role.
fn link_names(link: &LinkIntent, roles: &Roles) -> Vec<String> {
    match &link.role {
        Some(role) => ports(role, roles).unwrap_or_default(),
        None => vec![link.name.clone()],
    }
}

fn ports(role: &str, roles: &Roles) -> Option<Vec<String>> {
    let role = Role::ALL.into_iter().find(|known| known.to_string() == role)?;
    Some(roles.get(&role).into_iter().flatten().map(|nic| nic.name.clone()).collect())
}

fn add_link(wanted: &mut Wanted, intent: &LinkIntent, roles: &Roles) {
    let names = link_names(intent, roles);
    if names.is_empty() {
        let role = intent.role.as_deref().unwrap_or_default();
        wanted
            .problems
            .push(Problem::new(Reason::NetLinkMissing, format!("no port has the role {role}")));
    }
    for name in names {
        if let Err(problem) = add_named(wanted, intent, &name, roles) {
            wanted.problems.push(problem);
        }
    }
}

fn add_named(
    wanted: &mut Wanted,
    intent: &LinkIntent,
    name: &str,
    roles: &Roles,
) -> Result<(), Problem> {
    let name = link_name(name)?;
    let mut link = Link::new(name.clone(), kind(intent.make.as_ref(), roles)?);
    link.mtu = intent.mtu;
    link.controller = intent.master.as_deref().map(link_name).transpose()?;
    for (key, value) in &intent.sysctls {
        link.sysctls.insert(sysctl(key)?, value.clone());
    }
    wanted.network.links.insert(link);
    wanted
        .network
        .addresses
        .extend(intent.addresses.iter().map(|net| Address::new(name.clone(), *net)));
    if intent.dhcp {
        wanted.dhcp.insert(name);
    }
    Ok(())
}

fn kind(make: Option<&LinkMake>, roles: &Roles) -> Result<LinkKind, Problem> {
    Ok(match make {
        None => LinkKind::Physical,
        Some(LinkMake::Bridge) => LinkKind::Bridge,
        Some(LinkMake::Vlan { parent, id }) => {
            LinkKind::Vlan { parent: one_link(parent, roles)?, id: *id }
        }
        Some(LinkMake::Bond { mode }) => LinkKind::Bond { mode: bond_mode(mode)?, miimon_ms: 100 },
        Some(LinkMake::Veth { peer }) => LinkKind::Veth { peer: Peer::Here(link_name(peer)?) },
    })
}

fn bond_mode(name: &str) -> Result<BondMode, Problem> {
    match name {
        "active-backup" => Ok(BondMode::ActiveBackup),
        "802.3ad" => Ok(BondMode::Lacp),
        other => Err(Problem::new(
            Reason::ConfigInvalid,
            format!("{other} is no mode of a bond; active-backup and 802.3ad are"),
        )),
    }
}

fn sysctl(key: &str) -> Result<LinkSysctl, Problem> {
    let invalid = || {
        Problem::new(
            Reason::ConfigInvalid,
            format!("{key} is no setting of a link; ipv4.NAME and ipv6.NAME are"),
        )
    };
    let (family, name) = key.split_once('.').ok_or_else(invalid)?;
    let family = match family {
        "ipv4" => Family::V4,
        "ipv6" => Family::V6,
        _ => return Err(invalid()),
    };
    LinkSysctl::new(family, name).map_err(|_| invalid())
}

fn static_route(intent: &RouteIntent, roles: &Roles, network: &Network) -> Result<Route, Problem> {
    let link = intent.link.as_deref().map(|link| one_link(link, roles)).transpose()?;
    let nowhere = || {
        let text = format!(
            "the route to {} names no link, and no static address covers its gateway",
            intent.prefix
        );
        Problem::new(Reason::ConfigInvalid, text)
    };
    let target = match intent.via {
        Some(gateway) => {
            let covering = || {
                network.addresses.iter().find(|a| a.net.contains(&gateway)).map(|a| a.link.clone())
            };
            RouteTarget::Via {
                gateway,
                link: link.or_else(covering).ok_or_else(nowhere)?,
                onlink: false,
            }
        }
        None => RouteTarget::Dev(link.ok_or_else(nowhere)?),
    };
    Ok(Route::new(MAIN_TABLE, intent.prefix, target).with_metric(intent.metric.unwrap_or(0)))
}

fn one_link(name_or_role: &str, roles: &Roles) -> Result<LinkName, Problem> {
    match ports(name_or_role, roles).and_then(|ports| ports.into_iter().next()) {
        Some(port) => link_name(&port),
        None => link_name(name_or_role),
    }
}

fn link_name(name: &str) -> Result<LinkName, Problem> {
    name.parse().map_err(|error: netd::model::LinkNameError| {
        Problem::new(Reason::ConfigInvalid, error.to_string())
    })
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
