//! A watch: one JSON object per line, for as long as the server sends.

use crate::ClientError;
use crate::client::Options;
use holdfast_api::meta::{self, WatchEvent};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// A change of the collection that is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<T> {
    /// An object that is new to the watcher.
    Added(T),
    /// An object that is different now.
    Modified(T),
    /// An object that is gone; its last state.
    Deleted(T),
    /// Nothing changed up to this version.
    Bookmark {
        /// Where a later watch may begin.
        resource_version: String,
    },
}

/// A running watch. Dropping it ends it.
pub struct Watch<T> {
    body: Incoming,
    lines: Lines,
    endpoint: String,
    attempt: String,
    idle: Duration,
    ended: bool,
    kind: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Watch<T> {
    pub(crate) fn new(
        body: Incoming,
        endpoint: String,
        attempt: String,
        options: &Options,
    ) -> Self {
        let lines = Lines::new(options.max_line);
        let idle = options.watch_idle;
        Watch { body, lines, endpoint, attempt, idle, ended: false, kind: PhantomData }
    }

    /// The next event; none when the server ended the watch, or sent no whole line for the idle
    /// time: list or watch again. After an error the watch is over too.
    ///
    /// May be cancelled without losing an event.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for an `ERROR` event ([`ClientError::is_gone`]: list again),
    /// [`ClientError::Protocol`] for what is not an event, [`ClientError::Unreachable`] when the
    /// connection breaks.
    pub async fn next(&mut self) -> Option<Result<Event<T>, ClientError>> {
        if self.ended {
            return None;
        }
        let event = self.read().await;
        self.ended = !matches!(event, Some(Ok(_)));
        event
    }

    async fn read(&mut self) -> Option<Result<Event<T>, ClientError>> {
        // The time is for a whole line: a server that drips bytes does not hold us.
        let deadline = Instant::now() + self.idle;
        loop {
            match self.lines.take() {
                Ok(Some(line)) => return Some(self.parse(&line)),
                Ok(None) => {}
                Err(why) => return Some(Err(self.protocol(why))),
            }
            match timeout_at(deadline, self.body.frame()).await {
                Err(_) => return None,
                Ok(None) if self.lines.is_empty() => return None,
                Ok(None) => {
                    return Some(Err(self.protocol("the watch ended in mid-line".into())));
                }
                Ok(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.lines.push(data);
                    }
                }
                Ok(Some(Err(error))) => {
                    return Some(Err(ClientError::Unreachable {
                        endpoint: self.endpoint.clone(),
                        attempt: "watch",
                        source: error.into(),
                    }));
                }
            }
        }
    }

    fn parse(&self, line: &[u8]) -> Result<Event<T>, ClientError> {
        let event: WatchEvent<serde_json::Value> =
            serde_json::from_slice(line).map_err(|error| self.protocol(error.to_string()))?;
        match event.kind.as_str() {
            "ADDED" => self.object(event.object).map(Event::Added),
            "MODIFIED" => self.object(event.object).map(Event::Modified),
            "DELETED" => self.object(event.object).map(Event::Deleted),
            "BOOKMARK" => {
                let version = &event.object["metadata"]["resourceVersion"];
                let resource_version = version.as_str().unwrap_or_default().to_string();
                Ok(Event::Bookmark { resource_version })
            }
            "ERROR" => {
                let status: meta::Status = self.object(event.object)?;
                Err(ClientError::Refused {
                    endpoint: self.endpoint.clone(),
                    attempt: self.attempt.clone(),
                    status: Box::new(status),
                })
            }
            other => Err(self.protocol(format!("an event of type {other:?}"))),
        }
    }

    fn object<O: DeserializeOwned>(&self, value: serde_json::Value) -> Result<O, ClientError> {
        serde_json::from_value(value).map_err(|error| self.protocol(error.to_string()))
    }

    fn protocol(&self, why: String) -> ClientError {
        let (endpoint, attempt) = (self.endpoint.clone(), self.attempt.clone());
        ClientError::Protocol { endpoint, attempt, why }
    }
}

/// Cuts bytes into lines of bounded length. Empty lines are skipped.
struct Lines {
    buffer: Vec<u8>,
    /// How much of the buffer is known to hold no line end.
    scanned: usize,
    max: usize,
}

impl Lines {
    fn new(max: usize) -> Self {
        Lines { buffer: Vec::new(), scanned: 0, max }
    }

    fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    fn take(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            let end = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n');
            let length = end.map_or(self.buffer.len(), |end| self.scanned + end);
            if length > self.max {
                return Err(format!("a line is longer than {} bytes", self.max));
            }
            if end.is_none() {
                self.scanned = self.buffer.len();
                return Ok(None);
            }
            let rest = self.buffer.split_off(length + 1);
            let mut line = std::mem::replace(&mut self.buffer, rest);
            line.truncate(length);
            self.scanned = 0;
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.buffer.trim_ascii().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The law: how the bytes are cut into frames does not matter.
        #[test]
        fn lines_do_not_depend_on_frames(
            lines in proptest::collection::vec("[a-z]{1,8}", 0..8),
            cuts in proptest::collection::vec(1usize..6, 1..40),
        ) {
            let bytes: Vec<u8> = lines.iter().flat_map(|l| format!("{l}\n\n").into_bytes()).collect();
            let mut cutter = Lines::new(8);
            let mut got = Vec::new();
            let (mut rest, mut cuts) = (bytes.as_slice(), cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                cutter.push(head);
                rest = tail;
                while let Some(line) = cutter.take().unwrap() {
                    got.push(String::from_utf8(line).unwrap());
                }
            }
            prop_assert_eq!(got, lines);
            prop_assert!(cutter.is_empty());
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_an_error_before_it_ends() {
        let mut cutter = Lines::new(4);
        cutter.push(b"abcd");
        assert_eq!(cutter.take(), Ok(None));
        cutter.push(b"e");
        assert!(cutter.take().unwrap_err().contains("longer than 4"));
    }
}
