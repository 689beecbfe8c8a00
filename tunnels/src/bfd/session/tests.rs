//! Two machines on one virtual clock, joined by two lossy wires.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn settings(interval_ms: u32, multiplier: u8) -> Settings {
    Settings::new(BfdTimers { interval_ms, multiplier }, Role::Active).unwrap()
}

/// What happens to packets on each wire: `[from a to b, from b to a]`.
type Lossy<'a> = &'a mut dyn FnMut(usize) -> bool;

struct Sim {
    now: Instant,
    ends: [Session; 2],
    delay: Duration,
    /// What a packet takes longer at most.
    jitter: Duration,
    random: Random,
    /// (arrives at, for whom, what)
    wire: Vec<(Instant, usize, Packet)>,
    sent: [Vec<(Instant, Packet)>; 2],
    changes: Vec<(Instant, usize, Change)>,
    /// When each end had something to do.
    awake: [BTreeSet<Instant>; 2],
}

impl Sim {
    fn new(a: Settings, b: Settings, delay: Duration, seed: u64) -> Self {
        let now = Instant::now();
        let end = |settings, n: u32| {
            Session::new(settings, NonZeroU32::new(n).unwrap(), seed ^ u64::from(n), now)
        };
        Sim {
            now,
            ends: [end(a, 1), end(b, 2)],
            delay,
            jitter: Duration::ZERO,
            random: Random::new(seed ^ 3),
            wire: Vec::new(),
            sent: [Vec::new(), Vec::new()],
            changes: Vec::new(),
            awake: [BTreeSet::new(), BTreeSet::new()],
        }
    }

    fn run_for(&mut self, time: Duration, lost: Lossy<'_>) {
        let until = self.now + time;
        loop {
            let arrivals = self.wire.iter().map(|(at, ..)| *at);
            let timers = self.ends.iter().filter_map(Session::wake_at);
            let Some(next) = arrivals.chain(timers).min().filter(|at| *at <= until) else { break };
            self.now = self.now.max(next);
            self.turn(lost);
        }
        self.now = until;
    }

    fn turn(&mut self, lost: Lossy<'_>) {
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) = self.wire.drain(..).partition(|(at, ..)| *at <= now);
        self.wire = later;
        for (_, to, packet) in due {
            self.awake[to].insert(now);
            if let Some(change) = self.ends[to].receive(&packet, now) {
                self.changes.push((now, to, change));
            }
        }
        for from in [0, 1] {
            if self.ends[from].wake_at().is_some_and(|at| at <= now) {
                self.awake[from].insert(now);
            }
            if let Some(change) = self.ends[from].tick(now) {
                self.changes.push((now, from, change));
            }
            while let Some(packet) = self.ends[from].transmit(now) {
                self.sent[from].push((now, packet));
                if !lost(from) {
                    let late = self.random.part_of(self.jitter, 0, 1000);
                    self.wire.push((now + self.delay + late, 1 - from, packet));
                }
            }
        }
    }

    /// The intervals between packets that `end` sent after `settled`.
    fn intervals(&self, end: usize, settled: Instant) -> Vec<Duration> {
        let sent: Vec<_> =
            self.sent[end].iter().map(|(at, _)| *at).filter(|at| *at >= settled).collect();
        sent.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    fn states(&self) -> [BfdState; 2] {
        [self.ends[0].state, self.ends[1].state]
    }
}

const NEVER: fn(usize) -> bool = |_| false;
const MS: fn(u64) -> Duration = Duration::from_millis;

#[test]
fn both_come_up_within_two_round_trips_and_then_speed_up() {
    let mut sim = Sim::new(settings(100, 3), settings(100, 3), MS(20), 1);
    sim.run_for(MS(80), &mut { NEVER });
    assert_eq!(sim.states(), [BfdState::Up; 2]);
    sim.run_for(MS(2000), &mut { NEVER });
    for (end, sent) in sim.ends.iter().zip(&sim.sent) {
        assert_eq!(end.detection_time(), Some(MS(300)));
        assert_eq!(end.poll, Poll::Idle, "the poll sequence ended");
        let intervals: Vec<_> = sent.windows(2).map(|w| w[1].0 - w[0].0).collect();
        let steady = &intervals[intervals.len() - 15..];
        assert!(steady.iter().all(|i| (MS(75)..=MS(100)).contains(i)), "{steady:?}");
    }
}

