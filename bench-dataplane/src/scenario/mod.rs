//! One file per scenario.

mod bring_up;
mod failover;
mod handshakes;
mod kube_data_plane;
mod kube_memory;
mod kube_offline;
mod kube_release;
mod kube_start;
mod latency;
mod loss_free;
mod manager_kill;
mod many_tunnels;
mod memory;
mod program;
mod rest;
mod soak;
mod tcp;
mod variants;

use crate::Report;

/// What a scenario may be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Rounds, 1 and more; each scenario has a default of its own.
    pub rounds: Option<u32>,
    /// Short: fewer rounds and shorter ones, and only the peer that matters most.
    pub quick: bool,
    /// Beside all peers also where a scenario takes only the one that matters most.
    pub all_peers: bool,
    /// How long a scenario that watches is to watch.
    pub minutes: Option<u32>,
    /// Told to people while it runs.
    pub progress: fn(&str),
}

impl Options {
    /// The rounds that were asked for, or the default for a whole or a quick run.
    pub(crate) fn rounds_or(&self, whole: u32, quick: u32) -> u32 {
        self.rounds.unwrap_or(if self.quick { quick } else { whole })
    }
}

/// A scenario.
#[derive(Debug)]
pub struct Scenario {
    /// What to type.
    pub name: &'static str,
    /// What it measures, beside what.
    pub about: &'static str,
    /// Runs it.
    pub run: fn(&Options) -> anyhow::Result<Report>,
}

/// Every scenario.
pub const ALL: &[Scenario] = &[
    bring_up::SCENARIO,
    failover::SCENARIO,
    handshakes::SCENARIO,
    kube_data_plane::SCENARIO,
    kube_memory::SCENARIO,
    kube_offline::SCENARIO,
    kube_release::SCENARIO,
    kube_start::SCENARIO,
    latency::SCENARIO,
    loss_free::IMIX,
    loss_free::PPS,
    loss_free::UDP,
    manager_kill::SCENARIO,
    many_tunnels::SCENARIO,
    memory::SCENARIO,
    program::SCENARIO,
    rest::SCENARIO,
    soak::SCENARIO,
    tcp::SCENARIO,
    variants::HELPERS,
    variants::HUGEPAGES,
];

/// Those that measure a tunnel, and are run by `run --quick`.
const TUNNEL: &[&str] =
    &["tcp", "latency", "udp", "imix", "pps", "memory", "handshakes", "many-tunnels"];

/// Those that measure a tunnel.
pub fn of_a_tunnel() -> Vec<&'static Scenario> {
    TUNNEL.iter().filter_map(|name| find(name)).collect()
}

/// The scenario of this name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}

fn mib(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_a_name_of_its_own_and_those_of_a_tunnel_are_among_them() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|known| known.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert_eq!(of_a_tunnel().len(), TUNNEL.len());
    }
}
