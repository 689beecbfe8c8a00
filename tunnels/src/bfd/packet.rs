//! The BFD control packet (RFC 5880 §4.1) and the checks of §6.8.6 that need no session.
//!
//! Authentication is left out: the packets travel inside an authenticated tunnel.

use holdfast_api::tunnel::BfdState;
use std::fmt;
use std::num::{NonZeroU8, NonZeroU32};

/// Bytes of a control packet without authentication.
pub const PACKET_BYTES: usize = 24;

const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const CONTROL_PLANE_INDEPENDENT: u8 = 0x08;
const AUTHENTICATED: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// Why the session last changed its state (RFC 5880 §4.1, `Diag`), 0 to 31.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diag(u8);

impl Diag {
    /// Nothing to say.
    pub const NONE: Diag = Diag(0);
    /// Nothing was heard for the detection time.
    pub const DETECTION_TIME_EXPIRED: Diag = Diag(1);
    /// The other side said that it is down.
    pub const NEIGHBOR_SIGNALED_DOWN: Diag = Diag(3);
    /// An operator holds the session down.
    pub const ADMINISTRATIVELY_DOWN: Diag = Diag(7);

    /// The diagnostic of this number; only the lowest five bits count.
    pub fn new(number: u8) -> Self {
        Diag(number & 0x1f)
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Debug for Diag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Diag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            other => return write!(f, "diagnostic {other}"),
        })
    }
}

/// A control packet that passed the checks that need no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender's session last changed.
    pub diag: Diag,
    /// The sender's session state.
    pub state: BfdState,
    /// The sender wants an answer with `is_final`, as its timers changed.
    pub poll: bool,
    /// The answer to a poll.
    pub is_final: bool,
    /// The sender's BFD does not share fate with its control plane.
    pub control_plane_independent: bool,
    /// The sender wants no periodic packets while both sides are up.
    pub demand: bool,
    /// Detection time multiplier.
    pub multiplier: NonZeroU8,
    /// The sender's discriminator.
    pub my_discriminator: NonZeroU32,
    /// The receiver's discriminator as far as the sender knows it, else 0.
    pub your_discriminator: u32,
    /// The shortest interval between packets that the sender would like to keep, microseconds.
    pub desired_min_tx_us: u32,
    /// The shortest interval between packets that the sender copes with, microseconds; 0: it
    /// wants none.
    pub required_min_rx_us: u32,
    /// The same for echo packets; 0: it does no echo.
    pub required_min_echo_rx_us: u32,
}

/// Why received bytes are not a packet that may be looked at further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Fewer bytes than a packet has, or than it says it has.
    #[error("{got} bytes are too few for a BFD control packet")]
    TooShort {
        /// Bytes received.
        got: usize,
    },
    /// Not version 1.
    #[error("BFD version {0} is not known")]
    Version(u8),
    /// The length field is below the length of a packet.
    #[error("the length field says {0}")]
    Length(u8),
    /// Authentication is used, and we have agreed on none.
    #[error("the packet is authenticated, which was not agreed on")]
    Authenticated,
    /// The multipoint bit, which must be zero.
    #[error("the multipoint bit is set")]
    Multipoint,
    /// A detection multiplier of 0.
    #[error("the detection multiplier is 0")]
    ZeroMultiplier,
    /// The sender's discriminator is 0.
    #[error("the sender's discriminator is 0")]
    ZeroDiscriminator,
    /// The sender claims a session and does not name it.
    #[error("no discriminator of ours although the sender is not down")]
    Unaddressed,
}

