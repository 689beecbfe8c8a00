//! What a bench that was killed left behind: its namespaces and sockets, which carry its process'
//! number. Those of a bench that runs stay.

use lab::netns;
use std::path::Path;

const NAMESPACES: &str = "bench-";
const SOCKETS: &str = "/var/run/wireguard";

/// Removes it, as far as it can: who has not the rights fails where it makes its own.
pub(crate) fn remove() {
    let is_there = |pid: u32| Path::new(&format!("/proc/{pid}")).exists();
    for name in netns::with_prefix(NAMESPACES) {
        if pid_of_namespace(&name).is_some_and(|pid| !is_there(pid)) {
            let _ = netns::ip(&["netns", "delete", &name]);
        }
    }
    for entry in std::fs::read_dir(SOCKETS).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(pid_of_socket);
        if pid.is_some_and(|pid| !is_there(pid)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
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
        for other in ["hb1267.sock", "hb1267-2", "hbxyz-1.sock", "wg0.sock", "hb1267-me.sock"] {
            assert_eq!(pid_of_socket(other), None, "{other}");
        }
    }
}
