//! A stream whose errors people understand.
//!
//! TLS tells a connection that was closed without a farewell apart from one that ended in good
//! order, and explains that at length, with an address in the web. To whoever reads a report or a
//! log it means that the other side is gone.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that says so plainly when the other side closed it in mid-talk.
pub(crate) struct Plain<S>(pub(crate) S);

/// The error in plain words.
pub(crate) fn plain(error: io::Error) -> io::Error {
    match error.kind() {
        kind @ ErrorKind::UnexpectedEof => {
            io::Error::new(kind, "the other side closed the connection")
        }
        _ => error,
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Plain<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.0).poll_read(context, buffer));
        Poll::Ready(read.map_err(plain))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Plain<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
