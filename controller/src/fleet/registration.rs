//! Registrations: approval, place, certificate.

use super::admission::{self, Verdict};
use super::datastore;
use super::left;
use super::object::{annotate, save, set_field, to_value};
use super::{
    Fleet, OFFERED_ANNOTATION, REGISTRATION_ANNOTATION, SIGNED_ANNOTATION, TOKEN_LABELS_ANNOTATION,
    TOKEN_REPLACES_ANNOTATION, TOKEN_SITE_ANNOTATION, render,
};
use crate::store::{Key, OVERLAY_ANNOTATION, Shared, Tx};
use crate::trust::DeviceRequest;
use crate::trust::authority::Subject;
use holdfast_api::Reason;
use holdfast_api::resources::{
    Kind, NodeRole, RegionalEdge, RegionalEdgeSpec, Registration, RegistrationPhase,
    RegistrationStatus, Role, Site, SiteNode,
};
use std::collections::BTreeMap;

/// Why a device cannot be admitted now. It stays pending and says so.
struct Obstacle(Reason, String);

impl Fleet {
    pub(super) fn registration(&self, tx: &mut Tx<'_>, key: &Key) -> Vec<Key> {
        let Some(entry) = tx.get(key) else {
            return self.registration_gone(tx, key);
        };
        let Some(registration) = entry.decode::<Registration>() else { return Vec::new() };
        let status = registration.status.clone().unwrap_or_default();
        let site = status.site.as_ref().map(|site| Key::new(Kind::Site, &key.namespace, site));
        match admission::decide(&registration.spec, &status) {
            Verdict::Leave => Vec::new(),
            Verdict::Wait => {
                let waiting = RegistrationStatus {
                    phase: RegistrationPhase::Pending,
                    reason: Reason::RegistrationPending.code().into(),
                    message: Reason::RegistrationPending.sentence().into(),
                    ..RegistrationStatus::default()
                };
                set_status(tx, &entry, &waiting);
                Vec::new()
            }
            Verdict::Refuse => {
                self.withdraw(
                    tx,
                    &entry,
                    RegistrationPhase::Rejected,
                    Reason::RegistrationRejected,
                );
                site.into_iter().collect()
            }
            Verdict::Admit => {
                let admitted = match registration.spec.role {
                    Role::Node => self.admit_node(tx, &entry, &registration, &status),
                    Role::RegionalEdge => self.admit_edge(tx, &entry, &registration, &status),
                };
                match admitted {
                    Ok(key) => key.into_iter().collect(),
                    Err(Obstacle(reason, message)) => {
                        tracing::warn!(registration = %key, %reason, message, "cannot be admitted");
                        let reason = reason.code().into();
                        set_status(tx, &entry, &RegistrationStatus { reason, message, ..status });
                        Vec::new()
                    }
                }
            }
        }
    }

    /// Answers the site to look at next; none when the registration was retired instead.
    fn admit_node(
        &self,
        tx: &mut Tx<'_>,
        entry: &Shared,
        registration: &Registration,
        status: &RegistrationStatus,
    ) -> Result<Option<Key>, Obstacle> {
        let tenant = &entry.key.namespace;
        let site_key = match &status.site {
            Some(site) => Key::new(Kind::Site, tenant, site),
            None => Key::new(Kind::Site, tenant, &self.site_for(tx, entry, registration)),
        };
        let site = tx.get(&site_key).and_then(|site| site.decode::<Site>());
        let member = site.and_then(|site| {
            site.spec.nodes.into_iter().find(|node| node.registration == entry.key.name)
        });
        let node = match (member, &status.node) {
            (Some(node), _) => node.name,
            (None, Some(_)) => {
                self.withdraw(tx, entry, RegistrationPhase::Retired, Reason::RegistrationRetired);
                return Ok(None);
            }
            (None, None) => self.join(tx, &site_key, entry, registration),
        };
        let subject = Subject::Node { tenant: tenant.clone(), node: node.clone() };
        let mut value = entry.value.clone();
        if entry.annotation(OVERLAY_ANNOTATION).is_empty() {
            let address = self.nodes.next(tx.state()).ok_or_else(|| {
                let message = format!("the pool {} is exhausted", self.settings.node_overlay);
                Obstacle(Reason::ConfigInvalid, message)
            })?;
            annotate(&mut value, OVERLAY_ANNOTATION, &address.to_string());
        }
        let new = RegistrationStatus {
            site: Some(site_key.name.clone()),
            node: Some(node),
            ..self.certify(tx, entry, registration, status, &subject, &mut value)?
        };
        value["status"] = to_value(&new);
        save(tx, entry.key.clone(), value, None);
        Ok(Some(site_key))
    }

