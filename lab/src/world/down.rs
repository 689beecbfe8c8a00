//! Taking a world down: everything that bears its name goes, whatever state it is in.
//!
//! Nothing of the world's description is needed. Processes are found by their records (and by
//! the world's namespaces, which nobody else uses), namespaces by their names, mounts by their place,
//! the pools by the machine's note, taken before the first world. Doing it twice is ordinary; what cannot be
//! removed is reported at the end, after everything else was.

use super::error::WorldError;
use super::home::Home;
use super::topology::netns_prefix;
use crate::pools::{PoolError, Record, RecordError};
use crate::process::{self, ProcessId};
use crate::{exec, netns};
use holdfast_lab_kubernetes::cgroups::Cgroup;
use netd::netns::{NetNs, NetNsError};
use nix::mount::{MntFlags, umount2};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long processes may take to end by themselves.
const GRACE: Duration = Duration::from_secs(2);

/// How long the kernel may take for what ended processes held.
const TEARDOWN: Duration = Duration::from_secs(30);

/// What was removed, and what could not be.
#[derive(Debug, Default)]
pub struct DownReport {
    /// Processes that were ended.
    pub processes: usize,
    /// Namespaces that were removed.
    pub namespaces: usize,
    /// Mounts that were removed.
    pub mounts: usize,
    /// Whether the state directory was there.
    pub state: bool,
    /// What is left, and why.
    pub problems: Vec<DownError>,
}

/// Something that could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum DownError {
    /// A process does not end.
    #[error("process {} does not end", .0.pid)]
    Process(ProcessId),
    /// A namespace.
    #[error("cannot remove a host")]
    Namespace(#[source] NetNsError),
    /// A mount.
    #[error("cannot unmount {}", path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// A file or directory.
    #[error("cannot remove {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// A huge page pool.
    #[error("cannot put a huge page pool back")]
    Pool(#[source] PoolError),
    /// The note of the pools.
    #[error("cannot put the huge page pools back")]
    Pools(#[source] RecordError),
}

/// Takes the world down. Where a thread of this process emulates the links, the [`World`](super::World)
/// has to be dropped as well: its devices keep the hosts alive, nameless, until then.
///
/// # Errors
/// [`WorldError::Busy`] when another command works on the world; what could not be removed is
/// in the report instead.
pub fn down(home: &Home) -> Result<DownReport, WorldError> {
    let mut report = DownReport { state: home.exists(), ..DownReport::default() };
    let _lock = if report.state { Some(home.lock()?) } else { None };
    end_processes(home, &mut report);
    remove_namespaces(home, &mut report);
    remove_cgroups(home, &mut report);
    if unmount(&home.dir(), &mut report) {
        remove_dir(&home.dir(), &mut report);
    }
    put_pools_back(home, &mut report);
    if home.siblings().is_empty() {
        // Not empty when somebody else keeps something there.
        let _ = std::fs::remove_dir(home.base());
    }
    Ok(report)
}

fn end_processes(home: &Home, report: &mut DownReport) {
    // From here on no record can be written, and a daemon that cannot write its record does
    // not start: one whose start was under way is either recorded now or never runs.
    let records = home.dir().join("records.ending");
    match std::fs::rename(home.records_dir(), &records) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            report.problems.push(DownError::File { path: home.records_dir(), source: error });
        }
        _ => {}
    }
    let entries = std::fs::read_dir(&records).into_iter().flatten().flatten();
    let recorded: Vec<ProcessId> =
        entries.filter_map(|entry| exec::recorded(&entry.path())).collect();
    let hosts = netns::with_prefix(&netns_prefix(home.world()));
    // Twice: a daemon may have started another one while it was being ended.
    for _ in 0..2 {
        let inside = hosts.iter().flat_map(|host| process::inside(&netns::path(host)));
        let mut all: Vec<ProcessId> =
            recorded.iter().copied().chain(inside).filter(|p| p.alive()).collect();
        all.sort();
        all.dedup();
        report.processes += all.len();
        let left = process::end(&all, GRACE);
        report.processes -= left.len();
        report.problems.extend(left.into_iter().map(DownError::Process));
    }
}

fn remove_namespaces(home: &Home, report: &mut DownReport) {
    for host in netns::with_prefix(&netns_prefix(home.world())) {
        match NetNs::open(&host).and_then(NetNs::delete) {
            Ok(()) => report.namespaces += 1,
            Err(error) => report.problems.push(DownError::Namespace(error)),
        }
    }
}

/// Those of the nodes' Kubernetes, in which nothing lives any more.
fn remove_cgroups(home: &Home, report: &mut DownReport) {
    for cgroup in Cgroup::with_prefix(&netns_prefix(home.world())) {
        if let Err(source) = cgroup.remove(TEARDOWN) {
            report.problems.push(DownError::File { path: cgroup.root().into(), source });
        }
    }
}

/// Whether nothing is mounted below `dir` any more.
fn unmount(dir: &Path, report: &mut DownReport) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut clear = true;
    // Later lines are mounted over or below earlier ones.
    for place in mounts_below(&table, dir).into_iter().rev() {
        match umount2(&place, MntFlags::MNT_DETACH) {
            Ok(()) => report.mounts += 1,
            Err(errno) => {
                clear = false;
                report.problems.push(DownError::Mount { path: place, source: errno.into() });
            }
        }
    }
    clear
}

/// Mount points below `dir` in the order of the table (proc_pid_mountinfo(5), field 5).
fn mounts_below(table: &str, dir: &Path) -> Vec<PathBuf> {
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    let places = places.map(|place| PathBuf::from(place.replace("\\040", " ")));
    places.filter(|place| place.starts_with(dir) && place != dir).collect()
}

/// Removes a tree without following symbolic links, which in a node's root lead to `/sys`.
fn remove_dir(dir: &Path, report: &mut DownReport) {
    let deadline = Instant::now() + TEARDOWN;
    loop {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            // What containers had mounted goes a moment after the last of their processes.
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(source) => {
                report.problems.push(DownError::File { path: dir.into(), source });
                return;
            }
            Ok(()) => return,
        }
    }
}

fn put_pools_back(home: &Home, report: &mut DownReport) {
    match Record::of_machine().forget(&home.dir()) {
        Ok(problems) => report.problems.extend(problems.into_iter().map(DownError::Pool)),
        Err(error) => report.problems.push(DownError::Pools(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_below_the_directory_are_found() {
        let table = "\
21 1 0:19 / /run rw - tmpfs none rw
40 21 0:40 / /run/lab/w1/roots/node-1/dev/huge rw - hugetlbfs none rw
41 21 0:41 / /run/lab/w1/with\\040space rw - tmpfs none rw
42 21 0:42 / /run/lab/w10 rw - tmpfs none rw
";
        let found = mounts_below(table, Path::new("/run/lab/w1"));
        assert_eq!(
            found,
            [Path::new("/run/lab/w1/roots/node-1/dev/huge"), Path::new("/run/lab/w1/with space")]
        );
    }

    #[test]
    fn where_there_is_no_world_nothing_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path().join("base"), "w1".parse().unwrap());
        let report = down(&home).unwrap();
        assert!(!report.state && report.problems.is_empty());
    }

    #[test]
    fn links_in_a_root_are_removed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        holdfast_durable::write(&outside.join("kept"), b"x", 0o644).unwrap();
        let home = Home::new(dir.path().join("base"), "w1".parse().unwrap());
        std::fs::create_dir_all(home.dir()).unwrap();
        std::os::unix::fs::symlink(&outside, home.dir().join("sys")).unwrap();
        let report = down(&home).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert!(!home.exists() && outside.join("kept").exists());
    }
}
