//! Sites: prefix, membership, and what is rendered for their nodes.

use super::datastore;
use super::lan;
use super::left;
use super::object::{save, set_field, to_value, write};
use super::render::{self, NodeInput};
use super::{Fleet, SITE_LABEL};
use crate::store::{Index, Key, OVERLAY_ANNOTATION, Tx};
use holdfast_api::Reason;
use holdfast_api::kubernetes::ReleaseRef;
use holdfast_api::resources::{
    Kind, NodeConfig, NodeConfigSpec, NodeConfigStatus, RegionalEdge, RegistrationPhase, Release,
    Site, SiteKubernetes, SiteSpec,
};
use std::collections::BTreeSet;

impl Fleet {
    pub(super) fn site(&self, tx: &mut Tx<'_>, key: &Key) -> Vec<Key> {
        let site = tx.get(key).and_then(|entry| entry.decode::<Site>());
        let members: BTreeSet<String> = site
            .iter()
            .flat_map(|site| site.spec.nodes.iter().map(|node| node.registration.clone()))
            .collect();
        let term = format!("{}/{}", key.namespace, key.name);
        let registered = tx.find(Index::SiteRegistrations, &term);
        // Registrations of the site that it does not have (any more).
        for entry in registered.iter().filter(|entry| !members.contains(&entry.key.name)) {
            let reason = Reason::RegistrationRetired;
            self.withdraw(tx, entry, RegistrationPhase::Retired, reason);
        }
        let Some(mut site) = site else { return Vec::new() };
        // Members whose registration is gone.
        let known: BTreeSet<&str> =
            registered.iter().map(|entry| entry.key.name.as_str()).collect();
        let complete = site.spec.nodes.len();
        site.spec.nodes.retain(|node| known.contains(node.registration.as_str()));
        if site.spec.nodes.len() != complete
            && let Some(entry) = tx.get(key)
        {
            set_field(tx, &entry, "nodes", to_value(&site.spec.nodes));
        }
        if site.spec.prefix.is_none() {
            site.spec.prefix = self.prefixes.next(tx.state());
            match (tx.get(key), site.spec.prefix) {
                (Some(entry), Some(prefix)) => set_field(tx, &entry, "prefix", to_value(&prefix)),
                _ => {
                    tracing::warn!(site = %key, pool = %self.settings.site_pool, "no prefix is free")
                }
            }
        }
        let addressed = lan::addressed(&key.name, &site.spec.nodes, site.spec.prefix);
        if addressed != site.spec.nodes {
            site.spec.nodes = addressed;
            if let Some(entry) = tx.get(key) {
                set_field(tx, &entry, "nodes", to_value(&site.spec.nodes));
            }
        }
        if site.spec.kubernetes.is_some()
            && let Some(entry) = tx.get(key).filter(|entry| entry.hidden.is_none())
        {
            let token = holdfast_api::hex(&crate::random::<32>());
            save(tx, key.clone(), entry.value.clone(), Some(token));
        }
        if let Some(entry) = tx.get(key) {
            let mut value = entry.value.clone();
            datastore::note(&mut value, &site.spec.nodes);
            save(tx, key.clone(), value, None);
        }
        if site.status.is_none() {
            self.assess_site(tx, key);
        }
        self.render_site(tx, key, &site.spec);
        Vec::new()
    }

    /// Writes `NodeConfig` and `TunnelPeer` of every node of a site, where they differ.
    fn render_site(&self, tx: &mut Tx<'_>, key: &Key, spec: &SiteSpec) {
        if spec.nodes.is_empty() {
            return;
        }
        let edges: Vec<RegionalEdge> = tx
            .list(Kind::RegionalEdge, None)
            .iter()
            .filter_map(|entry| entry.decode::<RegionalEdge>())
            .collect();
        let site = tx.get(key);
        let join_token = site.as_ref().and_then(|site| site.hidden.clone());
        let left = site.as_ref().map(left::of).unwrap_or_default();
        let datastore = site.as_ref().map(datastore::of).unwrap_or_default();
        let release = spec.kubernetes.as_ref().and_then(|want| release(tx, &key.namespace, want));
        for node in &spec.nodes {
            let at = |kind| Key::new(kind, &key.namespace, &node.name);
            let registration =
                tx.get(&Key::new(Kind::Registration, &key.namespace, &node.registration));
            let input = NodeInput {
                site: &key.name,
                spec,
                node,
                overlay: registration
                    .as_ref()
                    .and_then(|entry| entry.annotation(OVERLAY_ANNOTATION).parse().ok()),
                public_key: registration
                    .as_ref()
                    .and_then(|entry| entry.text("/spec/wireguardPublicKey").parse().ok()),
                release: release.as_ref(),
                left: &left,
                datastore: &datastore,
            };
            let labels = [(SITE_LABEL, key.name.as_str())];
            let have = tx.get(&at(Kind::NodeConfig)).and_then(|entry| entry.decode::<NodeConfig>());
            let want = render::node_config(input, &edges);
            let want = render::number(have.as_ref().map(|c| &c.spec), want, tx.next_version());
            let status = NodeConfigStatus { content_hash: content_hash(&want) };
            let (want, status) = (to_value(&want), to_value(&status));
            write(tx, at(Kind::NodeConfig), &labels, want, Some(status), join_token.clone());
            match render::tunnel_peer(input, &edges) {
                Some(peer) => {
                    write(tx, at(Kind::TunnelPeer), &labels, to_value(&peer), None, None);
                }
                None => {
                    tx.delete(&at(Kind::TunnelPeer));
                }
            }
        }
    }

    /// Renders a site anew without anything of it having been written: its surroundings changed.
    pub(super) fn refresh_site(&self, tx: &mut Tx<'_>, key: &Key) {
        if let Some(site) = tx.get(key).and_then(|entry| entry.decode::<Site>()) {
            self.render_site(tx, key, &site.spec);
        }
    }
}

/// The release that a site names, as its nodes are told of it; none when it was deleted, and then
/// nodes keep what they run.
fn release(tx: &Tx<'_>, tenant: &str, want: &SiteKubernetes) -> Option<ReleaseRef> {
    let name = want.release.clone()?;
    let release = tx.get(&Key::new(Kind::Release, tenant, &name))?.decode::<Release>()?;
    let digest = release.status.unwrap_or_default().digest;
    Some(ReleaseRef { name, version: release.spec.version, digest, force: want.force })
}

/// SHA-256 of a configuration's JSON, hex.
fn content_hash(spec: &NodeConfigSpec) -> String {
    holdfast_api::hex(&crate::sha256(&serde_json::to_vec(spec).unwrap_or_default()))
}
