//! One BFD session (RFC 5880 §6): a machine without clock, socket or random source.
//!
//! ```text
//!                 heard Down                 heard Init or Up
//!        ┌────────────────────────► Init ─────────────────────────┐
//!        │                           │                            ▼
//!      Down ◄──── silence, AdminDown ┘      heard Init           Up
//!        │ ──────────────────────────────────────────────────────►│
//!        │ ◄──────────── silence, heard Down or AdminDown ────────┘
//!        └◄──► AdminDown (by the operator, from and to anywhere)
//! ```
//!
//! The caller feeds packets to [`Session::receive`], calls [`Session::tick`] and then
//! [`Session::transmit`] until it gives nothing at [`Session::wake_at`] and after each packet.
//!
//! While it is not up a session sends once a second at most (§6.8.3); it comes up within about
//! one round trip all the same, because the first packet goes out at once and a change of
//! state is told at once (§6.8.7 allows a packet between the periodic ones when its content
//! differs from the last).

use super::packet::{Diag, Packet};
use crate::random::Random;
use holdfast_api::tunnel::{BfdState, BfdTimers};
use std::num::{NonZeroU8, NonZeroU32};
use std::time::{Duration, Instant};

/// `bfd.DesiredMinTxInterval` while the session is not up must not be below this (§6.8.3).
const SLOW_TX: Duration = Duration::from_secs(1);
/// An interval is reduced by a quarter at most (§6.8.7). Thousandths of the interval.
const LEAST: u32 = 750;
/// How much the timer of a side that follows varies. Thousandths of the interval.
const FOLLOWER_JITTER: u32 = 20;

/// Who begins (§6.1).
///
/// The two also differ in when they send (docs/decisions/0013-bfd-follows.md): an active side
/// follows the packets that it receives, so that it wakes up once for both; a passive one goes
/// by its own timer, so that never two wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sends from the start, and later when a packet came and the interval allows it.
    Active,
    /// Sends only while something is heard: for an edge whose nodes may be away for months.
    ///
    /// One packet more than §6.8.7 allows: when silence takes the session down it says so once.
    /// Without that a cut of the way towards us would be noticed by the other side only by our
    /// silence, which begins when we noticed theirs: after two detection times instead of one.
    Passive,
}

/// How a session is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The shortest interval at which we like to send, 1 µs to 4,294 s.
    pub desired_min_tx: Duration,
    /// The shortest interval at which we cope with packets, 1 µs to 4,294 s.
    pub required_min_rx: Duration,
    /// How many of our packets may be missing before the other side calls us dead.
    pub multiplier: NonZeroU8,
    /// Who begins.
    pub role: Role,
}

/// Timers that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The interval is outside of 10 to 10,000 ms.
    #[error("a BFD interval of {0} ms is not between 10 and 10,000 ms")]
    Interval(u32),
    /// A multiplier of 0.
    #[error("a BFD multiplier of 0 would mean that silence is never noticed")]
    Multiplier,
}

impl Settings {
    /// The settings that `timers` ask for.
    ///
    /// # Errors
    /// A number is outside of its range.
    pub fn new(timers: BfdTimers, role: Role) -> Result<Self, SettingsError> {
        if !(10..=10_000).contains(&timers.interval_ms) {
            return Err(SettingsError::Interval(timers.interval_ms));
        }
        let interval = Duration::from_millis(timers.interval_ms.into());
        let multiplier = NonZeroU8::new(timers.multiplier).ok_or(SettingsError::Multiplier)?;
        Ok(Settings { desired_min_tx: interval, required_min_rx: interval, multiplier, role })
    }
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The state before.
    pub from: BfdState,
    /// The state now.
    pub to: BfdState,
    /// Why.
    pub diag: Diag,
}

/// What the other side last said, and what the RFC assumes before (§6.8.1).
#[derive(Debug, Clone, Copy)]
struct Remote {
    discriminator: u32,
    state: BfdState,
    min_rx_us: u32,
    desired_tx_us: u32,
    multiplier: u8,
    demand: bool,
}