#[test]
fn silence_is_noticed_after_the_detection_time_and_told_with_its_diagnostic() {
    let mut sim = Sim::new(settings(100, 3), settings(100, 3), MS(5), 2);
    sim.run_for(MS(1500), &mut { NEVER });
    let cut = sim.now;
    sim.run_for(MS(400), &mut |_| true);
    assert_eq!(sim.states(), [BfdState::Down; 2]);
    for (at, _, change) in &sim.changes[sim.changes.len() - 2..] {
        let took = *at - cut;
        assert!(took <= MS(305) && took >= MS(200), "{took:?}");
        assert_eq!(change.diag, Diag::DETECTION_TIME_EXPIRED);
    }
    sim.run_for(MS(1100), &mut { NEVER });
    assert_eq!(sim.states(), [BfdState::Up; 2], "up again within the slow interval");
}

#[test]
fn a_one_way_cut_takes_both_down() {
    let mut sim = Sim::new(settings(100, 3), settings(100, 3), MS(5), 3);
    sim.run_for(MS(1500), &mut { NEVER });
    let cut = sim.now;
    sim.run_for(MS(1000), &mut |from| from == 0);
    let first = sim.changes.iter().find(|(at, ..)| *at > cut).unwrap();
    assert_eq!((first.1, first.2.diag), (1, Diag::DETECTION_TIME_EXPIRED));
    let second = sim.changes.iter().find(|(at, who, _)| *at > cut && *who == 0).unwrap();
    assert_eq!(second.2.diag, Diag::NEIGHBOR_SIGNALED_DOWN);
    assert_eq!(second.0 - first.0, MS(5), "told at once");
}

#[test]
fn the_slower_side_decides_the_pace() {
    let mut sim = Sim::new(settings(20, 3), settings(500, 5), MS(1), 4);
    sim.run_for(MS(6000), &mut { NEVER });
    assert_eq!(sim.ends[0].detection_time(), Some(MS(2500)), "5 × max(20, 500)");
    assert_eq!(sim.ends[1].detection_time(), Some(MS(1500)), "3 × max(500, 20)");
    let late: Vec<_> = sim.sent[0].windows(2).map(|w| w[1].0 - w[0].0).skip(10).collect();
    assert!(late.iter().all(|i| *i >= MS(375)), "{late:?}");
}

#[test]
fn a_multiplier_of_one_leaves_room_for_a_packet() {
    let mut sim = Sim::new(settings(100, 1), settings(100, 1), MS(1), 5);
    sim.run_for(MS(20_000), &mut { NEVER });
    assert_eq!(sim.states(), [BfdState::Up; 2]);
    let steady = sim.sent[0].windows(2).skip(20).map(|w| w[1].0 - w[0].0);
    assert!(steady.max().unwrap() <= MS(90));
    assert!(sim.changes.iter().all(|(.., change)| change.to != BfdState::Down));
}

#[test]
fn a_poll_is_answered_at_once_and_never_with_a_poll() {
    let mut sim = Sim::new(settings(100, 3), settings(100, 3), MS(2), 6);
    sim.run_for(MS(1000), &mut { NEVER });
    let (at, from) = (sim.now, sim.sent[1].len());
    sim.ends[0].set(settings(400, 3));
    assert_eq!(sim.ends[0].tx_in_force_us, 100_000, "slower only once it is agreed");
    sim.run_for(MS(4), &mut { NEVER });
    let answer = sim.sent[1][from..].iter().find(|(_, p)| p.is_final).unwrap();
    assert_eq!(answer.0 - at, MS(2));
    assert!(sim.sent.iter().flatten().all(|(_, p)| !(p.poll && p.is_final)));
    assert_eq!(sim.ends[0].tx_in_force_us, 400_000);
    sim.run_for(MS(3000), &mut { NEVER });
    assert_eq!(sim.states(), [BfdState::Up; 2]);
    assert_eq!(sim.ends[1].detection_time(), Some(MS(1200)));
}

