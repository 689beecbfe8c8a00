//! What is known of the controller: where it is, who we are to it, and whether it answers.

use holdfast_api::Reason;
use holdfast_api::local::Problem;

/// What is known of the controller.
#[derive(Debug, Default)]
pub(crate) struct Contact {
    pub(crate) controller: String,
    /// It answered last time.
    pub(crate) reachable: bool,
    pub(crate) tenant: String,
    pub(crate) site: String,
    pub(crate) node: String,
    pub(crate) problem: Option<Problem>,
}

impl Contact {
    /// It answered, and with what was wanted.
    pub(crate) fn reached(&mut self) {
        self.reachable = true;
        self.problem = None;
    }

    /// Something failed: the way to it, its answer, or something of our own.
    pub(crate) fn failed(&mut self, problem: Problem) {
        self.reachable = answered(problem.reason).unwrap_or(self.reachable);
        self.problem = Some(problem);
    }
}

/// Whether a failure shows that the controller answers; none when it says nothing about that.
fn answered(reason: Reason) -> Option<bool> {
    match reason {
        // Somebody answered, but not the controller.
        Reason::ControllerUnreachable | Reason::ControllerWrongCa => Some(false),
        Reason::ControllerRefused
        | Reason::ControllerProtocol
        | Reason::TokenExpired
        | Reason::TokenUsedUp
        | Reason::TokenUnknown
        | Reason::TokenForeign
        | Reason::RegistrationRejected
        | Reason::RegistrationRetired
        | Reason::RegistrationPending => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_that_refuses_answers() {
        let mut contact = Contact::default();
        for (reason, reachable) in [
            (Reason::TokenMissing, false),
            (Reason::TokenUsedUp, true),
            (Reason::StateDiskFull, true),
            (Reason::ControllerUnreachable, false),
            (Reason::RegistrationRejected, true),
            (Reason::ControllerWrongCa, false),
        ] {
            contact.failed(Problem::new(reason, "x"));
            assert_eq!(contact.reachable, reachable, "{reason}");
        }
        contact.reached();
        assert!(contact.reachable && contact.problem.is_none());
    }
}
