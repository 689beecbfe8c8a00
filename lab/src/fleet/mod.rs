//! A working fleet in a world: the controller, the edges and the nodes, each started as on a real
//! machine and brought to where it says itself that it works.
//!
//! A node gets its token as cloud-init's user-data, as a cloud VM does; an edge gets it as a file.
//! Each stage ends when the program's own interface says so, and its time is kept with the
//! world. What fails is reported with the end of the program's log.

pub mod kubernetes;
pub mod operator;
pub mod settings;

use crate::node_root;
use crate::programs::Programs;
use crate::world::home::{StageTime, WorldFile};
use crate::world::topology::CONTROLLER_PORT;
use crate::world::{Host, World, WorldError};
use crate::{exec, netns};
use holdfast_api::local::{NodeReport, Stage};
use holdfast_api::resources::{EdgePolicy, RegionalEdge, Role, Site, SiteSpec};
use holdfast_api::tunnel::{BfdTimers, TunnelsState};
use holdfast_client::unix;
use holdfast_durable::WriteError;
pub use operator::{Operator, OperatorError};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Why a fleet does not work.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A host, link or process.
    #[error("cannot {stage}")]
    World {
        /// What was being done.
        stage: &'static str,
        /// What failed.
        #[source]
        source: Box<WorldError>,
    },
    /// The controller.
    #[error("cannot {stage}")]
    Operator {
        /// What was being done.
        stage: &'static str,
        /// What failed.
        #[source]
        source: Box<OperatorError>,
    },
    /// A file of a host.
    #[error("cannot write a file of host {host}")]
    File {
        /// The host.
        host: String,
        /// What failed.
        #[source]
        source: WriteError,
    },
    /// A node is not online in time.
    #[error("{host} is not online; it says: {:?}, {} {}", report.stage, report.message, report.next_step)]
    NotOnline {
        /// The node.
        host: Host,
        /// What it says of itself.
        report: Box<NodeReport>,
        /// How long was waited.
        #[source]
        source: Box<WorldError>,
    },
    /// A node's Kubernetes.
    #[error("cannot bring Kubernetes up")]
    Kubernetes(#[source] Box<kubernetes::KubernetesError>),
    /// The controller gave no kubeconfig.
    #[error("`holdfast-controller kubeconfig` failed: {0}")]
    Kubeconfig(String),
}

/// How long the controller and the edges may take to work.
const SERVER_WITHIN: Duration = Duration::from_secs(30);
/// How long a node may take to come online.
const ONLINE_WITHIN: Duration = Duration::from_secs(60);
/// Tunnels that a node holds by default.
const TUNNELS: usize = 2;

/// Name of the controller's service.
pub const CONTROLLER: &str = "controller";

/// Name of the service of an edge.
pub fn edge_service(host: Host) -> String {
    host.to_string()
}

/// Names of a node's services, in the order of their start.
pub fn node_services(host: Host) -> [String; 2] {
    [format!("{host}.tunneld"), format!("{host}.holdfastd")]
}

/// A stage that was reached.
pub type OnStage<'a> = &'a mut dyn FnMut(&StageTime);

/// Starts everything in a world that has its hosts and links. `done` is told of each stage.
///
/// # Errors
/// [`FleetError`] with the stage that failed; what runs goes on running, to be looked at.
pub fn start(
    world: &mut World,
    programs: &Programs,
    done: OnStage<'_>,
) -> Result<Operator, FleetError> {
    let mut clock = Stages::new(done);
    let operator = start_controller(world, programs)?;
    clock.reached(world, "controller answers")?;
    finish(world, programs, &operator, &mut clock)?;
    Ok(operator)
}

/// Starts edges and nodes in a world whose controller answers.
///
/// # Errors
/// As [`start`].
pub fn finish(
    world: &mut World,
    programs: &Programs,
    operator: &Operator,
    clock: &mut Stages<'_>,
) -> Result<(), FleetError> {
    let edges: Vec<Host> = (1..=world.spec().edges).map(Host::Edge).collect();
    start_edges(world, programs, operator, &edges)?;
    clock.reached(world, "regional edges registered")?;
    if kubernetes::wanted(world.spec()) {
        kubernetes::start_registries(world, &edges)?;
        clock.reached(world, "registries of images behind the edges")?;
    }
    let nodes: Vec<u8> = (1..=world.spec().nodes).collect();
    start_nodes(world, programs, operator, &nodes)?;
    clock.reached(world, "nodes started")?;
    wait_online(world, &nodes)?;
    clock.reached(world, "nodes online")?;
    if kubernetes::wanted(world.spec()) {
        kubernetes::wait(world, clock)?;
    }
    let mut file = load(world)?;
    file.complete = true;
    world.home().store(&file).map_err(at("write down the world"))
}

