//! What the datagrams of real WireGuard devices are marked with on the wire: congestion (RFC 6040),
//! and the firewall's marks.

#![allow(clippy::unwrap_used, reason = "helpers of the test; a panic is a failed test")]

mod wires;
mod world;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use socket2::SockRef;
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;
use wires::nft::{self, Rules};
use wires::{End, Kind, Outside, need, tunnel_over};

const PATIENCE: Duration = Duration::from_secs(60);
/// What is urgent inside (expedited forwarding) is nobody's business outside.
const URGENT: u8 = 46 << 2;
const NOT_ECT: u8 = 0;
const ECT1: u8 = 1;
const ECT0: u8 = 2;
const CE: u8 = 3;

/// A socket inside, at this address of an end.
fn socket(end: &End, address: &str) -> UdpSocket {
    let address: IpAddr = address.parse().unwrap();
    let socket = end.namespace.net.enter(|| UdpSocket::bind((address, 0))).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    match address {
        IpAddr::V4(_) => SockRef::from(&socket).set_recv_tos_v4(true).unwrap(),
        IpAddr::V6(_) => SockRef::from(&socket).set_recv_tclass_v6(true).unwrap(),
    }
    socket
}

fn send(from: &UdpSocket, to: SocketAddr, class: u8, text: &[u8]) {
    match to {
        SocketAddr::V4(_) => SockRef::from(from).set_tos_v4(class.into()).unwrap(),
        SocketAddr::V6(_) => SockRef::from(from).set_tclass_v6(class.into()).unwrap(),
    }
    from.send_to(text, to).unwrap();
}

/// The next datagram, and its traffic class.
fn receive(socket: &UdpSocket) -> (u8, Vec<u8>) {
    let mut buffer = [0; 100];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let mut control = nix::cmsg_space!([i32; 4]);
    let flags = MsgFlags::empty();
    let fd = socket.as_raw_fd();
    let message = recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut control), flags).unwrap();
    let class = message.cmsgs().unwrap().find_map(|control| match control {
        ControlMessageOwned::Ipv4Tos(class) => Some(class),
        ControlMessageOwned::Ipv6TClass(class) => u8::try_from(class).ok(),
        _ => None,
    });
    let bytes = message.bytes;
    (class.unwrap(), buffer[..bytes].to_vec())
}

/// Marks go out as they are inside, without DSCP; a mark that somebody on the wire makes comes in, and
/// what does not heed marks is dropped then.
#[test]
fn congestion_is_told_through_the_tunnel() {
    need!(Kind::Ours);
    if nft::is_missing() {
        return;
    }
    for outside in Outside::BOTH {
        let ends = tunnel_over(outside, [Kind::Ours, Kind::Ours], "");
        let [a, b] = &ends;
        let ip = if outside == Outside::V4 { "ip" } else { "ip6" };
        for (from, to) in a.address(1).iter().zip(b.address(2)) {
            let (from, to) = (socket(a, from), socket(b, &to));
            let at = to.local_addr().unwrap();
            // A session, whose making is not marked.
            send(&from, at, URGENT, b"first");
            assert_eq!(receive(&to), (URGENT, b"first".to_vec()));

            for (mark, name) in [(NOT_ECT, "not-ect"), (ECT1, "ect1"), (ECT0, "ect0"), (CE, "ce")] {
                let rules = Rules::at(b, "prerouting");
                rules.count(&format!("udp dport 5002 {ip} dscp 0 {ip} ecn {name}"));
                send(&from, at, URGENT | mark, name.as_bytes());
                let which = format!("{name} to {at} over {outside:?}");
                assert_eq!(receive(&to), (URGENT | mark, name.as_bytes().to_vec()), "{which}");
                assert_eq!(rules.counted(), 1, "{which}");
            }

            let rules = Rules::at(b, "prerouting");
            rules.add(&format!("udp dport 5002 {ip} ecn set ce"));
            for mark in [NOT_ECT, ECT1, ECT0, CE] {
                send(&from, at, URGENT | mark, &[mark]);
            }
            for mark in [ECT1, ECT0, CE] {
                let which = format!("{mark} to {at} over {outside:?}, marked on its way");
                assert_eq!(receive(&to), (URGENT | CE, vec![mark]), "{which}");
            }
        }
    }
}

/// Of a device that runs, also on another port.
#[test]
fn the_firewalls_mark_is_on_what_goes_out() {
    need!(Kind::Ours);
    if nft::is_missing() {
        return;
    }
    for outside in Outside::BOTH {
        let ends = tunnel_over(outside, [Kind::Ours, Kind::Ours], "");
        let [a, _] = &ends;
        let set = |what: &[&str]| a.run("wg", &[&["set", &a.link], what].concat());
        assert!(a.pings("10.9.0.2", "56"));
        let rules = Rules::at(a, "output");
        rules.count("udp dport 5002 meta mark 0x4846");
        let marked = || {
            rules.counted();
            assert!(a.pings("10.9.0.2", "56") && a.pings("fd09::2", "56"));
            rules.counted() >= 2
        };
        assert!(!marked(), "{outside:?}: none is set");
        set(&["fwmark", "0x4846"]);
        assert_eq!(a.run("wg", &["show", &a.link, "fwmark"]), "0x4846");
        assert!(marked(), "{outside:?}");
        set(&["listen-port", "5011"]);
        assert!(marked(), "{outside:?} from another port");
        set(&["fwmark", "off"]);
        assert!(!marked(), "{outside:?}: none is set any more");
    }
}
