//! The subcommands, one file each: what was typed, what it means, what is printed.
//!
//! Exit codes: 0 done; 1 failed, with the reason on standard error (as JSON with `-o json`); 2 wrongly
//! typed; 130 interrupted. `exec`, `kubectl` and `test` hand on the code of what they ran, `exec` 127
//! for a program that is not there and 126 for one that cannot be run.

/// Prints a line for people or programs; a reader that went away (`| head`) is no failure.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod add_site;
mod breaking;
mod build;
mod doctor;
mod down;
mod fuzz;
mod inside;
mod kubernetes;
mod machine;
mod sanitize;
mod show;
mod skips;
mod table;
mod test;
mod up;
mod workers;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use lab::world::{Home, World, WorldName};
use std::path::PathBuf;
use std::process::ExitCode;

/// The laboratory: the whole of Holdfast on this machine, in namespaces joined by emulated links.
#[derive(Debug, Parser)]
#[command(name = "lab", bin_name = "cargo lab", version, propagate_version = true, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    global: Global,
    /// What to log, such as `info` or `lab=debug`.
    #[arg(
        long,
        global = true,
        env = "HOLDFAST_LOG",
        default_value = "warn",
        value_name = "FILTER"
    )]
    pub(crate) log: String,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  cargo lab up                    a controller, three edges, a node that goes online
  cargo lab status                what runs, which tunnels are up, what it costs
  cargo lab break active          cut the link of the edge that carries the traffic
  cargo lab heal                  mend everything
  cargo lab kubectl get sites     look at the fleet as an operator
  cargo lab shell node-1          look around inside a node
  cargo lab down                  remove everything

See docs/reference/lab.md.";

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Which world: one to eight lower-case letters and digits.
    #[arg(
        long,
        short = 'w',
        global = true,
        env = "HOLDFAST_WORLD",
        default_value = "default",
        value_name = "NAME"
    )]
    world: WorldName,
    /// Where worlds keep their state.
    #[arg(long, global = true, env = "HOLDFAST_LAB_DIR", default_value = lab::world::home::BASE, value_name = "DIR")]
    dir: PathBuf,
    /// How to print.
    #[arg(long, short = 'o', global = true, default_value = "text", value_name = "FORMAT")]
    output: Output,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring a world up: controller, edges, nodes; it stays up.
    Up(up::Up),
    /// Show stages, tunnels, links, and what the processes cost.
    Status,
    /// Break a link or a process.
    Break(breaking::Break),
    /// Mend what was broken; everything when nothing is named.
    Heal(breaking::Heal),
    /// Add a site with one node to a running world.
    AddSite(add_site::AddSite),
    /// Open a shell on a host.
    Shell(inside::Shell),
    /// Run a command on a host.
    Exec(inside::Exec),
    /// Show the logs of processes.
    Logs(inside::Logs),
    /// Run kubectl as an operator of the world.
    Kubectl(inside::Kubectl),
    /// Take the world down; nothing is left behind.
    Down(down::Down),
    /// Run everything that CI runs.
    Test(test::Test),
    /// Run the fuzzers of what comes from the network.
    Fuzz(fuzz::Fuzz),
    /// Run the data path's tests under AddressSanitizer.
    Sanitize(sanitize::Sanitize),
    /// Run tests on a kernel of their own, in an emulated machine.
    Machine(machine::Machine),
    /// Say what this machine can and cannot do.
    Doctor,
    /// Print a completion script for a shell.
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Emulate links; started by `up`.
    #[command(hide = true)]
    Emulate(workers::Emulate),
    /// Forward a port to a host; started by `up`.
    #[command(hide = true)]
    Forward(workers::Forward),
    /// Build Kubernetes; started by `test` and `up`.
    #[command(hide = true)]
    BuildKubernetes,
    /// Be process 1 of a test machine; started by its kernel.
    #[command(hide = true)]
    MachineInit,
}

