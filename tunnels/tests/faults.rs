//! What goes wrong around a real WireGuard device while data passes: links, routes, queues, other
//! programs, and whatever strangers send. Each time the tunnel goes on, and nothing is left behind.

#![allow(clippy::unwrap_used, reason = "helpers of the test; a panic is a failed test")]

mod wires;
mod world;

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use netd::tuntap;
use nix::errno::Errno;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};
use tunnels::wireguard::PublicKey;
use wires::flow::Flow;
use wires::nft::{self, Rules};
use wires::{End, Kind, Outside, need, tunnel, tunnel_over, wg_key};
use world::wait_for;

/// Peers that come and go at a time.
const PEERS: u32 = 2000;
/// How often they do, after the first few times.
const LATER_TIMES: u32 = 12;
/// Were they left behind it would be 14 MB and more.
const MOST_GROWTH_BYTES: u64 = 3 << 20;

/// Two ends with a stream from the first to the second, which moves.
fn under_load(outside: Outside) -> ([End; 2], Flow) {
    let ends = tunnel_over(outside, [Kind::Ours, Kind::Ours], "");
    let flow = Flow::start(&ends[0], &ends[1], "10.9.0.2");
    flow.moves("at first");
    (ends, flow)
}

/// Descriptors and threads of the programs.
fn weight(ends: &[End; 2]) -> Vec<[usize; 2]> {
    let count = |end: &End, what: &str| {
        let pid = end.program.as_ref().unwrap().id();
        std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count()
    };
    ends.iter().map(|end| [count(end, "fd"), count(end, "task")]).collect()
}

/// Has `fault` done to both ends under load, and undone.
fn survives(fault: impl FnOnce(&[End; 2], &Flow), mending: impl FnOnce(&[End; 2])) {
    survives_over(Outside::V4, fault, mending);
}

fn survives_over(
    outside: Outside,
    fault: impl FnOnce(&[End; 2], &Flow),
    mending: impl FnOnce(&[End; 2]),
) {
    let (ends, flow) = under_load(outside);
    // Of whoever configured it a connection may be there for a moment.
    let before = wait_for("rest", || {
        let one = weight(&ends);
        std::thread::yield_now();
        (weight(&ends) == one).then_some(one)
    });
    fault(&ends, &flow);
    mending(&ends);
    flow.moves("after it was mended");
    flow.end();
    assert!(ends[1].pings("10.9.0.1", "56"), "the other way");
    wait_for("the descriptors and threads of before", || {
        let now = weight(&ends);
        if now != before {
            eprintln!("{now:?}, not {before:?}")
        }
        (now == before).then_some(())
    });
}

fn both(ends: &[End; 2], arguments: &[&str]) {
    for end in ends {
        end.run("ip", arguments);
    }
}

/// What was under way when the fault came still arrives for a moment.
#[track_caller]
fn stands(flow: &Flow, end: &End) {
    wait_for("the stream stands", || flow.stands(|| !answers(end)).then_some(()));
}

fn answers(end: &End) -> bool {
    end.namespace.run("ping", &["-c", "1", "-W", "1", "10.9.0.2"]).status.success()
}

#[test]
fn a_wire_that_goes_down_and_comes_back() {
    need!(Kind::Ours);
    survives(
        |ends, flow| {
            ends[1].run("ip", &["link", "set", "w", "down"]);
            stands(flow, &ends[0]);
        },
        |ends| drop(ends[1].run("ip", &["link", "set", "w", "up"])),
    );
}

/// The link of either end, whose routes and addresses of IPv6 the kernel takes away meanwhile.
#[test]
fn a_link_that_goes_down_and_comes_back() {
    need!(Kind::Ours);
    let set = |end: &End, what: &str| drop(end.run("ip", &["link", "set", &end.link, what]));
    for side in 0..2 {
        survives(
            |ends, flow| {
                set(&ends[side], "down");
                stands(flow, &ends[0]);
            },
            |ends| set(&ends[side], "up"),
        );
    }
}

