//! Fetching a file by HTTPS, from any byte on (RFC 9110 §14): what is large is carried on with after
//! a break, not begun again.
//!
//! Redirections are followed (five at most, never from `https` to anything else); what arrives
//! is for the caller to verify.

use crate::https;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use http::header::{CONTENT_RANGE, LOCATION, RANGE};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

/// A release page leads to a store, and that to a mirror.
const REDIRECTIONS: usize = 5;
/// Until the head of an answer is there.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// A download that stands still for so long is broken off.
const STANDS_STILL: Duration = Duration::from_secs(60);

/// What arrives.
pub struct Arriving {
    /// The first byte that comes: what was asked for, or 0 from a server that knows no ranges.
    pub start: u64,
    /// The bytes. They end with an error when the connection breaks or stands still.
    pub content: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
}

/// Asks for the content behind `url`, from byte `start` on.
///
/// # Errors
/// In words: it is no `https` address, nobody answers, or the answer is no content.
pub async fn fetch(url: &str, start: u64) -> Result<Arriving, String> {
    let mut uri: Uri = url.parse().map_err(|_| format!("{url:?} is no address"))?;
    for _ in 0..=REDIRECTIONS {
        let answer = ask(&uri, start).await?;
        let status = answer.status();
        if !status.is_redirection() {
            return content(&uri, answer, start);
        }
        let to = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok());
        let to = to.ok_or_else(|| format!("{uri} leads elsewhere and does not say where"))?;
        uri = follow(&uri, to)?;
    }
    Err(format!("{url} leads around for more than {REDIRECTIONS} times"))
}

async fn ask(uri: &Uri, start: u64) -> Result<Response<Incoming>, String> {
    let tls = https::tls_of(&uri.to_string(), Path::new(https::AUTHORITIES))?
        .ok_or_else(|| format!("{uri} is not https"))?;
    let mut request = Request::get(uri.clone());
    if start > 0 {
        request = request.header(RANGE, format!("bytes={start}-"));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    tokio::time::timeout(HEAD_WITHIN, https::client(Some(tls)).request(request))
        .await
        .map_err(|_| format!("{uri} does not answer"))?
        .map_err(|error| holdfast_api::chain(&error))
}

/// Where a `Location` leads: a whole address, or a path at the same server.
fn follow(from: &Uri, to: &str) -> Result<Uri, String> {
    let bad = || format!("{from} leads to {to:?}, which is no https address");
    let to: Uri = to.parse().map_err(|_| bad())?;
    let mut parts = to.into_parts();
    if parts.authority.is_none() {
        parts.scheme = from.scheme().cloned();
        parts.authority = from.authority().cloned();
    }
    let to = Uri::from_parts(parts).map_err(|_| bad())?;
    (to.scheme_str() == Some("https")).then_some(to).ok_or_else(bad)
}

fn content(uri: &Uri, answer: Response<Incoming>, asked: u64) -> Result<Arriving, String> {
    let start = match answer.status() {
        StatusCode::OK => 0,
        StatusCode::PARTIAL_CONTENT => {
            let range = answer.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
            let first = range.and_then(first_byte);
            first.filter(|first| *first == asked).ok_or_else(|| {
                format!("{uri} sends another part than the one that was asked for")
            })?
        }
        status => return Err(format!("{uri} answers {status}")),
    };
    let stream = answer.into_body().into_data_stream().map_err(io::Error::other);
    let content = futures_util::stream::unfold(Box::pin(stream), |mut stream| async {
        let next = match tokio::time::timeout(STANDS_STILL, stream.next()).await {
            Ok(next) => next?,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "nothing arrives any more")),
        };
        Some((next, stream))
    });
    Ok(Arriving { start, content: Box::pin(content) })
}

/// The first byte of `bytes 200-1000/67589` (RFC 9110 §14.4).
fn first_byte(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirection_never_leaves_https() {
        let from: Uri = "https://a.example/x/k3s".parse().unwrap();
        assert_eq!(follow(&from, "/y?z=1").unwrap(), "https://a.example/y?z=1");
        assert_eq!(follow(&from, "https://b.example/k3s").unwrap(), "https://b.example/k3s");
        for bad in ["http://b.example/k3s", "file:///etc/shadow", "", "::"] {
            assert!(follow(&from, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ranges_are_read_as_the_rfc_writes_them() {
        assert_eq!(first_byte("bytes 200-1000/67589"), Some(200));
        assert_eq!(first_byte("bytes 0-0/*"), Some(0));
        for bad in ["", "bytes */67589", "items 1-2/3", "bytes -5"] {
            assert_eq!(first_byte(bad), None, "{bad:?}");
        }
    }
}
