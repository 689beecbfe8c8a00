//! When a peer is to do something by itself (whitepaper §6; drivers/net/wireguard/timers.c).
//!
//! Six deadlines, of which a peer at rest has none. What passes only moves them; nothing is
//! asked of a clock here, and whoever keeps many peers sleeps until the earliest of
//! [`Timers::due_at`]. A deadline that was moved back is noticed when the old one comes.

use std::time::{Duration, Instant};

/// A session is renewed by whoever began it once it is so old.
pub(crate) const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// It is not used any more once it is so old.
pub(crate) const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// The pause between two initiations.
pub(crate) const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Whoever received and has nothing to say says so after this.
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Initiations without an answer before giving up: for 90 seconds (`REKEY_ATTEMPT_TIME`).
const MOST_ATTEMPTS: u32 = 18;
/// The first repetition of a handshake that is wanted at once. The protocol's own pause is how
/// long a node would wait whose edge learns of it a moment after its first message; responders
/// take an initiation every 20 ms.
const FIRST_REPEAT: Duration = Duration::from_millis(200);
/// Its last pause: an edge that comes back has all its nodes again within five seconds.
const LAST_REPEAT: Duration = Duration::from_secs(4);
/// Repetitions are spread over so much, lest two peers call each other in step for ever
/// (`REKEY_TIMEOUT_JITTER_MAX_JIFFIES`).
const MOST_JITTER_MILLIS: u64 = 333;

/// What is due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// An initiation is to be sent.
    pub initiate: bool,
    /// An empty packet is to be sent.
    pub keepalive: bool,
    /// Nobody answers: what waits for a session is dropped.
    pub give_up: bool,
    /// Nobody has answered for so long that others would give up.
    pub is_stale: bool,
    /// A session may not be used any more.
    pub retire: bool,
    /// The sessions are so old that their keys are to be forgotten.
    pub forget: bool,
}

/// The deadlines of one peer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Timers {
    /// Seconds between keepalives, 0 for none.
    persistent_secs: u16,
    /// The next initiation, while no answer came.
    retransmit: Option<Instant>,
    attempts: u32,
    /// In a hurry and without giving up.
    is_eager: bool,
    keepalive: Option<Instant>,
    /// Something came while a keepalive was due anyway.
    another_keepalive: bool,
    no_answer: Option<Instant>,
    persistent: Option<Instant>,
    retire: Option<Instant>,
    forget: Option<Instant>,
}

impl Timers {
    /// Seconds between keepalives, 0 for none. True when the first is to be sent now, since a
    /// peer behind a NAT is not heard before.
    pub(crate) fn set_persistent(&mut self, secs: u16) -> bool {
        let begins = self.persistent_secs == 0 && secs > 0;
        self.persistent_secs = secs;
        if secs == 0 {
            self.persistent = None;
        }
        begins
    }

    /// Wants the next keepalive at once.
    pub(crate) fn greet(&mut self, now: Instant) {
        self.persistent = Some(now);
    }

    /// Wants a handshake at once, repeated in short pauses first and without end.
    pub(crate) fn hurry(&mut self, now: Instant) {
        if !(self.is_eager && self.retransmit.is_some()) {
            self.is_eager = true;
            self.attempts = 0;
            self.retransmit = Some(now);
        }
    }

    /// The peer is somewhere else: a call that goes on is repeated there at once.
    pub(crate) fn call_again(&mut self, now: Instant) {
        self.retransmit = self.retransmit.map(|_| now);
        self.attempts = 0;
    }

    /// Wants no handshake of itself any more: a call that goes on may end.
    pub(crate) fn calm(&mut self) {
        self.is_eager = false;
    }

    /// Whether an initiation was sent and nothing came back yet.
    pub(crate) fn is_shaking(&self) -> bool {
        self.retransmit.is_some()
    }

    /// An initiation goes out. `random` spreads the repetitions.
    pub(crate) fn initiated(&mut self, now: Instant, random: u64) {
        let pause = match self.is_eager {
            true => FIRST_REPEAT.saturating_mul(1 << self.attempts.min(8)).min(LAST_REPEAT),
            false => REKEY_TIMEOUT,
        };
        // Of a short pause a part: many nodes lose their edge at once.
        let most = MOST_JITTER_MILLIS.min(u64::try_from(pause.as_millis()).unwrap_or(0) / 4);
        let pause = pause + Duration::from_millis(random % (most + 1));
        self.attempts = self.attempts.saturating_add(1);
        self.retransmit = Some(now + pause);
        self.authenticated_sent(now);
    }

