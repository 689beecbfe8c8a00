//! Requests, watches and what a broken or hostile server can do to them.

#![allow(clippy::unwrap_used)]

mod server;

use bytes::Bytes;
use holdfast_api::Reason;
use holdfast_api::meta::{List, ListMeta, Status, StatusCause, StatusDetails, WatchEvent};
use holdfast_api::resources::{NodeConfig, NodeConfigSpec, Site, SiteSpec};
use holdfast_client::{
    Client, ClientError, Conditional, Event, Identity, Options, Replica, Selector, Subresource,
    Trust, follow,
};
use server::{Reply, Seen, Server, pem};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const ACME: Option<&str> = Some("acme");

fn client_with(server: &Server, options: Options) -> Client {
    let trust = Trust::pem(&pem("ca.pem")).unwrap();
    Client::with_options(server.endpoint(), trust, Identity::None, options).unwrap()
}

fn client(server: &Server) -> Client {
    client_with(server, Options::default())
}

async fn serve(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(&["server.pem"], handler).await
}

fn site(name: &str, version: u32) -> Site {
    let mut site = Site::new(ACME, name, SiteSpec::default());
    site.metadata.resource_version = version.to_string();
    site
}

fn status(code: u16, reason: &str, ours: Option<Reason>) -> Status {
    let cause = |reason: Reason| StatusCause { reason: reason.code().into(), ..Default::default() };
    Status {
        kind: "Status".into(),
        api_version: "v1".into(),
        metadata: Default::default(),
        status: "Failure".into(),
        message: "no".into(),
        reason: reason.into(),
        details: Some(StatusDetails {
            causes: ours.map(cause).into_iter().collect(),
            ..Default::default()
        }),
        code,
    }
}

fn list(items: Vec<Site>, next: &str) -> List<Site> {
    List {
        api_version: "fleet.holdfast.dev/v1alpha1".into(),
        kind: "SiteList".into(),
        metadata: ListMeta { resource_version: "9".into(), continue_token: next.into() },
        items,
    }
}

fn line(kind: &str, object: impl serde::Serialize) -> Bytes {
    let object = serde_json::to_value(object).unwrap();
    let mut text = serde_json::to_vec(&WatchEvent { kind: kind.into(), object }).unwrap();
    text.push(b'\n');
    text.into()
}

/// A body of these pieces, ended in good order.
fn pieces(pieces: Vec<Bytes>) -> Reply {
    let (sender, receiver) = mpsc::channel(pieces.len().max(1));
    pieces.into_iter().for_each(|piece| sender.try_send(Ok(piece)).unwrap());
    Reply::Pieces(receiver)
}

