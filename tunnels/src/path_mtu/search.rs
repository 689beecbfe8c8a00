//! The search for the largest packet that passes (RFC 8899): a machine without clock or socket.
//!
//! ```text
//!            answered                    bounds meet
//!   Base ───────────────► Searching ───────────────► Complete
//!    ▲ │ silence              ▲                       │   │
//!    │ ▼                      └───────────────────────┘   │ what passed
//!   Error                            after ten minutes    │ passes no more
//!    ▲                                                    │
//!    └──────────────────── Base ◄─────────────────────────┘
//! ```
//!
//! Sizes are those of packets inside the tunnel: what is sealed around them is always the same.
//! Until something did *not* pass nothing is said, so that on a common path nothing changes; then
//! it is the least size until the search is over. A path that was gone and comes back is mostly the
//! same: first it is tried whether it takes what it took, and then whether it takes all.

use crate::random::Random;
use std::time::{Duration, Instant};

/// `BASE_PLPMTU`, and `MIN_PLPMTU` as well: IPv6 needs it (RFC 8200 §5), so no link has less.
pub const LEAST: u16 = 1280;
/// `MAX_PROBES`: so many without an answer, and the size does not pass (RFC 8899 §5.1.2).
const MOST_PROBES: u32 = 3;
/// `PROBE_TIMER`, not to be less than a second (RFC 8899 §5.1.1).
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// `CONFIRMATION_TIMER`: how often it is seen whether what passed still does.
const CONFIRM: Duration = Duration::from_secs(30);
/// `PMTU_RAISE_TIMER`.
const RAISE: Duration = Duration::from_secs(600);
/// How long somebody who does not answer is left alone.
const PAUSE: Duration = Duration::from_secs(60);
/// The search ends when it is known so exactly.
const STEP: u16 = 4;

/// Where the search is, as RFC 8899 §5.2 names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Data does not pass; nothing is asked.
    Disabled,
    /// It is asked whether the least size passes, and whether anybody answers.
    Base,
    /// It is somewhere between two sizes.
    Searching,
    /// It is found, and watched.
    Complete,
    /// Not even the least size is answered.
    Error,
}

/// A packet to be sent, of `bytes` bytes in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The size that is tried.
    pub bytes: u16,
    /// To be repeated by the answer.
    pub nonce: u64,
}

/// A size that is being tried.
#[derive(Debug, Clone, Copy)]
struct Trial {
    ask: Ask,
    sent: u32,
    due: Instant,
}

/// What was known of a path that was gone, until it is known whether it still holds.
#[derive(Debug, Clone, Copy)]
struct Before {
    passed: u16,
    failed: u16,
}

/// The search on one path.
#[derive(Debug)]
pub struct Search {
    phase: Phase,
    most: u16,
    /// The largest that passed and the smallest that did not, if any.
    low: u16,
    high: Option<u16>,
    trial: Option<Trial>,
    /// When the next trial begins.
    next: Instant,
    raise_at: Instant,
    mtu: Option<u16>,
    before: Option<Before>,
    random: Random,
}

