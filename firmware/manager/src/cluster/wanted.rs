//! What the manager's loop wants of Kubernetes, taken from the inputs of a pass. Pure but for the
//! release's content, which is read from the disk.

use crate::inputs::Inputs;
use crate::intent::cluster::{kept_off, wanted};
use crate::releases::ReleaseStore;
use holdfast_api::Reason;
use holdfast_api::kubernetes::{KubernetesIntent, ReleaseRef};
use holdfast_api::local::Problem;
use holdfast_api::resources::ReleaseSpec;
use holdfast_api::tunnel::TunnelsState;
use holdfast_cluster::distribution::NodeWants;

/// A release with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedRelease {
    /// Which.
    pub reference: ReleaseRef,
    /// Its manifests; none while they were not fetched.
    pub content: Option<ReleaseSpec>,
}

/// What is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The distribution; none when nobody asks for it.
    pub node: Option<NodeWants>,
    /// The controller's word, with the policy of snapshots and the nodes of the site.
    pub intent: Option<KubernetesIntent>,
    /// The release.
    pub release: Option<WantedRelease>,
    /// The site's name.
    pub site: String,
    /// The node's name.
    pub node_name: String,
    /// Tunnels that pass data, and how many there should be.
    pub tunnels: (usize, u8),
    /// The site has no other server.
    pub single_server: bool,
    /// What is asked for cannot be had; what runs goes on.
    pub problem: Option<Problem>,
}

impl Wanted {
    /// What these inputs say. `release_problem` is why the content is not there yet.
    pub fn of(
        inputs: &Inputs,
        tunnels: Option<&TunnelsState>,
        release_problem: Option<&Problem>,
        before: &Wanted,
    ) -> Wanted {
        let desired = inputs.desired.as_deref();
        let intent = desired.and_then(|spec| spec.kubernetes.clone());
        let pools = hugepages::observe(&inputs.root).ok();
        let (node, mut problem) = match wanted(inputs, pools.as_ref()) {
            Ok(node) => (node, kept_off(inputs)),
            // What cannot be had leaves what runs as it is.
            Err(problem) => (before.node.clone(), Some(problem)),
        };
        let reference = intent.as_ref().and_then(|intent| intent.release.clone());
        let release = reference.filter(|_| node.is_some()).map(|reference| {
            let known =
                before.release.as_ref().filter(|known| known.reference.digest == reference.digest);
            let content = known.and_then(|known| known.content.clone());
            let content =
                content.or_else(|| ReleaseStore::new(&inputs.root).load(&reference.digest));
            WantedRelease { reference, content }
        });
        if let Some(release) = release.as_ref().filter(|release| release.content.is_none()) {
            let waits = || {
                let text = format!("release {} is being fetched", release.reference.name);
                Problem::new(Reason::ReleaseUnavailable, text)
            };
            problem = problem.or_else(|| Some(release_problem.cloned().unwrap_or_else(waits)));
        }
        let single_server = intent.as_ref().is_some_and(|intent| intent.single_server);
        let want = desired.and_then(|spec| spec.tunnels.as_ref()).map_or(0, |t| t.want);
        Wanted {
            node,
            intent,
            release,
            site: desired.map(|spec| spec.site.clone()).unwrap_or_default(),
            node_name: desired.map(|spec| spec.node.clone()).unwrap_or_default(),
            single_server,
            tunnels: (tunnels.map_or(0, TunnelsState::up), want),
            problem,
        }
    }
}
