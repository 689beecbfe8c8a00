//! From what the profile asks to what this machine shall have. Pure.
//!
//! Everything is checked before anything is touched: nodes and sizes that exist, shares that are
//! shares, and the memory floor. A request that does not fit is refused whole; it is never cut.

use crate::model::{Amount, Bytes, Have, NodeId, PageSize, Request, Want, Where};
use holdfast_api::Reason;
use std::collections::BTreeMap;

/// Why a request cannot be met on this machine, whatever its state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DemandError {
    /// A share outside 1 to 100.
    #[error("{percent} % is no share of memory (1 to 100)")]
    Share {
        /// What was asked for.
        percent: u8,
    },
    /// A node that is not there, or has no memory.
    #[error("{node} is asked for and this machine has no such node with memory")]
    NoSuchNode {
        /// The node.
        node: NodeId,
    },
    /// The same node and size twice.
    #[error("pages of {size} are asked for twice for {at}")]
    Twice {
        /// The node, or `each node`.
        at: String,
        /// The size.
        size: PageSize,
    },
    /// A size that neither the kernel nor the processor knows.
    #[error("neither the kernel nor the processor has huge pages of {size}")]
    Unsupported {
        /// The size.
        size: PageSize,
    },
    /// More than a node has.
    #[error("{want} of huge pages are asked for on {node}, which has {total}")]
    Node {
        /// The node.
        node: NodeId,
        /// Asked for.
        want: Bytes,
        /// There.
        total: Bytes,
    },
    /// The rest would be below the floor.
    #[error("{want} of huge pages leave less than the floor of {floor} of {total}")]
    Floor {
        /// Asked for, with the pools of sizes that nobody asked for.
        want: Bytes,
        /// What must stay.
        floor: Bytes,
        /// What there is.
        total: Bytes,
    },
}

impl DemandError {
    /// The code that people see.
    pub fn reason(&self) -> Reason {
        match self {
            DemandError::Share { .. }
            | DemandError::NoSuchNode { .. }
            | DemandError::Twice { .. } => Reason::ProfileInvalid,
            DemandError::Unsupported { .. } => Reason::HugepagesUnsupported,
            DemandError::Node { .. } | DemandError::Floor { .. } => Reason::HugepagesFloor,
        }
    }
}

/// What this machine shall have. A request for one node outranks one for each node.
///
/// # Errors
/// [`DemandError`]: nothing is wanted then, and the pools stay as they are.
pub fn demand(request: &Request, have: &Have) -> Result<Want, DemandError> {
    let mut wanted: BTreeMap<(NodeId, PageSize), u64> = BTreeMap::new();
    for each in [true, false] {
        let mut seen = BTreeMap::new();
        for pool in request.pools.iter().filter(|p| (p.at == Where::EachNode) == each) {
            check_size(pool.size, have)?;
            if seen.insert((pool.at, pool.size), ()).is_some() {
                let at = match pool.at {
                    Where::EachNode => "each node".to_string(),
                    Where::Node(node) => node.to_string(),
                };
                return Err(DemandError::Twice { at, size: pool.size });
            }
            for node in nodes(pool.at, have)? {
                wanted.insert((node, pool.size), pages(pool.amount, pool.size, node, have)?);
            }
        }
    }
    let mut want = Want { floor: request.floor, mounts: request.mounts.clone(), ..Want::default() };
    for ((node, size), pages) in wanted {
        want.pools.entry(node).or_default().insert(size, pages);
    }
    check_floor(&want, have)?;
    Ok(want)
}

fn check_size(size: PageSize, have: &Have) -> Result<(), DemandError> {
    let known =
        have.boot_only.contains(&size) || have.nodes.values().any(|n| n.pools.contains_key(&size));
    if known { Ok(()) } else { Err(DemandError::Unsupported { size }) }
}

fn nodes(at: Where, have: &Have) -> Result<Vec<NodeId>, DemandError> {
    match at {
        Where::EachNode => Ok(have.nodes.keys().copied().collect()),
        Where::Node(node) if have.nodes.contains_key(&node) => Ok(vec![node]),
        Where::Node(node) => Err(DemandError::NoSuchNode { node }),
    }
}

