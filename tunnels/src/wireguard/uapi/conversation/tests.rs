//! Conversations with a device whose link is a pair of sockets.

use super::*;
use crate::wireguard::uapi::{GONE, Listener};
use crate::wireguard::{
    Device, Fragments, LinkEnd, Options, PeerConfig, PrivateKey, PublicKey, Resident, Tuning,
};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc;
use std::time::Duration;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(20);

pub(in crate::wireguard::uapi) fn device() -> (Device, UnixDatagram) {
    let (link, tun) = UnixDatagram::pair().unwrap();
    tun.set_nonblocking(true).unwrap();
    let options = Options {
        name: "wg0".into(),
        private_key: PrivateKey::generate().unwrap(),
        listen_port: 0,
        fwmark: 0,
        handshakes_per_second: 100,
        tuning: Tuning { helpers: Some(0), ..Tuning::default() },
    };
    (Device::start(LinkEnd::plain(tun.into()), options).unwrap(), link)
}

fn key(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

/// A device that others can ask, and where.
fn offered(device: &Device) -> (Listener, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Listener::open(dir.path(), device).unwrap(), dir)
}

/// Says all of `text`, and gives everything that comes back until the other side hangs up.
async fn say(dir: &tempfile::TempDir, text: &[u8]) -> String {
    talk(UnixStream::connect(dir.path().join("wg0.sock")).await.unwrap(), text).await
}

async fn talk(mut stream: UnixStream, text: &[u8]) -> String {
    let talk = async {
        stream.write_all(text).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    tokio::time::timeout(PATIENCE, talk).await.unwrap()
}

/// Begins to talk with `said`, which is there before anybody listens.
async fn conversation(
    common: &Arc<Common>,
    said: &[u8],
) -> (UnixStream, JoinHandle<io::Result<()>>) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.write_all(said).await.unwrap();
    let mut conversation = Conversation::new(theirs, Arc::clone(common));
    (ours, tokio::spawn(async move { conversation.run().await }))
}

/// Why it ended, or that it did in good time.
async fn end(conversation: JoinHandle<io::Result<()>>) -> Result<(), io::ErrorKind> {
    let ended = tokio::time::timeout(PATIENCE, conversation).await.expect("it goes on");
    ended.unwrap().map_err(|error| error.kind())
}

fn error(errno: Errno) -> String {
    format!("errno=-{}\n\n", errno as i32)
}

#[test]
fn a_request_ends_with_its_empty_line_however_it_comes() {
    let text = b"set=1\nremove=true\n\nget=1\n\n";
    for seen in 0..19 {
        assert_eq!(end_of_request(text, seen), Some(19), "{seen}");
        assert_eq!(end_of_request(&text[..seen], seen / 2), None);
    }
    assert_eq!(end_of_request(b"\nget=1", 0), Some(1));
    assert_eq!(end_of_request(b"", 0), None);
}

#[tokio::test]
async fn requests_are_answered_in_their_order() {
    let (device, _link) = device();
    let (_listener, dir) = offered(&device);
    assert_eq!(say(&dir, b"").await, "");
    assert_eq!(say(&dir, b"get=1\n").await, "", "it has no end");
    assert_eq!(say(&dir, b"\n").await, error(Errno::EPROTO));
    assert_eq!(say(&dir, b"\xff\n\n").await, error(Errno::EPROTO));
    let both = say(&dir, b"set=1\nlisten_port=x\n\nget=1\n\n").await;
    let shown = both.strip_prefix(&error(Errno::EINVAL)).unwrap();
    assert!(shown.starts_with("private_key=") && shown.ends_with("\nerrno=0\n\n"), "{shown}");
}

#[tokio::test]
async fn a_key_that_nobody_has_set_is_not_told() {
    let (device, _link) = device();
    device.set_private_key(None);
    let (_listener, dir) = offered(&device);
    let shown = say(&dir, b"get=1\n\n").await;
    assert_eq!(shown, format!("listen_port={}\nerrno=0\n\n", device.listen_port()));
}