const REMOTE_UNKNOWN: Remote = Remote {
    discriminator: 0,
    state: BfdState::Down,
    min_rx_us: 1,
    desired_tx_us: 0,
    multiplier: 0,
    demand: false,
};

/// A poll sequence (§6.5): we changed our timers and wait for the other side to confirm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Poll {
    Idle,
    Asking,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    discriminator: NonZeroU32,
    state: BfdState,
    diag: Diag,
    since: Instant,
    remote: Remote,
    /// `bfd.DesiredMinTxInterval`.
    min_tx_us: u32,
    /// What transmission goes by: stays at the old value during a poll that slows us down.
    tx_in_force_us: u32,
    /// What detection goes by: stays at the old value during a poll that speeds the peer up.
    rx_in_force_us: u32,
    poll: Poll,
    /// A poll of theirs is to be answered at once.
    final_due: bool,
    /// The next packet differs from the last and need not wait.
    news: bool,
    /// A passive side still has to say that silence took the session down.
    last_word: bool,
    last_sent: Option<Instant>,
    next_periodic: Option<Instant>,
    last_heard: Option<Instant>,
    random: Random,
}

impl Session {
    /// A session that is down and, when it is active, sends at `now`.
    ///
    /// `discriminator` is unique on this system; `seed` drives the jitter.
    pub fn new(settings: Settings, discriminator: NonZeroU32, seed: u64, now: Instant) -> Self {
        let mut session = Session {
            settings,
            discriminator,
            state: BfdState::Down,
            diag: Diag::NONE,
            since: now,
            remote: REMOTE_UNKNOWN,
            min_tx_us: micros(settings.desired_min_tx.max(SLOW_TX)),
            tx_in_force_us: micros(settings.desired_min_tx.max(SLOW_TX)),
            rx_in_force_us: micros(settings.required_min_rx),
            poll: Poll::Idle,
            final_due: false,
            news: true,
            last_word: false,
            last_sent: None,
            next_periodic: None,
            last_heard: None,
            random: Random::new(seed),
        };
        session.schedule();
        session
    }

    /// Its state.
    pub fn state(&self) -> BfdState {
        self.state
    }

    /// Why it last changed.
    pub fn diag(&self) -> Diag {
        self.diag
    }

    /// When it last changed, or was made.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The state that the other side last told.
    pub fn remote_state(&self) -> BfdState {
        self.remote.state
    }

    /// Our discriminator.
    pub fn discriminator(&self) -> NonZeroU32 {
        self.discriminator
    }

    /// How long silence lasts until the other side counts as gone (§6.8.4); none before it was
    /// heard.
    pub fn detection_time(&self) -> Option<Duration> {
        self.last_heard?;
        let interval = self.rx_in_force_us.max(self.remote.desired_tx_us);
        Some(Duration::from_micros(u64::from(self.remote.multiplier) * u64::from(interval)))
    }

    /// Takes a packet in that was found to belong to this session (§6.8.6).
    pub fn receive(&mut self, packet: &Packet, now: Instant) -> Option<Change> {
        self.remote = Remote {
            discriminator: packet.my_discriminator.get(),
            state: packet.state,
            min_rx_us: packet.required_min_rx_us,
            desired_tx_us: packet.desired_min_tx_us,
            multiplier: packet.multiplier.get(),
            demand: packet.demand,
        };
        if packet.is_final && self.poll == Poll::Asking {
            self.poll = Poll::Idle;
            self.tx_in_force_us = self.min_tx_us;
            self.rx_in_force_us = micros(self.settings.required_min_rx);
        }
        if self.state == BfdState::AdminDown {
            self.schedule();
            return None;
        }
        self.last_heard = Some(now);
        let change = self.next_state(packet.state).and_then(|(to, diag)| self.enter(to, diag, now));
        self.final_due |= packet.poll;
        self.schedule();
        self.follow(now);
        change
    }

