//! Which processes are in a node's namespaces, told without mistaking those of another one.
//!
//! The kernel gives the number of a namespace that has ended to the next one that is made
//! (`ns_alloc_inum` in `include/linux/proc_ns.h` takes the lowest that is free), so that a pod of
//! another node may wear the number of a dead node's. Holding a namespace open holds its number
//! (namespaces(7)), therefore the node's are held for as long as somebody asks after them.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;

const KINDS: [&str; 3] = ["pid", "net", "mnt"];

/// Namespaces of one process that are not the caller's own, held open.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    held: Vec<File>,
}

impl Namespaces {
    /// Those of a process; none of them when it has ended.
    pub(super) fn of(pid: u32) -> Self {
        let own = KINDS.map(|kind| id(&fs::metadata(path("self", kind))));
        let opened = KINDS.iter().filter_map(|kind| File::open(path(pid, kind)).ok());
        Self { held: opened.filter(|file| !own.contains(&id(&file.metadata()))).collect() }
    }

    /// The processes that are in any of them, each with the name of its program, as in
    /// `23001 (containerd)`.
    pub(super) fn processes(&self) -> Vec<String> {
        let held: Vec<_> = self.held.iter().map(|file| id(&file.metadata())).collect();
        let inside = |pid: u32| {
            let here = KINDS.iter().map(|kind| id(&fs::metadata(path(pid, kind))));
            here.filter(Option::is_some).any(|one| held.contains(&one))
        };
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| inside(*pid))
            .map(|pid| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                format!("{pid} ({})", name.trim_end())
            })
            .collect()
    }
}

fn path(pid: impl std::fmt::Display, kind: &str) -> String {
    format!("/proc/{pid}/ns/{kind}")
}

/// What two descriptors of the same namespace have in common (namespaces(7)).
fn id(metadata: &std::io::Result<Metadata>) -> Option<(u64, u64)> {
    metadata.as_ref().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::Namespaces;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    /// A process in a network and a view of mounts of its own.
    fn apart() -> Child {
        let mut child = Command::new("unshare")
            .args(["--net", "--mount", "cat"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let comm = format!("/proc/{}/comm", child.id());
        let started =
            holdfast_poll::retry(Duration::from_secs(20), || match child.try_wait().unwrap() {
                None if std::fs::read_to_string(&comm).unwrap_or_default() == "cat\n" => Ok(()),
                status => Err(format!("{status:?}")),
            });
        started.unwrap();
        child
    }

    #[test]
    fn a_number_given_to_another_one_is_not_taken_for_the_dead_ones() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: making namespaces needs root");
            return;
        }
        let mut first = apart();
        let spaces = Namespaces::of(first.id());
        assert_eq!(spaces.processes(), [format!("{} (cat)", first.id())]);
        first.kill().unwrap();
        first.wait().unwrap();
        let others: Vec<Child> = (0..4).map(|_| apart()).collect();
        assert_eq!(spaces.processes(), [] as [String; 0]);
        for mut other in others {
            other.kill().unwrap();
            other.wait().unwrap();
        }
    }

    #[test]
    fn what_is_shared_with_the_caller_is_not_the_nodes() {
        let mut here = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert_eq!(Namespaces::of(here.id()).processes(), [] as [String; 0]);
        here.kill().unwrap();
        here.wait().unwrap();
        assert_eq!(Namespaces::of(here.id()).processes(), [] as [String; 0]);
    }
}
