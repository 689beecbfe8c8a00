//! What a site asks of its Kubernetes, checked before its nodes meet it.

use crate::schema::{FieldError, key_path};
use crate::select::{is_label_key, is_label_value};
use crate::store::{Key, Tx};
use holdfast_api::kubernetes::{DistributionArtifact, SnapshotPolicy};
use holdfast_api::resources::{Kind, SiteKubernetes, SiteSpec};

/// What is wrong with `new`. What is stored already is let through.
pub(super) fn check(tx: &Tx<'_>, tenant: &str, old: &SiteSpec, new: &SiteSpec) -> Vec<FieldError> {
    let Some(want) = &new.kubernetes else { return Vec::new() };
    if old.kubernetes.as_ref() == Some(want) {
        return Vec::new();
    }
    let mut errors = values(want);
    let before = old.kubernetes.as_ref().and_then(|old| old.release.as_ref());
    if let Some(name) = want.release.as_ref().filter(|name| Some(*name) != before)
        && tx.get(&Key::new(Kind::Release, tenant, name)).is_none()
    {
        let message = format!("Invalid value: {name:?}: there is no such release");
        errors.push(FieldError::invalid("spec.kubernetes.release", message));
    }
    errors
}

/// What can be said without looking at anything else. Pure.
fn values(want: &SiteKubernetes) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut wrong = |field: String, value: &str, what: &str| {
        let message = format!("Invalid value: {value:?}: {what}");
        errors.push(FieldError::invalid(format!("spec.kubernetes.{field}"), message));
    };
    for (key, value) in &want.labels {
        if !is_label_key(key) {
            wrong("labels".into(), key, "is not a label's name");
        }
        if !is_label_value(value) {
            wrong(key_path("labels", key), value, "is not a label's value");
        }
    }
    for (index, taint) in want.taints.iter().enumerate() {
        if let Err(error) = taint.parse::<hw_profiles::profile::Taint>() {
            wrong(format!("taints[{index}]"), taint, &error);
        }
    }
    for (index, part) in want.disable.iter().enumerate() {
        if !part.starts_with(|c: char| c.is_ascii_lowercase())
            || !part.chars().all(|c| c.is_ascii_lowercase() || c == '-')
        {
            wrong(format!("disable[{index}]"), part, "is not the name of a part");
        }
    }
    for (index, mirror) in want.mirrors.iter().enumerate() {
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-:*[]".contains(c);
        if mirror.registry.is_empty() || !mirror.registry.chars().all(plain) {
            let what = "must be a host, with a port if it has one";
            wrong(format!("mirrors[{index}].registry"), &mirror.registry, what);
        }
        for (at, url) in mirror.endpoints.iter().enumerate() {
            if !is_http(url) {
                wrong(format!("mirrors[{index}].endpoints[{at}]"), url, "must be an http(s) URL");
            }
        }
    }
    if let Some(DistributionArtifact { version, url, sha256 }) = &want.distribution {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
        if version.is_empty() || version.starts_with('.') || !version.chars().all(plain) {
            wrong(
                "distribution.version".into(),
                version,
                "must be letters, digits and any of -_.+",
            );
        }
        if !(url.starts_with("https://") || url.starts_with("file:///")) {
            wrong("distribution.url".into(), url, "must begin with https:// or file:///");
        }
        if sha256.len() != 64 || !sha256.chars().all(|c| c.is_ascii_hexdigit()) {
            wrong("distribution.sha256".into(), sha256, "must be 64 hexadecimal digits");
        }
    }
    let SnapshotPolicy { s3, recovery_key, .. } = &want.snapshots;
    if let Some(s3) = s3 {
        if !is_http(&s3.endpoint) {
            wrong("snapshots.s3.endpoint".into(), &s3.endpoint, "must be an http(s) URL");
        }
        if s3.bucket.is_empty() {
            wrong("snapshots.s3.bucket".into(), "", "must be the name of a bucket");
        }
        if recovery_key.is_none() {
            let what = "is needed, or nothing could leave the nodes: make one with age-keygen";
            wrong("snapshots.recoveryKey".into(), "", what);
        }
    }
    if let Some(key) = recovery_key
        && !(key.starts_with("age1") && key.len() > 20 && key.bytes().all(|b| b.is_ascii_graphic()))
    {
        wrong("snapshots.recoveryKey".into(), key, "must be an age recipient, age1…");
    }
    errors
}

fn is_http(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::kubernetes::{RegistryMirror, S3Target};

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
            ..Default::default()
        };
        let expected = [
            "labels",
            "taints[0]",
            "disable[0]",
            "disable[1]",
            "mirrors[0].registry",
            "mirrors[0].endpoints[0]",
            "distribution.version",
            "distribution.url",
            "distribution.sha256",
            "snapshots.s3.endpoint",
            "snapshots.recoveryKey",
        ];
        assert_eq!(fields(&want), expected.map(|field| format!("spec.kubernetes.{field}")));
    }
}
