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
    let minor = |version: &str| {
        let mut numbers = version.trim_start_matches('v').split('.').map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    match (minor(agent), minor(server)) {
        (Some(agent), Some(server)) => agent > server,
        _ => false,
    }
}

/// A version that did not become ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failed {
    /// Which.
    pub version: Version,
    /// What it died of.
    pub message: String,
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
    /// Versions that failed, newest last.
    pub failed: Vec<Failed>,
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
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Fetch and verify the program.
    Fetch(Version),
    /// Move the workloads away, for this version.
    Drain(Version),
    /// Run the new version.
    Switch(Version),
    /// The new version is good.
    Commit,
    /// Run the one before again.
    SwitchBack,
    /// Take workloads again.
    Uncordon,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Fetch(version) => write!(f, "fetch Kubernetes {version}"),
            Step::Drain(version) => write!(f, "drain the node for Kubernetes {version}"),
            Step::Switch(version) => write!(f, "switch to Kubernetes {version}"),
            Step::Commit => f.write_str("keep the new version of Kubernetes"),
            Step::SwitchBack => f.write_str("switch back to the version of Kubernetes before"),
            Step::Uncordon => f.write_str("let the node take workloads again"),
        }
    }
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
    match next {
        None => (have.service != Service::In && now.ready).then_some(Step::Uncordon),
        Some(want) if !now.fetched => Some(Step::Fetch(want.clone())),
        Some(want) if now.ready && have.service != Service::Out => Some(Step::Drain(want.clone())),
        Some(_) if now.settling => None,
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

    /// After [`Step::Switch`]. The first program of a machine is not on trial: there is nothing
    /// to go back to.
    pub fn switched(&mut self, to: Version, fallback: bool) {
        self.previous = self.current.replace(to);
        self.on_trial = fallback;
    }

    /// After [`Step::Commit`].
    pub fn committed(&mut self) {
        self.on_trial = false;
    }

    /// After [`Step::SwitchBack`].
    pub fn switched_back(&mut self, message: String) {
        if let Some(version) = self.current.take() {
            self.failed.push(Failed { version, message });
        }
        let surplus = self.failed.len().saturating_sub(REMEMBERED);
        self.failed.drain(..surplus);
        self.current = self.previous.take();
        self.on_trial = false;
    }

    /// Versions whose programs are kept.
    pub fn kept(&self) -> impl Iterator<Item = &Version> {
        self.current.iter().chain(&self.previous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version(name: &str) -> Version {
        Version { version: name.into(), sha256: "a".repeat(64) }
    }

    /// Carries steps out on a node on which `good` versions become ready and others never do;
    /// the manager dies wherever `die` says, before or after the step that it wrote down.
    fn run(want: &Version, have: &mut Versions, is_good: bool) -> Vec<Step> {
        let (mut fetched, mut done, mut patience) = (false, Vec::new(), Duration::ZERO);
        for _ in 0..20 {
            let ready = !have.on_trial || is_good;
            let now = Situation {
                fetched,
                ready,
                settling: false,
                fallback: true,
                on_trial_for: patience,
                window: Duration::from_secs(600),
                hopeless: false,
            };
            match plan(Some(want), have, &now) {
                Some(step) => {
                    match &step {
                        Step::Fetch(_) => fetched = true,
                        Step::Drain(_) => have.service = Service::Out,
                        Step::Switch(to) => have.switched(to.clone(), true),
                        Step::Commit => have.committed(),
                        Step::SwitchBack => have.switched_back("it ended".into()),
                        Step::Uncordon => have.service = Service::In,
                    }
                    done.push(step);
                }
                None => patience += Duration::from_secs(300),
            }
        }
        done
    }

    #[test]
    fn a_good_version_is_kept() {
        let mut have = Versions { current: Some(version("1")), ..Versions::default() };
        let steps = run(&version("2"), &mut have, true);
        let two = version("2");
        assert_eq!(
            steps,
            [
                Step::Fetch(two.clone()),
                Step::Drain(two.clone()),
                Step::Switch(two.clone()),
                Step::Commit,
                Step::Uncordon
            ]
        );
        assert_eq!((have.current, have.previous), (Some(two), Some(version("1"))));
    }

    #[test]
    fn a_bad_version_is_left_and_not_tried_again() {
        let mut have = Versions { current: Some(version("1")), ..Versions::default() };
        let steps = run(&version("2"), &mut have, false);
        assert_eq!(steps[3..], [Step::SwitchBack, Step::Uncordon]);
        assert_eq!(have.current, Some(version("1")));
        assert!(have.has_failed(&version("2")) && have.service == Service::In && !have.on_trial);
        assert_eq!(run(&version("2"), &mut have, true), []);
        assert_eq!(run(&version("3"), &mut have, true).len(), 5);
    }

    #[test]
    fn one_that_may_be_ready_in_a_moment_is_waited_for_and_drained() {
        let want = version("2");
        let have = Versions { current: Some(version("1")), ..Versions::default() };
        let settling = Situation { fetched: true, settling: true, ..Situation::default() };
        assert_eq!(plan(Some(&want), &have, &settling), None);
        let ready = Situation { ready: true, settling: false, ..settling };
        assert_eq!(plan(Some(&want), &have, &ready), Some(Step::Drain(want.clone())));
        let hopeless = Situation { settling: false, ..settling };
        assert_eq!(plan(Some(&want), &have, &hopeless), Some(Step::Switch(want)));
    }

    #[test]
    fn a_version_that_ends_again_and_again_is_left_before_its_time() {
        let mut have = Versions { current: Some(version("1")), ..Versions::default() };
        have.switched(version("2"), true);
        let now =
            Situation { fallback: true, window: Duration::from_secs(600), ..Situation::default() };
        let hopeless = Situation { hopeless: true, ..now };
        assert_eq!(plan(None, &have, &now), None);
        assert_eq!(plan(None, &have, &hopeless), Some(Step::SwitchBack));
        assert_eq!(plan(None, &have, &Situation { fallback: false, ..hopeless }), None);
    }

    #[test]
    fn nothing_is_drained_where_nothing_runs() {
        let now = Situation { fetched: true, ..Situation::default() };
        let want = version("1");
        assert_eq!(plan(Some(&want), &Versions::default(), &now), Some(Step::Switch(want.clone())));
        let mut first = Versions::default();
        first.switched(want.clone(), false);
        assert_eq!(plan(Some(&want), &first, &now), None);
    }

    #[test]
    fn an_agent_is_ahead_by_its_minor_version_alone() {
        for (agent, server, ahead) in [
            ("v1.34.0+k3s1", "v1.33.9+k3s1", true),
            ("v1.33.9+k3s2", "v1.33.1+k3s1", false),
            ("v1.33.1+k3s1", "v1.34.0+k3s1", false),
            ("v1.10.0", "v1.9.0", true),
            ("v2.0.0", "v1.99.0", true),
            ("latest", "v1.33.1", false),
            ("v1.33", "", false),
        ] {
            assert_eq!(is_ahead(agent, server), ahead, "{agent} {server}");
        }
    }

    /// Whatever had become of the drain when the version was not wanted any more.
    #[test]
    fn a_version_that_is_not_wanted_any_more_leaves_the_node_in_service() {
        let now = Situation { fetched: true, ready: true, ..Situation::default() };
        for service in [Service::Leaving, Service::Out] {
            let have = Versions { current: Some(version("1")), service, ..Versions::default() };
            assert_eq!(plan(Some(&version("1")), &have, &now), Some(Step::Uncordon));
            assert_eq!(plan(None, &have, &now), Some(Step::Uncordon));
        }
        let have = Versions { service: Service::Leaving, ..Versions::default() };
        let again = plan(Some(&version("2")), &have, &now);
        assert_eq!(again, Some(Step::Drain(version("2"))), "how far it came is not known");
    }

    proptest! {
        /// Whatever was asked for in whatever order, with whatever result: in the end the node
        /// takes workloads, runs a version that is good, and never again one that failed.
        #[test]
        fn it_ends_with_a_good_version(wishes in proptest::collection::vec((0..5u8, any::<bool>()), 1..12)) {
            let mut have = Versions::default();
            let mut bad = std::collections::BTreeSet::new();
            for (name, is_good) in wishes {
                let want = version(&name.to_string());
                let before = have.current.clone();
                let was_bad = bad.contains(&name);
                let steps = run(&want, &mut have, is_good);
                prop_assert!(have.service == Service::In && !have.on_trial);
                if was_bad {
                    prop_assert!(steps.is_empty());
                } else if is_good || before == Some(want.clone()) {
                    prop_assert_eq!(&have.current, &Some(want));
                } else {
                    bad.insert(name);
                    prop_assert_eq!(&have.current, &before);
                }
            }
        }
    }
}