/// Starts the nodes `numbers`, whose hosts are there, each with a token of its own. The first node
/// of a site makes it.
///
/// # Errors
/// [`FleetError`].
pub fn start_nodes(
    world: &mut World,
    programs: &Programs,
    operator: &Operator,
    numbers: &[u8],
) -> Result<(), FleetError> {
    for number in numbers {
        let site = world.spec().site_of(*number);
        if site == *number {
            make_site(world, operator, site)?;
        } else {
            // The order in which they register is that of their names and roles.
            wait_admitted(world, *number - 1)?;
        }
        let site = settings::site(site);
        let token = operator.make_token(Role::Node, 1, Some(&site)).map_err(asked(START_NODES))?;
        start_node(world, programs, *number, &token)?;
    }
    Ok(())
}

/// What [`start_nodes`] is about.
const START_NODES: &str = "start the nodes";

/// Makes a site that is to be unlike what the controller makes by itself.
fn make_site(world: &World, operator: &Operator, number: u8) -> Result<(), FleetError> {
    let runs = kubernetes::runs_on(world.spec(), Host::Node(number)).is_some();
    let bfd = world.spec().bfd_interval_ms;
    let bfd = bfd.map(|interval_ms| BfdTimers { interval_ms, ..BfdTimers::default() });
    let spec = SiteSpec {
        edges: EdgePolicy { bfd, ..EdgePolicy::default() },
        kubernetes: runs.then(kubernetes::of_site),
        ..SiteSpec::default()
    };
    let failed = asked(START_NODES);
    if runs {
        operator.make_release(kubernetes::RELEASE, kubernetes::release()).map_err(&failed)?;
    }
    if spec != SiteSpec::default() {
        let site = Site::new(None, &settings::site(number), spec);
        operator.make_site(&site).map_err(&failed)?;
    }
    Ok(())
}

/// Starts the node `number`, whose host is there, with this token.
///
/// # Errors
/// [`FleetError`].
pub fn start_node(
    world: &mut World,
    programs: &Programs,
    number: u8,
    token: &str,
) -> Result<(), FleetError> {
    // A node's manager changes them as its profile says.
    world.remember_pools().map_err(at(START_NODES))?;
    let host = Host::Node(number);
    let runs = kubernetes::runs_on(world.spec(), host);
    let k3s = runs.as_ref().map(|_| programs.path("lab-k3s"));
    let fragment = settings::node(host, k3s.as_deref());
    put(world, host, settings::NODE_SETTINGS, &fragment, 0o644)?;
    let user_data = node_root::user_data(token, &settings::controller_url());
    put(world, host, node_root::USER_DATA, &user_data, 0o600)?;
    let root = world.home().root(host).display().to_string();
    let group = world.netns(host);
    let environment = kubernetes::environment(runs.as_ref(), &root, &group);
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for (service, program) in node_services(host).iter().zip(["tunneld", "holdfastd"]) {
        let program = programs.path(program);
        world
            .start(service, Some(host), &program, &["--root", &root], &environment)
            .map_err(at(START_NODES))?;
    }
    Ok(())
}

/// Waits until the node `number` has its place at the controller.
fn wait_admitted(world: &mut World, number: u8) -> Result<(), FleetError> {
    let host = Host::Node(number);
    let socket = manager_socket(world, host);
    let [_, manager] = node_services(host);
    let admitted = || {
        let report: NodeReport = ask(&socket, "/v1/status").ok()?;
        (!report.node.is_empty()).then_some(())
    };
    let what = format!("a place for {host} at the controller");
    world.wait_for(&manager, &what, ONLINE_WITHIN, admitted).map_err(at(START_NODES))
}

