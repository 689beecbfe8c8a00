//! `lab doctor`: what this machine can and cannot do.

use super::{Global, Output, print_json, table};
use lab::netns;
use lab::packages::{self, NEEDS, Weight};
use netd::netns::NetNs;
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;

/// One ability of the machine.
#[derive(Debug, Serialize)]
struct Check {
    what: String,
    ok: bool,
    /// Without it no world comes up.
    required: bool,
    consequence: &'static str,
}

pub(super) fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let checks: Vec<Check> =
        rights().into_iter().chain(kernel()).chain(programs()).chain([built()]).collect();
    match global.output {
        Output::Json => print_json(&checks)?,
        Output::Text => {
            let row = |check: &Check| {
                let mark = match (check.ok, check.required) {
                    (true, _) => "yes",
                    (false, true) => "NO",
                    (false, false) => "no",
                };
                let note = if check.ok { "" } else { check.consequence };
                vec![check.what.clone(), mark.into(), note.into()]
            };
            say!(
                "{}",
                table::render(
                    &["WHAT", "THERE", "WITHOUT IT"],
                    &checks.iter().map(row).collect::<Vec<_>>()
                )
            );
        }
    }
    let able = checks.iter().all(|check| check.ok || !check.required);
    Ok(if able { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn rights() -> Vec<Check> {
    let root = nix::unistd::geteuid().is_root();
    let tun = Path::new("/dev/net/tun").exists();
    vec![
        Check {
            what: "root".into(),
            ok: root,
            required: true,
            consequence: "no world; tests that need it are skipped",
        },
        Check {
            what: "/dev/net/tun".into(),
            ok: tun,
            required: true,
            consequence: "no emulated links; try `modprobe tun`",
        },
    ]
}

/// Kinds of links, tried out in a namespace of their own.
fn kernel() -> Vec<Check> {
    let name = format!("hfld-{}", std::process::id());
    let namespace = NetNs::create(&name);
    let mut checks = vec![Check {
        what: "network namespaces".into(),
        ok: namespace.is_ok(),
        required: true,
        consequence: "no world; a container needs CAP_SYS_ADMIN and CAP_NET_ADMIN",
    }];
    // The kernel takes a blackhole nexthop only while the loopback link is up.
    let _ = netns::ip(&["-n", &name, "link", "set", "lo", "up"]);
    let try_out = |line: &str| {
        let arguments: Vec<&str> =
            ["-n", name.as_str()].into_iter().chain(line.split(' ')).collect();
        namespace.is_ok() && netns::ip(&arguments).is_ok()
    };
    for (what, line, required, consequence) in [
        ("bridges", "link add t0 type bridge", true, "no backbone between the edges"),
        ("veth pairs", "link add t1 type veth peer name t2", false, "tests of links are skipped"),
        (
            "nexthop objects",
            "nexthop add id 1 blackhole",
            true,
            "no failover by nexthop groups; Linux 5.3 has them",
        ),
        (
            "kernel WireGuard",
            "link add t3 type wireguard",
            false,
            "tunnels are made in userspace, which is what the world then tests",
        ),
    ] {
        checks.push(Check { what: what.into(), ok: try_out(line), required, consequence });
    }
    for (what, path) in [
        ("huge pages of 2 MiB", "/sys/kernel/mm/hugepages/hugepages-2048kB"),
        ("huge pages of 1 GiB", "/sys/kernel/mm/hugepages/hugepages-1048576kB"),
    ] {
        let consequence = "nodes report that the kernel has none of this size";
        checks.push(Check {
            what: what.into(),
            ok: Path::new(path).exists(),
            required: false,
            consequence,
        });
    }
    checks
}

/// What is made once and kept.
fn built() -> Check {
    Check {
        what: "Kubernetes, built".into(),
        ok: super::kubernetes::found().is_some(),
        required: false,
        consequence: "the first `up` or `test` builds it, in minutes, from Debian's packages",
    }
}

fn programs() -> Vec<Check> {
    let check = |need: &packages::Need| Check {
        what: format!("{} ({})", need.program, need.package),
        ok: packages::find(need.program).is_some(),
        required: false,
        consequence: match need.purposes.iter().any(|(_, weight)| *weight == Weight::Required) {
            true => "is installed when it is needed",
            false => "is installed when it can be had; works without",
        },
    };
    NEEDS.iter().map(check).collect()
}