/// Also below what IPv6 needs, which takes its addresses away.
#[test]
fn the_links_mtu_is_changed() {
    need!(Kind::Ours);
    let set = |ends: &[End; 2], mtu: &str| {
        for end in ends {
            end.run("ip", &["link", "set", &end.link, "mtu", mtu]);
        }
    };
    survives(
        |ends, flow| {
            for mtu in ["1300", "9000", "600", "1281"] {
                set(ends, mtu);
                flow.moves(&format!("with an MTU of {mtu}"));
            }
        },
        |ends| set(ends, "1420"),
    );
}

/// What is sealed no longer fits: the kernel refuses runs, and fragments take their place.
#[test]
fn the_wires_mtu_is_changed() {
    need!(Kind::Ours);
    // Below 1280 there is no IPv6.
    for (outside, least) in [(Outside::V4, "700"), (Outside::V6, "1280")] {
        survives_over(
            outside,
            |ends, flow| {
                for mtu in ["1400", least, "9000", "1281"] {
                    both(ends, &["link", "set", "w", "mtu", mtu]);
                    flow.moves(&format!("with a wire's MTU of {mtu} over {outside:?}"));
                }
            },
            |ends| both(ends, &["link", "set", "w", "mtu", "1500"]),
        );
    }
}

/// Errors of sendmsg(2): EACCES, EHOSTUNREACH, EINVAL, ENETUNREACH.
#[test]
fn routes_that_refuse() {
    need!(Kind::Ours);
    for kind in ["prohibit", "unreachable", "blackhole"] {
        let rule = |what| ["rule", what, "pref", "5", "to", "192.0.2.0/24", kind];
        survives(
            |ends, flow| {
                // The look-up of what is local goes behind ours.
                for end in ends {
                    end.run("ip", &["rule", "add", "pref", "10", "lookup", "local"]);
                    end.run("ip", &["rule", "delete", "pref", "0"]);
                }
                both(ends, &rule("add"));
                stands(flow, &ends[0]);
            },
            |ends| both(ends, &rule("delete")),
        );
    }
    survives(
        |ends, flow| {
            ends[0].run("ip", &["route", "delete", "192.0.2.0/24", "dev", "w"]);
            stands(flow, &ends[0]);
        },
        |ends| drop(ends[0].run("ip", &["route", "add", "192.0.2.0/24", "dev", "w"])),
    );
}

/// A firewall refuses what goes out (EPERM of sendmsg(2)), or swallows what comes in.
#[test]
fn a_firewall_that_refuses() {
    need!(Kind::Ours);
    if nft::is_missing() {
        return;
    }
    for (end, hook) in ["output", "input"].into_iter().enumerate() {
        survives(
            |ends, flow| {
                let rules = Rules::at(&ends[end], hook);
                rules.add("meta l4proto udp drop");
                stands(flow, &ends[0]);
            },
            |_| {},
        );
    }
}

/// A queue that holds two packets, or eight, drops most of a run.
#[test]
fn queues_that_are_full() {
    need!(Kind::Ours);
    let queues: [&[&str]; 2] =
        [&["pfifo", "limit", "2"], &["tbf", "rate", "80mbit", "burst", "4kb", "limit", "12kb"]];
    for queue in queues {
        let add = [&["qdisc", "add", "dev", "w", "root"], queue].concat();
        survives(
            |ends, flow| {
                for end in ends {
                    end.run("tc", &add);
                }
                flow.moves(&format!("through {queue:?}"));
            },
            |ends| {
                for end in ends {
                    end.run("tc", &["qdisc", "delete", "dev", "w", "root"]);
                }
            },
        );
    }
}

