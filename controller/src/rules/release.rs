//! Releases: what was released once stays what it is, so that a version means one content
//! everywhere and a digest that a node has seen stays true.

use super::Write;
use crate::http::ApiError;
use crate::schema::{FieldError, key_path};
use holdfast_api::kubernetes::release_digest;
use holdfast_api::resources::{ReleaseSpec, ReleaseStatus};
use serde::Deserialize;
use serde_json::{Value, json};

/// Bytes of all manifests together. A request may have 2 MiB as JSON, where text grows.
const MANIFESTS_MAX: usize = 768 << 10;
/// A version shows in tables and in the names of folders.
const VERSION_MAX: usize = 64;

pub(super) fn check(write: &Write<'_>, new: &mut Value) -> Result<(), ApiError> {
    // The form was checked before. Should the two ever differ, everything is looked at anew.
    let spec = match ReleaseSpec::deserialize(&new["spec"]) {
        Ok(spec) => spec,
        Err(error) => {
            return write.invalid(vec![FieldError::invalid("spec", error.to_string())]);
        }
    };
    let old = write.old_spec().and_then(|old| ReleaseSpec::deserialize(old).ok());
    write.invalid(errors(old.as_ref(), &spec))?;
    new["status"] = json!(ReleaseStatus { digest: release_digest(&spec.manifests) });
    Ok(())
}

/// What is wrong with a release. Whether the manifests are good YAML, and whether a cluster takes
/// them, is for the nodes to say: they have the parser and the cluster. Pure.
fn errors(old: Option<&ReleaseSpec>, new: &ReleaseSpec) -> Vec<FieldError> {
    if let Some(old) = old {
        let why = "a release never changes; make another one";
        let fields = [
            ("version", old.version != new.version),
            ("manifests", old.manifests != new.manifests),
        ];
        let changed = fields.iter().filter(|(_, changed)| *changed);
        return changed.map(|(f, _)| FieldError::forbidden(format!("spec.{f}"), why)).collect();
    }
    let mut errors = Vec::new();
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    let version = &new.version;
    if version.is_empty() {
        errors.push(FieldError::required("spec.version"));
    } else if version.len() > VERSION_MAX || !version.chars().all(fits) {
        let message = format!(
            "Invalid value: {version:?}: must be at most {VERSION_MAX} letters, digits and any of -_.+"
        );
        errors.push(FieldError::invalid("spec.version", message));
    }
    if new.manifests.is_empty() {
        errors.push(FieldError::required("spec.manifests"));
    }
    for name in new.manifests.keys() {
        let plain = !name.is_empty() && name.len() <= 253 && name.chars().all(fits);
        if !plain || name.starts_with('.') {
            let message = format!("Invalid value: {name:?}: must be a plain file name");
            errors.push(FieldError::invalid(key_path("spec.manifests", name), message));
        }
    }
    let size: usize = new.manifests.iter().map(|(name, text)| name.len() + text.len()).sum();
    if size > MANIFESTS_MAX {
        let message = format!("Too long: has {size} bytes, may have at most {MANIFESTS_MAX}");
        errors.push(FieldError::invalid("spec.manifests", message));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(version: &str, files: &[(&str, &str)]) -> ReleaseSpec {
        let manifests = files.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
        ReleaseSpec { version: version.into(), manifests, timeout_secs: 0 }
    }

    fn fields(old: Option<&ReleaseSpec>, new: &ReleaseSpec) -> Vec<String> {
        errors(old, new).into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn a_release_stays_what_it_is() {
        let first = release("1.0", &[("a.yaml", "x")]);
        assert_eq!(fields(None, &first), [""; 0]);
        let slower = ReleaseSpec { timeout_secs: 9, ..first.clone() };
        assert_eq!(fields(Some(&first), &slower), [""; 0], "patience is no content");
        let other = release("1.1", &[("a.yaml", "y")]);
        assert_eq!(fields(Some(&first), &other), ["spec.version", "spec.manifests"]);
    }

    #[test]
    fn names_and_sizes_are_bounded() {
        assert_eq!(fields(None, &release("", &[])), ["spec.version", "spec.manifests"]);
        assert_eq!(fields(None, &release("a b", &[("a", "x")])), ["spec.version"]);
        for name in ["../etc/passwd", "a/b", "", ".hidden"] {
            assert_eq!(fields(None, &release("1", &[(name, "x")])).len(), 1, "{name:?}");
        }
        let large = "x".repeat(MANIFESTS_MAX + 1);
        assert_eq!(fields(None, &release("1", &[("a", &large)])), ["spec.manifests"]);
    }
}