    fn site_for(&self, tx: &Tx<'_>, entry: &Shared, registration: &Registration) -> String {
        let approved = registration.spec.approval.as_ref().and_then(|a| a.site.as_deref());
        let by_token =
            Some(entry.annotation(TOKEN_SITE_ANNOTATION)).filter(|site| !site.is_empty());
        let tenant = &entry.key.namespace;
        let exists = |name: &str| tx.state().get(&Key::new(Kind::Site, tenant, name)).is_some();
        let hostname = &registration.spec.hostname;
        admission::site_name(approved.or(by_token), hostname, &entry.key.name, exists)
    }

    /// Makes the device a node of the site, and the site when there is none. Answers its name.
    ///
    /// One that takes the place of another comes last all the same: the site's prefix belongs to its
    /// first node, which should be one that is there.
    fn join(
        &self,
        tx: &mut Tx<'_>,
        site_key: &Key,
        entry: &Shared,
        registration: &Registration,
    ) -> String {
        let tenant = &entry.key.namespace;
        let site = tx.get(site_key);
        let mut left = site.as_ref().map(left::of).unwrap_or_default();
        let mut nodes =
            site.and_then(|site| site.decode::<Site>()).map(|s| s.spec.nodes).unwrap_or_default();
        let replaced = entry.annotation(TOKEN_REPLACES_ANNOTATION);
        let at = nodes.iter().position(|node| node.name == replaced);
        let old = at.map(|at| nodes.remove(at));
        let is_first = nodes.is_empty();
        if is_first {
            // Nobody is left who could take the new node for the old one.
            left.clear();
            old.iter().for_each(|old| self.replace(tx, tenant, old));
        }
        let taken = |name: &str| {
            left.iter().any(|gone| gone == name)
                || tx.state().get(&Key::new(Kind::NodeConfig, tenant, name)).is_some()
        };
        let name = admission::node_name(&site_key.name, taken);
        nodes.push(SiteNode {
            address: None,
            name: name.clone(),
            registration: entry.key.name.clone(),
            role: old.as_ref().map_or(NodeRole::Worker, |old| old.role),
        });
        let mut value = tx.get(site_key).map_or_else(|| serde_json::json!({}), |s| s.value.clone());
        datastore::note(&mut value, &nodes);
        admission::assign_roles(&mut nodes);
        value["spec"]["nodes"] = to_value(&nodes);
        for (label, text) in labels(entry, registration) {
            // An operator who labelled the site beforehand knows better.
            let place = &mut value["metadata"]["labels"][label];
            if place.is_null() {
                *place = text.into();
            }
        }
        save(tx, site_key.clone(), value, None);
        // Once its place is taken: else the next in line would get its role.
        old.iter().filter(|_| !is_first).for_each(|old| self.replace(tx, tenant, old));
        name
    }

    /// Retires a node whose place another device takes.
    fn replace(&self, tx: &mut Tx<'_>, tenant: &str, old: &SiteNode) {
        let key = Key::new(Kind::Registration, tenant, &old.registration);
        if let Some(registration) = tx.get(&key) {
            tracing::info!(node = old.name, "another device takes its place");
            let reason = Reason::RegistrationRetired;
            self.withdraw(tx, &registration, RegistrationPhase::Retired, reason);
        }
    }

    fn admit_edge(
        &self,
        tx: &mut Tx<'_>,
        entry: &Shared,
        registration: &Registration,
        status: &RegistrationStatus,
    ) -> Result<Option<Key>, Obstacle> {
        let origin = format!("{}/{}", entry.key.namespace, entry.key.name);
        let mut offered = registration.spec.edge.clone().unwrap_or_default();
        offered.public_key = offered.public_key.or(registration.spec.wireguard_public_key);
        let name = match &status.node {
            Some(name) => name.clone(),
            None => self.edge_name(tx, entry, registration, &origin),
        };
        let key = Key::new(Kind::RegionalEdge, "", &name);
        let have = tx.get(&key);
        if have.is_none() && status.node.is_some() {
            self.withdraw(tx, entry, RegistrationPhase::Retired, Reason::RegistrationRetired);
            return Ok(None);
        }
        let spec = match &have {
            None => offered.clone(),
            Some(have) => {
                let before: RegionalEdgeSpec =
                    serde_json::from_str(have.annotation(OFFERED_ANNOTATION)).unwrap_or_default();
                let edge = have.decode::<RegionalEdge>();
                render::edge(&edge.map(|e| e.spec).unwrap_or_default(), &before, &offered)
            }
        };
        let mut edge = have.map_or_else(|| serde_json::json!({}), |have| have.value.clone());
        edge["spec"] = to_value(&spec);
        annotate(&mut edge, REGISTRATION_ANNOTATION, &origin);
        annotate(&mut edge, OFFERED_ANNOTATION, &to_value(&offered).to_string());
        save(tx, key.clone(), edge, None);
        let subject = Subject::Edge { name: name.clone() };
        let mut value = entry.value.clone();
        let new = RegistrationStatus {
            site: None,
            node: Some(name),
            ..self.certify(tx, entry, registration, status, &subject, &mut value)?
        };
        value["status"] = to_value(&new);
        save(tx, entry.key.clone(), value, None);
        Ok(Some(key))
    }

