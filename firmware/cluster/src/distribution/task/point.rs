//! Points around what a step does, at each of which tests kill the manager (`tests/killed.rs`). In
//! production nothing happens there.

use crate::distribution::upgrade::StepKind;

/// Where in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Edge {
    /// It is the next one, and nothing is written or done.
    Begins,
    /// It is written down, and nothing is done.
    Noted,
    /// It is done, and that is not written down.
    Over,
}

/// Those of one manager.
#[derive(Debug, Clone, Default)]
pub(super) struct Points {
    #[cfg(test)]
    pub(super) watch: Option<std::sync::Arc<super::tests::killed::Watch>>,
}

impl Points {
    #[cfg(test)]
    pub(super) async fn pass(&self, kind: StepKind, edge: Edge) {
        if let Some(watch) = &self.watch {
            watch.pass((kind, edge)).await;
        }
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, reason = "tests have another one")]
    pub(super) fn pass(&self, _: StepKind, _: Edge) -> std::future::Ready<()> {
        std::future::ready(())
    }
}
