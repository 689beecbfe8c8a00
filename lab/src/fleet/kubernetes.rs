//! Kubernetes in a world: the nodes of the first site run it, with one workload.
//!
//! Nothing is started here but the registries of images, one behind each edge, so that images come
//! through the tunnels. The controller is told of a release and a site that runs it; everything
//! else is the nodes' managers', as on real boxes: who is a server, who joins whom, who applies the
//! release. k3s is `lab-k3s` with the node's root as its own, also where there is a real k3s: the nodes share the machine's files, and
//! that one knows no other root. Its control group bears the host's name, so that it is found when the world goes.
//! A world without edges has none, for there would be no way to the images.

use super::{FleetError, Stages, ask, at, manager_socket, node_services};
use crate::netns;
use crate::world::topology::SERVICE;
use crate::world::{Home, Host, World, WorldError, WorldSpec};
use holdfast_api::Reason;
use holdfast_api::kubernetes::{KubernetesPhase, KubernetesState, RegistryMirror, ReleasePhase};
use holdfast_api::local::NodeReport;
use holdfast_api::resources::{ReleaseSpec, SiteKubernetes};
use holdfast_durable::WriteError;
use holdfast_lab_kubernetes::cache::{BUILD_VARIABLE, Built};
use holdfast_lab_kubernetes::image;
use holdfast_lab_kubernetes::node::{NodeError, REGISTRY, registry_config, web_image};
use holdfast_lab_kubernetes::places::ROOT_VARIABLE;
use holdfast_lab_kubernetes::server::outer::GROUP_VARIABLE;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

/// Name of the release.
pub const RELEASE: &str = "web";

/// Port of every node where the workload answers.
pub const NODE_PORT: u16 = 30080;

/// What it answers.
pub const ANSWER: &str = "hello from the laboratory";

/// How long a cluster may take until it is ready, on a machine that does other things as well.
const READY_WITHIN: Duration = Duration::from_secs(600);

/// How long the release may take.
const RELEASED_WITHIN: Duration = Duration::from_secs(600);

/// How long the workload may take to answer when it is ready.
const ANSWERS_WITHIN: Duration = Duration::from_secs(120);

/// Why Kubernetes is not there.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// The build is gone.
    #[error("there is no Kubernetes in {} any more", .0.display())]
    NotBuilt(PathBuf),
    /// The workload's image cannot be made.
    #[error("cannot make the workload's image")]
    Image(#[source] NodeError),
    /// A file cannot be written.
    #[error("cannot fill the registry")]
    Registry(#[source] WriteError),
    /// It does not come as far as it should.
    #[error("{host}: not {what}; it says: {phase:?}, {message}")]
    Late {
        /// The node.
        host: Host,
        /// What was waited for.
        what: &'static str,
        /// Where it is.
        phase: KubernetesPhase,
        /// In its words.
        message: String,
        /// Its code.
        reason: Option<Reason>,
        /// How long was waited.
        #[source]
        source: Box<WorldError>,
    },
    /// The release was tried and is not in force.
    #[error("{host}: release {RELEASE} is not in force: {phase:?}, {message}")]
    Release {
        /// The node.
        host: Host,
        /// Where it ended.
        phase: ReleasePhase,
        /// In its words.
        message: String,
        /// Its code.
        reason: Option<Reason>,
    },
}

impl KubernetesError {
    /// The node's own code, where it gave one.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Late { reason, .. } | Self::Release { reason, .. } => *reason,
            Self::NotBuilt(_) => Some(Reason::KubernetesAbsent),
            Self::Image(_) | Self::Registry(_) => None,
        }
    }
}

fn failed(error: KubernetesError) -> FleetError {
    FleetError::Kubernetes(Box::new(error))
}

/// Whether a node of such a world runs it.
pub fn wanted(spec: &WorldSpec) -> bool {
    spec.kubernetes.is_some() && spec.edges > 0 && spec.nodes > 0
}

/// The build that `host` runs.
pub fn runs_on(spec: &WorldSpec, host: Host) -> Option<PathBuf> {
    spec.kubernetes.clone().filter(|_| wanted(spec) && nodes(spec).any(|node| node == host))
}

/// The nodes that run it: those of the first site.
pub fn nodes(spec: &WorldSpec) -> impl Iterator<Item = Host> + use<> {
    spec.first_site().map(Host::Node)
}

/// What `lab-k3s` has to know, through its manager: the build, the node's root, and the name of
/// its control group.
pub fn environment(
    build: Option<&PathBuf>,
    root: &str,
    group: &str,
) -> Vec<(&'static str, String)> {
    let Some(build) = build else { return Vec::new() };
    vec![
        (BUILD_VARIABLE, build.display().to_string()),
        (ROOT_VARIABLE, root.into()),
        (GROUP_VARIABLE, group.into()),
    ]
}

