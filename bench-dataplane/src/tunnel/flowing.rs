//! Whether a stream flows, by how many of its bytes arrived.

use std::time::{Duration, Instant};

/// A stream that brought nothing for so long stands still. Shorter than what TCP waits at least
/// before it sends again by itself (`TCP_RTO_MIN`, 200 ms).
const STILL: Duration = Duration::from_millis(100);

/// What was seen of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Flowing {
    bytes: u64,
    rose_at: Option<Instant>,
}

impl Flowing {
    /// Of a stream that has brought so many bytes.
    pub(crate) fn since(bytes: u64) -> Self {
        Flowing { bytes, rose_at: None }
    }

    /// So many bytes arrived until now.
    pub(crate) fn on(&mut self, bytes: u64, now: Instant) {
        if bytes > self.bytes {
            self.bytes = bytes;
            self.rose_at = Some(now);
        }
    }

    /// It brought something after this moment, or just before.
    pub(crate) fn beside(&self, begin: Instant) -> bool {
        self.rose_at.is_some_and(|at| begin.saturating_duration_since(at) <= STILL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_flows_as_long_as_bytes_arrive() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut flowing = Flowing::since(10);
        flowing.on(10, at(1));
        assert!(!flowing.beside(at(1)), "nothing arrived yet");
        flowing.on(20, at(50));
        assert!(flowing.beside(at(40)) && flowing.beside(at(150)));
        flowing.on(20, at(151));
        assert!(!flowing.beside(at(151)), "it stands still");
        flowing.on(21, at(300));
        assert!(flowing.beside(at(151)), "what was asked while it began to flow again");
    }
}
