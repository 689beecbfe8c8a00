//! Which edges to hold, and on which slots their tunnels are.

use super::control::Control;
use super::health::TunnelSince;
use super::settings::Settings;
use super::tunnel::TunnelId;
use crate::bfd::State;
use crate::select::{Candidate, Health, Selector};
use crate::slots::Use;
use std::time::{Duration, Instant};

/// After the answers that would do, so long is waited for those that got lost on the first try
/// (two more follow within 40 ms).
const PROBE_GRACE: Duration = Duration::from_millis(45);
/// By then the silent ones are known to be silent.
const PROBE_PATIENCE: Duration = Duration::from_millis(1200);

impl Control {
    /// Which edges, once enough is known.
    pub(super) fn choose(&mut self, now: Instant) {
        let Some(settings) = &self.settings else { return };
        let candidates: Vec<Candidate> = settings
            .candidates
            .iter()
            .map(|edge| {
                let measured = self.prober.measured(&edge.name);
                let tunnel = self.tunnels.get(&edge.name);
                // One that the kernel does not let us set up says nothing of its edge.
                let since = tunnel
                    .filter(|t| t.bfd_link.is_some())
                    .map(|t| TunnelSince { up: t.state == State::Up, since: t.since });
                Candidate {
                    name: edge.name.clone(),
                    domain: edge.failure_domain.clone(),
                    rtt: measured.and_then(|measured| measured.rtt),
                    health: self.doctor.judge(&edge.name, measured, since, now),
                }
            })
            .collect();
        let first_at = self.decide_at(settings.want, &candidates);
        if self.choice.edges.is_empty() && first_at.is_some_and(|at| at > now) {
            return;
        }
        let choice = self.selector.decide(settings.want, &candidates, now);
        if choice != self.choice {
            tracing::info!(edges = ?choice.edges, shared_domain = ?choice.shared_domain, "edges chosen");
            self.choice = choice;
        }
    }

    /// When the first choice can be made; none: now. Once `want` edges of different domains
    /// have answered, one that is nearer would have answered after their time as well.
    pub(super) fn decide_at(&self, want: usize, candidates: &[Candidate]) -> Option<Instant> {
        let since = self.probing_since?;
        if self.prober.settled() {
            return None;
        }
        let living: Vec<Candidate> =
            candidates.iter().filter(|c| c.rtt.is_some()).cloned().collect();
        let first = Selector::default().decide(want, &living, since);
        let enough = first.edges.len() == want && first.shared_domain.is_none();
        let farthest =
            living.iter().filter(|c| first.edges.contains(&c.name)).filter_map(|c| c.rtt).max();
        let patience = farthest.filter(|_| enough).map_or(PROBE_PATIENCE, |rtt| rtt + PROBE_GRACE);
        Some(since + patience.min(PROBE_PATIENCE))
    }

    /// When the first choice can be made by what is known now.
    pub(super) fn first_choice_at(&self, settings: &Settings) -> Option<Instant> {
        let known: Vec<Candidate> = settings
            .candidates
            .iter()
            .map(|edge| Candidate {
                name: edge.name.clone(),
                domain: edge.failure_domain.clone(),
                rtt: self.prober.measured(&edge.name).and_then(|measured| measured.rtt),
                health: Health::Alive,
            })
            .collect();
        self.decide_at(settings.want, &known)
    }

    /// Which tunnels, on which slots, in which order.
    pub(super) fn arrange(&mut self, now: Instant) {
        let active = self.liveness.active();
        let usage = |edge: &String| match self.tunnels.get(edge) {
            Some(tunnel) => {
                Use { up: tunnel.state == State::Up, active: active == Some(tunnel.id) }
            }
            None => Use { up: false, active: false },
        };
        let before = self.slots.clone();
        self.slots.arrange(&self.choice.edges, usage);
        // Traffic leaves a tunnel before it is taken down.
        self.prefer(now);
        let gone: Vec<String> = self
            .tunnels
            .keys()
            .filter(|edge| self.slots.slot_of(edge).is_none())
            .cloned()
            .collect();
        for edge in gone {
            self.dismantle(&edge, now);
        }
        self.look |= before != self.slots;
    }

    /// Tells liveness which tunnels there are: the chosen ones by preference, then those that
    /// are on their way out.
    pub(super) fn prefer(&mut self, now: Instant) {
        let chosen = self.choice.edges.iter().filter(|edge| self.slots.slot_of(edge).is_some());
        let retiring =
            self.slots.iter().filter(|(_, held)| held.retiring).map(|(_, held)| &held.edge);
        let preferred: Vec<TunnelId> = chosen
            .chain(retiring)
            .filter_map(|edge| self.tunnels.get(edge))
            .map(|tunnel| tunnel.id)
            .collect();
        if preferred != self.preferred {
            self.liveness.set(&preferred, now);
            // When traffic returns is for the BFD thread to count.
            self.bfd.wake();
            self.preferred = preferred;
        }
    }
}
