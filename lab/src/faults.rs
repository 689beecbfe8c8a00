//! What can be broken in a world, and mended again.
//!
//! A link is cut, slowed or made lossy at the emulator; a daemon is killed or frozen. Mending restores
//! the link as the world's topology has it, lets frozen daemons run and starts those that were killed,
//! as systemd would do on a real machine.

use crate::emulator::{Change, Cut};
use crate::fleet;
use crate::process::ProcessId;
use crate::world::{EMULATOR, Host, World, WorldError};
use nix::sys::signal::Signal;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The kernel needs a moment to stop a process, and more to tear down one that holds devices.
const SIGNALLED_WITHIN: Duration = Duration::from_secs(10);

/// What is to be broken or mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A link by its name, `re-1` or `re-1-bb`.
    Link(String),
    /// A daemon by its name, `node-1.holdfastd`.
    Service(String),
    /// The link of the edge that carries the traffic of this node.
    ActiveOf(u8),
}

/// How it is broken.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// A link passes nothing, in these directions.
    Cut(Cut),
    /// A link is changed.
    Degrade(Change),
    /// A daemon is killed without warning (SIGKILL).
    Kill,
    /// A daemon is stopped and holds everything it has (SIGSTOP).
    Freeze,
}

/// Why something cannot be broken or mended.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// Nothing of this name.
    #[error(
        "{target} is not in this world; its links are {}; its processes are {}",
        links.join(", "), processes.join(", ")
    )]
    Unknown {
        /// What was asked for.
        target: Target,
        /// The links that there are.
        links: Vec<String>,
        /// The processes that there are.
        processes: Vec<String>,
    },
    /// A link cannot be killed, a daemon cannot be cut.
    #[error(
        "{0} cannot be broken in this way: a link is cut, slowed or made lossy, a process is killed or frozen"
    )]
    Misfit(Target),
    /// No tunnel of the node carries traffic, or its tunnel daemon does not answer.
    #[error("node-{0} has no active tunnel; look at `cargo lab status`, name a link instead")]
    NoActive(u8),
    /// The daemon does not run.
    #[error("process {0} does not run; `cargo lab heal process:{0}` starts it")]
    NotRunning(String),
    /// The signal could not be sent.
    #[error("cannot signal process {0}")]
    Signal(String, #[source] std::io::Error),
    /// The daemon was killed or frozen and runs on.
    #[error("process {0} does not mind the signal")]
    Unstoppable(String),
    /// Something of the world.
    #[error(transparent)]
    World(Box<WorldError>),
}

impl From<WorldError> for FaultError {
    fn from(error: WorldError) -> Self {
        FaultError::World(Box::new(error))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Link(name) => write!(f, "link {name}"),
            Target::Service(name) => write!(f, "process {name}"),
            Target::ActiveOf(node) => write!(f, "the active link of node-{node}"),
        }
    }
}

impl FromStr for Target {
    type Err = std::convert::Infallible;

    /// `controller` is the daemon, `re-1` and `node-1` are their links, `active` is the link in
    /// use of the first node, `active:2` that of the second; what has a dot is a daemon. `link:` and
    /// `process:` before a name say so.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(link) = text.strip_prefix("link:") {
            return Ok(Target::Link(link.into()));
        }
        if let Some(service) = text.strip_prefix("process:") {
            return Ok(Target::Service(service.into()));
        }
        let number = text.strip_prefix("active:").and_then(|number| number.parse().ok());
        Ok(match (text, number) {
            ("active", _) => Target::ActiveOf(1),
            (_, Some(number)) => Target::ActiveOf(number),
            (fleet::CONTROLLER, _) => Target::Service(text.into()),
            _ if text.contains('.') => Target::Service(text.into()),
            _ => Target::Link(text.into()),
        })
    }
}

/// The fault that a target gets when nothing is said.
pub fn usual(target: &Target) -> Fault {
    match target {
        Target::Link(_) | Target::ActiveOf(_) => Fault::Cut(Cut::Both),
        Target::Service(_) => Fault::Kill,
    }
}

/// Breaks something, and says what was done.
///
/// # Errors
/// [`FaultError`]; nothing is broken then.
pub fn inject(world: &World, target: &Target, fault: &Fault) -> Result<String, FaultError> {
    match (resolve(world, target)?, fault) {
        (Target::Link(link), Fault::Cut(cut)) => {
            world.links()?.cut(&link, *cut).map_err(WorldError::Control)?;
            Ok(format!("link {link} is cut"))
        }
        (Target::Link(link), Fault::Degrade(change)) => {
            world.links()?.set(&link, change.clone()).map_err(WorldError::Control)?;
            Ok(format!("link {link} is changed: {change}"))
        }
        (Target::Service(name), Fault::Kill) => {
            let process = running(world, &name)?;
            signal(&name, process, Signal::SIGKILL)?;
            // Whoever mends it next must find it gone.
            match process.wait(SIGNALLED_WITHIN) {
                true => Ok(format!("process {name} is killed")),
                false => Err(FaultError::Unstoppable(name)),
            }
        }
        (Target::Service(name), Fault::Freeze) => {
            let process = running(world, &name)?;
            signal(&name, process, Signal::SIGSTOP)?;
            match process.wait_stopped(SIGNALLED_WITHIN) {
                true => Ok(format!("process {name} is frozen")),
                false => Err(FaultError::Unstoppable(name)),
            }
        }
        (target, _) => Err(FaultError::Misfit(target)),
    }
}

