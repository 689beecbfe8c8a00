//! Taking back what a device was given.

use super::Fleet;
use super::datastore;
use super::left;
use super::object::{annotate, save, to_value};
use super::{REGISTRATION_ANNOTATION, SIGNED_ANNOTATION};
use crate::store::{Key, OVERLAY_ANNOTATION, Shared, Tx};
use holdfast_api::Reason;
use holdfast_api::resources::{
    Kind, Registration, RegistrationPhase, RegistrationStatus, Role, Site,
};

impl Fleet {
    /// Ends a registration: its certificate is refused from now on, its configuration, peer, status
    /// and address are gone. The device may look at its registration to learn why.
    pub(super) fn withdraw(
        &self,
        tx: &mut Tx<'_>,
        entry: &Shared,
        phase: RegistrationPhase,
        reason: Reason,
    ) {
        let mut value = entry.value.clone();
        annotate(&mut value, OVERLAY_ANNOTATION, "");
        annotate(&mut value, SIGNED_ANNOTATION, "");
        value["status"] = to_value(&RegistrationStatus {
            phase,
            reason: reason.code().into(),
            message: reason.sentence().into(),
            ..RegistrationStatus::default()
        });
        let ended = save(tx, entry.key.clone(), value, None);
        if ended.version != entry.version {
            tracing::info!(registration = %entry.key, %reason, "ended");
        }
        self.take_back(tx, entry);
    }

    /// A registration was deleted.
    pub(super) fn registration_gone(&self, tx: &mut Tx<'_>, key: &Key) -> Vec<Key> {
        if let Some(before) = tx.before(key) {
            self.take_back(tx, &before);
        }
        Vec::new()
    }

    /// Removes what was made for a registration, as it was before.
    fn take_back(&self, tx: &mut Tx<'_>, before: &Shared) {
        let Some(registration) = before.decode::<Registration>() else { return };
        let status = registration.status.unwrap_or_default();
        let Some(node) = status.node else { return };
        if registration.spec.role == Role::RegionalEdge {
            let key = Key::new(Kind::RegionalEdge, "", &node);
            let origin = format!("{}/{}", before.key.namespace, before.key.name);
            if tx.get(&key).is_some_and(|edge| edge.annotation(REGISTRATION_ANNOTATION) == origin) {
                tx.delete(&key);
            }
            return;
        }
        self.presence.forget(&before.key.namespace, &node);
        for kind in [Kind::NodeConfig, Kind::TunnelPeer, Kind::NodeStatus] {
            tx.delete(&Key::new(kind, &before.key.namespace, &node));
        }
        let Some(site_key) = status.site.map(|s| Key::new(Kind::Site, &before.key.namespace, &s))
        else {
            return;
        };
        let Some(entry) = tx.get(&site_key) else { return };
        let Some(mut site) = entry.decode::<Site>() else { return };
        site.spec.nodes.retain(|member| member.registration != before.key.name);
        let mut value = entry.value.clone();
        datastore::note(&mut value, &site.spec.nodes);
        super::admission::assign_roles(&mut site.spec.nodes);
        value["spec"]["nodes"] = to_value(&site.spec.nodes);
        left::note(&mut value, left::of(&entry), &node, &site.spec.nodes);
        save(tx, site_key, value, None);
    }

    /// An edge was deleted: whoever registered it is no edge any more.
    pub(super) fn edge_gone(&self, tx: &mut Tx<'_>, key: &Key) {
        let Some(before) = tx.before(key) else { return };
        let Some((tenant, name)) = before.annotation(REGISTRATION_ANNOTATION).split_once('/')
        else {
            return;
        };
        let registration = tx.get(&Key::new(Kind::Registration, tenant, name));
        let Some(entry) = registration else { return };
        if matches!(entry.text("/status/phase"), "Admitted" | "Online") {
            let reason = Reason::RegistrationRetired;
            self.withdraw(tx, &entry, RegistrationPhase::Retired, reason);
        }
    }
}
