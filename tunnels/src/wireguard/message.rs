//! The four messages of WireGuard on the wire (whitepaper §5.4), without what is in them.
//!
//! All integers are little-endian. A message is its type, three bytes of zero, and fields of
//! fixed length; only data has an open end. What does not fit exactly is no message at all.

/// Of a handshake's first message.
pub(crate) const INITIATION_BYTES: usize = 148;
/// Of its answer.
pub(crate) const RESPONSE_BYTES: usize = 92;
/// Of the answer under load.
pub(crate) const COOKIE_REPLY_BYTES: usize = 64;
/// Before the ciphertext of data.
pub(crate) const DATA_HEADER_BYTES: usize = 16;
/// Of the authenticator behind each ciphertext.
pub(crate) const TAG_BYTES: usize = 16;
/// What a packet grows by, its padding to sixteen bytes apart.
pub(crate) const DATA_OVERHEAD_BYTES: usize = DATA_HEADER_BYTES + TAG_BYTES;
/// Of mac1 and of mac2, the last fields of both handshake messages.
pub(crate) const MAC_BYTES: usize = 16;
/// What Noise has in an initiation: ephemeral key, sealed static key, sealed timestamp.
pub(crate) const NOISE_INITIATION_BYTES: usize = 32 + (32 + TAG_BYTES) + (12 + TAG_BYTES);
/// What Noise has in a response: ephemeral key and the seal of nothing.
pub(crate) const NOISE_RESPONSE_BYTES: usize = 32 + TAG_BYTES;

const INITIATION: u32 = 1;
const RESPONSE: u32 = 2;
const COOKIE_REPLY: u32 = 3;
const DATA: u32 = 4;

/// A datagram that has the form of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// Wants a session.
    Initiation {
        /// How its sender wants to be addressed.
        sender: u32,
        /// For the handshake.
        noise: &'a [u8; NOISE_INITIATION_BYTES],
    },
    /// Gives one.
    Response {
        /// How its sender wants to be addressed.
        sender: u32,
        /// Whom it answers.
        receiver: u32,
        /// For the handshake.
        noise: &'a [u8; NOISE_RESPONSE_BYTES],
    },
    /// Asks for a proof of address first.
    CookieReply {
        /// Whom it answers.
        receiver: u32,
        /// Of the seal.
        nonce: &'a [u8; 24],
        /// The cookie and its authenticator.
        sealed: &'a [u8; 16 + TAG_BYTES],
    },
    /// Carries a packet.
    Data {
        /// The session.
        receiver: u32,
        /// The packet's number in it.
        counter: u64,
    },
}

impl<'a> Message<'a> {
    /// Recognizes a datagram; none when it is no message of WireGuard.
    pub(crate) fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (kind, rest) = take_u32(datagram)?;
        let noise_and_macs = datagram.len().checked_sub(2 * MAC_BYTES);
        match kind {
            DATA if datagram.len() >= DATA_OVERHEAD_BYTES => {
                let (receiver, rest) = take_u32(rest)?;
                let counter = u64::from_le_bytes(*rest.first_chunk()?);
                Some(Message::Data { receiver, counter })
            }
            INITIATION if datagram.len() == INITIATION_BYTES => {
                let (sender, _) = take_u32(rest)?;
                let noise = datagram.get(8..noise_and_macs?)?.try_into().ok()?;
                Some(Message::Initiation { sender, noise })
            }
            RESPONSE if datagram.len() == RESPONSE_BYTES => {
                let (sender, rest) = take_u32(rest)?;
                let (receiver, _) = take_u32(rest)?;
                let noise = datagram.get(12..noise_and_macs?)?.try_into().ok()?;
                Some(Message::Response { sender, receiver, noise })
            }
            COOKIE_REPLY if datagram.len() == COOKIE_REPLY_BYTES => {
                let (receiver, rest) = take_u32(rest)?;
                let (nonce, sealed) = rest.split_first_chunk()?;
                Some(Message::CookieReply { receiver, nonce, sealed: sealed.try_into().ok()? })
            }
            _ => None,
        }
    }
}

/// An initiation whose macs are still zero.
pub(crate) fn initiation(
    sender: u32,
    noise: &[u8; NOISE_INITIATION_BYTES],
) -> [u8; INITIATION_BYTES] {
    let mut datagram = [0; INITIATION_BYTES];
    put(&mut datagram, &[&INITIATION.to_le_bytes(), &sender.to_le_bytes(), noise]);
    datagram
}