#[tokio::test]
async fn a_conditional_get_is_answered_304() {
    let server = serve(|seen| match seen.if_none_match.as_deref() {
        Some("\"h1\"") => Reply::Whole(304, vec![("retry-after", "7".into())], Bytes::new()),
        _ => {
            let config = NodeConfig::new(ACME, "n", NodeConfigSpec::default());
            let body = serde_json::to_vec(&config).unwrap().into();
            Reply::Whole(200, vec![("etag", "\"h1\"".into())], body)
        }
    })
    .await;
    let client = client(&server);
    let first = client.get_if_changed::<NodeConfig>(ACME, "n", None).await.unwrap();
    let Conditional::Changed { etag: Some(etag), value, .. } = first else { panic!("{first:?}") };
    assert_eq!(value.metadata.name, "n");
    let second = client.get_if_changed::<NodeConfig>(ACME, "n", Some(&etag)).await.unwrap();
    assert_eq!(second, Conditional::Unchanged { come_back: Some(Duration::from_secs(7)) });
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn writes_go_where_they_should() {
    let server = serve(|_| Reply::json(200, &site("s", 2))).await;
    let client = client(&server);
    client.update(&site("s", 1)).await.unwrap();
    client.update_status(&site("s", 1)).await.unwrap();
    let patch = serde_json::json!({"status": {"phase": "Online"}});
    client.merge_patch::<Site>(ACME, "s", &patch, Some(Subresource::Status)).await.unwrap();
    client.delete::<Site>(ACME, "a/b").await.unwrap();
    let base = "/apis/fleet.holdfast.dev/v1alpha1/namespaces/acme/sites";
    let seen = server.record.requests();
    let lines: Vec<_> = seen.iter().map(|s| format!("{} {}", s.method, s.path)).collect();
    assert_eq!(
        lines,
        [
            format!("PUT {base}/s"),
            format!("PUT {base}/s/status"),
            format!("PATCH {base}/s/status"),
            format!("DELETE {base}/a%2Fb"),
        ]
    );
    assert_eq!(seen[2].content_type.as_deref(), Some("application/merge-patch+json"));
    assert_eq!(seen[2].body, serde_json::to_vec(&patch).unwrap());
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let server = serve(|seen| {
        if seen.path.contains("continue=second") {
            Reply::json(200, &list(vec![site("b", 2)], ""))
        } else {
            Reply::json(200, &list(vec![site("a", 1)], "second"))
        }
    })
    .await;
    let selector = Selector { label: Some("region=us west".into()), ..Selector::all() };
    let all = client(&server).list::<Site>(ACME, &selector).await.unwrap();
    let names: Vec<_> = all.items.iter().map(|s| s.metadata.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(all.metadata.resource_version, "9");
    assert!(server.record.requests()[0].path.contains("labelSelector=region%3Dus%20west"));
}

#[tokio::test]
async fn refusals_keep_their_reason() {
    let server = serve(|seen| match seen.path.rsplit('/').next() {
        Some("used-up") => Reply::json(403, &status(403, "Forbidden", Some(Reason::TokenUsedUp))),
        Some("gone") => Reply::json(404, &status(404, "NotFound", None)),
        Some("busy") => {
            let body = serde_json::to_vec(&status(429, "TooManyRequests", None)).unwrap();
            Reply::Whole(429, vec![("retry-after", "3".into())], body.into())
        }
        _ => Reply::Whole(503, Vec::new(), "<html>".into()),
    })
    .await;
    let client = client(&server);
    let refusal = async |name: &str| client.get::<Site>(ACME, name).await.unwrap_err();

    let error = refusal("used-up").await;
    assert_eq!((error.reason(), error.retryable()), (Reason::TokenUsedUp, false));
    let error = refusal("gone").await;
    assert!(error.is_not_found());
    assert_eq!((error.reason(), error.retryable()), (Reason::ControllerRefused, false));
    let error = refusal("busy").await;
    assert_eq!((error.retry_after(), error.retryable()), (Some(Duration::from_secs(3)), true));
    let error = refusal("proxy").await;
    assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
    assert_eq!((error.reason(), error.retryable()), (Reason::ControllerProtocol, true));
}

#[tokio::test]
async fn a_connection_that_broke_is_made_anew() {
    let server = serve(|_| Reply::json(200, &site("s", 1))).await;
    let client = client(&server);
    for _ in 0..3 {
        client.get::<Site>(ACME, "s").await.unwrap();
        server.cut();
        // Whether the client has noticed the cut yet is a race; both ways must work in the end.
        while client.get::<Site>(ACME, "s").await.is_err() {}
    }
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let server = serve(|_| Reply::Silence).await;
    let client = client(&server);
    drop(server);
    let error = client.get::<Site>(ACME, "s").await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
    assert_eq!((error.reason(), error.retryable()), (Reason::ControllerUnreachable, true));
}

#[tokio::test]
async fn a_silent_server_costs_its_timeout_and_no_more() {
    // Accepts TCP and says nothing: the handshake must not wait forever.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    let soon = Duration::from_millis(100);
    let options = Options { connect_timeout: soon, request_timeout: soon, ..Options::default() };
    let trust = Trust::pem(&pem("ca.pem")).unwrap();
    let mute = Client::with_options(endpoint, trust, Identity::None, options.clone()).unwrap();
    let error = mute.get::<Site>(ACME, "s").await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { attempt: "TLS handshake", .. }), "{error:?}");

    let server = serve(|_| Reply::Silence).await;
    let options = Options { connect_timeout: Duration::from_secs(5), ..options };
    let error = client_with(&server, options.clone()).get::<Site>(ACME, "s").await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { attempt: "request", .. }), "{error:?}");

    // Answers, but the body drips and never ends.
    let (sender, receiver) = mpsc::channel(1);
    let receiver = std::sync::Mutex::new(Some(receiver));
    let server = serve(move |_| Reply::Pieces(receiver.lock().unwrap().take().unwrap())).await;
    let drip = drip(sender, b" ");
    let options = Options { request_timeout: Duration::from_secs(2), ..options };
    let error = client_with(&server, options).get::<Site>(ACME, "s").await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { attempt: "read the answer", .. }), "{error:?}");
    drip.abort();
}

