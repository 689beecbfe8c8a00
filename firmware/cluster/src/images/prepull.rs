//! The images of one release on one node: what is done next. Pure; time and chance are arguments.
//!
//! ```text
//!  each image:   Unknown ──look──► Absent ──pull──► Pulling ──────────► Here
//!                   ▲                 ▲               │ └─ for good ─► Refused
//!                   │                 └─ pause over ─ Waiting              │
//!                   └──── lost, asked again ◄──────────────────────────────┘
//!  all are Here: pin ──► Held ──check, now and then──► Held, or Unknown again
//! ```
//!
//! A pull is tried again for ever with growing pauses; only what cannot get better by waiting (no
//! such image) rests until it is asked for again. The pauses begin short, for a registry behind
//! the site's own data plane is away for as long as that restarts.

use super::model::{Descriptor, Progress, Totals};
use holdfast_api::Reason;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Pulls at once. containerd fetches three layers of each at a time; more would only share the
/// uplink of a site among more half-done images.
pub const PULLS_AT_ONCE: usize = 2;

/// Looks at once; the runtime has other callers.
pub const LOOKS_AT_ONCE: usize = 8;

/// How long is waited for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// After the first failure; doubled with each further one.
    pub pause_first: Duration,
    /// At most, after a failure.
    pub pause_most: Duration,
    /// Until it is looked again whether what is pinned can still be started, and until the Node
    /// object is told again.
    pub check_every: Duration,
    /// Between two notes of progress; each is a write to the site's datastore.
    pub progress_every: Duration,
    /// Until a note is tried again that could not be written.
    pub note_again: Duration,
}

impl Default for Pace {
    /// A site's: a second, a minute, half a minute, two seconds, five seconds.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            pause_first: seconds(1),
            pause_most: seconds(60),
            check_every: seconds(30),
            progress_every: seconds(2),
            note_again: seconds(5),
        }
    }
}

impl Pace {
    /// Between half and all of 1, 2, 4 … times the first pause.
    fn pause(self, failures: u32, jitter: f64) -> Duration {
        let doubled = self.pause_first.saturating_mul(1u32 << failures.saturating_sub(1).min(16));
        doubled.min(self.pause_most).mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }
}

/// Why an image, or the pin, is not had yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// One word for it.
    pub reason: Reason,
    /// In detail, with the image.
    pub message: String,
    /// Whether it is tried again by itself.
    pub retryable: bool,
}

