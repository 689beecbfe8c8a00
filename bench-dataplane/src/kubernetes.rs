//! A world whose node runs Kubernetes, for a scenario: what is asked of its site, what its manager
//! and its API server say.
//!
//! Kubernetes itself is never built here; where it is not, the scenario refuses and says how it is
//! had. What it leaves out: worlds with more than one such node.

pub(crate) mod ready;
pub(crate) mod way;
pub(crate) mod workloads;

use crate::world::Bench;
use anyhow::{Context, bail, ensure};
use holdfast_api::kubernetes::{KubernetesState, ReleasePhase};
use holdfast_api::local::NodeReport;
use holdfast_api::paths::Root;
use holdfast_api::resources::{ReleaseSpec, Site};
use holdfast_cluster::kubernetes::Api;
use holdfast_cluster::paths::ClusterPaths;
use holdfast_lab_kubernetes::cache::{Built, Cache};
use lab::fleet::{self, kubernetes::RELEASE, settings};
use lab::netns;
use lab::process::ProcessId;
use lab::world::{Host, WorldSpec};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// The node that runs it.
pub(crate) const NODE: Host = Host::Node(1);
/// Between two questions to the manager: they cost the node something too.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// Nothing takes longer unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

const DRILLED_WITHIN: Duration = Duration::from_secs(45);

/// A world that is up, its Kubernetes ready and the laboratory's own release in force.
pub(crate) struct Cluster {
    pub(crate) bench: Bench,
    pub(crate) built: Built,
    pub(crate) paths: ClusterPaths,
}

impl Cluster {
    /// Brings it up.
    pub(crate) fn up() -> anyhow::Result<Self> {
        let built = Built::of_environment().or_else(|| Cache::of_user().ok()?.find());
        let built = built.context(
            "skipped: Kubernetes is not built on this machine; `cargo lab up` builds it, once",
        )?;
        let kubernetes = Some(built.root().to_path_buf());
        // One edge would make a site that waits for its second tunnel.
        let bench = Bench::up(&WorldSpec { edges: 2, kubernetes, ..WorldSpec::default() })?;
        let paths = ClusterPaths::new(&Root::new(bench.world.home().root(NODE)));
        let cluster = Cluster { bench, built, paths };
        cluster.settle();
        Ok(cluster)
    }

    /// After its first snapshot the manager makes a drill, which starts a second control plane. A
    /// machine without room for it makes none, so this ends anyhow.
    fn settle(&self) {
        let end = Instant::now() + DRILLED_WITHIN;
        let drilled = || self.state().is_ok_and(|state| state.snapshots.drill.is_some());
        while !drilled() && Instant::now() < end {
            std::thread::sleep(10 * ASK_EVERY);
        }
    }

    /// What its manager says of Kubernetes.
    pub(crate) fn state(&self) -> anyhow::Result<KubernetesState> {
        self.report()?.kubernetes.context("its manager knows of no Kubernetes")
    }

    /// The node's name in its cluster, which the controller gave it.
    pub(crate) fn node_name(&self) -> anyhow::Result<String> {
        Ok(self.report()?.node)
    }

    fn report(&self) -> anyhow::Result<NodeReport> {
        Ok(fleet::ask(&fleet::manager_socket(&self.bench.world, NODE), "/v1/status")?)
    }

    /// Waits until the manager says something.
    pub(crate) fn wait<T>(
        &self,
        what: &str,
        said: impl Fn(&KubernetesState) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            // It does not answer while it starts.
            let state = self.state();
            if let Ok(state) = &state
                && let Some(value) = said(state)?
            {
                return Ok(value);
            }
            ensure!(Instant::now() < end, "not within {PATIENCE:?}: {what}: {state:?}");
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// The manager's process.
    pub(crate) fn manager(&self) -> anyhow::Result<ProcessId> {
        let [_, manager] = fleet::node_services(NODE);
        self.bench.world.process(&manager)?.context("holdfastd does not run")
    }

    /// Makes a release on the controller; no site runs it yet.
    pub(crate) fn offer(
        &self,
        name: &str,
        manifests: BTreeMap<String, String>,
    ) -> anyhow::Result<()> {
        let spec = ReleaseSpec { version: name.into(), manifests, timeout_secs: 120 };
        self.bench.operator.make_release(name, spec)?;
        Ok(())
    }

    /// Asks the site to run a release.
    pub(crate) fn want(&self, name: &str) -> anyhow::Result<()> {
        let patch = serde_json::json!({"spec": {"kubernetes": {"release": name}}});
        let Host::Node(number) = NODE else { bail!("Kubernetes runs on a node") };
        let _site: Site = self.bench.operator.patch(&settings::site(number), &patch)?;
        Ok(())
    }

    /// Waits until a release is in force; the milliseconds that it spent in each phase.
    pub(crate) fn committed(&self, name: &str) -> anyhow::Result<BTreeMap<String, u64>> {
        self.wait(&format!("release {name} in force"), |state| {
            let release = &state.release;
            let good = release.good.as_ref().is_some_and(|good| good.name == name);
            if release.wanted.name != name {
                return Ok(None);
            }
            match release.phase {
                ReleasePhase::Committed if good => Ok(Some(state.release_ms.clone())),
                ReleasePhase::RolledBack | ReleasePhase::Refused => {
                    bail!("release {name}: {:?}: {}", release.phase, release.message)
                }
                _ => Ok(None),
            }
        })
    }

    /// Back to the laboratory's own release.
    pub(crate) fn back(&self) -> anyhow::Result<()> {
        self.want(RELEASE)?;
        self.committed(RELEASE).map(|_| ())
    }

    /// Works with the node's API server, as its administrator, from inside of the node.
    pub(crate) fn with_api<T: Send>(
        &self,
        work: impl AsyncFnOnce(Api) -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        self.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { work(Api::connect(&self.paths.admin_kubeconfig())?).await })
        })
    }

    /// Runs in the node's network.
    pub(crate) fn inside<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        netns::inside(&self.bench.world.netns(NODE), work)?
    }
}

/// In which profile a program was built, wherever a link to it lies.
pub(crate) fn profile_of(program: &Path) -> String {
    let real = program.canonicalize().ok();
    crate::report::built(real.as_deref().and_then(Path::parent))
}
