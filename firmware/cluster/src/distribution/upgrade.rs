//! From one version of the distribution's program to another, and back when it does not come up.
//! Pure.
//!
//! ```text
//!  fetched ─▶ drained ─▶ switched, on trial ─▶ ready: committed ─▶ takes workloads again
//!                             └─ not ready in time, or ends again and again: switched back,
//!                                and never tried again
//! ```
//!
//! Each step is written down before it is carried out ([`Versions`]), so that a manager that dies
//! in between carries on. The version that was replaced is kept until the next one is good.
//! One that is not wanted any more while the node is being drained ends that, and the node takes
//! workloads again. A trial whose wish changed meanwhile is ended first, one way or the other.
//!
//! A restart of the version that runs, for another configuration or for new certificates, goes the
//! same way, for all nodes of a site are told of it at the same moment: it steps aside, restarts,
//! and serves again. What is not ready serves nobody and is restarted at once.

mod step;

pub use step::{Step, StepKind};

use holdfast_api::kubernetes::DistributionArtifact;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Versions that failed are remembered up to this number.
const REMEMBERED: usize = 10;

/// A version of the program, told apart by its content too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Its name, such as `v1.33.1+k3s1`.
    pub version: String,
    /// SHA-256 of the program, hex in lower case.
    pub sha256: String,
}

impl Version {
    /// That of an artifact.
    pub fn of(artifact: &DistributionArtifact) -> Self {
        Version { version: artifact.version.clone(), sha256: artifact.sha256.to_ascii_lowercase() }
    }

    /// Name of its folder.
    pub fn folder(&self) -> String {
        let digits = self.sha256.get(..12).unwrap_or(&self.sha256);
        format!("{}-{digits}", self.version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.version)
    }
}

/// Whether an agent of version `agent` would be of a newer minor version than its API server,
/// which Kubernetes does not support (<https://kubernetes.io/releases/version-skew-policy/>). Not
/// so of versions that say no numbers.
pub fn is_ahead(agent: &str, server: &str) -> bool {
    match (minor(agent), minor(server)) {
        (Some(agent), Some(server)) => agent > server,
        _ => false,
    }
}

/// Whether a server that runs `from` would skip a minor version on its way to `to`, which neither
/// Kubernetes nor k3s supports (the skew policy; docs.k3s.io, "Manual Upgrades"): what the version
/// between would have migrated stays as it is. Not so of versions that say no numbers.
pub fn skips(from: &str, to: &str) -> bool {
    match (minor(from), minor(to)) {
        (Some((major, from)), Some((to_major, to))) => {
            to_major > major || (to_major == major && to > from.saturating_add(1))
        }
        _ => false,
    }
}

/// 1 and 33 of `v1.33.1+k3s1`.
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim_start_matches('v').split('.').map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// A version that did not become ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failed {
    /// Which.
    pub version: Version,
    /// What it died of.
    pub message: String,
    /// Where it came from; empty when that is not known.
    #[serde(default)]
    pub url: String,
}

/// Whether the node serves workloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Service {
    /// As ever.
    #[default]
    In,
    /// They are being moved away for another version; how far that came is not known.
    Leaving,
    /// They were moved away.
    Out,
}

/// What is known of versions; kept on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Versions {
    /// The one to run; the machine's own program when there is none.
    pub current: Option<Version>,
    /// The one before.
    pub previous: Option<Version>,
    /// The current one was not ready yet.
    pub on_trial: bool,
    /// Whether the node serves workloads.
    pub service: Service,
    /// It does not for a restart, and not for another version.
    pub for_restart: bool,
    /// Where the current one came from.
    pub url: String,
    /// Versions that failed, newest last.
    pub failed: Vec<Failed>,
    /// The program that failed on another node of the site, as this one was told last.
    pub elsewhere: Option<DistributionArtifact>,
}

