//! The programs that are compared: where they are, and how they are started.

use super::rig::Rig;
use crate::leftovers;
use crate::scenario::Options;
use crate::{Report, world};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A WireGuard implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `holdfast-wireguard`.
    Ours,
    /// wireguard-go.
    WireguardGo,
    /// boringtun-cli.
    Boringtun,
    /// gotatun-cli.
    Gotatun,
    /// The kernel's.
    Kernel,
    /// None: the wire itself.
    Bare,
}

/// Those beside us.
const PEERS: [Kind; 4] = [Kind::WireguardGo, Kind::Boringtun, Kind::Gotatun, Kind::Kernel];

/// An implementation that can be run here.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) kind: Kind,
    /// None of the kernel's.
    path: Option<PathBuf>,
    pub(crate) version: String,
    /// What it is told besides.
    arguments: Vec<String>,
    /// Its link does not split what TCP sends; only looked at where that makes another program of
    /// it.
    lacks_offloads: bool,
}

/// Whom ours is measured beside unless all are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    /// Whoever is here.
    All,
    /// The one that goals are held against.
    WireguardGo,
}

impl Kind {
    /// As it is called in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Ours => "holdfast",
            Kind::WireguardGo => "wireguard-go",
            Kind::Boringtun => "boringtun-cli",
            Kind::Gotatun => "gotatun-cli",
            Kind::Kernel => "kernel",
            Kind::Bare => "bare",
        }
    }

    /// What the program is called.
    pub(crate) fn file(self) -> Option<&'static str> {
        match self {
            Kind::Ours => Some("holdfast-wireguard"),
            Kind::WireguardGo => Some("wireguard-go"),
            Kind::Boringtun => Some("boringtun-cli"),
            Kind::Gotatun => Some("gotatun"),
            Kind::Kernel | Kind::Bare => None,
        }
    }

    /// Finds it; an error says how to get it.
    pub(crate) fn find(self) -> anyhow::Result<Program> {
        let Some(file) = self.file() else {
            if self == Kind::Kernel {
                kernel_has_it()?;
            }
            let version = nix::sys::utsname::uname()
                .map(|name| name.release().to_string_lossy().into_owned())
                .unwrap_or_default();
            return Ok(Program::new(self, None, version));
        };
        let beside = if self == Kind::Ours { world::programs_dir() } else { peers_dir() };
        let beside = beside.map(|dir| dir.join(file)).filter(|path| path.exists());
        let next = match self {
            Kind::Ours => "build it: cargo build --profile lab -p tunnels --bins",
            _ => "`bench-dataplane peers` installs it",
        };
        let path = beside
            .or_else(|| lab::packages::find(file).filter(|_| self != Kind::Ours))
            .with_context(|| format!("{file} is not here; {next}"))?;
        let version = version(&path).unwrap_or_else(|| "unknown".into());
        Ok(Program::new(self, Some(path), version))
    }
}

/// The peers that are here; the setup says which those are, and why others are not.
pub(crate) fn beside(report: &mut Report) -> Vec<Program> {
    let mut here = Vec::new();
    for kind in PEERS {
        let key = format!("program {}", kind.name());
        match kind.find() {
            Ok(peer) => {
                report.set(&key, &peer.version);
                here.push(peer);
            }
            Err(error) => report.set(&key, format!("skipped: {error:#}")),
        }
    }
    here
}

/// A report of a scenario that runs ours, with what ours is.
pub(crate) fn alone(scenario: &str) -> anyhow::Result<(Report, Program)> {
    leftovers::remove();
    let mut report = Report::new(scenario);
    let ours = Kind::Ours.find()?;
    report.set("program holdfast", &ours.version);
    if let Some(dir) = ours.path.as_deref().and_then(Path::parent) {
        report.set_programs(dir);
    }
    let [wire, link] = Rig::up(&ours)?.offloads()?;
    report.set("offloads of the wire", wire);
    report.set("offloads of holdfast's link", link);
    Ok((report, ours))
}

