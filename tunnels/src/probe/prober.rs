//! Whom to ask when, and what is known: a machine without clock or socket.
//!
//! A target that is new, or that [`Prober::hurry`] names, is asked in a burst: three times
//! 20 ms apart, then once a second until three answers came or for ten seconds. After that
//! every five seconds, jittered. So the distance is known after one round trip, and at rest
//! three edges cost less than one datagram a second.

use super::packet::{Kind, PACKET_BYTES, Probe};
use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Between the first probes of a burst.
const BURST_GAP: Duration = Duration::from_millis(20);
/// How many of them.
const BURST: u32 = 3;
/// Between the later probes of a burst.
const HURRY: Duration = Duration::from_secs(1);
/// A burst ends after so many probes without answers.
const BURST_PROBES: u32 = 12;
/// At rest.
const REST: Duration = Duration::from_secs(5);
/// A probe at rest goes out so much sooner when another one goes out.
const JOIN: Duration = Duration::from_secs(3);
/// A probe without an answer for so long is lost.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(1);
/// So many lost probes in a row, and the edge does not answer.
const LOST_IN_A_ROW: u32 = 3;
/// Weight of a new sample in the smoothed time: an eighth, as TCP has it (RFC 6298 §2).
const SMOOTHING: u32 = 8;

/// What is known about one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Smoothed round-trip time; none before the first answer and after three lost probes.
    pub rtt: Option<Duration>,
    /// Whether an answer came, or enough probes were lost to say that none comes.
    pub known: bool,
    /// The last answer.
    pub answered_at: Option<Instant>,
    /// Probes sent.
    pub sent: u64,
    /// Probes without answer.
    pub lost: u64,
}

#[derive(Debug)]
struct Target {
    address: SocketAddr,
    measured: Measured,
    in_flight: BTreeMap<u64, Instant>,
    lost_in_a_row: u32,
    /// Probes of the present burst that were sent, and answers to them.
    burst: Option<(u32, u32)>,
    next: Instant,
}

/// Measures round-trip times to a set of named targets.
#[derive(Debug)]
pub struct Prober {
    targets: BTreeMap<String, Target>,
    random: Random,
}

impl Prober {
    /// Without targets. `seed` drives nonces and jitter and should be random and secret.
    pub fn new(seed: u64) -> Self {
        Prober { targets: BTreeMap::new(), random: Random::new(seed) }
    }

    /// Measures exactly these from now on. What is known about those that stay is kept.
    pub fn set_targets<'a>(
        &mut self,
        targets: impl IntoIterator<Item = (&'a str, SocketAddr)>,
        now: Instant,
    ) {
        let mut wanted = BTreeSet::new();
        for (name, address) in targets {
            wanted.insert(name);
            if self.targets.get(name).is_none_or(|target| target.address != address) {
                self.targets.insert(name.to_string(), Target::new(address, now));
            }
        }
        self.targets.retain(|name, _| wanted.contains(name.as_str()));
    }

    /// Asks a target at once and often: something happened to it.
    pub fn hurry(&mut self, name: &str, now: Instant) {
        if let Some(target) = self.targets.get_mut(name) {
            target.burst = Some((0, 0));
            target.next = now;
        }
    }

    /// What is known about a target.
    pub fn measured(&self, name: &str) -> Option<Measured> {
        self.targets.get(name).map(|target| target.measured)
    }

    /// Whether about every target something is known, be it that it is silent.
    pub fn settled(&self) -> bool {
        self.targets.values().all(|target| target.measured.known)
    }

    /// The probes that are due, and bookkeeping of those that got lost.
    pub fn run(&mut self, now: Instant) -> Vec<(SocketAddr, [u8; PACKET_BYTES])> {
        let mut due = Vec::new();
        self.targets.values_mut().for_each(|target| target.expire(now));
        // Those at rest are asked together, and together again next time: one wake-up for all.
        let together = self.targets.values().any(|target| target.at_rest() && now >= target.next);
        // A whole fleet that lost power together must not ask together for ever.
        let pause = self.random.part_of(REST, 800, 1200);
        for target in self.targets.values_mut() {
            let joins = together && target.at_rest() && now + JOIN >= target.next;
            if now >= target.next || joins {
                let nonce = self.random.next();
                target.send(nonce, now, pause);
                due.push((target.address, Probe { kind: Kind::Request, nonce }.emit()));
            }
        }
        due
    }

