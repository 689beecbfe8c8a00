//! One direction of an emulated link, without clock, socket or random source inside.
//!
//! A frame passes three places, as on a real link:
//!
//! ```text
//!  offer ─▶ cut? loss? ─▶ queue before the line (rate_bits, queue_bytes) ─▶ the line (delay, jitter) ─▶ due
//!             │ dropped         │ dropped at the tail                          │ dropped when cut
//! ```
//!
//! The queue before the line is kept as one moment, the time at which the line falls silent:
//! what waits in front of it is that time minus now, times the rate. So a slow link costs no
//! memory but the frames themselves.

use super::model::{Direction, LinkModel, micros};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// What becomes of a frame that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It leaves at this moment, unless the link is cut meanwhile.
    Due(Instant),
    /// It is gone.
    Dropped(Dropped),
}

/// Why a frame is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// The link is cut in this direction.
    Cut,
    /// Lost at random.
    Loss,
    /// More waits for the line than the queue holds.
    QueueFull,
}

/// What one direction has done so far. Frames in flight are in `offered` only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    /// Frames that were offered.
    pub offered: u64,
    /// Frames that left.
    pub passed: u64,
    /// Bytes that left, Ethernet headers included.
    pub passed_bytes: u64,
    /// Frames lost to a cut.
    pub cut: u64,
    /// Frames lost at random.
    pub lost: u64,
    /// Frames that found the queue full.
    pub queue_full: u64,
}

/// One direction of a link; `T` is the frame.
#[derive(Debug)]
pub struct Shaper<T> {
    direction: Direction,
    model: LinkModel,
    random: Random,
    /// The moment at which the last byte accepted so far has been put on the line.
    line_free_at: Option<Instant>,
    in_flight: BinaryHeap<Reverse<InFlight<T>>>,
    serial: u64,
    counters: Counters,
}

impl<T> Shaper<T> {
    /// A direction of a link that behaves like `model`.
    pub fn new(direction: Direction, model: LinkModel) -> Self {
        // The two directions of a link must not lose the same frames.
        let salt = match direction {
            Direction::AToB => 0,
            Direction::BToA => 0x5851_F42D_4C95_7F2D,
        };
        Shaper {
            direction,
            random: Random(model.seed ^ salt),
            model,
            line_free_at: None,
            in_flight: BinaryHeap::new(),
            serial: 0,
            counters: Counters::default(),
        }
    }

    /// How the link behaves.
    pub fn model(&self) -> &LinkModel {
        &self.model
    }

    /// Behaves like `model` from now on. What is on the line already keeps its time, but a cut
    /// takes it away: a cable that is pulled out loses what it carries.
    pub fn set_model(&mut self, model: LinkModel) {
        if model.cut.blocks(self.direction) {
            self.counters.cut += self.in_flight.len() as u64;
            self.in_flight.clear();
            self.line_free_at = None;
        }
        self.model = model;
    }

    /// Takes a frame of `bytes` bytes at `now`.
    pub fn offer(&mut self, frame: T, bytes: usize, now: Instant) -> Verdict {
        self.counters.offered += 1;
        if self.model.cut.blocks(self.direction) {
            self.counters.cut += 1;
            return Verdict::Dropped(Dropped::Cut);
        }
        // Drawn for every frame, so that a change of one property leaves the other's sequence alone.
        let (loss_draw, jitter_draw) = (self.random.unit(), self.random.unit());
        if loss_draw < self.model.loss {
            self.counters.lost += 1;
            return Verdict::Dropped(Dropped::Loss);
        }
        let Some(sent) = self.put_on_line(bytes as u64, now) else {
            self.counters.queue_full += 1;
            return Verdict::Dropped(Dropped::QueueFull);
        };
        let jitter = Duration::from_micros(self.model.jitter_us).mul_f64(jitter_draw);
        let due = sent + Duration::from_micros(self.model.delay_us) + jitter;
        self.serial += 1;
        self.in_flight.push(Reverse(InFlight {
            due,
            serial: self.serial,
            bytes: bytes as u64,
            frame,
        }));
        Verdict::Due(due)
    }

    /// The next frame that has arrived by `now`, earliest first.
    pub fn due(&mut self, now: Instant) -> Option<T> {
        if self.in_flight.peek()?.0.due > now {
            return None;
        }
        let Reverse(arrived) = self.in_flight.pop()?;
        self.counters.passed += 1;
        self.counters.passed_bytes += arrived.bytes;
        Some(arrived.frame)
    }

    /// The next moment at which [`due`](Self::due) gives something.
    pub fn wake_at(&self) -> Option<Instant> {
        self.in_flight.peek().map(|next| next.0.due)
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The moment at which the last bit of the frame is on the line; none when the queue is full.
    fn put_on_line(&mut self, bytes: u64, now: Instant) -> Option<Instant> {
        if self.model.rate_bits == 0 {
            return Some(now);
        }
        let start = self.line_free_at.map_or(now, |free| free.max(now));
        let waiting_bits =
            u128::from(micros(start - now)) * u128::from(self.model.rate_bits) / 1_000_000;
        if start > now
            && waiting_bits + u128::from(bytes) * 8 > u128::from(self.model.queue_bytes) * 8
        {
            return None;
        }
        let nanos = u128::from(bytes) * 8 * 1_000_000_000 / u128::from(self.model.rate_bits);
        let end = start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.line_free_at = Some(end);
        Some(end)
    }
}

#[derive(Debug)]
struct InFlight<T> {
    due: Instant,
    /// Keeps the order of frames that are due at the same moment.
    serial: u64,
    bytes: u64,
    frame: T,
}

impl<T> PartialEq for InFlight<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.serial) == (other.due, other.serial)
    }
}

impl<T> Eq for InFlight<T> {}

impl<T> PartialOrd for InFlight<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for InFlight<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.serial).cmp(&(other.due, other.serial))
    }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014):
/// one word of state, good enough for losses, and the same on every machine.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Evenly distributed in 0.0..1.0.
    fn unit(&mut self) -> f64 {
        // 53 bits fill a double's mantissa exactly.
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
