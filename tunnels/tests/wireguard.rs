//! Real WireGuard devices, set up by wg(8) and wg-quick(8), with real packets between them: ours,
//! and others as the other end, each in a network namespace of its own.

#![allow(clippy::unwrap_used, reason = "helpers of the test; a panic is a failed test")]

mod wires;
mod world;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use wires::{
    End, Kind, Outside, answer_from_either_address, missing, need, nft, stream_both_ways,
    stream_over_a_small_mtu, tunnel, tunnel_over, wg_key, wire,
};
use world::wait_for;

/// Each may begin, with packets of all sizes of both families in both, also in fragments, and with
/// streams both ways.
fn get_along(kinds: [Kind; 2]) {
    for (outside, first) in [(Outside::V4, 0), (Outside::V4, 1), (Outside::V6, 0)] {
        let ends = tunnel_over(outside, kinds, &wg_key("genpsk", ""));
        let (from, n) = (&ends[first], if first == 0 { 2 } else { 1 });
        for to in from.address(n) {
            for bytes in ["0", "56", "1300", "1392", "4000"] {
                let which = format!("{kinds:?} over {outside:?}: {first} to {to}, {bytes} bytes");
                assert!(from.pings(&to, bytes), "{which}");
            }
        }
        for (end, other) in [(&ends[0], &ends[1]), (&ends[1], &ends[0])] {
            let shakes = end.run("wg", &["show", &end.link, "latest-handshakes"]);
            assert!(!shakes.ends_with("\t0"), "{kinds:?}: {shakes}");
            let transfer = end.run("wg", &["show", &end.link, "transfer"]);
            let fields: Vec<&str> = transfer.split('\t').collect();
            assert_eq!(fields[0], other.public);
            let bytes = |n: usize| fields[n].parse::<u64>().unwrap();
            assert!(bytes(1) > 10_000 && bytes(2) > 10_000, "{transfer}");
        }
        if first == 0 {
            stream_both_ways(&ends, 1_000_000);
        }
    }
}

#[test]
fn ours_gets_along_with_ours() {
    need!(Kind::Ours);
    get_along([Kind::Ours, Kind::Ours]);
}

#[test]
fn ours_gets_along_with_wireguard_go() {
    need!(Kind::Ours, Kind::WireguardGo);
    get_along([Kind::Ours, Kind::WireguardGo]);
}

#[test]
fn ours_gets_along_with_the_kernels() {
    need!(Kind::Ours, Kind::Kernel);
    get_along([Kind::Ours, Kind::Kernel]);
}

/// A stream of many megabytes arrives whole both ways, with whatever offloads there are.
#[test]
fn a_stream_arrives_whole() {
    need!(Kind::Ours);
    let ends = tunnel([Kind::Ours, Kind::Ours], "");
    stream_both_ways(&ends, 20_000_000);
}

/// Datagrams that are too large for the wire go in fragments, and the kernel takes no runs of them.
#[test]
fn a_wire_with_a_small_mtu_carries_it_all_the_same() {
    need!(Kind::Ours);
    stream_over_a_small_mtu(Outside::V4);
}

/// Whoever is written to at one of its addresses answers from there, as long as it has it.
#[test]
fn answers_come_from_the_address_that_was_written_to() {
    need!(Kind::Ours);
    answer_from_either_address(Outside::V4);
}

