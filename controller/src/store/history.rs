//! The latest changes of each kind, for watches. Bounded: a watch that falls further behind is
//! told to list again (410 Gone).

use super::entry::Shared;
use holdfast_api::resources::Kind;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// One change of one object.
#[derive(Debug)]
pub struct Event {
    /// The store's version of the change.
    pub version: u64,
    /// The object before; none when it was made.
    pub before: Option<Shared>,
    /// The object after; none when it was deleted.
    pub after: Option<Shared>,
}

/// What was asked for is older than what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the oldest version that can be watched from is {oldest}")]
pub struct Gone {
    /// Oldest version from which all changes are known.
    pub oldest: u64,
}

#[derive(Debug, Default)]
struct Lane {
    events: VecDeque<Arc<Event>>,
    /// Version of the newest event that was dropped.
    dropped: u64,
}

/// The latest changes of each kind.
#[derive(Debug)]
pub(super) struct History {
    lanes: BTreeMap<Kind, Lane>,
    capacity: usize,
    start: u64,
}

impl History {
    /// Keeps `capacity` changes of each kind, and knows nothing before `start`.
    pub(super) fn new(capacity: usize, start: u64) -> Self {
        History { lanes: BTreeMap::new(), capacity, start }
    }

    pub(super) fn push(&mut self, kind: Kind, event: Event) {
        let lane = self.lanes.entry(kind).or_default();
        lane.events.push_back(Arc::new(event));
        if lane.events.len() > self.capacity
            && let Some(oldest) = lane.events.pop_front()
        {
            lane.dropped = oldest.version;
        }
    }

    /// Changes after `version`, oldest first.
    pub(super) fn since(&self, kind: Kind, version: u64) -> Result<Vec<Arc<Event>>, Gone> {
        let lane = self.lanes.get(&kind);
        let oldest = lane.map_or(0, |lane| lane.dropped).max(self.start);
        if version < oldest {
            return Err(Gone { oldest });
        }
        let events = lane.map(|lane| {
            let from = lane.events.partition_point(|event| event.version <= version);
            lane.events.range(from..).cloned().collect()
        });
        Ok(events.unwrap_or_default())
    }
}
