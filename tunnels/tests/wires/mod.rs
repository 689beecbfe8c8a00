//! Two ends of WireGuard with a wire between them, each in a network namespace of its own, set up
//! by wg(8) and ip(8).
//!
//! Everything goes when the ends are dropped, also after a panic.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a helper of tests; a panic is a failed test")]

pub(crate) mod flow;
pub(crate) mod nft;

use crate::world::{self, Namespace, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A stream from which nothing comes for so long stands still.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whose program is at an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    WireguardGo,
    Kernel,
}

/// What is spoken on a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outside {
    V4,
    V6,
}

impl Outside {
    pub(crate) const BOTH: [Outside; 2] = [Outside::V4, Outside::V6];

    /// Where the end `n` is.
    pub(crate) fn endpoint(self, n: u8) -> SocketAddr {
        let address = match self {
            Outside::V4 => IpAddr::from([192, 0, 2, n]),
            Outside::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()).into(),
        };
        SocketAddr::new(address, 5000 + u16::from(n))
    }
}

/// One end of a wire.
pub(crate) struct End {
    pub(crate) kind: Kind,
    pub(crate) namespace: Namespace,
    pub(crate) link: String,
    pub(crate) private: String,
    pub(crate) public: String,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) program: Option<Child>,
}

/// Why the other end cannot be had here.
pub(crate) fn missing(kind: Kind) -> Option<String> {
    let has = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    match kind {
        Kind::Ours => world::missing(),
        Kind::WireguardGo => (!has("wireguard-go", &["--version"]))
            .then(|| "the program wireguard-go is missing (package wireguard-go)".into()),
        Kind::Kernel => {
            let namespace = Namespace::new();
            let made = namespace.run("ip", &["link", "add", "wg-try", "type", "wireguard"]);
            (!made.status.success()).then(|| "this kernel has no WireGuard".into())
        }
    }
}

macro_rules! need {
    ($($kind:expr),+) => {
        $(if let Some(why) = crate::wires::missing($kind) {
            eprintln!("skipped: {why}");
            return;
        })+
    };
}

pub(crate) use need;

