//! When the distribution is restarted so that its certificates are renewed. Pure.
//!
//! Its certificates live 365 days. k3s renews them when it starts and at no other time, those with
//! less than 90 days left (120 since 2025; docs.k3s.io, "k3s certificate"), so a box that runs well
//! for a year would end with the year. A restart within the last 60 days renews all of them, and
//! leaves a site of several nodes the time to go one by one.
//!
//! A clock that is wrong must not restart anything again and again: a certificate that is not valid
//! yet, or an authority that is not valid any more (it lives ten years, and no restart renews it),
//! means that nothing is known; and each certificate is tried once in a while only.

use super::diagnose::Validity;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// With less left than this it is renewed: within the 90 days in which k3s does it.
pub const BEFORE: SignedDuration = SignedDuration::from_hours(60 * 24);
/// A restart that renewed nothing is not tried again before.
pub const AGAIN: SignedDuration = SignedDuration::from_hours(7 * 24);
/// The same while Kubernetes is not ready for an expired certificate. A restart costs nothing then.
pub const EXPIRED_AGAIN: SignedDuration = SignedDuration::from_hours(1);

/// A certificate for which the distribution was restarted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tried {
    /// Its file.
    pub path: PathBuf,
    /// When it ends: a renewed one ends later.
    pub to: Timestamp,
    /// When that was.
    pub at: Timestamp,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All of them last.
    Good,
    /// A restart, when it is this node's turn.
    Restart(Validity),
    /// A restart now: nothing works as it is.
    RestartAtOnce(Validity),
    /// A restart did not renew this one.
    Stuck(Validity),
}

/// The judgement. `down`: Kubernetes runs, and has not been ready for longer than a start takes.
pub fn judge(certificates: &[Validity], tried: &[Tried], down: bool, now: Timestamp) -> Verdict {
    let is_clock_wrong =
        certificates.iter().any(|one| now < one.from || (is_authority(one) && one.to <= now));
    if is_clock_wrong {
        return Verdict::Good;
    }
    let Some(first) = ending(certificates, now).min_by_key(|one| one.to) else {
        return Verdict::Good;
    };
    let expired = down && first.to <= now;
    let pause = if expired { EXPIRED_AGAIN } else { AGAIN };
    // Times in the future, as after a clock went back, count by their distance.
    let recently = |one: &Validity| {
        tried.iter().any(|tried| {
            tried.path == one.path
                && tried.to == one.to
                && now.duration_since(tried.at).abs() < pause
        })
    };
    match ending(certificates, now).find(|one| !recently(one)) {
        Some(_) if expired => Verdict::RestartAtOnce(first.clone()),
        Some(one) => Verdict::Restart(one.clone()),
        None => Verdict::Stuck(first.clone()),
    }
}

/// What is written down before the restart: every certificate that it has to renew.
pub fn remember(certificates: &[Validity], now: Timestamp) -> Vec<Tried> {
    let tried = |one: &Validity| Tried { path: one.path.clone(), to: one.to, at: now };
    ending(certificates, now).map(tried).collect()
}

fn ending(certificates: &[Validity], now: Timestamp) -> impl Iterator<Item = &Validity> {
    certificates.iter().filter(move |one| !is_authority(one) && one.to < now + BEFORE)
}

/// `server-ca.crt`, `client-ca.nochain.crt`: k3s makes authorities once and names them so.
fn is_authority(one: &Validity) -> bool {
    one.path.file_name().is_some_and(|name| name.to_string_lossy().contains("-ca."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(day * 86_400).unwrap()
    }

    fn valid(name: &str, from: i64, to: i64) -> Validity {
        Validity { path: name.into(), from: at(from), to: at(to) }
    }

    #[test]
    fn it_is_restarted_sixty_days_before_the_first_ends() {
        let all = [valid("a.crt", 0, 365), valid("b.crt", 0, 400), valid("x-ca.crt", 0, 500)];
        let soon = at(365) - BEFORE;
        assert_eq!(judge(&all, &[], false, soon), Verdict::Good);
        let late = soon + DAY;
        assert_eq!(judge(&all, &[], false, late), Verdict::Restart(all[0].clone()));
        let tried = remember(&all, late);
        assert_eq!(tried.len(), 1);
        assert_eq!(judge(&all, &tried, false, late + DAY), Verdict::Stuck(all[0].clone()));
        let again = late + AGAIN;
        assert_eq!(judge(&all, &tried, false, again), Verdict::Restart(all[0].clone()));
        let renewed = [valid("a.crt", 0, 700), all[1].clone(), all[2].clone()];
        assert_eq!(judge(&renewed, &tried, false, late), Verdict::Good);
    }

    #[test]
    fn an_expired_one_is_renewed_at_once_and_not_again_and_again() {
        let all = [valid("a.crt", 0, 365)];
        let now = at(366);
        assert_eq!(judge(&all, &[], true, now), Verdict::RestartAtOnce(all[0].clone()));
        assert_eq!(judge(&all, &[], false, now), Verdict::Restart(all[0].clone()), "it serves");
        let tried = remember(&all, now);
        assert_eq!(judge(&all, &tried, true, now), Verdict::Stuck(all[0].clone()));
        let later = now + EXPIRED_AGAIN;
        assert_eq!(judge(&all, &tried, true, later), Verdict::RestartAtOnce(all[0].clone()));
    }

    #[test]
    fn a_wrong_clock_restarts_nothing() {
        let all = [valid("a.crt", 100, 465), valid("server-ca.crt", 100, 3750)];
        assert_eq!(judge(&all, &[], true, at(0)), Verdict::Good, "1970");
        assert_eq!(judge(&all, &[], true, at(4000)), Verdict::Good, "the authority is over too");
        assert_eq!(judge(&[], &[], true, at(4000)), Verdict::Good);
    }

    proptest! {
        /// However the clock jumps within a day or so, and if no restart ever renews anything:
        /// a certificate costs one restart in a while.
        #[test]
        fn what_is_never_renewed_does_not_restart_forever(
            jumps in proptest::collection::vec(-3600i64..3600, 1..60),
            days in 0i64..500,
        ) {
            let all = [valid("a.crt", 0, 365), valid("b.crt", 0, 366)];
            let (mut tried, mut restarts) = (Vec::new(), 0);
            let begin = at(days);
            for jump in jumps {
                let now = begin + SignedDuration::from_secs(jump / 4);
                match judge(&all, &tried, true, now) {
                    Verdict::Restart(_) | Verdict::RestartAtOnce(_) => {
                        (tried, restarts) = (remember(&all, now), restarts + 1);
                    }
                    Verdict::Good | Verdict::Stuck(_) => {}
                }
            }
            prop_assert!(restarts <= 2, "{restarts}");
        }
    }
}
