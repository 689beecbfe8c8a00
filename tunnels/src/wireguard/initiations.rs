//! First messages that wait to be worked on.
//!
//! One costs three multiplications, a fifth of a millisecond, and when an edge was started anew all
//! its nodes write at once. So they are taken off the network as they come, lest packets wait behind
//! them, and are worked on a few at a time. Of one sender only the last waits, in the place of its
//! first: it has forgotten the earlier ones, and would refuse an answer to them.

use super::message::INITIATION_BYTES;
use super::outbox::Way;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// More senders than any edge has tunnels do not wait: 4 MiB.
const MOST_SENDERS: usize = 16_384;

/// A first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// The way it came, and its answer goes.
    pub(crate) way: Way,
    /// As it came.
    pub(crate) datagram: [u8; INITIATION_BYTES],
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Initiations {
    /// By who sent them, each of which stands in `order` once.
    waiting: BTreeMap<SocketAddr, Waiting>,
    order: VecDeque<SocketAddr>,
}

impl Initiations {
    /// Takes a later message of a sender that waits already; false when it does not.
    pub(crate) fn replace(&mut self, way: Way, datagram: &[u8]) -> bool {
        let Ok(datagram) = datagram.try_into() else { return false };
        let before = self.waiting.get_mut(&way.to);
        before.map(|before| *before = Waiting { way, datagram }).is_some()
    }

    /// Has a message wait; false when too many do.
    pub(crate) fn push(&mut self, way: Way, datagram: &[u8]) -> bool {
        if self.replace(way, datagram) {
            return true;
        }
        let Ok(datagram) = datagram.try_into() else { return false };
        if self.order.len() >= MOST_SENDERS {
            return false;
        }
        self.waiting.insert(way.to, Waiting { way, datagram });
        self.order.push_back(way.to);
        true
    }

    /// Takes out the one of whoever waits longest.
    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        let sender = self.order.pop_front()?;
        if self.order.is_empty() {
            // It is large only once.
            self.order = VecDeque::new();
        }
        self.waiting.remove(&sender)
    }

    /// Whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn way(port: u16) -> Way {
        Way { to: ([192, 0, 2, 1], port).into(), from: None }
    }

    proptest! {
        /// Senders are served in the order in which they began to wait, each with what it sent last.
        #[test]
        fn the_last_message_takes_the_place_of_the_first(steps in proptest::collection::vec(proptest::option::weighted(0.7, 0u16..6), 0..100)) {
            let mut queue = Initiations::default();
            let mut model: Vec<(u16, u8)> = Vec::new();
            for (step, n) in steps.into_iter().zip(0u8..) {
                match step {
                    Some(port) => {
                        let known = model.iter_mut().find(|(waits, _)| *waits == port);
                        prop_assert_eq!(queue.clone_of(port), known.as_ref().map(|(_, last)| *last));
                        match known {
                            Some((_, last)) => *last = n,
                            None => model.push((port, n)),
                        }
                        prop_assert!(queue.push(way(port), &[n; INITIATION_BYTES]));
                    }
                    None => {
                        let want = (!model.is_empty()).then(|| model.remove(0));
                        let want = want.map(|(port, n)| Waiting { way: way(port), datagram: [n; INITIATION_BYTES] });
                        prop_assert_eq!(queue.pop(), want);
                    }
                }
                prop_assert_eq!(queue.is_empty(), model.is_empty());
                prop_assert_eq!(queue.waiting.len(), queue.order.len());
            }
        }
    }

    impl Initiations {
        fn clone_of(&self, port: u16) -> Option<u8> {
            self.waiting.get(&way(port).to).map(|waiting| waiting.datagram[0])
        }
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut queue = Initiations::default();
        for n in 0..u32::try_from(MOST_SENDERS).unwrap() + 9 {
            let to = SocketAddr::new(std::net::Ipv4Addr::from(n).into(), 1);
            let has_room = (n as usize) < MOST_SENDERS;
            assert_eq!(queue.push(Way { to, from: None }, &[1; INITIATION_BYTES]), has_room);
        }
        assert_eq!((queue.order.len(), queue.waiting.len()), (MOST_SENDERS, MOST_SENDERS));
        assert!(!queue.replace(way(1), &[1; 3]), "no first message");
    }
}