/// All that a device may have, and more than that.
#[tokio::test]
async fn a_request_that_is_too_long_is_told_so() {
    let (device, _link) = device();
    const LONGEST: usize = 3 * PIECE_BYTES;
    for (bytes, answer) in [
        (LONGEST - PIECE_BYTES, "errno=0\n\n".to_owned()),
        (LONGEST + 2 * PIECE_BYTES, error(Errno::EMSGSIZE)),
        (LONGEST * (MOST_IGNORED - 1), error(Errno::EMSGSIZE)),
    ] {
        let limits = Limits { longest: LONGEST, ..Limits::default() };
        let common = Arc::new(Common::new(device.downgrade(), limits));
        let (ours, ended) = conversation(&common, b"").await;
        let lines = "protocol_version=1\n".repeat(bytes / 19);
        assert_eq!(talk(ours, format!("set=1\n{lines}\n").as_bytes()).await, answer);
        ended.await.unwrap().unwrap();
    }

    let long = SocketAddr::from(([0xffff; 8], u16::MAX));
    let prefix = "allowed_ip=ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128\n";
    let peer = format!(
        "public_key={0}\npreshared_key={0}\nendpoint={long}\nupdate_only=true\n\
         persistent_keepalive_interval=65535\nreplace_allowed_ips=true\n{1}protocol_version=1\n",
        "f".repeat(64),
        prefix.repeat(30)
    );
    assert!(peer.len() * 10_000 + 200 < Limits::default().longest);
}

#[tokio::test]
async fn what_others_have_sent_is_nobodys_and_is_left_again() {
    let (device, _link) = device();
    const LONGEST: usize = 7 * PIECE_BYTES;
    let limits = Limits { longest: LONGEST, ..Limits::default() };
    let common = Arc::new(Common::new(device.downgrade(), limits));
    let long = |end: &str| {
        let lines = "protocol_version=1\n".repeat((LONGEST - PIECE_BYTES) / 19);
        format!("set=1\n{lines}{end}").into_bytes()
    };
    let (mut holds, _held) = conversation(&common, &long("")).await;
    let waiting = async {
        while common.budget.share().grow(PIECE_BYTES + 1).is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it is counted");
    for (said, answer) in [
        (long("\n"), error(Errno::EMSGSIZE)),
        (b"set=1\n\n".to_vec(), "errno=0\n\n".into()),
        (long("\n"), error(Errno::EMSGSIZE)),
    ] {
        let (ours, ended) = conversation(&common, b"").await;
        assert_eq!(talk(ours, &said).await, answer);
        assert_eq!(end(ended).await, Ok(()));
    }
    holds.write_all(b"\n").await.unwrap();
    let mut answer = [0; 9];
    holds.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"errno=0\n\n");
    // It is still connected, and has nothing any more.
    let (ours, _) = conversation(&common, b"").await;
    assert_eq!(talk(ours, &long("\n")).await, "errno=0\n\n");
}

const SOON: Duration = Duration::from_millis(20);
const NEVER: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn who_says_nothing_is_left_and_who_has_begun_is_not() {
    let (device, _link) = device();
    let limits = Limits { silence: SOON, request: NEVER, ..Limits::default() };
    let common = Arc::new(Common::new(device.downgrade(), limits));
    let (mut begun, _goes_on) = conversation(&common, b"set=1\n").await;
    let (mut silent, ended) = conversation(&common, b"set=1\n\n").await;
    assert_eq!(end(ended).await, Err(io::ErrorKind::TimedOut));
    let mut answer = String::new();
    silent.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "errno=0\n\n");
    begun.write_all(b"\n").await.unwrap();
    let mut answer = [0; 9];
    begun.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"errno=0\n\n");
}