    /// Notices silence: call it at [`Session::wake_at`].
    pub fn tick(&mut self, now: Instant) -> Option<Change> {
        if self.detect_at().is_none_or(|at| now < at) {
            return None;
        }
        self.last_heard = None;
        self.remote = REMOTE_UNKNOWN;
        let change = match self.state {
            BfdState::Init | BfdState::Up => {
                self.last_word = true;
                self.enter(BfdState::Down, Diag::DETECTION_TIME_EXPIRED, now)
            }
            BfdState::Down | BfdState::AdminDown => None,
        };
        self.schedule();
        change
    }

    /// The packet that is due at `now`, if one is. Ask again until there is none.
    pub fn transmit(&mut self, now: Instant) -> Option<Packet> {
        if self.final_due && self.may_send() {
            self.final_due = false;
            return Some(self.compose(now, true));
        }
        self.final_due = false;
        if !self.may_send_periodic() || self.send_at().is_none_or(|at| now < at) {
            return None;
        }
        Some(self.compose(now, false))
    }

    /// The next moment at which [`Session::tick`] or [`Session::transmit`] could do something;
    /// it may lie in the past.
    pub fn wake_at(&self) -> Option<Instant> {
        [self.detect_at(), self.send_at()].into_iter().flatten().min()
    }

    /// Changes the timers of a running session (§6.8.3); an Up session stays up.
    pub fn set(&mut self, settings: Settings) {
        if self.settings == settings {
            return;
        }
        let old_rx_us = micros(self.settings.required_min_rx);
        self.settings = settings;
        let rx_us = micros(settings.required_min_rx);
        self.min_tx_us = self.wanted_tx_us();
        if self.state == BfdState::Up {
            self.poll = Poll::Asking;
            self.news = true;
            // Slower sending and faster detection wait until the other side has agreed.
            self.tx_in_force_us = self.tx_in_force_us.min(self.min_tx_us);
            self.rx_in_force_us = old_rx_us.max(rx_us);
        } else {
            self.tx_in_force_us = self.min_tx_us;
            self.rx_in_force_us = rx_us;
        }
        self.schedule();
    }

    /// Holds the session down, or lets it go again (§6.8.16).
    pub fn hold_down(&mut self, hold: bool, now: Instant) -> Option<Change> {
        let change = match (hold, self.state) {
            (true, BfdState::AdminDown) => None,
            (true, BfdState::Down | BfdState::Init | BfdState::Up) => {
                self.last_heard = None;
                self.enter(BfdState::AdminDown, Diag::ADMINISTRATIVELY_DOWN, now)
            }
            (false, BfdState::AdminDown) => self.enter(BfdState::Down, self.diag, now),
            (false, BfdState::Down | BfdState::Init | BfdState::Up) => None,
        };
        self.schedule();
        change
    }

    fn next_state(&self, heard: BfdState) -> Option<(BfdState, Diag)> {
        use BfdState::{AdminDown, Down, Init, Up};
        match (self.state, heard) {
            (Down, Down) => Some((Init, Diag::NONE)),
            (Down, Init) | (Init, Init | Up) => Some((Up, Diag::NONE)),
            (Init, AdminDown) | (Up, Down | AdminDown) => {
                Some((Down, Diag::NEIGHBOR_SIGNALED_DOWN))
            }
            (Down, Up | AdminDown) | (Init, Down) | (Up, Init | Up) | (AdminDown, _) => None,
        }
    }

    fn enter(&mut self, to: BfdState, diag: Diag, now: Instant) -> Option<Change> {
        let from = std::mem::replace(&mut self.state, to);
        if from == to {
            return None;
        }
        self.diag = diag;
        self.since = now;
        self.news = true;
        let min_tx_us = self.wanted_tx_us();
        // Nobody is in session with us outside of Up, so there is nobody to confirm a change.
        self.poll = match to {
            BfdState::Up if min_tx_us != self.min_tx_us => Poll::Asking,
            _ => Poll::Idle,
        };
        self.min_tx_us = min_tx_us;
        self.tx_in_force_us = min_tx_us;
        self.rx_in_force_us = micros(self.settings.required_min_rx);
        Some(Change { from, to, diag })
    }

