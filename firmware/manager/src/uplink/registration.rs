//! From token to certificate.
//!
//! The device key signs its own client certificate for the TLS handshake, so the controller knows
//! the key before anything is issued; the token's CA fingerprint tells us that it is the right
//! controller before the token's secret is sent. Presenting the same token again from the same
//! device changes nothing, so a lost answer costs nothing.

use super::{Membership, TOKEN_LOOK, Talk, UplinkError, UplinkEvent, membership_slots};
use holdfast_api::Reason;
use holdfast_api::local::Problem;
use holdfast_api::resources::{IdentityClass, Registration, RegistrationSpec, Role};
use holdfast_client::{Backoff, Client, Endpoint, Identity, Options, Trust, await_admission};
use holdfast_identity::{
    CertificateStore, CheckedClock, DeviceKey, FoundToken, Search, WireguardKey, token_sources,
};
use std::sync::Arc;
use tracing::info;

impl Talk {
    pub(super) async fn register(
        &mut self,
        key: &DeviceKey,
        store: &CertificateStore,
        backoff: &mut Backoff,
    ) -> Result<(), UplinkError> {
        let Some(found) = self.find_token().await else {
            self.wait(TOKEN_LOOK).await;
            return Ok(());
        };
        let controller = found
            .controller
            .clone()
            .or_else(|| self.settings.controller.clone())
            .or_else(|| token_sources::controller(&self.root))
            .ok_or_else(|| {
                let text = format!(
                    "{} has a token and names no controller, nor does the configuration",
                    found.source
                );
                UplinkError::Settings(Reason::ConfigMissing, text)
            })?;
        let tenant = found.envelope.tenant.clone();
        self.tell(UplinkEvent::Target { tenant: tenant.clone(), controller: controller.clone() })
            .await;
        let client = self.device_client(&controller, Trust::Pinned(found.envelope.ca), key)?;
        let wanted = self.registration(key, &tenant)?;
        let made = client.create(&wanted, Some(&found.envelope.credential())).await?;
        info!(registration = made.metadata.name, tenant, "the token was presented");
        self.tell(UplinkEvent::Reached).await;
        backoff.succeeded();
        let given = await_admission(&client, made, async || {
            self.tell(UplinkEvent::Pending).await;
        })
        .await?;
        let member = Membership { controller, tenant, site: given.site, node: given.name };
        // The certificate first: without a membership it is asked for again, and nothing is lost.
        store.store(key, &given.issued.into())?;
        membership_slots(&self.root).store(&member).map_err(UplinkError::Keep)?;
        CheckedClock::new(&self.root).confirmed();
        let Membership { tenant, site, node, .. } = member;
        self.tell(UplinkEvent::Admitted { tenant, site, node }).await;
        Ok(())
    }

    async fn find_token(&self) -> Option<FoundToken> {
        match token_sources::find(&self.root) {
            Search::Found(found) => Some(found),
            Search::Missing => None,
            Search::Invalid { source, error } => {
                let text = format!("{source}: {}", holdfast_api::chain(&error));
                self.tell(UplinkEvent::Trouble(Problem::new(error.reason(), text))).await;
                None
            }
        }
    }

    pub(super) fn device_client(
        &self,
        controller: &str,
        trust: Trust,
        key: &DeviceKey,
    ) -> Result<Client, UplinkError> {
        let chain = key.self_signed_pem()?;
        self.client(controller, trust, Identity::Certificate { chain, key: key.key_pem() })
    }

    /// A client of the controller that knows what time it is at least.
    pub(super) fn client(
        &self,
        controller: &str,
        trust: Trust,
        identity: Identity,
    ) -> Result<Client, UplinkError> {
        let endpoint: Endpoint = controller.parse().map_err(|_| {
            UplinkError::Settings(
                Reason::ConfigInvalid,
                format!("{controller} is no address of a controller"),
            )
        })?;
        let options =
            Options { time: Arc::new(CheckedClock::new(&self.root)), ..Options::default() };
        Ok(Client::with_options(endpoint, trust, identity, options)?)
    }

    fn registration(&self, key: &DeviceKey, tenant: &str) -> Result<Registration, UplinkError> {
        let name = key.registration_name();
        let wireguard = WireguardKey::load_or_create(&self.root.identity_dir())?;
        let spec = RegistrationSpec {
            role: Role::Node,
            hostname: self.settings.hostname.clone().unwrap_or_else(hostname),
            csr: key.csr_pem(&name)?,
            wireguard_public_key: Some(wireguard.public()),
            identity_class: IdentityClass::Soft,
            facts: self.facts.clone(),
            ..RegistrationSpec::default()
        };
        Ok(Registration::new(Some(tenant), &name, spec))
    }
}

fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}
