//! `lab up`: from nothing to nodes that are online.

use super::build::Source;
use super::kubernetes::{self, Background};
use super::{Global, Output, need_root, own_program, print_json, show};
use anyhow::Context;
use clap::Args;
use lab::fleet::{self, FleetError, Stages};
use lab::node_root::Hardware;
use lab::packages::{self, Purpose};
use lab::programs::Programs;
use lab::world::home::StageTime;
use lab::world::spec::{BFD_MS, EDGES_MAX, NODES_MAX};
use lab::world::topology::CONTROLLER_PORT;
use lab::world::{EmulatorMode, Host, Observed, Topology, World, WorldSpec, plan};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Args)]
pub(super) struct Up {
    /// Regional edges, 0 to 99.
    #[arg(long, default_value_t = 3, value_name = "N",
          value_parser = clap::value_parser!(u8).range(..=i64::from(EDGES_MAX)))]
    edges: u8,
    /// Nodes, each a site of its own, 0 to 99; 1 when not given, or as many as --site-nodes.
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u8).range(..=i64::from(NODES_MAX)))]
    nodes: Option<u8>,
    /// How many of the nodes are the first site, 1 to 99 and no more than --nodes: they share a network of their own and a
    /// Kubernetes.
    #[arg(long, default_value_t = 1, value_name = "N",
          value_parser = clap::value_parser!(u8).range(1..=i64::from(NODES_MAX)))]
    site_nodes: u8,
    /// What the nodes believe to be: kvm, intel-nuc-11 or stranger.
    #[arg(long = "box", default_value = "kvm", value_name = "BOX")]
    hardware: Hardware,
    /// Name of the tenant, the namespace of its objects.
    #[arg(long, default_value = "acme", value_name = "NAME")]
    tenant: String,
    /// Interval of BFD in milliseconds, 10 to 10000; three of them without a packet make a tunnel
    /// down.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32)
          .range(i64::from(*BFD_MS.start())..=i64::from(*BFD_MS.end())))]
    bfd_ms: Option<u32>,
    /// Without Kubernetes and its workload on the first site.
    #[arg(long)]
    no_kubernetes: bool,
    /// Only say what would be made.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    source: Source,
}

impl Up {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<()> {
        let mut spec = self.spec(global);
        spec.validate()?;
        if self.dry_run {
            plan(&Topology::of(&spec), &Observed::default()).iter().for_each(|step| say!("{step}"));
            return Ok(());
        }
        need_root()?;
        World::check_absent(&global.home())?;
        // Asked before the build, which may replace the file and make the path useless.
        let lab = own_program()?;
        mind_interrupt(global)?;
        install(Purpose::World)?;
        let background = match self.no_kubernetes {
            true => None,
            false => Background::start()?,
        };
        let programs = self.source.programs()?;
        if !self.no_kubernetes {
            spec.kubernetes = kubernetes(background)?;
        }
        let began = Instant::now();
        eprintln!("bringing world {} up", spec.name);
        let mode = EmulatorMode::Process(lab.clone());
        let mut world = World::create(&global.home(), &spec, programs.dir(), &mode, &mut |step| {
            tracing::info!(%step, "making");
        })?;
        let _lock = world.home().lock()?;
        if let Err(error) = bring_up(&mut world, &programs, &lab, began) {
            let option = global.world.option();
            eprintln!(
                "the world stays as far as it came: look at `cargo lab{option} logs`, end it with `cargo lab{option} down`"
            );
            return Err(error.into());
        }
        eprintln!("{} is up after {:.1} s\n", spec.name, began.elapsed().as_secs_f64());
        match global.output {
            Output::Json => print_json(&lab::status::observe(&world)?),
            Output::Text => {
                show::print(&world)?;
                print_hints(&world);
                Ok(())
            }
        }
    }

    fn spec(&self, global: &Global) -> WorldSpec {
        WorldSpec {
            name: global.world.clone(),
            tenant: self.tenant.clone(),
            edges: self.edges,
            nodes: self.nodes.unwrap_or(self.site_nodes),
            site_nodes: self.site_nodes,
            nodes_set_themselves_up: true,
            hardware: self.hardware,
            bfd_interval_ms: self.bfd_ms,
            kubernetes: None,
        }
    }
}

/// Where Kubernetes is, built now when it is not there. A machine that cannot have it gets a world
/// without.
fn kubernetes(background: Option<Background>) -> anyhow::Result<Option<PathBuf>> {
    if let Some(why) = kubernetes::have(background)? {
        eprintln!("going on without Kubernetes: {why}");
    }
    Ok(kubernetes::found().map(|built| built.root().to_path_buf()))
}

