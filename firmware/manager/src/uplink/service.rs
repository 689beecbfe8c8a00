//! An admitted node's talk: its configuration comes, its status goes, its certificate is renewed.
//!
//! The configuration is followed by a watch; besides, a conditional GET at each poll finds what a
//! watch that hangs would hide. Status is told at once when it says something new, and every minute
//! as a sign of life. Losing the controller ends nothing but the talk.

use super::{Membership, Talk, UplinkError, UplinkEvent};
use crate::releases::ReleaseStore;
use crate::report::{node_status, same_news};
use holdfast_api::kubernetes::{ReleaseRef, release_digest};
use holdfast_api::local::{NodeReport, Problem};
use holdfast_api::resources::{NodeConfig, NodeStatus, NodeStatusSpec, Release};
use holdfast_api::{Reason, chain};
use holdfast_client::{
    Backoff, Client, Conditional, Identity, Replica, Selector, Subresource, TimeSource, Trust,
    backoff, follow, renew,
};
use holdfast_identity::{
    CertificateFacts, CertificateStore, CheckedClock, DeviceKey, NodeCertificate,
};
use jiff::Timestamp;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

/// A sign of life; the controller calls a site offline after a few of these.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// Until a release that could not be fetched is asked for again; besides, after each poll.
const FETCH_AGAIN: Duration = Duration::from_secs(30);
/// News that come in a burst are told together.
const GATHER: Duration = Duration::from_millis(100);
/// How often the age of the certificate is looked at.
const RENEWAL_LOOK: Duration = Duration::from_secs(600);

