//! Waiting for something that the manager reports: looks again and again, tells every change on
//! standard error, ends when it is there, cannot come any more, or the time is over.

use crate::failure::Failure;
use crate::manager::{Answer, Manager};
use crate::units::{clean, since_start};
use holdfast_api::Reason;
use serde::de::DeserializeOwned;
use std::time::{Duration, Instant};

/// Between two looks: short beside what a person notices, long beside what a look costs the
/// manager.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What one look says.
pub(super) enum Verdict {
    /// It is there.
    Reached,
    /// Not yet; the failure to end with when the time is over.
    NotYet(Failure),
    /// Waiting cannot help.
    Hopeless(Failure),
}

/// What is asked, and for how long.
pub(super) struct Wait<'a> {
    pub(super) manager: &'a Manager,
    pub(super) path: &'static str,
    pub(super) timeout: Duration,
    /// Refusals of the manager that may pass. A manager that is away is waited for always.
    pub(super) patient: &'a [Reason],
}

impl Wait<'_> {
    /// Looks until `judge` has reached a verdict; it is given the answer and the time since the
    /// wait began. `progress` is told whenever it changes.
    pub(super) async fn until<T: DeserializeOwned>(
        &self,
        progress: impl Fn(&T) -> String,
        mut judge: impl FnMut(&T, Duration) -> Verdict,
    ) -> Result<Answer<T>, Failure> {
        let begun = Instant::now();
        let mut told = String::new();
        loop {
            let look = self.manager.get::<T>(self.path).await;
            let news = match &look {
                Ok(answer) => progress(&answer.known),
                Err(failure) => clean(&failure.problem().message),
            };
            let elapsed = begun.elapsed();
            if news != told {
                let at = since_start(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
                eprintln!("{at:>8}  {news}");
                told = news;
            }
            let over = elapsed >= self.timeout;
            match look {
                Ok(answer) => match judge(&answer.known, elapsed) {
                    Verdict::Reached => return Ok(answer),
                    Verdict::Hopeless(failure) => return Err(failure),
                    Verdict::NotYet(failure) if over => return Err(failure),
                    Verdict::NotYet(_) => {}
                },
                Err(failure) if over || !self.may_pass(&failure) => return Err(failure),
                Err(_) => {}
            }
            tokio::time::sleep(LOOK_EVERY.min(self.timeout.saturating_sub(elapsed))).await;
        }
    }

    fn may_pass(&self, failure: &Failure) -> bool {
        failure.reason().is_some_and(|reason| {
            reason == Reason::ManagerUnreachable || self.patient.contains(&reason)
        })
    }
}

/// Seconds, or a number with `s`, `m` or `h`; at most 30 days.
pub(super) fn parse_span(typed: &str) -> Result<Duration, String> {
    let digits = typed.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &typed[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("a number of seconds, or one with s, m or h behind it".into()),
    };
    let number: u32 = digits.parse().map_err(|_| "it does not begin with a whole number")?;
    let seconds = u64::from(number) * unit;
    if seconds > 30 * 86400 {
        return Err("at most 30 days".into());
    }
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_in_every_spelling() {
        for (typed, seconds) in [("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600), ("0", 0)] {
            assert_eq!(parse_span(typed), Ok(Duration::from_secs(seconds)));
        }
        for typed in ["", "s", "-1s", "1.5s", "1d", "99999999h", "4294967296", "5\u{fc}"] {
            assert!(parse_span(typed).is_err(), "{typed}");
        }
    }
}