/// What wg(8) shows is what it has set, and it says what was wrong.
#[test]
fn wg_reads_what_it_has_written() {
    need!(Kind::Ours);
    let ends = tunnel([Kind::Ours, Kind::Ours], "");
    let [a, b] = &ends;
    let wg = |arguments: &[&str]| a.run("wg", arguments);
    let endpoints = || wg(&["show", &a.link, "endpoints"]);
    wg(&["set", &a.link, "peer", &b.public, "endpoint", "[fe80::1%w]:51820"]);
    assert_eq!(endpoints(), format!("{}\t[fe80::1%w]:51820", b.public));
    let config = a.file("config", &wg(&["showconf", &a.link]));
    wg(&["set", &a.link, "private-key", "/dev/null", "peer", &b.public, "remove"]);
    assert_eq!(
        (endpoints().as_str(), wg(&["show", &a.link, "private-key"]).as_str()),
        ("", "(none)")
    );
    wg(&["setconf", &a.link, config.to_str().unwrap()]);
    assert_eq!(endpoints(), format!("{}\t[fe80::1%w]:51820", b.public));
    wg(&["set", &a.link, "peer", &b.public, "endpoint", "192.0.2.2:5002"]);
    assert!(a.pings("10.9.0.2", "56"));
    // Its own key in a list for all devices.
    wg(&["set", &a.link, "peer", &a.public, "allowed-ips", "10.9.0.2/32"]);
    assert_eq!(wg(&["show", &a.link, "peers"]), b.public);

    let taken = a.namespace.net.enter(|| std::net::UdpSocket::bind("[::]:0")).unwrap().unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let refused = a.namespace.run("wg", &["set", &a.link, "listen-port", &port]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("in use"), "{said}");
    assert!(a.pings("10.9.0.2", "56"));
}

/// The sockets of all network namespaces are in one directory.
#[test]
fn a_device_of_the_same_name_elsewhere_keeps_its_socket() {
    need!(Kind::Ours);
    let ends = tunnel([Kind::Ours, Kind::Ours], "");
    let [a, b] = &ends;
    let program = env!("CARGO_BIN_EXE_holdfast-wireguard");
    let start = || Command::new(program).args(["--foreground", &a.link]).output();
    let second = b.namespace.net.enter(start).unwrap().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another network namespace"), "{said}");
    assert!(a.run("wg", &["show", &a.link, "peers"]) == b.public, "it is asked as before");
    assert!(!b.namespace.run("ip", &["link", "show", &a.link]).status.success());
}

#[test]
fn a_device_whose_socket_is_removed_ends() {
    need!(Kind::Ours);
    let [mut a, _] = tunnel([Kind::Ours, Kind::Ours], "");
    std::fs::remove_file(format!("/var/run/wireguard/{}.sock", a.link)).unwrap();
    let program = a.program.as_mut().unwrap();
    let status = wait_for("its end", || program.try_wait().unwrap());
    assert!(status.success(), "{status}");
    assert!(!a.namespace.run("ip", &["link", "show", &a.link]).status.success());
}

/// A configuration for wg-quick(8), at the endpoint given.
fn quick_config(
    (end, n): (&End, u8),
    other: &End,
    (allowed, endpoint): (&str, SocketAddr),
    more: &str,
) -> PathBuf {
    let [v4, v6] = end.address(n);
    let port = 5000 + u16::from(n);
    let (private, public) = (&end.private, &other.public);
    end.file(
        &format!("{}.conf", end.link),
        &format!(
            "[Interface]\nPrivateKey = {private}\nListenPort = {port}\n\
             Address = {v4}/24, {v6}/64\n\n\
             [Peer]\nPublicKey = {public}\nAllowedIPs = {allowed}\nEndpoint = {endpoint}\n{more}"
        ),
    )
}

fn quick(end: &End, what: &str, path: &Path) -> String {
    let program = env!("CARGO_BIN_EXE_holdfast-wireguard");
    let implementation = format!("WG_QUICK_USERSPACE_IMPLEMENTATION={program}");
    end.run("env", &[&implementation, "wg-quick", what, path.to_str().unwrap()])
}

/// Takes the link down, and waits until the program has ended.
fn quick_down(end: &End, path: &Path) {
    quick(end, "down", path);
    let socket = PathBuf::from(format!("/var/run/wireguard/{}.sock", end.link));
    wait_for("the program's end", || (!socket.exists()).then_some(()));
    assert!(!end.namespace.run("ip", &["link", "show", &end.link]).status.success());
}

macro_rules! need_quick {
    () => {
        need!(Kind::Ours);
        if missing(Kind::Kernel).is_none() {
            eprintln!("skipped: this kernel has WireGuard, which wg-quick prefers to ours");
            return;
        }
    };
}

