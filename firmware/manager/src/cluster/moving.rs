//! What comes before the distribution's program is replaced, and after: agents wait for their
//! servers, servers keep their datastore, and the node waits for its turn under the reboot lock,
//! which drains it.

use super::{Wanted, releases};
use holdfast_api::kubernetes::KubernetesRole;
use holdfast_api::marks::FLEET_LOCK_PORT;
use holdfast_api::{Reason, chain};
use holdfast_cluster::distribution::Version;
use holdfast_cluster::distribution::diagnose::Diagnosis;
use holdfast_cluster::distribution::service::{Later, Workloads};
use holdfast_cluster::distribution::upgrade::{Failed, is_ahead};
use holdfast_cluster::nodes::client::{Address, Client, Http};
use holdfast_cluster::nodes::failed;
use holdfast_cluster::nodes::fleetlock::Key;
use holdfast_cluster::nodes::outside::Server;
use holdfast_cluster::nodes::reboot::{Journal, Purpose, RebootSettings};
use holdfast_cluster::nodes::turn::{Turn, Waits};
use holdfast_cluster::paths::ClusterPaths;
use holdfast_cluster::snapshots::{self, Why};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::warn;

/// How long the supervision of the distribution waits for the lock before it tells what for.
const PATIENCE: Duration = Duration::from_secs(30);
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The node's own way through an upgrade.
pub(super) struct Moving {
    paths: ClusterPaths,
    wants: watch::Receiver<Wanted>,
    snapshots: watch::Receiver<Option<snapshots::Handle>>,
    port: u16,
    /// Begun when Kubernetes is first wanted: its journal may have a turn to give back.
    turn: OnceLock<Turn>,
    /// For which version the datastore was kept, so that a drain that takes its time keeps it once.
    kept_for: Mutex<Option<Version>>,
}

impl Moving {
    /// `fleet_lock` is the local setting; its port is the one that all servers of the site have.
    pub(super) fn new(
        paths: &ClusterPaths,
        wants: watch::Receiver<Wanted>,
        snapshots: watch::Receiver<Option<snapshots::Handle>>,
        fleet_lock: Option<SocketAddr>,
    ) -> Arc<Moving> {
        Arc::new(Moving {
            paths: paths.clone(),
            wants,
            snapshots,
            port: fleet_lock.map_or(FLEET_LOCK_PORT, |address| address.port()),
            turn: OnceLock::new(),
            kept_for: Mutex::default(),
        })
    }

    /// The node's turn; asked for the first time, it carries on what an earlier manager began.
    pub(super) fn turn(&self) -> &Turn {
        self.turn.get_or_init(|| {
            let path = self.paths.state_dir().join("nodes/reboot.json");
            let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
            let settings = RebootSettings::default();
            let (journal, complaint) = Journal::open(path, boot.trim(), settings, Instant::now());
            if let Some(complaint) = complaint {
                warn!(complaint, "the journal of the reboot lock was damaged");
            }
            let (wants, paths, port) = (self.wants.clone(), self.paths.clone(), self.port);
            Turn::start(journal, move || client(&wants.borrow(), &paths, port))
        })
    }

    /// Kubernetes supports no agent that is newer than its servers.
    async fn after_the_servers(&self, to: &Version) -> Result<(), Diagnosis> {
        let api = {
            let wanted = self.wants.borrow();
            let agent = wanted.intent.as_ref().map(|intent| intent.role);
            if agent != Some(KubernetesRole::Agent) {
                return Ok(());
            }
            releases::connect(&self.paths, &wanted)
        };
        let api = api.map_err(|problem| told(problem.reason, problem.message))?;
        let server = api.version().await.map_err(|error| told(error.reason(), chain(&error)))?;
        if is_ahead(&to.version, &server) {
            let text = format!("the servers run {server}; {to} comes after them");
            return Err(told(Reason::KubernetesServersFirst, text));
        }
        Ok(())
    }

    /// One server finds out for all of them. Agents follow their servers, and may not see others.
    async fn not_elsewhere(&self, to: &Version) -> Result<Option<Diagnosis>, Diagnosis> {
        let (api, node, artifact) = {
            let wanted = self.wants.borrow();
            let artifact = wanted.server().and_then(|intent| intent.distribution.clone());
            let Some(artifact) = artifact.filter(|one| Version::of(one) == *to) else {
                return Ok(None);
            };
            (releases::connect(&self.paths, &wanted), wanted.node_name.clone(), artifact)
        };
        let api = api.map_err(|problem| told(problem.reason, problem.message))?;
        let who = failed::elsewhere(&api, &node, &artifact).await;
        let who = who.map_err(|error| told(error.reason(), chain(&error)))?;
        let text = |who| format!("{to} failed on {who}");
        Ok(who.map(|who| told(Reason::KubernetesFailedElsewhere, text(who))))
    }

