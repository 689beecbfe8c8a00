//! The kernel's network as far as the daemon needs it: netd's, unless a test plays it.

use netd::model::PeerState;
use netd::{
    ApplyError, BatchError, Ipv6, Kernel, LinkName, Network, Nexthop, ObserveError, Observed,
    Outcome, Ownership, Step, TalkError, WgKey,
};
use std::collections::BTreeMap;

/// A conversation with the kernel of one network namespace. The methods are netd's.
pub(super) trait KernelNetwork: Send {
    /// See [`Kernel::observe`].
    fn observe(&mut self, owner: &Ownership, want: &Network) -> Result<Observed, ObserveError>;

    /// See [`Kernel::apply`].
    fn apply(&mut self, step: &Step) -> Result<Outcome, ApplyError>;

    /// See [`Kernel::apply_all`].
    fn apply_all(&mut self, steps: &[Step]) -> Result<Vec<Outcome>, BatchError>;

    /// See [`Kernel::replace_nexthop`].
    fn replace_nexthop(&mut self, nexthop: &Nexthop) -> Result<(), TalkError>;

    /// See [`Kernel::ipv6`].
    fn ipv6(&mut self) -> Ipv6;

    /// See [`Kernel::wireguard_supported`].
    fn wireguard_supported(&mut self) -> bool;

    /// See [`Kernel::wireguard_peers`].
    fn wireguard_peers(&mut self, link: &LinkName)
    -> Result<BTreeMap<WgKey, PeerState>, TalkError>;
}

impl KernelNetwork for Kernel {
    fn observe(&mut self, owner: &Ownership, want: &Network) -> Result<Observed, ObserveError> {
        Kernel::observe(self, owner, want)
    }

    fn apply(&mut self, step: &Step) -> Result<Outcome, ApplyError> {
        Kernel::apply(self, step)
    }

    fn apply_all(&mut self, steps: &[Step]) -> Result<Vec<Outcome>, BatchError> {
        Kernel::apply_all(self, steps)
    }

    fn replace_nexthop(&mut self, nexthop: &Nexthop) -> Result<(), TalkError> {
        Kernel::replace_nexthop(self, nexthop)
    }

    fn ipv6(&mut self) -> Ipv6 {
        Kernel::ipv6(self)
    }

    fn wireguard_supported(&mut self) -> bool {
        Kernel::wireguard_supported(self)
    }

    fn wireguard_peers(
        &mut self,
        link: &LinkName,
    ) -> Result<BTreeMap<WgKey, PeerState>, TalkError> {
        Kernel::wireguard_peers(self, link)
    }
}