/// A peer that sends a byte now and then, for as long as anybody reads.
fn drip(peer: mpsc::Sender<io::Result<Bytes>>, byte: &'static [u8; 1]) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        while peer.send(Ok(Bytes::from_static(byte))).await.is_ok() {
            ticks.tick().await;
        }
    })
}

/// A server that reads what the client says first, answers `says` and is gone.
async fn says(says: &'static [u8]) -> Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let _ = tcp.read(&mut [0; 4096]).await;
            let _ = tcp.write_all(says).await;
        }
    });
    Client::new(endpoint, Trust::pem(&pem("ca.pem")).unwrap(), Identity::None).unwrap()
}

#[tokio::test]
async fn who_speaks_no_tls_is_no_controller_that_refuses() {
    let plain = says(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await;
    let error = plain.get::<Site>(ACME, "s").await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
    assert_eq!((error.reason(), error.retryable()), (Reason::ControllerProtocol, true));
    assert!(error.to_string().contains("TLS handshake"), "{error}");

    // A TLS alert, handshake_failure (RFC 8446 section 6): it does refuse.
    let refusing = says(&[21, 3, 3, 0, 2, 2, 40]).await;
    let error = refusing.get::<Site>(ACME, "s").await.unwrap_err();
    assert_eq!(error.reason(), Reason::ControllerRefused, "{error:?}");
}

#[tokio::test]
async fn a_connection_that_was_closed_is_told_in_plain_words() {
    let told = |error: &ClientError| {
        assert_eq!(error.reason(), Reason::ControllerUnreachable);
        let chain = holdfast_api::chain(error);
        assert!(chain.ends_with("the other side closed the connection"), "{chain}");
    };
    told(&says(b"").await.get::<Site>(ACME, "s").await.unwrap_err());

    let (sender, receiver) = mpsc::channel(1);
    let receiver = std::sync::Mutex::new(Some(receiver));
    let server = serve(move |_| Reply::Pieces(receiver.lock().unwrap().take().unwrap())).await;
    let mut watch = client(&server).watch::<Site>(ACME, &Selector::all(), None).await.unwrap();
    sender.send(Ok(line("ADDED", site("a", 1)))).await.unwrap();
    watch.next().await.unwrap().unwrap();
    // Without a farewell of TLS.
    server.cut();
    told(&watch.next().await.unwrap().unwrap_err());
}

#[tokio::test]
async fn answers_are_bounded_and_must_make_sense() {
    let server = serve(|seen| match seen.path.rsplit('/').next() {
        Some("long") => Reply::Whole(200, Vec::new(), vec![b' '; 2048].into()),
        _ => Reply::Whole(200, Vec::new(), "{\"kind\":".into()),
    })
    .await;
    let client = client_with(&server, Options { max_answer: 1024, ..Options::default() });
    for (name, want) in [("long", "longer than 1024"), ("cut", "EOF")] {
        match client.get::<Site>(ACME, name).await {
            Err(ClientError::Protocol { why, .. }) => assert!(why.contains(want), "{why}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_without_http2_is_named() {
    let address = "127.0.0.1:0".parse().unwrap();
    let server = Server::start_at(address, &["server.pem"], &[], |_| Reply::Silence).await;
    let error = client(&server).get::<Site>(ACME, "s").await.unwrap_err();
    assert!(matches!(&error, ClientError::Protocol { why, .. } if why.contains("HTTP/2")));
}

#[tokio::test]
async fn a_watch_yields_events_until_the_server_ends_it() {
    let server = serve(|_| {
        let whole = [
            line("ADDED", site("a", 1)),
            line("MODIFIED", site("a", 2)),
            line("BOOKMARK", serde_json::json!({"metadata": {"resourceVersion": "5"}})),
            line("DELETED", site("a", 6)),
        ]
        .concat();
        // Frames need not end where lines do.
        pieces(whole.chunks(100).map(Bytes::copy_from_slice).collect())
    })
    .await;
    let mut watch =
        client(&server).watch::<Site>(ACME, &Selector::name("a"), Some("0")).await.unwrap();
    let mut events = Vec::new();
    while let Some(event) = watch.next().await {
        events.push(event.unwrap());
    }
    assert_eq!(
        events,
        [
            Event::Added(site("a", 1)),
            Event::Modified(site("a", 2)),
            Event::Bookmark { resource_version: "5".into() },
            Event::Deleted(site("a", 6)),
        ]
    );
    let path = &server.record.requests()[0].path;
    for part in ["watch=true", "resourceVersion=0", "fieldSelector=metadata.name%3Da"] {
        assert!(path.contains(part), "{path}");
    }
}

#[tokio::test]
async fn a_watch_that_goes_wrong_says_how_and_is_over() {
    let server = serve(|seen| {
        let good = line("ADDED", site("a", 1));
        let which = seen.path.split("metadata.name%3D").nth(1).unwrap().split('&').next().unwrap();
        pieces(match which {
            "cut" => vec![good.clone(), good.slice(..good.len() / 2)],
            "garbage" => vec![good, Bytes::from_static(b"<html>\n")],
            "strange" => vec![good, line("BROKEN", site("a", 1))],
            "long" => vec![good, vec![b'x'; 4096].into()],
            _ => vec![good, line("ERROR", status(410, "Expired", None))],
        })
    })
    .await;
    let client = client_with(&server, Options { max_line: 2048, ..Options::default() });
    for (which, want) in [
        ("cut", "mid-line"),
        ("garbage", "expected value"),
        ("strange", "BROKEN"),
        ("long", "longer than 2048"),
    ] {
        let mut watch = client.watch::<Site>(ACME, &Selector::name(which), None).await.unwrap();
        watch.next().await.unwrap().unwrap();
        match watch.next().await {
            Some(Err(ClientError::Protocol { why, .. })) => {
                assert!(why.contains(want), "{which}: {why}");
            }
            other => panic!("{which}: {other:?}"),
        }
        assert!(watch.next().await.is_none());
    }
    let mut watch = client.watch::<Site>(ACME, &Selector::name("old"), None).await.unwrap();
    watch.next().await.unwrap().unwrap();
    assert!(watch.next().await.unwrap().unwrap_err().is_gone());
}

#[tokio::test]
async fn a_watch_ends_when_no_whole_line_comes_and_breaks_with_the_connection() {
    let (sender, receiver) = mpsc::channel(1);
    let receiver = std::sync::Mutex::new(Some(receiver));
    let server = serve(move |_| Reply::Pieces(receiver.lock().unwrap().take().unwrap())).await;
    let idle = Duration::from_millis(150);
    let client = client_with(&server, Options { watch_idle: idle, ..Options::default() });
    let mut watch = client.watch::<Site>(ACME, &Selector::all(), None).await.unwrap();
    let drip = drip(sender, b"x");
    assert!(watch.next().await.is_none());
    drip.abort();

    let (sender, receiver) = mpsc::channel(1);
    let receiver = std::sync::Mutex::new(Some(receiver));
    let server = serve(move |_| Reply::Pieces(receiver.lock().unwrap().take().unwrap())).await;
    let client = client_with(&server, Options::default());
    let mut watch = client.watch::<Site>(ACME, &Selector::all(), None).await.unwrap();
    sender.send(Err(io::Error::other("reset"))).await.unwrap();
    let error = watch.next().await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { attempt: "watch", .. }), "{error:?}");
}

/// The copy catches up after the controller was away, and says so meanwhile.
#[tokio::test]
async fn a_replica_follows_through_an_outage() {
    let lists = Arc::new(AtomicUsize::new(0));
    let handler = {
        let lists = lists.clone();
        move |seen: &Seen| {
            if seen.path.contains("watch=true") {
                let (sender, receiver) = mpsc::channel(1);
                sender.try_send(Ok(line("ADDED", site("watched", 10)))).unwrap();
                // Keeps the watch open.
                std::mem::forget(sender);
                return Reply::Pieces(receiver);
            }
            let name = format!("listed-{}", lists.fetch_add(1, Ordering::SeqCst));
            Reply::json(200, &list(vec![site(&name, 9)], ""))
        }
    };
    let server = serve(handler.clone()).await;
    let address = server.address;
    let (sender, mut replica) = tokio::sync::watch::channel(Replica::<Site>::default());
    let task = tokio::spawn(follow(client(&server), ACME.map(Into::into), Selector::all(), sender));
    let names = |r: &Replica<Site>| r.iter().map(|s| s.metadata.name.clone()).collect::<Vec<_>>();

    replica.wait_for(|r| names(r) == ["listed-0", "watched"]).await.unwrap();
    drop(server);
    let trouble = replica.wait_for(|r| r.trouble.is_some()).await.unwrap().clone();
    assert_eq!(trouble.trouble.unwrap().0, Reason::ControllerUnreachable);
    assert_eq!(replica.borrow().iter().count(), 2, "the last state is kept");
    let _again = Server::start_at(address, &["server.pem"], &[b"h2"], handler).await;
    replica.wait_for(|r| names(r) == ["listed-1", "watched"]).await.unwrap();
    assert!(replica.borrow().trouble.is_none());
    drop(replica);
    tokio::time::timeout(Duration::from_secs(60), task).await.unwrap().unwrap();
}

/// The law: however the server ends watches, it is not asked in a tight loop.
#[tokio::test]
async fn a_server_that_ends_every_watch_is_not_hammered() {
    let (listed, mut lists) = mpsc::unbounded_channel();
    let server = serve(move |seen| match seen.path.contains("watch=true") {
        true => pieces(Vec::new()),
        false => {
            listed.send(Instant::now()).unwrap();
            Reply::json(200, &list(vec![site("a", 1)], ""))
        }
    })
    .await;
    let (sender, mut replica) = tokio::sync::watch::channel(Replica::<Site>::default());
    let task = tokio::spawn(follow(client(&server), ACME.map(Into::into), Selector::all(), sender));
    replica.wait_for(|r| r.iter().count() == 1).await.unwrap();
    let first = lists.recv().await.unwrap();
    let second = tokio::time::timeout(Duration::from_secs(30), lists.recv()).await;
    // The shortest wait of `Backoff::default`.
    let apart = second.expect("it is asked again").unwrap() - first;
    assert!(apart >= Duration::from_secs(1), "asked again after {apart:?}");
    assert_eq!(server.record.requests().len(), 3, "a list, a watch, a list");
    task.abort();
}
