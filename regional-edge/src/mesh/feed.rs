//! What another edge says, taken in: a machine without sockets and clocks.
//!
//! ```text
//!  Silent ──hello──► Greeted ──snapshot──► Following ──change/alive──► Following
//!     anything else at any time: an error, and the connection is given up
//! ```

use super::Heard;
use super::message::{Message, VERSION};
use std::time::{Duration, Instant};

/// How long the first words may take.
const GREETING: Duration = Duration::from_secs(5);
/// Heartbeats that may be missed.
const MISSED: u32 = 3;
/// Another edge cannot make us wait longer than this between its words.
const SLOWEST: Duration = Duration::from_secs(10);

/// Why what was said cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// A message that may not come now.
    #[error("it said {said} where {expected} was expected")]
    OutOfTurn {
        /// What came.
        said: &'static str,
        /// What should have.
        expected: &'static str,
    },
    /// It calls itself by another name than its certificate.
    #[error("it calls itself {0}")]
    Name(String),
    /// It speaks a version that we do not.
    #[error("it speaks version {0} of the protocol, and we {VERSION}")]
    Version(u32),
    /// Something was lost in between.
    #[error("its change {got} came after {last}")]
    Gap {
        /// The number that came.
        got: u64,
        /// The last one before.
        last: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Silent,
    Greeted { heartbeat: Duration },
    Following { heartbeat: Duration, seq: u64 },
}

/// One connection to another edge, from the listener's side.
#[derive(Debug)]
pub struct Feed {
    edge: String,
    state: State,
    due: Instant,
}

impl Feed {
    /// A connection to `edge` that was made at `now`.
    pub fn new(edge: &str, now: Instant) -> Self {
        Feed { edge: edge.into(), state: State::Silent, due: now + GREETING }
    }

    /// Takes in a message; what is new by it.
    ///
    /// # Errors
    /// It makes no sense here; the connection must be made anew.
    pub fn on(&mut self, message: Message, now: Instant) -> Result<Option<Heard>, FeedError> {
        let (state, heard) = match (self.state, message) {
            (same, Message::Unknown) => (same, None),
            (State::Silent, Message::Hello { version: VERSION, edge, heartbeat_ms }) => {
                if edge != self.edge {
                    return Err(FeedError::Name(edge));
                }
                let heartbeat = Duration::from_millis(heartbeat_ms.into()).min(SLOWEST);
                (State::Greeted { heartbeat }, None)
            }
            (State::Silent, Message::Hello { version, .. }) => {
                return Err(FeedError::Version(version));
            }
            (State::Greeted { heartbeat }, Message::Snapshot { seq, up }) => {
                (State::Following { heartbeat, seq }, Some(Heard::All(up)))
            }
            (State::Following { heartbeat, seq: last }, Message::Change { seq, up, down }) => {
                if Some(seq) != last.checked_add(1) {
                    return Err(FeedError::Gap { got: seq, last });
                }
                (State::Following { heartbeat, seq }, Some(Heard::Changed { up, down }))
            }
            (State::Following { heartbeat, seq: last }, Message::Alive { seq }) => {
                if seq != last {
                    return Err(FeedError::Gap { got: seq, last });
                }
                (State::Following { heartbeat, seq }, None)
            }
            (
                state,
                message @ (Message::Hello { .. }
                | Message::Snapshot { .. }
                | Message::Change { .. }
                | Message::Alive { .. }),
            ) => {
                return Err(FeedError::OutOfTurn {
                    said: word(&message),
                    expected: expected(state),
                });
            }
        };
        self.state = state;
        self.due = now
            + match state {
                State::Silent | State::Greeted { .. } => GREETING,
                // At least a moment, also for one who announces an absurd interval.
                State::Following { heartbeat, .. } => heartbeat.max(MOMENT) * MISSED,
            };
        Ok(heard)
    }

    /// When the other edge counts as gone unless it says something before.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Whether it counts as gone.
    pub fn is_dead(&self, now: Instant) -> bool {
        now >= self.due
    }
}

const MOMENT: Duration = Duration::from_millis(50);

fn word(message: &Message) -> &'static str {
    match message {
        Message::Hello { .. } => "hello",
        Message::Snapshot { .. } => "a snapshot",
        Message::Change { .. } => "a change",
        Message::Alive { .. } => "a heartbeat",
        Message::Unknown => "something unknown",
    }
}

