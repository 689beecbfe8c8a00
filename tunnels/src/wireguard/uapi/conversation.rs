//! Conversations over the socket: requests are read whole and answered in their order. The program goes
//! on while the device is waited for.

use super::apply::apply;
use super::request::{Request, parse};
use super::secret::Secret;
use super::show::Listing;
use crate::wireguard::device::WeakDevice;
use crate::wireguard::key::wipe_stack;
use nix::errno::Errno;
use std::io::{self, BufRead};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

/// A request longer than this is not from wg(8): 10,000 peers with a preshared key, an endpoint and
/// thirty prefixes of IPv6 each fit. With the piece that is too much it is 32 MiB.
const LONGEST_REQUEST: usize = (32 << 20) - PIECE_BYTES;
/// What is read at a time.
const PIECE_BYTES: usize = 16 * 1024;
/// Whoever sends more than a request may be hears so once he has sent it, unless it is so many times
/// as much.
const MOST_IGNORED: usize = 8;
/// After an error the next connection waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Answers whoever connects, until it is aborted.
pub(super) async fn serve(listener: UnixListener, device: WeakDevice) {
    // Connections end with this task.
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let conversation = Conversation::new(stream, device.clone(), LONGEST_REQUEST);
                while connections.try_join_next().is_some() {}
                connections.spawn(async move {
                    if let Err(error) = conversation.run().await {
                        tracing::debug!(%error, "UAPI connection");
                    }
                });
            }
            // No descriptors left, or whoever called is gone: the next one may have more luck.
            Err(error) => {
                tracing::warn!(%error, "UAPI socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
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

struct Conversation {
    stream: UnixStream,
    device: WeakDevice,
    /// What was read and not answered.
    text: Secret,
    piece: Zeroizing<Vec<u8>>,
    longest: usize,
}

impl Conversation {
    /// Takes requests of up to `longest` bytes.
    fn new(stream: UnixStream, device: WeakDevice, longest: usize) -> Self {
        let piece = Zeroizing::new(vec![0; PIECE_BYTES]);
        Conversation { stream, device, text: Secret::default(), piece, longest }
    }

    /// Answers requests until the other side is done.
    async fn run(mut self) -> io::Result<()> {
        loop {
            match self.listen().await? {
                Heard::Request(request) => {
                    let errno = self.answer(request).await;
                    wipe_stack();
                    let errno = errno?;
                    self.end_answer(errno).await?;
                }
                Heard::TooLong => {
                    self.text = Secret::default();
                    self.end_answer(Err(Errno::EMSGSIZE)).await?;
                    self.stream.shutdown().await?;
                    return self.ignore().await;
                }
                Heard::End => return Ok(()),
            }
        }
    }

    async fn listen(&mut self) -> io::Result<Heard> {
        let mut seen = 0;
        loop {
            if let Some(end) = end_of_request(&self.text, seen) {
                return Ok(Heard::Request(self.text.take(end)));
            }
            seen = self.text.len();
            if seen > self.longest {
                return Ok(Heard::TooLong);
            }
            let bytes = self.stream.read(&mut self.piece).await?;
            if bytes == 0 {
                return Ok(Heard::End);
            }
            self.text.push(self.piece.get(..bytes).unwrap_or_default());
        }
    }

    /// Does what a request wants and writes what it asks for.
    async fn answer(&mut self, request: Secret) -> io::Result<Result<(), Errno>> {
        let text = std::str::from_utf8(&request).map_err(|_| Errno::EPROTO);
        match text.and_then(|text| parse(text.trim_end_matches('\n'))) {
            Ok(Request::Get) => self.show().await,
            Ok(Request::Set(changes)) => {
                drop(request);
                Ok(apply(&self.device, changes).await)
            }
            Err(errno) => Ok(Err(errno)),
        }
    }

    async fn show(&mut self) -> io::Result<Result<(), Errno>> {
        let mut listing = Listing::new(self.device.clone());
        loop {
            match listing.some().await {
                Ok(Some(text)) => self.stream.write_all(text.as_bytes()).await?,
                Ok(None) => return Ok(Ok(())),
                Err(errno) => return Ok(Err(errno)),
            }
        }
    }

    async fn end_answer(&mut self, result: Result<(), Errno>) -> io::Result<()> {
        // Negative, as wg(8) reads it to say what it means.
        let errno = result.err().map_or(0, |errno| -(errno as i32));
        self.stream.write_all(format!("errno={errno}\n\n").as_bytes()).await
    }

    /// Lets the other side finish: whoever is cut off in the midst of a sentence hears no answer.
    async fn ignore(&mut self) -> io::Result<()> {
        let mut ignored = 0;
        while ignored / MOST_IGNORED < self.longest {
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
mod tests;
