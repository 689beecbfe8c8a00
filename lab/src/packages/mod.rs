//! What of the distribution the laboratory needs, what for, and how to get it.
//!
//! Whether something is there is told by its program, not by the package database: a program
//! installed by hand is as good. What is missing is installed with apt-get where that is
//! possible; where it is not, the message says what to do instead. A new need is one more line
//! of [`NEEDS`].

mod apt;
mod cargo_tools;
mod nightly;

pub use apt::{AptError, install};
pub(crate) use cargo_tools::cargo;
pub use cargo_tools::{CARGO_DENY_VERSION, ToolError, ensure_cargo_deny, has_nextest};
pub use nightly::{NoMiri, NoNightly, ensure_cargo_fuzz, has_miri, nightly_cargo};

use std::path::{Path, PathBuf};

/// What something is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// `lab up`.
    World,
    /// `lab test`.
    Tests,
    /// `lab kubectl`.
    Kubectl,
}

/// Whether a purpose can be served without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// It cannot.
    Required,
    /// It can, with less comfort or less coverage.
    Useful,
}

/// A program that is needed for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The program by which it is recognised.
    pub program: &'static str,
    /// Debian's package that has it.
    pub package: &'static str,
    /// What for, for people.
    pub why: &'static str,
    /// Which commands need it, and how much.
    pub purposes: &'static [(Purpose, Weight)],
}

/// Everything that the laboratory may need of the distribution.
pub const NEEDS: &[Need] = &[
    Need {
        program: "ip",
        package: "iproute2",
        why: "sets up the hosts of a world",
        purposes: &[(Purpose::World, Weight::Required), (Purpose::Tests, Weight::Required)],
    },
    Need {
        program: "setsid",
        package: "util-linux",
        why: "starts daemons that outlive the command",
        purposes: &[(Purpose::World, Weight::Required), (Purpose::Tests, Weight::Required)],
    },
    Need {
        program: "ping",
        package: "iputils-ping",
        why: "sends traffic through the tunnels",
        purposes: &[(Purpose::World, Weight::Useful), (Purpose::Tests, Weight::Required)],
    },
    Need {
        program: "wg",
        package: "wireguard-tools",
        why: "shows the tunnels as WireGuard sees them",
        purposes: &[(Purpose::World, Weight::Useful), (Purpose::Tests, Weight::Required)],
    },
    Need {
        program: "wireguard-go",
        package: "wireguard-go",
        why: "is the other end of our WireGuard in userspace",
        purposes: &[(Purpose::Tests, Weight::Useful)],
    },
    Need {
        program: "sysctl",
        package: "procps",
        why: "compares kernel settings",
        purposes: &[(Purpose::Tests, Weight::Useful)],
    },
    Need {
        program: "sshd",
        package: "openssh-server",
        why: "checks SSH authorities against a real server (the package also starts it on this machine)",
        purposes: &[(Purpose::Tests, Weight::Required)],
    },
    Need {
        program: "ssh-keygen",
        package: "openssh-client",
        why: "signs SSH certificates",
        purposes: &[(Purpose::Tests, Weight::Required)],
    },
    Need {
        program: "dnsmasq",
        package: "dnsmasq-base",
        why: "is the DHCP server of the tests",
        purposes: &[(Purpose::Tests, Weight::Required)],
    },
    Need {
        program: "nft",
        package: "nftables",
        why: "is the firewall that refuses a tunnel's datagrams",
        purposes: &[(Purpose::Tests, Weight::Useful)],
    },
    Need {
        program: "iperf3",
        package: "iperf3",
        why: "measures the throughput of tunnels",
        purposes: &[(Purpose::Tests, Weight::Useful)],
    },
    Need {
        program: "tcpdump",
        package: "tcpdump",
        why: "looks at packets",
        purposes: &[(Purpose::World, Weight::Useful)],
    },
    Need {
        program: "depmod",
        package: "kmod",
        why: "makes the index of the modules of the tests' own kernel",
        purposes: &[(Purpose::Tests, Weight::Useful)],
    },
    Need {
        program: "cpio",
        package: "cpio",
        why: "reads the archives that the laboratory writes for that kernel",
        purposes: &[(Purpose::Tests, Weight::Useful)],
    },
    Need {
        program: "age",
        package: "age",
        why: "encrypts snapshots of Kubernetes' datastore to a site's recovery key",
        purposes: &[(Purpose::World, Weight::Useful), (Purpose::Tests, Weight::Required)],
    },
    Need {
        program: "kubectl",
        package: "kubernetes-client",
        why: "talks to the controller as an operator does",
        purposes: &[
            (Purpose::Kubectl, Weight::Required),
            (Purpose::World, Weight::Useful),
            (Purpose::Tests, Weight::Useful),
        ],
    },
];