    /// Takes a datagram in; true when it answered a probe of ours.
    pub fn receive(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> bool {
        let Ok(Probe { kind: Kind::Reply, nonce }) = Probe::parse(datagram) else { return false };
        let from = canonical(from);
        self.targets
            .values_mut()
            .filter(|target| canonical(target.address) == from)
            .any(|target| target.receive(nonce, now))
    }

    /// When [`Prober::run`] is due next.
    pub fn wake_at(&self) -> Option<Instant> {
        let lost = |target: &Target| target.in_flight.values().min().map(|sent| *sent + TIMEOUT);
        self.targets.values().flat_map(|target| [Some(target.next), lost(target)]).flatten().min()
    }
}

impl Target {
    fn new(address: SocketAddr, now: Instant) -> Self {
        let measured = Measured { rtt: None, known: false, answered_at: None, sent: 0, lost: 0 };
        Target {
            address,
            measured,
            in_flight: BTreeMap::new(),
            lost_in_a_row: 0,
            burst: Some((0, 0)),
            next: now,
        }
    }

    fn at_rest(&self) -> bool {
        self.burst.is_none()
    }

    /// `rest` is the pause after it if it is at rest.
    fn send(&mut self, nonce: u64, now: Instant, rest: Duration) {
        self.in_flight.insert(nonce, now);
        self.measured.sent += 1;
        let pause = match &mut self.burst {
            Some((sent, _)) => {
                *sent += 1;
                let pause = if *sent < BURST { BURST_GAP } else { HURRY };
                if *sent >= BURST_PROBES {
                    self.burst = None;
                }
                pause
            }
            None => rest,
        };
        self.next = now + pause;
    }

    fn receive(&mut self, nonce: u64, now: Instant) -> bool {
        let Some(sent) = self.in_flight.remove(&nonce) else { return false };
        let sample = now.saturating_duration_since(sent);
        let rtt = match self.measured.rtt {
            None => sample,
            Some(rtt) => (rtt * (SMOOTHING - 1) + sample) / SMOOTHING,
        };
        self.measured.rtt = Some(rtt);
        self.measured.known = true;
        self.measured.answered_at = Some(now);
        self.lost_in_a_row = 0;
        if let Some((_, answers)) = &mut self.burst {
            *answers += 1;
            if *answers >= BURST {
                self.burst = None;
                self.next = now + REST;
            }
        }
        true
    }