/// A response whose macs are still zero.
pub(crate) fn response(
    sender: u32,
    receiver: u32,
    noise: &[u8; NOISE_RESPONSE_BYTES],
) -> [u8; RESPONSE_BYTES] {
    let mut datagram = [0; RESPONSE_BYTES];
    let head = [RESPONSE.to_le_bytes(), sender.to_le_bytes(), receiver.to_le_bytes()];
    put(&mut datagram, &[head.as_flattened(), noise]);
    datagram
}

/// A cookie reply.
pub(crate) fn cookie_reply(
    receiver: u32,
    nonce: &[u8; 24],
    sealed: &[u8; 16 + TAG_BYTES],
) -> [u8; COOKIE_REPLY_BYTES] {
    let mut datagram = [0; COOKIE_REPLY_BYTES];
    put(&mut datagram, &[&COOKIE_REPLY.to_le_bytes(), &receiver.to_le_bytes(), nonce, sealed]);
    datagram
}

/// The first bytes of data.
pub(crate) fn data_header(receiver: u32, counter: u64) -> [u8; DATA_HEADER_BYTES] {
    let mut header = [0; DATA_HEADER_BYTES];
    put(&mut header, &[&DATA.to_le_bytes(), &receiver.to_le_bytes(), &counter.to_le_bytes()]);
    header
}

/// How long a packet of `length` bytes is before it is sealed: padded to sixteen bytes, yet not
/// beyond what the link takes (whitepaper §5.4.6; `calculate_skb_padding` in
/// drivers/net/wireguard/send.c).
pub(crate) fn padded(length: usize, mtu: usize) -> usize {
    length.next_multiple_of(16).min(mtu.max(length))
}

fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    bytes.split_first_chunk().map(|(head, rest)| (u32::from_le_bytes(*head), rest))
}

fn put(datagram: &mut [u8], parts: &[&[u8]]) {
    for (to, from) in datagram.iter_mut().zip(parts.iter().copied().flatten()) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_again(sender: u32, receiver: u32, counter: u64, byte: u8) {
            let noise = [byte; NOISE_INITIATION_BYTES];
            let datagram = initiation(sender, &noise);
            prop_assert_eq!(Message::parse(&datagram), Some(Message::Initiation { sender, noise: &noise }));
            let noise = [byte; NOISE_RESPONSE_BYTES];
            let datagram = response(sender, receiver, &noise);
            prop_assert_eq!(Message::parse(&datagram), Some(Message::Response { sender, receiver, noise: &noise }));
            let (nonce, sealed) = ([byte; 24], [!byte; 32]);
            let datagram = cookie_reply(receiver, &nonce, &sealed);
            prop_assert_eq!(Message::parse(&datagram), Some(Message::CookieReply { receiver, nonce: &nonce, sealed: &sealed }));
            let mut datagram = data_header(receiver, counter).to_vec();
            datagram.extend([0; TAG_BYTES]);
            prop_assert_eq!(Message::parse(&datagram), Some(Message::Data { receiver, counter }));
        }

        /// A byte more or less, or another word of type, and it is nothing.
        #[test]
        fn what_does_not_fit_exactly_is_nothing(kind in 0u32..6, length in 0usize..200, high in 1u8..) {
            let mut datagram = vec![0; length];
            for (to, from) in datagram.iter_mut().zip(kind.to_le_bytes()) {
                *to = from;
            }
            let fits = match kind {
                1 => length == INITIATION_BYTES,
                2 => length == RESPONSE_BYTES,
                3 => length == COOKIE_REPLY_BYTES,
                4 => length >= DATA_OVERHEAD_BYTES,
                _ => false,
            };
            prop_assert_eq!(Message::parse(&datagram).is_some(), fits);
            if length >= 4 {
                datagram[3] = high;
                prop_assert_eq!(Message::parse(&datagram), None);
            }
        }

        #[test]
        fn padding_hides_the_length_and_never_exceeds_the_link(length in 0usize..2000, mtu in 1280usize..1500) {
            let padded = padded(length, mtu);
            prop_assert!(padded >= length && padded < length + 16);
            prop_assert!(padded <= mtu.max(length));
            prop_assert!(padded.is_multiple_of(16) || padded == mtu.max(length));
        }
    }
}