/// Where programs of administrators are, beside `PATH`.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Where a program is, on `PATH` or among those of administrators.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(SBIN.iter().map(PathBuf::from));
    find_in(program, dirs)
}

fn find_in(program: &str, mut dirs: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let executable = |path: &Path| {
        std::fs::metadata(path)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    dirs.find_map(|dir| Some(dir.join(program)).filter(|path| executable(path)))
}

/// What `purpose` needs and `there` does not know, with its weight.
pub fn missing(purpose: Purpose, there: impl Fn(&str) -> bool) -> Vec<(&'static Need, Weight)> {
    let weigh = |need: &'static Need| {
        let weight = need.purposes.iter().find(|(p, _)| *p == purpose)?.1;
        Some((need, weight))
    };
    NEEDS.iter().filter_map(weigh).filter(|(need, _)| !there(need.program)).collect()
}

/// What came of [`ensure`].
#[derive(Debug, Default)]
pub struct Ensured {
    /// Packages that were installed.
    pub installed: Vec<&'static str>,
    /// What is useful and could not be had, with the reason.
    pub without: Vec<(&'static Need, String)>,
}

/// Something that is required is missing.
#[derive(Debug, thiserror::Error)]
#[error(
    "{program} is missing; it {why}. Install Debian's package {package} (`apt-get install {package}`)"
)]
pub struct MissingError {
    /// The program.
    pub program: &'static str,
    /// What for.
    pub why: &'static str,
    /// Debian's package.
    pub package: &'static str,
    /// Why it could not be installed.
    #[source]
    pub source: AptError,
}

/// Sees to it that everything for `purpose` is there, installing what is missing. `say` is told
/// what is installed and why, before it is.
///
/// # Errors
/// Something required is missing and could not be installed.
pub fn ensure(purpose: Purpose, say: &mut dyn FnMut(&str)) -> Result<Ensured, MissingError> {
    let there = |program: &str| find(program).is_some();
    let wanted = missing(purpose, there);
    let mut ensured = Ensured::default();
    if wanted.is_empty() {
        return Ok(ensured);
    }
    for (need, _) in &wanted {
        say(&format!("installing {}: {} {}", need.package, need.program, need.why));
    }
    let packages: Vec<&str> = wanted.iter().map(|(need, _)| need.package).collect();
    let together = install(&packages, say);
    for (need, weight) in wanted {
        if there(need.program) {
            ensured.installed.push(need.package);
            continue;
        }
        // One package that is not known must not keep the others out.
        let alone = match &together {
            Err(AptError::Unknown(_)) => install(&[need.package], say),
            result => result.clone(),
        };
        match (alone, weight) {
            (Ok(()), _) if there(need.program) => ensured.installed.push(need.package),
            (Ok(()), Weight::Useful) => {
                ensured
                    .without
                    .push((need, format!("package {} does not have it here", need.package)));
            }
            (Err(error), Weight::Useful) => ensured.without.push((need, error.to_string())),
            (result, Weight::Required) => {
                let source = result.err().unwrap_or(AptError::Elsewhere(need.program));
                return Err(MissingError {
                    program: need.program,
                    why: need.why,
                    package: need.package,
                    source,
                });
            }
        }
    }
    Ok(ensured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_and_wanted_is_listed() {
        let world = missing(Purpose::World, |program| program != "ip" && program != "sshd");
        assert_eq!(world.iter().map(|(need, _)| need.package).collect::<Vec<_>>(), ["iproute2"]);
        let tests = missing(Purpose::Tests, |program| program != "sshd");
        assert!(
            matches!(&tests[..], [(need, Weight::Required)] if need.package == "openssh-server")
        );
        assert!(missing(Purpose::Tests, |_| true).is_empty());
    }

    #[test]
    fn programs_are_found_by_being_executable() {
        let dir = tempfile::tempdir().unwrap();
        holdfast_durable::write(&dir.path().join("plain"), b"", 0o644).unwrap();
        holdfast_durable::write(&dir.path().join("tool"), b"", 0o755).unwrap();
        let dirs = || [dir.path().to_path_buf()].into_iter();
        assert_eq!(find_in("plain", dirs()), None);
        assert_eq!(find_in("tool", dirs()), Some(dir.path().join("tool")));
    }

    #[test]
    fn every_need_is_listed_once_and_explained() {
        for (index, need) in NEEDS.iter().enumerate() {
            assert!(!need.why.is_empty() && !need.purposes.is_empty());
            assert!(NEEDS[index + 1..].iter().all(|other| other.program != need.program));
        }
    }
}
