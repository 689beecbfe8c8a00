//! Ten workloads: as a release, applied through the API without a manager, and watched.

use super::Cluster;
use anyhow::{Context, ensure};
use holdfast_api::kubernetes::ReleaseRef;
use holdfast_cluster::kubernetes::{Api, Mode, Propagation, Readiness, readiness};
use holdfast_cluster::object::Object;
use holdfast_cluster::release::parse::parse;
use holdfast_lab_kubernetes::node::REGISTRY;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Workloads of a release.
pub(crate) const COUNT: usize = 10;
/// Between two looks at them. A look is one question, answered from the API server's memory.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const DEPLOYMENT: (&str, &str) = ("apps/v1", "Deployment");

/// The manifests of ten Deployments that carry the label `bench=label`; their image is on the
/// node already, for the laboratory's own workload has it.
pub(crate) fn manifests(label: &str) -> BTreeMap<String, String> {
    let one = |number: usize| {
        format!(
            "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {label}-{number}, namespace: default, labels: {{bench: {label}}}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: {label}-{number}}}}}
  template:
    metadata: {{labels: {{app: {label}-{number}, bench: {label}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: {REGISTRY}/web:1
        env: [{{name: TEXT, value: {label}}}]
        ports: [{{containerPort: 8080, protocol: TCP}}]
        readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1}}
"
        )
    };
    (0..COUNT).map(|number| (format!("{number}.yaml"), one(number))).collect()
}

/// When something was seen of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// The first of them was there.
    pub(crate) first: Instant,
    /// All were ready.
    pub(crate) ready: Instant,
}

impl Cluster {
    /// Applies them by plain requests, as any client would, and waits until all are ready. The
    /// time from the first request on.
    pub(crate) fn apply_plainly(&self, label: &str) -> anyhow::Result<Duration> {
        let objects = objects(label)?;
        let begun = Instant::now();
        let seen = std::thread::scope(|scope| {
            let watching = scope.spawn(|| self.watch_ready(label));
            let applied = self.with_api(async |api| {
                for object in &objects {
                    api.apply(object, Mode::default()).await?;
                }
                Ok(())
            });
            let seen = watching.join().ok().context("the watch on the workloads broke off")?;
            applied.and(seen)
        })?;
        Ok(seen.ready - begun)
    }

    /// Waits until all of them are there and ready, by the rules that the manager has too.
    pub(crate) fn watch_ready(&self, label: &str) -> anyhow::Result<Seen> {
        let deadline = Instant::now() + super::PATIENCE;
        self.with_api(async |api| {
            let mut first = None;
            loop {
                let deployments = list(&api, DEPLOYMENT, label).await?;
                let now = Instant::now();
                if !deployments.is_empty() {
                    first.get_or_insert(now);
                }
                let all = deployments.len() == COUNT
                    && deployments.iter().all(|one| readiness(one) == Readiness::Ready);
                if let (true, Some(first)) = (all, first) {
                    return Ok(Seen { first, ready: now });
                }
                ensure!(now < deadline, "{label}: {} workloads of {COUNT}", deployments.len());
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
    }

    /// Removes what [`Cluster::apply_plainly`] made.
    pub(crate) fn remove_plainly(&self, label: &str) -> anyhow::Result<()> {
        let objects = objects(label)?;
        self.with_api(async |api| {
            for object in &objects {
                api.delete(&object.id, None, Propagation::Background).await?;
            }
            Ok(())
        })
    }

    /// Waits until no pod of them is left, so that one round does not weigh on the next.
    pub(crate) fn wait_gone(&self, label: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + super::PATIENCE;
        self.with_api(async |api| {
            while !list(&api, ("v1", "Pod"), label).await?.is_empty() {
                ensure!(Instant::now() < deadline, "pods of {label} do not go");
                tokio::time::sleep(10 * LOOK_EVERY).await;
            }
            Ok(())
        })
    }
}

fn objects(label: &str) -> anyhow::Result<Vec<Object>> {
    let reference = ReleaseRef { name: label.into(), ..ReleaseRef::default() };
    let release = parse(&reference, &manifests(label), Duration::ZERO)?;
    Ok(release.items.into_iter().map(|item| item.object).collect())
}

async fn list(
    api: &Api,
    (version, kind): (&str, &str),
    label: &str,
) -> anyhow::Result<Vec<serde_json::Value>> {
    Ok(api.list(version, kind, Some("default"), &format!("bench={label}"), "").await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_ten_and_they_carry_their_label() {
        let objects = objects("r1").unwrap();
        assert_eq!(objects.len(), COUNT);
        for object in objects {
            assert_eq!(object.id.kind, "Deployment");
            assert_eq!(object.value["metadata"]["labels"]["bench"], "r1");
            assert_eq!(object.value["spec"]["template"]["metadata"]["labels"]["bench"], "r1");
        }
    }
}
