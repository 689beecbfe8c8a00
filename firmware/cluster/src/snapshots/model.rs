//! Snapshots as values: what there is here and in the storage, and what is asked for.

use holdfast_api::kubernetes::SnapshotPolicy;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What the names of our snapshots begin with. Others are never touched.
pub const MARK: &str = "holdfast-";

/// A stamp in the storage that is further ahead of the clock, and of all that is on the node, is not
/// one of its own: a year. Whoever may write to the storage could otherwise take all stamps away
/// with one object, and crowd out all snapshots with a few.
const FAR_AHEAD: u64 = 366 * 86400;

/// A snapshot's place in the order of all snapshots of a node.
///
/// It is the time in seconds since 1970 as long as the clock runs forward, and one more than the
/// newest one that is known when it does not. So the order survives a clock that jumps, and a node
/// that lost its state does not begin below what the storage still has.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The one after `newest`.
    pub fn next(newest: Option<Stamp>, now: Timestamp) -> Stamp {
        let clock = u64::try_from(now.as_second()).unwrap_or_default();
        Stamp(newest.map_or(clock, |newest| clock.max(newest.0.saturating_add(1))))
    }

    /// What the distribution is told to call the snapshot. No two snapshots of a node have the same
    /// one, so the distribution's own retention, which goes by this name, finds nothing to remove.
    pub fn base_name(self) -> String {
        format!("{MARK}{:010}", self.0)
    }

    /// Out of a file's name, `holdfast-<stamp>-<node>-<time>` with any ending; none when the file
    /// is not ours.
    pub fn of_name(name: &str) -> Option<Stamp> {
        let rest = name.strip_prefix(MARK)?;
        let (digits, _) = rest.split_once('-')?;
        // Ten of them last until the year 2286.
        let all_digits = digits.len() == 10 && digits.bytes().all(|byte| byte.is_ascii_digit());
        all_digits.then(|| digits.parse().ok().map(Stamp)).flatten()
    }
}

/// Why a snapshot is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// It was time.
    Interval,
    /// Before a release, named.
    Release(String),
    /// Before the distribution becomes this version.
    Upgrade(String),
    /// Somebody asked.
    Asked,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Interval => f.write_str("it is time"),
            Why::Release(release) => write!(f, "before release {release}"),
            Why::Upgrade(version) => write!(f, "before the upgrade to {version}"),
            Why::Asked => f.write_str("asked for"),
        }
    }
}

/// [`SnapshotPolicy`], within its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Between two snapshots, 1 h to 168 h.
    pub interval: Duration,
    /// How much sooner than the interval one is taken, a node's own part of a tenth of it, so that
    /// nodes of many sites do not write to one storage at the same moment.
    pub jitter: Duration,
    /// How many are kept in each place, 1 to 100.
    pub keep: usize,
    /// Between two drills; no drills when absent.
    pub drill: Option<Duration>,
}

impl Policy {
    /// What a node of this name does under `policy`.
    pub fn of(policy: &SnapshotPolicy, node: &str) -> Self {
        let hours = |hours: u32| Duration::from_secs(u64::from(hours) * 3600);
        let interval = hours(policy.interval_hours.clamp(1, 168));
        let digest = ring::digest::digest(&ring::digest::SHA256, node.as_bytes());
        let share = u32::from(digest.as_ref().first().copied().unwrap_or_default());
        Policy {
            interval,
            jitter: interval / 10 * share / 256,
            keep: policy.keep.clamp(1, 100) as usize,
            drill: (policy.drill_hours > 0).then(|| hours(policy.drill_hours.min(8760))),
        }
    }
}

/// A snapshot on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Its file's name.
    pub name: String,
    /// Its place in the order.
    pub stamp: Stamp,
    /// When it was taken, by the clock of that moment.
    pub taken: Timestamp,
    /// Bytes.
    pub bytes: u64,
    /// Whole when it was last looked at.
    pub good: bool,
}

/// A snapshot in the storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Its object's name, without folders.
    pub name: String,
    /// Its place in the order.
    pub stamp: Stamp,
    /// When it was stored, by the storage's clock.
    pub stored: Timestamp,
    /// Bytes.
    pub bytes: u64,
}

/// Attempts that failed since the last one that did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failures {
    /// When the last one failed.
    pub at: Timestamp,
    /// How many.
    pub count: u32,
}