/// Sends what `next` says to the second end's port from outside of the tunnel, from so many ports,
/// until the stream has moved on several times; how many datagrams, and how many answers.
fn throw(
    ends: &[End; 2],
    flow: &Flow,
    [ports, burst]: [usize; 2],
    mut next: impl FnMut(usize) -> Vec<u8>,
) -> (usize, usize) {
    let open = || {
        let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let net = &ends[0].namespace.net;
    let sockets: Vec<UdpSocket> = net.enter(|| (0..ports).map(|_| open()).collect()).unwrap();
    let (mut sent, mut answers) = (0, 0);
    for round in 0..3 {
        for _ in 0..burst {
            let socket = &sockets[sent % ports];
            let _ = socket.send_to(&next(sent), "192.0.2.2:5002");
            sent += 1;
            answers += usize::from(socket.recv_from(&mut [0; 2000]).is_ok());
        }
        flow.moves(&format!("in round {round} of what strangers send"));
    }
    (sent, answers)
}

#[test]
fn datagrams_of_every_size() {
    need!(Kind::Ours);
    survives(
        |ends, flow| {
            // A first byte of each kind of message and none, and rarely the zeros behind it.
            let answered = throw(ends, flow, [1, 700], |n| {
                let kind = u8::try_from(n % 6).unwrap();
                let mut bytes = vec![if n % 5 == 0 { 0xee } else { 0 }; n % 2001];
                bytes.iter_mut().take(1).for_each(|first| *first = kind);
                bytes
            });
            assert_eq!(answered, (2100, 0), "nobody is told anything");
        },
        |_| {},
    );
}

/// First messages of a handshake, each for the right key and from somebody unknown.
#[test]
fn a_flood_of_initiations() {
    need!(Kind::Ours);
    survives(
        |ends, flow| {
            let key: PublicKey = ends[1].public.parse().unwrap();
            let initiations: Vec<Vec<u8>> = (0..64u8)
                .map(|n| {
                    let secret = x25519::StaticSecret::from([n + 1; 32]);
                    let mut tunn = Tunn::new(secret, key.0.into(), None, None, n.into(), None);
                    let mut buffer = vec![0; 200];
                    match tunn.format_handshake_initiation(&mut buffer, true) {
                        TunnResult::WriteToNetwork(bytes) => bytes.to_vec(),
                        other => panic!("{other:?}"),
                    }
                })
                .collect();
            let start = Instant::now();
            let (sent, cookies) = throw(ends, flow, [500, 4000], |n| initiations[n % 64].clone());
            let took = start.elapsed();
            eprintln!(
                "{sent} initiations in {took:?} while data passes: {cookies} were asked for a \
                 cookie, the others were worked on or dropped"
            );
            assert!(cookies > 0, "nobody was asked to show an address");
        },
        |_| {},
    );
}

/// A device that a program has is nobody else's, and who tries harms nobody.
#[test]
fn a_device_that_another_program_has() {
    need!(Kind::Ours);
    survives(
        |ends, flow| {
            let end = &ends[0];
            let second = end.namespace.net.enter(|| {
                let name = end.link.parse().unwrap();
                let queue = tuntap::Options { multi_queue: true, ..Default::default() };
                assert!(tuntap::Tun::open(&name, queue).is_err(), "a second queue");
                assert!(tuntap::Tun::open(&name, tuntap::Options::default()).is_err());
                let program = env!("CARGO_BIN_EXE_holdfast-wireguard");
                Command::new(program).args(["--foreground", &end.link]).output().unwrap()
            });
            let second = second.unwrap();
            assert_eq!(second.status.code(), Some(1));
            let said = String::from_utf8_lossy(&second.stderr).into_owned();
            assert!(said.contains(&end.link) && said.contains("another program has it"), "{said}");
            flow.moves("with somebody who wanted the same device");
        },
        |_| {},
    );
}

#[test]
fn nonsense_at_the_socket_for_wg() {
    need!(Kind::Ours);
    survives(
        |ends, flow| {
            let path = format!("/var/run/wireguard/{}.sock", ends[0].link);
            let zeros = "0".repeat(64);
            let ask = |request: &[u8]| {
                let mut socket = UnixStream::connect(&path).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                // It may hang up before it has read all.
                let _ = socket.write_all(request);
                let _ = socket.shutdown(std::net::Shutdown::Write);
                let mut answer = Vec::new();
                let _ = socket.read_to_end(&mut answer);
                String::from_utf8(answer).unwrap()
            };
            for request in [
                "get=2\n\n".into(),
                "set=1\nprivate_key=00\n\n".into(),
                format!("set=1\npublic_key={zeros}\nallowed_ip=10.9.0.2/33\n\n"),
                "set=1\nlisten_port=99999\n\n".into(),
                "set=1\nset=1\n\n".into(),
                "nothing\n\n".into(),
                "set=1\nfwmark=-1\n\n".into(),
                "get=1\nget=1\n\n".into(),
            ] {
                let answer = ask(request.as_bytes());
                let errno = answer.trim().strip_prefix("errno=");
                assert!(errno.is_some_and(|errno| errno != "0"), "{request:?}: {answer:?}");
            }
            for request in
                [&b""[..], b"\n", b"get=1", b"set=1\npublic_key=", &[0xff; 5000], &[0; 99]]
            {
                assert!(!ask(request).contains("private_key"), "{request:?}");
            }
            assert!(ask(&vec![b'a'; 5 << 20]).is_empty(), "it has no end");
            // Longer than any request may be.
            let too_long = ask(&vec![b'a'; 33 << 20]);
            assert_eq!(too_long, format!("errno=-{}\n\n", Errno::EMSGSIZE as i32));
            assert!(ask(b"get=1\n\n").ends_with("errno=0\n\n"));
            flow.moves("after the nonsense");
        },
        |_| {},
    );
}

/// The last peer that is given a prefix has it, and a longer prefix wins.
#[test]
fn peers_that_want_the_same_addresses() {
    need!(Kind::Ours);
    let ends = tunnel([Kind::Ours, Kind::Ours], "");
    let [a, b] = &ends;
    let other = wg_key("pubkey", &wg_key("genkey", ""));
    wait_for("an answer", || answers(a).then_some(()));
    let set = |key: &str, prefix: &str| {
        a.run("wg", &["set", &a.link, "peer", key, "allowed-ips", prefix])
    };
    let shown = |key: &str| {
        let all = a.run("wg", &["show", &a.link, "allowed-ips"]);
        let line = all.lines().find_map(|line| line.strip_prefix(&format!("{key}\t")));
        line.map(str::to_owned)
    };
    set(&other, "10.9.0.2/32");
    assert_eq!(shown(&b.public).as_deref(), Some("fd09::2/128"), "it lost the other one");
    assert!(!answers(a), "another peer has the address, who is nowhere");
    set(&other, "10.9.0.0/24");
    set(&b.public, "10.9.0.2/32,fd09::2/128");
    wait_for("an answer", || answers(a).then_some(()));
    a.run("wg", &["set", &a.link, "peer", &other, "remove"]);
    assert_eq!(shown(&other), None);
    wait_for("an answer", || answers(a).then_some(()));
    assert!(b.pings("10.9.0.1", "56"));
}

/// Peers and devices that come and go leave nothing in the program.
#[test]
fn peers_that_come_and_go() {
    need!(Kind::Ours);
    let ends = tunnel([Kind::Ours, Kind::Ours], "");
    let [a, _] = &ends;
    wait_for("an answer", || answers(a).then_some(()));
    let peers = |text: &dyn Fn(u32) -> String| {
        let all: String = (0..PEERS).map(text).collect();
        let mut socket =
            UnixStream::connect(format!("/var/run/wireguard/{}.sock", a.link)).unwrap();
        socket.write_all(format!("set=1\n{all}\n").as_bytes()).unwrap();
        let mut answer = [0; 9];
        socket.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"errno=0\n\n");
    };
    let key = |n: u32| format!("public_key={n:08x}{}\n", "1".repeat(56));
    let resident = || {
        let pid = a.program.as_ref().unwrap().id();
        let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let prefix = |n: u32| format!("allowed_ip=10.100.{}.{}/32\n", n / 256, n % 256);
    let come_and_go = |times: u32| {
        for _ in 0..times {
            peers(&|n| key(n) + &prefix(n));
            peers(&|n| key(n) + "remove=true\n");
        }
        resident()
    };
    // By then the allocator has what it keeps.
    let (before, after) = (come_and_go(3), come_and_go(LATER_TIMES));
    let grown = after.saturating_sub(before);
    eprintln!("{grown} bytes more after {LATER_TIMES} times {PEERS} peers, from {before}");
    assert!(grown < MOST_GROWTH_BYTES, "{grown} bytes more, from {before}");
    let shown = a.run("wg", &["show", &a.link, "peers"]);
    assert_eq!(shown.lines().count(), 1, "{shown}");
    wait_for("an answer", || answers(a).then_some(()));
}