    /// Both have the keys of a new session.
    pub(crate) fn completed(&mut self) {
        self.retransmit = None;
        self.attempts = 0;
        self.is_eager = false;
    }

    /// We have the keys of a new session.
    pub(crate) fn session_made(&mut self, now: Instant) {
        // Those that are there end before it.
        self.retire.get_or_insert(now + REJECT_AFTER_TIME);
        self.forget = Some(now + 3 * REJECT_AFTER_TIME);
    }

    /// Sessions were retired; the next one ends then, if there is one.
    pub(crate) fn retire_at(&mut self, at: Option<Instant>) {
        self.retire = at;
    }

    /// A packet with something in it goes out.
    pub(crate) fn data_sent(&mut self, now: Instant, random: u64) {
        if self.no_answer.is_none() {
            let jitter = Duration::from_millis(random % (MOST_JITTER_MILLIS + 1));
            self.no_answer = Some(now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + jitter);
        }
    }

    /// A packet with something in it came.
    pub(crate) fn data_received(&mut self, now: Instant) {
        match self.keepalive {
            None => self.keepalive = Some(now + KEEPALIVE_TIMEOUT),
            Some(_) => self.another_keepalive = true,
        }
    }

    /// Anything goes out that the peer can trust.
    pub(crate) fn authenticated_sent(&mut self, now: Instant) {
        self.keepalive = None;
        self.traversed(now);
    }

    /// Anything came that can be trusted.
    pub(crate) fn authenticated_received(&mut self, now: Instant) {
        self.no_answer = None;
        self.traversed(now);
    }

    fn traversed(&mut self, now: Instant) {
        if self.persistent_secs > 0 {
            self.persistent = Some(now + Duration::from_secs(self.persistent_secs.into()));
        }
    }

    /// When [`Timers::expire`] has something to do; none at rest.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        let by_silence = [self.retransmit, self.keepalive, self.no_answer, self.persistent];
        by_silence.into_iter().chain([self.retire, self.forget]).flatten().min()
    }

    /// What is due now; it is done then.
    pub(crate) fn expire(&mut self, now: Instant) -> Due {
        let mut due = Due::default();
        if is_due(&mut self.retransmit, now) {
            if self.attempts > MOST_ATTEMPTS && !self.is_eager {
                due.give_up = true;
                self.attempts = 0;
                // The keys of sessions that nobody answers on go as those that grow old.
                self.forget = self.forget.or(Some(now + 3 * REJECT_AFTER_TIME));
            } else {
                due.initiate = true;
                due.is_stale = self.attempts > MOST_ATTEMPTS;
            }
        }
        if is_due(&mut self.keepalive, now) {
            due.keepalive = true;
            if std::mem::take(&mut self.another_keepalive) {
                self.keepalive = Some(now + KEEPALIVE_TIMEOUT);
            }
        }
        if is_due(&mut self.no_answer, now) && self.retransmit.is_none() {
            due.initiate = true;
        }
        if is_due(&mut self.persistent, now) {
            due.keepalive = true;
            // Also when it cannot be sent, for lack of a session or of an address.
            self.traversed(now);
        }
        due.retire = is_due(&mut self.retire, now);
        due.forget = is_due(&mut self.forget, now);
        due
    }

    /// Forgets every deadline.
    pub(crate) fn stop(&mut self) {
        *self = Timers { persistent_secs: self.persistent_secs, ..Timers::default() };
    }
}

