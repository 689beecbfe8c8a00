//! Two engines on virtual time, with a wire between them that loses, doubles and delays.

use super::*;
use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet};

/// What a wire does, in thousandths of the datagrams.
#[derive(Debug, Clone, Copy)]
struct Wire {
    lost: u64,
    doubled: u64,
    most_delay: Duration,
}

const PERFECT: Wire = Wire { lost: 0, doubled: 0, most_delay: Duration::from_millis(1) };

struct Story {
    ends: [End; 2],
    wire: Wire,
    random: Random,
    start: Instant,
    now: Instant,
    /// What is on its way, by when it arrives: to which end, and from where.
    flying: BTreeMap<(Instant, u64), (usize, SocketAddr, Vec<u8>)>,
    serial: u64,
    initiations: Vec<(usize, Instant)>,
    /// Numbers of the packets that arrived at each end.
    arrived: [Vec<u32>; 2],
}

impl Story {
    fn new(wire: Wire, seed: u64) -> Self {
        let (a, b) = pair();
        let now = a.now;
        Story {
            ends: [a, b],
            wire,
            random: Random::new(seed),
            start: now,
            now,
            flying: BTreeMap::new(),
            serial: 0,
            initiations: Vec::new(),
            arrived: Default::default(),
        }
    }

    fn chance(&mut self, thousandths: u64) -> bool {
        self.random.next() % 1000 < thousandths
    }

    fn launch(&mut self, from: usize, out: Collect) {
        for (to, datagram) in out.network {
            if datagram[0] == 1 {
                self.initiations.push((from, self.now));
            }
            let Some(target) = self.ends.iter().position(|end| end.address == to) else { continue };
            let copies = 1 + usize::from(self.chance(self.wire.doubled));
            for _ in 0..copies {
                if self.chance(self.wire.lost) {
                    continue;
                }
                let delay = self.random.part_of(self.wire.most_delay, 0, 1000);
                self.serial += 1;
                let flight = (target, self.ends[from].address, datagram.clone());
                self.flying.insert((self.now + delay, self.serial), flight);
            }
        }
    }

    fn send(&mut self, from: usize, number: u32) {
        let (source, target) = if from == 0 { (A, B) } else { (B, A) };
        let packet = packet(source, target, &number.to_be_bytes());
        let out = self.ends[from].give(&packet);
        self.launch(from, out);
    }

    /// Lets everything happen that happens until `until`.
    fn pass(&mut self, until: Instant) {
        loop {
            let due = |end: &End| end.engine.due_at().map(|at| at.max(self.now));
            let timers = [due(&self.ends[0]), due(&self.ends[1])];
            let flight = self.flying.keys().next().map(|(at, _)| *at);
            let next = [timers[0], timers[1], flight].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            self.now = next;
            for end in &mut self.ends {
                end.now = next;
            }
            if flight == Some(next)
                && let Some((_, (to, from, datagram))) = self.flying.pop_first()
            {
                let mut out = self.ends[to].take(from, &datagram);
                for packet in out.link.drain(..) {
                    let number = packet[20..].try_into().map(u32::from_be_bytes).unwrap();
                    self.arrived[to].push(number);
                }
                self.launch(to, out);
                continue;
            }
            for (end, timer) in timers.into_iter().enumerate() {
                if timer == Some(next) {
                    let out = self.ends[end].timers();
                    self.launch(end, out);
                }
            }
        }
        self.now = until;
        for end in &mut self.ends {
            end.now = until;
        }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }
}

/// The same, told by the first that differs: there are many.
#[track_caller]
fn in_order(arrived: &[u32], sent: Vec<u32>) {
    let differs = arrived.iter().zip(&sent).position(|(arrived, sent)| arrived != sent);
    let at = differs.unwrap_or(arrived.len().min(sent.len()));
    let around =
        |all: &[u32]| all.iter().skip(at.saturating_sub(2)).take(5).copied().collect::<Vec<_>>();
    assert!(arrived == sent, "at {at}: {:?} and not {:?}", around(arrived), around(&sent));
}

/// Twenty minutes of packets both ways: sessions change many times, and nobody notices.
#[test]
fn sessions_are_renewed_under_load_without_losing_a_packet() {
    let mut story = Story::new(PERFECT, 1);
    let mut sent = 0;
    for step in 0..24_000u64 {
        story.pass(story.at(step * 50));
        story.send(0, sent);
        if step % 3 == 0 {
            story.send(1, sent);
        }
        sent += 1;
    }
    story.pass(story.at(24_000 * 50 + 1000));
    in_order(&story.arrived[1], (0..sent).collect());
    in_order(&story.arrived[0], (0..sent).step_by(3).collect());
    let shakes = story.initiations.len();
    assert!((9..=12).contains(&shakes), "{shakes} handshakes in twenty minutes");
}

