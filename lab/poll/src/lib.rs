//! Waiting for what nobody announces: it is looked at again and again, never without a deadline.
//!
//! For tests and the laboratory. Where there is something to wait on (a channel, a child, a
//! condition variable), wait on that. An attempt is made at least once, and once more when the time
//! is over, so that a machine that is too busy to look does not make a test fail. [`until`] and
//! [`holds`] fail by a panic at the caller's line, with what was waited for and how it stood.
#![warn(missing_docs)]

use std::fmt::Debug;
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

/// The pause between two attempts.
pub const TICK: Duration = Duration::from_millis(10);

/// Tries every [`TICK`] until it succeeds.
///
/// # Errors
/// The last attempt's, when `patience` is over.
pub fn retry<T, E>(patience: Duration, mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let deadline = Instant::now() + patience;
    loop {
        let is_last = Instant::now() >= deadline;
        match attempt() {
            Err(_) if !is_last => std::thread::sleep(TICK),
            answer => return answer,
        }
    }
}

/// Tries until it succeeds.
///
/// # Panics
/// Every attempt within `patience` failed.
#[track_caller]
pub fn until<T, E: Debug>(
    what: &str,
    patience: Duration,
    attempt: impl FnMut() -> Result<T, E>,
) -> T {
    match retry(patience, attempt) {
        Ok(done) => done,
        Err(last) => panic!("not within {patience:?}: {what}: {last:?}"),
    }
}

/// Looks until it holds.
///
/// # Panics
/// It does not within `patience`.
#[track_caller]
pub fn holds(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    let kept = retry(patience, || if condition() { Ok(()) } else { Err(()) });
    assert!(kept.is_ok(), "not within {patience:?}: {what}");
}

/// As [`until`], for async work; an attempt that hangs is given up at the end.
///
/// # Panics
/// Every attempt within `patience` failed.
pub async fn until_async<T, E: Debug>(
    what: &str,
    patience: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let mut last = None;
    let tried = tokio::time::timeout(patience, async {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match attempt().await {
                Ok(done) => return done,
                Err(error) => last = Some(error),
            }
        }
    })
    .await;
    match (tried, last) {
        (Ok(done), _) => done,
        (Err(_), Some(last)) => panic!("not within {patience:?}: {what}: {last:?}"),
        (Err(_), None) => panic!("not within {patience:?}: {what}: no answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_until_it_succeeds_and_at_least_once() {
        let mut attempts = 0..;
        let third = |count| if count == 2 { Ok(count) } else { Err(count) };
        assert_eq!(
            until("the third", Duration::from_secs(60), || third(attempts.next().unwrap())),
            2
        );
        assert_eq!(retry(Duration::ZERO, || third(0)), Err(0));
        assert_eq!(retry(Duration::ZERO, || third(2)), Ok(2));
    }

    #[test]
    #[should_panic(expected = "not within 30ms: it rains: \"dry\"")]
    fn what_does_not_come_is_told_with_how_it_stood() {
        until("it rains", Duration::from_millis(30), || Err::<(), _>("dry"));
    }

    #[test]
    #[should_panic(expected = "not within 0ns: it rains")]
    fn a_condition_that_does_not_hold_is_told() {
        holds("it rains", Duration::ZERO, || false);
    }

    #[tokio::test]
    async fn async_work_is_tried_until_it_succeeds() {
        let mut attempts = 0..;
        let third = async || match attempts.next().unwrap() {
            2 => Ok("done"),
            count => Err(count),
        };
        assert_eq!(until_async("the third", Duration::from_secs(60), third).await, "done");
    }

    #[tokio::test]
    #[should_panic(expected = "not within 1ms: an answer: no answer")]
    async fn an_attempt_that_hangs_is_given_up() {
        let hangs = async || std::future::pending::<Result<(), ()>>().await;
        until_async("an answer", Duration::from_millis(1), hangs).await;
    }
}
