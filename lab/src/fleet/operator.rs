//! What an operator does: makes tokens, looks at edges, changes sites. All through the
//! controller's API, with the bearer token of the kubeconfig that the controller prints.
//!
//! The controller is reached from inside its own host, so that an operator is not subject to the
//! emulated links.

use crate::netns;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_api::meta::is_dns_label;
use holdfast_api::resources::{
    ApprovalRule, Object, Release, ReleaseSpec, Resource, Role, Site, Token, TokenSpec,
};
use holdfast_client::{Client, ClientError, Endpoint, Identity, Options, Selector, Trust};
use netd::netns::NetNsError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use zeroize::Zeroizing;

/// Why an operator could not do something.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The kubeconfig is none.
    #[error("the controller's kubeconfig makes no sense: {0}")]
    Kubeconfig(String),
    /// The host of the controller cannot be entered.
    #[error("cannot reach the controller's host")]
    Host(#[source] NetNsError),
    /// The controller refuses or does not answer.
    #[error("the controller did not {attempt}")]
    Api {
        /// What was asked.
        attempt: &'static str,
        /// Its answer.
        #[source]
        source: Box<ClientError>,
    },
    /// No runtime could be made for the request.
    #[error("cannot make a runtime")]
    Runtime(#[source] std::io::Error),
    /// The controller made a token and did not show it.
    #[error("the controller did not show the token that it made")]
    NoToken,
    /// A name that the API would refuse.
    #[error("{0:?} is no name for a site")]
    Name(String),
}

/// The operator of one tenant.
#[derive(Clone)]
pub struct Operator {
    netns: String,
    endpoint: Endpoint,
    trust: Trust,
    bearer: Zeroizing<String>,
    tenant: String,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operator")
            .field("endpoint", &self.endpoint)
            .field("tenant", &self.tenant)
            .finish_non_exhaustive()
    }
}

/// As much of a kubeconfig as is used
/// (<https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/>).
#[derive(Deserialize)]
struct Kubeconfig {
    clusters: Vec<Cluster>,
    users: Vec<User>,
}

#[derive(Deserialize)]
struct Cluster {
    cluster: ClusterInfo,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterInfo {
    certificate_authority_data: String,
}

#[derive(Deserialize)]
struct User {
    user: UserInfo,
}

#[derive(Deserialize)]
struct UserInfo {
    token: String,
}

impl Operator {
    /// The operator of `tenant` that this kubeconfig describes, talking to `server` from inside the
    /// namespace `netns`.
    ///
    /// # Errors
    /// [`OperatorError::Kubeconfig`].
    pub fn new(
        kubeconfig: &str,
        netns: &str,
        server: &str,
        tenant: &str,
    ) -> Result<Self, OperatorError> {
        let broken = |why: &dyn std::fmt::Display| OperatorError::Kubeconfig(why.to_string());
        let read: Kubeconfig =
            serde_yaml_ng::from_str(kubeconfig).map_err(|error| broken(&error))?;
        let cluster = read.clusters.into_iter().next().ok_or_else(|| broken(&"no cluster"))?;
        let user = read.users.into_iter().next().ok_or_else(|| broken(&"no user"))?;
        let ca = STANDARD
            .decode(cluster.cluster.certificate_authority_data.trim())
            .map_err(|error| broken(&error))?;
        Ok(Operator {
            netns: netns.into(),
            endpoint: server.parse().map_err(|error| broken(&error))?,
            trust: Trust::pem(&String::from_utf8_lossy(&ca)).map_err(|error| broken(&error))?,
            bearer: Zeroizing::new(user.user.token),
            tenant: tenant.into(),
        })
    }

