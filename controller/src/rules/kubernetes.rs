//! What a site asks of its Kubernetes, checked before its nodes meet it, and by what the nodes check
//! it with.

use crate::schema::FieldError;
use crate::store::{Key, Tx};
use holdfast_api::kubernetes::SnapshotPolicy;
use holdfast_api::resources::{Kind, SiteKubernetes, SiteSpec};
use hw_profiles::kubernetes as rules;
use serde_json::Value;

/// What is wrong with `new`. What is stored already is let through.
/// `token`: the join token that the site has.
pub(super) fn check(
    tx: &Tx<'_>,
    tenant: &str,
    token: Option<&str>,
    old: &SiteSpec,
    new: &SiteSpec,
) -> Vec<FieldError> {
    let Some(want) = &new.kubernetes else { return Vec::new() };
    if old.kubernetes.as_ref() == Some(want) {
        return Vec::new();
    }
    let mut errors = values(want);
    // The same one may be said again, as in a file that is applied twice.
    let is_other = want.join_token.as_ref().is_some_and(|new| Some(&*new.0) != token);
    if is_other && new.nodes.len() > 1 {
        let what =
            "Invalid value: nodes that run with the old one would stop; a site of one node at most";
        errors.push(FieldError::invalid("spec.kubernetes.joinToken", what));
    }
    let before = old.kubernetes.as_ref().and_then(|old| old.release.as_ref());
    if let Some(name) = want.release.as_ref().filter(|name| Some(*name) != before)
        && tx.get(&Key::new(Kind::Release, tenant, name)).is_none()
    {
        let message = format!("Invalid value: {name:?}: there is no such release");
        errors.push(FieldError::invalid("spec.kubernetes.release", message));
    }
    errors
}

/// Takes the token out of a site that is written: it is kept where it is not shown.
pub(super) fn take_join_token(site: &mut Value) -> Option<String> {
    let kubernetes = site.pointer_mut("/spec/kubernetes")?.as_object_mut()?;
    kubernetes.remove("joinToken")?.as_str().map(str::to_owned)
}

/// What can be said without looking at anything else. Pure.
fn values(want: &SiteKubernetes) -> Vec<FieldError> {
    let labels = want.labels.iter().map(|(key, value)| rules::label(key, value));
    let taints = want.taints.iter().enumerate().map(|(at, text)| rules::taint(at, text).map(drop));
    let parts = want.disable.iter().enumerate().map(|(at, name)| rules::part(at, name).map(drop));
    let rest =
        [rules::mirrors(&want.mirrors), want.distribution.as_ref().map_or(Ok(()), rules::artifact)];
    let checked = labels.chain(taints).chain(parts).chain(rest);
    let mut errors: Vec<FieldError> = checked.filter_map(Result::err).map(refused).collect();
    let mut wrong = |field: &str, value: &str, what: &str| {
        let message = format!("Invalid value: {value:?}: {what}");
        errors.push(FieldError::invalid(format!("spec.kubernetes.{field}"), message));
    };
    if let Some(token) = &want.join_token
        && !((8..=512).contains(&token.0.len()) && token.0.bytes().all(|b| b.is_ascii_graphic()))
    {
        wrong("joinToken", "…", "must be 8 to 512 visible characters without spaces");
    }
    let SnapshotPolicy { s3, recovery_key, .. } = &want.snapshots;
    if let Some(s3) = s3 {
        if !is_http(&s3.endpoint) {
            wrong("snapshots.s3.endpoint", &s3.endpoint, "must be an http(s) URL");
        }
        if s3.bucket.is_empty() {
            wrong("snapshots.s3.bucket", "", "must be the name of a bucket");
        }
        if recovery_key.is_none() {
            let what = "is needed, or nothing could leave the nodes: make one with age-keygen";
            wrong("snapshots.recoveryKey", "", what);
        }
    }
    if let Some(key) = recovery_key
        && !(key.starts_with("age1") && key.len() > 20 && key.bytes().all(|b| b.is_ascii_graphic()))
    {
        wrong("snapshots.recoveryKey", key, "must be an age recipient, age1…");
    }
    errors
}

fn refused(wrong: rules::Wrong) -> FieldError {
    let message = format!("Invalid value: {}", wrong.problem);
    FieldError::invalid(format!("spec.kubernetes.{}", wrong.field), message)
}

fn is_http(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::kubernetes::{DistributionArtifact, RegistryMirror, S3Target, Secret};

    fn fields(want: &SiteKubernetes) -> Vec<String> {
        values(want).into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn a_sound_wish_passes() {
        let want = SiteKubernetes {
            labels: [("region".into(), "eu".into())].into(),
            taints: vec!["dedicated=edge:NoSchedule".into()],
            disable: vec!["local-storage".into()],
            mirrors: vec![RegistryMirror {
                registry: "registry.example:5000".into(),
                endpoints: vec!["http://100.127.0.1:5000".into()],
            }],
            ..Default::default()
        };
        assert_eq!(fields(&want), [""; 0]);
    }

    #[test]
    fn each_fault_is_named_with_its_field() {
        let s3 = S3Target { endpoint: "ftp://x".into(), bucket: "b".into(), ..Default::default() };
        let want = SiteKubernetes {
            labels: [("a b".into(), "x".into())].into(),
            taints: vec!["x".into()],
            disable: vec!["--token".into(), "a\nb: c".into()],
            mirrors: vec![RegistryMirror {
                registry: "a b".into(),
                endpoints: vec!["file:///etc/shadow".into()],
            }],
            distribution: Some(DistributionArtifact {
                version: "../x".into(),
                url: "http://x".into(),
                sha256: "12".into(),
            }),
            snapshots: SnapshotPolicy { s3: Some(s3), ..Default::default() },
            join_token: Some(Secret("two words".into())),
            ..Default::default()
        };
        let expected = [
            "labels[\"a b\"]",
            "taints[0]",
            "disable[0]",
            "disable[1]",
            "mirrors[0].registry",
            "distribution.version",
            "joinToken",
            "snapshots.s3.endpoint",
            "snapshots.recoveryKey",
        ];
        assert_eq!(fields(&want), expected.map(|field| format!("spec.kubernetes.{field}")));
    }

    /// With each of these a node once kept what it ran, and had nothing to run after a reboot.
    #[test]
    fn what_nodes_refuse_is_refused_here() {
        let mirror = |registry: &str, endpoints: &[&str]| RegistryMirror {
            registry: registry.into(),
            endpoints: endpoints.iter().map(|url| (*url).into()).collect(),
        };
        let label = "node-role.kubernetes.io/edge";
        let mut want =
            SiteKubernetes { labels: [(label.into(), String::new())].into(), ..Default::default() };
        assert_eq!(fields(&want), [format!("spec.kubernetes.labels[{label:?}]")]);
        want = SiteKubernetes { mirrors: vec![mirror("a", &[])], ..Default::default() };
        assert_eq!(fields(&want), ["spec.kubernetes.mirrors[0].endpoints"]);
        want.mirrors = vec![mirror("a", &["http://b"]), mirror("a", &["http://c"])];
        assert_eq!(fields(&want), ["spec.kubernetes.mirrors[1].registry"]);
    }
}