#[tokio::test]
async fn who_does_not_come_to_an_end_is_left_and_who_has_not_begun_is_not() {
    let (device, _link) = device();
    let limits = Limits { silence: NEVER, request: SOON, ..Limits::default() };
    let common = Arc::new(Common::new(device.downgrade(), limits));
    let (silent, _goes_on) = conversation(&common, b"").await;
    let (_slow, slow) = conversation(&common, b"\nset=1\n").await;
    // And who says a little ever again.
    let (mut drips, dripping) = conversation(&common, b"set=1\n").await;
    let drip = async { while drips.write_all(b"x").await.is_ok() {} };
    let both = async { tokio::join!(drip, end(slow), end(dripping)) };
    let ((), slow, dripping) = tokio::time::timeout(PATIENCE, both).await.unwrap();
    assert_eq!(slow, Err(io::ErrorKind::TimedOut));
    assert_eq!(dripping, Err(io::ErrorKind::TimedOut));
    assert_eq!(talk(silent, b"set=1\n\n").await, "errno=0\n\n");
    // Also who was told that it is too much.
    let limits = Limits { longest: PIECE_BYTES, ..limits };
    let common = Arc::new(Common::new(device.downgrade(), limits));
    let (_long, ended) = conversation(&common, &[b'x'; 3 * PIECE_BYTES]).await;
    assert_eq!(end(ended).await, Err(io::ErrorKind::TimedOut));
}

#[tokio::test]
async fn who_does_not_take_what_it_asks_for_is_left() {
    let (device, _link) = device();
    device.set_peers((0..100).map(|n| (key(n), PeerConfig::default())));
    let limits = Limits { silence: SOON, ..Limits::default() };
    let common = Arc::new(Common::new(device.downgrade(), limits));
    let (_asks, ended) = conversation(&common, &b"get=1\n\n".repeat(1000)).await;
    assert_eq!(end(ended).await, Err(io::ErrorKind::TimedOut));
}

/// Who reads a list that ends well may rely on it.
#[tokio::test]
async fn a_device_that_ends_while_it_is_told_is_an_error() {
    let (device, _link) = device();
    device.set_peers((0..100).map(|n| (key(n), PeerConfig::default())));
    let mut listing = Listing::new(device.downgrade());
    assert!(listing.some().await.unwrap().is_some_and(|text| text.contains("listen_port")));
    let some = listing.some().await.unwrap().unwrap();
    assert!((1..100).contains(&some.matches("public_key").count()));
    drop(device);
    assert_eq!(listing.some().await.map(drop), Err(GONE));
}

/// Says that it stands, and stands still until somebody says go.
struct Stuck(mpsc::Sender<()>, std::sync::Mutex<mpsc::Receiver<()>>);

impl Resident for Stuck {
    fn receive(&self, _packet: &[u8], _now: std::time::Instant) -> bool {
        false
    }

    fn run(
        &self,
        _now: std::time::Instant,
        _send: &mut dyn FnMut(&[u8], Fragments),
    ) -> Option<std::time::Instant> {
        let _ = self.0.send(());
        let _ = self.1.lock().unwrap().recv();
        None
    }

    fn ended(&self) {}
}

/// The runtime has one thread: who says go has his turn only if nobody waits in it.
#[tokio::test]
async fn the_program_goes_on_while_a_device_is_waited_for() {
    let (device, _link) = device();
    let (stands, stood) = mpsc::channel();
    let (go, goes) = mpsc::channel();
    let (_listener, dir) = offered(&device);
    device.set_resident(Arc::new(Stuck(stands, std::sync::Mutex::new(goes))));
    stood.recv_timeout(PATIENCE).unwrap();
    let mut talk = Box::pin(say(&dir, b"get=1\n\n"));
    // Until it is asked; each turn has the other tasks run once.
    for _ in 0..5000 {
        tokio::select! {
            biased;
            answer = &mut talk => panic!("{answer}"),
            () = tokio::task::yield_now() => {}
        }
    }
    drop(go);
    assert!(talk.await.ends_with("errno=0\n\n"));
}