    fn wanted_tx_us(&self) -> u32 {
        micros(match self.state {
            BfdState::Up => self.settings.desired_min_tx,
            _ => self.settings.desired_min_tx.max(SLOW_TX),
        })
    }

    fn detect_at(&self) -> Option<Instant> {
        Some(self.last_heard? + self.detection_time()?)
    }

    fn may_send(&self) -> bool {
        self.settings.role == Role::Active || self.remote.discriminator != 0 || self.last_word
    }

    fn may_send_periodic(&self) -> bool {
        let both_up = self.state == BfdState::Up && self.remote.state == BfdState::Up;
        let told_to_be_quiet = self.remote.demand && both_up && self.poll == Poll::Idle;
        self.may_send() && self.remote.min_rx_us != 0 && !told_to_be_quiet
    }

    fn send_at(&self) -> Option<Instant> {
        if self.final_due && self.may_send() {
            return Some(self.last_sent.unwrap_or(self.since));
        }
        if !self.may_send_periodic() {
            return None;
        }
        match self.news {
            true => Some(self.last_sent.unwrap_or(self.since)),
            false => self.next_periodic,
        }
    }

    fn compose(&mut self, now: Instant, is_final: bool) -> Packet {
        self.last_sent = Some(now);
        self.news = false;
        self.last_word = false;
        self.next_periodic = None;
        self.schedule();
        Packet {
            diag: self.diag,
            state: self.state,
            // A packet is never both (§6.5).
            poll: self.poll == Poll::Asking && !is_final,
            is_final,
            control_plane_independent: true,
            demand: false,
            multiplier: self.settings.multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx_us: self.min_tx_us,
            required_min_rx_us: micros(self.settings.required_min_rx),
            required_min_echo_rx_us: 0,
        }
    }

    /// Plans the next periodic packet, earlier when the negotiated interval became shorter.
    fn schedule(&mut self) {
        let Some(last_sent) = self.last_sent else {
            self.next_periodic = Some(self.since);
            return;
        };
        let (interval, most) = (self.interval(), self.most());
        let latest = last_sent + share(interval, most);
        if self.next_periodic.is_none_or(|at| at > latest) {
            let least = match self.settings.role {
                // Late, so that mostly a packet to follow comes before.
                Role::Active => most - FOLLOWER_JITTER,
                Role::Passive => LEAST,
            };
            self.next_periodic = Some(last_sent + self.random.part_of(interval, least, most));
        }
    }

    /// Sends the next periodic packet now, as we are awake, when it is not too early for it.
    fn follow(&mut self, now: Instant) {
        let (Some(last_sent), Role::Active) = (self.last_sent, self.settings.role) else { return };
        let interval = self.interval();
        let next = if now >= last_sent + share(interval, LEAST) {
            now
        } else if now >= last_sent + interval / 2 {
            // It came early, or we are out of step: soon, so that we can follow the next one.
            last_sent + self.random.part_of(interval, LEAST, LEAST + FOLLOWER_JITTER)
        } else {
            return;
        };
        self.next_periodic = self.next_periodic.map(|at| at.min(next));
    }

    /// The negotiated interval between our packets (§6.8.2).
    fn interval(&self) -> Duration {
        Duration::from_micros(self.tx_in_force_us.max(self.remote.min_rx_us).into())
    }

    /// §6.8.7: with a multiplier of 1 a tenth less than the interval, so that one packet always
    /// falls into the detection time. Thousandths of the interval.
    fn most(&self) -> u32 {
        if self.settings.multiplier.get() == 1 { 900 } else { 1000 }
    }
}

fn share(interval: Duration, thousandths: u32) -> Duration {
    interval * thousandths / 1000
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests;