    /// Makes a token with which `uses` devices may register, approved at once. Nodes join `site`.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub fn make_token(
        &self,
        role: Role,
        uses: u32,
        site: Option<&str>,
    ) -> Result<Zeroizing<String>, OperatorError> {
        if let Some(bad) = site.filter(|site| !is_dns_label(site)) {
            return Err(OperatorError::Name(bad.into()));
        }
        let spec = TokenSpec {
            uses,
            role,
            approval: ApprovalRule::Automatic,
            site: site.map(Into::into),
            ..TokenSpec::default()
        };
        self.token(spec)
    }

    /// Makes a token for the device that takes the place of `node` of `site`.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub fn make_replacement(
        &self,
        site: &str,
        node: &str,
    ) -> Result<Zeroizing<String>, OperatorError> {
        self.token(TokenSpec {
            approval: ApprovalRule::Automatic,
            site: Some(site.into()),
            replaces: Some(node.into()),
            ..TokenSpec::default()
        })
    }

    fn token(&self, spec: TokenSpec) -> Result<Zeroizing<String>, OperatorError> {
        let mut token = Token::new(Some(&self.tenant), "", spec);
        token.metadata.generate_name = Some("lab-".into());
        let made = self.with("make a token", async |client| client.create(&token, None).await)?;
        made.status
            .and_then(|status| status.token)
            .map(Zeroizing::new)
            .ok_or(OperatorError::NoToken)
    }

    /// Objects of a kind: the tenant's, or everybody's.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub fn list<T: Resource + DeserializeOwned + Send>(&self) -> Result<Vec<T>, OperatorError> {
        let namespace = T::KIND.namespaced().then_some(self.tenant.as_str());
        self.with("list objects", async |client| {
            client.list::<T>(namespace, &Selector::all()).await
        })
        .map(|list| list.items)
    }

    /// Creates a site before its nodes come, so that its policy holds from the start.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub fn make_site(&self, site: &Site) -> Result<Site, OperatorError> {
        let mut site = site.clone();
        site.metadata.namespace = Some(self.tenant.clone());
        self.with("make a site", async |client| client.create(&site, None).await)
    }

    /// Creates a release.
    ///
    /// # Errors
    /// [`OperatorError`].
    pub fn make_release(&self, name: &str, spec: ReleaseSpec) -> Result<Release, OperatorError> {
        let release = Release::new(Some(&self.tenant), name, spec);
        self.with("make a release", async |client| client.create(&release, None).await)
    }

    /// Changes an object by a JSON merge patch (RFC 7396).
    ///
    /// # Errors
    /// [`OperatorError`].
    pub fn patch<Spec, Status>(
        &self,
        name: &str,
        patch: &serde_json::Value,
    ) -> Result<Object<Spec, Status>, OperatorError>
    where
        Object<Spec, Status>: Resource + DeserializeOwned + Send,
    {
        let namespace = <Object<Spec, Status>>::KIND.namespaced().then_some(self.tenant.as_str());
        self.with("change an object", async |client| {
            client.merge_patch(namespace, name, patch, None).await
        })
    }

    fn with<T: Send>(
        &self,
        attempt: &'static str,
        work: impl AsyncFnOnce(Client) -> Result<T, ClientError> + Send,
    ) -> Result<T, OperatorError> {
        let api = |source| OperatorError::Api { attempt, source: Box::new(source) };
        let ask = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(OperatorError::Runtime)?;
            // The controller is on the same machine.
            let options = Options { connect_timeout: Duration::from_secs(2), ..Options::default() };
            let identity = Identity::Bearer(self.bearer.clone());
            runtime.block_on(async {
                let client = Client::with_options(
                    self.endpoint.clone(),
                    self.trust.clone(),
                    identity,
                    options,
                )
                .map_err(api)?;
                work(client).await.map_err(api)
            })
        };
        netns::inside(&self.netns, ask).map_err(OperatorError::Host)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_that_is_none_says_why() {
        let error =
            Operator::new("clusters: []\nusers: []\n", "x", "https://198.18.0.2:6443", "acme")
                .unwrap_err();
        assert!(matches!(error, OperatorError::Kubeconfig(why) if why == "no cluster"));
    }
}
