//! What nodes say of their images to each other, by annotations of their Node objects. Pure.
//!
//! A node's own manager writes them, with the kubelet's rights; whoever applies releases reads
//! them before anything that carries traffic is replaced. A node that is not Ready is not waited for
//! while images are pulled: the site must be able to go on without a machine that burnt down. It is
//! named; and a data plane is not replaced without it (`data_plane`).

use super::model::Totals;
use super::prepull::Problem;
use holdfast_api::Reason;
use holdfast_api::marks::{
    PRE_PULL_PROGRESS_ANNOTATION, PRE_PULLED_ANNOTATION, RELEASE_ANNOTATION,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// How much of a digest people compare.
const SHORT: usize = 12;
/// Before a problem that ends the pull.
const REFUSED: &str = "; refused: ";
/// Before a problem that may pass.
const WAITS: &str = "; waits: ";

/// A node that does not hold a release's images yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// The node.
    pub node: String,
    /// How far it is, in its own words; empty when it has not begun.
    pub progress: String,
    /// What is in its way, when it cannot get better by waiting.
    pub reason: Option<Reason>,
    /// What is in its way and may pass.
    pub waits: Option<Reason>,
}

/// Where a site is with a release's images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SitePull {
    /// Nodes that are waited for.
    pub behind: Vec<Behind>,
    /// Nodes that are not Ready: not waited for, and without the images as far as is known.
    pub absent: Vec<String>,
}

impl SitePull {
    /// Whether a release may begin.
    pub fn is_ready(&self) -> bool {
        self.behind.is_empty()
    }

    /// What is in the way of a node and may pass.
    pub fn waits(&self) -> Option<(&Behind, Reason)> {
        self.behind.iter().find_map(|behind| Some((behind, behind.waits?)))
    }

    /// What is in the way and does not pass by itself.
    pub fn refused(&self) -> Option<(&Behind, Reason)> {
        self.behind.iter().find_map(|behind| Some((behind, behind.reason?)))
    }
}

/// Where the site with these Node objects is with the release of this digest, asked for with this
/// `force`. What a node says of an attempt with a smaller one is of an attempt before.
pub fn site_pull(nodes: &[Value], digest: &str, force: u32) -> SitePull {
    let mut site = SitePull::default();
    for node in nodes {
        let name = node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if holds(node, digest) || !node["metadata"]["deletionTimestamp"].is_null() {
            continue;
        }
        if !is_ready(node) {
            site.absent.push(name);
            continue;
        }
        let note = annotation(node, PRE_PULL_PROGRESS_ANNOTATION).unwrap_or_default();
        let progress = read_note(note, digest, force).unwrap_or_default();
        let (reason, waits) = (said(progress, REFUSED), said(progress, WAITS));
        site.behind.push(Behind { node: name, progress: progress.to_owned(), reason, waits });
    }
    site
}

/// Whether the node says that it has pulled and pinned every image of the release.
pub fn holds(node: &Value, digest: &str) -> bool {
    !digest.is_empty() && annotation(node, PRE_PULLED_ANNOTATION) == Some(digest)
}

/// Releases whose images a node keeps: the one it is asked for, the one in force by the mark of
/// its Node object, and the last good one.
pub fn keep(node: &Value, wanted: Option<&str>, good: Option<&str>) -> BTreeSet<String> {
    [wanted, good, annotation(node, RELEASE_ANNOTATION)]
        .into_iter()
        .flatten()
        .filter(|digest| !digest.is_empty())
        .map(str::to_owned)
        .collect()
}

/// What a node says of itself.
pub(super) fn notes(
    release: &str,
    force: u32,
    is_held: bool,
    totals: Totals,
    problem: Option<&Problem>,
) -> BTreeMap<String, Option<String>> {
    let mut note = format!("{}{totals}", subject(release, force));
    if let Some(problem) = problem {
        // The word alone says whether waiting helps; a person reads on.
        let mark = if problem.retryable { WAITS } else { REFUSED };
        note += &format!("{mark}{}: {}", problem.reason, problem.message);
    }
    BTreeMap::from([
        (PRE_PULLED_ANNOTATION.to_owned(), is_held.then(|| release.to_owned())),
        (PRE_PULL_PROGRESS_ANNOTATION.to_owned(), Some(note)),
    ])
}

/// What a node says that is asked for nothing.
pub(super) fn no_notes() -> BTreeMap<String, Option<String>> {
    [PRE_PULLED_ANNOTATION, PRE_PULL_PROGRESS_ANNOTATION].map(|name| (name.to_owned(), None)).into()
}

/// The progress in a note; nothing when it is of another release or attempt.
fn read_note<'a>(note: &'a str, digest: &str, force: u32) -> Option<&'a str> {
    note.strip_prefix(&subject(digest, force))
}

