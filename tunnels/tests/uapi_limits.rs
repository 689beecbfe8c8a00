//! What programs at the socket for wg(8) can take of the machine: memory, which comes back, and
//! descriptors, without which they are sent away. Both are of the whole process, so one test at a time.

#![allow(clippy::unwrap_used, reason = "helpers of the test; a panic is a failed test")]

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, SockAddr, Socket, Type};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tunnels::wireguard::{Device, LinkEnd, Options, PrivateKey, Tuning, uapi};

static ALONE: Mutex<()> = Mutex::const_new(());
const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// A device, what keeps it, and its socket.
struct Offered {
    path: PathBuf,
    _listener: uapi::Listener,
    _device: Device,
    _kept: (UnixDatagram, tempfile::TempDir),
}

fn offered() -> Offered {
    let (link, tun) = UnixDatagram::pair().unwrap();
    tun.set_nonblocking(true).unwrap();
    let options = Options {
        name: "wg0".into(),
        private_key: PrivateKey::generate().unwrap(),
        listen_port: 0,
        fwmark: 0,
        handshakes_per_second: 1000,
        tuning: Tuning { helpers: Some(0), ..Tuning::default() },
    };
    let device = Device::start(LinkEnd::plain(tun.into()), options).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let listener = uapi::Listener::open(dir.path(), &device).unwrap();
    let path = dir.path().join("wg0.sock");
    Offered { path, _listener: listener, _device: device, _kept: (link, dir) }
}

/// What is said when `text` is, until the other side hangs up or has answered; none when it hung up.
async fn ask(stream: &mut UnixStream, text: &[u8]) -> Option<String> {
    let talk = async {
        stream.write_all(text).await.ok()?;
        let mut answer = String::new();
        while !answer.ends_with("\n\n") {
            let mut piece = [0; 100];
            let bytes = stream.read(&mut piece).await.ok().filter(|bytes| *bytes > 0)?;
            answer.push_str(std::str::from_utf8(&piece[..bytes]).unwrap());
        }
        Some(answer)
    };
    tokio::time::timeout(PATIENCE, talk).await.expect("an answer, or an end")
}

/// Bytes of this process that are no file's (`Anonymous` in proc(5), smaps).
fn anonymous_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Eight programs that say 30 MB each and never come to an end, twice.
#[tokio::test]
async fn memory_of_requests_has_an_end_and_comes_back() {
    let _alone = ALONE.lock().await;
    let offered = offered();
    let lines = "protocol_version=1\n".repeat(1000);
    let connect = || UnixStream::connect(&offered.path);
    assert!(ask(&mut connect().await.unwrap(), b"get=1\n\n").await.is_some());
    let before = anonymous_bytes();
    for _ in 0..2 {
        let mut streams = Vec::new();
        for _ in 0..8 {
            streams.push(connect().await.unwrap());
        }
        let mut most = 0;
        for step in 0..30_000_000 / lines.len() {
            let each = streams.iter_mut().map(|stream| stream.write_all(lines.as_bytes()));
            let said = tokio::time::timeout(PATIENCE, futures_util::future::join_all(each)).await;
            assert!(said.unwrap().iter().all(Result::is_ok));
            if step % 64 == 0 {
                most = most.max(anonymous_bytes());
            }
        }
        let more = most.saturating_sub(before) / MIB;
        eprintln!("{more} MiB of requests");
        assert!((8..=80).contains(&more), "{more} MiB of requests");
        let answer = ask(&mut connect().await.unwrap(), b"get=1\n\n").await.unwrap();
        assert!(answer.ends_with("errno=0\n\n"), "{answer}");
        drop(streams);
        let until = Instant::now() + PATIENCE;
        while anonymous_bytes() > before + 4 * MIB {
            let more = (anonymous_bytes() - before) / MIB;
            assert!(Instant::now() < until, "{more} MiB stay");
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn without_descriptors_whoever_calls_is_sent_away() {
    let _alone = ALONE.lock().await;
    let offered = offered();
    let socket = |_| Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    let callers: Vec<Socket> = (0..3).map(socket).collect();
    let call = |socket: Socket| {
        socket.connect(&SockAddr::unix(&offered.path).unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        UnixStream::from_std(OwnedFd::from(socket).into()).unwrap()
    };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.min(64), hard).unwrap();
    let mut taken: Vec<OwnedFd> = Vec::new();
    while let Ok(another) = offered._kept.0.as_fd().try_clone_to_owned() {
        taken.push(another);
    }
    let mut sent_away = Vec::new();
    for caller in callers {
        let mut caller = call(caller);
        assert_eq!(ask(&mut caller, b"get=1\n\n").await, None);
        // Nor is its descriptor free.
        sent_away.push(caller);
    }
    drop(taken);
    let mut caller = UnixStream::connect(&offered.path).await.unwrap();
    let answer = ask(&mut caller, b"get=1\n\n").await;
    assert!(answer.is_some_and(|answer| answer.ends_with("errno=0\n\n")));
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
}
