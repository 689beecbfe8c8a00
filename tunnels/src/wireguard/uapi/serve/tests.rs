//! As many as may be, and one more.

use super::*;
use crate::wireguard::uapi::conversation::tests::device;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PATIENCE: Duration = Duration::from_secs(20);

/// The answer, or nothing when the other side has hung up.
async fn ask(stream: &mut UnixStream) -> Option<[u8; 9]> {
    let mut answer = [0; 9];
    let talk = async {
        stream.write_all(b"set=1\n\n").await?;
        stream.read_exact(&mut answer).await
    };
    let heard = tokio::time::timeout(PATIENCE, talk).await.expect("an answer, or an end");
    heard.ok().map(|_| answer)
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once() {
    const ANSWER: Option<[u8; 9]> = Some(*b"errno=0\n\n");
    let (device, _link) = device();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wg0.sock");
    let door = Door::new(UnixListener::bind(&path).unwrap()).unwrap();
    let limits = Limits { connections: 3, ..Limits::default() };
    let serving = tokio::spawn(serve(door, device.downgrade(), limits));
    let mut streams = Vec::new();
    for _ in 0..limits.connections {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        assert_eq!(ask(&mut stream).await, ANSWER);
        streams.push(stream);
    }
    let mut further = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(&mut further).await, None);
    for stream in &mut streams {
        assert_eq!(ask(stream).await, ANSWER, "who came first stays");
    }
    streams.pop();
    let again =
        async { while ask(&mut UnixStream::connect(&path).await.unwrap()).await != ANSWER {} };
    tokio::time::timeout(PATIENCE, again).await.expect("there is a place again");
    serving.abort();
}