/// How things stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Situation {
    /// The wanted program is here and verified.
    pub fetched: bool,
    /// The distribution was ready a moment ago, so that there are workloads to move.
    pub ready: bool,
    /// It runs, is not ready, and may be in a moment: it starts, was only just found running, or
    /// does not answer for a while.
    pub settling: bool,
    /// There is something to switch back to.
    pub fallback: bool,
    /// How long the current version has been on trial, under this manager.
    pub on_trial_for: Duration,
    /// How long it may be.
    pub window: Duration,
    /// It ended as often as nothing does that comes up in the end.
    pub hopeless: bool,
    /// What runs has to be restarted: it was started with something else, or its certificates end.
    pub restart: bool,
    /// The last attempt at another version could not begin, and may not for long.
    pub held: bool,
    /// The wanted version failed on another node of the site. A node that is not ready has nothing
    /// to move away, and would begin it without asking again.
    pub elsewhere: bool,
}

/// The next step; none when there is nothing to do, or something to wait for.
pub fn plan(want: Option<&Version>, have: &Versions, now: &Situation) -> Option<Step> {
    if have.on_trial {
        return if now.ready {
            Some(Step::Commit)
        } else if (now.hopeless || now.on_trial_for >= now.window) && now.fallback {
            Some(Step::SwitchBack)
        } else {
            None
        };
    }
    let next = want.filter(|want| have.current.as_ref() != Some(want) && !have.has_failed(want));
    let is_aside = have.for_restart && have.service != Service::In;
    if now.restart {
        // Another version restarts it as well, after a drain of its own; if it can be had.
        let is_replaced = next.is_some() && now.fetched && !now.held;
        if !now.ready || (have.service == Service::Out && (is_aside || !is_replaced)) {
            return Some(Step::Restart);
        }
        if !is_replaced {
            return Some(Step::StepAside);
        }
    } else if is_aside && now.ready {
        return Some(Step::Uncordon);
    }
    match next {
        None => (have.service != Service::In && now.ready).then_some(Step::Uncordon),
        Some(want) if !now.fetched => Some(Step::Fetch(want.clone())),
        // Whoever stepped aside for a restart has not kept its datastore.
        Some(want) if now.ready && (have.service != Service::Out || is_aside) => {
            Some(Step::Drain(want.clone()))
        }
        Some(_) if now.settling || now.elsewhere => None,
        Some(want) => Some(Step::Switch(want.clone())),
    }
}

impl Versions {
    /// Whether this version was tried and failed.
    pub fn has_failed(&self, version: &Version) -> bool {
        self.failed.iter().any(|failed| failed.version == *version)
    }

    /// What a failed version died of.
    pub fn failure(&self, version: &Version) -> Option<&Failed> {
        self.failed.iter().find(|failed| failed.version == *version)
    }

    /// A version that failed is tried again when it is to come from another address: somebody
    /// asks for it anew. True when there was one.
    pub fn forgive(&mut self, artifact: &DistributionArtifact) -> bool {
        let version = Version::of(artifact);
        let before = self.failed.len();
        self.failed.retain(|failed| {
            failed.version != version || failed.url.is_empty() || failed.url == artifact.url
        });
        self.failed.len() < before
    }

    /// After [`Step::Switch`]. The first program of a machine is not on trial: there is nothing
    /// to go back to.
    pub fn switched(&mut self, to: Version, url: String, fallback: bool) {
        self.previous = self.current.replace(to);
        self.url = url;
        self.on_trial = fallback;
    }

    /// After [`Step::Commit`].
    pub fn committed(&mut self) {
        self.on_trial = false;
    }

    /// After [`Step::SwitchBack`].
    pub fn switched_back(&mut self, message: String) {
        if let Some(version) = self.current.take() {
            self.failed.push(Failed { version, message, url: std::mem::take(&mut self.url) });
        }
        let surplus = self.failed.len().saturating_sub(REMEMBERED);
        self.failed.drain(..surplus);
        self.current = self.previous.take();
        self.on_trial = false;
    }

    /// Another manager has not asked for the node's turn yet.
    pub fn restarted_manager(&mut self) {
        if self.for_restart && self.service == Service::Out {
            self.service = Service::Leaving;
        }
    }

    /// Versions whose programs are kept.
    pub fn kept(&self) -> impl Iterator<Item = &Version> {
        self.current.iter().chain(&self.previous)
    }
}

#[cfg(test)]
mod tests;
