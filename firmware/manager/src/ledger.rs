//! The ledger: the node's desired state with its generation, on disk.
//!
//! It takes a new configuration only when its generation is greater than the one in force, so a
//! controller restored from an old backup cannot turn a node back, and two controllers that serve
//! the same site are noticed. Two copies are kept; a copy that a power loss cut short costs one
//! generation, and the controller sends that again.

use holdfast_api::Reason;
use holdfast_api::paths::Root;
use holdfast_api::resources::NodeConfigSpec;
use holdfast_durable::{Loaded, SlotError, Slots};

/// The desired state in force.
#[derive(Debug)]
pub struct Ledger {
    slots: Slots,
    current: Option<NodeConfigSpec>,
}

/// What became of an offered configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is in force now.
    New,
    /// It was in force already.
    Same,
}

/// Why an offered configuration was not taken; the one in force stays.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It is older.
    #[error("generation {offered} is older than {current}, which is in force")]
    Older {
        /// What was offered.
        offered: u64,
        /// What is in force.
        current: u64,
    },
    /// It has the same number and says something else.
    #[error("generation {generation} was offered with other content than what is in force")]
    Conflict {
        /// Its number.
        generation: u64,
    },
    /// It could not be stored.
    #[error("cannot keep generation {generation}")]
    Store {
        /// Its number.
        generation: u64,
        /// What failed.
        #[source]
        source: SlotError,
    },
}

impl LedgerError {
    /// The reason code to report.
    pub fn reason(&self) -> Reason {
        match self {
            LedgerError::Older { .. } => Reason::LedgerOlder,
            LedgerError::Conflict { .. } => Reason::LedgerConflict,
            LedgerError::Store { source, .. } => crate::releases::reason(source),
        }
    }
}

impl Ledger {
    /// Reads the ledger; a complaint when the newest copy was damaged.
    pub fn open(root: &Root) -> (Self, Option<String>) {
        let slots = Slots::new(root.ledger(), 0o600);
        let (current, complaint) = match slots.load() {
            Ok(Loaded::Empty) => (None, None),
            Ok(Loaded::Newest(spec)) => (Some(spec), None),
            Ok(Loaded::LastGood(spec, why)) => (Some(spec), Some(why)),
            Err(error) => (None, Some(error.to_string())),
        };
        (Ledger { slots, current }, complaint)
    }

    /// The configuration in force.
    pub fn current(&self) -> Option<&NodeConfigSpec> {
        self.current.as_ref()
    }

    /// Its generation, 0 when there is none.
    pub fn generation(&self) -> u64 {
        self.current.as_ref().map_or(0, |spec| spec.generation)
    }

    /// Takes `offered` when it is newer: stored first, in force afterwards.
    ///
    /// # Errors
    /// It is older, contradicts, or cannot be stored; what is in force stays.
    pub fn accept(&mut self, offered: NodeConfigSpec) -> Result<Accepted, LedgerError> {
        if let Some(current) = &self.current {
            if offered.generation < current.generation {
                let (offered, current) = (offered.generation, current.generation);
                return Err(LedgerError::Older { offered, current });
            }
            if offered.generation == current.generation {
                return match offered == *current {
                    true => Ok(Accepted::Same),
                    false => Err(LedgerError::Conflict { generation: offered.generation }),
                };
            }
        }
        self.slots
            .store(&offered)
            .map_err(|source| LedgerError::Store { generation: offered.generation, source })?;
        self.current = Some(offered);
        Ok(Accepted::New)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(generation: u64, site: &str) -> NodeConfigSpec {
        NodeConfigSpec { generation, site: site.into(), ..NodeConfigSpec::default() }
    }

    proptest! {
        // Each case syncs files a dozen times.
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever is offered in whatever order: the generation never falls, and a restart
        /// finds what was last accepted.
        #[test]
        fn the_generation_never_falls(offers in prop::collection::vec((1u64..6, "[ab]"), 1..12)) {
            let dir = tempfile::tempdir().unwrap();
            let root = Root::new(dir.path());
            let (mut ledger, _) = Ledger::open(&root);
            for (generation, site) in offers {
                let before = ledger.current().cloned();
                match ledger.accept(spec(generation, &site)) {
                    Ok(Accepted::New) => prop_assert!(before.is_none_or(|b| b.generation < generation)),
                    Ok(Accepted::Same) => prop_assert_eq!(before, ledger.current().cloned()),
                    Err(LedgerError::Older { .. } | LedgerError::Conflict { .. }) => {
                        prop_assert_eq!(before, ledger.current().cloned());
                    }
                    Err(error) => panic!("{error}"),
                }
                let (again, _) = Ledger::open(&root);
                prop_assert_eq!(again.current(), ledger.current());
            }
        }
    }

    #[test]
    fn a_ledger_cut_short_gives_the_last_good_one_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let (mut ledger, _) = Ledger::open(&root);
        ledger.accept(spec(1, "a")).unwrap();
        ledger.accept(spec(2, "a")).unwrap();
        let whole = std::fs::read(root.ledger()).unwrap();
        holdfast_durable::write(&root.ledger(), &whole[..whole.len() / 2], 0o600).unwrap();
        let (ledger, complaint) = Ledger::open(&root);
        assert_eq!(ledger.generation(), 1);
        assert!(complaint.unwrap().contains("cut short"));
    }

    #[test]
    fn what_cannot_be_stored_is_not_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        // A file where the state directory should be: not even root can store below it.
        holdfast_durable::write(&root.join("var/lib/holdfast"), b"", 0o644).unwrap();
        let (mut ledger, _) = Ledger::open(&root);
        let error = ledger.accept(spec(1, "a")).unwrap_err();
        assert_eq!(error.reason(), Reason::StateUnwritable);
        assert_eq!(ledger.generation(), 0);
    }
}
