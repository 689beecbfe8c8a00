//! Cryptokey routing: which peer an address belongs to, by the longest prefix.
//!
//! A binary trie for each family in which a path without branches is one step, as
//! drivers/net/wireguard/allowedips.c has it. A prefix is one peer's: it moves to the last one that
//! claims it. A look-up passes the nodes in which prefixes around it differ, some 13 among 6,000
//! neighbours, whatever lengths there are. It wakes the caches no more than it must: a prefix takes
//! two nodes of 20 bytes (IPv6: 32).

use ipnet::IpNet;
use std::net::IpAddr;

/// No node, and no peer.
const NONE: u32 = u32::MAX;

/// Prefixes and whose they are: numbers of peers, below [`u32::MAX`].
#[derive(Debug, Clone, Default)]
pub(crate) struct AllowedIps {
    v4: Trie<u32>,
    v6: Trie<u128>,
}

impl AllowedIps {
    /// Gives `net` to `peer`; gives back whose it was.
    pub(crate) fn insert(&mut self, net: IpNet, peer: u32) -> Option<u32> {
        match net.trunc() {
            IpNet::V4(net) => self.v4.insert(net.addr().to_bits(), net.prefix_len(), peer),
            IpNet::V6(net) => self.v6.insert(net.addr().to_bits(), net.prefix_len(), peer),
        }
    }

    /// Takes `net` away; gives back whose it was.
    pub(crate) fn remove(&mut self, net: IpNet) -> Option<u32> {
        match net.trunc() {
            IpNet::V4(net) => self.v4.remove(net.addr().to_bits(), net.prefix_len()),
            IpNet::V6(net) => self.v6.remove(net.addr().to_bits(), net.prefix_len()),
        }
    }

    /// Whose `ip` is.
    pub(crate) fn lookup(&self, ip: IpAddr) -> Option<u32> {
        match ip {
            IpAddr::V4(ip) => self.v4.lookup(ip.to_bits()),
            IpAddr::V6(ip) => self.v6.lookup(ip.to_bits()),
        }
    }
}

/// An address as bits, the first of which is the highest.
trait Bits: Copy {
    /// How many there are.
    const WIDTH: u8;

    /// How many of the first bits are the same.
    fn common(self, other: Self) -> u8;

    /// Bit `at`, below [`Bits::WIDTH`].
    fn bit(self, at: u8) -> usize;
}

macro_rules! bits {
    ($type:ty) => {
        #[expect(clippy::cast_possible_truncation, reason = "a width, and one bit")]
        impl Bits for $type {
            const WIDTH: u8 = <$type>::BITS as u8;

            fn common(self, other: Self) -> u8 {
                (self ^ other).leading_zeros() as u8
            }

            fn bit(self, at: u8) -> usize {
                (self >> (Self::WIDTH - 1 - at)) as usize & 1
            }
        }
    };
}

bits!(u32);
bits!(u128);

/// A prefix, or the place where two part.
#[derive(Debug, Clone)]
struct Node<B> {
    /// Of its bits the first `length` count.
    prefix: B,
    /// Where it goes on with a 0 and with a 1.
    children: [u32; 2],
    /// Whose it is, or [`NONE`] where it only branches.
    peer: u32,
    length: u8,
}

/// Where the number of a node stands.
#[derive(Debug, Clone, Copy)]
enum Link {
    Root,
    Child { of: u32, side: usize },
}

/// Nodes lie in one vector and name each other by their places in it.
#[derive(Debug, Clone)]
struct Trie<B> {
    nodes: Vec<Node<B>>,
    root: u32,
    /// The first that is not in use; its next one is its first child.
    free: u32,
}

impl<B> Default for Trie<B> {
    fn default() -> Self {
        Trie { nodes: Vec::new(), root: NONE, free: NONE }
    }
}

impl<B: Bits> Trie<B> {
    fn lookup(&self, address: B) -> Option<u32> {
        let (mut peer, mut at) = (NONE, self.root);
        while let Some(node) = self.nodes.get(at as usize) {
            if node.prefix.common(address) < node.length {
                break;
            }
            if node.peer != NONE {
                peer = node.peer;
            }
            if node.length == B::WIDTH {
                break;
            }
            at = node.children[address.bit(node.length)];
        }
        some(peer)
    }

    fn insert(&mut self, prefix: B, length: u8, peer: u32) -> Option<u32> {
        let leaf = Node { prefix, children: [NONE; 2], peer, length };
        let mut link = Link::Root;
        loop {
            let at = self.follow(link);
            let Some(node) = self.nodes.get_mut(at as usize) else {
                let leaf = self.take_place(leaf);
                self.set(link, leaf);
                return None;
            };
            let common = node.prefix.common(prefix).min(node.length).min(length);
            if common < node.length {
                let (side, mut branch) = (node.prefix.bit(common), leaf);
                if common < length {
                    let leaf = self.take_place(Node { length, ..branch });
                    branch = Node { prefix, children: [leaf; 2], peer: NONE, length: common };
                }
                branch.children[side] = at;
                let branch = self.take_place(branch);
                self.set(link, branch);
                return None;
            }
            if common == length {
                return some(std::mem::replace(&mut node.peer, peer));
            }
            link = Link::Child { of: at, side: prefix.bit(common) };
        }
    }

    fn remove(&mut self, prefix: B, length: u8) -> Option<u32> {
        let (mut above, mut link) = (Link::Root, Link::Root);
        loop {
            let at = self.follow(link);
            let node = self.nodes.get_mut(at as usize)?;
            if node.length > length || node.prefix.common(prefix) < node.length {
                return None;
            }
            if node.length == length {
                let peer = some(std::mem::replace(&mut node.peer, NONE))?;
                self.skip(link);
                // It may have branched only for this.
                self.skip(above);
                return Some(peer);
            }
            (above, link) = (link, Link::Child { of: at, side: prefix.bit(node.length) });
        }
    }