#[test]
fn held_down_by_an_operator_the_peer_learns_it_at_once_and_stays_down() {
    let mut sim = Sim::new(settings(100, 3), settings(100, 3), MS(5), 7);
    sim.run_for(MS(1000), &mut { NEVER });
    let now = sim.now;
    let change = sim.ends[0].hold_down(true, now).unwrap();
    assert_eq!((change.to, change.diag), (BfdState::AdminDown, Diag::ADMINISTRATIVELY_DOWN));
    sim.run_for(MS(5), &mut { NEVER });
    assert_eq!(sim.states(), [BfdState::AdminDown, BfdState::Down]);
    sim.run_for(MS(5000), &mut { NEVER });
    assert_eq!(sim.states(), [BfdState::AdminDown, BfdState::Down]);
    let now = sim.now;
    sim.ends[0].hold_down(false, now);
    sim.run_for(MS(1100), &mut { NEVER });
    assert_eq!(sim.states(), [BfdState::Up; 2]);
}

#[test]
fn a_passive_side_is_silent_until_it_is_spoken_to() {
    let passive = Settings { role: Role::Passive, ..settings(100, 3) };
    let mut sim = Sim::new(passive, passive, MS(5), 8);
    assert_eq!(sim.ends[0].wake_at(), None);
    sim.run_for(MS(5000), &mut { NEVER });
    assert!(sim.sent.iter().all(Vec::is_empty));
    let mut sim = Sim::new(passive, settings(100, 3), MS(5), 9);
    sim.run_for(MS(30), &mut { NEVER });
    assert_eq!(sim.states(), [BfdState::Up; 2]);
}

#[test]
fn a_one_way_cut_takes_one_detection_time_with_a_passive_side_too() {
    let passive = Settings { role: Role::Passive, ..settings(100, 3) };
    let mut sim = Sim::new(passive, settings(100, 3), MS(5), 13);
    sim.run_for(MS(2000), &mut { NEVER });
    let cut = sim.now;
    sim.run_for(MS(320), &mut |from| from == 1);
    let last = sim.changes.last().unwrap();
    assert_eq!((last.1, last.2.diag), (1, Diag::NEIGHBOR_SIGNALED_DOWN));
    assert!(last.0 - cut <= MS(315));
    let words = sim.sent[0].len();
    sim.run_for(MS(10_000), &mut |from| from == 1);
    assert_eq!(sim.sent[0].len(), words, "after its last word it is silent");
}

#[test]
fn a_peer_that_restarts_with_a_new_discriminator_is_taken_up_again() {
    let mut sim = Sim::new(settings(100, 3), settings(100, 3), MS(5), 10);
    sim.run_for(MS(1000), &mut { NEVER });
    let fresh = NonZeroU32::new(99).unwrap();
    sim.ends[1] = Session::new(settings(100, 3), fresh, 11, sim.now);
    // The sockets below drop what is addressed to a discriminator that is no more.
    sim.wire.clear();
    let (now, mut first) = (sim.now, true);
    sim.run_for(MS(2000), &mut |from| from == 0 && std::mem::take(&mut first));
    assert_eq!(sim.states(), [BfdState::Up; 2]);
    assert!(sim.now > now);
    assert_eq!(sim.ends[0].remote.discriminator, 99);
}

#[test]
fn demand_mode_of_the_peer_is_obeyed_once_both_are_up() {
    let mut sim = Sim::new(settings(100, 3), settings(100, 3), MS(1), 12);
    sim.run_for(MS(1000), &mut { NEVER });
    let quiet = Packet { demand: true, ..sim.sent[1].last().unwrap().1 };
    let now = sim.now;
    sim.ends[0].receive(&quiet, now);
    assert_eq!(sim.ends[0].transmit(now + MS(200)), None);
    let asked = Packet { poll: true, ..quiet };
    sim.ends[0].receive(&asked, now + MS(210));
    assert!(sim.ends[0].transmit(now + MS(210)).unwrap().is_final);
}

