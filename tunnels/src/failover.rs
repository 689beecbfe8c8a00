//! Which tunnel carries traffic: a machine without clock, socket or kernel.
//!
//! ```text
//!                      one comes up
//!        Nowhere ───────────────────────────► Active(x)
//!           ▲                                  │  │
//!           └── x goes down, none is up ───────┘  │ x goes down: the most preferred that is
//!                                                 │ up, at once
//!                        Active(y) ◄──────────────┘ y is preferred, and steady: back
//! ```
//!
//! A tunnel is steady when it was up for [`RETURN_AFTER`], or when it never went down since it
//! was made: what did not fail need not prove itself, so a node that starts ends on its
//! nearest edge however the handshakes race.
//!
//! Laws: it never points at a tunnel that is not up while another is; it moves away at once and
//! back only to a steady one; each move is one [`Switch`], which is one message to the kernel.
//! Left out: noticing that a tunnel is down ([`crate::bfd`]), and carrying out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A preferred tunnel must be up for so long before traffic returns to it: longer than the
/// pauses of a link that flaps, short enough that people see it come back.
pub const RETURN_AFTER: Duration = Duration::from_secs(5);

/// A move of all traffic: replace the nexthop group's one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch<T> {
    /// Where traffic went; none: nowhere.
    pub from: Option<T>,
    /// Where it goes; none: nowhere, until a tunnel is up.
    pub to: Option<T>,
    /// Why.
    pub why: Why,
}

/// Why traffic moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The active tunnel went down or was taken away.
    Lost,
    /// Traffic went nowhere, and a tunnel came up.
    Found,
    /// A preferred tunnel that had failed was up for long enough.
    Returned,
    /// A preferred tunnel came up for the first time.
    Preferred,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tunnel {
    /// Smaller is preferred.
    rank: usize,
    up_since: Option<Instant>,
    /// It was up and went down.
    fell: bool,
}

/// The machine. `T` names a tunnel.
#[derive(Debug)]
pub struct Failover<T> {
    tunnels: BTreeMap<T, Tunnel>,
    active: Option<T>,
    return_after: Duration,
}

impl<T: Ord + Copy> Default for Failover<T> {
    fn default() -> Self {
        Self::new(RETURN_AFTER)
    }
}

impl<T: Ord + Copy> Failover<T> {
    /// Without tunnels, and nowhere. `return_after` is usually [`RETURN_AFTER`].
    pub fn new(return_after: Duration) -> Self {
        Failover { tunnels: BTreeMap::new(), active: None, return_after }
    }

    /// Says which tunnels there are, the preferred first. One that is new is not up; one that
    /// is gone is left at once.
    pub fn set(&mut self, preferred: &[T], now: Instant) -> Option<Switch<T>> {
        let old = std::mem::take(&mut self.tunnels);
        for (rank, tunnel) in preferred.iter().enumerate() {
            let known =
                old.get(tunnel).copied().unwrap_or(Tunnel { rank, up_since: None, fell: false });
            self.tunnels.entry(*tunnel).or_insert(Tunnel { rank, ..known });
        }
        self.settle(now)
    }

    /// A tunnel came up or went down. One that is not known is ignored.
    pub fn report(&mut self, tunnel: T, up: bool, now: Instant) -> Option<Switch<T>> {
        let known = self.tunnels.get_mut(&tunnel)?;
        known.fell |= !up && known.up_since.is_some();
        known.up_since = match (up, known.up_since) {
            (true, None) => Some(now),
            (true, since) => since,
            (false, _) => None,
        };
        self.settle(now)
    }

    /// Call it at [`Failover::wake_at`].
    pub fn tick(&mut self, now: Instant) -> Option<Switch<T>> {
        self.settle(now)
    }

    /// When traffic returns to a preferred tunnel if nothing happens.
    pub fn wake_at(&self) -> Option<Instant> {
        let rank = self.tunnels.get(&self.active?)?.rank;
        let preferred = self.tunnels.values().filter(|tunnel| tunnel.rank < rank);
        preferred.filter_map(|tunnel| self.steady_at(tunnel)).min()
    }