    async fn keep_datastore(&self, to: &Version) -> Result<(), Diagnosis> {
        let known = || self.kept_for.lock().unwrap_or_else(PoisonError::into_inner);
        if known().as_ref() == Some(to) {
            return Ok(());
        }
        let snapshots = self.snapshots.borrow().clone();
        if let Some(snapshots) = snapshots {
            let taken = snapshots.take_now(Why::Upgrade(to.version.clone())).await;
            taken.map_err(|error| told(error.reason(), chain(&error)))?;
        }
        *known() = Some(to.clone());
        Ok(())
    }
}

impl Workloads for Moving {
    fn drain(&self, to: &Version) -> Later<'_, Result<(), Diagnosis>> {
        let to = to.clone();
        Box::pin(async move {
            self.after_the_servers(&to).await?;
            if let Some(failed) = self.not_elsewhere(&to).await? {
                // It may be asked for since before that was known.
                self.turn().give_back(PATIENCE).await.map_err(waits)?;
                return Err(failed);
            }
            self.keep_datastore(&to).await?;
            self.turn().take(Purpose::Upgrade, PATIENCE).await.map_err(waits)?;
            // The turn may have come with the failure of whoever had it before.
            match self.not_elsewhere(&to).await? {
                None => Ok(()),
                Some(failed) => {
                    self.turn().give_back(PATIENCE).await.map_err(waits)?;
                    Err(failed)
                }
            }
        })
    }

    fn note<'a>(&'a self, failed: &'a [Failed]) -> Later<'a, Result<(), Diagnosis>> {
        Box::pin(async move {
            let (api, node) = {
                let wanted = self.wants.borrow();
                if is_alone(&wanted) {
                    return Ok(());
                }
                (releases::connect(&self.paths, &wanted), wanted.node_name.clone())
            };
            let api = api.map_err(|problem| told(problem.reason, problem.message))?;
            let noted = failed::note(&api, &node, failed).await;
            noted.map_err(|error| told(error.reason(), chain(&error)))
        })
    }

    /// Nodes of a site are told of a change at the same moment, and restarted servers have no
    /// datastore for a while: one at a time. Nobody waits for a node that is alone.
    fn step_aside(&self) -> Later<'_, Result<(), Diagnosis>> {
        Box::pin(async move {
            if is_alone(&self.wants.borrow()) {
                return Ok(());
            }
            self.turn().take(Purpose::Upgrade, PATIENCE).await.map_err(waits)
        })
    }

    fn uncordon(&self) -> Later<'_, Result<(), Diagnosis>> {
        Box::pin(async move {
            *self.kept_for.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.turn().give_back(PATIENCE).await.map_err(waits)
        })
    }
}

/// The site has no other node. A list without any node is not known.
fn is_alone(wanted: &Wanted) -> bool {
    let nodes = wanted.intent.as_ref().map(|intent| intent.nodes.as_slice()).unwrap_or_default();
    !nodes.is_empty() && nodes.iter().all(|node| *node == wanted.node_name)
}

fn told(reason: Reason, message: String) -> Diagnosis {
    Diagnosis { reason, message }
}

fn waits(Waits { reason, message }: Waits) -> Diagnosis {
    told(reason, message)
}

/// A client for the servers of the site as they are wanted now: this node itself first, if it is
/// one.
fn client(wanted: &Wanted, paths: &ClusterPaths, port: u16) -> Client<Http> {
    let mut servers = Vec::new();
    if wanted.server().is_some() {
        let socket = paths.root().fleet_lock_socket();
        servers.push(Http { address: Address::Unix(socket), key: None });
    }
    if let Some(intent) = &wanted.intent {
        let others = intent.servers.iter().filter(|ip| Some(**ip) != intent.node_ip);
        servers.extend(others.map(|ip| Http {
            address: Address::Tcp(Server {
                address: SocketAddr::new(*ip, port),
                kubeconfig: paths.kubelet_kubeconfig(),
            }),
            key: Some(Key::of_site(&intent.token.0)),
        }));
    }
    Client::new(&wanted.node_name, "default", servers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::kubernetes::KubernetesIntent;

    #[test]
    fn a_node_is_alone_when_the_site_names_no_other() {
        let of = |nodes: &[&str]| {
            let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
            let intent = KubernetesIntent { nodes, ..KubernetesIntent::default() };
            let intent = Some(intent);
            is_alone(&Wanted { intent, node_name: "one".into(), ..Wanted::default() })
        };
        assert!(of(&["one"]));
        assert!(!of(&["one", "two"]) && !of(&["two"]));
        assert!(!of(&[]), "an older controller says nothing");
    }
}