/// Waits until the nodes `numbers` are online. In a world with fewer than two edges a node cannot be; there it
/// is enough that it holds its configuration and every tunnel that can be.
///
/// # Errors
/// [`FleetError::NotOnline`] with what the node says of itself when it is not in time;
/// [`FleetError::World`] with the end of its log when its manager ended.
pub fn wait_online(world: &mut World, numbers: &[u8]) -> Result<(), FleetError> {
    let edges = usize::from(world.spec().edges);
    for number in numbers {
        let host = Host::Node(*number);
        let socket = manager_socket(world, host);
        let online = || {
            let report: NodeReport = ask(&socket, "/v1/status").ok()?;
            let up = report.tunnels.as_ref().map_or(0, TunnelsState::up);
            let whole = matches!(report.stage, Stage::Online | Stage::Degraded);
            let as_far_as_can_be = edges < TUNNELS && report.stage == Stage::Bootstrapping;
            ((whole || as_far_as_can_be) && up >= TUNNELS.min(edges)).then_some(())
        };
        let [_, manager] = node_services(host);
        let waited = world.wait_for(&manager, &format!("{host} online"), ONLINE_WITHIN, online);
        match (waited, ask::<NodeReport>(&socket, "/v1/status")) {
            (Ok(()), _) => {}
            (Err(late @ WorldError::TooLate { .. }), Ok(report)) => {
                let source = Box::new(late);
                return Err(FleetError::NotOnline { host, report: Box::new(report), source });
            }
            (Err(error), _) => return Err(at("bring the nodes online")(error)),
        }
    }
    Ok(())
}

/// The operator of a world whose controller runs.
///
/// # Errors
/// The controller gives no kubeconfig.
pub fn operator(world: &World, programs: &Programs) -> Result<Operator, FleetError> {
    let url = settings::controller_url();
    let text = kubeconfig(world, programs, &url)?;
    Operator::new(&text, &world.netns(Host::Controller), &url, &world.spec().tenant).map_err(
        |source| FleetError::Operator { stage: "read the kubeconfig", source: Box::new(source) },
    )
}

/// The controller's kubeconfig for the world's tenant, with `server` as its address.
///
/// # Errors
/// [`FleetError::Kubeconfig`] with what the program said.
pub fn kubeconfig(world: &World, programs: &Programs, server: &str) -> Result<String, FleetError> {
    let mut command = Command::new(programs.path("holdfast-controller"));
    command.arg("kubeconfig").arg("--data").arg(controller_data(world));
    // Edges belong to no tenant; the laboratory's operator looks after the whole fleet.
    command.args(["--namespace", &world.spec().tenant, "--all-tenants", "--server", server]);
    let output = exec::output(&world.netns(Host::Controller), &mut command)
        .map_err(|source| at("ask for the kubeconfig")(WorldError::Exec(source)))?;
    if !output.status.success() {
        return Err(FleetError::Kubeconfig(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where a node's manager answers.
pub fn manager_socket(world: &World, node: Host) -> PathBuf {
    holdfast_api::paths::Root::new(world.home().root(node)).manager_socket()
}

/// Where a node's tunnel daemon answers.
pub fn tunneld_socket(world: &World, node: Host) -> PathBuf {
    holdfast_api::paths::Root::new(world.home().root(node)).tunneld_socket()
}

/// Asks a daemon over its Unix socket.
///
/// # Errors
/// It does not answer, or refuses.
pub fn ask<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, unix::UnixError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| unix::UnixError::Unreachable {
        socket: socket.into(),
        source: error.into(),
    })?;
    runtime.block_on(unix::get_json(socket, path))
}

/// Starts the controller and waits until it answers.
///
/// # Errors
/// [`FleetError`] with the end of its log.
pub fn start_controller(world: &mut World, programs: &Programs) -> Result<Operator, FleetError> {
    let stage = "start the controller";
    let data = controller_data(world).display().to_string();
    let address = Host::Controller.address().map(|address| address.to_string()).unwrap_or_default();
    let listen = format!("{address}:{CONTROLLER_PORT}");
    // 127.0.0.1 is where `lab` makes it known to the machine.
    let arguments =
        ["serve", "--data", &data, "--listen", &listen, "--name", &address, "--name", "127.0.0.1"];
    let program = programs.path("holdfast-controller");
    world
        .start(CONTROLLER, Some(Host::Controller), &program, &arguments, &[])
        .map_err(at(stage))?;
    let netns = world.netns(Host::Controller);
    let what = "the controller's answer";
    // Its CA is made at the first start, before it listens.
    let listens = || {
        let address = listen.parse().ok()?;
        let connected = netns::inside(&netns, || {
            std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1))
        });
        connected.ok()?.ok().map(drop)
    };
    world.wait_for(CONTROLLER, what, SERVER_WITHIN, listens).map_err(at(stage))?;
    operator(world, programs)
}

