//! What a bench that was killed left behind: its worlds, its namespaces with what runs in them, its
//! sockets and files, all of which carry its process' number. Those of a bench that runs stay.

use lab::world::{Home, WorldError, WorldName, down};
use lab::{netns, process};
use std::path::Path;
use std::time::Duration;

const NAMESPACES: &str = "bench-";
const SOCKETS: &str = "/var/run/wireguard";
const FILES: &str = "bench-dataplane-";
const WORLDS: &str = "/run/holdfast-bench";
/// How long another thread may be in the midst of making a world.
const BUSY: Duration = Duration::from_secs(20);
/// What does not end by itself in this time is killed.
const GRACE: Duration = Duration::from_secs(1);

/// Removes it, as far as it can: who has not the rights fails where it makes its own.
pub(crate) fn remove() {
    remove_of(|pid| !Path::new(&format!("/proc/{pid}")).exists());
}

/// Removes what this process has made so far, for whoever is about to end in the middle of it.
pub(crate) fn remove_own() {
    remove_of(|pid| pid == std::process::id());
}

fn remove_of(is_left: impl Fn(u32) -> bool) {
    for name in home().siblings() {
        if pid_of_world(&name).is_some_and(&is_left) {
            take_down(&Home::new(WORLDS, name));
        }
    }
    for name in netns::with_prefix(NAMESPACES) {
        if pid_of_namespace(&name).is_some_and(&is_left) {
            // As long as one of them runs the namespace does not go, even without a name.
            let _ = process::end(&process::inside(&netns::path(&name)), GRACE);
            let _ = netns::ip(&["netns", "delete", &name]);
        }
    }
    for entry in std::fs::read_dir(SOCKETS).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().and_then(pid_of_socket).is_some_and(&is_left) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().and_then(pid_of_files).is_some_and(&is_left) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Takes a world down, and says what of it stays.
pub(crate) fn take_down(home: &Home) {
    let outcome = holdfast_poll::retry(BUSY, || match down(home) {
        Err(busy @ WorldError::Busy(_)) => Err(busy),
        outcome => Ok(outcome),
    });
    let problems = match outcome.and_then(|outcome| outcome) {
        Ok(report) => report.problems.iter().map(|one| holdfast_api::chain(one)).collect(),
        Err(error) => vec![holdfast_api::chain(&error)],
    };
    for problem in problems {
        eprintln!("the world {} is not removed whole: {problem}", home.world());
    }
}

/// Where the world of this process is: one at a time.
pub(crate) fn home() -> Home {
    let name = format!("b{}", std::process::id());
    // At most seven digits: PID_MAX_LIMIT of the kernel's include/linux/threads.h is 4 Mi.
    #[expect(clippy::expect_used, reason = "eight small letters and digits are a world's name")]
    Home::new(WORLDS, name.parse().expect("a name"))
}

/// Of `b<pid>`.
fn pid_of_world(name: &WorldName) -> Option<u32> {
    name.as_str().strip_prefix('b')?.parse().ok()
}

/// What the directory for files of this process is called.
pub(crate) fn files() -> String {
    format!("{FILES}{}", std::process::id())
}

/// Of `bench-dataplane-<pid>`.
fn pid_of_files(name: &str) -> Option<u32> {
    name.strip_prefix(FILES)?.parse().ok()
}

/// Of `bench-<pid>-<end>`.
fn pid_of_namespace(name: &str) -> Option<u32> {
    let (pid, end) = name.strip_prefix(NAMESPACES)?.split_once('-')?;
    (!end.is_empty()).then_some(pid)?.parse().ok()
}

/// Of `hb<pid in hex>-<end>.sock`.
fn pid_of_socket(name: &str) -> Option<u32> {
    let (pid, end) = name.strip_prefix("hb")?.strip_suffix(".sock")?.split_once('-')?;
    end.parse::<u8>().ok()?;
    u32::from_str_radix(pid, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_a_bench_have_its_process() {
        assert_eq!(pid_of_namespace("bench-4711-1"), Some(4711));
        assert_eq!(pid_of_namespace("bench-4711-try"), Some(4711));
        assert_eq!(pid_of_socket("hb1267-2.sock"), Some(4711));
        for other in ["bench-4711", "bench-4711-", "bench-x-1", "bench--1", "hf-1-1"] {
            assert_eq!(pid_of_namespace(other), None, "{other}");
        }
        assert_eq!(pid_of_files("bench-dataplane-4711"), Some(4711));
        for other in ["bench-dataplane", "bench-dataplane-", "bench-dataplane-47-1"] {
            assert_eq!(pid_of_files(other), None, "{other}");
        }
        assert_eq!(pid_of_world(home().world()), Some(std::process::id()));
        assert_eq!(pid_of_world(&"b4194304".parse().unwrap()), Some(4_194_304));
        for other in ["bench", "b", "main", "47"] {
            assert_eq!(pid_of_world(&other.parse().unwrap()), None, "{other}");
        }
        for other in ["hb1267.sock", "hb1267-2", "hbxyz-1.sock", "wg0.sock", "hb1267-me.sock"] {
            assert_eq!(pid_of_socket(other), None, "{other}");
        }
    }
}