#[test]
fn wg_quick_raises_changes_and_takes_down() {
    need_quick!();
    let ends = wire([Kind::Ours, Kind::Ours]);
    let [a, b] = &ends;
    let config = |end: (&End, u8), other: (&End, u8), more: &str| {
        let allowed = other.0.address(other.1).join(", ");
        quick_config(end, other.0, (&allowed, Outside::V4.endpoint(other.1)), more)
    };
    let mtu = "\n[Interface]\nMTU = 1380\n";
    let paths = [config((a, 1), (b, 2), mtu), config((b, 2), (a, 1), "")];
    for ((end, path), mtu) in ends.iter().zip(&paths).zip(["1380", "1420"]) {
        quick(end, "up", path);
        let shown = end.run("ip", &["link", "show", &end.link]);
        assert!(shown.contains(&format!(" mtu {mtu} ")), "{shown}");
    }
    assert!(a.pings("10.9.0.2", "56") && a.pings("fd09::2", "56"));
    let shakes = || a.run("wg", &["show", &a.link, "latest-handshakes"]);
    let before = shakes();

    config((a, 1), (b, 2), "PersistentKeepalive = 25\n");
    let stripped = a.file("stripped", &quick(a, "strip", &paths[0]));
    a.run("wg", &["syncconf", &a.link, stripped.to_str().unwrap()]);
    let shown = a.run("wg", &["show", &a.link, "persistent-keepalive"]);
    assert_eq!(shown, format!("{}\t25", b.public));
    assert_eq!(shakes(), before, "what stayed the same goes on");

    for (end, path) in ends.iter().zip(&paths) {
        quick_down(end, path);
    }
}

/// All of the internet through the tunnel, but for the tunnel itself: its datagrams are marked, and
/// rules of wg-quick send what is marked by the routes that were there before.
#[test]
fn wg_quick_takes_everything_through_the_tunnel_and_not_the_tunnel_itself() {
    need_quick!();
    if nft::is_missing() {
        return;
    }
    for (outside, far) in [(Outside::V4, "203.0.113.2"), (Outside::V6, "2001:db8:2::2")] {
        let ends = wire([Kind::Ours, Kind::Ours]);
        let [a, b] = &ends;
        // Somewhere beyond the wire, where only the default route leads.
        for address in [far, "198.51.100.1", "2001:db8:1::1"] {
            b.run("ip", &["address", "add", address, "dev", "lo"]);
        }
        b.run("ip", &["link", "set", "lo", "up"]);
        let gateway = outside.endpoint(2).ip().to_string();
        let family = if outside == Outside::V4 { "-4" } else { "-6" };
        a.run("ip", &[family, "route", "add", "default", "via", &gateway, "dev", "w"]);
        let endpoint = SocketAddr::new(far.parse().unwrap(), 5002);
        let state = || {
            let rules = ["-4", "-6"].map(|family| a.run("ip", &[family, "rule"]));
            (rules, a.run("nft", &["list", "tables"]))
        };
        let before = state();
        let paths = [
            quick_config((a, 1), b, ("0.0.0.0/0, ::/0", endpoint), ""),
            quick_config((b, 2), a, ("10.9.0.1, fd09::1", outside.endpoint(1)), ""),
        ];
        // Whoever has all addresses calls at once, and again only after five seconds.
        for (end, path) in ends.iter().zip(&paths).rev() {
            quick(end, "up", path);
        }
        let mark = a.run("wg", &["show", &a.link, "fwmark"]);
        assert_ne!(mark, "off");
        for to in ["10.9.0.2", "fd09::2", "198.51.100.1", "2001:db8:1::1"] {
            assert!(a.pings(to, "56"), "{to} over {outside:?}");
        }
        let shown = b.run("wg", &["show", &b.link, "endpoints"]);
        assert_eq!(shown, format!("{}\t{}", a.public, outside.endpoint(1)));
        for (end, path) in ends.iter().zip(&paths) {
            quick_down(end, path);
        }
        assert_eq!(state(), before, "nothing is left behind");
    }
}