    /// The name asked for, unless another device has it.
    fn edge_name(
        &self,
        tx: &Tx<'_>,
        entry: &Shared,
        registration: &Registration,
        origin: &str,
    ) -> String {
        let approved = registration.spec.approval.as_ref().and_then(|a| a.site.clone());
        let by_token = Some(entry.annotation(TOKEN_SITE_ANNOTATION).to_owned())
            .filter(|name| !name.is_empty());
        let asked = approved
            .or(by_token)
            .or_else(|| admission::label_of(&registration.spec.hostname))
            .unwrap_or_else(|| "edge".into());
        admission::numbered(&asked, |name| {
            let edge = tx.state().get(&Key::new(Kind::RegionalEdge, "", name));
            edge.is_some_and(|edge| {
                let owner = edge.annotation(REGISTRATION_ANNOTATION);
                !owner.is_empty() && owner != origin
            })
        })
    }

    /// Status of an admitted device, with a certificate for its newest request.
    fn certify(
        &self,
        tx: &Tx<'_>,
        entry: &Shared,
        registration: &Registration,
        status: &RegistrationStatus,
        subject: &Subject,
        value: &mut serde_json::Value,
    ) -> Result<RegistrationStatus, Obstacle> {
        let csr = &registration.spec.csr;
        let request_hash = holdfast_api::hex(&crate::sha256(csr.as_bytes()));
        let mut certificate = status.certificate.clone();
        if certificate.is_none() || entry.annotation(SIGNED_ANNOTATION) != request_hash {
            let request = DeviceRequest::parse(csr)
                .map_err(|error| Obstacle(Reason::IdentityUnusable, format!("spec.csr {error}")))?;
            let signed = self
                .authority
                .sign_device(&request, subject, tx.now(), self.settings.certificate_life)
                .map_err(|error| Obstacle(error.reason(), error.to_string()))?;
            annotate(value, SIGNED_ANNOTATION, &request_hash);
            certificate = Some(signed);
            tracing::info!(subject = subject.common_name(), "signed a certificate");
        }
        let phase = match status.phase {
            RegistrationPhase::Online => RegistrationPhase::Online,
            RegistrationPhase::Pending
            | RegistrationPhase::Approved
            | RegistrationPhase::Admitted
            | RegistrationPhase::Rejected
            | RegistrationPhase::Retired => RegistrationPhase::Admitted,
        };
        Ok(RegistrationStatus {
            phase,
            certificate,
            ca: Some(self.authority.pem().into()),
            ..RegistrationStatus::default()
        })
    }

    /// Edges: an overlay address for those that have none; the registration of one that was deleted
    /// is retired.
    pub(super) fn edge(&self, tx: &mut Tx<'_>, key: &Key) -> Vec<Key> {
        let Some(entry) = tx.get(key) else {
            self.edge_gone(tx, key);
            return Vec::new();
        };
        if entry.text("/spec/overlayAddress").is_empty() {
            match self.edges.next(tx.state()) {
                Some(address) => set_field(tx, &entry, "overlayAddress", to_value(&address)),
                None => {
                    let pool = self.settings.edge_overlay;
                    tracing::warn!(edge = key.name, %pool, "no overlay address is free");
                }
            }
        }
        Vec::new()
    }
}

pub(super) fn set_status(tx: &mut Tx<'_>, entry: &Shared, status: &RegistrationStatus) {
    let mut value = entry.value.clone();
    value["status"] = to_value(status);
    save(tx, entry.key.clone(), value, None);
}

fn labels(entry: &Shared, registration: &Registration) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> =
        serde_json::from_str(entry.annotation(TOKEN_LABELS_ANNOTATION)).unwrap_or_default();
    labels.extend(registration.spec.approval.iter().flat_map(|approval| approval.labels.clone()));
    labels
}
