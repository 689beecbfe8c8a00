//! `create`, `update`, `patch` and `delete`.
//!
//! Form is checked before the transaction, the rules of the kind inside it, and what follows from
//! the write is settled before it is committed. Whatever fails leaves everything as it was.

use super::apply;
use super::authorize::Sight;
use super::body;
use super::form::{Strictness, check_form, decode_spec, name_of, same_namespace, strip};
use super::negotiate::Query;
use super::read::{Selection, sees};
use super::{ApiError, Caller, Identity, Target};
use crate::fleet::{self, Fleet};
use crate::rules::{self, Presentation, Write};
use crate::schema::FieldError;
use crate::store::{Key, Shared, Store, Tx};
use crate::trust::DeviceRequest;
use bytes::Bytes;
use holdfast_api::resources::{Kind, RegistrationSpec};
use serde_json::{Value, json};
use std::sync::Arc;

/// What every write needs.
pub(super) struct Writing {
    pub(super) store: Store,
    pub(super) fleet: Arc<Fleet>,
    pub(super) caller: Caller,
    pub(super) target: Target,
    pub(super) sight: Sight,
    /// How unknown fields are treated.
    pub(super) strictness: Strictness,
    /// `dryRun=All`: everything is checked and nothing is kept.
    pub(super) dry_run: bool,
    /// Who applies, for server-side apply.
    pub(super) manager: String,
    /// Server-side apply takes over what others own.
    pub(super) force: bool,
}

/// What a write answers.
pub(super) struct Written {
    pub(super) code: u16,
    pub(super) object: Value,
    pub(super) warnings: Vec<String>,
}

/// A failed dry run must not commit, and neither must one that succeeds.
enum Stop {
    Failed(ApiError),
    DryRun(Box<Value>),
}

impl From<ApiError> for Stop {
    fn from(error: ApiError) -> Self {
        Stop::Failed(error)
    }
}

impl From<crate::store::StoreError> for Stop {
    fn from(error: crate::store::StoreError) -> Self {
        Stop::Failed(error.into())
    }
}

impl Writing {
    fn key(&self, name: &str) -> Key {
        Key::new(self.target.kind, self.target.namespace.as_deref().unwrap_or_default(), name)
    }