#[test]
fn timers_outside_of_their_range_are_refused() {
    let timers = |interval_ms, multiplier| {
        Settings::new(BfdTimers { interval_ms, multiplier }, Role::Active)
    };
    assert_eq!(timers(9, 3), Err(SettingsError::Interval(9)));
    assert_eq!(timers(10_001, 3), Err(SettingsError::Interval(10_001)));
    assert_eq!(timers(100, 0), Err(SettingsError::Multiplier));
    assert!(timers(10, 1).is_ok() && timers(10_000, 255).is_ok());
}

/// The node is active, the edge passive, as in life.
#[test]
fn an_active_side_wakes_up_once_for_two_packets() {
    let node = settings(100, 3);
    let edge = Settings { role: Role::Passive, ..node };
    // With so much jitter on the way, so many wake-ups for 100 packets of the edge.
    for (delay, jitter, most) in [(1, 0, 107), (20, 1, 110), (150, 5, 115)] {
        let mut sim = Sim::new(node, edge, MS(delay), 20 + delay);
        sim.jitter = MS(jitter);
        sim.run_for(MS(5000), &mut { NEVER });
        let settled = sim.now;
        sim.run_for(MS(60_000), &mut { NEVER });
        let awake = |end: usize| sim.awake[end].iter().filter(|at| **at >= settled).count();
        let heard = sim.intervals(1, settled).len();
        assert!((660..710).contains(&heard), "one in 87.5 ms: {heard}");
        assert!(awake(0) * 100 < heard * most, "{} times awake for {heard} packets", awake(0));
        assert!(awake(1) > heard * 3 / 2, "a passive side follows nobody");
    }
}

/// Silence is noticed without anything to follow, too.
#[test]
fn who_hears_nothing_sends_by_its_own_timer() {
    let mut sim = Sim::new(settings(1000, 3), settings(1000, 3), MS(1), 23);
    sim.run_for(MS(60_000), &mut |_| true);
    let intervals = sim.intervals(0, sim.now - MS(59_000));
    assert!(intervals.iter().all(|i| (MS(980)..=MS(1000)).contains(i)), "{intervals:?}");
    let distinct: BTreeSet<_> = intervals.iter().collect();
    assert!(distinct.len() > 10, "and varies");
}

