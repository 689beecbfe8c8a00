//! A device with ten thousand peers: what they take of memory while they are silent, and that all of
//! them can be set up, shown and replaced as wg(8) does it. In one test, so that nothing else in
//! this process takes memory meanwhile.

#![allow(clippy::unwrap_used, reason = "helpers of the test; a panic is a failed test")]

use ipnet::IpNet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tunnels::wireguard::{
    Device, LinkEnd, Options, PeerConfig, PresharedKey, PrivateKey, PublicKey, Tuning, uapi,
};

const PEERS: u32 = 10_000;
/// Half of what is asked for; keys and sessions of a handshake are not in it, for there was none.
const MOST_BYTES: u64 = 1024;

fn key(n: u32) -> PublicKey {
    let mut bytes = [7; 32];
    // Spread, as keys are.
    bytes[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b1).to_be_bytes());
    PublicKey(bytes)
}

/// A host's address and a prefix of each family, as a site has.
fn nets(n: u32) -> [IpNet; 3] {
    let host = IpNet::from(IpAddr::from((0x0a80_0000 | n).to_be_bytes()));
    let site = IpNet::new(IpAddr::from((0x2000_0000 | n << 8).to_be_bytes()), 24).unwrap();
    let v6 = u128::from(0xfd00_0000_0000_0000 | u64::from(n)) << 64;
    [host, site, IpNet::new(IpAddr::V6(v6.into()), 64).unwrap()]
}

fn endpoint(n: u32) -> SocketAddr {
    ((0xc612_0000 | n).to_be_bytes(), 51_820).into()
}

/// Bytes of this process that are no file's (`Anonymous` in proc(5), smaps).
fn anonymous_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// The text of a request that sets up peers with everything that they can have.
fn request(peers: std::ops::Range<u32>) -> String {
    let hex = |bytes: [u8; 32]| bytes.map(|byte| format!("{byte:02x}")).concat();
    let mut text = "set=1\nreplace_peers=true\n".to_owned();
    for n in peers {
        let (public, shared) = (hex(key(n).0), hex([n.to_le_bytes()[0] | 1; 32]));
        write!(
            text,
            "public_key={public}\npreshared_key={shared}\nendpoint={}\n\
             persistent_keepalive_interval=0\nreplace_allowed_ips=true\n",
            endpoint(n)
        )
        .unwrap();
        for net in nets(n) {
            writeln!(text, "allowed_ip={net}").unwrap();
        }
    }
    text + "\n"
}

async fn ask(socket: &Path, request: &str) -> String {
    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let mut buffer = vec![0; 1 << 16];
    while !answer.ends_with("\n\n") {
        let bytes = stream.read(&mut buffer).await.unwrap();
        assert!(bytes > 0, "no whole answer");
        answer.push_str(std::str::from_utf8(&buffer[..bytes]).unwrap());
    }
    answer
}

#[tokio::test]
async fn ten_thousand_peers_are_small_and_wg_can_set_them_up() {
    let (_link, tun) = UnixDatagram::pair().unwrap();
    tun.set_nonblocking(true).unwrap();
    let options = Options {
        name: "many".into(),
        private_key: PrivateKey::generate().unwrap(),
        listen_port: 0,
        fwmark: 0,
        handshakes_per_second: 1000,
        tuning: Tuning::default(),
    };
    let device = Device::start(LinkEnd::plain(tun.into()), options).unwrap();
    let config = |n| PeerConfig {
        preshared_key: PresharedKey::from_bytes([1; 32]),
        endpoint: Some(endpoint(n)),
        allowed_ips: nets(n).into(),
        ..PeerConfig::default()
    };
    device.set_peer(key(PEERS), config(PEERS));
    assert!(device.peer(&key(PEERS)).is_some());
    let before = anonymous_bytes();
    let all: Vec<u32> = (0..PEERS).collect();
    for some in all.chunks(64) {
        device.change_peers([], some.iter().map(|n| (key(*n), config(*n))));
        // What waits to be done has its memory, too.
        assert!(device.peer(&key(some[0])).is_some());
    }
    let bytes = (anonymous_bytes() - before) / u64::from(PEERS);
    eprintln!("{bytes} bytes for a silent peer with three prefixes");
    assert!(bytes <= MOST_BYTES, "{bytes} bytes for a silent peer");
    assert_eq!(device.peers().len(), PEERS as usize + 1);
    device.set_peers((0..PEERS).map(|n| (key(n), config(n))));
    assert_eq!(device.peers().len(), PEERS as usize, "exactly these");

    let dir = tempfile::tempdir().unwrap();
    let _listener = uapi::Listener::open(dir.path(), &device).unwrap();
    let socket = dir.path().join("many.sock");
    assert_eq!(ask(&socket, &request(5_000..15_000)).await, "errno=0\n\n");
    let shown = ask(&socket, "get=1\n\n").await;
    let lines = |name: &str| shown.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!((lines("public_key="), lines("allowed_ip=")), (10_000, 30_000));
    let peers = device.peers();
    assert!(peers.iter().all(|peer| peer.config.allowed_ips.len() == 3));
    let mut keys: Vec<PublicKey> = (5_000..15_000).map(key).collect();
    keys.sort_unstable();
    assert!(peers.iter().map(|peer| peer.public_key).eq(keys), "exactly these");
    assert_eq!(ask(&socket, "set=1\nreplace_peers=true\n\n").await, "errno=0\n\n");
    assert!(device.peers().is_empty());
}
