//! An admitted edge's talk: edges and peers come, status goes, the certificate is renewed.

use super::{Talk, UplinkError};
use crate::state::DataState;
use holdfast_api::Reason;
use holdfast_api::meta::Condition;
use holdfast_api::resources::{
    RegionalEdge, RegionalEdgeSpec, RegionalEdgeStatus, Registration, TunnelPeer,
};
use holdfast_client::{
    Backoff, Client, Identity, Replica, Selector, Subresource, TimeSource, Trust, follow, renew,
};
use holdfast_identity::{CertificateFacts, CertificateStore, DeviceKey, NodeCertificate};
use jiff::Timestamp;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A sign of life.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Nodes that come and go in a burst are told together.
const GATHER: Duration = Duration::from_secs(1);
/// How often the age of the certificate is looked at.
const RENEWAL_LOOK: Duration = Duration::from_secs(60);

impl Talk {
    pub(super) async fn serve(
        &self,
        key: &DeviceKey,
        certificate: &NodeCertificate,
        facts: &CertificateFacts,
        backoff: &mut Backoff,
    ) -> Result<(), UplinkError> {
        let name = self.knowledge.borrow().edge.clone();
        let trust = Trust::pem(&certificate.ca_pem).map_err(UplinkError::Client)?;
        let chain = certificate.chain_pem.clone();
        let client = self.client(trust, Identity::Certificate { chain, key: key.key_pem() })?;
        let (edges_into, mut edges) = watch::channel(Replica::<RegionalEdge>::default());
        let (peers_into, mut peers) = watch::channel(Replica::<TunnelPeer>::default());
        // Aborted when this talk ends: a new certificate needs a new connection.
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(client.clone(), None, Selector::all(), edges_into));
        tasks.spawn(follow(client.clone(), None, Selector::all(), peers_into));

