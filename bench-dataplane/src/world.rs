//! A laboratory's world for a scenario: real programs, emulated links, gone when dropped.

use crate::interrupt::goes_on;
use crate::leftovers;
use anyhow::Context;
use holdfast_api::tunnel::{BfdState, TunnelsState};
use lab::fleet::{self, Operator};
use lab::programs::Programs;
use lab::world::{EmulatorMode, Home, Host, World, WorldSpec};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Nothing in a world takes longer unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A world that is up.
pub(crate) struct Bench {
    pub(crate) world: World,
    pub(crate) programs: Programs,
    pub(crate) operator: Operator,
    home: Home,
}

impl Bench {
    /// Brings a world up; the programs are those beside this one, or are built.
    pub(crate) fn up(spec: &WorldSpec) -> anyhow::Result<Self> {
        let programs = programs()?;
        goes_on()?;
        leftovers::remove();
        let home = leftovers::home();
        if home.exists() {
            // Of a process with the same number.
            leftovers::take_down(&home);
        }
        let made = World::create(&home, spec, programs.dir(), &EmulatorMode::Thread, &mut |_| {});
        let started = made.map_err(anyhow::Error::from).and_then(|mut world| {
            let operator = fleet::start(&mut world, &programs, &mut |_| {})?;
            Ok((world, operator))
        });
        match started {
            Ok((world, operator)) => Ok(Bench { world, programs, operator, home }),
            Err(error) => {
                // What was made until then goes; the reason to report is why it stopped.
                leftovers::take_down(&home);
                Err(error).context("the world did not come up (this needs root)")
            }
        }
    }

    /// What the tunnels of a node are now.
    pub(crate) fn tunnels(&self, node: u8) -> anyhow::Result<TunnelsState> {
        Ok(fleet::ask(&fleet::tunneld_socket(&self.world, Host::Node(node)), "/v1/state")?)
    }

    /// Waits until a condition on the tunnels of a node holds.
    pub(crate) fn wait_tunnels(
        &self,
        node: u8,
        what: &str,
        holds: impl Fn(&TunnelsState) -> bool,
    ) -> anyhow::Result<TunnelsState> {
        let end = Instant::now() + PATIENCE;
        loop {
            let state = self.tunnels(node)?;
            if holds(&state) {
                return Ok(state);
            }
            anyhow::ensure!(Instant::now() < end, "{what} did not come true: {state:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        leftovers::take_down(&self.home);
    }
}

/// Two tunnels pass data, and one of them carries traffic.
pub(crate) fn both_up(state: &TunnelsState) -> bool {
    let up = |tunnel: &&holdfast_api::tunnel::TunnelState| tunnel.state == BfdState::Up;
    state.tunnels.iter().filter(up).count() >= 2 && state.tunnels.iter().any(|tunnel| tunnel.active)
}

/// The edge that carries traffic.
pub(crate) fn active(state: &TunnelsState) -> Option<String> {
    state.tunnels.iter().find(|tunnel| tunnel.active).map(|tunnel| tunnel.edge.clone())
}

/// Where the programs are to be: `HOLDFAST_BIN_DIR`, or beside this one.
pub(crate) fn programs_dir() -> Option<PathBuf> {
    std::env::var_os("HOLDFAST_BIN_DIR")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::current_exe().ok()?.parent()?.to_path_buf()))
}

fn programs() -> anyhow::Result<Programs> {
    if let Some(programs) = programs_dir().and_then(|dir| Programs::in_dir(&dir).ok()) {
        return Ok(programs);
    }
    Ok(Programs::build("lab")?)
}
