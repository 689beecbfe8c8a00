//! Whether a damaged datastore is restored without asking: pure.
//!
//! Only where there is one server: with more, the others have the datastore, and a restore by one
//! of them would take back what the others agreed on. The newest good snapshot is tried first; one
//! that was restored less than an hour ago did not last, so the next older one is tried.

use super::model::{Local, Stamp};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A snapshot that was restored and did not last this long is not tried again.
pub const TRIED_RECENTLY: SignedDuration = SignedDuration::from_hours(1);

/// A restore that the manager began by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tried {
    /// Of which snapshot.
    pub stamp: Stamp,
    /// When.
    pub at: Timestamp,
}

/// What is to be done about a damaged datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// This snapshot is restored.
    Restore {
        /// Its name.
        name: String,
        /// Its place in the order.
        stamp: Stamp,
    },
    /// An operator has to decide.
    Leave(Leave),
}

/// Why nothing is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// The site has other servers.
    OtherServers,
    /// There is no good snapshot on this node.
    NoSnapshot,
    /// All of them were tried within the last hour.
    AllTried,
}

impl fmt::Display for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Leave::OtherServers => "the site has other servers; replace this one",
            Leave::NoSnapshot => "no good snapshot is on this node; restore a portable one",
            Leave::AllTried => "every snapshot on this node was tried within the last hour",
        })
    }
}

/// The decision. Moments in the future, as after a clock went back, count by their distance.
pub fn decide(single_server: bool, local: &[Local], tried: &[Tried], now: Timestamp) -> Decision {
    if !single_server {
        return Decision::Leave(Leave::OtherServers);
    }
    let mut good: Vec<&Local> = local.iter().filter(|one| one.good).collect();
    if good.is_empty() {
        return Decision::Leave(Leave::NoSnapshot);
    }
    good.sort_by_key(|one| std::cmp::Reverse(one.stamp));
    let recently = |stamp: Stamp| {
        tried
            .iter()
            .any(|one| one.stamp == stamp && now.duration_since(one.at).abs() < TRIED_RECENTLY)
    };
    match good.into_iter().find(|one| !recently(one.stamp)) {
        Some(one) => Decision::Restore { name: one.name.clone(), stamp: one.stamp },
        None => Decision::Leave(Leave::AllTried),
    }
}

/// `tried` with one more, without those that no decision looks at any more.
pub fn remember(tried: &[Tried], stamp: Stamp, now: Timestamp) -> Vec<Tried> {
    let recent = tried.iter().filter(|one| now.duration_since(one.at).abs() < TRIED_RECENTLY);
    recent.cloned().chain([Tried { stamp, at: now }]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn local(stamp: u64, good: bool) -> Local {
        Local {
            name: format!("{}-n-1", Stamp(stamp).base_name()),
            stamp: Stamp(stamp),
            taken: Timestamp::UNIX_EPOCH,
            bytes: 1,
            good,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn restores(decision: &Decision) -> Option<u64> {
        match decision {
            Decision::Restore { stamp, .. } => Some(stamp.0),
            Decision::Leave(_) => None,
        }
    }

    #[test]
    fn each_snapshot_is_tried_once_from_the_newest_on() {
        let have = [local(1, true), local(3, true), local(2, true), local(4, false)];
        let mut tried = Vec::new();
        for want in [Some(3), Some(2), Some(1), None] {
            let decision = decide(true, &have, &tried, at(1000));
            assert_eq!(restores(&decision), want);
            if let Decision::Restore { stamp, .. } = decision {
                tried = remember(&tried, stamp, at(1000));
            }
        }
        assert_eq!(decide(true, &have, &tried, at(1000)), Decision::Leave(Leave::AllTried));
        assert_eq!(restores(&decide(true, &have, &tried, at(1000 + 3600))), Some(3));
        assert_eq!(restores(&decide(true, &have, &tried, at(1000 - 3600))), Some(3));
    }

    #[test]
    fn nothing_is_done_with_other_servers_or_without_a_snapshot() {
        let have = [local(1, true)];
        assert_eq!(decide(false, &have, &[], at(0)), Decision::Leave(Leave::OtherServers));
        let have = [local(1, false)];
        assert_eq!(decide(true, &have, &[], at(0)), Decision::Leave(Leave::NoSnapshot));
    }

    proptest! {
        /// However often the datastore is damaged and whatever the clock does within the hour, no
        /// snapshot is restored twice, and the attempts end.
        #[test]
        fn a_datastore_that_is_damaged_forever_is_not_restored_forever(
            stamps in proptest::collection::btree_set(1u64..1000, 0..8),
            times in proptest::collection::vec(0i64..3600, 1..30),
        ) {
            let have: Vec<_> = stamps.iter().map(|stamp| local(*stamp, true)).collect();
            let mut tried = Vec::new();
            let mut seen = Vec::new();
            for time in times {
                if let Decision::Restore { stamp, .. } = decide(true, &have, &tried, at(time)) {
                    prop_assert!(!seen.contains(&stamp));
                    seen.push(stamp);
                    tried = remember(&tried, stamp, at(time));
                }
            }
            prop_assert!(seen.len() <= have.len());
            prop_assert!(seen.windows(2).all(|pair| pair[0] > pair[1]));
        }
    }
}
