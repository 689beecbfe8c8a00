//! Machines: the test bed for what needs a kernel of its own.
//!
//! A network namespace has the kernel of its host, and a host may lack WireGuard, VLAN, bonds or
//! netem. [`run_tests`] boots Debian's kernel in an emulated machine (QEMU) with an initramfs
//! made on the spot: the kernel's modules, a few programs of this machine with their libraries,
//! the integration tests of [`TESTS`], and this very program as process 1 ([`init`]). The machine
//! runs each test in a process of its own, tells the results over a serial line and ends.
//!
//! ```text
//!  kernel ─┐
//!  executables ─┤→ image (cpio) → qemu ── console.log   what the kernel says
//!  programs ─┘                        └── results.log   wire::Event, one per line → report
//! ```
//!
//! A kernel that was started without IPv6 is another one: the tests of [`WITHOUT_IPV6`] run on it, in
//! a second machine after the first.
//!
//! It needs no rights: what is root in the machine is nobody here. Only software emulation is
//! asked for, since hardware's is absent or broken inside many hosts; so it is slow (a boot
//! takes some seconds, a test several times what it takes here), and there should be few tests.
//!
//! How it fails: without QEMU or a kernel the error says so and counts as skipped
//! ([`MachineError::skips`]); a machine that dies or takes too long gives a [`Report`] that is cut
//! short, with the test that was running as failed. QEMU ends with this process however it ends.
//!
//! Left out: firmware, disks, TPM, machines that talk to each other.

mod cpio;
mod error;
mod executables;
mod image;
mod init;
mod kernel;
mod qemu;
mod report;
mod wire;

pub use error::MachineError;
pub use init::{NotInMachine, init};
pub use report::{Outcome, Report, TestResult};

use crate::packages;
use error::io_at;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The integration tests that run in the machine: of whole packages, or `package::file`. Those of
/// load and of floods are not among them: an emulated processor is fifty times as slow.
pub const TESTS: &[&str] = &[
    "netd",
    "regional-edge::namespaces",
    "regional-edge::whole",
    "tunnels::bird",
    "tunnels::tunneld",
    "tunnels::wireguard",
];

/// Those of them that are about a kernel without IPv6: a second machine is booted for them, and they
/// run nowhere else.
pub const WITHOUT_IPV6: &[&str] = &[
    "regional-edge::namespaces::a_kernel_without_ipv6_serves_nodes",
    "tunnels::tunneld::a_kernel_without_ipv6_holds_tunnels",
];

/// What a kernel is told to be one of these (Documentation/admin-guide/kernel-parameters.rst).
const NO_IPV6: &str = "ipv6.disable=1";

/// How long a machine may take, unless told otherwise.
pub const LIMIT: Duration = Duration::from_secs(2400);

/// How long one test may take.
const LIMIT_EACH: Duration = Duration::from_secs(600);

/// How long the kernel may take to start this program; it takes about 10 s on an idle machine.
const LIMIT_BOOT: Duration = Duration::from_secs(600);

/// How much longer than the machine's own limit it may live, for boot and end.
const GRACE: Duration = Duration::from_secs(30);

/// What to run and how long at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Only tests with this in their name (`netd::kernel::links…`).
    pub filter: Option<String>,
    /// How long the machine may take.
    pub limit: Duration,
}

impl Options {
    fn is_for(&self, test: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| test.contains(filter))
    }
}

impl Default for Options {
    fn default() -> Self {
        Options { filter: None, limit: LIMIT }
    }
}