fn expected(state: State) -> &'static str {
    match state {
        State::Silent => "hello",
        State::Greeted { .. } => "a snapshot",
        State::Following { .. } => "a change or a heartbeat",
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::difference;
    use super::*;
    use crate::nodes::NodeKey;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn hello() -> Message {
        Message::Hello { version: VERSION, edge: "re-2".into(), heartbeat_ms: 100 }
    }

    fn nodes(numbers: impl IntoIterator<Item = u8>) -> BTreeSet<NodeKey> {
        let node = |n| NodeKey::new("acme", &format!("n{n}")).unwrap();
        numbers.into_iter().map(node).collect()
    }

    fn snapshot(seq: u64, up: &[u8]) -> Message {
        Message::Snapshot { seq, up: nodes(up.iter().copied()) }
    }

    /// Takes a set of nodes through what was heard.
    fn absorb(set: &mut BTreeSet<NodeKey>, heard: Heard) {
        match heard {
            Heard::All(all) => *set = all,
            Heard::Changed { up, down } => {
                set.retain(|node| !down.contains(node));
                set.extend(up);
            }
            Heard::Lost => set.clear(),
        }
    }

    proptest! {
        /// The law: whoever takes in a snapshot and all changes has the speaker's set; whoever
        /// misses one notices before he believes anything wrong.
        #[test]
        fn a_feed_ends_up_with_the_speakers_set(
            sets in proptest::collection::vec(proptest::collection::btree_set(0u8..6, 0..6), 1..12),
            lost in proptest::option::of(1usize..12),
        ) {
            let now = Instant::now();
            let mut feed = Feed::new("re-2", now);
            feed.on(hello(), now).unwrap();
            let sets: Vec<_> = sets.into_iter().map(nodes).collect();
            let mut copy = BTreeSet::new();
            let first = Message::Snapshot { seq: 7, up: sets[0].clone() };
            absorb(&mut copy, feed.on(first, now).unwrap().unwrap());
            let mut seq = 7;
            let mut missed = false;
            for (n, pair) in sets.windows(2).enumerate() {
                let Some(message) = difference(seq + 1, &pair[0], &pair[1]) else { continue };
                seq += 1;
                if lost == Some(n + 1) {
                    missed = true;
                    continue;
                }
                // Over the wire and back.
                let line = message.to_line();
                let message = serde_json::from_slice(&line).unwrap();
                match feed.on(message, now) {
                    Ok(heard) => {
                        prop_assert!(!missed);
                        absorb(&mut copy, heard.unwrap());
                        prop_assert_eq!(&copy, &pair[1]);
                    }
                    Err(error) => {
                        prop_assert!(missed, "{error}");
                        return Ok(());
                    }
                }
            }
            prop_assert_eq!(feed.on(Message::Alive { seq }, now).is_err(), missed);
        }
    }

    #[test]
    fn silence_of_three_heartbeats_is_death() {
        let start = Instant::now();
        let ms = |n| start + Duration::from_millis(n);
        let mut feed = Feed::new("re-2", start);
        assert!(!feed.is_dead(ms(4_999)) && feed.is_dead(ms(5_000)));
        feed.on(hello(), ms(10)).unwrap();
        feed.on(snapshot(1, &[]), ms(10)).unwrap();
        assert_eq!(feed.due(), ms(310));
        feed.on(Message::Alive { seq: 1 }, ms(300)).unwrap();
        feed.on(Message::Unknown, ms(350)).unwrap();
        assert!(!feed.is_dead(ms(649)) && feed.is_dead(ms(650)));
    }

    #[test]
    fn nonsense_is_named() {
        let now = Instant::now();
        let greeted = || {
            let mut feed = Feed::new("re-2", now);
            feed.on(hello(), now).unwrap();
            feed
        };
        let following = || {
            let mut feed = greeted();
            feed.on(snapshot(3, &[1]), now).unwrap();
            feed
        };
        let change = |seq| Message::Change { seq, up: nodes([2]), down: nodes([]) };
        let other = Message::Hello { version: 1, edge: "re-9".into(), heartbeat_ms: 1 };
        let newer = Message::Hello { version: 2, edge: "re-2".into(), heartbeat_ms: 1 };
        let turn = |said, expected| FeedError::OutOfTurn { said, expected };
        for (mut feed, message, want) in [
            (Feed::new("re-2", now), other, FeedError::Name("re-9".into())),
            (Feed::new("re-2", now), newer, FeedError::Version(2)),
            (Feed::new("re-2", now), snapshot(1, &[]), turn("a snapshot", "hello")),
            (greeted(), hello(), turn("hello", "a snapshot")),
            (greeted(), change(1), turn("a change", "a snapshot")),
            (following(), snapshot(4, &[]), turn("a snapshot", "a change or a heartbeat")),
            (following(), change(5), FeedError::Gap { got: 5, last: 3 }),
            (following(), change(3), FeedError::Gap { got: 3, last: 3 }),
            (following(), Message::Alive { seq: 4 }, FeedError::Gap { got: 4, last: 3 }),
        ] {
            assert_eq!(feed.on(message, now), Err(want));
        }
    }

    #[test]
    fn later_versions_may_say_more() {
        let line = r#"{"type":"weather","rain":true}"#;
        assert_eq!(serde_json::from_str::<Message>(line).unwrap(), Message::Unknown);
        let line = r#"{"type":"alive","seq":4,"mood":"good"}"#;
        assert_eq!(serde_json::from_str::<Message>(line).unwrap(), Message::Alive { seq: 4 });
        let line = r#"{"type":"snapshot","seq":1,"up":["no-slash"]}"#;
        assert!(serde_json::from_str::<Message>(line).is_err());
    }
}
