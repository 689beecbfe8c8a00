//! Whether every node of the site has the images of a release, and what is in the way. Pure; the
//! time is an argument.
//!
//! A node that fails says why. One whose manager does not run, or cannot fetch the release, says
//! nothing, so its silence is told after a while: nobody else would.

use crate::images::{Behind, site_pull};
use crate::release::model::Release;
use crate::release::target::Failure;
use holdfast_api::Reason;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Each node hears of a release from the controller by itself; most do within this time.
const BEGINS_WITHIN: Duration = Duration::from_secs(30);
/// A pull that stands still is ended and told by its node, the first time after half an hour at the
/// latest; one that says the same for longer may have nobody who would tell.
const MOVES_WITHIN: Duration = Duration::from_secs(2400);
/// What is not looked at for so long is another attempt; within one there are pauses of a minute.
const FORGETS_AFTER: Duration = Duration::from_secs(180);

/// What is seen of the nodes at a moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Look {
    /// All that are waited for have the images; these are not Ready and do not, as far as is known.
    Ready(Vec<String>),
    /// They pull; how far they are.
    Pulls(String),
    /// Something is in the way.
    Fails(Failure),
}

/// What each node said last, and since when; from one attempt at a pull to the next, since what fails
/// is tried again and again.
#[derive(Debug, Default)]
pub(super) struct Everywhere {
    /// Digest and force of the release.
    of: (String, u32),
    looked: Option<Instant>,
    said: BTreeMap<String, (String, Instant)>,
}

impl Everywhere {
    pub(super) fn look(&mut self, nodes: &[Value], release: &Release, now: Instant) -> Look {
        let reference = &release.reference;
        let of = (reference.digest.clone(), reference.force);
        let is_long_ago = |at: Instant| now.saturating_duration_since(at) >= FORGETS_AFTER;
        if self.of != of || self.looked.is_none_or(is_long_ago) {
            *self = Everywhere { of, ..Everywhere::default() };
        }
        self.looked = Some(now);
        let site = site_pull(nodes, &reference.digest, reference.force);
        let silent = self.silent(&site.behind, now);
        let told = |behind: &Behind| format!("{}: {}", behind.node, behind.progress);
        if let Some((behind, reason)) = site.refused() {
            return Look::Fails(Failure::never(reason, told(behind)));
        }
        if let Some((behind, reason)) = site.waits() {
            return Look::Fails(Failure::always(reason, told(behind)));
        }
        if site.is_ready() {
            if !site.absent.is_empty() && release.items.iter().any(|item| item.data_plane) {
                // Nothing is touched yet, and the node may only be restarting.
                let absent = site.absent.join(", ");
                let message = format!("without the images and not Ready: {absent}");
                return Look::Fails(Failure::always(Reason::KubernetesNotReady, message));
            }
            return Look::Ready(site.absent);
        }
        if let Some(message) = silent {
            return Look::Fails(Failure::always(Reason::ReleasePrePull, message));
        }
        let behind = site.behind.iter().map(|behind| match behind.progress.as_str() {
            "" => format!("{} has not begun", behind.node),
            progress => format!("{} {progress}", behind.node),
        });
        Look::Pulls(format!("images are pulled: {}", behind.collect::<Vec<_>>().join("; ")))
    }