/// Starts these edges and waits until the controller knows them.
///
/// # Errors
/// [`FleetError`] with the end of the log of one that failed.
pub fn start_edges(
    world: &mut World,
    programs: &Programs,
    operator: &Operator,
    edges: &[Host],
) -> Result<(), FleetError> {
    let stage = "start the regional edges";
    let Ok(uses @ 1..) = u32::try_from(edges.len()) else { return Ok(()) };
    let token = operator.make_token(Role::RegionalEdge, uses, None).map_err(asked(stage))?;
    for host in edges {
        put(world, *host, settings::EDGE_SETTINGS, &settings::edge(*host), 0o644)?;
        put(world, *host, settings::EDGE_TOKEN, &token, 0o600)?;
        let root = world.home().root(*host).display().to_string();
        let program = programs.path("regional-edge");
        world
            .start(&edge_service(*host), Some(*host), &program, &["--root", &root], &[])
            .map_err(at(stage))?;
    }
    let deadline = Instant::now() + SERVER_WITHIN;
    for host in edges {
        let left = deadline.saturating_duration_since(Instant::now());
        let registered = || {
            let known = operator.list::<RegionalEdge>().ok()?;
            let this = known.iter().find(|edge| edge.metadata.name == host.to_string())?;
            (this.spec.public_key.is_some() && this.spec.overlay_address.is_some()).then_some(())
        };
        let what = format!("the registration of {host}");
        world.wait_for(&edge_service(*host), &what, left, registered).map_err(at(stage))?;
    }
    Ok(())
}

fn controller_data(world: &World) -> PathBuf {
    world.home().root(Host::Controller).join("var/lib/holdfast-controller")
}

fn put(world: &World, host: Host, path: &str, content: &str, mode: u32) -> Result<(), FleetError> {
    holdfast_durable::write(&world.home().root(host).join(path), content.as_bytes(), mode)
        .map_err(|source| FleetError::File { host: host.to_string(), source })
}

fn asked(stage: &'static str) -> impl Fn(OperatorError) -> FleetError {
    move |source| FleetError::Operator { stage, source: Box::new(source) }
}

fn at(stage: &'static str) -> impl Fn(WorldError) -> FleetError {
    move |source| FleetError::World { stage, source: Box::new(source) }
}

fn load(world: &World) -> Result<WorldFile, FleetError> {
    let file = world.home().load().map_err(at("read the world"))?;
    file.ok_or_else(|| at("read the world")(WorldError::Absent(world.home().world().clone())))
}

/// A directory with `holdfast`, which knows the root of this host, and the other programs.
///
/// # Errors
/// It cannot be made.
pub fn tools(world: &World, host: Host) -> Result<PathBuf, FleetError> {
    let bin = load(world)?.bin_dir;
    let dir = world.home().dir().join("tools").join(host.to_string());
    let root = world.home().root(host);
    let runs = kubernetes::runs_on(world.spec(), host);
    let group = world.netns(host);
    let known = kubernetes::environment(runs.as_ref(), &root.display().to_string(), &group);
    let known: String = known.iter().map(|(name, value)| format!("{name}='{value}' ")).collect();
    for program in Programs::ALL {
        let script = match program {
            "holdfast" => format!(
                "#!/bin/sh\nexec '{}' --root '{}' \"$@\"\n",
                bin.join(program).display(),
                root.display()
            ),
            // The node's own Kubernetes.
            "lab-k3s" => {
                format!("#!/bin/sh\n{known}exec '{}' \"$@\"\n", bin.join(program).display())
            }
            _ => format!("#!/bin/sh\nexec '{}' \"$@\"\n", bin.join(program).display()),
        };
        holdfast_durable::write_if_changed(&dir.join(program), script.as_bytes(), 0o755)
            .map_err(|source| FleetError::File { host: host.to_string(), source })?;
    }
    Ok(dir)
}

/// Times of the stages, kept with the world.
pub struct Stages<'a> {
    since: Instant,
    done: OnStage<'a>,
}

impl<'a> Stages<'a> {
    /// Begins the first stage now.
    pub fn new(done: OnStage<'a>) -> Self {
        Stages::begun(Instant::now(), done)
    }

    /// The first stage has begun at this moment.
    pub fn begun(since: Instant, done: OnStage<'a>) -> Self {
        Stages { since, done }
    }

    /// Ends a stage, whose name is what was reached, and begins the next.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn reached(&mut self, world: &World, stage: &str) -> Result<(), FleetError> {
        let took_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let stage = StageTime { stage: stage.into(), took_ms };
        let mut file = load(world)?;
        file.stages.push(stage.clone());
        world.home().store(&file).map_err(at("write down the world"))?;
        (self.done)(&stage);
        self.since = Instant::now();
        Ok(())
    }
}
