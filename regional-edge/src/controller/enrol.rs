//! From token to certificate, as a node does it, with the role of an edge and what it offers.

use super::{Talk, UplinkError};
use holdfast_api::Reason;
use holdfast_api::resources::{
    IdentityClass, Place, RegionalEdgeSpec, Registration, RegistrationSpec, Role,
};
use holdfast_client::{Backoff, Trust, await_admission};
use holdfast_identity::{CertificateStore, DeviceKey, WireguardKey};

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
        let given = await_admission(&client, made, async || {
            let reason = Reason::RegistrationPending;
            self.trouble(reason, reason.sentence().into());
        })
        .await?;
        // The certificate first: without a name it is asked for again, and nothing is lost.
        store.store(key, &given.issued.into()).map_err(UplinkError::Identity)?;
        let name = given.name;
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
}
