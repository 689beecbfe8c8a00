//! Addresses and prefixes that are given out: never one twice at a time, free again when their
//! owner goes. What is taken is asked of the store's indexes, so that there is no second list that
//! could be wrong. Searching goes on behind the last one given, so that an address that became
//! free rests as long as possible before somebody else has it.

use crate::store::{Index, State, prefix_term};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

/// Longest search; pools are never that full.
const SEARCH: u128 = 1 << 24;

/// A pool of single addresses.
#[derive(Debug)]
pub struct AddressPool {
    pool: IpNet,
    last: Mutex<u128>,
}

impl AddressPool {
    /// The addresses of `pool` but its first and last.
    pub fn new(pool: IpNet) -> Self {
        AddressPool { pool, last: Mutex::new(0) }
    }

    /// An address that nobody in `state` has; none when the pool is exhausted.
    pub fn next(&self, state: &State) -> Option<IpAddr> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = |a: IpAddr| state.find(Index::Overlay, &a.to_string()).next().is_some();
        let (offset, address) = next_address(self.pool, *last, taken)?;
        *last = offset;
        Some(address)
    }
}

/// The first free address of `pool` behind offset `last`, going around once, and its offset.
pub fn next_address(
    pool: IpNet,
    last: u128,
    taken: impl Fn(IpAddr) -> bool,
) -> Option<(u128, IpAddr)> {
    let bits = u32::from(pool.max_prefix_len() - pool.prefix_len());
    let size = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
    // Neither the network's own address nor the broadcast address.
    let usable = size.checked_sub(2).filter(|usable| *usable > 0)?;
    (0..usable.min(SEARCH)).find_map(|step| {
        let offset = (last + step) % usable + 1;
        let address = nth(pool, offset)?;
        (!taken(address)).then_some((offset, address))
    })
}

/// A pool of prefixes of one length.
#[derive(Debug)]
pub struct PrefixPool {
    pool: IpNet,
    bits: u8,
    last: Mutex<u128>,
}

impl PrefixPool {
    /// The prefixes of `bits` bits in `pool`.
    pub fn new(pool: IpNet, bits: u8) -> Self {
        PrefixPool { pool, bits, last: Mutex::new(0) }
    }

    /// A prefix that overlaps none in `state`; none when the pool is exhausted.
    pub fn next(&self, state: &State) -> Option<IpNet> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (offset, prefix) =
            next_prefix(self.pool, self.bits, *last, |prefix| overlaps(state, prefix))?;
        *last = offset;
        Some(prefix)
    }
}

/// The first free prefix of `bits` bits of `pool` at or behind number `last`, going around once,
/// and the number behind it.
pub fn next_prefix(
    pool: IpNet,
    bits: u8,
    last: u128,
    taken: impl Fn(&IpNet) -> bool,
) -> Option<(u128, IpNet)> {
    let count = 1u128.checked_shl(u32::from(bits.checked_sub(pool.prefix_len())?))?;
    let step = 1u128.checked_shl(u32::from(pool.max_prefix_len().checked_sub(bits)?))?;
    (0..count.min(SEARCH)).find_map(|n| {
        let number = (last + n) % count;
        let prefix = IpNet::new(nth(pool, number * step)?, bits).ok()?;
        (!taken(&prefix)).then_some((number + 1, prefix))
    })
}

/// Whether a site in `state` has a prefix that overlaps `prefix`.
pub fn overlaps(state: &State, prefix: &IpNet) -> bool {
    let wider = (0..=prefix.prefix_len()).filter_map(|bits| prefix_of(prefix.network(), bits));
    let mut wider = wider.map(|net| prefix_term(&net));
    let from = prefix_term(&prefix.trunc());
    let last = IpNet::from(prefix.broadcast());
    wider.any(|term| state.any_between(Index::Prefix, &term, &term))
        || state.any_between(Index::Prefix, &from, &prefix_term(&last))
}

fn prefix_of(address: IpAddr, bits: u8) -> Option<IpNet> {
    IpNet::new(address, bits).ok().map(|net| net.trunc())
}

fn nth(pool: IpNet, offset: u128) -> Option<IpAddr> {
    match pool {
        IpNet::V4(pool) => nth_v4(pool, offset).map(IpAddr::V4),
        IpNet::V6(pool) => nth_v6(pool, offset).map(IpAddr::V6),
    }
}

fn nth_v4(pool: Ipv4Net, offset: u128) -> Option<Ipv4Addr> {
    let offset = u32::try_from(offset).ok()?;
    u32::from(pool.network()).checked_add(offset).map(Ipv4Addr::from)
}

fn nth_v6(pool: Ipv6Net, offset: u128) -> Option<Ipv6Addr> {
    u128::from(pool.network()).checked_add(offset).map(Ipv6Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// What is given out is in the pool and was free; a full pool says so.
        #[test]
        fn addresses_are_never_given_twice(bits in 24u8..=30, freed in prop::collection::vec(any::<prop::sample::Index>(), 0..20)) {
            let pool: IpNet = format!("100.64.0.0/{bits}").parse().unwrap();
            let mut taken = BTreeSet::new();
            let mut last = 0;
            let usable = (1usize << (32 - bits)) - 2;
            for _ in 0..usable {
                let (offset, address) = next_address(pool, last, |a| taken.contains(&a)).unwrap();
                last = offset;
                prop_assert!(pool.contains(&address) && address != pool.network() && address != pool.broadcast());
                prop_assert!(taken.insert(address));
            }
            prop_assert_eq!(next_address(pool, last, |a| taken.contains(&a)), None);
            for index in freed {
                let free = *taken.iter().nth(index.index(taken.len())).unwrap();
                taken.remove(&free);
                let (_, address) = next_address(pool, last, |a| taken.contains(&a)).unwrap();
                prop_assert!(taken.insert(address));
            }
        }

        #[test]
        fn prefixes_do_not_overlap(bits in 12u8..=16, taken in prop::collection::vec((0u8..16, 8u8..=28), 0..6)) {
            let pool: IpNet = "10.128.0.0/12".parse().unwrap();
            let taken: Vec<IpNet> = taken.into_iter().map(|(third, bits)| format!("10.{}.0.0/{bits}", 128 + third).parse::<IpNet>().unwrap().trunc()).collect();
            let overlap = |p: &IpNet| taken.iter().any(|t| t.contains(p) || p.contains(t));
            let free = (0..1u32 << (bits - 12)).filter(|n| {
                let prefix = IpNet::new(IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + n * (1 << (32 - bits)))), bits).unwrap();
                !overlap(&prefix)
            }).count();
            match next_prefix(pool, bits, 3, overlap) {
                Some((_, prefix)) => prop_assert!(pool.contains(&prefix) && !overlap(&prefix)),
                None => prop_assert_eq!(free, 0),
            }
        }
    }
}
