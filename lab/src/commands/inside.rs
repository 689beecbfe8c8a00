//! `lab shell`, `lab exec`, `lab logs`, `lab kubectl`: looking around.

use super::{Global, need_root, up};
use anyhow::Context;
use clap::Args;
use lab::packages::{self, Purpose};
use lab::world::{Host, World};
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};

#[derive(Debug, Args)]
pub(super) struct Shell {
    /// Which host: node-1, re-1, controller, net, backbone.
    host: Host,
}

#[derive(Debug, Args)]
pub(super) struct Exec {
    /// Which host: node-1, re-1, controller, net, backbone.
    host: Host,
    /// The command. `holdfast` finds the manager of the node by itself.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(super) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct Logs {
    /// Whose: `controller`, `re-1`, `node-1.holdfastd`…; all when nothing is named.
    services: Vec<String>,
    /// Go on showing what is added.
    #[arg(long, short)]
    follow: bool,
    /// Lines of each log.
    #[arg(long, short = 'n', default_value_t = 20, value_name = "N")]
    lines: u32,
}

#[derive(Debug, Args)]
pub(super) struct Kubectl {
    /// Arguments of kubectl; the tenant's namespace is the default.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    pub(super) arguments: Vec<OsString>,
}

impl Shell {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let world = checked(global, self.host)?;
        let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
        eprintln!(
            "on {} of world {}; the root of its daemons is {}",
            self.host,
            global.world,
            world.home().root(self.host).display()
        );
        let mut command = Command::new(shell);
        command.env("PS1", format!("{}:\\w\\$ ", self.host));
        run_on(global, &world, self.host, &mut command)
    }
}

impl Exec {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let world = checked(global, self.host)?;
        let (program, arguments) = self.command.split_first().context("no command")?;
        run_on(global, &world, self.host, Command::new(program).args(arguments))
    }
}

impl Logs {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let world = global.open()?;
        let known: Vec<String> = world.home().services()?.into_keys().collect();
        if let Some(unknown) = self.services.iter().find(|service| !known.contains(service)) {
            anyhow::bail!("there is no log of {unknown}; there are {}", known.join(", "));
        }
        let wanted = if self.services.is_empty() { &known } else { &self.services };
        let mut tail = Command::new("tail");
        tail.arg("-n").arg(self.lines.to_string());
        if self.follow {
            tail.arg("-F");
        }
        tail.args(wanted.iter().map(|service| world.home().log(service)));
        Ok(code(tail.status().context("cannot run tail")?))
    }
}

impl Kubectl {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let world = global.open()?;
        up::install(Purpose::Kubectl)?;
        let program = packages::find("kubectl").context("there is no kubectl")?;
        let kubeconfig = world.home().dir().join("kubeconfig");
        anyhow::ensure!(
            kubeconfig.exists(),
            "world {} has no kubeconfig yet; is it up?",
            global.world
        );
        let status = Command::new(program)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--namespace", &world.spec().tenant])
            .args(&self.arguments)
            .status();
        Ok(code(status.context("cannot run kubectl")?))
    }
}

fn checked(global: &Global, host: Host) -> anyhow::Result<World> {
    need_root()?;
    let world = global.open()?;
    let hosts = world.topology().hosts;
    let names = || hosts.iter().map(Host::to_string).collect::<Vec<_>>().join(", ");
    anyhow::ensure!(
        hosts.contains(&host),
        "world {} has no {host}; it has {}",
        global.world,
        names()
    );
    Ok(world)
}

fn run_on(
    global: &Global,
    world: &World,
    host: Host,
    command: &mut Command,
) -> anyhow::Result<ExitCode> {
    let tools = lab::fleet::tools(world, host)?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([tools].into_iter().chain(std::env::split_paths(&path)))
        .unwrap_or(path);
    let root = world.home().root(host);
    command.env("PATH", path).env("HOLDFAST_ROOT", &root);
    match lab::exec::status(&world.netns(host), &root, command) {
        Ok(status) => Ok(code(status)),
        Err(error) => match error.exit_code() {
            Some(code) => {
                super::complain(global, &error.into());
                Ok(ExitCode::from(code))
            }
            None => Err(error.into()),
        },
    }
}

/// The code of a program that ended, as a shell hands it on.
fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
