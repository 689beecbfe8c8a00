//! Packets that wait for a session.
//!
//! Of one peer no more than [`MOST_PACKETS`], of which the oldest goes first, and of all peers of a
//! device no more than [`MOST_BYTES`]: an edge that was started anew has thousands of peers to
//! which somebody sends, and none of them a session.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// As the kernel's `MAX_STAGED_PACKETS` in drivers/net/wireguard/messages.h.
pub(crate) const MOST_PACKETS: usize = 128;
/// Of all peers of a device.
pub(crate) const MOST_BYTES: usize = 16 << 20;

/// What all peers of a device have together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Budget(Arc<AtomicUsize>);

/// The packets of one peer.
#[derive(Debug)]
pub(crate) struct Staged {
    packets: VecDeque<Box<[u8]>>,
    budget: Budget,
}

impl Staged {
    /// None yet.
    pub(crate) fn new(budget: Budget) -> Self {
        Staged { packets: VecDeque::new(), budget }
    }

    /// Keeps a packet; where there is no room for it, it is lost.
    pub(crate) fn push(&mut self, packet: &[u8]) {
        if self.packets.len() == MOST_PACKETS {
            self.pop();
        }
        let used = self.budget.0.fetch_add(packet.len(), Ordering::Relaxed);
        if used + packet.len() > MOST_BYTES {
            self.budget.0.fetch_sub(packet.len(), Ordering::Relaxed);
            return;
        }
        self.packets.push_back(packet.into());
    }

    /// Takes the oldest.
    pub(crate) fn pop(&mut self) -> Option<Box<[u8]>> {
        let packet = self.packets.pop_front()?;
        self.budget.0.fetch_sub(packet.len(), Ordering::Relaxed);
        if self.packets.is_empty() {
            // Idle peers are many.
            self.packets = VecDeque::new();
        }
        Some(packet)
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Drops all.
    pub(crate) fn clear(&mut self) {
        while self.pop().is_some() {}
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What is kept is what came last, in its order, and the budget is what is kept.
        #[test]
        fn the_budget_is_what_is_kept(steps in proptest::collection::vec((0usize..3, 0usize..2000), 0..600)) {
            let budget = Budget::default();
            let mut peers: Vec<_> = (0..3).map(|_| (Staged::new(budget.clone()), VecDeque::new())).collect();
            for (n, (peer, bytes)) in steps.into_iter().enumerate() {
                let (staged, model) = &mut peers[peer];
                match bytes % 10 {
                    0 => {
                        staged.clear();
                        model.clear();
                    }
                    1 => prop_assert_eq!(staged.pop().map(|packet| packet.to_vec()), model.pop_front()),
                    _ => {
                        let packet = vec![u8::try_from(n % 251).unwrap(); bytes];
                        staged.push(&packet);
                        model.push_back(packet);
                        if model.len() > MOST_PACKETS {
                            model.pop_front();
                        }
                    }
                }
                let kept: usize = peers.iter().flat_map(|(_, model)| model).map(Vec::len).sum();
                prop_assert_eq!(budget.0.load(Ordering::Relaxed), kept);
            }
            drop(peers);
            prop_assert_eq!(budget.0.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn all_peers_together_are_bounded() {
        let budget = Budget::default();
        let mut peers: Vec<_> = (0..200).map(|_| Staged::new(budget.clone())).collect();
        for staged in &mut peers {
            for _ in 0..MOST_PACKETS {
                staged.push(&[0; 1400]);
            }
        }
        let used = budget.0.load(Ordering::Relaxed);
        assert!(used <= MOST_BYTES && used > MOST_BYTES - 1400, "{used}");
        assert!(peers[199].is_empty());
        peers[0].clear();
        peers[199].push(&[0; 1400]);
        assert!(!peers[199].is_empty());
    }
}
