//! Worlds: a controller, regional edges and nodes on one machine, each in namespaces of its own.
//!
//! The same four parts as every domain: [`spec`] and [`topology`] say what is wanted, [`plan()`] decides
//! which steps lead there, [`World`] observes and applies. [`Home`] knows where the state lies and
//! what was written down before it was made; [`down()`] removes everything that bears the world's
//! name, whatever state it is in.
//!
//! This module makes hosts, links and daemons. What the daemons are and how they become a working
//! fleet is told in [`crate::fleet`].

pub mod down;
mod error;
pub mod home;
pub mod plan;
pub mod spec;
pub mod topology;

pub use down::{DownReport, down};
pub use error::WorldError;
pub use home::{Home, Service, StageTime, WorldFile};
pub use plan::{Observed, Step, plan};
pub use spec::{WorldName, WorldSpec};
pub use topology::{Host, Topology};

use crate::emulator::{Control, Emulator, Link};
use crate::exec::{self, Daemon};
use crate::netns;
use crate::node_root;
use crate::pools::Record;
use crate::process::ProcessId;
use netd::netns::NetNs;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

/// How the links of a world are emulated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmulatorMode {
    /// By a thread of this process: the links end with it.
    Thread,
    /// By `<program> emulate …`, where the program is `lab`: the links stay.
    Process(PathBuf),
}

/// A world that is there.
#[derive(Debug)]
pub struct World {
    home: Home,
    spec: WorldSpec,
    emulator: Option<Emulator>,
    /// Started by this process, which has to take note when they end.
    children: Vec<Child>,
}

/// How long a program may take until it first shows a sign of life.
const START_WITHIN: Duration = Duration::from_secs(60);

impl World {
    /// Makes the hosts and links of a new world. `tell` is called before each step.
    ///
    /// # Errors
    /// [`WorldError`]; what was made until then is left for [`down()`].
    pub fn create(
        home: &Home,
        spec: &WorldSpec,
        bin_dir: &Path,
        mode: &EmulatorMode,
        tell: &mut dyn FnMut(&Step),
    ) -> Result<Self, WorldError> {
        spec.validate().map_err(WorldError::Spec)?;
        World::check_absent(home)?;
        make_dir(&home.dir())?;
        let _lock = home.lock()?;
        for dir in [home.records_dir(), home.dir().join("logs"), home.dir().join("roots")] {
            make_dir(&dir)?;
        }
        let spec = WorldSpec { name: home.world().clone(), ..spec.clone() };
        home.store(&WorldFile {
            spec: spec.clone(),
            bin_dir: bin_dir.into(),
            stages: vec![],
            complete: false,
        })?;
        let mut world = World { home: home.clone(), spec, emulator: None, children: vec![] };
        world.reach(mode, tell)?;
        Ok(world)
    }

    /// Checks that nothing of the world is there, whole or not.
    ///
    /// # Errors
    /// [`WorldError::Exists`], or [`WorldError::Incomplete`] when it was never brought up to the end.
    pub fn check_absent(home: &Home) -> Result<(), WorldError> {
        let world = home.world().clone();
        let hosts = netns::with_prefix(&topology::netns_prefix(&world));
        match (home.exists(), hosts.is_empty()) {
            (false, true) => Ok(()),
            (true, _) if home.load().is_ok_and(|file| file.is_some_and(|file| file.complete)) => {
                Err(WorldError::Exists(world))
            }
            _ => Err(WorldError::Incomplete(world)),
        }
    }

    /// The world that is there.
    ///
    /// # Errors
    /// [`WorldError::Absent`] when there is none.
    pub fn open(home: &Home) -> Result<Self, WorldError> {
        let file = home.load()?.ok_or_else(|| WorldError::Absent(home.world().clone()))?;
        Ok(World { home: home.clone(), spec: file.spec, emulator: None, children: vec![] })
    }

    /// Makes the world as `spec` asks, from what it is; used to add hosts to a running world.
    ///
    /// # Errors
    /// [`WorldError`]; what was made until then is left for [`down()`].
    pub fn grow(
        &mut self,
        spec: &WorldSpec,
        mode: &EmulatorMode,
        tell: &mut dyn FnMut(&Step),
    ) -> Result<(), WorldError> {
        spec.validate().map_err(WorldError::Spec)?;
        let mut file = self.file()?;
        file.spec = WorldSpec { name: self.home.world().clone(), ..spec.clone() };
        // Before the hosts are made, so that they are known.
        self.home.store(&file)?;
        self.spec = file.spec;
        self.reach(mode, tell)
    }

    /// Where its state lies.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// What was asked for.
    pub fn spec(&self) -> &WorldSpec {
        &self.spec
    }

