//! Doors for the fuzzers in `fuzz/` and for the test that replays what they found: each takes any
//! bytes, and none may panic or break what it asserts.

use crate::{bfd, wireguard};

/// One door.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of its fuzzer and of the folder of its corpus.
    pub name: &'static str,
    /// Takes bytes.
    pub run: fn(&[u8]),
}

/// All doors.
pub const TARGETS: [Target; 8] = [
    Target { name: "datagrams", run: wireguard::fuzzing::datagrams },
    Target { name: "handshake", run: wireguard::fuzzing::handshake },
    Target { name: "cookie", run: wireguard::fuzzing::cookie },
    Target { name: "link", run: wireguard::fuzzing::link },
    Target { name: "join", run: wireguard::fuzzing::join },
    Target { name: "control", run: wireguard::fuzzing::control_messages },
    Target { name: "uapi", run: wireguard::fuzzing::uapi_requests },
    Target { name: "inside", run: bfd::fuzzing::inside },
];

/// Takes bytes through the door of this name; there is none of another.
///
/// # Panics
/// There is no such door, or the bytes broke something.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    assert!(target.is_some(), "no target {name}");
    target.into_iter().for_each(|target| (target.run)(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// What fuzzers found is tried again, and so is every beginning and every damaged byte of it.
    #[test]
    fn every_corpus_is_taken_without_harm() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        for target in TARGETS {
            let mut files = 0;
            for entry in std::fs::read_dir(corpora.join(target.name)).unwrap() {
                let bytes = std::fs::read(entry.unwrap().path()).unwrap();
                run(target.name, &bytes);
                for cut in (0..bytes.len()).step_by(bytes.len().div_ceil(16).max(1)) {
                    (target.run)(&bytes[..cut]);
                    let mut damaged = bytes.clone();
                    damaged[cut] ^= 0x41;
                    (target.run)(&damaged);
                }
                files += 1;
            }
            assert!(files > 0, "{} has no corpus", target.name);
        }
    }
}