/// After the last packet everybody falls silent, forgets the keys, and has nothing to wake up for.
#[test]
fn at_rest_there_is_nothing_to_do() {
    let mut story = Story::new(PERFECT, 2);
    story.send(0, 1);
    story.pass(story.at(60_000));
    assert_eq!(story.arrived[1], [1]);
    let before = story.serial;
    story.pass(story.at(530_000));
    assert_eq!(story.serial, before, "nobody says anything");
    story.pass(story.at(600_000));
    assert!(story.ends.iter().all(|end| end.engine.due_at().is_none()), "nothing is due");
    story.send(1, 2);
    story.pass(story.at(601_000));
    assert_eq!(story.arrived[0], [2], "and yet they find each other again");
}

/// Sessions of peers that only keep in touch are renewed every two minutes; the one before goes when it
/// is of no use any more.
#[test]
fn who_only_keeps_in_touch_has_one_session_most_of_the_time() {
    let mut story = Story::new(PERFECT, 5);
    let config = |story: &Story, keepalive_secs| PeerConfig {
        endpoint: Some(story.ends[1].address),
        keepalive_secs,
        ..PeerConfig::default()
    };
    let [a, b] = [story.ends[0].key, story.ends[1].key];
    let begin = config(&story, 25);
    story.ends[0].engine.set_peer(b, begin, story.now);
    let sessions = |story: &Story| {
        let of = |end: &End, key| end.engine.peer(end.engine.keys[&key]).unwrap().sessions();
        [of(&story.ends[0], b), of(&story.ends[1], a)]
    };
    let mut alone = 0;
    for second in 1..3600 {
        story.pass(story.at(second * 1000));
        let (_, shaken) = story.initiations.last().unwrap();
        let most = match story.now - *shaken {
            // Of 180 s two minutes are over, and what is on its way is.
            since if since > Duration::from_secs(61) => 1,
            _ => 2,
        };
        let now = sessions(&story);
        assert!(now.iter().all(|sessions| (1..=most).contains(sessions)), "{second}: {now:?}");
        alone += usize::from(now == [1, 1]);
    }
    assert!(alone > 1800 && story.initiations.len() > 20, "{alone} of 3600 s");
    let end = config(&story, 0);
    story.ends[0].engine.set_peer(b, end, story.now);
    story.pass(story.now + Duration::from_secs(200));
    assert_eq!(sessions(&story), [0, 0]);
}

/// Who sends to somebody who went away tries for a minute and a half, and gives up.
#[test]
fn nobody_calls_for_ever() {
    let mut story = Story::new(Wire { lost: 1000, ..PERFECT }, 3);
    story.send(0, 1);
    story.pass(story.at(1_000_000));
    assert_eq!(story.initiations.len(), 19);
    assert!(story.ends[0].engine.due_at().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the wire does: nothing arrives twice, nothing is made up, most arrives, and
    /// nobody shakes hands more often than every five seconds.
    #[test]
    fn a_bad_wire_loses_packets_and_nothing_else(seed: u64, lost in 0u64..300, doubled in 0u64..300, delay in 1u64..400) {
        let wire = Wire { lost, doubled, most_delay: Duration::from_millis(delay) };
        let mut story = Story::new(wire, seed);
        let mut sent = 0;
        for step in 0..2_000u64 {
            story.pass(story.at(step * 250));
            story.send(usize::from(step % 2 == 0), sent);
            sent += 1;
        }
        story.pass(story.at(2_000 * 250 + 2_000));
        let mut total = 0;
        for arrived in &story.arrived {
            let distinct: BTreeSet<_> = arrived.iter().collect();
            prop_assert_eq!(distinct.len(), arrived.len(), "a packet arrived twice");
            prop_assert!(arrived.iter().all(|number| *number < sent));
            total += arrived.len();
        }
        let expected = 2_000 * (1000 - usize::try_from(lost).unwrap()) / 1000;
        prop_assert!(total + 150 >= expected, "{} of {} arrived", total, expected);
        for end in 0..2 {
            let times: Vec<_> = story.initiations.iter().filter(|(who, _)| *who == end).map(|(_, at)| *at).collect();
            for pair in times.windows(2) {
                prop_assert!(pair[1] - pair[0] >= Duration::from_secs(5), "{:?}", pair[1] - pair[0]);
            }
        }
    }
}
