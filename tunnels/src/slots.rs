//! Which tunnel is on which link, so that a new one is made before an old one is broken.
//!
//! There is one slot more than tunnels are wanted. An edge that is no longer chosen keeps its
//! slot, *retiring*, until as many chosen ones are up as are wanted, or until it is of no use
//! itself; one that is chosen again simply stays. An edge never moves between slots.

use crate::names::SLOTS;

/// What a slot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held<T> {
    /// To which edge.
    pub edge: T,
    /// It is no longer chosen and goes when it is not needed.
    pub retiring: bool,
}

/// All slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots<T>([Option<Held<T>>; SLOTS as usize]);

/// What is known about the tunnel of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Data passes.
    pub up: bool,
    /// Traffic uses it.
    pub active: bool,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots([const { None }; SLOTS as usize])
    }
}

impl<T: PartialEq + Clone> Slots<T> {
    /// Arranges for `chosen`, the nearest first, at most three. `usage` tells of an edge
    /// whether its tunnel is up and active.
    pub fn arrange(&mut self, chosen: &[T], usage: impl Fn(&T) -> Use) {
        for held in self.0.iter_mut().flatten() {
            held.retiring = !chosen.contains(&held.edge);
        }
        let all_up = chosen.iter().all(|edge| self.slot_of(edge).is_some() && usage(edge).up);
        for slot in &mut self.0 {
            let over = slot.as_ref().is_some_and(|held| {
                let Use { up, active } = usage(&held.edge);
                // A tunnel that carries traffic goes only when traffic has left it.
                held.retiring && !active && (all_up || !up || chosen.is_empty())
            });
            if over {
                *slot = None;
            }
        }
        for edge in chosen {
            if self.slot_of(edge).is_none()
                && let Some(free) = self.free(&usage)
            {
                *free = Some(Held { edge: edge.clone(), retiring: false });
            }
        }
        if chosen.is_empty() {
            // Nothing is wanted any more, so nothing is left to wait for.
            *self = Slots::default();
        }
    }

    /// The slots that hold something, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &Held<T>)> {
        (0..SLOTS).zip(&self.0).filter_map(|(slot, held)| Some((slot, held.as_ref()?)))
    }

    /// The slot of an edge.
    pub fn slot_of(&self, edge: &T) -> Option<u8> {
        self.iter().find(|(_, held)| held.edge == *edge).map(|(slot, _)| slot)
    }

    /// Empties the slot of an edge whose tunnel cannot be made; true when it had one.
    pub fn remove(&mut self, edge: &T) -> bool {
        match self.slot_of(edge) {
            Some(slot) => self.0[usize::from(slot)].take().is_some(),
            None => false,
        }
    }

    /// A free slot, or the one of a retiring tunnel that carries no traffic.
    fn free(&mut self, usage: impl Fn(&T) -> Use) -> Option<&mut Option<Held<T>>> {
        let free = self.0.iter().position(Option::is_none);
        let spare = || {
            self.0.iter().position(|slot| {
                slot.as_ref().is_some_and(|held| held.retiring && !usage(&held.edge).active)
            })
        };
        free.or_else(spare).map(|n| &mut self.0[n])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::Failover;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    fn edges(slots: &Slots<char>) -> Vec<(u8, char, bool)> {
        slots.iter().map(|(slot, held)| (slot, held.edge, held.retiring)).collect()
    }

    #[test]
    fn the_new_one_is_made_first_and_the_old_one_goes_when_it_is_not_needed() {
        let mut slots = Slots::default();
        let idle = |_: &char| Use { up: false, active: false };
        slots.arrange(&['a', 'b'], idle);
        assert_eq!(edges(&slots), [(0, 'a', false), (1, 'b', false)]);
        let a_active = |edge: &char| Use { up: *edge != 'c', active: *edge == 'a' };
        slots.arrange(&['c', 'b'], a_active);
        assert_eq!(edges(&slots), [(0, 'a', true), (1, 'b', false), (2, 'c', false)]);
        let c_up = |edge: &char| Use { up: true, active: *edge == 'a' };
        slots.arrange(&['c', 'b'], c_up);
        assert_eq!(edges(&slots).len(), 3, "it still carries traffic");
        let c_active = |edge: &char| Use { up: true, active: *edge == 'c' };
        slots.arrange(&['c', 'b'], c_active);
        assert_eq!(edges(&slots), [(1, 'b', false), (2, 'c', false)]);
    }

    #[test]
    fn chosen_again_it_just_stays() {
        let mut slots = Slots::default();
        let up = |edge: &char| Use { up: *edge != 'c', active: *edge == 'a' };
        slots.arrange(&['a', 'b'], up);
        slots.arrange(&['c', 'b'], up);
        slots.arrange(&['a', 'b'], up);
        assert_eq!(edges(&slots), [(0, 'a', false), (1, 'b', false)]);
    }

    #[test]
    fn nothing_chosen_leaves_nothing() {
        let mut slots = Slots::default();
        slots.arrange(&['a', 'b'], |_| Use { up: true, active: true });
        slots.arrange(&[], |_| Use { up: true, active: true });
        assert_eq!(slots, Slots::default());
        assert!(!slots.remove(&'a'));
    }

    proptest! {
        /// Together with the failover machine: whatever is chosen and whatever goes up and
        /// down, as long as two tunnels or more are up, our rearranging leaves one of them up
        /// and traffic on a tunnel that is up.
        #[test]
        fn never_both_down_by_our_doing(
            steps in proptest::collection::vec(
                (Just(vec!['a', 'b', 'c', 'd', 'e']).prop_shuffle(), 1usize..4, proptest::collection::vec(any::<bool>(), 5), 0u64..7),
                1..40,
            ),
        ) {
            let mut now = Instant::now();
            let mut slots = Slots::default();
            let mut failover: Failover<char> = Failover::default();
            for (order, want, ups, secs) in steps {
                now += Duration::from_secs(secs);
                for (edge, up) in ['a', 'b', 'c', 'd', 'e'].into_iter().zip(ups) {
                    failover.report(edge, up, now);
                }
                failover.tick(now);
                let up_before: BTreeSet<char> =
                    slots.iter().map(|(_, held)| held.edge).filter(|e| failover.is_up(*e)).collect();
                slots.arrange(&order[..want], |edge| Use {
                    up: failover.is_up(*edge),
                    active: failover.active() == Some(*edge),
                });
                // As the daemon does it: chosen ones by preference, retiring ones behind them.
                let mut preferred: Vec<char> = order[..want].iter().copied().filter(|e| slots.slot_of(e).is_some()).collect();
                preferred.extend(slots.iter().filter(|(_, held)| held.retiring).map(|(_, held)| held.edge));
                failover.set(&preferred, now);

                let left: BTreeSet<char> = slots.iter().map(|(_, held)| held.edge).collect();
                prop_assert_eq!(left.len(), slots.iter().count(), "an edge has one slot");
                prop_assert!(up_before.is_empty() || up_before.iter().any(|e| left.contains(e)));
                if !up_before.is_empty() {
                    prop_assert!(failover.active().is_some_and(|e| up_before.contains(&e)));
                }
                prop_assert!(order[..want].iter().all(|e| left.contains(e)), "all that are chosen have a slot");
            }
        }
    }
}
