//! Conversations over the socket: requests are read whole and answered in their order. The program goes
//! on while the device is waited for.

use super::apply::apply;
use super::limits::{Budget, Limits, NoneLeft, PIECE_BYTES};
use super::request::{Request, parse};
use super::secret::Secret;
use super::show::Listing;
use crate::wireguard::device::WeakDevice;
use crate::wireguard::key::wipe_stack;
use nix::errno::Errno;
use std::io::{self, BufRead};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

/// Whoever sends more than a request may be hears so once he has sent it, unless it is so many times
/// as much.
const MOST_IGNORED: usize = 8;

/// What all conversations with a device have in common.
pub(super) struct Common {
    device: WeakDevice,
    limits: Limits,
    budget: Budget,
    /// Of those who change something: what a request is read into is larger than its text.
    changes: Mutex<()>,
}

impl Common {
    /// Nobody talks yet.
    pub(super) fn new(device: WeakDevice, limits: Limits) -> Self {
        let budget = Budget::new(limits.longest + PIECE_BYTES);
        Common { device, limits, budget, changes: Mutex::new(()) }
    }
}

/// What was heard.
enum Heard {
    /// A request, with its empty line.
    Request(Secret),
    /// More than a request may be.
    TooLong,
    /// The other side is done.
    End,
}

/// With whoever has connected.
pub(super) struct Conversation {
    stream: UnixStream,
    common: Arc<Common>,
    /// What was read and not answered.
    text: Secret,
    piece: Zeroizing<Vec<u8>>,
}

impl Conversation {
    /// Within the limits that it has in common with others.
    pub(super) fn new(stream: UnixStream, common: Arc<Common>) -> Self {
        let piece = Zeroizing::new(vec![0; PIECE_BYTES]);
        let text = Secret::new(&common.budget);
        Conversation { stream, common, text, piece }
    }

    /// Answers requests until the other side is done.
    ///
    /// # Errors
    /// The socket's, and `TimedOut` when the other side takes too long.
    pub(super) async fn run(&mut self) -> io::Result<()> {
        loop {
            match self.listen().await? {
                Heard::Request(request) => {
                    let errno = self.answer(request).await;
                    wipe_stack();
                    let errno = errno?;
                    self.end_answer(errno).await?;
                }
                Heard::TooLong => {
                    self.text.clear();
                    self.end_answer(Err(Errno::EMSGSIZE)).await?;
                    self.stream.shutdown().await?;
                    return timeout(self.common.limits.request, self.ignore()).await?;
                }
                Heard::End => return Ok(()),
            }
        }
    }

    async fn listen(&mut self) -> io::Result<Heard> {
        let Limits { longest, request, silence, .. } = self.common.limits;
        let patience = |text: &[u8]| if text.is_empty() { silence } else { request };
        let mut seen = 0;
        let mut deadline = Instant::now() + patience(&self.text);
        loop {
            if let Some(end) = end_of_request(&self.text, seen) {
                return Ok(self.text.take(end).map_or(Heard::TooLong, Heard::Request));
            }
            seen = self.text.len();
            if seen > longest {
                return Ok(Heard::TooLong);
            }
            let bytes = timeout_at(deadline, self.stream.read(&mut self.piece)).await??;
            if bytes == 0 {
                return Ok(Heard::End);
            }
            if let Err(NoneLeft) = self.text.push(self.piece.get(..bytes).unwrap_or_default()) {
                return Ok(Heard::TooLong);
            }
            if seen == 0 {
                deadline = Instant::now() + patience(&self.text);
            }
        }
    }

    /// Does what a request wants and writes what it asks for.
    async fn answer(&mut self, request: Secret) -> io::Result<Result<(), Errno>> {
        let common = Arc::clone(&self.common);
        let _turn = match request.starts_with(b"get=") {
            true => None,
            false => Some(common.changes.lock().await),
        };
        let text = std::str::from_utf8(&request).map_err(|_| Errno::EPROTO);
        match text.and_then(|text| parse(text.trim_end_matches('\n'))) {
            Ok(Request::Get) => self.show().await,
            Ok(Request::Set(changes)) => {
                drop(request);
                Ok(apply(&self.common.device, changes).await)
            }
            Err(errno) => Ok(Err(errno)),
        }
    }

    async fn show(&mut self) -> io::Result<Result<(), Errno>> {
        let mut listing = Listing::new(self.common.device.clone());
        loop {
            match listing.some().await {
                Ok(Some(text)) => self.say(text.as_bytes()).await?,
                Ok(None) => return Ok(Ok(())),
                Err(errno) => return Ok(Err(errno)),
            }
        }
    }

    async fn end_answer(&mut self, result: Result<(), Errno>) -> io::Result<()> {
        // Negative, as wg(8) reads it to say what it means.
        let errno = result.err().map_or(0, |errno| -(errno as i32));
        self.say(format!("errno={errno}\n\n").as_bytes()).await
    }

    async fn say(&mut self, text: &[u8]) -> io::Result<()> {
        timeout(self.common.limits.silence, self.stream.write_all(text)).await?
    }

    /// Lets the other side finish: whoever is cut off in the midst of a sentence hears no answer.
    async fn ignore(&mut self) -> io::Result<()> {
        let mut ignored = 0;
        while ignored / MOST_IGNORED < self.common.limits.longest {
            match self.stream.read(&mut self.piece).await? {
                0 => break,
                bytes => ignored += bytes,
            }
        }
        Ok(())
    }
}

/// Where the first request ends, behind its empty line. The first `seen` bytes have none.
fn end_of_request(text: &[u8], seen: usize) -> Option<usize> {
    if text.first() == Some(&b'\n') {
        return Some(1);
    }
    let mut at = seen.saturating_sub(1);
    loop {
        let mut rest = text.get(at..).filter(|rest| !rest.is_empty())?;
        at += rest.skip_until(b'\n').ok()?;
        if text.get(at - 1..)?.starts_with(b"\n\n") {
            return Some(at + 1);
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
