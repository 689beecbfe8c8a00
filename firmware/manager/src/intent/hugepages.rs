//! The profile's pools, as the `hugepages` domain asks for them.

use hugepages::{Amount, Bytes, NodeId, PageSize, PoolRequest, Request, Where};
use hw_profiles::Profile;

/// What the profile asks of the pools.
pub fn request(profile: &Profile) -> Request {
    let mut pools = Vec::new();
    for (size, pool) in &profile.hugepages.pools {
        let Ok(size) = PageSize::try_from(size.kib()) else { continue };
        pools.push(PoolRequest { at: Where::EachNode, size, amount: amount(pool.each_node) });
        pools.extend(pool.nodes.iter().map(|(node, asked)| PoolRequest {
            at: Where::Node(NodeId(*node)),
            size,
            amount: amount(*asked),
        }));
    }
    Request { pools, floor: Bytes(profile.hugepages.memory_floor.0), mounts: Vec::new() }
}

fn amount(asked: hw_profiles::profile::Amount) -> Amount {
    match asked {
        hw_profiles::profile::Amount::Count(pages) => Amount::Pages(pages),
        hw_profiles::profile::Amount::SharePercent(share) => Amount::Percent(share),
    }
}
