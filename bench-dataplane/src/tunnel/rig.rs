//! Two namespaces, a wire between them, and a tunnel over it.

use super::program::{Kind, Program};
use super::wakeups::wakeups;
use super::{huge, offloads};
use crate::interrupt::goes_on;
use crate::leftovers;
use anyhow::{Context, bail, ensure};
use lab::measure::{Usage, usage};
use netd::netns::NetNs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);
/// The link between both ends, in each of them.
const WIRE: &str = "w";
/// Of the links inside, as of all Holdfast tunnels.
const MTU: &str = "1420";

/// One end.
pub(crate) struct End {
    pub(crate) netns: NetNs,
    name: String,
    link: String,
    /// Where the other end reaches it: through the tunnel, where there is one.
    pub(crate) address: Ipv4Addr,
    /// Where it does over the wire.
    pub(crate) wire: Ipv4Addr,
    device: Device,
}

/// Who makes the link of a tunnel.
enum Device {
    None,
    Program(Child),
    /// The link goes only when it is deleted.
    Kernel,
}

impl Device {
    fn program(&self) -> Option<&Child> {
        match self {
            Device::Program(child) => Some(child),
            Device::None | Device::Kernel => None,
        }
    }
}

/// What stands; gone when dropped.
pub(crate) struct Rig {
    pub(crate) ends: [End; 2],
}

impl Rig {
    /// Both ends run `program`, and have shaken hands. Another's that does not come up is tried once
    /// more, so that a long comparison does not end by it; ours is not.
    pub(crate) fn up(program: &Program) -> anyhow::Result<Self> {
        match Self::try_up(program) {
            Err(_) if program.kind != Kind::Ours => Self::try_up(program),
            result => result,
        }
    }

    fn try_up(program: &Program) -> anyhow::Result<Self> {
        let dir = tempdir()?;
        let result = Self::up_in(program, &dir);
        let _ = std::fs::remove_dir_all(&dir);
        result.with_context(|| format!("a tunnel of {} did not come up", program.kind.name()))
    }

    fn up_in(program: &Program, dir: &std::path::Path) -> anyhow::Result<Self> {
        let mut rig = Rig { ends: wired()? };
        if program.kind == Kind::Bare {
            for end in &mut rig.ends {
                end.address = end.wire;
            }
            return Ok(rig);
        }
        let keys = [private_key()?, private_key()?];
        let public = [public_key(&keys[0])?, public_key(&keys[1])?];
        let wires = rig.ends.each_ref().map(|end| end.wire);
        for (index, end) in rig.ends.iter_mut().enumerate() {
            end.start(program)?;
            let key = dir.join(&end.link);
            holdfast_durable::write(&key, keys[index].as_bytes(), 0o600)?;
            let (mine, theirs) = (index + 1, 2 - index);
            end.run(
                "wg",
                &[
                    "set",
                    &end.link,
                    "private-key",
                    &key.display().to_string(),
                    "listen-port",
                    &(5000 + mine).to_string(),
                    "peer",
                    &public[1 - index],
                    "endpoint",
                    &format!("{}:{}", wires[1 - index], 5000 + theirs),
                    "allowed-ips",
                    &format!("10.9.0.{theirs}/32"),
                ],
            )?;
            end.run("ip", &["address", "add", &format!("10.9.0.{mine}/24"), "dev", &end.link])?;
            end.run("ip", &["link", "set", &end.link, "mtu", MTU, "up"])?;
        }
        let to = rig.ends[1].address.to_string();
        wait("a ping through the tunnel", || {
            rig.ends[0].run("ping", &["-c", "1", "-W", "1", &to]).is_ok()
        })?;
        Ok(rig)
    }

    /// What both programs take now; none of the kernel's.
    pub(crate) fn usage(&self) -> anyhow::Result<Vec<Usage>> {
        self.ends.iter().filter_map(|end| end.usage().transpose()).collect()
    }
}

impl Rig {
    /// What the first end's wire and its link of the tunnel split and merge by themselves.
    pub(crate) fn offloads(&self) -> anyhow::Result<[String; 2]> {
        let end = &self.ends[0];
        let of = |link: &str| end.netns.enter(|| offloads::of_link(link)).context("namespace");
        Ok([of(WIRE)?, of(&end.link)?])
    }

    /// KiB of huge pages that each program has touched; none of the kernel's.
    pub(crate) fn huge_kib(&self) -> anyhow::Result<Vec<u64>> {
        let programs = self.ends.iter().filter_map(|end| end.device.program());
        programs.map(|child| huge::kib(child.id())).collect()
    }

    /// How often each program has woken up until now; none of the kernel's.
    pub(crate) fn wakeups(&self) -> anyhow::Result<Vec<u64>> {
        let programs = self.ends.iter().filter_map(|end| end.device.program());
        programs.map(|child| wakeups(child.id())).collect()
    }
}