    /// Its hosts and links.
    pub fn topology(&self) -> Topology {
        Topology::of(&self.spec)
    }

    /// The name of a host's network namespace.
    pub fn netns(&self, host: Host) -> String {
        host.netns(self.home.world())
    }

    /// A connection to the link emulator.
    ///
    /// # Errors
    /// It does not run.
    pub fn links(&self) -> Result<Control, WorldError> {
        Control::connect(&self.home.emulator_socket()).map_err(WorldError::Control)
    }

    /// Notes the machine's huge page pools before something changes them, unless a world of this
    /// machine has done so already; they are put back when the last one goes.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn remember_pools(&self) -> Result<(), WorldError> {
        Record::of_machine().remember(&self.home.dir()).map_err(WorldError::Pools)
    }

    /// Starts a daemon, on a host or on the machine itself, and remembers how. Its log and record
    /// are those of the world.
    ///
    /// # Errors
    /// It cannot be started, or ended at once.
    pub fn start(
        &mut self,
        name: &str,
        host: Option<Host>,
        program: &Path,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Result<ProcessId, WorldError> {
        let service = Service {
            name: name.into(),
            host: host.map(|host| host.to_string()),
            daemon: Daemon {
                program: program.into(),
                args: args.iter().map(|arg| (*arg).into()).collect(),
                env: env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
                log: self.home.log(name),
                record: self.home.record(name),
                nice: 0,
            },
        };
        self.run(&service)
    }

    /// Starts a daemon again that was started before and does not run any more.
    ///
    /// # Errors
    /// There is none of this name, or it cannot be started.
    pub fn restart(&mut self, name: &str) -> Result<ProcessId, WorldError> {
        let mut services = self.home.services()?;
        let (service, process) =
            services.remove(name).ok_or_else(|| WorldError::NoSuchService(name.into()))?;
        match process.filter(|process| process.alive()) {
            Some(process) => Ok(process),
            None if name == EMULATOR => self.emulate_again(&service),
            None => self.run(&service),
        }
    }

    /// The links went with the emulator, and with them the addresses of their ends.
    fn emulate_again(&mut self, service: &Service) -> Result<ProcessId, WorldError> {
        let topology = self.topology();
        home::write_json(&self.home.links_file(), &topology.links)?;
        let process = self.run(service)?;
        let socket = self.home.emulator_socket();
        self.wait_for(EMULATOR, "the link emulator's answer", START_WITHIN, || {
            Control::connect(&socket).ok()?.list().ok().map(|_| ())
        })?;
        for (host, setup) in topology.setup(&[], &topology.links) {
            self.apply(&Step::SetUp(host, setup), &EmulatorMode::Thread)?;
        }
        Ok(process)
    }

    /// The process of a daemon, when it runs.
    ///
    /// # Errors
    /// The world's state is damaged.
    pub fn process(&self, name: &str) -> Result<Option<ProcessId>, WorldError> {
        let services = self.home.services()?;
        Ok(services.get(name).and_then(|(_, process)| *process).filter(|process| process.alive()))
    }

    /// Waits until `sign` gives something, while the daemon `name` lives.
    ///
    /// # Errors
    /// [`WorldError::Ended`] with the end of its log, or [`WorldError::TooLate`].
    pub fn wait_for<T>(
        &mut self,
        name: &str,
        what: &str,
        patience: Duration,
        mut sign: impl FnMut() -> Option<T>,
    ) -> Result<T, WorldError> {
        let process = exec::recorded(&self.home.record(name));
        let deadline = Instant::now() + patience;
        loop {
            if let Some(seen) = sign() {
                return Ok(seen);
            }
            self.reap();
            if process.is_some_and(|process| !process.alive()) {
                let log = self.home.log(name);
                return Err(WorldError::Ended { service: name.into(), tail: tail(&log), log });
            }
            if Instant::now() > deadline {
                let hint = format!("; look into {}", self.home.log(name).display());
                return Err(WorldError::TooLate { what: what.into(), patience, hint });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What is there, for planning.
    pub fn observe(&self) -> Observed {
        let topology = self.topology();
        let links = self.links().ok().and_then(|mut control| control.list().ok());
        let there = |test: &dyn Fn(Host) -> bool| {
            topology.hosts.iter().copied().filter(|host| test(*host)).collect()
        };
        Observed {
            hosts: there(&|host| netns::exists(&self.netns(host))),
            links: links.map(|links| links.into_iter().map(|state| state.link.name).collect()),
            roots: there(&|host| self.home.root(host).exists()),
        }
    }

    fn file(&self) -> Result<WorldFile, WorldError> {
        self.home.load()?.ok_or_else(|| WorldError::Absent(self.home.world().clone()))
    }

    fn reach(
        &mut self,
        mode: &EmulatorMode,
        tell: &mut dyn FnMut(&Step),
    ) -> Result<(), WorldError> {
        for step in plan(&self.topology(), &self.observe()) {
            tell(&step);
            self.apply(&step, mode)?;
        }
        Ok(())
    }

    fn apply(&mut self, step: &Step, mode: &EmulatorMode) -> Result<(), WorldError> {
        match step {
            Step::Namespace(host) => {
                NetNs::create(&self.netns(*host)).map(NetNs::keep).map_err(WorldError::Namespace)
            }
            Step::Emulate(links) => self.emulate(links, mode),
            Step::AddLink(link) => self.links()?.add(link).map_err(WorldError::Control),
            Step::SetUp(host, setup) => {
                let netns = self.netns(*host);
                netns::ip_batch(&netns, &setup.ip)
                    .map_err(|source| WorldError::SetUp { host: host.to_string(), source })?;
                netns::inside(&netns, || {
                    setup.sysctls.iter().try_for_each(|(name, value)| {
                        set_sysctl(name, value).map_err(|source| WorldError::Sysctl {
                            host: host.to_string(),
                            name: name.clone(),
                            source,
                        })
                    })
                })
                .map_err(WorldError::Namespace)?
            }
            Step::Root(host) => {
                let name = host.to_string();
                let topology = self.topology();
                let of_host = |link: &&Link| link.a.netns == host.netns(&topology.world);
                let ports = topology.links.iter().filter(of_host);
                let ports: Vec<&str> = ports.map(|link| link.a.interface.as_str()).collect();
                let entries = node_root::entries(self.spec.hardware, &name, &ports);
                node_root::make(&self.home.root(*host), &entries)
                    .map_err(|source| WorldError::Root { host: host.to_string(), source })
            }
        }
    }

    fn emulate(&mut self, links: &[Link], mode: &EmulatorMode) -> Result<(), WorldError> {
        let socket = self.home.emulator_socket();
        match mode {
            EmulatorMode::Thread => {
                self.emulator = Some(
                    Emulator::start(&socket, links)
                        .map_err(|error| WorldError::Emulator(Box::new(error)))?,
                );
                Ok(())
            }
            EmulatorMode::Process(lab) => {
                home::write_json(&self.home.links_file(), &links)?;
                let text = |path: &Path| path.display().to_string();
                let service = Service {
                    name: EMULATOR.into(),
                    host: None,
                    daemon: Daemon {
                        program: lab.clone(),
                        args: [
                            "emulate",
                            "--socket",
                            &text(&socket),
                            "--links",
                            &text(&self.home.links_file()),
                        ]
                        .map(String::from)
                        .to_vec(),
                        env: vec![],
                        log: self.home.log(EMULATOR),
                        record: self.home.record(EMULATOR),
                        // Delays are the emulator's promise; it sleeps when nothing is in flight.
                        nice: -10,
                    },
                };
                self.run(&service)?;
                self.wait_for(EMULATOR, "the link emulator's answer", START_WITHIN, || {
                    Control::connect(&socket).ok()?.list().ok().map(|_| ())
                })
            }
        }
    }

    fn run(&mut self, service: &Service) -> Result<ProcessId, WorldError> {
        self.home.store_service(service)?;
        // What it was before must not be taken for the new process.
        holdfast_durable::remove(&service.daemon.record).map_err(WorldError::Write)?;
        let host = service
            .host
            .as_deref()
            .map(|host| format!("{}{host}", topology::netns_prefix(self.home.world())));
        let child = exec::start(host.as_deref(), &service.daemon).map_err(WorldError::Exec)?;
        self.children.push(child);
        let record = service.daemon.record.clone();
        self.wait_for(&service.name, "the start of a program", START_WITHIN, || {
            exec::recorded(&record)
        })
    }

    /// Children that ended would else stay as zombies while this process lives.
    fn reap(&mut self) {
        self.children.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
    }
}

/// Name of the service that emulates the links.
pub const EMULATOR: &str = "emulator";

fn make_dir(path: &Path) -> Result<(), WorldError> {
    std::fs::create_dir_all(path).map_err(|source| WorldError::State {
        attempt: "make directory",
        path: path.into(),
        source,
    })
}

fn set_sysctl(name: &str, value: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(Path::new("/proc/sys").join(name))?;
    file.write_all(value.as_bytes())
}

/// The last lines of a log, for an error message.
pub(crate) fn tail(log: &Path) -> String {
    const LINES: usize = 12;
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    if last.is_empty() {
        "  (empty)".into()
    } else {
        last.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    }
}