/// The longest stretch during which `one` was Up and the other was not.
fn longest_one_sided(sim: &Sim, one: usize, end: Instant) -> Duration {
    let (mut states, mut since, mut longest) = ([BfdState::Down; 2], None, Duration::ZERO);
    for (at, who, change) in &sim.changes {
        states[*who] = change.to;
        let one_sided = states[one] == BfdState::Up && states[1 - one] != BfdState::Up;
        match (one_sided, since) {
            (true, None) => since = Some(*at),
            (false, Some(from)) => {
                longest = longest.max(*at - from);
                since = None;
            }
            _ => {}
        }
    }
    since.map_or(longest, |from| longest.max(end - from))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is lost, one side is never up alone for longer than both detection times: a
    /// side that is not up either says so (then the other goes down when it hears it) or is
    /// not heard (then the other goes down by silence). Before the first packet at the fast
    /// pace was heard the slow interval of a second counts, three times.
    #[test]
    fn never_up_alone_for_longer_than_detection_takes(
        seed: u64,
        intervals in (10u32..300, 10u32..300),
        multipliers in (1u8..6, 1u8..6),
        phases in proptest::collection::vec((50u64..4000, 0u8..=100, 0u8..=100), 1..12),
    ) {
        let (a, b) = (settings(intervals.0, multipliers.0), settings(intervals.1, multipliers.1));
        let mut sim = Sim::new(a, b, MS(3), seed);
        let mut random = Random::new(seed);
        for (time, ab, ba) in phases {
            let rates = [ab, ba];
            sim.run_for(MS(time), &mut |from| random.next() % 100 < u64::from(rates[from]));
        }
        let slow = SLOW_TX * u32::from(multipliers.0) + SLOW_TX * u32::from(multipliers.1);
        for one in [0, 1] {
            let alone = longest_one_sided(&sim, one, sim.now);
            prop_assert!(alone <= slow + MS(2 * 3), "{alone:?}");
        }
    }

    /// §6.8.7 and §6.8.4, whoever follows whom and however far they are apart: no packet comes
    /// sooner than the interval less a quarter, so also two that follow each other start no
    /// storm; none comes later than the interval, and silence is noticed when it must be.
    #[test]
    fn every_interval_is_allowed_and_silence_is_noticed_in_time(
        seed: u64,
        intervals in (20u32..300, 20u32..300),
        multipliers in (1u8..5, 1u8..5),
        active in (any::<bool>(), any::<bool>()),
        delay in 0u64..400,
        jitter in 0u32..50,
        cut in 0usize..2,
    ) {
        let role = |active| if active { Role::Active } else { Role::Passive };
        let a = Settings { role: role(active.0 || !active.1), ..settings(intervals.0, multipliers.0) };
        let b = Settings { role: role(active.1), ..settings(intervals.1, multipliers.1) };
        let slower = a.desired_min_tx.max(b.desired_min_tx);
        let mut sim = Sim::new(a, b, MS(delay), seed);
        sim.jitter = slower * jitter / 1000;
        sim.run_for(MS(8_000), &mut { NEVER });
        let settled = sim.now;
        sim.run_for(slower * 50, &mut { NEVER });
        prop_assert_eq!(sim.states(), [BfdState::Up; 2]);
        prop_assert!(sim.changes.iter().all(|(at, ..)| *at < settled), "{:?}", sim.changes);
        for (end, multiplier) in [(0, multipliers.0), (1, multipliers.1)] {
            let most = if multiplier == 1 { 900 } else { 1000 };
            for interval in sim.intervals(end, settled) {
                prop_assert!(interval >= slower * 750 / 1000, "{interval:?} of {slower:?}");
                prop_assert!(interval <= slower * most / 1000, "{interval:?} of {slower:?}");
            }
        }
        let (silent, deaf) = (cut, 1 - cut);
        let allowed = slower * u32::from([multipliers.0, multipliers.1][silent]);
        prop_assert_eq!(sim.ends[deaf].detection_time(), Some(allowed));
        let from = sim.now;
        sim.run_for(allowed + MS(delay) + sim.jitter, &mut |from| from == silent);
        let noticed = sim.changes.iter().find(|(_, who, _)| *who == deaf && sim.states()[deaf] != BfdState::Up);
        prop_assert!(noticed.is_some(), "still up {:?} after {from:?}", sim.now - from);
    }

    /// Once nothing is lost any more, both come up and stay up.
    #[test]
    fn after_any_history_a_clean_wire_brings_both_up(
        seed: u64,
        mess in proptest::collection::vec((1u64..1500, any::<bool>(), any::<bool>()), 0..10),
    ) {
        let mut sim = Sim::new(settings(100, 3), settings(50, 4), MS(7), seed);
        for (time, ab, ba) in mess {
            let lost = [ab, ba];
            sim.run_for(MS(time), &mut |from| lost[from]);
        }
        // Silence has to be noticed first, at the slow pace in the worst case.
        sim.run_for(MS(6000), &mut { NEVER });
        prop_assert_eq!(sim.states(), [BfdState::Up; 2]);
        let settled = sim.changes.len();
        sim.run_for(MS(5000), &mut { NEVER });
        prop_assert_eq!(sim.changes.len(), settled);
    }

    /// No packet, however odd, makes a machine panic, spin or send faster than it may.
    #[test]
    fn arbitrary_packets_neither_break_nor_hurry_it(
        packets in proptest::collection::vec((crate::bfd::packet::tests::packets(), 0u64..400), 1..60),
    ) {
        let mut now = Instant::now();
        let mut session = Session::new(settings(100, 3), NonZeroU32::MIN, 1, now);
        for (packet, gap) in packets {
            now += MS(gap);
            session.tick(now);
            session.receive(&packet, now);
            // At most a final, the news, and one periodic packet.
            let sent = std::iter::from_fn(|| session.transmit(now)).take(4).count();
            prop_assert!(sent <= 2);
            prop_assert!(session.wake_at().is_none_or(|at| at > now));
        }
    }
}
