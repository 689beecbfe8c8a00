//! `lab add-site`.

use super::{Global, Output, need_root, own_program, print_json, show, up};
use clap::Args;
use lab::fleet::{self, Stages};
use lab::programs::Programs;
use lab::world::home::StageTime;
use lab::world::spec::NODES_MAX;
use lab::world::{EmulatorMode, Topology, WorldSpec, plan};
use std::time::Instant;

#[derive(Debug, Args)]
pub(super) struct AddSite {
    /// How many sites, each with one node; a world has at most 99.
    #[arg(long, default_value_t = 1, value_name = "N",
          value_parser = clap::value_parser!(u8).range(1..=i64::from(NODES_MAX)))]
    count: u8,
    /// Only say what would be made.
    #[arg(long)]
    dry_run: bool,
}

impl AddSite {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<()> {
        let mut world = global.open()?;
        let before = world.spec().nodes;
        let spec = WorldSpec { nodes: before.saturating_add(self.count), ..world.spec().clone() };
        spec.validate()?;
        if self.dry_run {
            plan(&Topology::of(&spec), &world.observe()).iter().for_each(|step| say!("{step}"));
            return Ok(());
        }
        need_root()?;
        let _lock = world.home().lock()?;
        let began = Instant::now();
        let file = world.home().load()?.ok_or_else(|| anyhow::anyhow!("the world went away"))?;
        let programs = Programs::in_dir(&file.bin_dir)?;
        let operator = fleet::operator(&world, &programs)?;
        let mut tell = |stage: &StageTime| up::tell_stage(began, stage);
        let mut stages = Stages::new(&mut tell);
        world.grow(
            &spec,
            &EmulatorMode::Process(own_program()?),
            &mut |step| tracing::info!(%step, "making"),
        )?;
        stages.reached(&world, "more hosts and links")?;
        let new: Vec<u8> = (before + 1..=spec.nodes).collect();
        fleet::start_nodes(&mut world, &programs, &operator, &new)?;
        stages.reached(&world, "more nodes started")?;
        fleet::wait_online(&mut world, &new)?;
        stages.reached(&world, "more nodes online")?;
        match global.output {
            Output::Json => print_json(&lab::status::observe(&world)?),
            Output::Text => show::print(&world),
        }
    }
}
