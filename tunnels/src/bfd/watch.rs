//! What the follower was told of one link's sessions, so that it can be told that they are down also
//! when nobody can ask them: whoever drives them stands still in their midst.

use super::packet::Diag;
use super::session::Change;
use super::sessions::{LinkId, Sessions};
use holdfast_api::tunnel::BfdState;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// What is due for so long was left alone: whoever drives it stands still. Longer than any thread
/// waits for a processor, and the service's thread wakes about as seldom for it.
pub(super) const UNATTENDED: Duration = Duration::from_secs(1);
/// Between two attempts at sessions that somebody else has.
const PAUSE: Duration = Duration::from_millis(1);

/// What a follower is to be told.
#[derive(Debug)]
pub(super) struct Told<K> {
    /// Sessions that changed their state.
    pub(super) changes: Vec<(K, Change)>,
    /// How large a packet may be to the peer of a session.
    pub(super) path_mtus: Vec<(K, Option<u16>)>,
}

/// The sessions of one link as the follower knows them.
#[derive(Debug)]
pub(super) struct Watch<K> {
    up: BTreeSet<K>,
    /// Since when nobody can ask them.
    locked_out: Option<Instant>,
    /// Those that were told to be down without having been asked.
    given_up: BTreeSet<K>,
}

impl<K> Default for Told<K> {
    fn default() -> Self {
        Told { changes: Vec::new(), path_mtus: Vec::new() }
    }
}

impl<K> Told<K> {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.path_mtus.is_empty()
    }

    /// Takes over what is in `other`.
    pub(super) fn append(&mut self, other: &mut Told<K>) {
        self.changes.append(&mut other.changes);
        self.path_mtus.append(&mut other.path_mtus);
    }
}

impl<K> Default for Watch<K> {
    fn default() -> Self {
        Watch { up: BTreeSet::new(), locked_out: None, given_up: BTreeSet::new() }
    }
}

impl<K: Ord + Clone> Watch<K> {
    /// The sessions cannot be asked. When that has lasted for [`UNATTENDED`] those that were up are
    /// told to be down. Gives when to try again.
    pub(super) fn locked_out(&mut self, link: LinkId, now: Instant, told: &mut Told<K>) -> Instant {
        let since = *self.locked_out.get_or_insert(now);
        if now < since + UNATTENDED {
            return now + PAUSE;
        }
        if !self.up.is_empty() {
            tracing::error!(link, "whoever drives these sessions stands still");
        }
        let diag = Diag::DETECTION_TIME_EXPIRED;
        for key in std::mem::take(&mut self.up) {
            told.changes
                .push((key.clone(), Change { from: BfdState::Up, to: BfdState::Down, diag }));
            self.given_up.insert(key);
        }
        now + UNATTENDED
    }

    /// The sessions were asked, and want `new` to be told. Of those that were given up it becomes
    /// what has become of them in the end.
    pub(super) fn let_in(&mut self, sessions: &Sessions<K>, new: &mut Told<K>) {
        self.locked_out = None;
        let given_up = std::mem::take(&mut self.given_up);
        new.changes.retain(|(key, _)| !given_up.contains(key));
        for key in given_up {
            if let Some(status) = sessions.status(&key).filter(|now| now.state == BfdState::Up) {
                let (from, to) = (BfdState::Down, BfdState::Up);
                new.changes.push((key, Change { from, to, diag: status.diag }));
            }
        }
        for (key, change) in &new.changes {
            match change.to {
                BfdState::Up => self.up.insert(key.clone()),
                BfdState::Down | BfdState::Init | BfdState::AdminDown => self.up.remove(key),
            };
        }
        // Of sessions that were removed nothing is told.
        if self.up.len() > sessions.len() {
            self.up.retain(|key| sessions.status(key).is_some());
        }
    }
}
