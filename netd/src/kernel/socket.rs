//! One netlink socket, one conversation at a time.
//!
//! A request is written, its answers are read until the kernel has said the last word; only
//! then comes the next. What the kernel does not accept comes back as [`KernelAnswer`] with the
//! sentence of the extended ack. Requests that want no answer but "done" go out in batches:
//! the kernel works them off in order and reports each failure, so that only the last of a
//! batch asks for an acknowledgement.

use crate::error::{KernelAnswer, TalkError};
use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NLMSG_NOOP, NLMSG_OVERRUN, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use std::io;

/// `struct nlmsghdr` (netlink(7)).
const HEADER_BYTES: usize = 16;
/// The kernel fills dumps in pieces of at most 32 KiB (`NLMSG_GOODSIZE` and the size of the
/// last read); twice that never truncates.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Refusals of a whole batch must fit the receive buffer (208 KiB by default, about 1 KiB of
/// accounting per refusal), or the kernel drops some.
const BATCH_MESSAGES: usize = 128;
const BATCH_BYTES: usize = 32 * 1024;
/// How often a dump is begun anew when the tables change under it.
const DUMP_ATTEMPTS: usize = 5;
/// The kernel answers at once; a socket that stays silent is broken.
const ANSWER_WITHIN_SECS: i64 = 30;

const NLMSGERR_ATTR_MSG: u16 = 1;
/// `NLM_F_CAPPED`: the error does not repeat the request's payload.
const CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: attributes follow the error.
const ACK_TLVS: u16 = 0x200;

/// A socket and its buffers, which are reused from request to request.
#[derive(Debug)]
pub(crate) struct Conversation {
    socket: Socket,
    sequence: u32,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

/// Requests to be sent together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Where each message begins.
    starts: Vec<usize>,
}

impl Batch {
    /// Adds a request.
    pub(crate) fn push(&mut self, kind: u16, flags: u16, body: &impl Emitable) {
        self.starts.push(self.bytes.len());
        append(&mut self.bytes, kind, flags | NLM_F_REQUEST, body);
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }
}

impl Conversation {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        // Filters in dump requests are obeyed, and requests with parts that the kernel does
        // not know are refused instead of half understood. Generic netlink knows no such mode.
        if protocol == netlink_sys::protocols::NETLINK_ROUTE {
            socket.set_netlink_get_strict_chk(true)?;
        }
        let patience = TimeVal::new(ANSWER_WITHIN_SECS, 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
        Ok(Conversation {
            socket,
            sequence: 0,
            outgoing: Vec::with_capacity(256),
            incoming: Vec::with_capacity(RECEIVE_BYTES),
        })
    }

    /// One request that the kernel does or refuses.
    pub(crate) fn request(
        &mut self,
        kind: u16,
        flags: u16,
        body: &impl Emitable,
    ) -> Result<(), TalkError> {
        self.ask(kind, flags | NLM_F_ACK, body, |_, _| Ok(()))
    }

