//! `lab-k3s`: Kubernetes for tests, behind k3s' command line.

use anyhow::{Context, bail};
use clap::Parser;
use holdfast_lab_kubernetes::cache::{Built, Cache};
use holdfast_lab_kubernetes::config::{self, Role, Settings};
use holdfast_lab_kubernetes::places::Places;
use holdfast_lab_kubernetes::server::{inner, outer};
use holdfast_lab_kubernetes::{build, isolate, recipe, snapshot};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

const USAGE: &str = "\
lab-k3s: Kubernetes for tests, behind k3s' command line

as k3s:
  server [--OPTION VALUE]…            run a control plane and a node
  agent [--OPTION VALUE]…             run a node that joins
  kubectl …, ctr …, crictl …          the programs of these names
  etcd-snapshot save|ls|prune|delete  snapshots of the datastore
  --version

of the laboratory:
  build                               build Kubernetes, once; prints where it is
  where                               print where the build is or would be
  isolate --state DIR … -- COMMAND    run a command in namespaces of its own
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let result = words.split_first().map_or_else(
        || {
            eprint!("{USAGE}");
            Ok(ExitCode::from(2))
        },
        |(verb, rest)| run(verb, rest),
    );
    result.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}

fn run(verb: &str, rest: &[String]) -> anyhow::Result<ExitCode> {
    match (verb, rest) {
        ("server", _) => node(Role::Server, rest),
        ("agent", _) => node(Role::Both, rest),
        ("kubectl", _) => {
            let mut command = Command::new(found()?.program("hyperkube"));
            command.arg("kubectl").args(rest);
            if std::env::var_os("KUBECONFIG").is_none() {
                command.env("KUBECONFIG", Places::of_environment().kubeconfig());
            }
            Err(command.exec().into())
        }
        ("ctr", _) => {
            let built = found()?;
            let mut command = Command::new(built.usr().join("bin/ctr"));
            command.envs(built.environment()).args(rest);
            command.env("CONTAINERD_ADDRESS", Places::of_environment().runtime_socket());
            command.env("CONTAINERD_NAMESPACE", "k8s.io");
            Err(command.exec().into())
        }
        ("crictl", _) => {
            let mut command = Command::new(found()?.program("hyperkube"));
            command.arg("crictl").args(rest);
            if std::env::var_os("CONTAINER_RUNTIME_ENDPOINT").is_none() {
                let socket =
                    format!("unix://{}", Places::of_environment().runtime_socket().display());
                command.env("CONTAINER_RUNTIME_ENDPOINT", socket);
            }
            Err(command.exec().into())
        }
        ("etcd-snapshot", _) => snapshots(rest),
        ("build", []) => {
            let built = build::build(&Cache::of_user()?, &mut |progress| eprintln!("{progress}"))?;
            println!("{}", built.root().display());
            Ok(ExitCode::SUCCESS)
        }
        ("where", []) => {
            println!("{}", Cache::of_user()?.complete().display());
            Ok(ExitCode::SUCCESS)
        }
        ("isolate", _) => isolate::run(
            &Isolated::parse_from(std::iter::once(&"isolate".to_owned()).chain(rest)).wish,
        ),
        ("switch", []) => isolate::switch(),
        ("--version" | "-v", []) => {
            println!("k3s version {}+holdfast-lab ({})", recipe::KUBERNETES, recipe::key());
            Ok(ExitCode::SUCCESS)
        }
        (isolate::INSIDE, [state, command @ ..]) => isolate::inside(Path::new(state), command),
        (inner::INIT, [plan]) => inner::init(Path::new(plan)),
        (inner::NODE, [plan]) => inner::node(Path::new(plan)),
        ("--help" | "-h" | "help", _) => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprint!("{USAGE}");
            Ok(ExitCode::from(2))
        }
    }
}

/// `lab-k3s isolate`.
#[derive(Parser)]
struct Isolated {
    #[command(flatten)]
    wish: isolate::Isolate,
}

fn found() -> anyhow::Result<Built> {
    Built::of_environment()
        .or_else(|| Cache::of_user().ok()?.find())
        .context("Kubernetes is not built yet; `cargo run -p holdfast-lab-kubernetes -- build` does it, once")
}

fn settings(role: Role, arguments: &[String]) -> anyhow::Result<(Settings, Places)> {
    let places = Places::of_environment();
    let options = config::read(role, arguments, &places.config())?;
    let host = nix::unistd::gethostname()?.to_string_lossy().into_owned();
    Ok((Settings::of(role, options, &places, &host)?, places))
}

fn node(role: Role, arguments: &[String]) -> anyhow::Result<ExitCode> {
    let (settings, places) = settings(role, arguments)?;
    let built = found()?;
    if settings.reset {
        snapshot::reset(&settings, &places, &built)?;
        // k3s' words, which others look for.
        eprintln!(
            "Managed etcd cluster membership has been reset, restart without --cluster-reset flag now."
        );
        return Ok(ExitCode::SUCCESS);
    }
    snapshot::forget_reset(&settings)?;
    outer::run(&settings, &places, &built)
}

fn snapshots(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let Some((verb, rest)) = arguments.split_first() else {
        bail!("usage: etcd-snapshot save|ls|prune|delete");
    };
    // k3s takes these without their prefix here.
    let (names, rest): (Vec<String>, Vec<String>) = if verb == "delete" {
        rest.iter().cloned().partition(|word| !word.starts_with('-'))
    } else {
        (Vec::new(), rest.to_vec())
    };
    let rest: Vec<String> = rest
        .iter()
        .map(|word| {
            let long = [
                ("--name", "--etcd-snapshot-name"),
                ("--dir", "--etcd-snapshot-dir"),
                ("--snapshot-retention", "--etcd-snapshot-retention"),
            ];
            let found = long
                .iter()
                .find(|(short, _)| word == short || word.starts_with(&format!("{short}=")));
            found.map_or_else(|| word.clone(), |(short, long)| word.replacen(short, long, 1))
        })
        .collect();
    let (settings, _) = settings(Role::Server, &rest)?;
    match verb.as_str() {
        "save" => {
            let taken = snapshot::save(&settings, &found()?)?;
            eprintln!("Snapshot {} saved.", taken.name);
        }
        "ls" | "list" => {
            println!("Name\tLocation\tSize\tCreated");
            for one in snapshot::list(&settings)? {
                println!(
                    "{}\tfile://{}\t{}\t{}",
                    one.name,
                    one.path.display(),
                    one.size,
                    one.created
                );
            }
        }
        "prune" => {
            for one in snapshot::prune(&settings)? {
                eprintln!("Snapshot {} deleted.", one.name);
            }
        }
        "delete" => snapshot::delete(&settings, &names)?,
        other => bail!("unknown command etcd-snapshot {other}"),
    }
    Ok(ExitCode::SUCCESS)
}