/// From now on an interrupt (Ctrl-C) ends this program with the word what is left.
fn mind_interrupt(global: &Global) -> anyhow::Result<()> {
    /// What shells call a program that SIGINT ended: 128 and its number.
    const INTERRUPTED: i32 = 130;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    drop(entered);
    let (home, option) = (global.home(), global.world.option());
    std::thread::spawn(move || {
        runtime.block_on(interrupt.recv());
        match home.exists() {
            true => eprintln!(
                "\ninterrupted: world {} stays as far as it came; end it with `cargo lab{option} down`",
                home.world()
            ),
            false => eprintln!("\ninterrupted; nothing was made yet"),
        }
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}

fn bring_up(
    world: &mut World,
    programs: &Programs,
    lab: &Path,
    began: Instant,
) -> Result<(), FleetError> {
    let mut tell = |stage: &StageTime| tell_stage(began, stage);
    let mut stages = Stages::begun(began, &mut tell);
    stages.reached(world, "hosts and links")?;
    let operator = fleet::start_controller(world, programs)?;
    stages.reached(world, "controller answers")?;
    expose_controller(world, programs, lab)?;
    stages.reached(world, "controller reachable from this machine")?;
    fleet::finish(world, programs, &operator, &mut stages)
}

pub(super) fn tell_stage(began: Instant, stage: &StageTime) {
    let passed = began.elapsed().as_secs_f64();
    let took = Duration::from_millis(stage.took_ms).as_secs_f64();
    eprintln!("{passed:7.2} s  {} (took {took:.2} s)", stage.stage);
}

/// Installs what is missing, saying what and why.
pub(super) fn install(purpose: Purpose) -> anyhow::Result<()> {
    let ensured = packages::ensure(purpose, &mut |line| eprintln!("{line}"))?;
    for (need, why) in ensured.without {
        eprintln!("going on without {}, which {}: {why}", need.program, need.why);
    }
    Ok(())
}

/// Name of the service that forwards a port of the machine to the controller.
const FORWARD: &str = "forward";

fn expose_controller(world: &mut World, programs: &Programs, lab: &Path) -> Result<(), FleetError> {
    let stage = "make the controller reachable from this machine";
    let failed = |source| FleetError::World { stage, source: Box::new(source) };
    let address_file = world.home().dir().join("controller.address");
    let to = Host::Controller
        .address()
        .map(|address| format!("{address}:{CONTROLLER_PORT}"))
        .unwrap_or_default();
    let netns = world.netns(Host::Controller);
    let file = address_file.display().to_string();
    let arguments = [
        "forward",
        "--listen",
        "127.0.0.1:0",
        "--netns",
        &netns,
        "--to",
        &to,
        "--address-file",
        &file,
    ];
    world.start(FORWARD, None, lab, &arguments, &[]).map_err(failed)?;
    let address = world
        .wait_for(FORWARD, "a port for the controller", Duration::from_secs(5), || {
            std::fs::read_to_string(&address_file).ok().filter(|text| text.ends_with('\n'))
        })
        .map_err(failed)?;
    let kubeconfig = fleet::kubeconfig(world, programs, &format!("https://{}", address.trim()))?;
    holdfast_durable::write(&world.home().dir().join("kubeconfig"), kubeconfig.as_bytes(), 0o600)
        .map_err(|source| FleetError::File { host: "this machine".into(), source })
}

fn print_hints(world: &World) {
    let option = world.home().world().option();
    let kubeconfig = world.home().dir().join("kubeconfig");
    say!("\nLook around:");
    for (what, why) in [
        (format!("cargo lab{option} status"), "stages, tunnels, links, processes"),
        (
            format!("cargo lab{option} break active"),
            "cut the link that carries the traffic; `heal` mends it",
        ),
        (format!("cargo lab{option} exec node-1 holdfast status"), "what the node says of itself"),
        (format!("cargo lab{option} shell node-1"), "a shell inside the node"),
        (format!("cargo lab{option} logs -f"), "what everybody says"),
        (format!("cargo lab{option} down"), "remove everything"),
    ] {
        say!("  {what:46}  {why}");
    }
    let get = format!("kubectl --kubeconfig {} -n {}", kubeconfig.display(), world.spec().tenant);
    say!("  {get} get sites,registrations,regionaledges");
}