/// The last drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drilled {
    /// When it ended.
    pub at: Timestamp,
    /// Of which snapshot.
    pub stamp: Stamp,
    /// It could not be made (too little memory): tried again soon.
    pub skipped: bool,
}

/// All that a plan looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Have {
    /// Ours on this node, in any order.
    pub local: Vec<Local>,
    /// Ours in the storage; none when nothing is stored there or it does not answer.
    pub remote: Option<Vec<Remote>>,
    /// Snapshots that failed.
    pub take_failures: Option<Failures>,
    /// Ways to the storage that failed.
    pub store_failures: Option<Failures>,
    /// The last drill.
    pub drilled: Option<Drilled>,
}

impl Have {
    /// The newest one that is whole.
    pub fn newest_good(&self) -> Option<&Local> {
        self.local.iter().filter(|one| one.good).max_by_key(|one| one.stamp)
    }

    /// The stamp of the next snapshot: after all that are known, but for what cannot be one of this
    /// node's.
    pub fn next_stamp(&self, now: Timestamp) -> Stamp {
        let remote = self.believable(now).map(|one| one.stamp);
        Stamp::next(self.local.iter().map(|one| one.stamp).chain(remote).max(), now)
    }

    /// What there is in the storage, but for what cannot be one of this node's.
    pub fn believable(&self, now: Timestamp) -> impl Iterator<Item = &Remote> {
        let local = self.local.iter().map(|one| one.stamp).max();
        let bound = Stamp::next(local, now).0.saturating_add(FAR_AHEAD);
        self.remote.iter().flatten().filter(move |one| one.stamp.0 <= bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back_from_the_names_it_gets() {
        let stamp = Stamp(1_732_243_018);
        assert_eq!(stamp.base_name(), "holdfast-1732243018");
        for name in ["holdfast-1732243018-node-1-1732243019", "holdfast-1732243018-n-1.tar.gz.age"]
        {
            assert_eq!(Stamp::of_name(name), Some(stamp));
        }
        assert_eq!(Stamp::of_name(&format!("{}-n", Stamp(7).base_name())), Some(Stamp(7)));
        for other in
            ["on-demand-n-1732243018", "holdfast-1732243018", "holdfast-12-n", "holdfast-x-n"]
                .into_iter()
                .chain(["holdfast-18446744073709551615-n", "holdfast-10000000000-n"])
        {
            assert_eq!(Stamp::of_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_clock_that_went_back_does_not_take_the_order_along() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(Stamp::next(None, at(100)), Stamp(100));
        assert_eq!(Stamp::next(Some(Stamp(50)), at(100)), Stamp(100));
        assert_eq!(Stamp::next(Some(Stamp(100)), at(100)), Stamp(101));
        assert_eq!(Stamp::next(Some(Stamp(900)), at(100)), Stamp(901));
        assert_eq!(Stamp::next(None, at(-5)), Stamp(0));
    }

    #[test]
    fn one_object_of_somebody_else_does_not_take_all_stamps_away() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let local = |stamp| Local {
            name: String::new(),
            stamp: Stamp(stamp),
            taken: now,
            bytes: 1,
            good: true,
        };
        let remote =
            |stamp| Remote { name: String::new(), stamp: Stamp(stamp), stored: now, bytes: 1 };
        let mut have = Have {
            remote: Some(vec![remote(9_999_999_999), remote(1_800_000_100)]),
            ..Have::default()
        };
        assert_eq!(have.next_stamp(now), Stamp(1_800_000_101));
        // The clock had been ahead, and the node's own snapshots are of then.
        have.local.push(local(5_000_000_000));
        have.remote = Some(vec![remote(9_999_999_999), remote(5_000_000_003)]);
        assert_eq!(have.next_stamp(now), Stamp(5_000_000_004));
    }

    #[test]
    fn a_policy_stays_within_its_bounds() {
        let wild =
            SnapshotPolicy { interval_hours: 0, keep: 0, drill_hours: 0, ..Default::default() };
        let policy = Policy::of(&wild, "n");
        assert_eq!(policy.interval, Duration::from_secs(3600));
        assert_eq!((policy.keep, policy.drill), (1, None));
        assert!(policy.jitter < policy.interval / 10);
        let usual = SnapshotPolicy::default();
        assert_ne!(Policy::of(&usual, "a").jitter, Policy::of(&usual, "b").jitter);
    }
}
