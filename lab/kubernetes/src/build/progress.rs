//! What a build tells while it goes on.

use std::fmt;
use std::time::Duration;

/// Something to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Another program builds at this moment.
    Waiting,
    /// It begins.
    Begins {
        /// How long it takes on this machine when nothing else runs.
        estimate: Duration,
    },
    /// A step begins.
    Step {
        /// What is done in it.
        what: &'static str,
    },
    /// The long step goes on.
    Compiling {
        /// Packages of Go that are compiled.
        done: usize,
        /// All of them.
        total: usize,
        /// How long the rest takes, from how long the first took.
        left: Option<Duration>,
    },
    /// It is there.
    Done {
        /// How long it took.
        took: Duration,
    },
}

/// Seconds of processor time of the whole compilation, measured.
const COMPILE_CPU_SECS: u64 = 520;

/// Seconds of the other steps.
const OTHER_SECS: u64 = 70;

/// How long a build from nothing takes here.
pub(super) fn estimate() -> Duration {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    Duration::from_secs(OTHER_SECS + COMPILE_CPU_SECS / cores)
}

/// What is left when `done` of `total` took `spent`; nothing while it would be guesswork.
pub(super) fn left(done: usize, total: usize, spent: Duration) -> Option<Duration> {
    let (done, total) = (u32::try_from(done).ok()?, u32::try_from(total).ok()?);
    (done * 10 >= total && done <= total).then(|| spent * (total - done) / done.max(1))
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => write!(f, "another program is building; waiting for it"),
            Self::Begins { estimate } => write!(
                f,
                "building Kubernetes from Debian's sources, once: about {} on an idle machine",
                Span(*estimate)
            ),
            Self::Step { what } => write!(f, "{what}"),
            Self::Compiling { done, total, left: None } => {
                write!(f, "compiling: {done} of {total}")
            }
            Self::Compiling { done, total, left: Some(left) } => {
                write!(f, "compiling: {done} of {total}, about {} left", Span(*left))
            }
            Self::Done { took } => write!(f, "Kubernetes is built, in {}", Span(*took)),
        }
    }
}

/// A time for people.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            seconds @ 0..=89 => write!(f, "{seconds} s"),
            seconds => write!(f, "{} min", (seconds + 30) / 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_is_left_shrinks(done in 1usize..2000, more in 0usize..2000, spent in 1u64..10_000) {
            let total = done + more;
            let spent = Duration::from_secs(spent);
            if let (Some(now), Some(later)) = (left(done, total, spent), left((done + 1).min(total), total, spent)) {
                proptest::prop_assert!(later <= now);
            }
            proptest::prop_assert_eq!(left(total, total, spent), Some(Duration::ZERO));
        }
    }

    #[test]
    fn people_can_read_it() {
        let compiling =
            Progress::Compiling { done: 430, total: 1300, left: Some(Duration::from_secs(185)) };
        assert_eq!(compiling.to_string(), "compiling: 430 of 1300, about 3 min left");
        assert_eq!(left(5, 1300, Duration::from_secs(9)), None);
    }
}
