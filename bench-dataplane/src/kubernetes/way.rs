//! A data plane in small: a DaemonSet whose pod is the way to the registry, and what asks over it.

use super::{Cluster, PATIENCE};
use anyhow::{Context, ensure};
use holdfast_cluster::kubernetes::{Api, Propagation, Readiness, readiness};
use holdfast_cluster::object::ObjectId;
use holdfast_lab_kubernetes::image::publish;
use holdfast_lab_kubernetes::node::web_image;
pub(crate) use holdfast_lab_kubernetes::way::WAY;
use holdfast_lab_kubernetes::way::manifest;
use lab::netns;
use lab::world::topology::SERVICE;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const ASK_EVERY: Duration = Duration::from_millis(5);
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LABEL: &str = "app=way";

/// The manifest of a version, whose image is named by `registry`.
pub(crate) fn manifests(registry: &str, version: u32) -> BTreeMap<String, String> {
    let text = manifest(&format!("{registry}/way:{version}"), SERVICE);
    [("way.yaml".to_owned(), text)].into()
}

impl Cluster {
    /// Puts a version's image into the world's registries; each version is another image.
    pub(crate) fn publish_way(&self, version: u32) -> anyhow::Result<()> {
        let image = web_image(&self.built, &format!("{WAY}/way:{version}"))?
            .link("bin/nc", "busybox")
            .variable("VERSION", &version.to_string());
        publish(&self.bench.world.home().dir().join("registry"), &image)?;
        Ok(())
    }

    /// Deletes the pod, and waits until another one is ready in its place.
    pub(crate) fn restart_way(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        self.with_api(async |api| {
            let old = pods(&api).await?;
            for pod in &old {
                let name = pod["metadata"]["name"].as_str().context("a pod without a name")?;
                let id = ObjectId {
                    api_version: "v1".into(),
                    kind: "Pod".into(),
                    namespace: Some("default".into()),
                    name: name.into(),
                };
                api.delete(&id, None, Propagation::Background).await?;
            }
            let uid = |pod: &Value| pod["metadata"]["uid"].clone();
            let gone: Vec<Value> = old.iter().map(uid).collect();
            loop {
                let now = pods(&api).await?;
                let is_new =
                    |pod: &Value| !gone.contains(&uid(pod)) && readiness(pod) == Readiness::Ready;
                if now.len() == 1 && now.iter().all(is_new) {
                    return Ok(());
                }
                ensure!(Instant::now() < deadline, "the pod does not come again");
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
    }

    /// What Kubernetes warned of about such pods, of its last hour; it tells why one took long.
    pub(crate) fn warnings_of_way(&self) -> anyhow::Result<Vec<String>> {
        let events = self.with_api(async |api| {
            Ok(api.list("v1", "Event", Some("default"), "", "type=Warning").await?)
        })?;
        let text = |event: &Value, key| event[key].as_str().unwrap_or_default().to_owned();
        let of_way = |event: &&Value| {
            let name = event["involvedObject"]["name"].as_str();
            name.is_some_and(|name| name.starts_with("way"))
        };
        let tell = |event: &Value| {
            let (at, count) = (text(event, "firstTimestamp"), event["count"].as_u64().unwrap_or(1));
            format!("{at} {}×{count}: {}", text(event, "reason"), text(event, "message"))
        };
        let mut warnings: Vec<String> = events.iter().filter(of_way).map(tell).collect();
        warnings.sort();
        Ok(warnings)
    }
}

async fn pods(api: &Api) -> anyhow::Result<Vec<Value>> {
    Ok(api.list("v1", "Pod", Some("default"), LABEL, "").await?)
}

/// Asks the registry over the way, until it is dropped.
pub(crate) struct Probe {
    answers: Arc<Mutex<Vec<Instant>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    /// From inside of the node.
    pub(crate) fn start(node: String) -> anyhow::Result<Self> {
        let way: SocketAddr = WAY.parse()?;
        let (answers, stop) = (Arc::<Mutex<Vec<Instant>>>::default(), Arc::<AtomicBool>::default());
        let (remembers, ends) = (answers.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            // A node that is gone answers nothing, which the scenario then says.
            let _gone = netns::inside(&node, || {
                while !ends.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    if answers_at(way) {
                        let mut answers = remembers.lock().unwrap_or_else(PoisonError::into_inner);
                        answers.push(Instant::now());
                    }
                    std::thread::sleep(ASK_EVERY.saturating_sub(asked.elapsed()));
                }
            });
        });
        Ok(Probe { answers, stop, thread: Some(thread) })
    }

    /// The longest time without an answer from `since` until now; `since` counts as one.
    ///
    /// # Errors
    /// There was no answer at all.
    pub(crate) fn longest_gap(&self, since: Instant) -> anyhow::Result<Duration> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let later = answers.iter().copied().filter(|answer| *answer > since);
        let times: Vec<Instant> = std::iter::once(since).chain(later).collect();
        ensure!(times.len() > 1, "the registry does not answer over its way");
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().context("no answer")
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Whether the registry itself answers: that the pod takes the connection says nothing yet.
fn answers_at(way: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&way, ANSWERS_WITHIN)?;
        stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
        stream.write_all(b"GET /v2/ HTTP/1.0\r\nHost: registry\r\n\r\n")?;
        let mut head = [0u8; 12];
        stream.read_exact(&mut head)?;
        Ok(head.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}
