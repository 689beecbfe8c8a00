//! Fetching a file by HTTPS, from any byte on (RFC 9110 §14): what is large is carried on with after
//! a break, not begun again.
//!
//! Redirections are followed (five at most, never from `https` to anything else); what arrives
//! is for the caller to verify.

use crate::https;
use bytes::Bytes;
use futures_util::Stream;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

/// A release page leads to a store, and that to a mirror.
const REDIRECTIONS: usize = 5;
/// Until the head of an answer is there.
const HEAD_WITHIN: Duration = Duration::from_secs(30);

/// What arrives.
pub struct Arriving {
    /// The first byte that comes: what was asked for, or 0 from a server that knows no ranges.
    pub start: u64,
    /// How many bytes come, where the server says so.
    pub length: Option<u64>,
    /// The bytes. They end with an error when the connection breaks or stands still.
    pub content: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
}

/// Asks for the content behind `url`, from byte `start` on; from the first byte when it has no more
/// than that many.
///
/// # Errors
/// In words: it is no `https` address, nobody answers, or the answer is no content.
pub async fn fetch(url: &str, start: u64) -> Result<Arriving, String> {
    let uri: Uri = url.parse().map_err(|_| format!("{url:?} is no address"))?;
    let tls = https::tls_of(url, Path::new(https::AUTHORITIES))?;
    let tls = tls.ok_or_else(|| format!("{uri} is not https"))?;
    carry_on(&https::client(Some(tls)), uri, start).await
}

type Asker = Client<https::Dial, Empty<Bytes>>;

async fn carry_on(client: &Asker, uri: Uri, start: u64) -> Result<Arriving, String> {
    let (uri, answer) = answered(client, uri, start).await?;
    if start > 0 && answer.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        // What we have is not shorter, so it is of another content (RFC 9110 §15.5.17).
        let (uri, answer) = answered(client, uri, 0).await?;
        return content(&uri, answer, 0);
    }
    content(&uri, answer, start)
}

/// The answer of whoever has it.
async fn answered(
    client: &Asker,
    mut uri: Uri,
    start: u64,
) -> Result<(Uri, Response<Incoming>), String> {
    let first = uri.clone();
    for _ in 0..=REDIRECTIONS {
        let answer = ask(client, &uri, start).await?;
        if !answer.status().is_redirection() {
            return Ok((uri, answer));
        }
        let to = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok());
        let to = to.ok_or_else(|| format!("{uri} leads elsewhere and does not say where"))?;
        uri = follow(&uri, to)?;
    }
    Err(format!("{first} leads around for more than {REDIRECTIONS} times"))
}

async fn ask(client: &Asker, uri: &Uri, start: u64) -> Result<Response<Incoming>, String> {
    let mut request = Request::get(uri.clone());
    if start > 0 {
        request = request.header(RANGE, format!("bytes={start}-"));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    tokio::time::timeout(HEAD_WITHIN, client.request(request))
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
    let length = answer.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let length = length.and_then(|length| length.parse().ok());
    let content = https::paced(answer.into_body().into_data_stream(), https::STANDS_STILL);
    Ok(Arriving { start, length, content: Box::pin(content) })
}

/// The first byte of `bytes 200-1000/67589` (RFC 9110 §14.4).
fn first_byte(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

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

    /// Answers requests one after the other with these texts, and gives what it was asked.
    async fn server(answers: &'static [&'static str]) -> (Uri, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/k3s", listener.local_addr().unwrap()).parse().unwrap();
        let asked = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut connection, _) = listener.accept().await.unwrap();
                let (mut head, mut piece) = (Vec::new(), [0; 1024]);
                while !head.ends_with(b"\r\n\r\n") {
                    let length = connection.read(&mut piece).await.unwrap();
                    head.extend_from_slice(&piece[..length]);
                }
                asked.push(String::from_utf8(head).unwrap().to_ascii_lowercase());
                connection.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        (uri, asked)
    }

    #[tokio::test]
    async fn what_has_no_more_than_was_had_is_fetched_from_its_beginning() {
        let (uri, asked) = server(&[
            "HTTP/1.1 416 Range Not Satisfiable\r\nconnection: close\r\ncontent-range: bytes */3\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nnew",
        ])
        .await;
        let arriving = carry_on(&https::client(None), uri, 700).await.unwrap();
        assert_eq!((arriving.start, arriving.length), (0, Some(3)));
        let content: Vec<Bytes> = arriving.content.try_collect().await.unwrap();
        assert_eq!(content.concat(), b"new");
        let asked = asked.await.unwrap();
        assert!(asked[0].contains("range: bytes=700-"), "{asked:?}");
        assert!(!asked[1].contains("range:"), "{asked:?}");
    }
}
