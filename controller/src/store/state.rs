//! All objects in memory, with their indexes. Plain data: no locks, no files.

use super::entry::{Key, Shared};
use super::index::{self, Index};
use holdfast_api::resources::Kind;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// The objects at one version.
#[derive(Default)]
pub struct State {
    objects: BTreeMap<Key, Shared>,
    indexes: BTreeMap<(Index, String), BTreeSet<Key>>,
}

impl State {
    /// The object at `key`.
    pub fn get(&self, key: &Key) -> Option<&Shared> {
        self.objects.get(key)
    }

    /// Objects of a kind, of one namespace or of all, after `after`, in order.
    pub fn list<'a>(
        &'a self,
        kind: Kind,
        namespace: Option<&'a str>,
        after: Option<&Key>,
    ) -> impl Iterator<Item = &'a Shared> + use<'a> {
        let first =
            Key { kind, namespace: namespace.unwrap_or_default().into(), name: String::new() };
        let from = match after {
            Some(after) if *after >= first => Bound::Excluded(after.clone()),
            Some(_) | None => Bound::Included(first),
        };
        self.objects.range((from, Bound::Unbounded)).map(|(_, entry)| entry).take_while(move |e| {
            e.key.kind == kind && namespace.is_none_or(|n| n == e.key.namespace)
        })
    }

    /// Objects that `index` finds by `term`, in order.
    pub fn find(&self, index: Index, term: &str) -> impl Iterator<Item = &Shared> {
        let keys = self.indexes.get(&(index, term.to_owned())).into_iter().flatten();
        keys.filter_map(|key| self.objects.get(key))
    }

    /// Whether `index` has a word between `from` and `to`, both included.
    pub fn any_between(&self, index: Index, from: &str, to: &str) -> bool {
        self.indexes.range((index, from.to_owned())..=(index, to.to_owned())).next().is_some()
    }

    /// Words of `index`, in order.
    pub fn terms(&self, index: Index) -> impl Iterator<Item = &str> {
        let from = (index, String::new());
        let all = self.indexes.range(from..).take_while(move |((i, _), _)| *i == index);
        all.map(|((_, term), _)| term.as_str())
    }

    /// Every namespace in which something is.
    pub fn namespaces(&self) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        for kind in Kind::ALL.iter().copied().filter(|kind| kind.namespaced()) {
            let mut from =
                Bound::Included(Key { kind, namespace: String::new(), name: String::new() });
            // One step per namespace, not per object: jump behind all names of the one found.
            while let Some(key) =
                self.objects.range((from, Bound::Unbounded)).map(|(k, _)| k).next()
            {
                if key.kind != kind {
                    break;
                }
                names.insert(key.namespace.as_str());
                let behind = format!("{}\0", key.namespace);
                from = Bound::Included(Key { kind, namespace: behind, name: String::new() });
            }
        }
        names
    }

    /// Every object.
    pub fn all(&self) -> impl Iterator<Item = &Shared> {
        self.objects.values()
    }

    /// Puts `entry` (or nothing) at `key`; answers what was there. Applying the answer undoes it.
    pub fn set(&mut self, key: &Key, entry: Option<Shared>) -> Option<Shared> {
        let before = match &entry {
            Some(entry) => self.objects.insert(key.clone(), entry.clone()),
            None => self.objects.remove(key),
        };
        for term in before.iter().flat_map(|old| index::terms(old)) {
            if let Some(keys) = self.indexes.get_mut(&term) {
                keys.remove(key);
                if keys.is_empty() {
                    self.indexes.remove(&term);
                }
            }
        }
        for term in entry.iter().flat_map(|new| index::terms(new)) {
            self.indexes.entry(term).or_default().insert(key.clone());
        }
        before
    }
}