    /// Where traffic goes.
    pub fn active(&self) -> Option<T> {
        self.active
    }

    /// Whether a tunnel is up.
    pub fn is_up(&self, tunnel: T) -> bool {
        self.tunnels.get(&tunnel).is_some_and(|tunnel| tunnel.up_since.is_some())
    }

    fn settle(&mut self, now: Instant) -> Option<Switch<T>> {
        let active_rank = self
            .active
            .filter(|active| self.is_up(*active))
            .and_then(|active| Some(self.tunnels.get(&active)?.rank));
        let (to, why) = match (self.active, active_rank) {
            (_, Some(rank)) => {
                let steady = |tunnel: &Tunnel| {
                    tunnel.rank < rank && self.steady_at(tunnel).is_some_and(|at| now >= at)
                };
                let to = self.best(steady)?;
                let fell = self.tunnels.get(&to).is_some_and(|tunnel| tunnel.fell);
                (Some(to), if fell { Why::Returned } else { Why::Preferred })
            }
            (Some(_), None) => (self.best(|tunnel| tunnel.up_since.is_some()), Why::Lost),
            (None, None) => (Some(self.best(|tunnel| tunnel.up_since.is_some())?), Why::Found),
        };
        let from = std::mem::replace(&mut self.active, to);
        Some(Switch { from, to, why })
    }

    /// From when on traffic may move to a tunnel although the active one is up.
    fn steady_at(&self, tunnel: &Tunnel) -> Option<Instant> {
        let since = tunnel.up_since?;
        Some(if tunnel.fell { since + self.return_after } else { since })
    }

