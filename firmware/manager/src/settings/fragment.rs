//! What one configuration file may say.

use holdfast_api::resources::{LinkIntent, LinkMake, RouteIntent};
use ipnet::IpNet;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// One file. Every key is optional; an unknown one is an error.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fragment {
    /// Address of the controller, `https://host:port`.
    pub controller: Option<String>,
    /// Name of a hardware profile to use whatever the hardware says.
    pub profile: Option<String>,
    /// Name of the device for itself; the host name when absent.
    pub hostname: Option<String>,
    /// Seconds between polls of the controller while it does not push, 1 to 86,400.
    pub poll_secs: Option<u64>,
    /// Seconds between passes when nothing happens, 1 to 3,600.
    pub pass_secs: Option<u64>,
    /// The host's network until the controller says otherwise.
    pub network: Option<NetworkFragment>,
    /// The tunnel daemon.
    pub tunneld: Option<TunneldFragment>,
    /// Kubernetes.
    pub kubernetes: Option<KubernetesFragment>,
}

/// Ports, virtual links and routes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkFragment {
    /// Links.
    #[serde(default)]
    pub links: Vec<LinkFragment>,
    /// Static routes.
    #[serde(default)]
    pub routes: Vec<RouteFragment>,
}

/// A [`LinkIntent`] as people write it: what the controller sends may have fields that we do not
/// know, what a person writes may not.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkFragment {
    /// Interface name, or empty with a `role`.
    pub name: String,
    /// Role of the port in the hardware profile.
    pub role: Option<String>,
    /// What to make.
    pub make: Option<LinkMake>,
    /// Static addresses.
    pub addresses: Vec<IpNet>,
    /// Ask a DHCP server.
    pub dhcp: bool,
    /// Bytes.
    pub mtu: Option<u32>,
    /// Bridge or bond that it belongs to.
    pub master: Option<String>,
    /// Settings of the link.
    pub sysctls: BTreeMap<String, String>,
}

impl From<LinkFragment> for LinkIntent {
    fn from(link: LinkFragment) -> Self {
        let LinkFragment { name, role, make, addresses, dhcp, mtu, master, sysctls } = link;
        LinkIntent { name, role, make, addresses, dhcp, mtu, master, sysctls }
    }
}

/// A [`RouteIntent`] as people write it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteFragment {
    /// Where to.
    pub prefix: IpNet,
    /// Gateway.
    pub via: Option<IpAddr>,
    /// Interface name or role.
    pub link: Option<String>,
    /// Priority; lower wins.
    pub metric: Option<u32>,
}

impl From<RouteFragment> for RouteIntent {
    fn from(route: RouteFragment) -> Self {
        let RouteFragment { prefix, via, link, metric } = route;
        RouteIntent { prefix, via, link, metric }
    }
}

/// How the tunnel daemon is started.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunneldFragment {
    /// `auto`, `systemd`, `child` or `external`.
    pub start: Option<String>,
    /// Program to start as a child; found beside `holdfastd` when absent.
    pub program: Option<std::path::PathBuf>,
    /// The pages that packets of tunnels in userspace are in.
    pub packet_pages: Option<holdfast_api::tunnel::Pages>,
}

/// How Kubernetes is started.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesFragment {
    /// `auto`, `systemd`, `child`, or `off`: it is left alone whatever the controller asks for.
    pub start: Option<String>,
    /// The distribution's program; `/usr/local/bin/k3s` when absent. A version that the controller
    /// names goes before it.
    pub program: Option<std::path::PathBuf>,
    /// Address on which other machines of the site can ask for the reboot lock (FleetLock),
    /// `ADDRESS:PORT`; only the local socket answers when absent.
    pub fleet_lock: Option<std::net::SocketAddr>,
}
