//! Cryptokey routing: which peer a destination belongs to, by the longest prefix.
//!
//! A map per prefix length that occurs, the longest first. An edge has two or three lengths
//! (a host address per node, a few prefixes per site), so a look-up is two or three searches
//! however many peers there are.

use ipnet::IpNet;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// IPv6 or not, and the length of the prefix, the longest first.
type Class = (bool, Reverse<u8>);

/// Prefixes and whose they are.
#[derive(Debug, Clone)]
pub struct AllowedIps<V> {
    classes: BTreeMap<Class, BTreeMap<u128, V>>,
}

impl<V> Default for AllowedIps<V> {
    fn default() -> Self {
        AllowedIps { classes: BTreeMap::new() }
    }
}

impl<V: PartialEq> AllowedIps<V> {
    /// Gives `net` to `value`; gives back whose it was.
    pub fn insert(&mut self, net: IpNet, value: V) -> Option<V> {
        let (class, bits) = key(net);
        self.classes.entry(class).or_default().insert(bits, value)
    }

    /// Takes `net` away; gives back whose it was.
    pub fn remove(&mut self, net: IpNet) -> Option<V> {
        let (class, bits) = key(net);
        let of_length = self.classes.get_mut(&class)?;
        let value = of_length.remove(&bits);
        if of_length.is_empty() {
            self.classes.remove(&class);
        }
        value
    }

    /// Whose `net` is, exactly.
    pub fn get(&self, net: IpNet) -> Option<&V> {
        let (class, bits) = key(net);
        self.classes.get(&class)?.get(&bits)
    }

    /// Whose `ip` is.
    pub fn lookup(&self, ip: IpAddr) -> Option<&V> {
        let v6 = ip.is_ipv6();
        let range = (v6, Reverse(128))..=(v6, Reverse(0));
        let bits = bits_of(ip);
        self.classes.range(range).find_map(|((_, Reverse(length)), of_length)| {
            of_length.get(&(bits & mask(v6, *length)))
        })
    }
}

fn key(net: IpNet) -> (Class, u128) {
    let net = net.trunc();
    ((net.addr().is_ipv6(), Reverse(net.prefix_len())), bits_of(net.addr()))
}

fn bits_of(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn mask(v6: bool, length: u8) -> u128 {
    let width: u8 = if v6 { 128 } else { 32 };
    let host = u32::from(width.saturating_sub(length));
    u128::MAX.checked_shl(host).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (any::<[u8; 4]>(), 0u8..=32).prop_map(|(ip, len)| IpNet::new(ip.into(), len).unwrap()),
            (any::<[u8; 16]>(), 0u8..=128)
                .prop_map(|(ip, len)| IpNet::new(ip.into(), len).unwrap()),
        ]
    }

    proptest! {
        /// The same answer as looking at every prefix.
        #[test]
        fn the_longest_prefix_wins(nets in proptest::collection::vec(nets(), 0..40), ip in any::<[u8; 4]>(), near: prop::sample::Index, v6: bool) {
            let mut table = AllowedIps::default();
            let mut all = BTreeMap::new();
            for (n, net) in nets.iter().enumerate() {
                table.insert(*net, n);
                all.insert(net.trunc(), n);
            }
            let ip = match (nets.is_empty(), v6) {
                (false, true) => near.get(&nets).addr(),
                _ => IpAddr::from(ip),
            };
            let want = all.iter().filter(|(net, _)| net.contains(&ip)).max_by_key(|(net, _)| net.prefix_len());
            prop_assert_eq!(table.lookup(ip), want.map(|(_, n)| n));
            for net in nets {
                table.remove(net);
            }
            prop_assert_eq!(table.lookup(ip), None);
            prop_assert!(table.classes.is_empty());
        }
    }

    #[test]
    fn the_whole_internet_is_a_prefix_too() {
        let mut table = AllowedIps::default();
        table.insert("0.0.0.0/0".parse().unwrap(), 'd');
        table.insert("10.0.0.0/8".parse().unwrap(), 't');
        assert_eq!(table.lookup([10, 1, 1, 1].into()), Some(&'t'));
        assert_eq!(table.lookup([11, 1, 1, 1].into()), Some(&'d'));
        assert_eq!(table.lookup("::1".parse().unwrap()), None);
        assert_eq!(table.insert("10.9.9.9/8".parse().unwrap(), 'u'), Some('t'));
        assert_eq!(table.get("10.0.0.0/8".parse().unwrap()), Some(&'u'));
    }
}