impl Packet {
    /// Reads a packet; what follows its length is ignored, as §6.8.6 asks.
    ///
    /// # Errors
    /// The packet must be discarded.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let Some(head) = bytes.first_chunk::<PACKET_BYTES>() else {
            return Err(ParseError::TooShort { got: bytes.len() });
        };
        let word =
            |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let [first, second, multiplier, length, ..] = *head;
        if first >> 5 != VERSION {
            return Err(ParseError::Version(first >> 5));
        }
        if usize::from(length) < PACKET_BYTES {
            return Err(ParseError::Length(length));
        }
        if usize::from(length) > bytes.len() {
            return Err(ParseError::TooShort { got: bytes.len() });
        }
        let multiplier = NonZeroU8::new(multiplier).ok_or(ParseError::ZeroMultiplier)?;
        if second & MULTIPOINT != 0 {
            return Err(ParseError::Multipoint);
        }
        let my_discriminator = NonZeroU32::new(word(4)).ok_or(ParseError::ZeroDiscriminator)?;
        let state = state_of(second >> 6);
        let your_discriminator = word(8);
        if your_discriminator == 0 && !matches!(state, BfdState::Down | BfdState::AdminDown) {
            return Err(ParseError::Unaddressed);
        }
        if second & AUTHENTICATED != 0 {
            return Err(ParseError::Authenticated);
        }
        Ok(Packet {
            diag: Diag::new(first),
            state,
            poll: second & POLL != 0,
            is_final: second & FINAL != 0,
            control_plane_independent: second & CONTROL_PLANE_INDEPENDENT != 0,
            demand: second & DEMAND != 0,
            multiplier,
            my_discriminator,
            your_discriminator,
            desired_min_tx_us: word(12),
            required_min_rx_us: word(16),
            required_min_echo_rx_us: word(20),
        })
    }

    /// The packet as it goes over the wire.
    pub fn emit(&self) -> [u8; PACKET_BYTES] {
        let mut bytes = [0; PACKET_BYTES];
        bytes[0] = VERSION << 5 | self.diag.number();
        bytes[1] = number_of(self.state) << 6;
        for (set, bit) in [
            (self.poll, POLL),
            (self.is_final, FINAL),
            (self.control_plane_independent, CONTROL_PLANE_INDEPENDENT),
            (self.demand, DEMAND),
        ] {
            if set {
                bytes[1] |= bit;
            }
        }
        bytes[2] = self.multiplier.get();
        bytes[3] = 24;
        let words = [
            self.my_discriminator.get(),
            self.your_discriminator,
            self.desired_min_tx_us,
            self.required_min_rx_us,
            self.required_min_echo_rx_us,
        ];
        for (to, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

fn state_of(two_bits: u8) -> BfdState {
    match two_bits & 3 {
        0 => BfdState::AdminDown,
        1 => BfdState::Down,
        2 => BfdState::Init,
        _ => BfdState::Up,
    }
}

fn number_of(state: BfdState) -> u8 {
    match state {
        BfdState::AdminDown => 0,
        BfdState::Down => 1,
        BfdState::Init => 2,
        BfdState::Up => 3,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        pub(crate) fn packets()(
            (diag, state, flags) in (0u8..32, 0u8..4, 0u8..16),
            multiplier in 1u8..,
            (mine, yours) in (1u32.., any::<u32>()),
            intervals in any::<[u32; 3]>(),
        ) -> Packet {
            let state = state_of(state);
            let named = !matches!(state, BfdState::Down | BfdState::AdminDown);
            Packet {
                diag: Diag::new(diag),
                state,
                poll: flags & 1 != 0,
                is_final: flags & 2 != 0,
                control_plane_independent: flags & 4 != 0,
                demand: flags & 8 != 0,
                multiplier: NonZeroU8::new(multiplier).unwrap(),
                my_discriminator: NonZeroU32::new(mine).unwrap(),
                your_discriminator: if named { yours.max(1) } else { yours },
                desired_min_tx_us: intervals[0],
                required_min_rx_us: intervals[1],
                required_min_echo_rx_us: intervals[2],
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_emitted_is_parsed(packet in packets()) {
            prop_assert_eq!(Packet::parse(&packet.emit()), Ok(packet));
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_what_parses_is_emitted_alike(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..64),
            plausible in any::<bool>(),
        ) {
            if plausible && bytes.len() >= 4 {
                bytes[0] = bytes[0] & 0x1f | 0x20;
                bytes[3] = 24;
            }
            if let Ok(packet) = Packet::parse(&bytes) {
                prop_assert_eq!(Packet::parse(&packet.emit()), Ok(packet));
            }
        }
    }

    fn broken(at: usize, value: u8) -> Result<Packet, ParseError> {
        let good = Packet {
            diag: Diag::NONE,
            state: BfdState::Up,
            poll: false,
            is_final: false,
            control_plane_independent: false,
            demand: false,
            multiplier: NonZeroU8::MIN,
            my_discriminator: NonZeroU32::MIN,
            your_discriminator: 1,
            desired_min_tx_us: 1,
            required_min_rx_us: 1,
            required_min_echo_rx_us: 0,
        };
        let mut bytes = good.emit();
        bytes[at] = value;
        Packet::parse(&bytes)
    }

    #[test]
    fn each_broken_field_is_told_apart() {
        assert_eq!(Packet::parse(&[0x20; 23]), Err(ParseError::TooShort { got: 23 }));
        assert_eq!(broken(0, 0x40), Err(ParseError::Version(2)));
        assert_eq!(broken(1, 0xc4), Err(ParseError::Authenticated));
        assert_eq!(broken(1, 0xc1), Err(ParseError::Multipoint));
        assert_eq!(broken(2, 0), Err(ParseError::ZeroMultiplier));
        assert_eq!(broken(3, 23), Err(ParseError::Length(23)));
        assert_eq!(broken(3, 25), Err(ParseError::TooShort { got: 24 }));
        assert_eq!(broken(7, 0), Err(ParseError::ZeroDiscriminator));
        assert_eq!(broken(11, 0), Err(ParseError::Unaddressed));
    }

    /// Written down by hand from the figure in RFC 5880 §4.1: Up, 3 × 300 ms, echo 50 ms.
    #[test]
    fn the_layout_is_that_of_the_rfc() {
        let bytes = [
            0x20, 0xc0, 0x03, 0x18, 0, 0, 0, 7, 0, 0, 0, 9, 0, 4, 0x93, 0xe0, 0, 4, 0x93, 0xe0, 0,
            0, 0xc3, 0x50,
        ];
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.state, BfdState::Up);
        assert_eq!((packet.my_discriminator.get(), packet.your_discriminator), (7, 9));
        assert_eq!((packet.desired_min_tx_us, packet.required_min_echo_rx_us), (300_000, 50_000));
        assert_eq!(packet.emit(), bytes);
    }
}