fn pages(amount: Amount, size: PageSize, node: NodeId, have: &Have) -> Result<u64, DemandError> {
    match amount {
        Amount::Pages(pages) => Ok(pages),
        Amount::Percent(percent @ 1..=100) => {
            let total = have.nodes.get(&node).map_or(Bytes(0), |n| n.memory.total);
            Ok(size.fitting(Bytes(total.0 / 100 * u64::from(percent))))
        }
        Amount::Percent(percent) => Err(DemandError::Share { percent }),
    }
}

/// Nodes one by one, then the machine; pools of sizes that nobody asked for count as they are.
fn check_floor(want: &Want, have: &Have) -> Result<(), DemandError> {
    let mut all = Bytes(0);
    for (id, node) in &have.nodes {
        let wanted = want.pools.get(id);
        let asked = wanted.into_iter().flatten().map(|(size, pages)| size.times(*pages));
        let others =
            node.pools.iter().filter(|(size, _)| wanted.is_none_or(|w| !w.contains_key(size)));
        let sum = asked
            .chain(others.map(|(size, pool)| size.times(pool.total)))
            .fold(Bytes(0), Bytes::plus);
        if sum > node.memory.total && wanted.is_some() {
            return Err(DemandError::Node { node: *id, want: sum, total: node.memory.total });
        }
        all = all.plus(sum);
    }
    if all.0 > 0 && !want.pools.is_empty() && all.plus(want.floor) > have.memory.total {
        return Err(DemandError::Floor { want: all, floor: want.floor, total: have.memory.total });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Machine;
    use crate::model::PoolRequest;

    fn ask(at: Where, size: PageSize, amount: Amount) -> PoolRequest {
        PoolRequest { at, size, amount }
    }

    fn request(pools: Vec<PoolRequest>) -> Request {
        Request { pools, floor: Bytes::gib(1), mounts: vec![] }
    }

    #[test]
    fn a_share_is_of_the_node_and_one_node_outranks_each() {
        let have = Machine::nodes(2).memory(Bytes::gib(8)).have();
        let pools = vec![
            ask(Where::Node(NodeId(1)), PageSize::M2, Amount::Pages(7)),
            ask(Where::EachNode, PageSize::M2, Amount::Percent(25)),
        ];
        let want = demand(&request(pools), &have).unwrap();
        assert_eq!(want.pools[&NodeId(0)][&PageSize::M2], 1023);
        assert_eq!(want.pools[&NodeId(1)][&PageSize::M2], 7);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let have = Machine::nodes(1).memory(Bytes::gib(8)).have();
        let of = |pool| demand(&request(vec![pool]), &have).unwrap_err();
        let each = |amount| ask(Where::EachNode, PageSize::M2, amount);
        assert_eq!(of(each(Amount::Percent(0))), DemandError::Share { percent: 0 });
        assert_eq!(of(each(Amount::Percent(101))), DemandError::Share { percent: 101 });
        let node = NodeId(3);
        assert_eq!(
            of(ask(Where::Node(node), PageSize::M2, Amount::Pages(1))),
            DemandError::NoSuchNode { node }
        );
        let odd = PageSize::try_from(64).unwrap();
        assert_eq!(
            of(ask(Where::EachNode, odd, Amount::Pages(1))),
            DemandError::Unsupported { size: odd }
        );
        let error = of(each(Amount::Percent(95)));
        assert!(matches!(error, DemandError::Floor { .. }), "{error}");
        assert_eq!(error.reason(), Reason::HugepagesFloor);
        assert!(matches!(of(each(Amount::Pages(u64::MAX))), DemandError::Node { .. }));
        let twice = request(vec![each(Amount::Pages(1)), each(Amount::Pages(2))]);
        assert!(matches!(demand(&twice, &have), Err(DemandError::Twice { .. })));
    }

    #[test]
    fn a_pool_of_another_size_counts_against_the_floor() {
        let have = Machine::nodes(1).memory(Bytes::gib(8)).pool(0, PageSize::G1, 6).have();
        let pools = vec![ask(Where::EachNode, PageSize::M2, Amount::Pages(1024))];
        assert!(matches!(demand(&request(pools), &have), Err(DemandError::Floor { .. })));
    }

    #[test]
    fn asking_for_nothing_is_always_met() {
        let have = Machine::nodes(1).memory(Bytes::mib(512)).have();
        assert_eq!(demand(&request(vec![]), &have).unwrap().pools.len(), 0);
    }
}
