//! Addresses of a site's nodes in its LAN: one of the site's prefix for each node as it joins, kept
//! for as long as the node belongs to the site.
//!
//! The node with the number n in its name gets the n-th, or the next that is free: like the name,
//! the address of a node that left is not given to the one that follows it, for the others' etcd
//! may know its old holder still.

use holdfast_api::resources::SiteNode;
use ipnet::IpNet;
use std::net::IpAddr;

/// The nodes of `site` with an address each, where the prefix has room. An address that is not of
/// the prefix (any more), or that an earlier node has, is given anew. Pure.
pub(super) fn addressed(site: &str, nodes: &[SiteNode], prefix: Option<IpNet>) -> Vec<SiteNode> {
    let Some(prefix) = prefix else { return nodes.to_vec() };
    let fits = |address: &IpAddr| {
        prefix.contains(address) && *address != prefix.network() && *address != prefix.broadcast()
    };
    let mut nodes = nodes.to_vec();
    let mut taken: Vec<IpAddr> = Vec::new();
    for node in &mut nodes {
        node.address = node.address.filter(|a| fits(a) && !taken.contains(a));
        taken.extend(node.address);
    }
    for node in nodes.iter_mut().filter(|node| node.address.is_none()) {
        let all = || prefix.hosts().filter(fits);
        let wished = all().skip(number(site, &node.name) - 1);
        node.address = wished.chain(all()).find(|address| !taken.contains(address));
        taken.extend(node.address);
    }
    nodes
}

/// The number in a node's name ([`super::admission::node_name`]), from 1.
fn number(site: &str, node: &str) -> usize {
    // Addresses are counted one by one.
    const MOST: usize = 1 << 16;
    let number = node.rsplit_once('-').filter(|_| node != site);
    let number = number.and_then(|(_, number)| number.parse().ok());
    number.filter(|number| (1..=MOST).contains(number)).unwrap_or(1)
}

/// What a node is told of it: with the length of the prefix.
pub(super) fn addresses(node: &SiteNode, prefix: Option<IpNet>) -> Vec<IpNet> {
    let net = |address, prefix: IpNet| IpNet::new(address, prefix.prefix_len()).ok();
    node.address
        .zip(prefix)
        .and_then(|(address, prefix)| net(address, prefix))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes(addresses: &[Option<&str>]) -> Vec<SiteNode> {
        let node = |(n, address): (usize, &Option<&str>)| SiteNode {
            name: format!("n{n}"),
            address: address.map(|a| a.parse().unwrap()),
            ..Default::default()
        };
        addresses.iter().enumerate().map(node).collect()
    }

    fn given(have: &[Option<&str>], prefix: &str) -> Vec<String> {
        let nodes = addressed("site", &nodes(have), Some(prefix.parse().unwrap()));
        nodes.iter().map(|n| n.address.map(|a| a.to_string()).unwrap_or_default()).collect()
    }

    #[test]
    fn each_gets_the_first_free_one_and_keeps_it() {
        assert_eq!(given(&[None, None], "10.1.0.0/24"), ["10.1.0.1", "10.1.0.2"]);
        let left = [Some("10.1.0.2"), None];
        assert_eq!(given(&left, "10.1.0.0/24"), ["10.1.0.2", "10.1.0.1"]);
        let moved = [Some("10.2.0.1"), Some("10.1.0.7")];
        assert_eq!(given(&moved, "10.1.0.0/24"), ["10.1.0.1", "10.1.0.7"]);
        assert_eq!(given(&[None, None, None], "10.1.0.0/30"), ["10.1.0.1", "10.1.0.2", ""]);
    }

    #[test]
    fn the_address_of_one_that_left_is_not_that_of_the_next() {
        let mut nodes = nodes(&[Some("10.1.0.1"), Some("10.1.0.3"), None]);
        nodes[2].name = "site-1-4".into();
        let prefix = "10.1.0.0/29".parse().unwrap();
        let given = |nodes: &[SiteNode]| addressed("site-1", nodes, Some(prefix))[2].address;
        assert_eq!(given(&nodes), "10.1.0.4".parse().ok());
        nodes[2].name = "site-1-7".into();
        assert_eq!(given(&nodes), "10.1.0.2".parse().ok(), "there are no more");
        assert_eq!(number("site-1", "site-1"), 1);
    }

    proptest! {
        #[test]
        fn no_two_have_one_and_giving_again_changes_nothing(
            have in proptest::collection::vec(proptest::option::of(0u8..20), 0..12), bits in 26u8..30,
        ) {
            let prefix: IpNet = format!("10.1.0.0/{bits}").parse().unwrap();
            let texts: Vec<Option<String>> =
                have.iter().map(|n| n.map(|n| format!("10.1.0.{n}"))).collect();
            let nodes = nodes(&texts.iter().map(Option::as_deref).collect::<Vec<_>>());
            let once = addressed("n", &nodes, Some(prefix));
            let mut all: Vec<_> = once.iter().filter_map(|node| node.address).collect();
            let count = all.len();
            all.sort();
            all.dedup();
            prop_assert_eq!(all.len(), count);
            prop_assert!(all.iter().all(|address| prefix.contains(address)));
            prop_assert_eq!(addressed("n", &once, Some(prefix)), once);
        }
    }
}
