//! What an emulated link is like, as plain values.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// One direction of a link, seen from the order in which its ends are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the first end to the second.
    AToB,
    /// From the second end to the first.
    BToA,
}

/// Which directions of a link pass nothing at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// The link is whole.
    #[default]
    None,
    /// A cable pulled out: nothing passes either way.
    Both,
    /// A one-way failure: the second end hears nothing of the first.
    AToB,
    /// A one-way failure: the first end hears nothing of the second.
    BToA,
}

impl Cut {
    /// Whether frames in `direction` are lost.
    pub fn blocks(self, direction: Direction) -> bool {
        match self {
            Cut::None => false,
            Cut::Both => true,
            Cut::AToB => direction == Direction::AToB,
            Cut::BToA => direction == Direction::BToA,
        }
    }
}

/// How a link treats frames. Each direction is shaped by itself with the same values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkModel {
    /// One-way delay in microseconds, 0 to 60 s.
    pub delay_us: u64,
    /// Each frame waits up to this many microseconds longer, evenly distributed, 0 to 60 s.
    /// With jitter frames may overtake each other, as on a real path.
    pub jitter_us: u64,
    /// Share of frames that is lost at random, 0.0 to 1.0.
    pub loss: f64,
    /// Bits per second; 0 means as fast as the machine can.
    pub rate_bits: u64,
    /// Bytes that may wait for the rate before frames are dropped at the tail; without a rate
    /// nothing waits. At least one full frame fits always.
    pub queue_bytes: u64,
    /// Directions that pass nothing.
    pub cut: Cut,
    /// Seed of loss and jitter: the same seed and the same frames give the same losses.
    pub seed: u64,
}

/// 256 full frames, what a small router holds.
const DEFAULT_QUEUE_BYTES: u64 = 256 * 1514;

impl Default for LinkModel {
    fn default() -> Self {
        LinkModel {
            delay_us: 0,
            jitter_us: 0,
            loss: 0.0,
            rate_bits: 0,
            queue_bytes: DEFAULT_QUEUE_BYTES,
            cut: Cut::None,
            seed: 0,
        }
    }
}

/// A link model that cannot be emulated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// Loss is a share.
    #[error("a loss of {0} is no share of the frames: it must be from 0 to 1")]
    Loss(String),
    /// Delay or jitter beyond a minute.
    #[error("a {what} of {} s is too long: the longest is {} s", given.as_secs(), LinkModel::LONGEST_US / 1_000_000)]
    TooLong {
        /// `delay` or `jitter`.
        what: &'static str,
        /// What was asked for.
        given: Duration,
    },
}

impl LinkModel {
    /// The longest delay and the longest jitter in microseconds: longer ones are typing errors, and
    /// keep frames in memory.
    pub const LONGEST_US: u64 = 60_000_000;

    /// A link with this one-way delay and nothing else.
    pub fn delayed(delay: Duration) -> Self {
        LinkModel { delay_us: micros(delay), ..LinkModel::default() }
    }

    /// Checks the ranges that the fields document.
    ///
    /// # Errors
    /// [`ModelError`] names the first field that is out of range.
    pub fn validate(&self) -> Result<(), ModelError> {
        check_loss(self.loss)?;
        for (what, given) in [("delay", self.delay_us), ("jitter", self.jitter_us)] {
            if given > Self::LONGEST_US {
                return Err(ModelError::TooLong { what, given: Duration::from_micros(given) });
            }
        }
        Ok(())
    }
}

/// Checks that `loss` is a share, 0.0 to 1.0.
///
/// # Errors
/// [`ModelError::Loss`].
pub fn check_loss(loss: f64) -> Result<(), ModelError> {
    match (0.0..=1.0).contains(&loss) {
        true => Ok(()),
        false => Err(ModelError::Loss(loss.to_string())),
    }
}

/// A change of a link; what is absent stays as it is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Change {
    /// New one-way delay in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_us: Option<u64>,
    /// New jitter in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter_us: Option<u64>,
    /// New share of frames lost, 0.0 to 1.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// New rate in bits per second; 0 is unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_bits: Option<u64>,
    /// New room for waiting bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_bytes: Option<u64>,
    /// New cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
}

