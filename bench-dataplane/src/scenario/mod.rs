//! One file per scenario.

mod bring_up;
mod failover;
mod kube_data_plane;
mod kube_memory;
mod kube_offline;
mod kube_release;
mod kube_start;
mod manager_kill;
mod program;
mod rest;

use crate::Report;

/// What a scenario may be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Rounds, 1 and more; each scenario has a default of its own.
    pub rounds: Option<u32>,
    /// Told to people while it runs.
    pub progress: fn(&str),
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
    kube_data_plane::SCENARIO,
    kube_memory::SCENARIO,
    kube_offline::SCENARIO,
    kube_release::SCENARIO,
    kube_start::SCENARIO,
    manager_kill::SCENARIO,
    program::SCENARIO,
    rest::SCENARIO,
];

/// The scenario of this name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}

fn mib(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) / 1024.0
}