/// A report of a scenario with what it runs: ours, and those of the peers that are here which are
/// taken; with `quick` only wireguard-go.
pub(crate) fn side_by_side(
    scenario: &str,
    options: &Options,
    others: Beside,
) -> anyhow::Result<(Report, Program, Vec<Program>)> {
    let (mut report, ours) = alone(scenario)?;
    let mut peers = beside(&mut report);
    if options.quick {
        report.set("quick", "few and short turns, beside wireguard-go only");
    }
    if options.quick || others == Beside::WireguardGo && !options.all_peers {
        peers.retain(|peer| {
            let is_taken = peer.kind == Kind::WireguardGo;
            if !is_taken {
                let key = format!("program {}", peer.kind.name());
                report.set(
                    &key,
                    "left out: wireguard-go alone is taken unless --all-peers asks for all",
                );
            }
            is_taken
        });
    }
    for peer in &mut peers {
        let [_, link] = Rig::up(peer)?.offloads()?;
        peer.on_offloads(&link);
        report.set(&format!("offloads of {}'s link", peer.kind.name()), link);
        if peer.lacks_offloads {
            let text =
                format!("{}, without offloads: its results are {}'s", peer.version, peer.name());
            report.set(&format!("program {}", peer.kind.name()), text);
        }
    }
    for tool in ["iperf3", "wg"] {
        let version = version(Path::new(tool)).unwrap_or_else(|| "unknown".into());
        report.set(&format!("program {tool}"), version);
    }
    Ok((report, ours, peers))
}

impl Program {
    fn new(kind: Kind, path: Option<PathBuf>, version: String) -> Self {
        Program { kind, path, version, arguments: Vec::new(), lacks_offloads: false }
    }

    /// As it is called in results: a wireguard-go whose link does not split what TCP sends is
    /// another one than goals are held against.
    pub(crate) fn name(&self) -> &'static str {
        match self.lacks_offloads {
            true => "wireguard-go-without-offloads",
            false => self.kind.name(),
        }
    }

    /// Its link has these offloads, as far as the kernel tells.
    fn on_offloads(&mut self, link: &str) {
        let splits = link.split(", ").any(|name| name == "tx-tcp-segmentation");
        self.lacks_offloads = self.kind == Kind::WireguardGo && !splits;
    }

    /// The same, told this besides.
    pub(crate) fn with(&self, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Program { arguments, ..self.clone() }
    }

    /// How it is started for `link`, in the foreground.
    pub(crate) fn command(&self, link: &str) -> Option<Command> {
        let mut command = Command::new(self.path.as_ref()?);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.args(&self.arguments);
        match self.kind {
            Kind::Boringtun | Kind::Gotatun => {
                command.args(["--foreground", "--disable-drop-privileges", link]);
            }
            _ => {
                command.args(["--foreground", link]);
            }
        }
        Some(command)
    }
}

/// Where `bench-dataplane peers` puts them.
pub(crate) fn peers_dir() -> Option<PathBuf> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("holdfast-lab/peers/bin"))
}

fn version(path: &Path) -> Option<String> {
    let out = Command::new(path).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    Some(text.lines().next()?.trim().to_owned()).filter(|line| !line.is_empty())
}

fn kernel_has_it() -> anyhow::Result<()> {
    let name = format!("bench-{}-try", std::process::id());
    let netns = netd::netns::NetNs::create(&name).context("a namespace (this needs root)")?;
    let made = netns.enter(|| {
        Command::new("ip")
            .args(["link", "add", "try", "type", "wireguard"])
            .stderr(Stdio::null())
            .status()
    });
    let made = made.context("namespace")?.context("ip(8), package iproute2")?;
    anyhow::ensure!(made.success(), "this kernel has no WireGuard");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wireguard_go_without_offloads_has_another_name() {
        let named = |kind: Kind, link: &str| {
            let mut program = Program::new(kind, None, "1".into());
            program.on_offloads(link);
            program.name()
        };
        let whole = "tx-generic-segmentation, tx-tcp-segmentation, tx-tcp6-segmentation";
        assert_eq!(named(Kind::WireguardGo, whole), "wireguard-go");
        for link in ["none", "tx-tcp6-segmentation, rx-gro", "unknown: no answer"] {
            assert_eq!(named(Kind::WireguardGo, link), "wireguard-go-without-offloads", "{link}");
        }
        assert_eq!(named(Kind::Boringtun, "none"), "boringtun-cli");
    }
}
