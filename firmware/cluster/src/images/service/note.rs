//! When a node says how far it is: what others wait for at once, progress now and then. Pure.

use crate::images::prepull::Pace;
use holdfast_api::marks::PRE_PULLED_ANNOTATION;
use std::collections::BTreeMap;
use std::time::Instant;

/// Annotations of the own Node; none removes one.
pub(super) type Text = BTreeMap<String, Option<String>>;

/// What was said last.
#[derive(Debug)]
pub(super) struct Note {
    pace: Pace,
    said: Option<(Text, Instant)>,
    failed: Option<Instant>,
    writing: Option<Text>,
}

impl Note {
    /// Nothing was said yet.
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, said: None, failed: None, writing: None }
    }

    /// When this is to be said; not while something is being said.
    pub(super) fn due(&self, text: &Text, now: Instant) -> Option<Instant> {
        if self.writing.is_some() {
            return None;
        }
        let due = match &self.said {
            None => now,
            Some((said, at)) if said == text => *at + self.pace.check_every,
            Some((said, _))
                if said.get(PRE_PULLED_ANNOTATION) != text.get(PRE_PULLED_ANNOTATION) =>
            {
                now
            }
            Some((_, at)) => *at + self.pace.progress_every,
        };
        Some(self.failed.map_or(due, |at| due.max(at + self.pace.note_again)))
    }

    /// It is being said.
    pub(super) fn begin(&mut self, text: Text) {
        self.writing = Some(text);
    }

    /// Whether it was said.
    pub(super) fn end(&mut self, is_said: bool, now: Instant) {
        match (self.writing.take(), is_said) {
            (Some(text), true) => (self.said, self.failed) = (Some((text, now)), None),
            (_, _) => self.failed = Some(now),
        }
    }

    /// What was begun will not be heard of.
    pub(super) fn forget(&mut self) {
        self.writing = None;
    }

    /// Whether anything was said.
    pub(super) fn has_said(&self) -> bool {
        self.said.is_some()
    }

    /// Whether the Node object says the same of what the node holds.
    pub(super) fn is_said(&self, text: &Text) -> bool {
        self.said.as_ref().is_some_and(|(said, _)| {
            said.get(PRE_PULLED_ANNOTATION) == text.get(PRE_PULLED_ANNOTATION)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(held: bool, progress: &str) -> Text {
        BTreeMap::from([
            (PRE_PULLED_ANNOTATION.to_owned(), held.then(|| "0f".to_owned())),
            ("progress".to_owned(), Some(progress.to_owned())),
        ])
    }

    #[test]
    fn what_others_wait_for_is_said_at_once_and_progress_now_and_then() {
        let (start, pace) = (Instant::now(), Pace::default());
        let mut note = Note::new(pace);
        assert_eq!(note.due(&text(false, "1"), start), Some(start));
        note.begin(text(false, "1"));
        assert_eq!(note.due(&text(true, "2"), start), None);
        note.end(true, start);
        assert_eq!(note.due(&text(false, "1"), start), Some(start + pace.check_every));
        assert_eq!(note.due(&text(false, "2"), start), Some(start + pace.progress_every));
        let soon = start + std::time::Duration::from_millis(1);
        assert_eq!(note.due(&text(true, "2"), soon), Some(soon));
        note.begin(text(true, "2"));
        note.end(false, soon);
        assert_eq!(note.due(&text(true, "2"), soon), Some(soon + pace.note_again));
        assert!(!note.is_said(&text(true, "2")) && note.is_said(&text(false, "9")));
    }
}
