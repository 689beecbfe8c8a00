//! Which edges to hold tunnels to: the nearest, in different failure domains, and without
//! changing one's mind for a little. A machine without clock or socket.
//!
//! * Nearest by smoothed round-trip time, one per failure domain. Where there are too few
//!   domains with living edges, a second one of a domain is taken rather than none.
//! * One that is dead is replaced at once. Without a living substitute it is kept: it may return.
//! * Among the living, a nearer one replaces a held one when it was nearer by more than the
//!   margin, a fifth or 5 ms, whichever is more, for ten seconds on end. The same time passes
//!   before two tunnels of one failure domain are spread over two.
//! * The order of those that are held, which says where traffic goes, changes by the same
//!   margin and time. One that is silent keeps its place: failover passes it by.
//!
//! Left out: making and removing tunnels ([`crate::slots`]) and which of them carries traffic
//! ([`crate::failover`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A candidate must be nearer by this part of the held one's time …
const MARGIN_PART: u32 = 5;
/// … and by this at least.
const MARGIN_LEAST: Duration = Duration::from_millis(5);
/// … for so long on end. Longer than a burst of probes, so that one queue that fills for a
/// moment moves nothing.
const HOLD: Duration = Duration::from_secs(10);

/// Whether an edge can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// It answers probes, or data passes.
    Alive,
    /// Nothing is known yet.
    Unknown,
    /// It is silent, or no data ever passed.
    Dead,
}

/// An edge as it was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name, unique among the candidates.
    pub name: String,
    /// Edges of one domain go down together.
    pub domain: String,
    /// Smoothed round-trip time; none sorts behind every time.
    pub rtt: Option<Duration>,
    /// Whether it can be used.
    pub health: Health,
}

/// What to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Names, the nearest first but for the hysteresis. As many as are wanted, or all there are.
    pub edges: Vec<String>,
    /// A failure domain that holds two of them, for lack of another with a living edge.
    pub shared_domain: Option<String>,
}

/// Chooses and remembers.
#[derive(Debug, Default)]
pub struct Selector {
    /// By preference.
    held: Vec<String>,
    /// Swaps (held, candidate) that would be better, and since when.
    better: BTreeMap<(String, String), Instant>,
    /// Held ones (before, after) of which the latter is nearer, and since when.
    nearer: BTreeMap<(String, String), Instant>,
}

impl Selector {
    /// Decides for `want` edges. Call it when something was measured and at
    /// [`Selector::wake_at`].
    pub fn decide(&mut self, want: usize, candidates: &[Candidate], now: Instant) -> Choice {
        let pool = Pool::new(candidates);
        self.held.retain(|name| pool.get(name).is_some());
        self.drop_surplus(want, &pool);
        while self.held.len() < want
            && let Some(next) = pool.best_addition(&self.held)
        {
            pool.insert_by_distance(&mut self.held, next);
        }
        self.replace_dead(&pool);
        self.improve(&pool, now);
        self.reorder(&pool, now);
        Choice { edges: self.held.clone(), shared_domain: pool.shared_domain(&self.held) }
    }

    /// When a decision may change although nothing new is measured.
    pub fn wake_at(&self) -> Option<Instant> {
        self.better.values().chain(self.nearer.values()).min().map(|since| *since + HOLD)
    }

    /// Keeps those that together are best: a new domain before a second of the same, then the
    /// nearest.
    fn drop_surplus(&mut self, want: usize, pool: &Pool<'_>) {
        if self.held.len() <= want {
            return;
        }
        let held =
            Pool { candidates: self.held.iter().filter_map(|name| pool.get(name)).collect() };
        let mut best: Vec<String> = Vec::new();
        while best.len() < want
            && let Some(next) = held.best_addition(&best)
        {
            best.push(next.to_string());
        }
        self.held.retain(|name| best.contains(name));
    }

    /// Takes in the best that is not dead for each dead one. Of two dead ones the one goes that
    /// shares its domain with the newcomer: the other may return.
    fn replace_dead(&mut self, pool: &Pool<'_>) {
        loop {
            let (dead, living): (Vec<String>, Vec<String>) =
                self.held.iter().cloned().partition(|name| pool.health(name) == Health::Dead);
            let Some(farthest) = dead.last() else { return };
            let Some(into) = pool.best_addition(&living).and_then(|name| pool.get(name)) else {
                return;
            };
            if into.health == Health::Dead {
                return;
            }
            let same_domain =
                |name: &&String| pool.get(name).is_some_and(|c| c.domain == into.domain);
            let out = dead.iter().find(same_domain).unwrap_or(farthest);
            self.swap(pool, out, &into.name);
        }
    }

    /// Makes the best swap that was better for long enough, and notes which others are better.
    fn improve(&mut self, pool: &Pool<'_>, now: Instant) {
        loop {
            let swaps = pool.better_swaps(&self.held);
            self.better
                .retain(|swap, _| swaps.iter().any(|s| (&s.out, &s.into) == (&swap.0, &swap.1)));
            for swap in &swaps {
                self.better.entry((swap.out.clone(), swap.into.clone())).or_insert(now);
            }
            let ripe = |swap: &&Swap| {
                let since = self.better.get(&(swap.out.clone(), swap.into.clone()));
                since.is_some_and(|since| now.saturating_duration_since(*since) >= HOLD)
            };
            let Some(best) = swaps.iter().filter(ripe).max_by_key(|swap| swap.rank()) else {
                return;
            };
            let (out, into) = (best.out.clone(), best.into.clone());
            self.swap(pool, &out, &into);
        }
    }