    fn expire(&mut self, now: Instant) {
        let before = self.in_flight.len();
        self.in_flight.retain(|_, sent| now < *sent + TIMEOUT);
        let lost = before - self.in_flight.len();
        if lost == 0 {
            return;
        }
        self.measured.lost += lost as u64;
        self.lost_in_a_row =
            self.lost_in_a_row.saturating_add(u32::try_from(lost).unwrap_or(u32::MAX));
        if self.lost_in_a_row >= LOST_IN_A_ROW {
            self.measured.rtt = None;
            self.measured.known = true;
        } else if self.burst.is_none() {
            // Find out soon whether it was one datagram or the edge.
            self.burst = Some((0, 0));
            self.next = now;
        }
    }
}

/// A socket for both families shows IPv4 senders as mapped addresses.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 7))
    }

    /// A prober and what is under way to it.
    struct Sim {
        prober: Prober,
        now: Instant,
        wire: Vec<(Instant, SocketAddr, [u8; PACKET_BYTES])>,
    }

    impl Sim {
        fn new(edges: &[(&str, u8)]) -> Self {
            let mut sim = Sim { prober: Prober::new(1), now: Instant::now(), wire: Vec::new() };
            sim.targets(edges);
            sim
        }

        fn targets(&mut self, edges: &[(&str, u8)]) {
            let targets = edges.iter().map(|(name, n)| (*name, address(*n)));
            self.prober.set_targets(targets, self.now);
        }

        /// Runs for `millis` against edges that answer after what `rtt` says; probes sent.
        fn run(&mut self, millis: u64, rtt: impl Fn(u8) -> Option<Duration>) -> usize {
            let (until, mut sent) = (self.now + MS(millis), 0);
            loop {
                let arrivals = self.wire.iter().map(|(at, ..)| *at);
                let next = arrivals.chain(self.prober.wake_at()).min();
                let Some(next) = next.filter(|at| *at <= until) else { break };
                self.now = next.max(self.now);
                let now = self.now;
                let (due, later): (Vec<_>, Vec<_>) =
                    self.wire.drain(..).partition(|(at, ..)| *at <= now);
                self.wire = later;
                for (at, from, reply) in due {
                    self.prober.receive(from, &reply, at);
                    assert!(!self.prober.receive(from, &reply, at), "an answer counts once");
                }
                for (to, request) in self.prober.run(now) {
                    sent += 1;
                    let SocketAddr::V4(v4) = to else { panic!() };
                    if let Some(rtt) = rtt(v4.ip().octets()[3]) {
                        self.wire.push((now + rtt, to, super::super::answer(&request).unwrap()));
                    }
                }
            }
            self.now = until;
            sent
        }

        fn rtt(&self, name: &str) -> Option<Duration> {
            self.prober.measured(name).unwrap().rtt
        }
    }

    #[test]
    fn the_distance_is_known_after_one_round_trip_and_rest_is_cheap() {
        let mut sim = Sim::new(&[("a", 1), ("b", 2)]);
        let far = |n| Some(MS(u64::from(n) * 40));
        sim.run(41, far);
        assert_eq!(sim.rtt("a"), Some(MS(40)));
        assert!(!sim.prober.settled());
        sim.run(40, far);
        assert!(sim.prober.settled());
        sim.run(5000, far);
        let sent = sim.run(100_000, far);
        assert!((30..=52).contains(&sent), "{sent} probes in 100 s of rest to two edges");
        assert_eq!(sim.prober.measured("b").unwrap().lost, 0);
    }

    #[test]
    fn at_rest_all_are_asked_together() {
        let mut sim = Sim::new(&[("a", 1), ("b", 2), ("c", 3)]);
        let far = |n| Some(MS(u64::from(n) * 40));
        sim.run(20_000, far);
        sim.prober.hurry("b", sim.now);
        sim.run(20_000, far);
        let started = sim.now;
        let mut rounds = 0;
        while sim.now - started < Duration::from_secs(100) {
            let next = sim.prober.targets.values().map(|target| target.next).min().unwrap();
            let wait = next - sim.now;
            assert_eq!(sim.run(u64::try_from(wait.as_millis()).unwrap() + 1, far), 3);
            rounds += 1;
        }
        assert!((17..=25).contains(&rounds), "{rounds} rounds in 100 s");
    }

    #[test]
    fn a_silent_edge_is_known_to_be_silent_within_two_seconds_and_noticed_when_it_returns() {
        let mut sim = Sim::new(&[("a", 1)]);
        sim.run(1100, |_| None);
        assert!(sim.prober.settled());
        assert_eq!(sim.rtt("a"), None);
        sim.run(60_000, |_| None);
        sim.run(6_100, |_| Some(MS(5)));
        assert_eq!(sim.rtt("a"), Some(MS(5)));
    }

    #[test]
    fn one_lost_probe_is_followed_up_and_three_mean_silence() {
        let mut sim = Sim::new(&[("a", 1)]);
        sim.run(20_000, |_| Some(MS(10)));
        let died = sim.now;
        while sim.rtt("a").is_some() {
            sim.run(100, |_| None);
        }
        assert!(sim.now - died <= MS(8_200), "{:?}", sim.now - died);
    }

    #[test]
    fn strangers_and_old_answers_change_nothing() {
        let now = Instant::now();
        let mut prober = Prober::new(4);
        prober.set_targets([("a", address(1))], now);
        let (_, request) = prober.run(now)[0];
        let reply = super::super::answer(&request).unwrap();
        assert!(!prober.receive(address(2), &reply, now), "from elsewhere");
        assert!(!prober.receive(address(1), &request, now), "a request is no answer");
        let guessed = Probe { kind: Kind::Reply, nonce: 1 }.emit();
        assert!(!prober.receive(address(1), &guessed, now));
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:7".parse().unwrap();
        assert!(prober.receive(mapped, &reply, now), "as a socket of both families shows it");
    }

    #[test]
    fn targets_that_stay_keep_what_is_known() {
        let mut sim = Sim::new(&[("a", 1), ("b", 2)]);
        sim.run(200, |_| Some(MS(3)));
        sim.targets(&[("a", 1), ("b", 3)]);
        assert_eq!(sim.rtt("a"), Some(MS(3)));
        assert_eq!(sim.rtt("b"), None, "another address is another place");
        sim.targets(&[]);
        assert_eq!((sim.prober.measured("a"), sim.prober.wake_at()), (None, None));
    }

    proptest! {
        #[test]
        fn arbitrary_datagrams_change_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let now = Instant::now();
            let mut prober = Prober::new(6);
            prober.set_targets([("a", address(1))], now);
            prober.run(now);
            let before = prober.measured("a");
            prop_assert!(!prober.receive(address(1), &bytes, now));
            prop_assert_eq!(prober.measured("a"), before);
        }

        /// The smoothed time never leaves the range of the samples.
        #[test]
        fn smoothing_stays_between_nearest_and_farthest(low in 1u64..100, width in 0u64..100, seed: u64) {
            let mut sim = Sim::new(&[("a", 1)]);
            let random = std::cell::RefCell::new(Random::new(seed));
            sim.run(30_000, |_| Some(MS(low + random.borrow_mut().next() % (width + 1))));
            let rtt = sim.rtt("a").unwrap();
            prop_assert!(rtt >= MS(low) - Duration::from_micros(1) && rtt <= MS(low + width));
        }
    }
}
