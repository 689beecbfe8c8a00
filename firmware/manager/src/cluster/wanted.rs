//! What the manager's loop wants of Kubernetes, taken from the inputs of a pass. Pure: whatever
//! must be read is asked for through [`Look`].

mod usable;

use crate::inputs::Inputs;
use crate::intent::cluster::{Disk, again, kept_off, wish};
use crate::releases::ReleaseStore;
use holdfast_api::Reason;
use holdfast_api::kubernetes::{KubernetesIntent, KubernetesRole, ReleaseRef};
use holdfast_api::local::Problem;
use holdfast_api::resources::ReleaseSpec;
use holdfast_cluster::distribution::Wish;
use holdfast_cluster::release::journal::Kept;
use hugepages::Have;
use hugepages::observe::ObserveError;
use std::sync::Arc;
pub use usable::Usable;

/// A release with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedRelease {
    /// Which.
    pub reference: ReleaseRef,
    /// Its manifests; none while they were not fetched. Up to 768 KiB, so it is shared.
    pub content: Option<Arc<ReleaseSpec>>,
}

impl WantedRelease {
    /// As the engine takes it; none while there is no content.
    pub fn kept(&self) -> Option<Kept> {
        let content = self.content.as_ref()?;
        Some(Kept {
            release: self.reference.clone(),
            manifests: content.manifests.clone(),
            timeout_secs: content.timeout_secs,
        })
    }
}

/// Tunnels of the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// How many pass data.
    pub up: usize,
    /// How many there should be.
    pub want: u8,
}

/// What is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The distribution.
    pub wish: Wish,
    /// The controller's word, with the policy of snapshots and the nodes of the site; the role is
    /// that of the wish.
    pub intent: Option<KubernetesIntent>,
    /// The release.
    pub release: Option<WantedRelease>,
    /// The site's name.
    pub site: String,
    /// The node's name.
    pub node_name: String,
    /// The tunnels.
    pub tunnels: Tunnels,
    /// What is asked for cannot be had; what runs goes on.
    pub problem: Option<Problem>,
    /// A release that the controller asks for and that this node has no room to note, and why not.
    pub unkept: Option<(ReleaseRef, Problem)>,
    /// The wish is what the controller asks for now.
    pub is_usable: bool,
    /// The controller does not count this node among the site's any more. What runs goes on until
    /// the others have removed it.
    pub is_retired: bool,
}

/// What is read for it, when it matters.
pub struct Look<'a> {
    /// The kernel's huge pages.
    pub pools: &'a dyn Fn() -> Result<Have, ObserveError>,
    /// Content of the release with this digest, from the disk.
    pub content: &'a dyn Fn(&str) -> Option<ReleaseSpec>,
    /// What the node has of a cluster.
    pub disk: &'a dyn Fn() -> Disk,
    /// What could be used last.
    pub usable: &'a dyn Fn() -> Option<Usable>,
}

impl Wanted {
    /// What these inputs say, looked up on this machine. `release_problem` is why the content of
    /// the release is not there yet.
    pub fn of(inputs: &Inputs, release_problem: Option<&Problem>, before: &Wanted) -> Wanted {
        let look = Look {
            pools: &|| hugepages::observe(&inputs.root),
            content: &|digest| ReleaseStore::new(&inputs.root).load(digest),
            disk: &|| Disk::observe(&inputs.root),
            usable: &|| Usable::load(&inputs.root),
        };
        let wanted = Wanted::new(inputs, &look, release_problem, before);
        let of = |one: &Wanted| (one.wish.clone(), one.intent.clone(), one.is_usable);
        if of(&wanted) != of(before) {
            Usable::keep(&inputs.root, &wanted);
        }
        wanted
    }

    /// What these inputs say. Without a desired state everything stays as it was `before`; so does
    /// what runs when what is asked for cannot be had, also when this manager never knew it. The
    /// tunnels' number is told apart ([`super::Cluster::tunnels`]), and what was not kept by the
    /// ledger.
    pub fn new(
        inputs: &Inputs,
        look: &Look<'_>,
        release_problem: Option<&Problem>,
        before: &Wanted,
    ) -> Wanted {
        let Some(desired) = inputs.desired.as_deref() else { return before.clone() };
        let asked = wish(inputs, look.pools, look.disk);
        let is_usable = asked.is_ok();
        let (wish, mut problem) = match asked {
            Ok(wish) => (wish, kept_off(inputs)),
            Err(problem) => {
                let last = || again(&(look.usable)()?, inputs, look.pools);
                let last = match before.wish == Wish::Unknown {
                    true => last().unwrap_or_default(),
                    false => before.wish.clone(),
                };
                // The last word was the same: then nothing is begun either.
                let is_same = problem.reason == Reason::KubernetesSecondCluster
                    && matches!(&last, Wish::Run(wants) if wants.role == KubernetesRole::ClusterInit);
                (if is_same { Wish::Unknown } else { last }, Some(problem))
            }
        };
        let reference = desired.kubernetes.as_ref().and_then(|intent| intent.release.clone());
        let release = reference.filter(|_| matches!(wish, Wish::Run(_))).map(|reference| {
            let known = before.release.as_ref();
            let known = known.filter(|known| known.reference.digest == reference.digest);
            let content = known.and_then(|known| known.content.clone());
            let content = content.or_else(|| (look.content)(&reference.digest).map(Arc::new));
            WantedRelease { reference, content }
        });
        if let Some(release) = release.as_ref().filter(|release| release.content.is_none()) {
            let waits = || {
                let text = format!("release {} is being fetched", release.reference.name);
                Problem::new(Reason::ReleaseUnavailable, text)
            };
            problem = problem.or_else(|| Some(release_problem.cloned().unwrap_or_else(waits)));
        }
        // What this node is, is what it runs as, whatever it is told to be.
        let mut intent = desired.kubernetes.clone();
        if let (Some(intent), Wish::Run(wants)) = (&mut intent, &wish) {
            intent.role = wants.role;
        }
        let want = desired.tunnels.as_ref().map_or(0, |tunnels| tunnels.want);
        Wanted {
            wish,
            intent,
            release,
            site: desired.site.clone(),
            node_name: desired.node.clone(),
            tunnels: Tunnels { want, ..before.tunnels },
            problem,
            unkept: before.unkept.clone(),
            is_usable,
            is_retired: before.is_retired,
        }
    }

    /// It shall run.
    pub fn runs(&self) -> bool {
        matches!(self.wish, Wish::Run(_))
    }

    /// The controller's word, when this node is to hold the datastore.
    pub fn server(&self) -> Option<&KubernetesIntent> {
        self.intent.as_ref().filter(|intent| self.runs() && intent.role.is_server())
    }
}

#[cfg(test)]
mod tests;