impl Search {
    /// On a path that may take up to `most` bytes; it begins with [`Search::set_up`]. `seed` drives
    /// nonces.
    pub fn new(most: u16, seed: u64, now: Instant) -> Self {
        Search {
            phase: Phase::Disabled,
            most: most.max(LEAST),
            low: LEAST,
            high: None,
            trial: None,
            next: now,
            raise_at: now,
            mtu: None,
            before: None,
            random: Random::new(seed),
        }
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The largest packet that is known to pass, once one was found that does not; none as long as
    /// nothing speaks against the usual.
    pub fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    /// Says whether data passes at all. A path that comes back may be another one, so that it is
    /// searched anew.
    pub fn set_up(&mut self, up: bool, now: Instant) {
        match (up, self.phase) {
            (true, Phase::Disabled) => self.begin(now),
            (true, Phase::Base | Phase::Searching | Phase::Complete | Phase::Error) => {}
            (false, _) => {
                self.phase = Phase::Disabled;
                self.trial = None;
            }
        }
    }

    /// Takes an answer in; true when it was one.
    pub fn answered(&mut self, nonce: u64, now: Instant) -> bool {
        let Some(trial) = self.trial.filter(|trial| trial.ask.nonce == nonce) else { return false };
        self.trial = None;
        self.next = now;
        match self.phase {
            Phase::Disabled => {}
            Phase::Base | Phase::Error => self.phase = Phase::Searching,
            Phase::Searching => self.low = trial.ask.bytes,
            Phase::Complete => self.next = now + CONFIRM,
        }
        self.settle(now);
        true
    }

    /// What is to be sent now.
    pub fn run(&mut self, now: Instant) -> Option<Ask> {
        if self.phase == Phase::Disabled {
            return None;
        }
        if self.trial.is_some_and(|trial| now >= trial.due && trial.sent >= MOST_PROBES) {
            self.trial = None;
            self.silent(now);
        }
        if self.phase == Phase::Complete && self.trial.is_none() && now >= self.raise_at {
            self.phase = Phase::Searching;
            self.high = None;
            self.next = now;
            self.settle(now);
        }
        let trial = match &mut self.trial {
            Some(trial) => trial,
            None if now < self.next => return None,
            None => {
                let ask = Ask { bytes: self.candidate(), nonce: self.random.next() };
                self.trial.insert(Trial { ask, sent: 0, due: now })
            }
        };
        if now < trial.due {
            return None;
        }
        trial.sent += 1;
        trial.due = now + PROBE_TIMEOUT;
        Some(trial.ask)
    }

    /// When [`Search::run`] is due next.
    pub fn wake_at(&self) -> Option<Instant> {
        match (self.phase, &self.trial) {
            (Phase::Disabled, _) => None,
            (_, Some(trial)) => Some(trial.due),
            (Phase::Complete, None) => Some(self.next.min(self.raise_at)),
            (Phase::Base | Phase::Searching | Phase::Error, None) => Some(self.next),
        }
    }

    fn begin(&mut self, now: Instant) {
        self.phase = Phase::Base;
        let failed = self.high.or(self.before.map(|before| before.failed)).unwrap_or(self.most);
        let passed = self.mtu.filter(|mtu| *mtu > LEAST);
        self.before = passed.map(|passed| Before { passed, failed });
        (self.low, self.high, self.trial) = (LEAST, None, None);
        self.next = now;
    }

    /// A size was tried as often as it may, and nobody answered.
    fn silent(&mut self, now: Instant) {
        self.next = now;
        match self.phase {
            Phase::Disabled => {}
            Phase::Base | Phase::Error => {
                self.phase = Phase::Error;
                self.next = now + PAUSE;
            }
            Phase::Searching => {
                let tried = self.candidate();
                let before = self.before.take().filter(|before| before.passed <= self.low);
                self.high = Some(before.map_or(tried, |before| before.failed));
                if self.mtu.is_none_or(|mtu| mtu > self.low) {
                    self.mtu = Some(self.low);
                }
                self.settle(now);
            }
            // A black hole (RFC 8899 §4.3).
            Phase::Complete => {
                self.mtu = Some(LEAST);
                self.begin(now);
            }
        }
    }

    /// Whether the bounds have met: then it is found.
    fn settle(&mut self, now: Instant) {
        let is_all = self.low >= self.most;
        let is_met = self.high.is_some_and(|high| high - self.low <= STEP);
        if self.phase == Phase::Searching && (is_all || is_met) {
            self.phase = Phase::Complete;
            self.next = now + CONFIRM;
            self.raise_at = now + RAISE;
            self.before = None;
            // As usual again when all passes.
            self.mtu = (!is_all).then_some(self.low);
        }
    }

    /// What to try next: first what passed before, then all that may pass, which mostly does; then
    /// the middle.
    fn candidate(&self) -> u16 {
        match (self.phase, self.high) {
            (Phase::Disabled | Phase::Base | Phase::Error, _) => LEAST,
            (Phase::Complete, _) => self.low,
            (Phase::Searching, None) => match self.before {
                Some(before) if before.passed > self.low => before.passed,
                _ => self.most,
            },
            (Phase::Searching, Some(high)) => self.low.midpoint(high),
        }
    }
}

#[cfg(test)]
mod tests;
