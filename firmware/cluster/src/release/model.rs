//! A release as the rest of this folder sees it: parsed, checked, in the order in which it is
//! applied; and what a site is known to have of ours.

use super::journal::Direction;
use crate::images::Credentials;
use crate::object::{Object, ObjectId};
use holdfast_api::kubernetes::{FailedRelease, ReleaseRef};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long one object may take until it is ready, unless the release or the object says else.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// Whether the release waits for an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Strategy {
    /// It goes on when the object is ready.
    #[default]
    Pessimistic,
    /// It goes on when the API server has taken the object.
    Optimistic,
}

/// An object and what its annotations say of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The object, with our label on it.
    pub object: Object,
    /// Whether it is waited for.
    pub strategy: Strategy,
    /// How long it is waited for, at least one second.
    pub timeout: Duration,
    /// It carries the site's traffic: it is touched only when its images are on every node.
    pub data_plane: bool,
}

impl Item {
    /// Whether Kubernetes removes the object by itself when it is done
    /// (`Job.spec.ttlSecondsAfterFinished`, kubernetes.io "TTL-after-finished Controller").
    pub fn passes(&self) -> bool {
        self.object.id.kind == "Job"
            && self.object.value["spec"]["ttlSecondsAfterFinished"].is_number()
    }
}

/// A release that can be applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Release {
    /// Which one.
    pub reference: ReleaseRef,
    /// Its objects, in the order in which they are applied ([`super::order`]); no two are the
    /// same.
    pub items: Vec<Item>,
    /// Images that every node needs, named in full, sorted, each once.
    pub images: Vec<String>,
    /// Who asks for which of them ([`super::credentials`]).
    pub credentials: BTreeMap<String, Credentials>,
}

impl Release {
    /// What the release has.
    pub fn inventory(&self) -> Inventory {
        self.items.iter().map(|item| item.object.id.clone()).collect()
    }

    /// The item with this id.
    pub fn item(&self, id: &ObjectId) -> Option<&Item> {
        self.items.iter().find(|item| item.object.id == *id)
    }
}

/// What an object is, whichever version of its API it is written in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// API group, empty for the core.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace, empty for what belongs to the whole cluster.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// The key of `id`.
    pub fn of(id: &ObjectId) -> Self {
        Key {
            group: group(&id.api_version).to_owned(),
            kind: id.kind.clone(),
            namespace: id.namespace.clone().unwrap_or_default(),
            name: id.name.clone(),
        }
    }
}

/// The group of an `apiVersion`; empty for the core (`v1`).
pub fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// Objects, each once, told apart by [`Key`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<ObjectId>", into = "Vec<ObjectId>")]
pub struct Inventory(BTreeMap<Key, ObjectId>);

impl Inventory {
    /// Whether it has this object, in whichever API version.
    pub fn has(&self, id: &ObjectId) -> bool {
        self.0.contains_key(&Key::of(id))
    }

    /// Its objects.
    pub fn iter(&self) -> impl Iterator<Item = &ObjectId> {
        self.0.values()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is in either.
    pub fn with(&self, other: &Inventory) -> Inventory {
        self.iter().chain(other.iter()).cloned().collect()
    }

    /// What is in this one alone.
    pub fn without(&self, other: &Inventory) -> Inventory {
        self.iter().filter(|id| !other.has(id)).cloned().collect()
    }
}

impl FromIterator<ObjectId> for Inventory {
    fn from_iter<I: IntoIterator<Item = ObjectId>>(ids: I) -> Self {
        Inventory(ids.into_iter().map(|id| (Key::of(&id), id)).collect())
    }
}

impl From<Vec<ObjectId>> for Inventory {
    fn from(ids: Vec<ObjectId>) -> Self {
        ids.into_iter().collect()
    }
}

impl From<Inventory> for Vec<ObjectId> {
    fn from(inventory: Inventory) -> Self {
        inventory.0.into_values().collect()
    }
}

/// A release that was committed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Good {
    /// Which.
    pub release: ReleaseRef,
    /// Its objects.
    pub objects: Inventory,
}

impl Good {
    /// What a release in force is known by.
    pub fn of(release: &Release) -> Self {
        Good { release: release.reference.clone(), objects: release.inventory() }
    }
}

/// What the site itself remembers of releases, for whichever node applies the next one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SiteRecord {
    /// The release in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub good: Option<Good>,
    /// Objects that may be there and are not part of it: of an attempt, or not removable so far.
    pub leftovers: Inventory,
    /// Digest of the release that is being tried or taken back; empty when there is none.
    pub attempt: String,
    /// Which way that goes.
    pub direction: Direction,
    /// Something may have been changed since `good` was in force.
    pub torn: bool,
    /// There may be a release in force of which nobody knows: nothing is removed to go back.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
    /// The node that wrote this.
    pub by: String,
    /// What failed, for whichever node applies next.
    pub failed: Vec<FailedRelease>,
}

/// How a site is not what is remembered of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Strayed {
    /// Objects of the release in force are gone.
    Objects,
    /// It remembers nothing: it was made anew. Also a way that only later versions know: then all
    /// of it is applied.
    #[serde(other)]
    Site,
}
