//! Who of many is due next.
//!
//! A deadline that moves away is left where it is, and looked at again when it comes: most move
//! with every packet. So little is done per packet, and at rest nobody wakes up for nothing. Nobody
//! is in here twice.

use std::collections::BTreeSet;
use std::time::Instant;

/// Deadlines by number.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(BTreeSet<(Instant, u32)>);

impl Deadlines {
    /// `number`, which is in here for `queued`, is now due at `due_at`. What belongs into
    /// `queued` from now on is the answer.
    pub(crate) fn set(
        &mut self,
        number: u32,
        queued: Option<Instant>,
        due_at: Option<Instant>,
    ) -> Option<Instant> {
        let Some(due_at) = due_at else { return queued };
        match queued {
            Some(queued) if queued <= due_at => return Some(queued),
            Some(queued) => {
                self.0.remove(&(queued, number));
            }
            None => {}
        }
        self.0.insert((due_at, number));
        Some(due_at)
    }

    /// `number`, which is in here for `queued`, is gone.
    pub(crate) fn forget(&mut self, number: u32, queued: Instant) {
        self.0.remove(&(queued, number));
    }

    /// Takes out one that is due: its number, and what it was in here for. It counts only if that
    /// is what the number is queued for.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(u32, Instant)> {
        let (at, number) = *self.0.first()?;
        if at > now {
            return None;
        }
        self.0.pop_first();
        Some((number, at))
    }

    /// When the next one may be due, never later than it is.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    proptest! {
        /// However deadlines move: each is met, none is late, and nobody is kept twice.
        #[test]
        fn whoever_is_due_is_told(steps in proptest::collection::vec((0u32..5, proptest::option::of(0u64..50), 0u64..10), 1..200)) {
            let mut now = Instant::now();
            let mut deadlines = Deadlines::default();
            let mut due: BTreeMap<u32, Instant> = BTreeMap::new();
            let mut queued: BTreeMap<u32, Instant> = BTreeMap::new();
            for (number, after, pass) in steps {
                let due_at = after.map(|millis| now + Duration::from_millis(millis));
                match due_at {
                    Some(at) => due.insert(number, at),
                    None => due.remove(&number),
                };
                if let Some(at) = deadlines.set(number, queued.get(&number).copied(), due_at) {
                    queued.insert(number, at);
                }
                prop_assert!(due.values().min().is_none_or(|at| deadlines.next().is_some_and(|next| next <= *at)));
                prop_assert!(deadlines.0.len() <= 5, "somebody is kept twice");
                now += Duration::from_millis(pass);
                while let Some((number, at)) = deadlines.pop(now) {
                    if queued.get(&number) != Some(&at) {
                        continue;
                    }
                    queued.remove(&number);
                    if due.get(&number).is_some_and(|at| *at <= now) {
                        due.remove(&number);
                    }
                    if let Some(at) = deadlines.set(number, None, due.get(&number).copied()) {
                        queued.insert(number, at);
                    }
                }
                prop_assert!(due.values().all(|at| *at > now), "somebody was forgotten");
            }
        }
    }
}