impl Change {
    /// `model` with this change made to it.
    pub fn applied_to(&self, model: &LinkModel) -> LinkModel {
        LinkModel {
            delay_us: self.delay_us.unwrap_or(model.delay_us),
            jitter_us: self.jitter_us.unwrap_or(model.jitter_us),
            loss: self.loss.unwrap_or(model.loss),
            rate_bits: self.rate_bits.unwrap_or(model.rate_bits),
            queue_bytes: self.queue_bytes.unwrap_or(model.queue_bytes),
            cut: self.cut.unwrap_or(model.cut),
            seed: model.seed,
        }
    }
}

impl fmt::Display for Change {
    /// What it makes of a link, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = |micros| Duration::from_micros(micros);
        let parts = [
            self.delay_us.map(|delay| format!("{:?} one way", after(delay))),
            self.jitter_us.map(|jitter| format!("up to {:?} more", after(jitter))),
            self.loss.map(|loss| format!("loses {} %", loss * 100.0)),
            self.rate_bits.map(|rate| match rate {
                0 => "no limit of its rate".into(),
                rate => format!("at most {} Mbit/s", rate as f64 / 1e6),
            }),
            self.queue_bytes.map(|bytes| format!("{bytes} bytes may wait")),
            self.cut.map(|cut| match cut {
                Cut::None => "whole".into(),
                Cut::Both => "cut".into(),
                Cut::AToB => "cut outwards".into(),
                Cut::BToA => "cut inwards".into(),
            }),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// One end of a link: an interface in a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// Name of the network namespace as `ip netns` shows it.
    pub netns: String,
    /// Name of the interface that the emulator makes there, at most 15 bytes.
    pub interface: String,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.netns, self.interface)
    }
}

/// A link between two namespaces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// What the control socket calls it.
    pub name: String,
    /// The first end.
    pub a: End,
    /// The second end.
    pub b: End,
    /// MTU of both interfaces in bytes, 68 to 65521.
    pub mtu: u32,
    /// How it treats frames.
    pub model: LinkModel,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} <-> {} ({})", self.a, self.b, self.model)
    }
}

impl fmt::Display for LinkModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Duration::from_micros(self.delay_us))?;
        if self.jitter_us > 0 {
            write!(f, " ± {:?}", Duration::from_micros(self.jitter_us))?;
        }
        if self.loss > 0.0 {
            write!(f, ", loss {:.2} %", self.loss * 100.0)?;
        }
        if self.rate_bits > 0 {
            write!(f, ", {} bit/s", self.rate_bits)?;
        }
        match self.cut {
            Cut::None => Ok(()),
            Cut::Both => f.write_str(", cut"),
            Cut::AToB => f.write_str(", cut a→b"),
            Cut::BToA => f.write_str(", cut b→a"),
        }
    }
}

/// Whole microseconds of `duration`, at most what fits.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked_and_the_field_is_named() {
        let nan = LinkModel { loss: f64::NAN, ..LinkModel::default() };
        assert!(matches!(nan.validate(), Err(ModelError::Loss(_))));
        let slow = LinkModel { jitter_us: LinkModel::LONGEST_US + 1, ..LinkModel::default() };
        assert!(matches!(slow.validate(), Err(ModelError::TooLong { what: "jitter", .. })));
        assert_eq!(LinkModel::default().validate(), Ok(()));
    }

    #[test]
    fn a_change_reads_like_what_it_does() {
        let change = Change {
            delay_us: Some(1500),
            loss: Some(0.05),
            rate_bits: Some(0),
            ..Change::default()
        };
        assert_eq!(change.to_string(), "1.5ms one way, loses 5 %, no limit of its rate");
        let error = LinkModel { delay_us: u64::MAX, ..LinkModel::default() }.validate();
        let text = error.unwrap_err().to_string();
        assert!(text.starts_with("a delay of ") && text.ends_with("the longest is 60 s"), "{text}");
    }

    #[test]
    fn a_change_keeps_what_it_does_not_name() {
        let model = LinkModel { delay_us: 5, loss: 0.5, seed: 7, ..LinkModel::default() };
        let change = Change { cut: Some(Cut::AToB), ..Change::default() };
        let changed = change.applied_to(&model);
        assert_eq!(changed, LinkModel { cut: Cut::AToB, ..model });
        assert!(changed.cut.blocks(Direction::AToB) && !changed.cut.blocks(Direction::BToA));
    }
}
