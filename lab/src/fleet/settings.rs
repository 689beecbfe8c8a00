//! The files that a world's daemons find: pure text.

use crate::world::Host;
use crate::world::topology::{CONTROLLER_PORT, SERVICE_NET};
use std::path::Path;

/// UDP port where an edge ends WireGuard.
pub const WIREGUARD_PORT: u16 = 51820;
/// UDP port where an edge answers probes.
pub const PROBE_PORT: u16 = 51821;
/// UDP port of an edge on the backbone.
pub const BACKBONE_PORT: u16 = 51822;

/// Address of the controller as everybody in the world knows it.
pub fn controller_url() -> String {
    let address = Host::Controller.address().map(|address| address.to_string()).unwrap_or_default();
    format!("https://{address}:{CONTROLLER_PORT}")
}

/// Place of an edge's settings below its root.
pub const EDGE_SETTINGS: &str = "etc/holdfast/edge.toml";
/// Place of an edge's token below its root.
pub const EDGE_TOKEN: &str = "etc/holdfast/token";

/// Settings of the edge `host`.
pub fn edge(host: Host) -> String {
    let address = host.address().map(|address| address.to_string()).unwrap_or_default();
    let backbone = host.backbone_address().map(|address| address.to_string()).unwrap_or_default();
    // Every edge is a failure domain of its own: they fail one by one.
    format!(
        "name = \"{host}\"\n\
         controller = \"{}\"\n\
         token_file = \"/{EDGE_TOKEN}\"\n\
         region = \"lab-{host}\"\n\
         failure_domain = \"{host}\"\n\
         endpoint = \"{address}:{WIREGUARD_PORT}\"\n\
         probe = \"{address}:{PROBE_PORT}\"\n\
         backbone = \"{backbone}:{BACKBONE_PORT}\"\n\
         routes = [\"{SERVICE_NET}\"]\n",
        controller_url()
    )
}

/// Place of the laboratory's fragment of a node's configuration below its root.
pub const NODE_SETTINGS: &str = "etc/holdfast/config.d/50-lab.toml";

/// A node's fragment: its address outside, as an installer would have noted it, and which program
/// is k3s there. The laboratory starts `tunneld` itself, as systemd would.
pub fn node(host: Host, k3s: Option<&Path>) -> String {
    let text =
        |address: Option<std::net::Ipv4Addr>| address.map(|a| a.to_string()).unwrap_or_default();
    let (address, gateway) = (text(host.address()), text(host.gateway()));
    let kubernetes = k3s.map_or_else(String::new, |program| {
        let program = program.display().to_string();
        format!("[kubernetes]\nstart = \"child\"\nprogram = {program:?}\n\n")
    });
    format!(
        "hostname = \"{host}\"\n\n\
         {kubernetes}\
         [tunneld]\nstart = \"external\"\n\n\
         [[network.links]]\nrole = \"outside\"\naddresses = [\"{address}/30\"]\n\n\
         [[network.routes]]\nprefix = \"0.0.0.0/0\"\nvia = \"{gateway}\"\n"
    )
}

/// The name of a site, by its number in the world.
pub fn site(number: u8) -> String {
    format!("site-{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_with_kubernetes_is_told_of_it() {
        assert!(!node(Host::Node(1), None).contains("kubernetes"));
        let text = node(Host::Node(1), Some(Path::new("/bin/lab-k3s")));
        assert!(text.contains("\n[kubernetes]\nstart = \"child\"\nprogram = \"/bin/lab-k3s\"\n"));
        let table = text.find("[tunneld]");
        assert!(table > text.find("[kubernetes]"), "{text}");
    }

    #[test]
    fn edges_tell_where_they_are_on_both_sides() {
        let text = edge(Host::Edge(2));
        for line in [
            "endpoint = \"198.18.2.2:51820\"",
            "backbone = \"10.255.0.2:51822\"",
            "controller = \"https://198.18.0.2:6443\"",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