/// What is asked of the site.
pub fn of_site() -> SiteKubernetes {
    SiteKubernetes {
        release: Some(RELEASE.into()),
        mirrors: vec![RegistryMirror {
            registry: REGISTRY.into(),
            endpoints: vec![format!("http://{SERVICE}:5000")],
        }],
        ..SiteKubernetes::default()
    }
}

/// The workload.
pub fn release() -> ReleaseSpec {
    release_of("1", ANSWER)
}

/// A version of the workload, with an image of its own, and what it answers. Its ports name their
/// protocol, which Kubernetes 1.20 wants for server-side apply.
pub fn release_of(version: &str, answer: &str) -> ReleaseSpec {
    let manifest = format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: default}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: {image}
        env: [{{name: TEXT, value: {answer:?}}}]
        ports: [{{containerPort: 8080, protocol: TCP}}]
        readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default}}
spec:
  type: NodePort
  selector: {{app: web}}
  ports: [{{port: 80, protocol: TCP, targetPort: 8080, nodePort: {NODE_PORT}}}]
",
        image = image_of(version),
    );
    ReleaseSpec {
        version: version.into(),
        manifests: [("web.yaml".into(), manifest)].into(),
        timeout_secs: 120,
    }
}

/// The image of a version of the workload.
pub fn image_of(version: &str) -> String {
    format!("{REGISTRY}/web:{version}")
}

/// Puts an image of the workload into the registries, which have their images in one place.
///
/// # Errors
/// [`FleetError`].
pub fn publish(world: &World, image: &str) -> Result<(), FleetError> {
    let Some(root) = world.spec().kubernetes.clone() else { return Ok(()) };
    let built = Built::open(&root).ok_or_else(|| failed(KubernetesError::NotBuilt(root)))?;
    let image = web_image(&built, image).map_err(|error| failed(KubernetesError::Image(error)))?;
    image::publish(&images(world), &image).map_err(|error| failed(KubernetesError::Registry(error)))
}

fn images(world: &World) -> PathBuf {
    world.home().dir().join("registry")
}

/// Starts a registry on each of the hosts, all with the same images.
///
/// # Errors
/// [`FleetError`].
pub fn start_registries(world: &mut World, hosts: &[Host]) -> Result<(), FleetError> {
    let Some(root) = world.spec().kubernetes.clone() else { return Ok(()) };
    let built = Built::open(&root).ok_or_else(|| failed(KubernetesError::NotBuilt(root)))?;
    publish(world, &image_of("1"))?;
    let config = world.home().dir().join("registry.yml");
    holdfast_durable::write(&config, registry_config(&images(world)).as_bytes(), 0o600)
        .map_err(|error| failed(KubernetesError::Registry(error)))?;
    let program = built.usr().join("bin/docker-registry");
    let environment = built.environment();
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let config = config.display().to_string();
    for host in hosts {
        let name = format!("{host}.registry");
        world
            .start(&name, Some(*host), &program, &["serve", &config], &environment)
            .map_err(at("start the registries"))?;
    }
    Ok(())
}

/// Waits until the cluster is ready on every node, the release in force and the workload answers
/// at each of them.
///
/// # Errors
/// [`FleetError`] with what the node says of itself.
pub fn wait(world: &mut World, clock: &mut Stages<'_>) -> Result<(), FleetError> {
    let all: Vec<Host> = nodes(world.spec()).collect();
    for (number, host) in all.iter().enumerate() {
        wait_ready(world, *host)?;
        clock.reached(world, &of("Kubernetes ready", number, all.len()))?;
    }
    for host in &all {
        until(world, *host, "with the images of the release", RELEASED_WITHIN, |state| {
            let has = matches!(state.release.phase, ReleasePhase::Waiting)
                && state.release.reason == Some(Reason::ReleaseOtherManager);
            let phase = state.release.phase;
            Ok((has || phase >= ReleasePhase::Applying || ended(*host, state)?).then_some(()))
        })?;
    }
    clock.reached(world, "images of the release on every node")?;
    for host in &all {
        until(world, *host, "running the release", RELEASED_WITHIN, |state| {
            Ok(ended(*host, state)?.then_some(()))
        })?;
    }
    clock.reached(world, "release in force")?;
    for host in all {
        let [_, manager] = node_services(host);
        let home = world.home().clone();
        world
            .wait_for(&manager, "the workload's answer", ANSWERS_WITHIN, || {
                answers(&home, host).then_some(())
            })
            .map_err(at("ask the workload"))?;
    }
    clock.reached(world, "pod answers")
}

