//! Fresh network namespaces for tests, and `ip` as the second opinion.
#![allow(dead_code, reason = "each test file uses its own part")]

use netd::netns::NetNs;
use netd::{Kernel, LinkName};
use serde_json::Value;
use std::hash::{BuildHasher, RandomState};
use std::process::Command;
use std::time::Duration;

/// A network namespace that vanishes with the test.
pub(crate) struct World {
    pub(crate) name: String,
    pub(crate) namespace: NetNs,
}

/// A fresh world, or `None` after saying why there is none.
pub(crate) fn world() -> Option<World> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return None;
    }
    if Command::new("ip").arg("-V").output().is_err() {
        eprintln!("skipped: the program ip (iproute2) is missing");
        return None;
    }
    let name = format!("hf-netd-{}-{:x}", std::process::id(), RandomState::new().hash_one(0) >> 40);
    match NetNs::create(&name) {
        Ok(namespace) => Some(World { name, namespace }),
        Err(error) => {
            eprintln!("skipped: {error}: {}", error.source);
            None
        }
    }
}

impl World {
    pub(crate) fn kernel(&self) -> Kernel {
        Kernel::open_in(self.namespace.path()).unwrap()
    }

    /// Runs `ip` in this world; it must succeed.
    pub(crate) fn ip(&self, args: &str) {
        let output = self.run(args);
        assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What `ip -j -d` says.
    pub(crate) fn ask(&self, args: &str) -> Vec<Value> {
        let output = self.run(&format!("-j -d {args}"));
        assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
        if output.stdout.trim_ascii().is_empty() {
            return Vec::new();
        }
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The link of this name as `ip` sees it.
    pub(crate) fn link(&self, name: &str) -> Option<Value> {
        self.ask("link").into_iter().find(|link| link["ifname"] == name)
    }

    fn run(&self, args: &str) -> std::process::Output {
        Command::new("ip").args(["-n", &self.name]).args(args.split_whitespace()).output().unwrap()
    }
}

pub(crate) fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

/// Asks until it is so.
#[track_caller]
pub(crate) fn eventually(what: &str, is_so: impl FnMut() -> bool) {
    holdfast_poll::holds(what, Duration::from_secs(60), is_so);
}
