//! What is asked of a release before it is tried, beyond what it takes to read it. Pure.
//!
//! A release that is in force is not asked: it was taken by a manager that asked for less, and has
//! to stay one that can be put back.

use super::images::named_in;
use super::model::{Item, Release, group};
use super::target::Failure;
use crate::images::Reference;
use crate::object::Object;
use holdfast_api::marks::{
    DATA_PLANE_ANNOTATION, DEPLOYMENT_ANNOTATION, PRE_PULL_ANNOTATION, TIMEOUT_ANNOTATION,
};
use holdfast_api::{Reason, brief};

/// Ours; a key below it that we do not know is a misspelt one.
const PREFIX: &str = "holdfast.dev/";
const ANNOTATIONS: [&str; 4] =
    [DATA_PLANE_ANNOTATION, DEPLOYMENT_ANNOTATION, PRE_PULL_ANNOTATION, TIMEOUT_ANNOTATION];
/// Kubernetes' own (kubernetes.io, "Namespaces", "Initial namespaces" and the note on names).
const RESERVED: &str = "kube-";
/// Bytes that messages show of a key.
const SHOWN: usize = 100;

/// Whether the release has anything at all.
///
/// # Errors
/// It has nothing, and everything that is in force would be removed.
pub(super) fn release(release: &Release) -> Result<(), Failure> {
    if release.items.is_empty() {
        let message = "the release has no object, so everything that is in force would be removed; \
                       leave one in it, such as a ConfigMap";
        return Err(Failure::never(Reason::ReleaseInvalid, message));
    }
    Ok(())
}

/// Whether an object may be part of a release.
///
/// # Errors
/// Why not, with file, document and field.
pub(super) fn item(item: &Item) -> Result<(), Failure> {
    let Object { id, origin, value } = &item.object;
    let invalid =
        |said: String| Failure::never(Reason::ReleaseInvalid, format!("{origin}: {said} ({id})"));
    let annotations = value["metadata"]["annotations"].as_object();
    let mut keys = annotations.iter().flat_map(|annotations| annotations.keys());
    if let Some(key) = keys.find(|key| key.starts_with(PREFIX) && !ANNOTATIONS.contains(&&***key)) {
        let (key, known) = (brief(key, SHOWN), ANNOTATIONS.join(", "));
        return Err(invalid(format!("metadata.annotations.{key}: is none of {known}")));
    }
    let is_namespace = group(&id.api_version).is_empty() && id.kind == "Namespace";
    if is_namespace && id.name.starts_with(RESERVED) {
        return Err(invalid(format!("metadata.name: {RESERVED}* is reserved for Kubernetes")));
    }
    for name in named_in(&item.object) {
        Reference::parse(&name).map_err(|error| invalid(error.to_string()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::parse::parse;
    use holdfast_api::kubernetes::ReleaseRef;
    use std::time::Duration;

    fn read(text: &str) -> Release {
        let reference = ReleaseRef { name: "edge-7".into(), ..ReleaseRef::default() };
        let manifests = [("a.yaml".to_owned(), text.to_owned())].into();
        parse(&reference, &manifests, Duration::ZERO).unwrap()
    }

    fn told(text: &str) -> Option<String> {
        let failure = item(&read(text).items[0]).err()?;
        assert_eq!(failure.reason, Reason::ReleaseInvalid);
        Some(failure.message)
    }

    #[test]
    fn a_misspelt_annotation_of_ours_is_told_with_the_known_ones() {
        let with = |key: &str, value: &str| {
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a, annotations: {{{key}: '{value}'}}}}"
            )
        };
        let message = told(&with("holdfast.dev/time-out", "7")).unwrap();
        let begins = "a.yaml, document 1: metadata.annotations.holdfast.dev/time-out: is none of ";
        assert!(message.starts_with(begins), "{message}");
        for (key, value) in [
            (DATA_PLANE_ANNOTATION, "true"),
            (DEPLOYMENT_ANNOTATION, "optimistic"),
            (PRE_PULL_ANNOTATION, "a:1"),
            (TIMEOUT_ANNOTATION, "7"),
            ("theirs.example/time-out", "7"),
            ("x.holdfast.dev/y", "7"),
        ] {
            assert_eq!(told(&with(key, value)), None);
            let is_known = !key.starts_with(PREFIX) || message.contains(key);
            assert!(is_known, "{key} is not in {message}");
        }
    }

    #[test]
    fn namespaces_of_kubernetes_are_no_releases() {
        let named =
            |name: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}");
        assert!(told(&named("kube-foo")).unwrap().contains("metadata.name: kube-*"));
        assert_eq!(told(&named("kubes")), None);
    }

    #[test]
    fn a_name_that_no_image_can_have_is_told_where_it_is_written() {
        let named = |image: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec: {{containers: [{{image: '{image}'}}]}}"
            )
        };
        let message = told(&named("registry.lab:5000/App:v1")).unwrap();
        assert!(
            message.starts_with("a.yaml, document 1: \"registry.lab:5000/App:v1\" is not"),
            "{message}"
        );
        assert_eq!(told(&named("registry.lab:5000/app:v1")), None);
    }

    #[test]
    fn a_release_without_an_object_is_none() {
        for text in ["", "# later\n---\n---\n", "apiVersion: v1\nkind: List\nitems: []"] {
            assert_eq!(release(&read(text)).unwrap_err().reason, Reason::ReleaseInvalid);
        }
        assert_eq!(release(&read("apiVersion: v1\nkind: Secret\nmetadata: {name: a}")), Ok(()));
    }
}