/// Waits until Kubernetes is ready on this node.
///
/// # Errors
/// [`FleetError`] with what the node says of itself.
pub fn wait_ready(world: &mut World, host: Host) -> Result<(), FleetError> {
    until(world, host, "ready", READY_WITHIN, |state| {
        Ok((state.phase == KubernetesPhase::Ready).then_some(()))
    })
}

/// A stage that every node reaches, told which of them did.
fn of(stage: &str, number: usize, all: usize) -> String {
    if all == 1 { stage.into() } else { format!("{stage} on {} of {all} nodes", number + 1) }
}

/// Whether the workload answers at this node to somebody elsewhere in the world.
pub fn answers(home: &Home, host: Host) -> bool {
    answers_with(home, host, ANSWER)
}

/// The same of a version that answers something else.
pub fn answers_with(home: &Home, host: Host, expected: &str) -> bool {
    let address = host.address().unwrap_or(Ipv4Addr::LOCALHOST);
    let ask = || get((address, NODE_PORT).into());
    let answer = netns::inside(&Host::Controller.netns(home.world()), ask);
    answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.ends_with(expected)))
}

/// Whether the release is in force.
fn ended(host: Host, state: &KubernetesState) -> Result<bool, KubernetesError> {
    let release = &state.release;
    match release.phase {
        ReleasePhase::Committed => Ok(true),
        ReleasePhase::RolledBack | ReleasePhase::Refused => Err(KubernetesError::Release {
            host,
            phase: release.phase,
            message: release.message.clone(),
            reason: release.reason,
        }),
        ReleasePhase::None
        | ReleasePhase::Waiting
        | ReleasePhase::Preflight
        | ReleasePhase::PrePull
        | ReleasePhase::Applying
        | ReleasePhase::Verifying
        | ReleasePhase::Pruning
        | ReleasePhase::RollingBack => Ok(false),
    }
}

fn until(
    world: &mut World,
    host: Host,
    what: &'static str,
    patience: Duration,
    sign: impl Fn(&KubernetesState) -> Result<Option<()>, KubernetesError>,
) -> Result<(), FleetError> {
    let socket = manager_socket(world, host);
    let state = || ask::<NodeReport>(&socket, "/v1/status").ok()?.kubernetes;
    let [_, manager] = node_services(host);
    let waited = world.wait_for(&manager, what, patience, || {
        // Asking costs the node something too.
        std::thread::sleep(Duration::from_millis(50));
        sign(&state()?).transpose()
    });
    match waited {
        Ok(result) => result.map_err(failed),
        Err(late) => {
            let state = state().unwrap_or_default();
            Err(failed(KubernetesError::Late {
                host,
                what,
                phase: state.phase,
                message: format!("{} {}", state.message, state.release.message).trim().into(),
                reason: state.reason.or(state.release.reason),
                source: Box::new(late),
            }))
        }
    }
}

/// The answer to a request of HTTP/1.0 (RFC 1945), which ends with the connection.
fn get(address: SocketAddr) -> io::Result<String> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.trim_end().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[test]
    fn the_manifests_are_yaml_and_the_image_is_the_registrys() {
        let release = release();
        let documents: Vec<serde_json::Value> =
            serde_yaml_ng::Deserializer::from_str(&release.manifests["web.yaml"])
                .map(|one| serde_json::Value::deserialize(one).unwrap())
                .collect();
        let kinds: Vec<&str> = documents.iter().filter_map(|one| one["kind"].as_str()).collect();
        assert_eq!(kinds, ["Deployment", "Service"]);
        let container = &documents[0]["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["image"], format!("{}/web:1", of_site().mirrors[0].registry));
        assert_eq!(container["env"][0]["value"], ANSWER);
    }

    #[test]
    fn only_the_first_site_of_a_world_with_edges_runs_it() {
        let spec = WorldSpec { kubernetes: Some("/k".into()), nodes: 2, ..WorldSpec::default() };
        assert_eq!(runs_on(&spec, Host::Node(1)), Some("/k".into()));
        assert_eq!(runs_on(&spec, Host::Node(2)), None);
        let shared = WorldSpec { nodes: 3, site_nodes: 2, ..spec.clone() };
        assert_eq!(runs_on(&shared, Host::Node(2)), Some("/k".into()));
        assert_eq!(runs_on(&shared, Host::Node(3)), None);
        assert!(!wanted(&WorldSpec { edges: 0, ..spec.clone() }));
        assert!(!wanted(&WorldSpec { kubernetes: None, ..spec }));
        assert_eq!(environment(None, "/r", "g"), []);
    }
}