    /// Moves one that is nearer than the one before it forward, after the hold time.
    fn reorder(&mut self, pool: &Pool<'_>, now: Instant) {
        let mut nearer = BTreeMap::new();
        let mut n = 1;
        while n < self.held.len() {
            let pair = (self.held[n - 1].clone(), self.held[n].clone());
            let (before, after) = (pool.get(&pair.0), pool.get(&pair.1));
            let is_nearer = before.zip(after).is_some_and(|(before, after)| {
                before.rtt.is_some() && after.rtt.is_some() && gain(before, after) > margin(before)
            });
            if is_nearer {
                let since = self.nearer.get(&pair).copied().unwrap_or(now);
                if now.saturating_duration_since(since) >= HOLD {
                    self.held.swap(n - 1, n);
                } else {
                    nearer.insert(pair, since);
                }
            }
            n += 1;
        }
        self.nearer = nearer;
    }

    fn swap(&mut self, pool: &Pool<'_>, out: &str, into: &str) {
        self.held.retain(|held| held != out);
        pool.insert_by_distance(&mut self.held, into);
        self.better.retain(|(o, i), _| o != out && i != into);
    }
}

/// An exchange that would be an improvement.
struct Swap {
    out: String,
    into: String,
    /// One that is known to live instead of one of which nothing is known.
    healthier: bool,
    /// Two failure domains instead of one.
    spreads: bool,
    /// Nanoseconds by which it is nearer, negative when it is farther.
    gain: i128,
}

impl Swap {
    fn rank(&self) -> (bool, bool, i128, Reverse<(&str, &str)>) {
        (self.healthier, self.spreads, self.gain, Reverse((&self.out, &self.into)))
    }
}

struct Pool<'a> {
    /// The nearest first; what cannot be used last.
    candidates: Vec<&'a Candidate>,
}

impl<'a> Pool<'a> {
    fn new(candidates: &'a [Candidate]) -> Self {
        let mut candidates: Vec<_> = candidates.iter().collect();
        candidates.sort_by_key(|c| distance(c));
        candidates.dedup_by(|a, b| a.name == b.name);
        Pool { candidates }
    }

    fn get(&self, name: &str) -> Option<&'a Candidate> {
        self.candidates.iter().find(|c| c.name == name).copied()
    }

    fn health(&self, name: &str) -> Health {
        self.get(name).map_or(Health::Dead, |c| c.health)
    }

    /// Puts `name` before the first that is farther; the others keep their order.
    fn insert_by_distance(&self, held: &mut Vec<String>, name: &str) {
        let place = |name: &str| self.candidates.iter().position(|c| c.name == name);
        let farther = held.iter().position(|other| place(other) > place(name));
        held.insert(farther.unwrap_or(held.len()), name.to_string());
    }

    /// The candidate to hold beside `held`: living before unknown before dead; among those a
    /// domain of its own before a shared one; among those the nearest.
    fn best_addition(&self, held: &[String]) -> Option<&'a str> {
        let domains = self.domains(held);
        self.candidates
            .iter()
            .filter(|c| !held.contains(&c.name))
            .min_by_key(|c| (c.health, domains.contains(c.domain.as_str()), distance(c)))
            .map(|c| c.name.as_str())
    }

    fn domains(&self, held: &[String]) -> BTreeSet<&'a str> {
        held.iter().filter_map(|name| self.get(name)).map(|c| c.domain.as_str()).collect()
    }

    fn shared_domain(&self, held: &[String]) -> Option<String> {
        let mut seen = BTreeSet::new();
        let mut domains = held.iter().filter_map(|name| self.get(name)).map(|c| c.domain.as_str());
        domains.find(|domain| !seen.insert(*domain)).map(str::to_string)
    }

    /// Exchanges of a held edge for a living one that spread the domains, or that bring one
    /// that is surer, or nearer by the margin, without crowding a domain.
    fn better_swaps(&self, held: &[String]) -> Vec<Swap> {
        let mut swaps = Vec::new();
        for out in held.iter().filter_map(|name| self.get(name)) {
            let others: Vec<String> =
                held.iter().filter(|name| **name != out.name).cloned().collect();
            let domains = self.domains(&others);
            let crowded = domains.contains(out.domain.as_str());
            for into in self.candidates.iter().filter(|c| c.health == Health::Alive) {
                if held.contains(&into.name) {
                    continue;
                }
                let fits = !domains.contains(into.domain.as_str());
                let spreads = crowded && fits;
                let nearer = into.rtt.is_some() && gain(out, into) > margin(out);
                let healthier = into.health < out.health;
                if spreads || ((fits || crowded) && (nearer || healthier)) {
                    let (out, into, gain) = (out.name.clone(), into.name.clone(), gain(out, into));
                    swaps.push(Swap { out, into, healthier, spreads, gain });
                }
            }
        }
        swaps
    }
}

fn distance(candidate: &Candidate) -> (Health, Duration, &str) {
    (candidate.health, candidate.rtt.unwrap_or(Duration::MAX), &candidate.name)
}

/// By how many nanoseconds `into` is nearer; what does not answer is infinitely far.
fn gain(out: &Candidate, into: &Candidate) -> i128 {
    let nanos = |candidate: &Candidate| match candidate.rtt {
        Some(rtt) => i128::try_from(rtt.as_nanos()).unwrap_or(i128::MAX / 2),
        None => i128::MAX / 2,
    };
    nanos(out) - nanos(into)
}

fn margin(held: &Candidate) -> i128 {
    let margin = (held.rtt.unwrap_or_default() / MARGIN_PART).max(MARGIN_LEAST);
    i128::try_from(margin.as_nanos()).unwrap_or(i128::MAX / 2)
}

#[cfg(test)]
mod tests;
