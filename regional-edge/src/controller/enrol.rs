//! From token to certificate, as a node does it, with the role of an edge and what it offers.

use super::{Talk, UplinkError};
use holdfast_api::Reason;
use holdfast_api::resources::{
    IdentityClass, Place, RegionalEdgeSpec, Registration, RegistrationPhase, RegistrationSpec,
    RegistrationStatus, Role,
};
use holdfast_client::{Backoff, Client, Event, Selector, Trust};
use holdfast_identity::{CertificateStore, DeviceKey, NodeCertificate, WireguardKey};

impl Talk {
    pub(super) async fn enrol(
        &self,
        key: &DeviceKey,
        store: &CertificateStore,
        backoff: &mut Backoff,
    ) -> Result<(), UplinkError> {
        let token = self.settings.token.as_ref().ok_or(UplinkError::NoToken)?;
        let client = self.device_client(Trust::Pinned(token.ca), key)?;
        let wanted = self.registration(key, &token.tenant)?;
        let made =
            client.create(&wanted, Some(&token.credential())).await.map_err(UplinkError::Client)?;
        tracing::info!(registration = made.metadata.name, "the token was presented");
        self.reached();
        backoff.succeeded();
        let status = self.await_admission(&client, made).await?;
        let certificate = NodeCertificate {
            chain_pem: status.certificate.unwrap_or_default(),
            ca_pem: status.ca.unwrap_or_default(),
        };
        // The certificate first: without a name it is asked for again, and nothing is lost.
        store.store(key, &certificate).map_err(UplinkError::Identity)?;
        let name = status.node.unwrap_or_default();
        tracing::info!(name, "this edge is admitted");
        self.learn(|known| {
            let news = known.edge != name;
            known.edge = name;
            news
        })?;
        self.clock().confirmed();
        Ok(())
    }

    fn registration(&self, key: &DeviceKey, tenant: &str) -> Result<Registration, UplinkError> {
        let name = key.registration_name();
        let dir = self.root.identity_dir();
        let spec = RegistrationSpec {
            role: Role::RegionalEdge,
            hostname: self.settings.name.clone(),
            csr: key.csr_pem(&name).map_err(UplinkError::Identity)?,
            wireguard_public_key: Some(
                WireguardKey::load_or_create(&dir).map_err(UplinkError::Identity)?.public(),
            ),
            identity_class: IdentityClass::Soft,
            edge: Some(self.offer()?),
            ..RegistrationSpec::default()
        };
        Ok(Registration::new(Some(tenant), &name, spec))
    }

    /// What this edge says of itself.
    pub(super) fn offer(&self) -> Result<RegionalEdgeSpec, UplinkError> {
        let settings = &self.settings;
        let key = WireguardKey::load_or_create(&self.root.identity_dir())
            .map_err(UplinkError::Identity)?;
        Ok(RegionalEdgeSpec {
            place: Place { region: settings.region.clone(), address: settings.place.clone() },
            failure_domain: settings.failure_domain.clone(),
            endpoint: Some(settings.endpoint),
            probe: Some(settings.probe),
            public_key: Some(key.public()),
            overlay_address: settings.overlay,
            backbone: settings.backbone,
            routes: settings.routes.clone(),
            capacity: settings.capacity,
            drained: false,
        })
    }

    async fn await_admission(
        &self,
        client: &Client,
        made: Registration,
    ) -> Result<RegistrationStatus, UplinkError> {
        let namespace = made.metadata.namespace;
        let selector = Selector::name(made.metadata.name);
        let mut version = made.metadata.resource_version;
        let mut status = made.status.unwrap_or_default();
        loop {
            if let Some(status) = verdict(status)? {
                return Ok(status);
            }
            let reason = Reason::RegistrationPending;
            self.trouble(reason, reason.sentence().into());
            let mut watch = client
                .watch::<Registration>(namespace.as_deref(), &selector, Some(&version))
                .await
                .map_err(UplinkError::Client)?;
            status = RegistrationStatus::default();
            while let Some(event) = watch.next().await {
                match event.map_err(UplinkError::Client)? {
                    Event::Added(seen) | Event::Modified(seen) => {
                        version = seen.metadata.resource_version;
                        status = seen.status.unwrap_or_default();
                        break;
                    }
                    Event::Deleted(_) => {
                        let text = "an operator deleted it".into();
                        return Err(UplinkError::Refused(Reason::RegistrationRejected, text));
                    }
                    Event::Bookmark { resource_version } => version = resource_version,
                }
            }
        }
    }
}

/// What a registration's status means: done, go on waiting, or an end.
fn verdict(status: RegistrationStatus) -> Result<Option<RegistrationStatus>, UplinkError> {
    let refused = |fallback: Reason| {
        let reason = Reason::from_code(&status.reason).unwrap_or(fallback);
        let said = Some(status.message.clone()).filter(|text| !text.is_empty());
        UplinkError::Refused(reason, said.unwrap_or_else(|| reason.sentence().into()))
    };
    match status.phase {
        RegistrationPhase::Pending | RegistrationPhase::Approved => Ok(None),
        RegistrationPhase::Admitted | RegistrationPhase::Online => {
            let whole =
                status.certificate.is_some() && status.ca.is_some() && status.node.is_some();
            Ok(whole.then_some(status))
        }
        RegistrationPhase::Rejected => Err(refused(Reason::RegistrationRejected)),
        RegistrationPhase::Retired => Err(refused(Reason::RegistrationRetired)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_admission_ends_the_waiting() {
        let status = |phase| RegistrationStatus { phase, ..RegistrationStatus::default() };
        for phase in [
            RegistrationPhase::Pending,
            RegistrationPhase::Approved,
            RegistrationPhase::Admitted,
            RegistrationPhase::Online,
        ] {
            assert!(verdict(status(phase)).unwrap().is_none(), "{phase:?}");
        }
        let whole = RegistrationStatus {
            certificate: Some("c".into()),
            ca: Some("a".into()),
            node: Some("re-1".into()),
            ..status(RegistrationPhase::Admitted)
        };
        assert!(verdict(whole).unwrap().is_some());
        for (phase, reason) in [
            (RegistrationPhase::Rejected, Reason::RegistrationRejected),
            (RegistrationPhase::Retired, Reason::RegistrationRetired),
        ] {
            assert_eq!(verdict(status(phase)).unwrap_err().reason(), reason);
        }
    }
}
