//! Releases of the stories: a small shop, and what is wrong with it.

use super::REGISTRY;
use holdfast_api::kubernetes::{ReleaseRef, release_digest};
use holdfast_cluster::release::journal::Kept;
use std::collections::BTreeMap;

pub fn image(tag: &str) -> String {
    format!("{REGISTRY}/app:{tag}")
}

/// A release. What it always has: a namespace, a ConfigMap, a definition, and `web`.
#[derive(Clone, Copy)]
pub struct Shop<'a> {
    pub version: &'a str,
    /// Of `web`.
    pub image: &'a str,
    /// Name of a ConfigMap that other releases do not have.
    pub config: &'a str,
    /// Seconds that an object may take.
    pub timeout: u32,
    /// Further variables of `web`, as in `, {name: A, value: b}`.
    pub variables: &'a str,
    /// Resources of `web`.
    pub resources: &'a str,
    /// Further documents.
    pub more: &'a str,
}

impl Default for Shop<'_> {
    fn default() -> Self {
        Shop {
            version: "one",
            image: "v1",
            config: "old",
            timeout: 90,
            variables: "",
            resources: "{}",
            more: "",
        }
    }
}

impl Shop<'_> {
    pub fn release(&self) -> Kept {
        let Shop { version, config, timeout, variables, resources, more, .. } = *self;
        let image = if self.image.contains('/') { self.image.into() } else { image(self.image) };
        let space = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
        let app = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {config}, namespace: shop}}\n---\n\
             apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: same, namespace: shop}}\n\
             data: {{version: {version}}}\n---\n\
             apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, namespace: shop}}\nspec:\n  \
             replicas: 1\n  selector: {{matchLabels: {{app: web}}}}\n  template:\n    \
             metadata: {{labels: {{app: web}}}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
             containers:\n      - name: web\n        image: {image}\n        \
             env: [{{name: TEXT, value: {version:?}}}{variables}]\n        resources: {resources}\n        \
             readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1}}\n"
        );
        let definition = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
             metadata: {name: gadgets.lab.example}\nspec:\n  group: lab.example\n  scope: Namespaced\n  \
             names: {kind: Gadget, plural: gadgets, singular: gadget}\n  versions:\n  - name: v1\n    \
             served: true\n    storage: true\n    schema: {openAPIV3Schema: {type: object, properties: \
             {spec: {type: object, properties: {size: {type: integer}}}}}}\n";
        let manifests = [("space.yaml", space), ("app.yaml", &app), ("custom.yaml", definition)];
        let mut manifests: BTreeMap<String, String> =
            manifests.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        if !more.is_empty() {
            manifests.insert("more.yaml".into(), more.into());
        }
        let digest = release_digest(&manifests);
        let release = ReleaseRef { name: "shop".into(), version: version.into(), digest, force: 0 };
        Kept { release, manifests, timeout_secs: timeout }
    }
}
