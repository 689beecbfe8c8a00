//! What is wanted in the form in which it can be compared with the machine. Pure.

use super::model::NodeWants;
use super::plan::{Aspect, Aspects};
use super::render::{self, Rendered};
use crate::paths::ClusterPaths;
use ring::digest::{SHA256, digest};
use std::path::Path;

/// What is wanted, rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Our fragment of the configuration.
    pub config: Rendered,
    /// The registries, when there are mirrors.
    pub registries: Option<Rendered>,
    /// What a process that fits was started with.
    pub aspects: Aspects,
}

impl Wanted {
    /// Of a node that runs `program` with these arguments.
    pub fn new(
        wants: &NodeWants,
        paths: &ClusterPaths,
        program: &Path,
        arguments: &[String],
    ) -> Self {
        let sizes = wants.hugepages.iter().map(|(size, pages)| format!("{size}={pages}"));
        let mut aspects = Aspects::new();
        aspects.insert(Aspect::Arguments, arguments.join(" "));
        aspects.insert(Aspect::HugePages, sizes.collect::<Vec<_>>().join(" "));
        aspects.insert(Aspect::Program, program.display().to_string());
        Wanted { config: render::config(wants, paths), registries: None, aspects }
            .with_registries(render::registries(wants, paths))
    }

    /// The same with other files.
    #[must_use]
    pub fn with_files(self, config: Rendered, registries: Option<Rendered>) -> Self {
        Wanted { config, ..self }.with_registries(registries)
    }

    fn with_registries(mut self, registries: Option<Rendered>) -> Self {
        let lines = self.config.content.lines();
        let join: Vec<&str> = lines.filter(|line| render::is_about_joining(line)).collect();
        let rest = render::read_at_start(&self.config.content);
        self.aspects.insert(Aspect::Configuration, fingerprint(&rest));
        self.aspects.insert(Aspect::Join, join.join(" "));
        match &registries {
            Some(file) => self.aspects.insert(Aspect::Registries, fingerprint(&file.content)),
            None => self.aspects.remove(&Aspect::Registries),
        };
        Wanted { registries, ..self }
    }
}

/// The configuration is secret; the records of processes need not be.
fn fingerprint(text: &str) -> String {
    holdfast_api::hex(digest(&SHA256, text.as_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::model::tests::server;
    use holdfast_api::kubernetes::RegistryMirror;
    use holdfast_api::paths::Root;
    use hw_profiles::PageSize;

    #[test]
    fn each_change_shows_in_its_aspect_alone() {
        let paths = ClusterPaths::new(&Root::default());
        let want = |wants: &NodeWants, program: &str, arguments: &[String]| {
            Wanted::new(wants, &paths, Path::new(program), arguments).aspects
        };
        let changed = |other: Aspects| -> Vec<Aspect> {
            let base = want(&server(), "/k3s", &["server".into()]);
            let keys = other.keys().filter(|key| other.get(key) != base.get(key));
            keys.copied().collect()
        };
        let arguments = ["server".to_owned()];
        assert_eq!(changed(want(&server(), "/k3s", &arguments)), []);
        assert_eq!(changed(want(&server(), "/other", &arguments)), [Aspect::Program]);
        assert_eq!(changed(want(&server(), "/k3s", &["agent".into()])), [Aspect::Arguments]);
        let mut wants = server();
        wants.hugepages.insert(PageSize::G1, 1);
        assert_eq!(changed(want(&wants, "/k3s", &arguments)), [Aspect::HugePages]);
        let mut wants = server();
        wants.labels.insert("more".into(), "yes".into());
        wants.taints.clear();
        assert_eq!(changed(want(&wants, "/k3s", &arguments)), []);
        wants.labels.clear();
        assert_eq!(changed(want(&wants, "/k3s", &arguments)), []);
        wants.disable.insert("servicelb".into());
        assert_eq!(changed(want(&wants, "/k3s", &arguments)), [Aspect::Configuration]);
        let mut wants = server();
        wants.reserved_millicores += 1;
        assert_eq!(changed(want(&wants, "/k3s", &arguments)), [Aspect::Configuration]);
        let mut wants = server();
        wants.server = Some("https://10.0.0.2:6443".into());
        assert_eq!(changed(want(&wants, "/k3s", &arguments)), [Aspect::Join]);
        wants.role = holdfast_api::kubernetes::KubernetesRole::Server;
        assert_eq!(changed(want(&wants, "/k3s", &arguments)), [Aspect::Join]);
        let mut wants = server();
        wants.mirrors.push(RegistryMirror {
            registry: "*".into(),
            endpoints: vec!["http://10.0.0.1:5000".into()],
        });
        let aspects = want(&wants, "/k3s", &arguments);
        assert_eq!(changed(aspects.clone()), [Aspect::Registries]);
        assert!(!format!("{aspects:?}").contains("a-secret"));
    }
}
