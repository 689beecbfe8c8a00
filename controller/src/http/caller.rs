//! Who is calling: from the TLS handshake, the `Authorization` header and the store.

use super::ApiError;
use crate::store::{Index, Store};
use crate::trust::authority::Subject;
use crate::trust::csr::DeviceId;
use crate::trust::{Operator, Operators, TlsIdentity, operators};
use holdfast_api::token::{TokenId, TokenSecret, parse_credential};
use jiff::Timestamp;

/// Who somebody is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Nobody that we know.
    Anonymous,
    /// An operator.
    Operator(Operator),
    /// A node that is admitted.
    Node {
        /// Its tenant.
        tenant: String,
        /// Its name.
        node: String,
        /// Its key.
        device: DeviceId,
    },
    /// A regional edge that is admitted.
    Edge {
        /// Its name.
        name: String,
        /// Its key.
        device: DeviceId,
    },
    /// Somebody who holds a device key, and is nothing more (yet, or any more).
    Device(DeviceId),
}

impl Identity {
    /// The device key that was proved.
    pub fn device(&self) -> Option<DeviceId> {
        match self {
            Identity::Node { device, .. } | Identity::Edge { device, .. } => Some(*device),
            Identity::Device(device) => Some(*device),
            Identity::Anonymous | Identity::Operator(_) => None,
        }
    }

    /// For logs, messages and managed fields.
    pub fn name(&self) -> String {
        match self {
            Identity::Anonymous => "system:anonymous".into(),
            Identity::Operator(operator) => format!("operator:{}", operator.name),
            Identity::Node { tenant, node, .. } => format!("node:{tenant}/{node}"),
            Identity::Edge { name, .. } => format!("edge:{name}"),
            Identity::Device(device) => format!("device:{}", device.registration()),
        }
    }
}

/// A caller, with the registration token that he shows.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who he is.
    pub identity: Identity,
    /// His registration token.
    pub credential: Option<(TokenId, TokenSecret)>,
    /// He was a node or an edge once, and is refused now.
    pub retired: bool,
}

impl Caller {
    /// Finds out who is calling.
    ///
    /// # Errors
    /// 401: a bearer token that is none of ours.
    pub fn resolve(
        tls: &TlsIdentity,
        authorization: Option<&str>,
        store: &Store,
        operators: &Operators,
        now: Timestamp,
    ) -> Result<Caller, ApiError> {
        let (identity, retired) = of_device(tls, store);
        let Some(authorization) = authorization else {
            return Ok(Caller { identity, credential: None, retired });
        };
        let bearer = authorization
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(ApiError::unauthorized)?;
        if bearer.starts_with(operators::PREFIX) {
            let operator = operators.find(bearer, now).ok_or_else(ApiError::unauthorized)?;
            let identity = Identity::Operator(operator);
            return Ok(Caller { identity, credential: None, retired: false });
        }
        let credential = parse_credential(bearer).ok_or_else(ApiError::unauthorized)?;
        Ok(Caller { identity, credential: Some(credential), retired })
    }
}

/// A certificate alone makes no node: its registration must stand, too.
fn of_device(tls: &TlsIdentity, store: &Store) -> (Identity, bool) {
    let (device, subject) = match tls {
        TlsIdentity::None => return (Identity::Anonymous, false),
        TlsIdentity::Device(device) => return (Identity::Device(*device), false),
        TlsIdentity::Certified { device, subject } => (*device, subject),
    };
    let stands = store.read(|state, _| {
        state.find(Index::Device, &device.registration()).any(|entry| {
            let admitted = matches!(entry.text("/status/phase"), "Admitted" | "Online");
            let node = entry.text("/status/node");
            admitted
                && match subject {
                    Subject::Node { tenant, node: name } => {
                        entry.text("/spec/role") == "Node"
                            && entry.key.namespace == *tenant
                            && node == name
                    }
                    Subject::Edge { name } => {
                        entry.text("/spec/role") == "RegionalEdge" && node == name
                    }
                }
        })
    });
    match (stands, subject.clone()) {
        (true, Subject::Node { tenant, node }) => (Identity::Node { tenant, node, device }, false),
        (true, Subject::Edge { name }) => (Identity::Edge { name, device }, false),
        (false, _) => (Identity::Device(device), true),
    }
}