    /// One request whose answers go to `each` as (type, body).
    pub(crate) fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &impl Emitable,
        mut each: impl FnMut(u16, &[u8]) -> Result<(), TalkError>,
    ) -> Result<(), TalkError> {
        self.outgoing.clear();
        append(&mut self.outgoing, kind, flags | NLM_F_REQUEST, body);
        let sequence = self.next_sequence();
        write_sequence(&mut self.outgoing, sequence);
        self.socket.send(&self.outgoing, 0)?;
        self.answers(sequence, &mut each).map(drop)
    }

    /// Everything of a kind; `each` may hear of things that vanish before the dump ends.
    /// A dump that the kernel calls inconsistent is begun anew, and so is one that it refuses
    /// because an earlier one is not at its end.
    pub(crate) fn dump<C>(
        &mut self,
        kind: u16,
        body: &impl Emitable,
        mut collect: impl FnMut() -> C,
        mut each: impl FnMut(&mut C, u16, &[u8]) -> Result<(), TalkError>,
    ) -> Result<C, TalkError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut collected = collect();
            self.outgoing.clear();
            append(&mut self.outgoing, kind, NLM_F_REQUEST | NLM_F_DUMP, body);
            let sequence = self.next_sequence();
            write_sequence(&mut self.outgoing, sequence);
            self.socket.send(&self.outgoing, 0)?;
            let answers =
                self.answers(sequence, &mut |kind, body: &[u8]| each(&mut collected, kind, body));
            let interrupted = match answers {
                // The kernel fills a dump as it is read (`netlink_recvmsg`). One whose reader was
                // turned away, for want of memory or with an answer that could not be read, goes on
                // with the next read, and until it has ended there is no other on this socket.
                Err(TalkError::Refused(KernelAnswer { errno: Errno::EBUSY, .. }))
                    if attempts < DUMP_ATTEMPTS =>
                {
                    self.read_out()?;
                    continue;
                }
                answers => answers?,
            };
            // The last attempt is taken as it is: the next observation will see the rest.
            if !interrupted || attempts == DUMP_ATTEMPTS {
                return Ok(collected);
            }
        }
    }

    /// Sends all of `batch` and tells for each message what became of it. All are tried, also
    /// those after a refusal.
    pub(crate) fn send(
        &mut self,
        batch: &mut Batch,
    ) -> Result<Vec<Result<(), KernelAnswer>>, TalkError> {
        let mut results = vec![Ok(()); batch.len()];
        let mut first = 0;
        while first < batch.len() {
            let end = chunk_end(&batch.starts, batch.bytes.len(), first);
            let base = self.sequence.wrapping_add(1);
            for message in first..end {
                let sequence = self.next_sequence();
                let bytes = &mut batch.bytes[batch.starts[message]..];
                write_sequence(bytes, sequence);
                if message + 1 == end {
                    let flags = u16::from_ne_bytes([bytes[6], bytes[7]]) | NLM_F_ACK;
                    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
                }
            }
            let to = batch.starts.get(end).copied().unwrap_or(batch.bytes.len());
            self.socket.send(&batch.bytes[batch.starts[first]..to], 0)?;
            self.acknowledgements(base, &mut results[first..end])?;
            first = end;
        }
        Ok(results)
    }

    /// Reads refusals of the messages from `base` on, until the last one is answered.
    fn acknowledgements(
        &mut self,
        base: u32,
        results: &mut [Result<(), KernelAnswer>],
    ) -> Result<(), TalkError> {
        let last = results.len() - 1;
        loop {
            self.receive()?;
            for message in Messages(&self.incoming) {
                let message = message?;
                let Ok(position) = usize::try_from(message.sequence.wrapping_sub(base)) else {
                    continue;
                };
                if position > last || message.kind != NLMSG_ERROR {
                    continue;
                }
                if let Some(answer) = parse_verdict(&message) {
                    results[position] = Err(answer);
                }
                if position == last {
                    return Ok(());
                }
            }
        }
    }

    /// Hands every answer to `each` until the kernel has said the last word; tells whether
    /// a dump was interrupted.
    fn answers(
        &mut self,
        sequence: u32,
        each: &mut impl FnMut(u16, &[u8]) -> Result<(), TalkError>,
    ) -> Result<bool, TalkError> {
        let mut interrupted = false;
        // A failure in `each` must not leave answers in the socket for the next request.
        let mut failed = None;
        loop {
            self.receive()?;
            for message in Messages(&self.incoming) {
                let message = message?;
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                let finished = match message.kind {
                    NLMSG_NOOP => false,
                    NLMSG_OVERRUN => return Err(TalkError::Socket(Errno::ENOBUFS.into())),
                    NLMSG_ERROR | NLMSG_DONE => match parse_verdict(&message) {
                        Some(answer) => return Err(failed.unwrap_or(answer.into())),
                        None => true,
                    },
                    kind => {
                        if failed.is_none() {
                            failed = each(kind, message.body).err();
                        }
                        false
                    }
                };
                if finished {
                    return failed.map_or(Ok(interrupted), Err);
                }
            }
        }
    }

    fn receive(&mut self) -> Result<(), TalkError> {
        self.receive_with(0).map_err(TalkError::Socket)
    }

    fn receive_with(&mut self, flags: libc::c_int) -> io::Result<()> {
        loop {
            self.incoming.clear();
            match self.socket.recv(&mut self.incoming, flags) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(drop),
            }
        }
    }

    /// Reads what is left of earlier conversations, until there is nothing more.
    fn read_out(&mut self) -> Result<(), TalkError> {
        loop {
            match self.receive_with(libc::MSG_DONTWAIT) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(TalkError::Socket(error)),
            }
        }
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

/// Where a chunk that begins with message `first` ends.
fn chunk_end(starts: &[usize], total: usize, first: usize) -> usize {
    let mut end = first + 1;
    while end < starts.len()
        && end - first < BATCH_MESSAGES
        && starts.get(end + 1).copied().unwrap_or(total) - starts[first] <= BATCH_BYTES
    {
        end += 1;
    }
    end
}

fn append(bytes: &mut Vec<u8>, kind: u16, flags: u16, body: &impl Emitable) {
    let start = bytes.len();
    let length = HEADER_BYTES + body.buffer_len();
    bytes.resize(start + length.next_multiple_of(4), 0);
    let length_field = u32::try_from(length).expect("a request is far below 4 GiB");
    bytes[start..start + 4].copy_from_slice(&length_field.to_ne_bytes());
    bytes[start + 4..start + 6].copy_from_slice(&kind.to_ne_bytes());
    bytes[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
    body.emit(&mut bytes[start + HEADER_BYTES..start + length]);
}

fn write_sequence(message: &mut [u8], sequence: u32) {
    message[8..12].copy_from_slice(&sequence.to_ne_bytes());
}

/// One message of the kernel.
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The messages of one read.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, TalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.0);
        let broken = || TalkError::Unreadable(format!("{} bytes that are no message", bytes.len()));
        let Some((header, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Some(Err(broken()));
        };
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let Some(body) = bytes.get(HEADER_BYTES..length) else {
            return Some(Err(broken()));
        };
        self.0 = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            body,
        }))
    }
}