    /// Takes out the node that `link` leads to, if it is nobody's and does not branch.
    fn skip(&mut self, link: Link) {
        let at = self.follow(link);
        let Some(node) = self.nodes.get_mut(at as usize) else { return };
        let ([NONE, below] | [below, NONE]) = node.children else { return };
        if node.peer != NONE {
            return;
        }
        node.children[0] = std::mem::replace(&mut self.free, at);
        self.set(link, below);
        if self.root == NONE {
            *self = Trie::default();
        }
    }

    fn follow(&self, link: Link) -> u32 {
        match link {
            Link::Root => self.root,
            Link::Child { of, side } => {
                self.nodes.get(of as usize).map_or(NONE, |node| node.children[side])
            }
        }
    }

    fn set(&mut self, link: Link, to: u32) {
        match link {
            Link::Root => self.root = to,
            Link::Child { of, side } => {
                if let Some(node) = self.nodes.get_mut(of as usize) {
                    node.children[side] = to;
                }
            }
        }
    }

    fn take_place(&mut self, node: Node<B>) -> u32 {
        if let Some(place) = self.nodes.get_mut(self.free as usize) {
            let at = std::mem::replace(&mut self.free, place.children[0]);
            *place = node;
            return at;
        }
        self.nodes.push(node);
        // Two nodes for a prefix and 2^24 peers: memory ends before the numbers do.
        u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
    }
}

fn some(peer: u32) -> Option<u32> {
    (peer != NONE).then_some(peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Prefixes that are near each other, so that they meet, contain each other and part late.
    fn nets() -> impl Strategy<Value = IpNet> {
        let v4 = (0u32..16, 0u32..4, 0u8..=32)
            .prop_map(|(low, high, len)| IpNet::new(IpAddr::V4((low | high << 28).into()), len));
        let v6 = (0u128..16, 0u128..4, 0u8..=128)
            .prop_map(|(low, high, len)| IpNet::new(IpAddr::V6((low | high << 124).into()), len));
        let any4 = (any::<[u8; 4]>(), 0u8..=32).prop_map(|(ip, len)| IpNet::new(ip.into(), len));
        prop_oneof![v4, v6, any4].prop_map(Result::unwrap)
    }

    fn longest(model: &BTreeMap<IpNet, u32>, ip: IpAddr) -> Option<u32> {
        let containing = model.iter().filter(|(net, _)| net.contains(&ip));
        containing.max_by_key(|(net, _)| net.prefix_len()).map(|(_, peer)| *peer)
    }

    /// Nodes in use of both families.
    fn used(table: &AllowedIps) -> usize {
        fn of<B>(trie: &Trie<B>) -> usize {
            let (mut free, mut at) = (0, trie.free);
            while let Some(node) = trie.nodes.get(at as usize) {
                (free, at) = (free + 1, node.children[0]);
            }
            trie.nodes.len() - free
        }
        of(&table.v4) + of(&table.v6)
    }

    proptest! {
        /// However prefixes come, move to another peer and go: every answer is that of looking at
        /// all of them, and there are no more nodes than a trie of so many needs.
        #[test]
        fn the_longest_prefix_wins(
            steps in proptest::collection::vec((nets(), proptest::option::weighted(0.7, 0u32..9)), 0..80),
            probe: prop::sample::Index,
            ips in proptest::collection::vec(nets(), 1..8),
        ) {
            let mut table = AllowedIps::default();
            let mut model = BTreeMap::new();
            for (net, peer) in &steps {
                let net = *net;
                match peer {
                    Some(peer) => prop_assert_eq!(table.insert(net, *peer), model.insert(net.trunc(), *peer)),
                    None => {
                        // What is there, mostly: others are refused.
                        let there = (!model.is_empty()).then(|| *model.keys().nth(probe.index(model.len())).unwrap());
                        for net in [Some(net), there].into_iter().flatten() {
                            prop_assert_eq!(table.remove(net), model.remove(&net.trunc()));
                        }
                    }
                }
                for ip in ips.iter().map(IpNet::addr).chain([net.addr()]) {
                    prop_assert_eq!(table.lookup(ip), longest(&model, ip), "{}", ip);
                }
                prop_assert!(used(&table) <= 2 * model.len(), "{} for {}", used(&table), model.len());
            }
            for net in model.into_keys() {
                prop_assert!(table.remove(net).is_some());
            }
            prop_assert_eq!(table.v4.nodes.capacity() + table.v6.nodes.capacity(), 0);
        }
    }

    #[test]
    fn the_whole_internet_is_a_prefix_too() {
        let mut table = AllowedIps::default();
        table.insert("0.0.0.0/0".parse().unwrap(), 1);
        table.insert("10.0.0.0/8".parse().unwrap(), 2);
        assert_eq!(table.lookup([10, 1, 1, 1].into()), Some(2));
        assert_eq!(table.lookup([11, 1, 1, 1].into()), Some(1));
        assert_eq!(table.lookup("::1".parse().unwrap()), None);
        assert_eq!(table.insert("10.9.9.9/8".parse().unwrap(), 3), Some(2));
        assert_eq!(table.lookup([10, 1, 1, 1].into()), Some(3));
    }

    #[test]
    fn a_prefix_is_two_small_nodes_at_most() {
        assert_eq!((size_of::<Node<u32>>(), size_of::<Node<u128>>()), (20, 32));
    }
}
