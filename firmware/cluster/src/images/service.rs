//! Brings a node to hold the images it is asked for, for as long as it is asked.
//!
//! A task drives [`super::prepull`] on the node's runtime and writes on the Node object how far it
//! is. It is level-triggered: now and then it looks whether what it holds can still be
//! started, and says so again, so that a Node made anew gets its annotations.
//!
//! It never gives up by itself; what is in the way shows in its state. Dropping the handle ends it
//! with what is under way; the next one carries on, for all it knows is in the runtime.

mod driver;
mod note;

use super::cri::Credentials;
use super::model::Totals;
use super::prepull::{Pace, Problem};
use super::store::{ImageStore, NodeNotes};
use driver::Driver;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What a node shall hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Want {
    /// Digest of the release.
    pub release: String,
    /// How often it was asked for in spite of a failure: what is said tells these attempts apart.
    pub force: u32,
    /// Its images.
    pub images: BTreeSet<String>,
    /// Who asks for which of them, where the registry wants to know.
    pub credentials: BTreeMap<String, Credentials>,
    /// Other releases whose images stay ([`super::keep`]). None: that is not known, and nothing is
    /// let go of.
    pub keep: Option<BTreeSet<String>>,
}

/// Where a node is with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullState {
    /// Digest of the release; empty when nothing is wanted.
    pub release: String,
    /// How often something was asked for until this was so.
    pub asked: u64,
    /// Every image is there and pinned.
    pub held: bool,
    /// The Node object says so.
    pub announced: bool,
    /// How far it is.
    pub totals: Totals,
    /// What is in the way.
    pub problem: Option<Problem>,
}

/// What was asked for, and how often something was.
type Asked = (u64, Option<Want>);

/// A running service.
#[derive(Debug)]
pub struct PrePuller {
    wants: watch::Sender<Asked>,
    state: watch::Receiver<PullState>,
    task: JoinHandle<()>,
}

impl PrePuller {
    /// Starts it; it does nothing until something is wanted. To be called inside of a tokio runtime.
    pub fn start(store: impl ImageStore, notes: impl NodeNotes) -> Self {
        Self::start_at(Pace::default(), store, notes)
    }

    /// The same at another pace.
    pub fn start_at(pace: Pace, store: impl ImageStore, notes: impl NodeNotes) -> Self {
        let (wants, wanted) = watch::channel((0, None));
        let (says, state) = watch::channel(PullState::default());
        let driver = Driver::new(store, notes, wanted, says, pace);
        Self { wants, state, task: tokio::spawn(driver.run()) }
    }

    /// What the node shall hold from now on. The same again tries what was refused once more.
    pub fn want(&self, want: Want) {
        // Also when it is the same: that counts as asking again.
        self.wants.send_modify(|(asked, wanted)| (*asked, *wanted) = (*asked + 1, Some(want)));
    }

    /// Nothing is wanted any more. What is pinned stays as it is; the Node object says nothing of it.
    pub fn rest(&self) {
        self.wants.send_modify(|(asked, wanted)| (*asked, *wanted) = (*asked + 1, None));
    }

    /// Where it is, now and whenever that changes.
    pub fn watch(&self) -> watch::Receiver<PullState> {
        self.state.clone()
    }

    /// Waits until the node holds the release's images and its Node object says so, or until
    /// something is in the way. `tell` hears how far it is.
    ///
    /// # Errors
    /// What is in the way. What can pass by itself is tried on meanwhile.
    pub async fn held(
        &self,
        release: &str,
        mut tell: impl FnMut(&PullState) + Send,
    ) -> Result<(), Problem> {
        let asked = self.wants.borrow().0;
        let mut state = self.watch();
        loop {
            let now = state.borrow_and_update().clone();
            // What was in the way before somebody asked again says nothing.
            if now.release == release && now.asked >= asked {
                tell(&now);
                match now.problem {
                    Some(problem) => return Err(problem),
                    None if now.held && now.announced => return Ok(()),
                    None => {}
                }
            }
            if now.asked > asked && now.release != release {
                return Err(Problem {
                    reason: holdfast_api::Reason::ReleasePrePull,
                    message: "other images were asked for".into(),
                    retryable: true,
                });
            }
            if state.changed().await.is_err() {
                return Err(Problem {
                    reason: holdfast_api::Reason::Internal,
                    message: "the service that pulls images ended".into(),
                    retryable: false,
                });
            }
        }
    }
}

impl Drop for PrePuller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests;
