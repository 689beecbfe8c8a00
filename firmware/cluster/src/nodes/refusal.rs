//! Why a request to the reboot lock was refused: one list for the server, its HTTP face and the
//! client. The protocol wants `kind` to be one of few words, for clients count by it.

use holdfast_api::Reason;
use std::fmt;
use std::time::Duration;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal, $retry:literal, $reason:ident;)+) => {
        /// What kind of refusal, with its word, HTTP status and pause before the next attempt.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $($(#[$doc])* $name,)+ }

        impl Kind {
            /// All of them, in the order of the reference page.
            pub const ALL: &[Kind] = &[$(Kind::$name),+];

            /// The word in `kind`.
            pub fn code(self) -> &'static str {
                match self { $(Kind::$name => $code,)+ }
            }

            /// The HTTP status.
            pub fn status(self) -> u16 {
                match self { $(Kind::$name => $status,)+ }
            }

            /// How long a client waits before it asks again; none when asking again cannot help.
            pub fn retry_after(self) -> Option<Duration> {
                let secs = match self { $(Kind::$name => $retry,)+ };
                (secs > 0).then(|| Duration::from_secs(secs))
            }

            /// The reason code that a node shows.
            pub fn reason(self) -> Reason {
                match self { $(Kind::$name => Reason::$reason,)+ }
            }
        }
    };
}

kinds! {
    /// The header `fleet-lock-protocol: true` is missing.
    BadHeader = "bad_header", 400, 0, Internal;
    /// The body is not what the protocol says.
    BadRequest = "bad_request", 400, 0, Internal;
    /// The body is longer than any request can be.
    TooLarge = "body_too_large", 413, 0, Internal;
    /// The key is missing or wrong.
    Unauthorized = "unauthorized", 401, 0, KubernetesForbidden;
    /// There is nothing at this path.
    NoSuchPath = "not_found", 404, 0, Internal;
    /// The path takes POST only.
    NotPost = "method_not_allowed", 405, 0, Internal;
    /// This site has no such group.
    UnknownGroup = "unknown_group", 400, 0, Internal;
    /// No Node has this id.
    UnknownNode = "unknown_node", 404, 30, NodeVanished;
    /// Another node has the lock.
    Locked = "failed_lock_semaphore_full", 409, 15, NodeRebootLocked;
    /// Another server is away; the datastore would stop.
    Datastore = "datastore_at_risk", 503, 30, NodeVanished;
    /// The node has the lock and its pods are on their way out.
    Draining = "node_draining", 503, 2, NodeRebootLocked;
    /// The same, and a disruption budget holds one of them.
    DrainBlocked = "node_drain_blocked", 503, 10, NodeDrainBlocked;
    /// It took too long: the node takes pods again and has lost the lock.
    DrainTimeout = "node_drain_timeout", 503, 60, NodeDrainTimeout;
    /// The node says that it is back, and its kubelet does not yet.
    NotReady = "node_not_ready", 503, 5, KubernetesNotReady;
    /// The API server does not answer, or refuses.
    Unavailable = "api_unavailable", 503, 10, KubernetesApiUnavailable;
}

impl Kind {
    /// The kind with this word.
    pub fn from_code(code: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.code() == code)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Its kind.
    pub kind: Kind,
    /// For people, never empty.
    pub message: String,
}

impl Refusal {
    /// A refusal with a sentence for people.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Refusal { kind, message: message.into() }
    }

    /// The reason code.
    pub fn reason(&self) -> Reason {
        self.kind.reason()
    }

    /// Asking again later can help.
    pub fn retryable(&self) -> bool {
        self.kind.retry_after().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn words_are_unique_and_read_back_and_every_status_is_a_failure() {
        let words: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(words.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert_eq!(Kind::from_code(kind.code()), Some(*kind));
            assert!((400..600).contains(&kind.status()), "{kind}");
        }
    }

    #[test]
    fn the_reference_page_has_every_word() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/reboot-lock.md");
        let page = std::fs::read_to_string(path).unwrap();
        for kind in Kind::ALL {
            let row = format!("| `{kind}` | {} |", kind.status());
            assert!(page.contains(&row), "the page lacks {row}");
        }
    }
}
