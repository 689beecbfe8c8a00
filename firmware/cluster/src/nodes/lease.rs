//! A Lease (coordination.k8s.io/v1) as a lock: who may take it, keep it, take it over.
//!
//! ```text
//!            no Lease, or nobody in it          Acquire
//!            ourselves in it                    Renew
//!            another in it, lock for good       Wait
//!            another in it, seen to change      Wait { until }
//!            another in it, unchanged for ttl   TakeOver
//! ```
//!
//! Every change is a write that names the version read before ([`crate::nodes::cluster`]), so of
//! two contenders that decide alike only one succeeds; the other reads again.
//!
//! Clocks of nodes differ, so no time in a Lease is ever compared with a clock here. Whether a
//! holder is alive is judged as client-go's leader election does it: by whether the Lease changed
//! while *we* watched, on our own monotonic clock. A holder in turn counts from before it sent its
//! last renewal, and stops [`HOLD_PERCENT`] into the time that others wait; so clocks may also run
//! at different speeds.
//!
//! What is left out: reading and writing ([`crate::nodes::service`], [`crate::nodes::leader`]).

use jiff::Timestamp;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A holder regards itself as such for this share of the time that others wait. Clocks may differ
/// in speed by a factor of 100/66 before two hold at once.
pub const HOLD_PERCENT: u32 = 66;

/// What a Lease says. Times are text: they are shown, and told apart, but never compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// `spec.holderIdentity`; empty in an unlocked one.
    pub holder: String,
    /// `spec.leaseDurationSeconds`, for people and other tools.
    pub duration_secs: Option<u32>,
    /// `spec.acquireTime`.
    pub acquired: Option<String>,
    /// `spec.renewTime`.
    pub renewed: Option<String>,
    /// `spec.leaseTransitions`: how often it changed hands.
    pub transitions: u32,
}

impl Record {
    /// Reads a Lease.
    pub fn of(lease: &Value) -> Self {
        let spec = &lease["spec"];
        let text = |key: &str| spec[key].as_str().map(str::to_owned);
        let number = |key: &str| spec[key].as_u64().and_then(|value| u32::try_from(value).ok());
        Record {
            holder: text("holderIdentity").unwrap_or_default(),
            duration_secs: number("leaseDurationSeconds"),
            acquired: text("acquireTime"),
            renewed: text("renewTime"),
            transitions: number("leaseTransitions").unwrap_or_default(),
        }
    }

    /// The `spec` of a Lease. What is null is taken out of it (Kubernetes allows a renewal time
    /// without a holder, but not an empty holder).
    pub fn spec(&self) -> Value {
        json!({
            "holderIdentity": Some(&self.holder).filter(|holder| !holder.is_empty()),
            "leaseDurationSeconds": self.duration_secs,
            "acquireTime": self.acquired,
            "renewTime": self.renewed,
            "leaseTransitions": self.transitions,
        })
    }

    /// The record that `holder` writes over `before`; `wall` is for people.
    ///
    /// A renewal differs from what it renews even when the clock stands still or was set back:
    /// others see life only in changes, and the API server stores no update without one.
    pub fn held_by(holder: &str, before: Option<&Record>, expiry: Expiry, wall: Timestamp) -> Self {
        let last = before.and_then(|before| before.renewed.as_ref()?.parse::<Timestamp>().ok());
        let after_last = last.and_then(|last| last.checked_add(Duration::from_micros(1)).ok());
        let now = micro_time(after_last.map_or(wall, |after_last| wall.max(after_last)));
        let same = before.filter(|before| before.holder == holder);
        Record {
            holder: holder.to_owned(),
            duration_secs: expiry.secs(),
            acquired: same.and_then(|before| before.acquired.clone()).or_else(|| Some(now.clone())),
            renewed: Some(now),
            transitions: match (same, before) {
                (Some(same), _) => same.transitions,
                (None, Some(before)) => before.transitions.saturating_add(1),
                (None, None) => 0,
            },
        }
    }

    /// The record without a holder.
    pub fn released(&self) -> Self {
        Record { transitions: self.transitions, ..Record::default() }
    }
}

/// MicroTime of the Kubernetes API: RFC 3339 with six digits of a second, UTC.
fn micro_time(at: Timestamp) -> String {
    format!("{at:.6}")
}

/// When a lock is free without its holder's doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Never: it is released, or broken by somebody who knows better.
    Never,
    /// When its holder did not renew it for so long.
    After(Duration),
}

impl Expiry {
    fn secs(self) -> Option<u32> {
        match self {
            Expiry::Never => None,
            Expiry::After(ttl) => Some(u32::try_from(ttl.as_secs().max(1)).unwrap_or(u32::MAX)),
        }
    }

    /// Until when a holder that sent its renewal at `sent` regards itself as such.
    pub fn held_until(self, sent: Instant) -> Option<Instant> {
        match self {
            Expiry::Never => None,
            Expiry::After(ttl) => Some(sent + ttl * HOLD_PERCENT / 100),
        }
    }
}

/// What a contender may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nobody holds it: write ourselves into it.
    Acquire,
    /// We hold it: write it again.
    Renew,
    /// Another holds it; it is looked at again at `until`, or when somebody asks.
    Wait {
        /// Who holds it.
        holder: String,
        /// When it could be free without its holder's doing.
        until: Option<Instant>,
    },
    /// Its holder has been silent for the whole time: write ourselves into it.
    TakeOver {
        /// Who held it.
        from: String,
    },
}

/// What a contender has seen of one Lease.
#[derive(Debug, Clone, Default)]
pub struct Watcher {
    seen: Option<(Record, Instant)>,
}

impl Watcher {
    /// What `me` may do about the Lease as it was read just now.
    pub fn decide(
        &mut self,
        lease: Option<&Record>,
        me: &str,
        expiry: Expiry,
        now: Instant,
    ) -> Decision {
        let Some(lease) = lease.filter(|lease| !lease.holder.is_empty()) else {
            self.seen = None;
            return Decision::Acquire;
        };
        let since = match &self.seen {
            Some((seen, since)) if seen == lease => *since,
            _ => {
                self.seen = Some((lease.clone(), now));
                now
            }
        };
        if lease.holder == me {
            return Decision::Renew;
        }
        let holder = lease.holder.clone();
        match expiry {
            Expiry::Never => Decision::Wait { holder, until: None },
            Expiry::After(ttl) if now >= since + ttl => Decision::TakeOver { from: holder },
            Expiry::After(ttl) => Decision::Wait { holder, until: Some(since + ttl) },
        }
    }
}

#[cfg(test)]
mod tests;