/// What a note is about: `0123456789ab: `, and `0123456789ab+1: ` when it was forced once.
fn subject(digest: &str, force: u32) -> String {
    let short: String = digest.chars().take(SHORT).collect();
    match force {
        0 => format!("{short}: "),
        _ => format!("{short}+{force}: "),
    }
}

/// The reason behind a mark.
fn said(progress: &str, mark: &str) -> Option<Reason> {
    let code = progress.split_once(mark)?.1.split(": ").next()?;
    Some(Reason::from_code(code).unwrap_or(Reason::ReleasePrePull))
}

fn annotation<'a>(node: &'a Value, name: &str) -> Option<&'a str> {
    node.get("metadata")?.get("annotations")?.get(name)?.as_str()
}

/// Whether the node's kubelet says that it takes pods.
pub fn is_ready(node: &Value) -> bool {
    node["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const DIGEST: &str = "0123456789abcdef";

    fn node(name: &str, ready: &str, annotations: &BTreeMap<String, Option<String>>) -> Value {
        json!({
            "metadata": {"name": name, "annotations": annotations},
            "status": {"conditions": [{"type": "DiskPressure", "status": "True"}, {"type": "Ready", "status": ready}]},
        })
    }

    fn totals() -> Totals {
        Totals { images_done: 1, images: 2, ..Totals::default() }
    }

    #[test]
    fn a_node_that_is_behind_is_waited_for_and_one_that_is_away_is_not() {
        let held = notes(DIGEST, 0, true, totals(), None);
        let begun = notes(DIGEST, 0, false, totals(), None);
        let nodes = [
            node("a", "True", &held),
            node("b", "True", &begun),
            node("c", "Unknown", &begun),
            node("d", "True", &notes("fedc", 0, true, totals(), None)),
            node("e", "False", &held),
        ];
        let site = site_pull(&nodes, DIGEST, 0);
        let behind = |node: &str, progress: &str| Behind {
            node: node.into(),
            progress: progress.into(),
            reason: None,
            waits: None,
        };
        assert_eq!(site.behind, [behind("b", "1/2 images"), behind("d", "")]);
        assert_eq!(site.absent, ["c"]);
        assert!(!site.is_ready());
        assert!(site_pull(&[nodes[0].clone(), nodes[2].clone()], DIGEST, 0).is_ready());
        assert!(!site_pull(&nodes[..1], "", 0).is_ready(), "no digest is no release");
    }

    #[test]
    fn what_waiting_does_not_help_is_told_by_its_reason() {
        let problem = |retryable| Problem {
            reason: Reason::ReleaseImageMissing,
            message: "the registry does not have r.lab/a:v1: not found".into(),
            retryable,
        };
        let says = |digest, force, retryable| {
            let notes = notes(digest, force, false, totals(), Some(&problem(retryable)));
            site_pull(&[node("a", "True", &notes)], DIGEST, 1)
        };
        let told = |digest, force, retryable| {
            let site = says(digest, force, retryable);
            site.refused().map(|(behind, reason)| (behind.node.clone(), reason))
        };
        assert_eq!(told(DIGEST, 1, false), Some(("a".into(), Reason::ReleaseImageMissing)));
        assert_eq!(told(DIGEST, 1, true), None);
        let site = says(DIGEST, 1, true);
        let waits = site.waits().map(|(behind, reason)| (behind.node.as_str(), reason));
        assert_eq!(waits, Some(("a", Reason::ReleaseImageMissing)));
        assert_eq!(told("of an older release", 1, false), None);
        assert_eq!(told(DIGEST, 0, false), None, "of the attempt before it was forced");
        assert_eq!(says(DIGEST, 0, false).behind[0].progress, "");
    }

    #[test]
    fn what_is_kept() {
        let annotations =
            BTreeMap::from([(RELEASE_ANNOTATION.to_owned(), Some("force".to_owned()))]);
        let node = node("a", "True", &annotations);
        let all: Vec<String> = keep(&node, Some("wanted"), Some("good")).into_iter().collect();
        assert_eq!(all, ["force", "good", "wanted"]);
        assert_eq!(keep(&json!({}), None, Some("")), BTreeSet::new());
    }

    proptest! {
        /// A site is never ready while one of its Ready nodes says nothing of this release.
        #[test]
        fn silence_is_no_consent(others in proptest::collection::vec("[0-9a-f]{16}", 0..4)) {
            let mut nodes: Vec<Value> = others.iter().map(|digest| node("x", "True", &notes(digest, 0, true, totals(), None))).collect();
            nodes.push(node("y", "True", &BTreeMap::new()));
            prop_assert!(!site_pull(&nodes, DIGEST, 0).is_ready());
        }
    }
}