/// Boots a machine and runs the tests of [`TESTS`] in it. `say` is told of progress in lines.
///
/// Only one runs per user at a time; another waits. The logs of the last run are kept in
/// `holdfast-lab/machine/run` in the user's cache folder.
///
/// # Errors
/// No machine could be had, or nothing to run in it. Failed tests are no error but in the report.
pub fn run_tests(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Report, MachineError> {
    if !cfg!(target_arch = "x86_64") {
        return Err(MachineError::Architecture { architecture: std::env::consts::ARCH });
    }
    let cache = cache()?;
    let run = cache.join("run");
    std::fs::create_dir_all(&run).map_err(io_at("make the folder", &run))?;
    let qemu = qemu::find(say)?;
    let kernel = kernel::obtain(&cache, say)?;
    let _alone = lock(&run, say)?;

    say(&format!("building the tests of {}", TESTS.join(", ")));
    let built = executables::build(TESTS)?;
    let job = wire::Job {
        filter: options.filter.clone(),
        without_ipv6: WITHOUT_IPV6.iter().map(ToString::to_string).collect(),
        limit_secs: options.limit.as_secs(),
        limit_each_secs: LIMIT_EACH.as_secs(),
        executables: built.tests.clone(),
    };
    let began = Instant::now();
    let image = run.join("initramfs.cpio");
    let bytes = image::assemble(&image, &run.join("stripped"), &kernel, &built, &job, say)?;
    say(&format!(
        "booting kernel {} with {} MiB of files and {} test programs",
        kernel.version,
        bytes >> 20,
        built.tests.len()
    ));
    let boot = |without: &[&str], logs: &Path, say: &mut dyn FnMut(&str)| {
        let mut machine = qemu::Machine::start(&qemu, &kernel.image, &image, without, logs)?;
        follow(&mut machine, options.limit + GRACE, say)
    };
    let mut report = boot(&[], &run, say)?;
    let wanted: Vec<&str> =
        WITHOUT_IPV6.iter().copied().filter(|test| options.is_for(test)).collect();
    if report.cut_short.is_none() && !wanted.is_empty() {
        say("booting it without IPv6");
        let logs = run.join("without-ipv6");
        std::fs::create_dir_all(&logs).map_err(io_at("make the folder", &logs))?;
        match boot(&[NO_IPV6], &logs, say) {
            Ok(other) => report.join(other, &wanted),
            Err(error) => report.cut_short = Some(holdfast_api::chain(&error)),
        }
    }
    // It is large and made anew each time; the logs stay.
    let _ = std::fs::remove_file(&image);
    let _ = std::fs::remove_dir_all(run.join("stripped"));
    tracing::info!(seconds = began.elapsed().as_secs_f64(), "machine ended");
    Ok(report)
}

/// Reads the results while the machine runs.
fn follow(
    machine: &mut qemu::Machine,
    limit: Duration,
    say: &mut dyn FnMut(&str),
) -> Result<Report, MachineError> {
    const LOOK_EVERY: Duration = Duration::from_millis(100);
    let began = Instant::now();
    let mut collector = report::Collector::default();
    loop {
        // Asked first, so that what it wrote before its end is read after.
        let ended = machine.ended()?;
        for line in machine.new_lines()? {
            if let Some(progress) = collector.on(&line) {
                say(&progress);
            }
        }
        if collector.finished() {
            return Ok(collector.report(None));
        }
        let why = if let Some(status) = ended {
            format!("the machine ended ({status}); {}", machine.last_words())
        } else if began.elapsed() >= limit {
            format!("it took more than {} s; {}", limit.as_secs(), machine.last_words())
        } else if !collector.booted() && began.elapsed() >= LIMIT_BOOT {
            let seconds = LIMIT_BOOT.as_secs();
            format!("the kernel was not up after {seconds} s; {}", machine.last_words())
        } else {
            std::thread::sleep(LOOK_EVERY);
            continue;
        };
        return Ok(collector.report(Some(why)));
    }
}

/// Where kernels and logs are kept.
fn cache() -> Result<PathBuf, MachineError> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".cache")))
        .map(|dir| dir.join("holdfast-lab/machine"))
        .ok_or(MachineError::NoCache)
}

fn lock(run: &Path, say: &mut dyn FnMut(&str)) -> Result<Flock<File>, MachineError> {
    let path = run.join("lock");
    let open = || File::create(&path).map_err(io_at("open the lock", &path));
    Flock::lock(open()?, FlockArg::LockExclusiveNonblock).or_else(|(file, _)| {
        say("waiting for another machine to end");
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| io_at("lock", &path)(errno.into()))
    })
}

/// A program of this machine; needed for a machine to be made.
fn need(program: &'static str, package: &'static str) -> Result<PathBuf, MachineError> {
    packages::find(program).ok_or(MachineError::NoProgram { program, package })
}