/// Runs the command and says why when it fails.
pub(crate) fn run(arguments: Arguments) -> ExitCode {
    carry_out(&arguments.global, arguments.command).unwrap_or_else(|error| {
        complain(&arguments.global, &error);
        ExitCode::FAILURE
    })
}

/// Says why a command failed, on standard error: a line for people, an object for programs.
fn complain(global: &Global, error: &anyhow::Error) {
    let text = format!("{error:#}");
    match global.output {
        Output::Text => eprintln!("error: {text}"),
        Output::Json => eprintln!("{}", serde_json::json!({ "error": text })),
    }
}

fn carry_out(global: &Global, command: Command) -> anyhow::Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Up(up) => up.run(global).map(done),
        Command::Status => show::run(global).map(done),
        Command::Break(command) => command.run(global).map(done),
        Command::Heal(command) => command.run(global).map(done),
        Command::AddSite(command) => command.run(global).map(done),
        Command::Shell(command) => command.run(global),
        Command::Exec(command) => command.run(global),
        Command::Logs(command) => command.run(global),
        Command::Kubectl(command) => command.run(global),
        Command::Down(command) => command.run(global).map(done),
        Command::Test(command) => command.run(global),
        Command::Fuzz(command) => command.run(),
        Command::Sanitize(command) => command.run(),
        Command::Machine(command) => command.run(global),
        Command::Doctor => doctor::run(global),
        Command::Completion { shell } => {
            clap_complete::generate(
                shell,
                &mut Arguments::command(),
                "lab",
                &mut std::io::stdout(),
            );
            Ok(ExitCode::SUCCESS)
        }
        Command::Emulate(command) => command.run().map(done),
        Command::Forward(command) => command.run().map(done),
        Command::BuildKubernetes => kubernetes::build(),
        Command::MachineInit => match lab::machine::init()? {},
    }
}

impl Global {
    fn home(&self) -> Home {
        Home::new(&self.dir, self.world.clone())
    }

    fn open(&self) -> anyhow::Result<World> {
        Ok(World::open(&self.home())?)
    }
}

/// Prints a value as JSON.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    say!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Only root makes namespaces and devices.
fn need_root() -> anyhow::Result<()> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "the laboratory makes network namespaces and needs root; run it as root"
    );
    Ok(())
}

/// Where cargo builds, which is where it built us.
fn own_target_dir() -> anyhow::Result<PathBuf> {
    let program = own_program()?;
    let target = program.ancestors().nth(2).context("this program is in no target directory")?;
    Ok(target.to_owned())
}

/// The program that runs, to be started again for workers.
fn own_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find this program")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    fn read(line: &str) -> Result<Command, clap::Error> {
        Arguments::try_parse_from(line.split(' ')).map(|arguments| arguments.command)
    }

    #[test]
    fn what_follows_a_program_is_the_programs() {
        for line in [
            "lab kubectl get sites -o json",
            "lab kubectl -- get sites -o json",
            "lab -w w1 kubectl -n other get sites",
            "lab exec node-1 ls -l -w",
            "lab exec node-1 -- ls -l -w",
        ] {
            let given = match read(line) {
                Ok(Command::Kubectl(kubectl)) => kubectl.arguments,
                Ok(Command::Exec(exec)) => exec.command,
                other => panic!("{line}: {other:?}"),
            };
            let given: Vec<_> = given.iter().filter_map(|part| part.to_str()).collect();
            assert!(line.ends_with(&given.join(" ")) && given.len() >= 3, "{line}: {given:?}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused_before_anything_is_made() {
        for line in [
            "lab up --bfd-ms 0",
            "lab up --bfd-ms 10001",
            "lab up --nodes 100",
            "lab up --edges 500",
            "lab add-site --count 0",
            "lab add-site --count 500",
            "lab break re-1 --loss 2",
            "lab break re-1 --delay-ms 60001",
        ] {
            let error = read(line).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::ValueValidation, "{line}");
        }
        assert!(read("lab up --bfd-ms 10 --nodes 99 --edges 0").is_ok());
    }
}