fn is_due(deadline: &mut Option<Instant>, now: Instant) -> bool {
    deadline.take_if(|at| *at <= now).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_peer_at_rest_has_no_deadline() {
        let now = Instant::now();
        let mut timers = Timers::default();
        assert_eq!(timers.due_at(), None);
        timers.initiated(now, 0);
        timers.completed();
        assert_eq!(timers.due_at(), None, "the session's end is what is left, once it is made");
        timers.session_made(now);
        assert_eq!(timers.due_at(), Some(now + secs(180)));
        assert_eq!(timers.expire(now + secs(180)), Due { retire: true, ..Due::default() });
        assert_eq!(timers.due_at(), Some(now + secs(540)));
        assert_eq!(timers.expire(now + secs(540)), Due { forget: true, ..Due::default() });
        assert_eq!(timers.due_at(), None);
    }

    #[test]
    fn an_initiation_is_repeated_for_ninety_seconds() {
        let start = Instant::now();
        let (mut timers, mut sent) = (Timers::default(), 1);
        timers.initiated(start, 333);
        while let Some(at) = timers.due_at() {
            let due = timers.expire(at);
            if due.give_up {
                assert!(at - start >= secs(90) && at - start < secs(102), "{:?}", at - start);
                break;
            }
            assert!(due.initiate);
            timers.initiated(at, u64::MAX);
            sent += 1;
        }
        assert_eq!(sent, 19);
        assert!(!timers.is_shaking());
    }

    #[test]
    fn who_is_in_a_hurry_repeats_soon_and_never_gives_up() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.hurry(start);
        let mut times = Vec::new();
        for _ in 0..100 {
            let at = timers.due_at().unwrap();
            assert!(timers.expire(at).initiate);
            timers.initiated(at, 0);
            timers.hurry(at);
            times.push((at - start).as_millis());
        }
        assert_eq!(times[..7], [0, 200, 600, 1400, 3000, 6200, 10_200], "without jitter");
        timers.completed();
        timers.hurry(start + secs(9000));
        assert_eq!(timers.due_at(), Some(start + secs(9000)), "the next hurry begins anew");
    }

    #[test]
    fn who_only_listens_says_so_every_ten_seconds() {
        let now = Instant::now();
        let mut timers = Timers::default();
        timers.data_received(now);
        timers.data_received(now + secs(1));
        assert_eq!(timers.due_at(), Some(now + secs(10)));
        assert!(timers.expire(now + secs(10)).keepalive);
        assert_eq!(timers.due_at(), Some(now + secs(20)), "the second was not answered yet");
        timers.authenticated_sent(now + secs(11));
        assert_eq!(timers.due_at(), None, "an answer says it as well");
    }

    #[test]
    fn silence_after_data_brings_a_handshake() {
        let now = Instant::now();
        let mut timers = Timers::default();
        timers.data_sent(now, 0);
        timers.data_sent(now + secs(3), 0);
        timers.authenticated_received(now + secs(4));
        assert_eq!(timers.due_at(), None);
        timers.data_sent(now + secs(5), 333);
        let at = now + secs(20) + Duration::from_millis(333);
        assert_eq!(timers.due_at(), Some(at));
        assert!(timers.expire(at).initiate);
    }

    #[test]
    fn keepalives_are_counted_from_the_last_packet_either_way() {
        let now = Instant::now();
        let mut timers = Timers::default();
        assert!(timers.set_persistent(25) && !timers.set_persistent(30));
        timers.authenticated_sent(now);
        timers.authenticated_received(now + secs(20));
        assert_eq!(timers.due_at(), Some(now + secs(50)));
        assert!(timers.expire(now + secs(50)).keepalive);
        assert_eq!(timers.due_at(), Some(now + secs(80)), "also if it could not be sent");
        assert!(!timers.set_persistent(0));
        assert_eq!(timers.due_at(), None);
    }

    #[derive(Debug, Clone)]
    enum Event {
        Hurry,
        Initiated(u64),
        Completed,
        Session,
        DataSent(u64),
        DataReceived,
        Sent,
        Received,
        Pass(u64),
        Persistent(u16),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            Just(Event::Hurry),
            any::<u64>().prop_map(Event::Initiated),
            Just(Event::Completed),
            Just(Event::Session),
            any::<u64>().prop_map(Event::DataSent),
            Just(Event::DataReceived),
            Just(Event::Sent),
            Just(Event::Received),
            (0u64..700_000).prop_map(Event::Pass),
            (0u16..40).prop_map(Event::Persistent),
        ];
        proptest::collection::vec(event, 0..80)
    }

    proptest! {
        /// Nothing is due before its time, everything is at it, and no deadline comes back at once.
        #[test]
        fn deadlines_are_kept_and_then_gone(events in events()) {
            let (mut timers, mut now) = (Timers::default(), Instant::now());
            for event in events {
                match event {
                    Event::Hurry => timers.hurry(now),
                    Event::Initiated(random) => timers.initiated(now, random),
                    Event::Completed => timers.completed(),
                    Event::Session => timers.session_made(now),
                    Event::DataSent(random) => timers.data_sent(now, random),
                    Event::DataReceived => timers.data_received(now),
                    Event::Sent => timers.authenticated_sent(now),
                    Event::Received => timers.authenticated_received(now),
                    Event::Pass(millis) => now += Duration::from_millis(millis),
                    Event::Persistent(secs) => {
                        timers.set_persistent(secs);
                    }
                }
                let due_at = timers.due_at();
                let due = timers.expire(now);
                prop_assert_eq!(due != Due::default() || timers.due_at() != due_at, due_at.is_some_and(|at| at <= now));
                prop_assert!(timers.due_at().is_none_or(|at| at > now), "it would spin");
            }
        }
    }
}