pub(crate) fn text(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub(crate) fn wg_key(what: &str, input: &str) -> String {
    let mut child = Command::new("wg")
        .arg(what)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("wg, package wireguard-tools");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    text(child.wait_with_output().unwrap())
}

impl End {
    pub(crate) fn new(kind: Kind) -> Self {
        let namespace = Namespace::new();
        let private = wg_key("genkey", "");
        let public = wg_key("pubkey", &private);
        // The sockets of all namespaces are in one directory.
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let link = format!("wt{:x}-{serial}", std::process::id());
        let dir = tempfile::tempdir().unwrap();
        End { kind, namespace, link, private, public, dir, program: None }
    }

    pub(crate) fn address(&self, n: u8) -> [String; 2] {
        [format!("10.9.0.{n}"), format!("fd09::{n}")]
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        holdfast_durable::write(&path, text.as_bytes(), 0o600).unwrap();
        path
    }

    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        text(self.namespace.run(program, arguments))
    }

    /// Makes the link and sets it up by wg(8) and ip(8).
    fn raise(&mut self, n: u8, (other, other_n): (&End, u8), outside: Outside, preshared: &str) {
        let link = self.link.clone();
        let start = |program: &Path, arguments: &[&str]| {
            self.namespace
                .net
                .enter(|| Command::new(program).args(arguments).arg(&link).spawn())
                .unwrap()
                .unwrap()
        };
        self.program = match self.kind {
            Kind::Ours => {
                // A limit that one stranger passes: of each only the last message waits.
                let limited = ["--foreground", "--handshakes-per-second", "20"];
                Some(start(env!("CARGO_BIN_EXE_holdfast-wireguard").as_ref(), &limited))
            }
            Kind::WireguardGo => Some(start("wireguard-go".as_ref(), &["--foreground"])),
            Kind::Kernel => {
                self.run("ip", &["link", "add", &link, "type", "wireguard"]);
                None
            }
        };
        // wg(8) removes a socket that refuses it, as one does that is not listened on yet.
        if self.kind != Kind::Kernel {
            let socket = format!("/var/run/wireguard/{link}.sock");
            wait_for("the device", || UnixStream::connect(&socket).ok());
        }
        let key = self.file("key", &self.private);
        let shared = self.file("psk", preshared);
        let endpoint = outside.endpoint(other_n).to_string();
        let port = outside.endpoint(n).port().to_string();
        let allowed = other.address(other_n).join(",");
        let arguments = [
            &["set", &link, "private-key", key.to_str().unwrap(), "listen-port", &port][..],
            &["peer", &other.public, "preshared-key", shared.to_str().unwrap()],
            &["endpoint", &endpoint, "allowed-ips", &allowed],
        ]
        .concat();
        self.run("wg", &arguments);
        self.run("ip", &["address", "add", &format!("10.9.0.{n}/24"), "dev", &link]);
        self.run("ip", &["address", "add", &format!("fd09::{n}/64"), "dev", &link, "nodad"]);
        self.run("ip", &["link", "set", &link, "mtu", "1420", "up"]);
    }

    pub(crate) fn pings(&self, to: &str, bytes: &str) -> bool {
        let arguments = ["-c", "1", "-W", "5", "-s", bytes, to];
        self.namespace.run("ping", &arguments).status.success()
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut program) = self.program.take() {
            // So that it takes its socket away.
            if let Ok(pid) = i32::try_from(program.id()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
            let ended = program.wait();
            // A sanitizer tells in it what was left behind.
            if self.kind == Kind::Ours && !std::thread::panicking() {
                assert!(ended.as_ref().is_ok_and(ExitStatus::success), "{}: {ended:?}", self.link);
            }
        }
        let _ = self.namespace.run("ip", &["link", "delete", &self.link]);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Two ends with a wire between them.
pub(crate) fn wire(kinds: [Kind; 2]) -> [End; 2] {
    let ends = kinds.map(End::new);
    let other = ends[1].namespace.name.clone();
    ends[0].run("ip", &["link", "add", "w", "type", "veth", "peer", "name", "w", "netns", &other]);
    for (end, n) in ends.iter().zip(1..) {
        end.run("ip", &["address", "add", &format!("192.0.2.{n}/24"), "dev", "w"]);
        end.run("ip", &["address", "add", &format!("2001:db8::{n}/64"), "dev", "w", "nodad"]);
        end.run("ip", &["link", "set", "w", "up"]);
    }
    ends
}

/// Two ends with a tunnel over the wire between them.
pub(crate) fn tunnel(kinds: [Kind; 2], preshared: &str) -> [End; 2] {
    tunnel_over(Outside::V4, kinds, preshared)
}

pub(crate) fn tunnel_over(outside: Outside, kinds: [Kind; 2], preshared: &str) -> [End; 2] {
    let mut ends = wire(kinds);
    let [a, b] = &mut ends;
    a.raise(1, (b, 2), outside, preshared);
    b.raise(2, (a, 1), outside, preshared);
    ends
}

pub(crate) fn stream_both_ways(ends: &[End; 2], count: u32) {
    let bytes: Vec<u8> =
        (0..count).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    for (from, to, n) in [(&ends[0], &ends[1], 2), (&ends[1], &ends[0], 1)] {
        for address in to.address(n) {
            let address: IpAddr = address.parse().unwrap();
            let listener = to.namespace.net.enter(|| std::net::TcpListener::bind((address, 0)));
            let listener = listener.unwrap().unwrap();
            let at = listener.local_addr().unwrap();
            let sent = bytes.clone();
            let stream = from.namespace.net.enter(|| std::net::TcpStream::connect(at));
            let mut stream = stream.unwrap().unwrap();
            let sender = std::thread::spawn(move || {
                std::io::Write::write_all(&mut stream, &sent).unwrap();
            });
            let mut received = Vec::new();
            let (mut incoming, _) = listener.accept().unwrap();
            incoming.set_read_timeout(Some(PATIENCE)).unwrap();
            std::io::Read::read_to_end(&mut incoming, &mut received).unwrap();
            sender.join().unwrap();
            assert!(received == bytes, "{} of {} bytes", received.len(), bytes.len());
        }
    }
}

/// A stream both ways over a wire whose MTU is less than what is sealed.
pub(crate) fn stream_over_a_small_mtu(outside: Outside) {
    let ends = tunnel_over(outside, [Kind::Ours, Kind::Ours], "");
    for end in &ends {
        end.run("ip", &["link", "set", "w", "mtu", "1300"]);
    }
    stream_both_ways(&ends, 2_000_000);
}

/// An end with two addresses answers from the one that it was written to, until it loses that.
pub(crate) fn answer_from_either_address(outside: Outside) {
    let ends = tunnel_over(outside, [Kind::Ours, Kind::Ours], "");
    let [a, b] = &ends;
    let [one, other] = [2, 22].map(|n| SocketAddr::new(outside.endpoint(n).ip(), 5002));
    let bits = if outside == Outside::V4 { 24 } else { 64 };
    let address = format!("{}/{bits}", other.ip());
    match outside {
        Outside::V4 => b.run("ip", &["address", "add", &address, "dev", "w"]),
        // Deprecated: not what the kernel would choose.
        Outside::V6 => {
            let kind = ["nodad", "preferred_lft", "0"];
            b.run("ip", &[&["address", "add", &address, "dev", "w"][..], &kind].concat())
        }
    };
    let (link, public) = (a.link.clone(), b.public.clone());
    a.run("wg", &["set", &link, "peer", &public, "endpoint", &other.to_string()]);
    assert!(a.pings("10.9.0.2", "56") && b.pings("10.9.0.1", "56"));
    let endpoint = |end: &End| end.run("wg", &["show", &end.link, "endpoints"]);
    assert_eq!(endpoint(a), format!("{public}\t{other}"));
    b.run("ip", &["address", "delete", &address, "dev", "w"]);
    assert!(b.pings("10.9.0.1", "56"), "from another one where it has lost that");
    assert_eq!(endpoint(a), format!("{public}\t{one}"));
    assert!(a.pings("10.9.0.2", "56"));
}
