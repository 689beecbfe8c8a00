//! The desired state of the node: the ledger, and what the controller offered that is not in it.
//!
//! An offer that could not be stored (a full disk, a file system that is read-only) is kept and
//! tried again by each pass, for the controller sends it only once. An offer that was refused for
//! what it says is dropped. What is wrong is one item of the report until it is not wrong any more.

use crate::ledger::{Accepted, Ledger, LedgerError};
use holdfast_api::kubernetes::ReleaseRef;
use holdfast_api::local::{ItemReport, ItemState, Problem};
use holdfast_api::paths::Root;
use holdfast_api::resources::NodeConfigSpec;
use holdfast_api::{Reason, Severity, chain};
use tracing::{info, warn};

/// The ledger with its troubles.
#[derive(Debug)]
pub struct Desired {
    ledger: Ledger,
    /// The newest offer that could not be stored.
    waiting: Option<NodeConfigSpec>,
    problem: Option<Problem>,
}

impl Desired {
    /// Reads the ledger.
    pub fn open(root: &Root) -> Self {
        let (ledger, complaint) = Ledger::open(root);
        let problem = complaint.map(|why| Problem::new(Reason::LedgerDamaged, why));
        if let Some(problem) = &problem {
            warn!(reason = %problem.reason, message = problem.message, "ledger");
        }
        Desired { ledger, waiting: None, problem }
    }

    /// The configuration in force.
    pub fn current(&self) -> Option<&NodeConfigSpec> {
        self.ledger.current()
    }

    /// Its generation, 0 when there is none.
    pub fn generation(&self) -> u64 {
        self.ledger.generation()
    }

    /// Takes what the controller offers; true when it is in force now and was not before.
    pub fn offer(&mut self, offered: NodeConfigSpec) -> bool {
        let generation = offered.generation;
        let kept = offered.clone();
        let error = match self.ledger.accept(offered) {
            Ok(accepted) => {
                (self.waiting, self.problem) = (None, None);
                if accepted == Accepted::New {
                    info!(generation, "new configuration");
                }
                return accepted == Accepted::New;
            }
            Err(error) => error,
        };
        let problem = Problem::new(error.reason(), chain(&error));
        if self.problem.as_ref() != Some(&problem) {
            warn!(reason = %problem.reason, message = problem.message, "configuration refused");
        }
        self.problem = Some(problem);
        if matches!(error, LedgerError::Store { .. }) {
            self.waiting = Some(kept);
        }
        false
    }

    /// Tries again what could not be stored; true when it is in force now.
    pub fn try_again(&mut self) -> bool {
        self.waiting.take().is_some_and(|offered| self.offer(offered))
    }

    /// What is wrong.
    pub fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }

    /// A release that is asked for by an offer that could not be stored, and why not.
    pub fn unkept_release(&self) -> Option<(ReleaseRef, Problem)> {
        let of = |spec: &NodeConfigSpec| spec.kubernetes.as_ref()?.release.clone();
        let offered = of(self.waiting.as_ref()?)?;
        let is_new = self.current().and_then(of).as_ref() != Some(&offered);
        self.problem.clone().filter(|_| is_new).map(|problem| (offered, problem))
    }

    /// What is wrong, as an item of the report.
    pub fn item(&self) -> Option<ItemReport> {
        self.problem.as_ref().map(|problem| item("ledger", problem))
    }
}

/// A problem as an item of its own.
pub(crate) fn item(domain: &str, problem: &Problem) -> ItemReport {
    ItemReport {
        domain: domain.into(),
        state: match problem.severity {
            Severity::Info => ItemState::Ok,
            Severity::Warning => ItemState::Waiting,
            Severity::Error => ItemState::Failed,
        },
        reason: Some(problem.reason),
        message: problem.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::kubernetes::KubernetesIntent;

    fn spec(generation: u64, site: &str) -> NodeConfigSpec {
        NodeConfigSpec { generation, site: site.into(), ..NodeConfigSpec::default() }
    }

    #[test]
    fn an_offer_that_found_no_room_is_taken_when_there_is_some() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let state = root.state_dir();
        let mut desired = Desired::open(&root);
        assert!(desired.offer(spec(1, "a")));
        // A file where the directory should be: nothing can be stored, not even by root.
        let aside = dir.path().join("aside");
        std::fs::rename(&state, &aside).unwrap();
        holdfast_durable::write(&state, b"", 0o600).unwrap();
        assert!(!desired.offer(spec(2, "a")) && !desired.try_again());
        assert_eq!(desired.generation(), 1, "the last good one stays in force");
        let item = desired.item().unwrap();
        assert_eq!((item.state, item.reason), (ItemState::Failed, Some(Reason::StateUnwritable)));
        std::fs::remove_file(&state).unwrap();
        std::fs::rename(&aside, &state).unwrap();
        assert!(desired.try_again());
        assert_eq!((desired.generation(), desired.item()), (2, None));
        assert!(!desired.try_again(), "once is enough");
        assert_eq!(Desired::open(&root).generation(), 2);
    }

    #[test]
    fn a_release_that_found_no_room_is_known_to_wait() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let mut desired = Desired::open(&root);
        let asks = |generation, name: &str| {
            let release = Some(ReleaseRef { name: name.into(), ..ReleaseRef::default() });
            let kubernetes = Some(KubernetesIntent { release, ..KubernetesIntent::default() });
            NodeConfigSpec { kubernetes, ..spec(generation, "a") }
        };
        assert!(desired.offer(asks(1, "one")));
        let (state, aside) = (root.state_dir(), dir.path().join("aside"));
        std::fs::rename(&state, &aside).unwrap();
        holdfast_durable::write(&state, b"", 0o600).unwrap();
        assert!(!desired.offer(asks(2, "one")));
        assert_eq!(desired.unkept_release(), None, "that one is in force");
        assert!(!desired.offer(asks(3, "two")));
        let (release, problem) = desired.unkept_release().unwrap();
        assert_eq!((release.name.as_str(), problem.reason), ("two", Reason::StateUnwritable));
        std::fs::remove_file(&state).unwrap();
        std::fs::rename(&aside, &state).unwrap();
        assert!(desired.try_again());
        assert_eq!(desired.unkept_release(), None);
    }

    #[test]
    fn an_offer_that_is_refused_for_what_it_says_is_not_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut desired = Desired::open(&Root::new(dir.path()));
        assert!(desired.offer(spec(5, "a")));
        for (offer, reason) in
            [(spec(4, "a"), Reason::LedgerOlder), (spec(5, "b"), Reason::LedgerConflict)]
        {
            assert!(!desired.offer(offer) && !desired.try_again());
            assert_eq!(desired.item().unwrap().reason, Some(reason));
        }
        assert!(!desired.offer(spec(5, "a")), "in force already");
        assert_eq!(desired.item(), None);
    }
}