/// Mends `target`, or everything, and says what was done. A link needs the link emulator, which
/// is mended first when it does not run; every link is as the topology has it then.
///
/// # Errors
/// [`FaultError`] for the first that cannot be mended.
pub fn heal(world: &mut World, target: Option<&Target>) -> Result<Vec<String>, FaultError> {
    let target = target.map(|target| resolve(world, target)).transpose()?;
    let mut done = Vec::new();
    let links_too = !matches!(target, Some(Target::Service(_)));
    if links_too {
        // Worlds of a test have their emulator in a thread, and no such service.
        done.extend(heal_service(world, EMULATOR)?);
        let only = match &target {
            Some(Target::Link(link)) => Some(link.as_str()),
            Some(Target::Service(_) | Target::ActiveOf(_)) | None => None,
        };
        done.extend(heal_links(world, only)?);
    }
    let services: Vec<String> = world.home().services()?.into_keys().collect();
    for name in services {
        let wanted = match &target {
            Some(Target::Service(service)) => *service == name,
            // `heal re-1` also starts the edge again, when it was killed.
            Some(Target::Link(link)) => fleet_host(&name) == *link,
            Some(Target::ActiveOf(_)) => false,
            None => true,
        };
        if wanted {
            done.extend(heal_service(world, &name)?);
        }
    }
    Ok(done)
}

/// Lets a service run again, and says so when it did not.
fn heal_service(world: &mut World, name: &str) -> Result<Option<String>, FaultError> {
    let Some((_, process)) = world.home().services()?.remove(name) else { return Ok(None) };
    let process = process.filter(|process| process.alive());
    match process {
        Some(process) if process.ended() && !process.wait(SIGNALLED_WITHIN) => {
            Err(FaultError::Unstoppable(name.into()))
        }
        Some(process) if process.stopped() => {
            signal(name, process, Signal::SIGCONT)?;
            Ok(Some(format!("process {name} runs on")))
        }
        Some(process) if process.alive() => Ok(None),
        _ => {
            world.restart(name)?;
            Ok(Some(format!("process {name} is started again")))
        }
    }
}

/// The host of a service: what is before the dot.
fn fleet_host(service: &str) -> &str {
    service.split('.').next().unwrap_or(service)
}

fn heal_links(world: &World, only: Option<&str>) -> Result<Vec<String>, FaultError> {
    let mut control = world.links()?;
    let mut done = Vec::new();
    for state in control.list().map_err(WorldError::Control)? {
        let name = &state.link.name;
        let want = world.topology().links.into_iter().find(|link| link.name == *name);
        let Some(want) = want
            .filter(|want| only.is_none_or(|only| only == name) && want.model != state.link.model)
        else {
            continue;
        };
        let model = want.model;
        let change = Change {
            delay_us: Some(model.delay_us),
            jitter_us: Some(model.jitter_us),
            loss: Some(model.loss),
            rate_bits: Some(model.rate_bits),
            queue_bytes: Some(model.queue_bytes),
            cut: Some(model.cut),
        };
        control.set(name, change).map_err(WorldError::Control)?;
        done.push(format!("link {name} is whole again"));
    }
    Ok(done)
}

/// The link or service that is meant, which is there.
fn resolve(world: &World, target: &Target) -> Result<Target, FaultError> {
    let links: Vec<String> = world.topology().links.into_iter().map(|link| link.name).collect();
    let processes: Vec<String> = world.home().services()?.into_keys().collect();
    let resolved = match target {
        Target::ActiveOf(node) => {
            Target::Link(active_edge(world, *node).ok_or(FaultError::NoActive(*node))?)
        }
        Target::Link(_) | Target::Service(_) => target.clone(),
    };
    let there = match &resolved {
        Target::Link(name) => links.contains(name),
        Target::Service(name) => processes.contains(name),
        Target::ActiveOf(_) => true,
    };
    match there {
        true => Ok(resolved),
        false => Err(FaultError::Unknown { target: resolved, links, processes }),
    }
}

/// The edge that carries a node's traffic.
pub fn active_edge(world: &World, node: u8) -> Option<String> {
    let socket = fleet::tunneld_socket(world, Host::Node(node));
    let state: holdfast_api::tunnel::TunnelsState = fleet::ask(&socket, "/v1/state").ok()?;
    state.tunnels.into_iter().find(|tunnel| tunnel.active).map(|tunnel| tunnel.edge)
}

fn running(world: &World, name: &str) -> Result<ProcessId, FaultError> {
    world.process(name)?.ok_or_else(|| FaultError::NotRunning(name.into()))
}

fn signal(name: &str, process: ProcessId, signal: Signal) -> Result<(), FaultError> {
    process.signal(signal).map_err(|error| FaultError::Signal(name.into(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_as_people_mean_them() {
        let read = |text: &str| text.parse::<Target>().unwrap();
        assert_eq!(read("re-1"), Target::Link("re-1".into()));
        assert_eq!(read("controller"), Target::Service("controller".into()));
        assert_eq!(read("link:controller"), Target::Link("controller".into()));
        assert_eq!(read("process:re-1"), Target::Service("re-1".into()));
        assert_eq!(read("node-1.tunneld"), Target::Service("node-1.tunneld".into()));
        assert_eq!(read("active"), Target::ActiveOf(1));
        assert_eq!(read("active:3"), Target::ActiveOf(3));
        assert_eq!(usual(&read("re-1")), Fault::Cut(Cut::Both));
        assert_eq!(usual(&read("controller")), Fault::Kill);
    }
}
