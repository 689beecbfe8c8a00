//! Clients that are slow on purpose.

use super::http::{Http, tls};
use super::world::{PATIENCE, World, of, operator_token};
use holdfast_controller::http::Limits;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Short enough for a test, long enough for honest clients on a busy machine.
const SOON: Duration = Duration::from_secs(4);

const H2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// `GET https://x/healthz` by RFC 7541's static table, as stream 1, complete.
const GET: &[u8] = &[
    0, 0, 15, 1, 5, 0, 0, 0, 1, // HEADERS of 15 bytes, END_STREAM and END_HEADERS
    0x82, 0x87, 0x01, 1, b'x', 0x04, 8, b'/', b'h', b'e', b'a', b'l', b't', b'h', b'z',
];
/// A frame of 100 bytes of which two come.
const HALF_A_FRAME: &[u8] = &[0, 0, 100, 1, 5, 0, 0, 0, 3, 0x82, 0x87];

/// Says `words` and reads until the server has had enough.
async fn cut_off(mut stream: impl AsyncRead + AsyncWrite + Unpin, words: &[u8], what: &str) {
    // It may be cut off already, on a busy machine.
    if stream.write_all(words).await.is_err() || stream.flush().await.is_err() {
        return;
    }
    let mut buffer = [0; 4096];
    let end = async { while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {} };
    assert!(tokio::time::timeout(PATIENCE, end).await.is_ok(), "still open: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_come_to_the_point_is_cut_off_and_others_stay() {
    let limits = Limits { handshake: SOON, headers: SOON, silence: SOON };
    let world = World::within(limits).await;
    let (address, ca) = (world.address(), world.ca());
    let bearer = operator_token(world.data.path(), Some("acme"));
    let sites = of("acme", "sites");
    let mut watches = Vec::new();
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let client = Http::try_connect(address, &ca, Some(&bearer), None, alpn).await.unwrap();
        let watch = client.watch(&format!("{sites}?watch=1&resourceVersion=0")).await;
        watches.push((client, watch));
    }

    let mut slow = JoinSet::new();
    let mute = TcpStream::connect(address).await.unwrap();
    slow.spawn(cut_off(mute, b"", "no handshake"));
    let half = TcpStream::connect(address).await.unwrap();
    slow.spawn(cut_off(half, b"\x16\x03\x01\x02\x00\x01", "half a handshake"));
    let whole = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /healthz HTTP/1.1\r\nhost";
    for (words, what) in [
        (&b""[..], "nothing said"),
        (b"P", "not even the version is known"),
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ", "half a header"),
        (whole, "half a header after a request"),
    ] {
        let stream = tls(address, &ca, None, b"http/1.1").await.unwrap();
        slow.spawn(cut_off(stream, words, what));
    }
    for (words, what) in [
        (vec![], "HTTP/2 without a preface"),
        (H2[..10].to_vec(), "half a preface"),
        (H2.to_vec(), "a preface and no settings"),
        ([H2, SETTINGS].concat(), "no request"),
        ([H2, SETTINGS, HALF_A_FRAME].concat(), "half of the first request"),
        ([H2, SETTINGS, GET].concat(), "no answer to pings"),
        ([H2, SETTINGS, GET, HALF_A_FRAME].concat(), "half of the second request"),
    ] {
        let stream = tls(address, &ca, None, b"h2").await.unwrap();
        slow.spawn(async move { cut_off(stream, &words, what).await });
    }
    while let Some(ended) = slow.join_next().await {
        ended.unwrap();
    }

    // All limits are over by now, and those who wait for something still do.
    world.operator(Some("acme")).await.create(&sites, &json!({"metadata": {"name": "a"}})).await;
    for (_client, watch) in &mut watches {
        assert_eq!(watch.short().await, "ADDED a");
    }
}
