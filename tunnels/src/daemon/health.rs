//! Which edges can be used, from probes and from the tunnels that stand. Pure.
//!
//! * An edge is *dead for good* when its tunnel is down for three seconds and no probe is
//!   answered. A tunnel that only hiccups is left to failover.
//! * An edge whose tunnel passes no data for fifteen seconds although probes are answered
//!   counts as dead as well, and is left alone for five minutes: its probes would look alive
//!   as soon as it is not held any more.

use crate::probe::Measured;
use crate::select::Health;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Down for so long, and silent: dead. More than BFD needs to come up again after a hiccup.
pub(super) const DEAD_AFTER: Duration = Duration::from_secs(3);
/// Down for so long although probes are answered. The edge may learn of a new node late.
pub(super) const NO_DATA_AFTER: Duration = Duration::from_secs(15);
/// How long such an edge is left alone.
pub(super) const SHUN: Duration = Duration::from_secs(300);

/// Since when the tunnel to an edge is in its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TunnelSince {
    /// Data passes.
    pub(super) up: bool,
    /// Since when.
    pub(super) since: Instant,
}

/// Remembers which edges are left alone.
#[derive(Debug, Default)]
pub(super) struct Doctor {
    shunned: BTreeMap<String, Instant>,
}

impl Doctor {
    /// Judges an edge.
    pub(super) fn judge(
        &mut self,
        edge: &str,
        measured: Option<Measured>,
        tunnel: Option<TunnelSince>,
        now: Instant,
    ) -> Health {
        if tunnel.is_some_and(|tunnel| tunnel.up) {
            self.shunned.remove(edge);
            return Health::Alive;
        }
        self.shunned.retain(|_, until| *until > now);
        if self.shunned.contains_key(edge) {
            return Health::Dead;
        }
        let answers = measured.is_some_and(|measured| measured.rtt.is_some());
        let known = measured.is_some_and(|measured| measured.known);
        let down_for = tunnel.map(|tunnel| now.saturating_duration_since(tunnel.since));
        match down_for {
            Some(down) if answers && down >= NO_DATA_AFTER => {
                self.shunned.insert(edge.to_string(), now + SHUN);
                Health::Dead
            }
            Some(down) if !answers && known && down >= DEAD_AFTER => Health::Dead,
            Some(_) if !answers => Health::Unknown,
            None if !answers && known => Health::Dead,
            None if !answers => Health::Unknown,
            Some(_) | None => Health::Alive,
        }
    }

    /// When a judgement changes by time alone, for tunnels that are down `since`.
    pub(super) fn wake_at(
        &self,
        down_since: impl Iterator<Item = Instant>,
        now: Instant,
    ) -> Option<Instant> {
        let deadlines = down_since.flat_map(|since| [since + DEAD_AFTER, since + NO_DATA_AFTER]);
        deadlines.chain(self.shunned.values().copied()).filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn measured(rtt_ms: Option<u64>, known: bool) -> Option<Measured> {
        Some(Measured {
            rtt: rtt_ms.map(Duration::from_millis),
            known,
            answered_at: None,
            sent: 1,
            lost: 0,
        })
    }

    #[test]
    fn without_a_tunnel_the_probes_decide() {
        let (mut doctor, now) = (Doctor::default(), Instant::now());
        assert_eq!(doctor.judge("a", measured(Some(5), true), None, now), Health::Alive);
        assert_eq!(doctor.judge("a", measured(None, false), None, now), Health::Unknown);
        assert_eq!(doctor.judge("a", measured(None, true), None, now), Health::Dead);
        assert_eq!(doctor.judge("a", None, None, now), Health::Unknown);
    }

    #[test]
    fn dead_for_good_is_down_and_silent_for_three_seconds() {
        let (mut doctor, now) = (Doctor::default(), Instant::now());
        let down = Some(TunnelSince { up: false, since: now });
        let silent = measured(None, true);
        assert_ne!(doctor.judge("a", silent, down, now + S(2)), Health::Dead);
        assert_eq!(doctor.wake_at([now].into_iter(), now), Some(now + S(3)));
        assert_eq!(doctor.judge("a", silent, down, now + S(3)), Health::Dead);
        assert_eq!(doctor.judge("a", measured(Some(5), true), down, now + S(4)), Health::Alive);
        let up = Some(TunnelSince { up: true, since: now });
        assert_eq!(
            doctor.judge("a", silent, up, now + S(9)),
            Health::Alive,
            "data passes: probes are filtered"
        );
    }

    #[test]
    fn one_that_answers_and_passes_no_data_is_left_alone_for_a_while() {
        let (mut doctor, now) = (Doctor::default(), Instant::now());
        let answers = measured(Some(5), true);
        let down = Some(TunnelSince { up: false, since: now });
        assert_eq!(doctor.judge("a", answers, down, now + S(14)), Health::Alive);
        assert_eq!(doctor.judge("a", answers, down, now + S(15)), Health::Dead);
        assert_eq!(
            doctor.judge("a", answers, None, now + S(16)),
            Health::Dead,
            "not held any more"
        );
        assert_eq!(doctor.judge("b", answers, None, now + S(16)), Health::Alive);
        assert_eq!(doctor.wake_at(std::iter::empty(), now), Some(now + S(315)));
        assert_eq!(doctor.judge("a", answers, None, now + S(315)), Health::Alive);
    }
}