/// Reads an `NLMSG_ERROR` or `NLMSG_DONE`; `None` when it says that all is well.
fn parse_verdict(message: &Message<'_>) -> Option<KernelAnswer> {
    // The kernel may end a dump with an empty message.
    let (code, rest) = message.body.split_first_chunk::<4>()?;
    let code = i32::from_ne_bytes(*code);
    if code == 0 {
        return None;
    }
    // An error repeats the request's header, and more of it when it is not capped; the end of
    // a dump repeats nothing.
    let attributes = match (message.kind, message.flags & ACK_TLVS != 0) {
        (NLMSG_DONE, true) => rest,
        (NLMSG_ERROR, true) if message.flags & CAPPED != 0 => {
            rest.get(HEADER_BYTES..).unwrap_or_default()
        }
        _ => &[],
    };
    let text = NlasIterator::new(attributes).find_map(|nla| {
        let nla = nla.ok().filter(|nla| nla.kind() == NLMSGERR_ATTR_MSG)?;
        let text = nla.value().strip_suffix(&[0]).unwrap_or(nla.value());
        Some(String::from_utf8_lossy(text).into_owned())
    });
    Some(KernelAnswer { errno: Errno::from_raw(code.saturating_abs()), text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::DefaultNla;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 2u16..4, flags: u16) {
            for message in Messages(&bytes).flatten() {
                let _ = parse_verdict(&message);
            }
            let _ = parse_verdict(&Message { kind, flags, sequence: 0, body: &bytes });
        }

        #[test]
        fn messages_read_back(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6)) {
            let mut bytes = Vec::new();
            for body in &bodies {
                append(&mut bytes, 24, 5, &DefaultNla::new(1, body.clone()));
            }
            let read: Vec<_> = Messages(&bytes).map(|m| m.unwrap().body.to_vec()).collect();
            prop_assert_eq!(read.len(), bodies.len());
            for (read, body) in read.iter().zip(&bodies) {
                prop_assert_eq!(&read[4..4 + body.len()], &body[..]);
            }
        }

        #[test]
        fn chunks_cover_a_batch_once(lengths in prop::collection::vec(16usize..40_000, 1..300)) {
            let mut starts = vec![0];
            starts.extend(lengths.iter().scan(0, |at, length| { *at += length; Some(*at) }));
            let total = starts.pop().unwrap();
            let mut first = 0;
            while first < starts.len() {
                let end = chunk_end(&starts, total, first);
                prop_assert!(end > first && end - first <= BATCH_MESSAGES);
                let bytes = starts.get(end).copied().unwrap_or(total) - starts[first];
                prop_assert!(bytes <= BATCH_BYTES || end == first + 1);
                first = end;
            }
        }
    }

    #[test]
    fn the_kernels_sentence_is_kept() {
        let mut body = (-95i32).to_ne_bytes().to_vec();
        body.extend([0; HEADER_BYTES]);
        append_text(&mut body, b"Unknown device type\0");
        let flags = CAPPED | ACK_TLVS;
        let answer =
            parse_verdict(&Message { kind: NLMSG_ERROR, flags, sequence: 1, body: &body }).unwrap();
        assert_eq!(answer.errno, Errno::EOPNOTSUPP);
        assert_eq!(answer.text.as_deref(), Some("Unknown device type"));
        assert!(answer.to_string().contains("Unknown device type"));
    }

    /// As after a read that failed for want of memory.
    #[test]
    fn a_dump_that_broke_off_is_read_to_its_end_before_the_next() {
        use netlink_packet_core::NLM_F_DUMP;
        use netlink_packet_generic::GenlMessage;
        use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
        /// `GENL_ID_CTRL`; its families are many, and everybody may ask for them.
        const CONTROLLER: u16 = 16;
        let all = GenlMessage::from_payload(GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![] });
        let families = |conversation: &mut Conversation| {
            conversation.dump(CONTROLLER, &all, Vec::new, |seen, _, body| {
                seen.push(body.to_vec());
                Ok(())
            })
        };
        let open = || Conversation::open(netlink_sys::protocols::NETLINK_GENERIC).unwrap();
        let mut broken = open();
        let break_off = |conversation: &mut Conversation| {
            let mut request = Vec::new();
            append(&mut request, CONTROLLER, NLM_F_REQUEST | NLM_F_DUMP, &all);
            conversation.socket.send(&request, 0).unwrap();
        };
        break_off(&mut broken);
        let refused =
            broken.ask(CONTROLLER, NLM_F_DUMP, &all, |_, _| Ok(())).map_err(|e| e.errno());
        assert_eq!(refused, Err(Some(Errno::EBUSY)), "the kernel takes two dumps at once");
        broken.read_out().unwrap();
        break_off(&mut broken);
        assert_eq!(families(&mut broken).unwrap(), families(&mut open()).unwrap());
    }

    fn append_text(body: &mut Vec<u8>, text: &[u8]) {
        let nla = DefaultNla::new(NLMSGERR_ATTR_MSG, text.to_vec());
        let start = body.len();
        body.resize(start + nla.buffer_len(), 0);
        nla.emit(&mut body[start..]);
    }
}