        let mut data = self.data.clone();
        let mut renewal = tokio::time::interval(RENEWAL_LOOK);
        let mut told: Option<RegionalEdgeStatus> = None;
        let mut tell_at = Instant::now();
        let mut offered = false;
        loop {
            tokio::select! {
                // All of these may be cancelled: each looks at the latest value, not at events.
                Ok(()) = edges.changed() => {
                    let replica = edges.borrow_and_update().clone();
                    self.judge(&replica, backoff)?;
                    if replica.objects.is_some() {
                        self.learn(|known| known.take_edges(replica.iter()))?;
                        if !offered {
                            offered = self.offer_again(&client, &name, &replica).await;
                        }
                    }
                }
                Ok(()) = peers.changed() => {
                    let replica = peers.borrow_and_update().clone();
                    self.judge(&replica, backoff)?;
                    if replica.objects.is_some() {
                        self.learn(|known| known.take_peers(replica.iter()))?;
                    }
                }
                Ok(()) = data.changed() => {
                    let status = status(&data.borrow_and_update());
                    let news = told.as_ref().is_none_or(|told| !same_news(told, &status));
                    if news {
                        tell_at = tell_at.min(Instant::now() + GATHER);
                    }
                }
                () = tokio::time::sleep_until(tell_at) => {
                    let mut now = status(&data.borrow_and_update());
                    now.last_seen = Some(Timestamp::now());
                    let patch = serde_json::json!({ "status": now });
                    let answer = client
                        .merge_patch::<RegionalEdge>(None, &name, &patch, Some(Subresource::Status))
                        .await;
                    match answer {
                        Ok(_) => told = Some(now),
                        // The watches say what is wrong.
                        Err(error) => tracing::debug!(error = holdfast_api::chain(&error), "status not told"),
                    }
                    tell_at = Instant::now() + HEARTBEAT;
                }
                _ = renewal.tick() => {
                    if self.renew_if_due(key, certificate, facts).await {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn judge<T>(&self, replica: &Replica<T>, backoff: &mut Backoff) -> Result<(), UplinkError> {
        match &replica.trouble {
            // Its certificate is worth nothing any more. Whom it serves is left as it is: that is
            // for the nodes' own configuration to end.
            Some((Reason::RegistrationRetired, message)) => {
                Err(UplinkError::Refused(Reason::RegistrationRetired, message.clone()))
            }
            Some((reason, message)) => {
                self.trouble(*reason, message.clone());
                Ok(())
            }
            None => {
                backoff.succeeded();
                self.reached();
                self.clock().confirmed();
                Ok(())
            }
        }
    }

    /// The settings may have changed since this edge registered. What an operator decides
    /// (place, capacity, drained) is left alone. Tells whether that is settled.
    async fn offer_again(
        &self,
        client: &Client,
        name: &str,
        replica: &Replica<RegionalEdge>,
    ) -> bool {
        let Some(own) = replica.iter().find(|edge| edge.metadata.name == name) else {
            return false;
        };
        let Ok(offer) = self.offer() else { return false };
        let patch = difference(&own.spec, &offer);
        if patch.as_object().is_none_or(serde_json::Map::is_empty) {
            return true;
        }
        let patch = serde_json::json!({ "spec": patch });
        match client.merge_patch::<RegionalEdge>(None, name, &patch, None).await {
            Ok(_) => {
                tracing::info!(%patch, "the controller knows this edge's new settings");
                true
            }
            Err(error) => {
                let error = holdfast_api::chain(&error);
                tracing::warn!(error, "the controller does not take this edge's settings");
                false
            }
        }
    }

    /// Asks for a new certificate with the device key. Tells whether there is one.
    async fn renew_if_due(
        &self,
        key: &DeviceKey,
        certificate: &NodeCertificate,
        facts: &CertificateFacts,
    ) -> bool {
        if !self.clock().is_believed() || Timestamp::now() < facts.renew_at {
            return false;
        }
        match self.renew(key, certificate).await {
            Ok(renewed) => renewed,
            Err(error) => {
                let (reason, error) = (error.reason(), holdfast_api::chain(&error));
                tracing::warn!(%reason, error, "the certificate is not renewed yet");
                false
            }
        }
    }

    async fn renew(
        &self,
        key: &DeviceKey,
        certificate: &NodeCertificate,
    ) -> Result<bool, UplinkError> {
        let trust = Trust::pem(&certificate.ca_pem).map_err(UplinkError::Client)?;
        let client = self.device_client(trust, key)?;
        let name = key.registration_name();
        let csr = key.csr_pem(&name).map_err(UplinkError::Identity)?;
        // The device key sees its own registration in whatever tenant it is.
        let list = client
            .list::<Registration>(None, &Selector::name(&name))
            .await
            .map_err(UplinkError::Client)?;
        let Some(own) = list.items.into_iter().next() else { return Ok(false) };
        let namespace = own.metadata.namespace.as_deref();
        let issued = renew(&client, namespace, &name, &csr).await.map_err(UplinkError::Client)?;
        let issued = issued.map(NodeCertificate::from);
        let Some(renewed) = issued.filter(|issued| issued != certificate) else {
            return Ok(false);
        };
        let store = CertificateStore::new(&self.root.identity_dir());
        store.store(key, &renewed).map_err(UplinkError::Identity)?;
        tracing::info!("the certificate is renewed");
        Ok(true)
    }
}

fn status(data: &DataState) -> RegionalEdgeStatus {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let ready = data.kind.is_some() && data.reason.is_none();
    let condition = Condition {
        kind: "Ready".into(),
        status: if ready { "True" } else { "False" }.into(),
        reason: data.reason.map(|reason| reason.code().to_string()).unwrap_or_default(),
        message: data.message.clone(),
        last_transition_time: None,
    };
    RegionalEdgeStatus {
        peers: count(data.nodes.len()),
        peers_up: count(data.nodes_up()),
        last_seen: None,
        conditions: vec![condition],
    }
}

fn same_news(told: &RegionalEdgeStatus, now: &RegionalEdgeStatus) -> bool {
    RegionalEdgeStatus { last_seen: None, ..told.clone() } == *now
}

/// What of the wires is different, as a merge patch.
fn difference(have: &RegionalEdgeSpec, offer: &RegionalEdgeSpec) -> serde_json::Value {
    let mut patch = serde_json::Map::new();
    let mut put = |key: &str, differs: bool, value: serde_json::Value| {
        if differs {
            patch.insert(key.into(), value);
        }
    };
    put("endpoint", have.endpoint != offer.endpoint, serde_json::json!(offer.endpoint));
    put("probe", have.probe != offer.probe, serde_json::json!(offer.probe));
    put("backbone", have.backbone != offer.backbone, serde_json::json!(offer.backbone));
    put("publicKey", have.public_key != offer.public_key, serde_json::json!(offer.public_key));
    serde_json::Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told_and_what_operators_decide_is_left_alone() {
        let have = RegionalEdgeSpec { capacity: 9, drained: true, ..RegionalEdgeSpec::default() };
        assert_eq!(difference(&have, &RegionalEdgeSpec::default()), serde_json::json!({}));
        let offer = RegionalEdgeSpec {
            endpoint: Some("192.0.2.1:5".parse().unwrap()),
            ..RegionalEdgeSpec::default()
        };
        let want = serde_json::json!({ "endpoint": "192.0.2.1:5" });
        assert_eq!(difference(&have, &offer), want);
        let gone = serde_json::json!({ "endpoint": null });
        assert_eq!(difference(&offer, &RegionalEdgeSpec::default()), gone);
    }

    #[test]
    fn status_is_news_when_more_than_the_time_changed() {
        let told = RegionalEdgeStatus {
            last_seen: Some(Timestamp::UNIX_EPOCH),
            ..status(&DataState::default())
        };
        assert!(same_news(&told, &status(&DataState::default())));
        let data = DataState { reason: Some(Reason::NetPermission), ..DataState::default() };
        assert!(!same_news(&told, &status(&data)));
        assert_eq!(status(&data).conditions[0].reason, "net.permission");
    }
}
