//! From token to certificate.
//!
//! The device key signs its own client certificate for the TLS handshake, so the controller knows
//! the key before anything is issued; the token's CA fingerprint tells us that it is the right
//! controller before the token's secret is sent. Presenting the same token again from the same
//! device changes nothing, so a lost answer costs nothing.

use super::clock::CheckedClock;
use super::{Membership, TOKEN_LOOK, Talk, UplinkError, UplinkEvent, membership_slots};
use holdfast_api::Reason;
use holdfast_api::local::Problem;
use holdfast_api::resources::{
    IdentityClass, Registration, RegistrationPhase, RegistrationSpec, RegistrationStatus, Role,
};
use holdfast_client::{Backoff, Client, Endpoint, Event, Identity, Options, Selector, Trust};
use holdfast_identity::{
    CertificateStore, DeviceKey, FoundToken, NodeCertificate, Search, WireguardKey, token_sources,
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
        let controller =
            found.controller.clone().or_else(|| self.settings.controller.clone()).ok_or_else(
                || {
                    let text = format!(
                        "{} has a token and names no controller, nor does the configuration",
                        found.source
                    );
                    UplinkError::Settings(Reason::ConfigMissing, text)
                },
            )?;
        let tenant = found.envelope.tenant.clone();
        self.tell(UplinkEvent::Target { tenant: tenant.clone(), controller: controller.clone() })
            .await;
        let client = self.device_client(&controller, Trust::Pinned(found.envelope.ca), key)?;
        let wanted = self.registration(key, &tenant)?;
        let made = client.create(&wanted, Some(&found.envelope.credential())).await?;
        info!(registration = made.metadata.name, tenant, "the token was presented");
        self.tell(UplinkEvent::Reached).await;
        backoff.succeeded();
        let status = self.await_admission(&client, made).await?;
        let member = Membership {
            controller,
            tenant,
            site: status.site.clone().unwrap_or_default(),
            node: status.node.clone().unwrap_or_default(),
        };
        keep(self, key, store, &member, &status)?;
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
        let endpoint: Endpoint = controller.parse().map_err(|_| {
            UplinkError::Settings(
                Reason::ConfigInvalid,
                format!("{controller} is no address of a controller"),
            )
        })?;
        let identity = Identity::Certificate { chain: key.self_signed_pem()?, key: key.key_pem() };
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

    async fn await_admission(
        &self,
        client: &Client,
        made: Registration,
    ) -> Result<RegistrationStatus, UplinkError> {
        let namespace = made.metadata.namespace.clone();
        let selector = Selector::name(made.metadata.name.clone());
        let mut version = made.metadata.resource_version.clone();
        let mut status = made.status.unwrap_or_default();
        let mut told = false;
        loop {
            if let Some(done) = verdict(&status)? {
                return Ok(done);
            }
            if !told && status.phase == RegistrationPhase::Pending {
                self.tell(UplinkEvent::Pending).await;
                told = true;
            }
            let mut watch = client
                .watch::<Registration>(namespace.as_deref(), &selector, Some(&version))
                .await?;
            while let Some(event) = watch.next().await {
                match event? {
                    Event::Added(seen) | Event::Modified(seen) => {
                        version = seen.metadata.resource_version.clone();
                        status = seen.status.unwrap_or_default();
                        break;
                    }
                    Event::Deleted(_) => {
                        let text = "an operator deleted the registration".to_owned();
                        return Err(UplinkError::Refused(Reason::RegistrationRejected, text));
                    }
                    Event::Bookmark { resource_version } => version = resource_version,
                }
            }
        }
    }
}

/// What a registration's status means to the device: done, go on waiting, or an end.
fn verdict(status: &RegistrationStatus) -> Result<Option<RegistrationStatus>, UplinkError> {
    let why = |fallback: Reason| {
        let reason = Reason::from_code(&status.reason).unwrap_or(fallback);
        let text = if status.message.is_empty() {
            reason.sentence().into()
        } else {
            status.message.clone()
        };
        UplinkError::Refused(reason, text)
    };
    match status.phase {
        RegistrationPhase::Pending | RegistrationPhase::Approved => Ok(None),
        RegistrationPhase::Admitted | RegistrationPhase::Online => {
            Ok((status.certificate.is_some() && status.ca.is_some() && status.node.is_some())
                .then(|| status.clone()))
        }
        RegistrationPhase::Rejected => Err(why(Reason::RegistrationRejected)),
        RegistrationPhase::Retired => Err(why(Reason::RegistrationRetired)),
    }
}

fn keep(
    talk: &Talk,
    key: &DeviceKey,
    store: &CertificateStore,
    member: &Membership,
    status: &RegistrationStatus,
) -> Result<(), UplinkError> {
    let certificate = NodeCertificate {
        chain_pem: status.certificate.clone().unwrap_or_default(),
        ca_pem: status.ca.clone().unwrap_or_default(),
    };
    // The certificate first: without a membership it is asked for again, and nothing is lost.
    store.store(key, &certificate)?;
    membership_slots(&talk.root).store(member).map_err(UplinkError::Keep)?;
    CheckedClock::new(&talk.root).confirmed();
    Ok(())
}

fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(phase: RegistrationPhase, whole: bool) -> RegistrationStatus {
        let part = |text: &str| whole.then(|| text.to_owned());
        RegistrationStatus {
            phase,
            certificate: part("pem"),
            ca: part("pem"),
            node: part("ce01"),
            site: part("ce01"),
            ..RegistrationStatus::default()
        }
    }

    #[test]
    fn only_a_whole_admission_ends_the_waiting() {
        assert!(verdict(&status(RegistrationPhase::Pending, false)).unwrap().is_none());
        assert!(verdict(&status(RegistrationPhase::Admitted, false)).unwrap().is_none());
        assert!(verdict(&status(RegistrationPhase::Online, true)).unwrap().is_some());
        let refused = verdict(&status(RegistrationPhase::Rejected, false)).unwrap_err();
        assert_eq!(refused.reason(), Reason::RegistrationRejected);
        assert!(refused.is_final());
    }
}
