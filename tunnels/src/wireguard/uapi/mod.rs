//! The configuration protocol of userspace WireGuard, so that wg(8) works on a [`Device`]
//! (wireguard.com/xplatform).
//!
//! [`Listener`] is the Unix socket `<dir>/<link>.sock` with mode 0600 in a directory that only
//! root enters: whoever may connect can read the private key. Requests are `get=1` and
//! `set=1`, ended by an empty line. An answer ends with `errno=N`.
//!
//! Fails: making the socket, for the caller to report; a request that makes no sense changes
//! nothing and is answered with its error number.

mod apply;
mod request;

pub(super) use apply::apply_peers as apply_to;
pub use request::{Change, Request, parse};

use super::device::{Device, WeakDevice};
use nix::errno::Errno;
use std::fs::Permissions;
use std::io::{
    self,
    ErrorKind::{AlreadyExists, NotFound},
};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};
use zeroize::Zeroizing;

/// A request longer than this is not from wg(8): 10,000 peers with thirty prefixes each fit.
const LONGEST_REQUEST: u64 = 16 << 20;

/// How often the directory may be taken away under us.
const MOST_ATTEMPTS: u32 = 100;

/// After an error the next connection waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot offer the WireGuard device at {}", path.display())]
pub struct ListenError {
    /// The socket.
    pub path: PathBuf,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// A device that wg(8) can see. When this is dropped the socket is removed.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Listener {
    /// Offers `device` as `<dir>/<link>.sock`; a socket that is left of an earlier process is
    /// replaced. Needs a tokio runtime.
    ///
    /// # Errors
    /// The directory or the socket cannot be made.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, ListenError> {
        let path = dir.join(format!("{}.sock", device.name()));
        let listener =
            bind(dir, &path).map_err(|source| ListenError { path: path.clone(), source })?;
        let task = tokio::spawn(serve(listener, device.downgrade()));
        Ok(Listener { path, task })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "socket left behind");
        }
    }
}

fn bind(dir: &Path, path: &Path) -> io::Result<UnixListener> {
    again(|| {
        make(dir)?;
        listen(path)
    })
}

/// Whoever leaves the directory last may take it away, also just after it was made.
fn again<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..MOST_ATTEMPTS {
        match attempt() {
            Err(error) if matches!(error.kind(), NotFound | AlreadyExists) => {}
            done => return done,
        }
    }
    attempt()
}

/// 0700: the socket is not reachable for others in the moment before its mode is set.
fn make(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve(listener: UnixListener, device: WeakDevice) {
    // Connections end with this task.
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let device = device.clone();
                while connections.try_join_next().is_some() {}
                connections.spawn(async move {
                    if let Err(error) = converse(stream, &device).await {
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

/// Answers requests until the other side is done.
async fn converse(stream: UnixStream, device: &WeakDevice) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read.take(LONGEST_REQUEST));
    // Requests and answers hold private keys.
    let mut request = Zeroizing::new(Vec::new());
    loop {
        let before = request.len();
        // Not as text: with each line all that came before it would be looked at again.
        if read.read_until(b'\n', &mut request).await? == 0 {
            return Ok(());
        }
        if &request[before..] != b"\n" {
            continue;
        }
        let answer = answer(&request, device);
        write.write_all(answer.as_bytes()).await?;
        request = Zeroizing::new(Vec::new());
        read.get_mut().set_limit(LONGEST_REQUEST);
    }
}

fn answer(request: &[u8], device: &WeakDevice) -> Zeroizing<String> {
    let text = std::str::from_utf8(request).map_err(|_| Errno::EPROTO);
    let result = match text.and_then(|text| parse(text.trim_end_matches('\n'))) {
        Ok(Request::Get) => apply::render(device),
        Ok(Request::Set(changes)) => apply::apply(device, changes).map(|()| Zeroizing::default()),
        Err(errno) => Err(errno),
    };
    let (mut text, errno) = match result {
        Ok(text) => (text, 0),
        Err(errno) => (Zeroizing::default(), errno as i32),
    };
    text.push_str(&format!("errno={errno}\n\n"));
    text
}

/// The device ended while it was asked.
const GONE: Errno = Errno::ENODEV;

#[cfg(test)]
mod tests {
    use super::*;

    /// Binds while the directory is taken away `thefts` times, each between making it and
    /// using it.
    fn bind_among_thieves(thefts: u32) -> io::Result<UnixListener> {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("wireguard");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _entered = runtime.enter();
        let mut left = thefts;
        again(|| {
            make(&dir)?;
            if let Some(fewer) = left.checked_sub(1) {
                left = fewer;
                std::fs::remove_dir(&dir)?;
            }
            listen(&dir.join("wg0.sock"))
        })
    }

    #[test]
    fn a_directory_that_others_take_away_is_made_again() {
        bind_among_thieves(0).unwrap();
        bind_among_thieves(MOST_ATTEMPTS - 1).unwrap();
    }

    #[test]
    fn a_directory_that_never_stays_is_an_error() {
        assert_eq!(bind_among_thieves(MOST_ATTEMPTS).unwrap_err().kind(), NotFound);
    }
}