    /// The nodes that ought to have said something else by now, and what to do about them.
    fn silent(&mut self, behind: &[Behind], now: Instant) -> Option<String> {
        self.said.retain(|node, _| behind.iter().any(|one| one.node == *node));
        let mut silent = Vec::new();
        for Behind { node, progress, .. } in behind {
            let said = self.said.entry(node.clone()).or_insert_with(|| (progress.clone(), now));
            if said.0 != *progress {
                *said = (progress.clone(), now);
            }
            let since = now.saturating_duration_since(said.1);
            let (within, what) = match progress.as_str() {
                "" => (BEGINS_WITHIN, "says nothing of this release".to_owned()),
                same => (MOVES_WITHIN, format!("has said the same for long ({same})")),
            };
            if since >= within {
                silent.push(format!("{node} {what}"));
            }
        }
        (!silent.is_empty()).then(|| {
            format!(
                "Ready and without the images: {}; see there that holdfastd runs and has the release \
                 from the controller (holdfast status)",
                silent.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::fake::{kept, parsed};
    use holdfast_api::marks::{PRE_PULL_PROGRESS_ANNOTATION, PRE_PULLED_ANNOTATION};
    use serde_json::json;

    fn release() -> Release {
        parsed(&kept("one", &[("Deployment", "web", "a")]))
    }

    fn node(name: &str, is_ready: bool, annotation: Option<(&str, String)>) -> Value {
        let annotations: BTreeMap<_, _> = annotation.into_iter().collect();
        let status = if is_ready { "True" } else { "Unknown" };
        json!({
            "metadata": {"name": name, "annotations": annotations},
            "status": {"conditions": [{"type": "Ready", "status": status}]},
        })
    }

    fn holds(release: &Release) -> Option<(&'static str, String)> {
        Some((PRE_PULLED_ANNOTATION, release.reference.digest.clone()))
    }

    fn says(release: &Release, what: &str) -> Option<(&'static str, String)> {
        let digest = &release.reference.digest[..12];
        Some((PRE_PULL_PROGRESS_ANNOTATION, format!("{digest}: {what}")))
    }

    fn failure(look: Look) -> Failure {
        match look {
            Look::Fails(failure) => failure,
            Look::Ready(_) | Look::Pulls(_) => panic!("{look:?}"),
        }
    }

    /// The kubelet is well and holdfastd is not there, or never hears of the release.
    #[test]
    fn a_node_that_is_ready_and_says_nothing_is_named_after_a_while() {
        let (release, start) = (release(), Instant::now());
        let nodes = |progress| [node("n1", true, holds(&release)), node("n3", true, progress)];
        let mut everywhere = Everywhere::default();
        let begins = start + BEGINS_WITHIN;
        let pulls = Look::Pulls("images are pulled: n3 has not begun".into());
        assert_eq!(everywhere.look(&nodes(None), &release, start), pulls);
        let before = begins - Duration::from_millis(1);
        assert_eq!(everywhere.look(&nodes(None), &release, before), pulls);
        let told = failure(everywhere.look(&nodes(None), &release, begins));
        assert_eq!(told.reason, Reason::ReleasePrePull);
        assert_eq!(told.retry, crate::release::target::Retry::Always, "it may come back");
        assert!(told.message.contains("n3 says nothing") && !told.message.contains("n1"), "{told}");
        // It speaks; then it is cut off in the middle.
        let half = says(&release, "1/2 images");
        let look = everywhere.look(&nodes(half.clone()), &release, begins);
        assert_eq!(look, Look::Pulls("images are pulled: n3 1/2 images".into()));
        let later = begins + MOVES_WITHIN;
        let mut now = begins;
        while now < later {
            let look = everywhere.look(&nodes(half.clone()), &release, now);
            assert_eq!(look, Look::Pulls("images are pulled: n3 1/2 images".into()));
            now += Duration::from_secs(60);
        }
        // Told, and told again by the next attempt.
        for now in [later, later + Duration::from_secs(60)] {
            let told = failure(everywhere.look(&nodes(half.clone()), &release, now));
            assert!(told.message.contains("n3 has said the same for long (1/2 images)"), "{told}");
        }
        let long_after = later + Duration::from_secs(60) + FORGETS_AFTER;
        let look = everywhere.look(&nodes(half.clone()), &release, long_after);
        assert!(matches!(look, Look::Pulls(_)), "another attempt");
        let mut forced = release.clone();
        forced.reference.force += 1;
        everywhere.look(&nodes(None), &forced, long_after);
        assert!(everywhere.said.values().all(|(said, _)| said.is_empty()), "another one");
        let look = everywhere.look(&nodes(holds(&release)), &release, later);
        assert_eq!(look, Look::Ready(vec![]));
    }

    #[test]
    fn a_node_that_is_away_is_waited_for_by_a_data_plane_alone() {
        let plain = release();
        let carries = parsed(&kept("two", &[("DaemonSet", "way", "a")]));
        let now = Instant::now();
        let look = |release: &Release| {
            let nodes = [node("n1", true, holds(release)), node("n2", false, None)];
            Everywhere::default().look(&nodes, release, now)
        };
        assert_eq!(look(&plain), Look::Ready(vec!["n2".into()]));
        assert_eq!(failure(look(&carries)).reason, Reason::KubernetesNotReady);
    }
}