/// What is to be done. The answer to each comes back as an [`Event`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Look whether the image is there.
    Look(String),
    /// Fetch it.
    Pull(String),
    /// Keep these for the release.
    Pin(BTreeMap<String, Descriptor>),
    /// See that these can still be started, and put back what can be put back.
    Check(BTreeMap<String, Descriptor>),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An image was looked for.
    Found {
        /// The image.
        image: String,
        /// What its name stands for, if it is there.
        target: Option<Descriptor>,
    },
    /// A pull moved.
    Moved(Progress),
    /// An image was fetched.
    Pulled {
        /// The image.
        image: String,
        /// What its name stands for.
        target: Descriptor,
    },
    /// An image could not be looked for or fetched.
    Failed {
        /// The image.
        image: String,
        /// Why.
        problem: Problem,
    },
    /// All images are pinned, or can still be started.
    Kept,
    /// They could not be pinned or looked at.
    NotKept(Problem),
    /// These are gone.
    Lost(BTreeSet<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Unknown,
    Looking,
    Absent,
    Pulling,
    Waiting { until: Instant, problem: Problem },
    Refused(Problem),
    Here(Descriptor),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Image {
    state: State,
    failures: u32,
    progress: Progress,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pin {
    No,
    Asked,
    Waiting { until: Instant, problem: Problem },
    Held { check_at: Instant },
    Checking,
}

/// The images of one release on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrePull {
    release: String,
    images: BTreeMap<String, Image>,
    pin: Pin,
    pin_failures: u32,
    pace: Pace,
}

impl PrePull {
    /// Of nothing is known yet.
    pub fn new(release: &str, images: &BTreeSet<String>, pace: Pace) -> Self {
        let image = |name: &String| Image {
            state: State::Unknown,
            failures: 0,
            progress: Progress { image: name.clone(), ..Progress::default() },
        };
        Self {
            release: release.to_owned(),
            images: images.iter().map(|name| (name.clone(), image(name))).collect(),
            pin: Pin::No,
            pin_failures: 0,
            pace,
        }
    }

    /// Digest of the release.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Whether it is about this release with these images.
    pub fn is_of(&self, release: &str, images: &BTreeSet<String>) -> bool {
        self.release == release && self.images.keys().eq(images)
    }

    /// Whether every image is there and pinned.
    pub fn is_held(&self) -> bool {
        matches!(self.pin, Pin::Held { .. } | Pin::Checking)
    }

    /// How far it is.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { images: self.images.len(), ..Totals::default() };
        for image in self.images.values() {
            totals.images_done += usize::from(matches!(image.state, State::Here(_)));
            let Progress { done_bytes, total_bytes, .. } = image.progress;
            totals.done_bytes = totals.done_bytes.saturating_add(done_bytes);
            totals.total_bytes = totals.total_bytes.saturating_add(total_bytes);
        }
        totals
    }

    /// What is in the way: what does not pass by itself first.
    pub fn problem(&self) -> Option<&Problem> {
        let refused = self.images.values().find_map(|image| match &image.state {
            State::Refused(problem) => Some(problem),
            _ => None,
        });
        let waits = self.images.values().find_map(|image| match &image.state {
            State::Waiting { problem, .. } => Some(problem),
            _ => None,
        });
        let pin = match &self.pin {
            Pin::Waiting { problem, .. } => Some(problem),
            Pin::No | Pin::Asked | Pin::Held { .. } | Pin::Checking => None,
        };
        refused.or(waits).or(pin)
    }

    /// Tries again what was refused for good, since somebody asks for it.
    pub fn ask_again(&mut self) {
        for image in self.images.values_mut() {
            if let State::Refused(_) = image.state {
                (image.state, image.failures) = (State::Unknown, 0);
            }
        }
    }

    /// What is to be done now; each is told once.
    pub fn next(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let under_way =
            |state: &State| self.images.values().filter(|image| image.state == *state).count();
        let (mut pulls, mut looks) = (under_way(&State::Pulling), under_way(&State::Looking));
        for (name, image) in &mut self.images {
            match &image.state {
                State::Unknown if looks < LOOKS_AT_ONCE => {
                    looks += 1;
                    image.state = State::Looking;
                    actions.push(Action::Look(name.clone()));
                }
                State::Waiting { until, .. } if *until <= now => image.state = State::Absent,
                State::Unknown
                | State::Waiting { .. }
                | State::Looking
                | State::Absent
                | State::Pulling
                | State::Refused(_)
                | State::Here(_) => {}
            }
            if image.state == State::Absent && pulls < PULLS_AT_ONCE {
                pulls += 1;
                image.state = State::Pulling;
                actions.push(Action::Pull(name.clone()));
            }
        }
        let Some(here) = self.here() else { return actions };
        match &self.pin {
            Pin::No => {
                self.pin = Pin::Asked;
                actions.push(Action::Pin(here));
            }
            Pin::Waiting { until, .. } if *until <= now => {
                self.pin = Pin::Asked;
                actions.push(Action::Pin(here));
            }
            Pin::Held { check_at } if *check_at <= now => {
                self.pin = Pin::Checking;
                actions.push(Action::Check(here));
            }
            Pin::Waiting { .. } | Pin::Held { .. } | Pin::Asked | Pin::Checking => {}
        }
        actions
    }

    /// Takes what happened. `jitter`, from 0 to 1, spreads the attempts of nodes that lost the
    /// same registry at the same moment. What does not fit the state is of an earlier attempt.
    pub fn on(&mut self, event: Event, now: Instant, jitter: f64) {
        match event {
            Event::Found { image, target } => {
                if let Some(image) = self.images.get_mut(&image)
                    && image.state == State::Looking
                {
                    image.state = target.map_or(State::Absent, State::Here);
                }
            }
            Event::Moved(progress) => {
                if let Some(image) = self.images.get_mut(&progress.image)
                    && image.state == State::Pulling
                {
                    if progress.done_bytes > image.progress.done_bytes {
                        // It goes on; the next pause is a short one again.
                        image.failures = 0;
                    }
                    image.progress = progress;
                }
            }
            Event::Pulled { image, target } => {
                if let Some(image) = self.images.get_mut(&image)
                    && image.state == State::Pulling
                {
                    image.progress.done_bytes = image.progress.total_bytes;
                    (image.state, image.failures) = (State::Here(target), 0);
                }
            }
            Event::Failed { image, problem } => {
                if let Some(image) = self.images.get_mut(&image)
                    && matches!(image.state, State::Pulling | State::Looking)
                {
                    image.state = if problem.retryable {
                        image.failures = image.failures.saturating_add(1);
                        State::Waiting {
                            until: now + self.pace.pause(image.failures, jitter),
                            problem,
                        }
                    } else {
                        State::Refused(problem)
                    };
                }
            }
            Event::Kept => {
                if matches!(self.pin, Pin::Asked | Pin::Checking) {
                    self.pin_failures = 0;
                    self.pin = Pin::Held { check_at: now + self.pace.check_every };
                }
            }
            Event::NotKept(problem) => match self.pin {
                Pin::Asked => {
                    self.pin_failures = self.pin_failures.saturating_add(1);
                    let until = now + self.pace.pause(self.pin_failures, jitter);
                    self.pin = Pin::Waiting { until, problem };
                }
                // That the runtime does not answer takes nothing from what it holds.
                Pin::Checking => self.pin = Pin::Held { check_at: now + self.pace.check_every },
                Pin::No | Pin::Waiting { .. } | Pin::Held { .. } => {}
            },
            Event::Lost(lost) => {
                if matches!(self.pin, Pin::Asked | Pin::Checking) {
                    self.pin = Pin::No;
                    for (_, image) in
                        self.images.iter_mut().filter(|(name, _)| lost.contains(*name))
                    {
                        image.state = State::Unknown;
                    }
                }
            }
        }
    }

    /// When something is to be done without anything happening before.
    pub fn wake_at(&self) -> Option<Instant> {
        let images = self.images.values().filter_map(|image| match &image.state {
            State::Waiting { until, .. } => Some(*until),
            _ => None,
        });
        let pin = match &self.pin {
            Pin::Waiting { until, .. } => Some(*until),
            Pin::Held { check_at } => Some(*check_at),
            Pin::No | Pin::Asked | Pin::Checking => None,
        };
        images.chain(pin).min()
    }

    /// All of them, when all are there.
    fn here(&self) -> Option<BTreeMap<String, Descriptor>> {
        self.images
            .iter()
            .map(|(name, image)| match &image.state {
                State::Here(target) => Some((name.clone(), target.clone())),
                _ => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
