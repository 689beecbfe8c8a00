//! The probe on the wire.

/// Bytes of a request and of a reply.
pub const PACKET_BYTES: usize = 16;

const MAGIC: [u8; 4] = *b"HFPB";
const VERSION: u8 = 1;

/// Which way a probe goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// From a node to an edge.
    Request,
    /// Back.
    Reply,
}

/// A probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Which way it goes.
    pub kind: Kind,
    /// Chosen by the asker, repeated by the edge.
    pub nonce: u64,
}

/// Why a datagram is no probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not 16 bytes.
    #[error("a probe has {PACKET_BYTES} bytes, not {0}")]
    Length(usize),
    /// It begins otherwise.
    #[error("this is no probe")]
    Magic,
    /// A version that is not known.
    #[error("probe version {0} is not known")]
    Version(u8),
    /// Neither a request nor a reply.
    #[error("probe kind {0} is not known")]
    Kind(u8),
}

impl Probe {
    /// Reads a datagram.
    ///
    /// # Errors
    /// It is no probe of this version. The reserved bytes are not looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let bytes: &[u8; PACKET_BYTES] =
            bytes.try_into().map_err(|_| ParseError::Length(bytes.len()))?;
        let [m0, m1, m2, m3, version, kind, _, _, nonce @ ..] = *bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(ParseError::Magic);
        }
        if version != VERSION {
            return Err(ParseError::Version(version));
        }
        let kind = match kind {
            1 => Kind::Request,
            2 => Kind::Reply,
            other => return Err(ParseError::Kind(other)),
        };
        Ok(Probe { kind, nonce: u64::from_be_bytes(nonce) })
    }

    /// The datagram.
    pub fn emit(&self) -> [u8; PACKET_BYTES] {
        let mut bytes = [0; PACKET_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = match self.kind {
            Kind::Request => 1,
            Kind::Reply => 2,
        };
        bytes[8..].copy_from_slice(&self.nonce.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_emitted_is_parsed(request: bool, nonce: u64) {
            let kind = if request { Kind::Request } else { Kind::Reply };
            let probe = Probe { kind, nonce };
            prop_assert_eq!(Probe::parse(&probe.emit()), Ok(probe));
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..40), plausible: bool) {
            if plausible && bytes.len() >= 5 {
                bytes[..4].copy_from_slice(&MAGIC);
                bytes[4] = VERSION;
            }
            if let Ok(probe) = Probe::parse(&bytes) {
                prop_assert_eq!(&probe.emit()[..6], &bytes[..6]);
            }
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let good = Probe { kind: Kind::Reply, nonce: 7 }.emit();
        let with = |at: usize, value| {
            let mut bytes = good;
            bytes[at] = value;
            Probe::parse(&bytes)
        };
        assert_eq!(Probe::parse(&good[..15]), Err(ParseError::Length(15)));
        assert_eq!(with(0, b'X'), Err(ParseError::Magic));
        assert_eq!(with(4, 2), Err(ParseError::Version(2)));
        assert_eq!(with(5, 3), Err(ParseError::Kind(3)));
        assert!(with(6, 1).is_ok(), "reserved bytes are for later versions");
    }
}
