//! A set of values of which each knows its own key.

use std::collections::{BTreeMap, btree_map};
use std::fmt;

/// Something that is found by a key which is part of it.
pub trait Item {
    /// What tells two items apart in the kernel.
    type Key: Ord + Clone + fmt::Debug;
    /// The key of this item.
    fn key(&self) -> Self::Key;
    /// The item as the kernel would report it back.
    #[must_use]
    fn normal(self) -> Self
    where
        Self: Sized,
    {
        self
    }
}

/// Items by key, in the order of the keys; key and item cannot disagree.
#[derive(Clone, PartialEq, Eq)]
pub struct Keyed<T: Item>(BTreeMap<T::Key, T>);

impl<T: Item> Keyed<T> {
    /// Puts `item` in, in normal form; gives back the one with the same key that it replaced.
    pub fn insert(&mut self, item: T) -> Option<T> {
        let item = item.normal();
        self.0.insert(item.key(), item)
    }
    /// The item with this key.
    pub fn get(&self, key: &T::Key) -> Option<&T> {
        self.0.get(key)
    }
    /// Whether there is one with this key.
    pub fn contains(&self, key: &T::Key) -> bool {
        self.0.contains_key(key)
    }
    /// Takes the item with this key out.
    pub fn remove(&mut self, key: &T::Key) -> Option<T> {
        self.0.remove(key)
    }
    /// Keeps what `keep` says.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.0.retain(|_, item| keep(item));
    }
    /// All items, in the order of their keys.
    pub fn iter(&self) -> btree_map::Values<'_, T::Key, T> {
        self.0.values()
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: Item> Default for Keyed<T> {
    fn default() -> Self {
        Keyed(BTreeMap::new())
    }
}

impl<T: Item + fmt::Debug> fmt::Debug for Keyed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl<T: Item> Extend<T> for Keyed<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        for item in items {
            self.insert(item);
        }
    }
}

impl<T: Item> FromIterator<T> for Keyed<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut all = Keyed::default();
        all.extend(items);
        all
    }
}

impl<'a, T: Item> IntoIterator for &'a Keyed<T> {
    type Item = &'a T;
    type IntoIter = btree_map::Values<'a, T::Key, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