    /// Runs a transaction; a dry run is rolled back and answers what would have been.
    async fn commit(
        store: Store,
        dry_run: bool,
        change: impl FnOnce(&mut Tx<'_>) -> Result<Value, ApiError> + Send + 'static,
    ) -> Result<Value, ApiError> {
        let result = store
            .write(move |tx| {
                let value = change(tx)?;
                if dry_run { Err(Stop::DryRun(Box::new(value))) } else { Ok(value) }
            })
            .await;
        match result {
            Ok(value) => Ok(value),
            Err(Stop::DryRun(value)) => Ok(*value),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    /// Checks the form of an object; answers warnings.
    fn check_form(&self, value: &mut Value) -> Result<Vec<String>, ApiError> {
        check_form(self.target.kind, self.strictness, value)
    }

    /// Makes an object.
    pub(super) async fn create(self, bytes: &Bytes, media: &str) -> Result<Written, ApiError> {
        let kind = self.target.kind;
        let mut value = body::parse(bytes, media)?;
        let warnings = self.check_form(&mut value)?;
        same_namespace(&self.target, &value)?;
        if kind == Kind::Registration {
            return self.register(value, warnings).await;
        }
        let name = name_of(&value);
        if kind == Kind::NodeStatus
            && let Sight::Named(_, own) = &self.sight
            && *own != name
        {
            return Err(ApiError::forbidden(format!(
                "{} may write {own:?} only",
                self.caller.identity.name()
            )));
        }
        let key = self.key(&name);
        strip(&mut value, kind);
        let Writing { store, fleet, caller, dry_run, .. } = self;
        let object = Self::commit(store, dry_run, move |tx| {
            if tx.get(&key).is_some() {
                return Err(ApiError::already_exists(key.kind, &key.name));
            }
            create(tx, &fleet, &caller, &key, value)
        })
        .await?;
        Ok(Written { code: 201, object, warnings })
    }

    /// A device presents a token.
    async fn register(self, value: Value, warnings: Vec<String>) -> Result<Written, ApiError> {
        let Some((id, secret)) = self.caller.credential.clone() else {
            return Err(ApiError::forbidden("registrations are made with a registration token"));
        };
        self.store.read(|state, _| rules::find_token(state, id, &secret).map(drop))?;
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let spec: RegistrationSpec = decode_spec(Kind::Registration, &name, &value)?;
        let proved = self.caller.identity.device();
        let invalid = |field: &str, message: String| {
            let errors = vec![FieldError::invalid(field, message)];
            Err(ApiError::invalid(Kind::Registration, &name, errors))
        };
        let device = match DeviceRequest::parse(&spec.csr) {
            Ok(request) => request.device(),
            Err(error) => return invalid("spec.csr", format!("Invalid value: {error}")),
        };
        if proved.is_some_and(|proved| proved != device) {
            return invalid(
                "spec.csr",
                "Invalid value: is for another key than the TLS certificate".into(),
            );
        }
        let own = device.registration();
        if !name.is_empty() && name != own {
            return invalid("metadata.name", format!("Invalid value: {name:?}: must be {own:?}"));
        }
        let key = self.key(&own);
        let errors = rules::check_metadata(Kind::Registration, &own, Some(&key.namespace), &value);
        if !errors.is_empty() {
            return Err(ApiError::invalid(Kind::Registration, &own, errors));
        }
        let labels = value["metadata"]["labels"].clone();
        let metadata = if labels.is_object() { json!({ "labels": labels }) } else { json!({}) };
        let key_proved = proved.is_some();
        let shown = Presentation { key, id, secret, spec, metadata, key_proved };
        let Writing { store, fleet, dry_run, .. } = self;
        let object = Self::commit(store, dry_run, move |tx| {
            let (entry, new) = rules::present(shown, &fleet, tx)?;
            Ok(json!({ "new": new, "object": entry.value }))
        })
        .await?;
        let code = if object["new"] == true { 201 } else { 200 };
        Ok(Written { code, object: object["object"].clone(), warnings })
    }

    /// Replaces an object or its status.
    pub(super) async fn update(self, bytes: &Bytes, media: &str) -> Result<Written, ApiError> {
        let mut value = body::parse(bytes, media)?;
        let warnings = self.check_form(&mut value)?;
        same_namespace(&self.target, &value)?;
        let name = self.target.name.clone().unwrap_or_default();
        if name_of(&value) != name {
            let message = format!(
                "the name of the object ({}) does not match the name on the URL ({name})",
                name_of(&value)
            );
            return Err(ApiError::bad_request(message));
        }
        self.replace(warnings, false, move |_| Ok(value)).await
    }

    /// Changes parts of an object: JSON merge patch (RFC 7386), JSON patch (RFC 6902) or
    /// server-side apply.
    pub(super) async fn patch(self, bytes: &Bytes, media: &str) -> Result<Written, ApiError> {
        const KNOWN: &str = "application/merge-patch+json, application/json-patch+json, application/apply-patch+yaml";
        let kind = self.target.kind;
        match media {
            "application/merge-patch+json" => {
                let patch = body::parse(bytes, media)?;
                if !patch.is_object() {
                    return Err(ApiError::bad_request("a merge patch must be an object"));
                }
                self.replace(Vec::new(), false, move |old| {
                    let mut value = old.clone();
                    super::patch::merge(&mut value, &patch);
                    Ok(value)
                })
                .await
            }
            "application/json-patch+json" => {
                let patch = super::patch::JsonPatch::parse(bytes)?;
                self.replace(Vec::new(), false, move |old| patch.apply(old)).await
            }
            "application/apply-patch+yaml" => {
                let mut value = body::parse(bytes, media)?;
                let warnings = self.check_form(&mut value)?;
                same_namespace(&self.target, &value)?;
                if self.manager.is_empty() {
                    return Err(ApiError::bad_request("fieldManager is required for apply patch"));
                }
                let name = self.target.name.clone().unwrap_or_default();
                value["metadata"]["name"] = name.clone().into();
                let (manager, force) = (self.manager.clone(), self.force);
                self.replace(warnings, true, move |old| {
                    apply::apply(kind, &name, old, &value, &manager, force)
                })
                .await
            }
            other => Err(ApiError::unsupported_media(other, KNOWN)),
        }
    }

    /// Writes what `make` makes of the object that is there; of nothing, when `creates`.
    async fn replace(
        self,
        mut warnings: Vec<String>,
        creates: bool,
        make: impl FnOnce(&Value) -> Result<Value, ApiError> + Send + 'static,
    ) -> Result<Written, ApiError> {
        let name = self.target.name.clone().unwrap_or_default();
        let key = self.key(&name);
        // Nodes report without asking first whether they have reported before.
        let may_create = match key.kind {
            Kind::NodeStatus => matches!(self.caller.identity, Identity::Node { .. }),
            Kind::Token | Kind::Site | Kind::Release | Kind::RegionalEdge => {
                creates && !self.target.status
            }
            Kind::Registration | Kind::NodeConfig | Kind::TunnelPeer => false,
        };
        let (strictness, status) = (self.strictness, self.target.status);
        let Writing { store, fleet, caller, dry_run, sight, .. } = self;
        let result = Self::commit(store, dry_run, move |tx| {
            let old = tx.get(&key).filter(|entry| sees(&sight, entry));
            let Some(old) = old else {
                if !may_create {
                    return Err(ApiError::not_found(key.kind, &key.name));
                }
                let mut value = make(&json!({"metadata": {"name": key.name}}))?;
                let warnings = check_form(key.kind, strictness, &mut value)?;
                strip(&mut value, key.kind);
                let object = create(tx, &fleet, &caller, &key, value)?;
                return Ok(json!({"code": 201, "object": object, "warnings": warnings}));
            };
            let mut value = make(&old.value)?;
            let warnings = check_form(key.kind, strictness, &mut value)?;
            let object = update(tx, &fleet, &caller, &old, value, status)?;
            Ok(json!({"code": 200, "object": object, "warnings": warnings}))
        })
        .await?;
        let more = result["warnings"].as_array().into_iter().flatten();
        warnings.extend(more.filter_map(|w| w.as_str().map(str::to_owned)));
        warnings.dedup();
        let code = if result["code"] == 201 { 201 } else { 200 };
        Ok(Written { code, object: result["object"].clone(), warnings })
    }

    /// Removes an object.
    pub(super) async fn delete(self, bytes: &Bytes) -> Result<Written, ApiError> {
        let name = self.target.name.clone().unwrap_or_default();
        let key = self.key(&name);
        let options: Value = if bytes.is_empty() { json!({}) } else { body::parse(bytes, "")? };
        let dry_run = self.dry_run || options["dryRun"].as_array().is_some_and(|d| !d.is_empty());
        let fleet = self.fleet;
        let object = Self::commit(self.store, dry_run, move |tx| {
            let old = tx.get(&key).ok_or_else(|| ApiError::not_found(key.kind, &key.name))?;
            let wanted = |field: &str| options["preconditions"][field].as_str();
            let differs = |field: &str| {
                wanted(field).is_some_and(|w| w != old.text(&format!("/metadata/{field}")))
            };
            if differs("uid") || differs("resourceVersion") {
                return Err(ApiError::conflict(
                    key.kind,
                    &key.name,
                    "the preconditions do not hold",
                ));
            }
            tx.delete(&key);
            fleet.settle(tx);
            Ok(json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {
                    "name": key.name, "group": holdfast_api::meta::GROUP,
                    "kind": key.kind.plural(), "uid": old.text("/metadata/uid"),
                },
            }))
        })
        .await?;
        Ok(Written { code: 200, object, warnings: Vec::new() })
    }

    /// Removes what is selected of a collection.
    pub(super) async fn delete_collection(self, query: &Query) -> Result<Written, ApiError> {
        let selection = Selection::new(&self.target, self.sight.clone(), query)?;
        let (kind, fleet) = (self.target.kind, self.fleet);
        let object = Self::commit(self.store, self.dry_run, move |tx| {
            let all = tx.list(kind, self.target.namespace.as_deref());
            let wanted: Vec<_> = all.into_iter().filter(|entry| selection.matches(entry)).collect();
            for entry in &wanted {
                tx.delete(&entry.key);
            }
            fleet.settle(tx);
            let items: Vec<&Value> = wanted.iter().map(|entry| &entry.value).collect();
            Ok(json!({
                "kind": format!("{}List", kind.name()), "apiVersion": holdfast_api::meta::API_VERSION,
                "metadata": {}, "items": items,
            }))
        })
        .await?;
        Ok(Written { code: 200, object, warnings: Vec::new() })
    }
}

fn create(
    tx: &mut Tx<'_>,
    fleet: &Fleet,
    caller: &Caller,
    key: &Key,
    mut value: Value,
) -> Result<Value, ApiError> {
    let write = Write { caller, key, old: None, status: false };
    rules::keep_system_annotations(&write, &mut value);
    check_rules(&write, fleet, tx, &mut value)?;
    let issued = (key.kind == Kind::Token)
        .then(|| rules::issue(&key.namespace, fleet.authority.fingerprint()));
    if let Some(issued) = &issued {
        value["status"] = issued.status.clone();
    }
    let given = rules::take_hidden(key.kind, &mut value);
    let hidden = issued.as_ref().map(|issued| issued.hidden.clone()).or(given);
    fleet::save(tx, key.clone(), value, hidden);
    fleet.settle(tx);
    let mut object = current(tx, key)?.value.clone();
    if let Some(issued) = issued {
        object["status"]["token"] = issued.text.as_str().into();
    }
    Ok(object)
}

fn update(
    tx: &mut Tx<'_>,
    fleet: &Fleet,
    caller: &Caller,
    old: &Shared,
    new: Value,
    status: bool,
) -> Result<Value, ApiError> {
    let key = &old.key;
    let field = |name: &str| new["metadata"][name].as_str().unwrap_or_default();
    let version = field("resourceVersion");
    if !version.is_empty() && version != old.version.to_string() {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        return Err(ApiError::conflict(key.kind, &key.name, why));
    }
    if !field("uid").is_empty() && field("uid") != old.text("/metadata/uid") {
        let why = "the UID in the precondition does not match the UID in record";
        return Err(ApiError::conflict(key.kind, &key.name, why));
    }
    let write = Write { caller, key, old: Some(old), status };
    // Everything of a NodeStatus is status.
    let mut value =
        if key.kind == Kind::NodeStatus { new } else { merge_halves(&old.value, &new, status) };
    rules::keep_system_annotations(&write, &mut value);
    check_rules(&write, fleet, tx, &mut value)?;
    let given = rules::take_hidden(key.kind, &mut value);
    let written = fleet::save(tx, key.clone(), value, given);
    if key.kind == Kind::RegionalEdge && status {
        fleet.edge_reported(tx, &written);
    }
    if !status {
        fleet.settle(tx);
    }
    Ok(current(tx, key)?.value.clone())
}

/// A write of the object leaves its status alone, and a write of the status everything else.
fn merge_halves(old: &Value, new: &Value, status: bool) -> Value {
    let mut value = if status { old.clone() } else { new.clone() };
    let from = if status { new } else { old };
    match (from.get("status"), value.as_object_mut()) {
        (Some(half), Some(map)) => drop(map.insert("status".into(), half.clone())),
        (None, Some(map)) => drop(map.remove("status")),
        (_, None) => {}
    }
    value
}

fn check_rules(
    write: &Write<'_>,
    fleet: &Fleet,
    tx: &Tx<'_>,
    value: &mut Value,
) -> Result<(), ApiError> {
    let key = write.key;
    let namespace = key.kind.namespaced().then_some(key.namespace.as_str());
    let errors = rules::check_metadata(key.kind, &key.name, namespace, value);
    if !errors.is_empty() {
        return Err(ApiError::invalid(key.kind, &key.name, errors));
    }
    rules::check(write, fleet, tx, value)
}

fn current(tx: &Tx<'_>, key: &Key) -> Result<Shared, ApiError> {
    tx.get(key).ok_or_else(|| ApiError::conflict(key.kind, &key.name, "it was removed at once"))
}