impl Talk {
    pub(super) async fn serve(
        &mut self,
        key: &DeviceKey,
        certificate: NodeCertificate,
        facts: CertificateFacts,
        member: Membership,
        backoff: &mut Backoff,
    ) -> Result<(), UplinkError> {
        let Membership { controller, tenant, site, node } = member.clone();
        self.tell(UplinkEvent::Target { tenant: tenant.clone(), controller: controller.clone() })
            .await;
        self.tell(UplinkEvent::Admitted { tenant: tenant.clone(), site, node: node.clone() }).await;
        let client = self.node_client(&controller, key, &certificate)?;
        let (into, mut configs) = watch::channel(Replica::<NodeConfig>::default());
        // Aborted when this talk ends: a new certificate needs a new connection.
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(
            client.clone(),
            Some(tenant.clone()),
            Selector::name(node.clone()),
            into,
        ));
        let mut poll = tokio::time::interval_at(
            tokio::time::Instant::now() + self.jittered_poll(),
            self.settings.poll,
        );
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        let mut fetching = tokio::time::interval(FETCH_AGAIN);
        fetching.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut renewal = tokio::time::interval(RENEWAL_LOOK);
        let mut told: Option<NodeReport> = None;
        let mut etag = None;
        let mut report = self.report.clone();
        loop {
            tokio::select! {
                changed = configs.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let copy = configs.borrow_and_update().clone();
                    self.take_configs(&copy, backoff).await?;
                    self.fetch_release(&client, &tenant).await;
                }
                _ = poll.tick() => {
                    self.poll_config(&client, &tenant, &node, &mut etag).await?;
                    self.fetch_release(&client, &tenant).await;
                }
                _ = fetching.tick(), if self.fetch.is_some() => {
                    self.fetch_release(&client, &tenant).await;
                }
                _ = heartbeat.tick() => {
                    let now = report.borrow_and_update().clone();
                    self.push(&client, &tenant, &node, &now, &mut told).await;
                }
                changed = report.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let news = told.as_ref().is_none_or(|told| !same_news(told, &report.borrow()));
                    if news {
                        tokio::time::sleep(GATHER).await;
                        let now = report.borrow_and_update().clone();
                        self.push(&client, &tenant, &node, &now, &mut told).await;
                    }
                }
                _ = renewal.tick() => if self.renew_if_due(key, &certificate, &facts, &member).await? {
                    return Ok(());
                }
            }
        }
    }

    fn node_client(
        &self,
        controller: &str,
        key: &DeviceKey,
        certificate: &NodeCertificate,
    ) -> Result<Client, UplinkError> {
        let identity =
            Identity::Certificate { chain: certificate.chain_pem.clone(), key: key.key_pem() };
        self.client(controller, Trust::pem(&certificate.ca_pem)?, identity)
    }

    async fn take_configs(
        &mut self,
        copy: &Replica<NodeConfig>,
        backoff: &mut Backoff,
    ) -> Result<(), UplinkError> {
        if let Some((reason, message)) = &copy.trouble {
            let problem = holdfast_api::local::Problem::new(*reason, message.clone());
            match reason {
                // Deleted on the controller: the certificate is worth nothing any more.
                Reason::RegistrationRetired => {
                    return Err(UplinkError::Refused(*reason, message.clone()));
                }
                _ => self.tell(UplinkEvent::Trouble(problem)).await,
            }
            return Ok(());
        }
        backoff.succeeded();
        self.tell(UplinkEvent::Reached).await;
        CheckedClock::new(&self.root).confirmed();
        for config in copy.iter() {
            self.take(config).await;
        }
        Ok(())
    }

    async fn take(&mut self, config: &NodeConfig) {
        if config.spec.generation != self.generation {
            self.generation = config.spec.generation;
            let release = config.spec.kubernetes.as_ref().and_then(|k| k.release.as_ref());
            self.fetch = release
                .filter(|wanted| ReleaseStore::new(&self.root).load(&wanted.digest).is_none())
                .cloned();
            self.tell(UplinkEvent::Config(Box::new(config.spec.clone()))).await;
        }
    }

    /// Fetches the release that the configuration names, when it is not on the disk yet.
    async fn fetch_release(&mut self, client: &Client, tenant: &str) {
        let Some(wanted) = self.fetch.clone() else { return };
        match fetch(client, tenant, &wanted, &ReleaseStore::new(&self.root)).await {
            Ok(()) => {
                self.fetch = None;
                info!(release = wanted.name, version = wanted.version, "release fetched");
                self.tell(UplinkEvent::Release).await;
            }
            Err(problem) => {
                warn!(reason = %problem.reason, message = problem.message, "release");
                self.tell(UplinkEvent::ReleaseTrouble(problem)).await;
            }
        }
    }

    async fn poll_config(
        &mut self,
        client: &Client,
        tenant: &str,
        node: &str,
        etag: &mut Option<String>,
    ) -> Result<(), UplinkError> {
        match client.get_if_changed::<NodeConfig>(Some(tenant), node, etag.as_deref()).await {
            Ok(Conditional::Unchanged { .. }) => {}
            Ok(Conditional::Changed { value, etag: new, .. }) => {
                *etag = new;
                self.take(&value).await;
            }
            // The watch tells what is wrong, and tries again.
            Err(error) => {
                warn!(reason = %error.reason(), error = holdfast_api::chain(&error), "poll")
            }
        }
        Ok(())
    }

    async fn push(
        &self,
        client: &Client,
        tenant: &str,
        node: &str,
        report: &NodeReport,
        told: &mut Option<NodeReport>,
    ) {
        let mut status = NodeStatus::new(Some(tenant), node, NodeStatusSpec {});
        status.status = Some(node_status(report, Timestamp::now()));
        let patch = serde_json::json!({ "status": status.status });
        match client
            .merge_patch::<NodeStatus>(Some(tenant), node, &patch, Some(Subresource::Status))
            .await
        {
            Ok(_) => *told = Some(report.clone()),
            Err(error) => {
                warn!(reason = %error.reason(), error = holdfast_api::chain(&error), "status not told")
            }
        }
    }

    /// Asks for a new certificate with the device key, which never expires. True when there is one.
    async fn renew_if_due(
        &self,
        key: &DeviceKey,
        certificate: &NodeCertificate,
        facts: &CertificateFacts,
        member: &Membership,
    ) -> Result<bool, UplinkError> {
        if Timestamp::now() < facts.renew_at || !CheckedClock::new(&self.root).is_believed() {
            return Ok(false);
        }
        let client =
            self.device_client(&member.controller, Trust::pem(&certificate.ca_pem)?, key)?;
        let name = key.registration_name();
        let issued = match renew(&client, Some(&member.tenant), &name, &key.csr_pem(&name)?).await {
            Ok(issued) => issued.map(NodeCertificate::from),
            Err(error) => {
                warn!(reason = %error.reason(), error = holdfast_api::chain(&error), "certificate not renewed, trying again");
                return Ok(false);
            }
        };
        let Some(renewed) = issued.filter(|issued| issued != certificate) else {
            return Ok(false);
        };
        CertificateStore::new(&self.root.identity_dir()).store(key, &renewed)?;
        info!("certificate renewed");
        Ok(true)
    }

    /// So that a fleet that was switched on together does not poll together.
    fn jittered_poll(&self) -> Duration {
        let share = backoff::seed() % 1000;
        self.settings.poll.mul_f64(0.5 + f64::from(u32::try_from(share).unwrap_or(0)) / 2000.0)
    }
}

/// Fetches a release and keeps it.
async fn fetch(
    client: &Client,
    tenant: &str,
    wanted: &ReleaseRef,
    store: &ReleaseStore,
) -> Result<(), Problem> {
    let unavailable = |text: String| Problem::new(Reason::ReleaseUnavailable, text);
    let release = client
        .get::<Release>(Some(tenant), &wanted.name)
        .await
        .map_err(|error| unavailable(format!("release {}: {}", wanted.name, chain(&error))))?;
    let digest = release_digest(&release.spec.manifests);
    if digest != wanted.digest {
        return Err(unavailable(format!(
            "release {} has the digest {digest}, and {} is asked for",
            wanted.name, wanted.digest
        )));
    }
    store.store(&release.spec)
}