/// Two namespaces with a wire between them, 192.0.2.1 and 192.0.2.2.
pub(crate) fn wired() -> anyhow::Result<[End; 2]> {
    goes_on()?;
    let end = |n: u8| -> anyhow::Result<End> {
        let name = format!("bench-{}-{n}", std::process::id());
        let netns = NetNs::create(&name).context("a namespace (this needs root)")?;
        let link = format!("hb{:x}-{n}", std::process::id());
        let [address, wire] = [[10, 9, 0, n], [192, 0, 2, n]].map(Ipv4Addr::from);
        Ok(End { netns, name, link, address, wire, device: Device::None })
    };
    let ends = [end(1)?, end(2)?];
    let other = ends[1].name.clone();
    ends[0]
        .run("ip", &["link", "add", WIRE, "type", "veth", "peer", "name", WIRE, "netns", &other])?;
    for end in &ends {
        end.run("ip", &["address", "add", &format!("{}/24", end.wire), "dev", WIRE])?;
        end.run("ip", &["link", "set", "lo", "up"])?;
        end.run("ip", &["link", "set", WIRE, "up"])?;
    }
    Ok(ends)
}

impl End {
    /// Its link of the tunnel.
    pub(crate) fn link(&self) -> &str {
        &self.link
    }

    /// Runs a program inside; it must succeed.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let out = self
            .netns
            .enter(|| Command::new(program).args(arguments).stdin(Stdio::null()).output())
            .context("namespace")?
            .with_context(|| format!("cannot run {program}"))?;
        let error = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "{program} {}: {}", arguments.join(" "), error.trim());
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Makes the device: starts the program, or asks the kernel.
    pub(crate) fn start(&mut self, program: &Program) -> anyhow::Result<()> {
        match program.command(&self.link) {
            None => {
                self.run("ip", &["link", "add", &self.link, "type", "wireguard"])?;
                self.device = Device::Kernel;
            }
            Some(mut command) => {
                let child = self.netns.enter(|| command.spawn()).context("namespace")?;
                self.device = Device::Program(child.context("cannot start it")?);
            }
        }
        let end = Instant::now() + PATIENCE;
        while self.run("wg", &["show", &self.link]).is_err() {
            if let Device::Program(child) = &mut self.device
                && let Ok(Some(status)) = child.try_wait()
            {
                bail!("it ended before its device was there: {status}");
            }
            ensure!(Instant::now() < end, "the device did not come");
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// What its program takes now; none of the kernel's.
    pub(crate) fn usage(&self) -> anyhow::Result<Option<Usage>> {
        let program = self.device.program();
        program.map(|child| Ok(usage(i32::try_from(child.id())?)?)).transpose()
    }

    /// Ends the program, and its link with it; has the kernel delete its own.
    pub(crate) fn stop(&mut self) {
        let mut child = match std::mem::replace(&mut self.device, Device::None) {
            Device::None => return,
            Device::Kernel => {
                // Whoever makes it again hears that it is still there.
                let _ = self.run("ip", &["link", "delete", &self.link]);
                return;
            }
            Device::Program(child) => child,
        };
        if let Ok(pid) = i32::try_from(child.id()) {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        let end = Instant::now() + PATIENCE;
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() >= end {
                let _ = child.kill();
                let _ = child.wait();
                break;
            }
            std::thread::sleep(POLL);
        }
        // Some leave it behind.
        let socket = PathBuf::from(format!("/var/run/wireguard/{}.sock", self.link));
        let _ = std::fs::remove_file(socket);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.stop();
    }
}

fn wait(what: &str, mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        ensure!(Instant::now() < end, "{what} did not come");
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn private_key() -> anyhow::Result<String> {
    let out = Command::new("wg").arg("genkey").output().context("wg, package wireguard-tools")?;
    Ok(String::from_utf8(out.stdout)?)
}

fn public_key(private: &str) -> anyhow::Result<String> {
    let mut child = Command::new("wg")
        .arg("pubkey")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("wg, package wireguard-tools")?;
    let mut input = child.stdin.take().context("wg's input")?;
    std::io::Write::write_all(&mut input, private.as_bytes())?;
    drop(input);
    Ok(String::from_utf8(child.wait_with_output()?.stdout)?.trim().to_owned())
}

pub(crate) fn tempdir() -> anyhow::Result<PathBuf> {
    let dir = std::env::temp_dir().join(leftovers::files());
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_of_the_kernels_goes_when_it_is_stopped() {
        let [mut end, _there] = match wired() {
            Ok(ends) => ends,
            Err(error) => return eprintln!("skipped: {error:#}"),
        };
        // A kernel without WireGuard has others to delete.
        let link = end.link.clone();
        end.run("ip", &["link", "add", &link, "type", "veth", "peer", "name", "other"]).unwrap();
        end.device = Device::Kernel;
        end.stop();
        let left = end.run("ip", &["-brief", "link", "show"]).unwrap();
        assert!(!left.contains(&link) && left.contains(WIRE), "{left}");
    }
}
