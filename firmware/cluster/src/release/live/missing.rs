//! What the API server looks up when it admits a pod: its account and its classes. A release may
//! bring them with the pod, and then they are not there in the dry run. Pure.
//!
//! The API server answers 403 with these words (plugin/pkg/admission of Kubernetes:
//! serviceaccount, priority, runtimeclass), the same in all versions since 1.20.

use crate::kubernetes::ApiError;
use crate::object::Object;
use crate::release::model::Release;

/// A field of a pod's specification that names another object.
struct Reference {
    /// Words of the refusal.
    words: &'static str,
    kind: &'static str,
    namespaced: bool,
    /// The field, with its older names.
    fields: &'static [&'static str],
}

const REFERENCES: [Reference; 3] = [
    Reference {
        words: "error looking up service account ",
        kind: "ServiceAccount",
        namespaced: true,
        fields: &["serviceAccountName", "serviceAccount"],
    },
    Reference {
        words: "no PriorityClass with name ",
        kind: "PriorityClass",
        namespaced: false,
        fields: &["priorityClassName"],
    },
    Reference {
        words: "pod rejected: RuntimeClass ",
        kind: "RuntimeClass",
        namespaced: false,
        fields: &["runtimeClassName"],
    },
];

fn refused(object: &Object, error: &ApiError) -> Option<&'static Reference> {
    let ApiError::Refused { message, .. } = error else { return None };
    let is_pod = object.id.kind == "Pod" && object.id.api_version == "v1";
    REFERENCES.iter().find(|reference| is_pod && message.contains(reference.words))
}

/// Whether the object was refused for what it names.
pub(super) fn is_looked_up(object: &Object, error: &ApiError) -> bool {
    refused(object, error).is_some()
}

/// `tried` without the reference for which it was refused, when the release brings what is
/// referred to; `object` is what the release has of it.
pub(super) fn without(
    release: &Release,
    object: &Object,
    tried: &Object,
    error: &ApiError,
) -> Option<Object> {
    let Reference { kind, namespaced, fields, .. } = refused(object, error)?;
    let spec = &tried.value["spec"];
    let name = fields.iter().find_map(|field| spec[field].as_str())?;
    let brings = release.items.iter().map(|item| &item.object.id).any(|id| {
        let at = !namespaced || id.namespace == object.id.namespace;
        id.kind == *kind && id.name == name && at
    });
    let mut tried = tried.clone();
    let spec = tried.value["spec"].as_object_mut().filter(|_| brings)?;
    for field in *fields {
        spec.remove(*field);
    }
    Some(tried)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::parse;
    use holdfast_api::kubernetes::ReleaseRef;

    const TEXT: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: shop}
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: high}
value: 1
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {serviceAccountName: web, priorityClassName: high, containers: [{name: a, image: a}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: default}
spec: {serviceAccountName: web, containers: [{name: a, image: a}]}
";

    fn refusal(why: &str) -> ApiError {
        ApiError::Refused {
            attempt: "try".into(),
            fields: Vec::new(),
            message: format!("pods \"web\" is forbidden: {why}"),
        }
    }

    #[test]
    fn what_comes_with_the_release_is_left_out_of_the_trial() {
        let reference = ReleaseRef { name: "shop".into(), ..ReleaseRef::default() };
        let manifests = [("a.yaml".to_owned(), TEXT.to_owned())].into();
        let release = parse::parse(&reference, &manifests, std::time::Duration::ZERO).unwrap();
        let pod = |name: &str| {
            let items = release.items.iter().map(|item| &item.object);
            items.into_iter().find(|it| it.id.kind == "Pod" && it.id.name == name).unwrap().clone()
        };
        let web = pod("web");
        let account = "error looking up service account shop/web: serviceaccount \"web\" not found";
        let tried = without(&release, &web, &web, &refusal(account)).unwrap();
        assert!(tried.value["spec"].get("serviceAccountName").is_none());
        let class = refusal("no PriorityClass with name high was found");
        let tried = without(&release, &web, &tried, &class).unwrap();
        assert_eq!(tried.value["spec"].as_object().unwrap().len(), 1, "{tried:?}");
        assert_eq!(without(&release, &web, &tried, &class), None, "it is said once");
        assert!(is_looked_up(&web, &class) && !is_looked_up(&web, &refusal("a quota")));

        let other = pod("other");
        let refused = refusal(&account.replace("shop", "default"));
        assert_eq!(without(&release, &other, &other, &refused), None, "that account is another");
    }
}
