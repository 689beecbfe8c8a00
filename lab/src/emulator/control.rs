//! What is said over the emulator's control socket: one JSON value per line, a reply per request.
//!
//! ```text
//! {"op":"cut","link":"re-1","cut":"both"}
//! {"links":[{"name":"re-1", …}]}
//! ```

use super::model::{Change, Cut, Link};
use super::shaper::Counters;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A request to the emulator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Describe every link.
    List,
    /// Make a new link; its interfaces appear in the two namespaces.
    Add {
        /// The link.
        link: Box<Link>,
    },
    /// Take a link away, its interfaces with it.
    Remove {
        /// Its name.
        link: String,
    },
    /// Change how a link treats frames.
    Set {
        /// Its name.
        link: String,
        /// What to change.
        change: Change,
    },
    /// Let a link pass nothing.
    Cut {
        /// Its name.
        link: String,
        /// In which directions.
        cut: Cut,
    },
    /// Undo a cut; without a name, every cut.
    Heal {
        /// Its name.
        link: Option<String>,
    },
}

/// The emulator's answer: the links that the request was about, or why it did nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The links as they are after the request.
    Links(Vec<LinkState>),
    /// The request changed nothing, for this reason.
    Error(String),
}

/// A link as it is now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkState {
    /// Its name, its ends and how it treats frames.
    #[serde(flatten)]
    pub link: Link,
    /// What happened from the first end to the second.
    pub a_to_b: Counters,
    /// What happened from the second end to the first.
    pub b_to_a: Counters,
}

/// Why the emulator did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens, or the emulator went away meanwhile.
    #[error("the link emulator at {} does not answer; `heal` starts it again", path.display())]
    Unreachable {
        /// The control socket.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// The answer is no answer of an emulator.
    #[error("the link emulator at {} gave an answer that makes no sense", path.display())]
    Protocol {
        /// The control socket.
        path: PathBuf,
        /// What is wrong with the answer.
        #[source]
        source: serde_json::Error,
    },
    /// The emulator refused.
    #[error("the link emulator refuses: {0}")]
    Refused(String),
}

/// Longer than an emulator that lives ever takes.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A connection to a running emulator.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Control {
    /// Connects to the control socket at `path`.
    ///
    /// # Errors
    /// [`ControlError::Unreachable`] when nobody listens there.
    pub fn connect(path: &Path) -> Result<Self, ControlError> {
        let open = || {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(ANSWER_WITHIN))?;
            stream.set_write_timeout(Some(ANSWER_WITHIN))?;
            Ok(BufReader::new(stream))
        };
        let unreachable = |source| ControlError::Unreachable { path: path.into(), source };
        Ok(Control { path: path.into(), stream: open().map_err(unreachable)? })
    }

    /// Asks and waits for the answer. When this returns, the change is in force.
    ///
    /// # Errors
    /// [`ControlError::Refused`] when the request cannot be met; the others when the emulator is gone.
    pub fn request(&mut self, request: &Request) -> Result<Vec<LinkState>, ControlError> {
        let protocol = |source| ControlError::Protocol { path: self.path.clone(), source };
        let mut line = serde_json::to_string(request).map_err(protocol)?;
        line.push('\n');
        let mut answer = String::new();
        let mut exchange = || {
            self.stream.get_mut().write_all(line.as_bytes())?;
            match self.stream.read_line(&mut answer)? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(()),
            }
        };
        exchange()
            .map_err(|source| ControlError::Unreachable { path: self.path.clone(), source })?;
        match serde_json::from_str(&answer).map_err(protocol)? {
            Reply::Links(links) => Ok(links),
            Reply::Error(why) => Err(ControlError::Refused(why)),
        }
    }

    /// Lets `link` pass nothing in the directions of `cut`.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn cut(&mut self, link: &str, cut: Cut) -> Result<(), ControlError> {
        self.request(&Request::Cut { link: link.into(), cut }).map(|_| ())
    }

    /// Undoes the cut of `link`, or of all links.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn heal(&mut self, link: Option<&str>) -> Result<(), ControlError> {
        self.request(&Request::Heal { link: link.map(Into::into) }).map(|_| ())
    }

    /// Changes `link`.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn set(&mut self, link: &str, change: Change) -> Result<(), ControlError> {
        self.request(&Request::Set { link: link.into(), change }).map(|_| ())
    }

    /// Makes a link.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn add(&mut self, link: &Link) -> Result<(), ControlError> {
        self.request(&Request::Add { link: Box::new(link.clone()) }).map(|_| ())
    }

    /// Every link with its counters.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn list(&mut self) -> Result<Vec<LinkState>, ControlError> {
        self.request(&Request::List)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_look_on_the_wire_as_the_module_head_says() {
        let cut = Request::Cut { link: "re-1".into(), cut: Cut::Both };
        assert_eq!(
            serde_json::to_string(&cut).unwrap(),
            r#"{"op":"cut","link":"re-1","cut":"both"}"#
        );
        let set: Request =
            serde_json::from_str(r#"{"op":"set","link":"re-1","change":{"loss":0.5}}"#).unwrap();
        let change = Change { loss: Some(0.5), ..Change::default() };
        assert_eq!(set, Request::Set { link: "re-1".into(), change });
    }
}
