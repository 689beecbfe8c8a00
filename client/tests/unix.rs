//! HTTP over a Unix socket, against raw bytes: what a daemon may answer and what it may not.

#![allow(clippy::unwrap_used)]

use holdfast_api::Reason;
use holdfast_api::local::{Problem, TokenInput};
use holdfast_client::unix::{
    TIMEOUT, UnixError, ask_json, get_json, get_text, post, post_json, put_json,
};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

/// Answers one request with these bytes; gives what was asked.
fn daemon(dir: &Path, answer: String) -> (PathBuf, JoinHandle<String>) {
    let socket = dir.join("holdfastd.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        let mut buffer = [0; 1024];
        while !asked.windows(4).any(|w| w == b"\r\n\r\n") {
            let n = stream.read(&mut buffer).await.unwrap();
            asked.extend_from_slice(&buffer[..n]);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(asked).unwrap()
    });
    (socket, task)
}

fn http(code: u16, body: &str) -> String {
    format!("HTTP/1.1 {code} x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn questions_and_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, asked) = daemon(dir.path(), http(200, "[1,2]"));
    assert_eq!(get_json::<Vec<u8>>(&socket, "/v1/x").await.unwrap(), [1, 2]);
    assert!(asked.await.unwrap().starts_with("GET /v1/x HTTP/1.1\r\n"));

    let (socket, asked) = daemon(dir.path(), http(204, ""));
    let input = TokenInput { token: "t".into(), controller: None };
    put_json(&socket, "/v1/token", &input).await.unwrap();
    let asked = asked.await.unwrap();
    assert!(asked.starts_with("PUT /v1/token ") && asked.ends_with("{\"token\":\"t\"}"), "{asked}");

    let (socket, asked) = daemon(dir.path(), http(202, ""));
    post(&socket, "/v1/reconcile").await.unwrap();
    assert!(asked.await.unwrap().starts_with("POST /v1/reconcile "));

    let (socket, asked) = daemon(dir.path(), http(202, ""));
    post_json(&socket, "/v1/x", &[7]).await.unwrap();
    let asked = asked.await.unwrap();
    assert!(asked.starts_with("POST /v1/x ") && asked.ends_with("[7]"), "{asked}");

    let (socket, asked) = daemon(dir.path(), http(200, "[1,2]"));
    let answer: Vec<u8> = ask_json(&socket, "/v1/x", &[7], TIMEOUT).await.unwrap();
    assert_eq!(answer, [1, 2]);
    assert!(asked.await.unwrap().starts_with("POST /v1/x "));

    let (socket, _) = daemon(dir.path(), http(200, "a 1\n"));
    assert_eq!(get_text(&socket, "/v1/metrics").await.unwrap(), "a 1\n");
}

#[tokio::test]
async fn problems_keep_their_reason() {
    let dir = tempfile::tempdir().unwrap();
    let problem = Problem::new(Reason::TokenMistypedGroup, "group 3");
    let (socket, _) = daemon(dir.path(), http(422, &serde_json::to_string(&problem).unwrap()));
    let error = post(&socket, "/v1/token").await.unwrap_err();
    assert_eq!(error.to_string(), "group 3");
    assert_eq!((error.reason(), error.retryable()), (Reason::TokenMistypedGroup, false));
}

#[tokio::test]
async fn what_is_not_an_answer_is_told() {
    let dir = tempfile::tempdir().unwrap();
    for (answer, want) in [
        (http(500, "oops"), "500"),
        (http(404, "oops"), "no such path"),
        (http(200, "["), "EOF"),
        ("HTTP/1.1 200 x\r\ncontent-length: 10\r\n\r\n[1".into(), ""),
    ] {
        let (socket, _) = daemon(dir.path(), answer.clone());
        match get_json::<Vec<u8>>(&socket, "/").await {
            Err(UnixError::Protocol { why, .. }) => assert!(why.contains(want), "{why}"),
            other => panic!("{answer:?}: {other:?}"),
        }
    }
    let (socket, _) = daemon(dir.path(), "garbage\r\n\r\n".into());
    let error = get_json::<Vec<u8>>(&socket, "/").await.unwrap_err();
    assert!(matches!(error, UnixError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_missing_daemon_is_named_by_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    for (name, reason) in
        [("holdfastd.sock", Reason::ManagerUnreachable), ("tunneld.sock", Reason::TunnelDaemonDown)]
    {
        let error = get_json::<u8>(&dir.path().join(name), "/").await.unwrap_err();
        assert!(matches!(error, UnixError::Unreachable { .. }), "{error:?}");
        assert_eq!((error.reason(), error.retryable()), (reason, true));
    }
}
