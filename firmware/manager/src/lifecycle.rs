//! The stages of a node's life.
//!
//! ```text
//!            TokenFound          Pending             Admitted
//!  NoToken ────────────▶ Registering ──▶ AwaitingApproval ──▶ Bootstrapping
//!                         │    ▲  │                │              │ all well
//!                 Refused │    │  └── Admitted ────┼──────▶       ▼
//!                         ▼    │                   │            Online ⇄ Degraded
//!                       Refused ◀── Refused ───────┴── Retired ───┘
//!                         └ TokenFound
//! ```
//!
//! Sans-IO: events and `now` go in, the stage comes out. Losing the controller is no event here: an
//! admitted node lives on without it.

#![warn(clippy::wildcard_enum_match_arm)]

use holdfast_api::Reason;
use holdfast_api::local::{Stage, StageTime};
use std::time::{Duration, Instant};

/// While it is set up, a node may miss things without being called degraded.
const BOOTSTRAP_GRACE: Duration = Duration::from_secs(60);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A usable token is known.
    TokenFound,
    /// The controller took the registration and an operator must answer.
    Pending,
    /// The controller gave a certificate.
    Admitted,
    /// The controller refused for good.
    Refused(Reason),
    /// A pass ended, or tunnels changed.
    Observed(Health),
}

/// What a pass and the tunnels say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// A configuration is in force.
    pub configured: bool,
    /// The worst thing to say, if something is missing.
    pub missing: Option<Reason>,
}

/// The machine.
#[derive(Debug)]
pub struct Lifecycle {
    stage: Stage,
    entered: Instant,
    started: Instant,
    reason: Option<Reason>,
    history: Vec<StageTime>,
}

impl Lifecycle {
    /// A node that starts with (`admitted`) or without a certificate.
    pub fn new(admitted: bool, now: Instant) -> Self {
        let stage = if admitted { Stage::Bootstrapping } else { Stage::NoToken };
        let reason = (!admitted).then_some(Reason::TokenMissing);
        let history = vec![StageTime { stage, at_ms: 0 }];
        Lifecycle { stage, entered: now, started: now, reason, history }
    }

    /// The stage.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Why it is no better one.
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// Stages so far, the last 32.
    pub fn history(&self) -> &[StageTime] {
        &self.history
    }

    /// Takes an event; true when the stage changed.
    pub fn on(&mut self, event: Event, now: Instant) -> bool {
        use Stage::{
            AwaitingApproval, Bootstrapping, Degraded, NoToken, Online, Refused, Registering,
        };
        let (next, reason) = match (self.stage, event) {
            (NoToken | Refused | Registering | AwaitingApproval, Event::TokenFound) => {
                (Registering, None)
            }
            (NoToken | Registering | AwaitingApproval, Event::Pending) => {
                (AwaitingApproval, Some(Reason::RegistrationPending))
            }
            (NoToken | Registering | AwaitingApproval | Refused, Event::Admitted) => {
                (Bootstrapping, None)
            }
            (_, Event::Refused(reason)) => (Refused, Some(reason)),
            (Bootstrapping, Event::Observed(health)) => self.bootstrapping(health, now),
            (Online | Degraded, Event::Observed(Health { configured: true, missing: None })) => {
                (Online, None)
            }
            (Online | Degraded, Event::Observed(health)) => (Degraded, health.missing),
            // A token or an answer that comes late changes nothing for a node that is admitted,
            // and there is nothing to observe in one that is not.
            (
                Bootstrapping | Online | Degraded,
                Event::TokenFound | Event::Pending | Event::Admitted,
            )
            | (Refused, Event::Pending)
            | (NoToken | Registering | AwaitingApproval | Refused, Event::Observed(_)) => {
                (self.stage, self.reason)
            }
        };
        self.reason = reason;
        if next == self.stage {
            return false;
        }
        self.stage = next;
        self.entered = now;
        if self.history.len() == 32 {
            self.history.remove(0);
        }
        let at_ms = u64::try_from(now.duration_since(self.started).as_millis()).unwrap_or(u64::MAX);
        self.history.push(StageTime { stage: next, at_ms });
        true
    }

    /// The next moment at which an unchanged observation would mean something else.
    pub fn wake_at(&self) -> Option<Instant> {
        (self.stage == Stage::Bootstrapping).then(|| self.entered + BOOTSTRAP_GRACE)
    }

    fn bootstrapping(&self, health: Health, now: Instant) -> (Stage, Option<Reason>) {
        match health {
            Health { configured: true, missing: None } => (Stage::Online, None),
            Health { configured: true, missing } if now >= self.entered + BOOTSTRAP_GRACE => {
                (Stage::Degraded, missing)
            }
            Health { missing, .. } => (Stage::Bootstrapping, missing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WELL: Event = Event::Observed(Health { configured: true, missing: None });
    const SINGLE: Event =
        Event::Observed(Health { configured: true, missing: Some(Reason::TunnelSingle) });

    fn run(machine: &mut Lifecycle, now: Instant, events: &[Event]) -> Vec<Stage> {
        events
            .iter()
            .map(|event| {
                machine.on(*event, now);
                machine.stage()
            })
            .collect()
    }

    #[test]
    fn from_power_on_to_online() {
        let now = Instant::now();
        let mut machine = Lifecycle::new(false, now);
        assert_eq!(machine.reason(), Some(Reason::TokenMissing));
        let stages = run(
            &mut machine,
            now,
            &[Event::TokenFound, Event::Pending, Event::Admitted, SINGLE, WELL, SINGLE, WELL],
        );
        use Stage::{AwaitingApproval, Bootstrapping, Degraded, Online, Registering};
        assert_eq!(
            stages,
            [Registering, AwaitingApproval, Bootstrapping, Bootstrapping, Online, Degraded, Online]
        );
    }

    #[test]
    fn bootstrapping_that_lasts_is_degraded() {
        let now = Instant::now();
        let mut machine = Lifecycle::new(true, now);
        machine.on(SINGLE, now);
        assert_eq!(machine.stage(), Stage::Bootstrapping);
        let later = machine.wake_at().unwrap();
        machine.on(SINGLE, later);
        assert_eq!(
            (machine.stage(), machine.reason()),
            (Stage::Degraded, Some(Reason::TunnelSingle))
        );
    }

    fn events() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::TokenFound),
            Just(Event::Pending),
            Just(Event::Admitted),
            Just(WELL),
            Just(SINGLE),
            Just(Event::Refused(Reason::TokenExpired)),
        ]
    }

    proptest! {
        /// Online is only reached through a certificate and a complete observation.
        #[test]
        fn nobody_is_online_without_a_certificate(events in prop::collection::vec(events(), 0..40)) {
            let now = Instant::now();
            let mut machine = Lifecycle::new(false, now);
            let mut admitted = false;
            for event in events {
                admitted = match event {
                    Event::Admitted => true,
                    Event::Refused(_) => false,
                    Event::TokenFound | Event::Pending | Event::Observed(_) => admitted,
                };
                machine.on(event, now);
                if matches!(machine.stage(), Stage::Bootstrapping | Stage::Online | Stage::Degraded) {
                    prop_assert!(admitted);
                }
                prop_assert_eq!(machine.stage() == Stage::Online && event == SINGLE, false);
            }
        }
    }
}
