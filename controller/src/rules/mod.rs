//! What each kind demands of a write, beyond its form: checked inside the transaction, so that
//! what is checked still holds when the write happens.

mod edge;
mod host;
mod kubernetes;
mod metadata;
mod net;
mod present;
mod registration;
mod release;
mod site;
mod token;

pub use metadata::{check_metadata, keep_system_annotations};
pub(crate) use net::overlap;
pub use present::{Presentation, find_token, present};
pub use token::{Issued, issue};

use crate::fleet::{Fleet, HEARD_ANNOTATION};
use crate::http::{ApiError, Caller, Identity};
use crate::schema::FieldError;
use crate::store::{Key, Shared, Tx};
use holdfast_api::resources::Kind;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeSet;

/// A write that a client asks for.
pub struct Write<'a> {
    /// Who asks.
    pub caller: &'a Caller,
    /// The object.
    pub key: &'a Key,
    /// What is there.
    pub old: Option<&'a Shared>,
    /// Whether only the status is written.
    pub status: bool,
}

impl Write<'_> {
    fn invalid(&self, errors: Vec<FieldError>) -> Result<(), ApiError> {
        if errors.is_empty() {
            return Ok(());
        }
        Err(ApiError::invalid(self.key.kind, &self.key.name, errors))
    }

    /// The caller is an operator of one tenant only.
    fn by_tenant(&self) -> bool {
        matches!(&self.caller.identity, Identity::Operator(o) if o.tenant.is_some())
    }

    fn old_spec(&self) -> Option<&Value> {
        self.old.and_then(|old| old.value.get("spec"))
    }
}

/// What of an object that is written is kept where nobody is shown it.
pub fn take_hidden(kind: Kind, value: &mut Value) -> Option<String> {
    (kind == Kind::Site).then(|| kubernetes::take_join_token(value)).flatten()
}

/// Checks `new` by the rules of its kind and completes it with what only the controller knows.
///
/// # Errors
/// 422 with the fields that are wrong, or 403 for what the caller may not set.
pub fn check(
    write: &Write<'_>,
    fleet: &Fleet,
    tx: &Tx<'_>,
    new: &mut Value,
) -> Result<(), ApiError> {
    match write.key.kind {
        Kind::Token => token::check(write, tx, new),
        Kind::Registration => registration::check(write, fleet, tx, new),
        Kind::Site => site::check(write, fleet, tx, new),
        Kind::Release => release::check(write, new),
        Kind::RegionalEdge => edge::check(write, fleet, tx, new),
        Kind::NodeStatus => {
            node_status(write, tx, new);
            Ok(())
        }
        // The authorizer lets nobody write these.
        Kind::NodeConfig | Kind::TunnelPeer => Ok(()),
    }
}

/// A node speaks for itself only, and the controller notes when.
fn node_status(write: &Write<'_>, tx: &Tx<'_>, new: &mut Value) {
    if let Identity::Node { tenant, node, .. } = &write.caller.identity {
        let config = tx.get(&Key::new(Kind::NodeConfig, tenant, node));
        let site = config.map(|config| config.text("/spec/site").to_owned()).unwrap_or_default();
        if !new["status"].is_object() {
            new["status"] = Value::Object(serde_json::Map::new());
        }
        new["status"]["site"] = site.into();
        new["metadata"]["annotations"][HEARD_ANNOTATION] = tx.now().to_string().into();
    }
}

/// Fields of a spec that differ, a default being the same as nothing.
fn changed_fields<Spec: DeserializeOwned + Serialize>(
    old: &Value,
    new: &Value,
) -> BTreeSet<String> {
    let whole = |spec: &Value| {
        Spec::deserialize(spec).ok().and_then(|s| serde_json::to_value(s).ok()).unwrap_or_default()
    };
    let (old, new) = (whole(old), whole(new));
    let names = [&old, &new].into_iter().filter_map(Value::as_object).flat_map(|map| map.keys());
    names.filter(|name| old.get(*name) != new.get(*name)).cloned().collect()
}

/// Whether somebody else has a WireGuard key: two peers with one key would take each other's traffic.
fn key_is_taken(tx: &Tx<'_>, public_key: &str, own: &[&Key]) -> bool {
    let holders = tx.find(crate::store::Index::WireguardKey, public_key);
    !public_key.is_empty() && holders.iter().any(|holder| !own.contains(&&holder.key))
}