    fn best(&self, fits: impl Fn(&Tunnel) -> bool) -> Option<T> {
        let fitting = self.tunnels.iter().filter(|(_, tunnel)| fits(tunnel));
        fitting.min_by_key(|(_, tunnel)| tunnel.rank).map(|(name, _)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn both_up(now: Instant) -> Failover<u8> {
        let mut machine = Failover::default();
        assert_eq!(machine.set(&[1, 2], now), None);
        let found = Switch { from: None, to: Some(1), why: Why::Found };
        assert_eq!(machine.report(1, true, now), Some(found));
        assert_eq!(machine.report(2, true, now), None);
        machine
    }

    #[test]
    fn away_at_once_and_back_by_hysteresis() {
        let now = Instant::now();
        let mut machine = both_up(now);
        let lost = Switch { from: Some(1), to: Some(2), why: Why::Lost };
        assert_eq!(machine.report(1, false, now + secs(9)), Some(lost));
        assert_eq!(machine.report(1, true, now + secs(10)), None);
        assert_eq!(machine.wake_at(), Some(now + secs(15)));
        assert_eq!(machine.tick(now + secs(14)), None);
        // It flaps: the time starts again.
        machine.report(1, false, now + secs(14));
        assert_eq!(machine.wake_at(), None);
        machine.report(1, true, now + secs(15));
        assert_eq!(machine.tick(now + secs(19)), None);
        let back = Switch { from: Some(2), to: Some(1), why: Why::Returned };
        assert_eq!(machine.tick(now + secs(20)), Some(back));
        assert_eq!(machine.wake_at(), None);
    }

    #[test]
    fn with_none_up_traffic_goes_nowhere_and_to_the_first_that_returns() {
        let now = Instant::now();
        let mut machine = both_up(now);
        machine.report(2, false, now);
        let lost = Switch { from: Some(1), to: None, why: Why::Lost };
        assert_eq!(machine.report(1, false, now), Some(lost));
        let found = Switch { from: None, to: Some(2), why: Why::Found };
        assert_eq!(machine.report(2, true, now), Some(found));
    }

    #[test]
    fn a_tunnel_that_is_taken_away_is_left_first() {
        let now = Instant::now();
        let mut machine = both_up(now);
        let lost = Switch { from: Some(1), to: Some(2), why: Why::Lost };
        assert_eq!(machine.set(&[2, 3], now), Some(lost));
        assert_eq!(machine.report(1, true, now), None, "not known any more");
        assert_eq!(machine.set(&[], now), Some(Switch { from: Some(2), to: None, why: Why::Lost }));
    }

    #[test]
    fn a_new_order_moves_traffic_only_to_what_is_steadily_up() {
        let now = Instant::now();
        let mut machine = both_up(now);
        machine.report(2, false, now);
        machine.report(2, true, now + secs(1));
        assert_eq!(machine.set(&[3, 2, 1], now + secs(2)), None);
        let back = Switch { from: Some(1), to: Some(2), why: Why::Returned };
        assert_eq!(machine.tick(now + secs(6)), Some(back));
    }

    #[test]
    fn at_the_start_the_nearest_wins_however_the_handshakes_race() {
        let now = Instant::now();
        let mut machine = Failover::default();
        machine.set(&[1, 2], now);
        machine.report(2, true, now);
        let preferred = Switch { from: Some(2), to: Some(1), why: Why::Preferred };
        assert_eq!(machine.report(1, true, now), Some(preferred));
    }

    #[derive(Debug, Clone)]
    enum Event {
        Report(u8, bool),
        Set(Vec<u8>),
        Wait(u64),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            4 => (0u8..4, any::<bool>()).prop_map(|(t, up)| Event::Report(t, up)),
            1 => Just(vec![0u8, 1, 2, 3]).prop_shuffle().prop_flat_map(|all| (0..=4usize).prop_map(move |n| Event::Set(all[..n].to_vec()))),
            2 => (0u64..8000).prop_map(Event::Wait),
        ];
        proptest::collection::vec(event, 0..60)
    }

    proptest! {
        /// Never at a tunnel that is down while another is up; a switch tells the truth; a
        /// working tunnel is left only for a preferred one that is steady.
        #[test]
        fn laws(events in events()) {
            let mut now = Instant::now();
            let mut machine = Failover::new(RETURN_AFTER);
            let mut order: Vec<u8> = Vec::new();
            let mut up: BTreeMap<u8, Instant> = BTreeMap::new();
            let mut fell: Vec<u8> = Vec::new();
            for event in events {
                let before = machine.active();
                let switch = match event {
                    Event::Report(tunnel, state) => {
                        if order.contains(&tunnel) {
                            if state {
                                up.entry(tunnel).or_insert(now);
                            } else if up.remove(&tunnel).is_some() {
                                fell.push(tunnel);
                            }
                        }
                        machine.report(tunnel, state, now)
                    }
                    Event::Set(tunnels) => {
                        up.retain(|tunnel, _| tunnels.contains(tunnel));
                        fell.retain(|tunnel| tunnels.contains(tunnel));
                        order = tunnels;
                        machine.set(&order, now)
                    }
                    Event::Wait(ms) => {
                        now += Duration::from_millis(ms);
                        machine.tick(now)
                    }
                };
                match machine.active() {
                    Some(active) => prop_assert!(up.contains_key(&active)),
                    None => prop_assert!(up.is_empty()),
                }
                prop_assert_eq!(switch.is_some(), before != machine.active());
                if let Some(switch) = switch {
                    prop_assert_eq!((switch.from, switch.to), (before, machine.active()));
                    let left_working = before.is_some_and(|b| up.contains_key(&b));
                    if let (true, Some(to)) = (left_working, switch.to) {
                        let rank = |t| order.iter().position(|o| *o == t);
                        prop_assert!(now - up[&to] >= RETURN_AFTER || !fell.contains(&to));
                        prop_assert!(rank(to) < before.and_then(rank));
                    }
                }
                prop_assert!(machine.wake_at().is_none_or(|at| at > now), "nothing is overdue");
            }
        }
    }
}
