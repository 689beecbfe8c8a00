//! WireGuard, VLAN and bonds of the kernel, checked with `wg` and `ip`, and with traffic.
//!
//! Each test is skipped where the kernel lacks the kind. `cargo lab machine test` runs them on
//! one that has all.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use common::{World, eventually, name, world};
use holdfast_api::Reason;
use netd::{
    Address, BondMode, Kernel, Link, LinkKind, Network, Ownership, Peer, Step, WgKey,
    WireguardDevice, WireguardPeer, plan,
};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, SystemTime};

#[test]
fn a_wireguard_device_is_as_wg_shows_it() {
    let Some(world) = wireguard_world() else { return };
    let mut kernel = world.kernel();
    let mut device = WireguardDevice {
        private_key: Some(generated()),
        listen_port: Some(51_820),
        fwmark: 0x7200,
        peers: BTreeMap::new(),
    };
    let first = WireguardPeer {
        endpoint: Some("192.0.2.9:4500".parse().unwrap()),
        preshared_key: Some(WgKey([9; 32])),
        keepalive_secs: 25,
        allowed_ips: nets(&["10.1.0.0/16", "2001:db8:1::/48"]),
    };
    let second = WireguardPeer {
        endpoint: Some("[2001:db8::9]:51821".parse().unwrap()),
        allowed_ips: nets(&["0.0.0.0/0", "::/0"]),
        ..WireguardPeer::default()
    };
    device.peers.insert(WgKey([1; 32]), first.clone());
    device.peers.insert(WgKey([2; 32]), second);
    device.peers.insert(WgKey([3; 32]), WireguardPeer::default());
    bring_about(&mut kernel, &wired(&device));
    assert_eq!(shown(&world, "hf-k"), device);

    // Everything that can change: peers come and go, an address moves from one to another.
    device.listen_port = Some(51_900);
    device.fwmark = 0;
    device.peers.remove(&WgKey([3; 32]));
    let moved = WireguardPeer { allowed_ips: nets(&["10.1.0.0/16"]), ..WireguardPeer::default() };
    device.peers.insert(WgKey([4; 32]), moved);
    let rest = WireguardPeer {
        preshared_key: None,
        keepalive_secs: 0,
        allowed_ips: nets(&["2001:db8:1::/48"]),
        ..first
    };
    device.peers.insert(WgKey([1; 32]), rest);
    let steps = bring_about(&mut kernel, &wired(&device));
    assert!(matches!(&steps[..], [Step::SetWireguard { .. }]), "{steps:?}");
    assert_eq!(shown(&world, "hf-k"), device);

    device.private_key = None;
    device.peers.clear();
    bring_about(&mut kernel, &wired(&device));
    assert_eq!(shown(&world, "hf-k"), device);
    bring_about(&mut kernel, &Network::default());
    assert!(world.link("hf-k").is_none());
}

#[test]
fn a_private_key_of_any_bytes_is_met() {
    let Some(world) = wireguard_world() else { return };
    let mut kernel = world.kernel();
    // The kernel keeps it clamped (RFC 7748 §5), which is the same key.
    let device = WireguardDevice { private_key: Some(WgKey([0xff; 32])), ..Default::default() };
    bring_about(&mut kernel, &wired(&device));
    let mut clamped = [0xff; 32];
    (clamped[0], clamped[31]) = (0xf8, 0x7f);
    assert_eq!(shown(&world, "hf-k").private_key, Some(WgKey(clamped)));
}

#[test]
fn peers_and_addresses_beyond_one_message() {
    let Some(world) = wireguard_world() else { return };
    let mut kernel = world.kernel();
    let mut device = WireguardDevice { private_key: Some(generated()), ..Default::default() };
    for n in 0..300u16 {
        let mut key = [5; 32];
        key[..2].copy_from_slice(&n.to_be_bytes());
        let own = format!("10.{}.{}.0/24", 100 + n / 256, n % 256);
        device.peers.insert(
            WgKey(key),
            WireguardPeer { allowed_ips: nets(&[&own]), ..WireguardPeer::default() },
        );
    }
    let many =
        (0..2000u16).map(|n| format!("10.{}.{}.7/32", n / 256, n % 256).parse().unwrap()).collect();
    device
        .peers
        .insert(WgKey([6; 32]), WireguardPeer { allowed_ips: many, ..WireguardPeer::default() });
    bring_about(&mut kernel, &wired(&device));
    let seen = shown(&world, "hf-k");
    assert_eq!((seen.peers.len(), &seen.peers), (301, &device.peers));
    device.peers.clear();
    bring_about(&mut kernel, &wired(&device));
    assert!(shown(&world, "hf-k").peers.is_empty());
}

#[test]
fn traffic_passes_and_a_change_leaves_the_session_alone() {
    let Some((here, there)) = wireguard_world().zip(world()) else { return };
    here.ip(&format!("link add eth0 type veth peer name eth0 netns {}", there.name));
    let mut keys = [generated(), generated()];
    // The same key in bits that the kernel does not keep; see the test of keys.
    keys[0].0[0] |= 7;
    let (mut kernels, mut wants) = (Vec::new(), Vec::new());
    for (world, own) in [(&here, 1u8), (&there, 2)] {
        world.ip(&format!("addr add 192.0.2.{own}/24 dev eth0"));
        world.ip("link set eth0 up");
        let other = 3 - own;
        let peer = WireguardPeer {
            endpoint: Some(SocketAddr::from(([192, 0, 2, other], 51_820))),
            allowed_ips: nets(&[&format!("10.0.0.{other}/32")]),
            ..WireguardPeer::default()
        };
        let device = WireguardDevice {
            private_key: Some(keys[usize::from(own - 1)]),
            listen_port: Some(51_820),
            peers: [(public(keys[usize::from(other - 1)]), peer)].into(),
            ..WireguardDevice::default()
        };
        let mut want = wired(&device);
        want.addresses
            .insert(Address::new(name("hf-k"), format!("10.0.0.{own}/24").parse().unwrap()));
        let mut kernel = world.kernel();
        bring_about(&mut kernel, &want);
        kernels.push(kernel);
        wants.push(want);
    }
    talk(&here, "10.0.0.1", &there, "10.0.0.2");

    let mut state = |kernel: usize| {
        let peers = kernels[kernel].wireguard_peers(&name("hf-k")).unwrap();
        peers.into_values().next().unwrap()
    };
    let before = state(0);
    let age = SystemTime::now().duration_since(before.last_handshake.unwrap()).unwrap();
    assert!(age < Duration::from_secs(120), "{age:?}");
    assert!(before.rx_bytes > 0 && before.tx_bytes > 0 && state(1).rx_bytes > 0);
    assert_eq!(before.endpoint, Some("192.0.2.2:51820".parse().unwrap()));

    // A new peer and another keepalive: the tunnel neither falls nor shakes hands anew.
    let mut link = wants[0].links.get(&name("hf-k")).unwrap().clone();
    let LinkKind::Wireguard(device) = &mut link.kind else { unreachable!() };
    device.peers.values_mut().for_each(|peer| peer.keepalive_secs = 20);
    device.peers.insert(WgKey([7; 32]), WireguardPeer::default());
    wants[0].links.insert(link);
    bring_about(&mut kernels[0], &wants[0]);
    talk(&here, "10.0.0.1", &there, "10.0.0.2");
    let known = public(keys[1]);
    let after = kernels[0].wireguard_peers(&name("hf-k")).unwrap()[&known].clone();
    assert_eq!(after.last_handshake, before.last_handshake);
    assert!(after.rx_bytes > before.rx_bytes);
}

#[test]
fn vlans_carry_traffic_and_come_back_after_their_port() {
    let Some((here, there)) = world().zip(world()) else { return };
    here.ip(&format!("link add eth0 type veth peer name eth0 netns {}", there.name));
    there.ip("link set eth0 up");
    let mut kernel = here.kernel();
    let vlan = |id| Link::new(name("hf-v"), LinkKind::Vlan { parent: name("eth0"), id });
    if !kernel_has(&mut kernel, &vlan(7)) {
        return;
    }
    for (id, own) in [(7, "10.7.0.2/24"), (8, "10.8.0.2/24")] {
        there.ip(&format!("link add link eth0 name v{id} type vlan id {id}"));
        there.ip(&format!("addr add {own} dev v{id}"));
        there.ip(&format!("link set v{id} up"));
    }
    let mut want = Network::default();
    want.links.insert(Link::new(name("eth0"), LinkKind::Physical));
    want.links.insert(vlan(7).with_mtu(1400));
    for own in ["10.7.0.1/24", "2001:db8:7::1/64"] {
        want.addresses.insert(Address::new(name("hf-v"), own.parse().unwrap()));
    }
    bring_about(&mut kernel, &want);
    let seen = here.link("hf-v").unwrap();
    let data = &seen["linkinfo"]["info_data"];
    assert_eq!((&data["id"], &data["protocol"]), (&json!(7), &json!("802.1Q")));
    assert_eq!((&seen["link"], &seen["mtu"]), (&json!("eth0"), &json!(1400)));
    talk(&here, "10.7.0.1", &there, "10.7.0.2");

    // With the port its VLANs go down, and addresses of IPv6 go.
    here.ip("link set eth0 down");
    bring_about(&mut kernel, &want);
    talk(&here, "10.7.0.1", &there, "10.7.0.2");

    // Another id is another link, with all that was on the old one.
    want.links.insert(vlan(8));
    want.addresses.insert(Address::new(name("hf-v"), "10.8.0.1/24".parse().unwrap()));
    bring_about(&mut kernel, &want);
    assert_eq!(here.link("hf-v").unwrap()["linkinfo"]["info_data"]["id"], 8);
    talk(&here, "10.8.0.1", &there, "10.8.0.2");

    bring_about(&mut kernel, &Network::default());
    assert!(here.link("hf-v").is_none() && here.link("eth0").is_some());
}

#[test]
fn a_bond_outlives_a_port_and_gives_its_ports_back() {
    let Some((here, there)) = world().zip(world()) else { return };
    let mut kernel = here.kernel();
    let bond = |mode, miimon_ms| Link::new(name("hf-b"), LinkKind::Bond { mode, miimon_ms });
    if !kernel_has(&mut kernel, &bond(BondMode::ActiveBackup, 50)) {
        return;
    }
    there.ip("link add br0 type bridge");
    there.ip("addr add 10.5.0.2/24 dev br0");
    there.ip("link set br0 up");
    let port = |number: u8| {
        let peer = Peer::In { netns: there.name.clone(), name: name(&format!("far{number}")) };
        Link::new(name(&format!("hf-p{number}")), LinkKind::Veth { peer })
    };
    // The ports are there and up before they become ports.
    let mut alone = Network::default();
    alone.links.extend([port(0), port(1)]);
    bring_about(&mut kernel, &alone);
    for far in ["far0", "far1"] {
        there.ip(&format!("link set {far} master br0"));
        there.ip(&format!("link set {far} up"));
    }
    let mut want = Network::default();
    want.links.extend([0, 1].map(|number| port(number).in_controller(name("hf-b"))));
    want.links.insert(bond(BondMode::ActiveBackup, 50));
    want.addresses.insert(Address::new(name("hf-b"), "10.5.0.1/24".parse().unwrap()));
    bring_about(&mut kernel, &want);
    talk(&here, "10.5.0.1", &there, "10.5.0.2");

    let active = || {
        let data = here.link("hf-b").unwrap()["linkinfo"]["info_data"].clone();
        data["active_slave"].as_str().unwrap_or_default().to_owned()
    };
    let first = active();
    let far = first.replace("hf-p", "far");
    there.ip(&format!("link set {far} down"));
    eventually("the other port", || active() != first && !active().is_empty());
    talk(&here, "10.5.0.1", &there, "10.5.0.2");
    there.ip(&format!("link set {far} up"));

    // One port leaves, then the bond goes: they are ordinary links again.
    want.links.insert(port(1));
    bring_about(&mut kernel, &want);
    assert!(here.link("hf-p1").unwrap()["master"].is_null());
    bring_about(&mut kernel, &alone);
    assert!(here.link("hf-b").is_none());
    let flags = here.link("hf-p0").unwrap()["flags"].clone();
    assert!(flags.as_array().unwrap().contains(&json!("UP")), "{flags}");
}

#[test]
fn every_mode_of_bonds_is_read_back() {
    let Some(world) = world() else { return };
    let mut kernel = world.kernel();
    let bond = |mode, miimon_ms| Link::new(name("hf-b"), LinkKind::Bond { mode, miimon_ms });
    if !kernel_has(&mut kernel, &bond(BondMode::ActiveBackup, 50)) {
        return;
    }
    let names = [
        "balance-rr",
        "active-backup",
        "balance-xor",
        "broadcast",
        "802.3ad",
        "balance-tlb",
        "balance-alb",
    ];
    for (mode, text) in BondMode::ALL.into_iter().zip(names) {
        for miimon_ms in [0, 80] {
            let mut want = Network::default();
            want.links.extend([("hf-p", "hf-q"), ("hf-q", "hf-p")].map(|(own, other)| {
                Link::new(name(own), LinkKind::Veth { peer: Peer::Here(name(other)) })
            }));
            want.links
                .insert(want.links.get(&name("hf-p")).unwrap().clone().in_controller(name("hf-b")));
            want.links.insert(bond(mode, miimon_ms));
            // A VLAN on the bond falls with it each time, and comes back.
            want.links
                .insert(Link::new(name("hf-v"), LinkKind::Vlan { parent: name("hf-b"), id: 9 }));
            bring_about(&mut kernel, &want);
            let seen = world.link("hf-b").unwrap()["linkinfo"]["info_data"].clone();
            assert_eq!((&seen["mode"], &seen["miimon"]), (&json!(text), &json!(miimon_ms)));
            assert_eq!(world.link("hf-p").unwrap()["master"], "hf-b", "{text}");
        }
    }
}

/// Plans and applies; afterwards there must be nothing left to do.
fn bring_about(kernel: &mut Kernel, want: &Network) -> Vec<Step> {
    let owner = Ownership::host();
    let have = kernel.observe(&owner, want).unwrap();
    let steps = plan(want, &have, &owner).unwrap();
    if let Err(error) = kernel.apply_all(&steps) {
        panic!("{error}: {}: {:?}", error.source, std::error::Error::source(&error.source));
    }
    let have = kernel.observe(&owner, want).unwrap();
    let again: Vec<String> =
        plan(want, &have, &owner).unwrap().iter().map(ToString::to_string).collect();
    let done: Vec<String> = steps.iter().map(ToString::to_string).collect();
    assert!(again.is_empty(), "still to do: {again:?} after {done:?}");
    steps
}

/// Whether the kernel makes such a link; says so if not.
fn kernel_has(kernel: &mut Kernel, link: &Link) -> bool {
    match kernel.apply(&Step::CreateLink(link.clone())) {
        Ok(_) => {
            kernel.apply(&Step::DeleteLink(link.clone())).unwrap();
            true
        }
        Err(error) => {
            assert_eq!(error.reason(), Reason::NetUnsupported, "{error}");
            eprintln!("skipped: {error}");
            false
        }
    }
}

fn wireguard_world() -> Option<World> {
    let world = world()?;
    let link = Link::new(name("hf-k"), LinkKind::Wireguard(WireguardDevice::default()));
    if !kernel_has(&mut world.kernel(), &link) {
        return None;
    }
    if Command::new("wg").arg("--version").output().is_err() {
        eprintln!("skipped: the program wg (wireguard-tools) is missing");
        return None;
    }
    Some(world)
}

fn wired(device: &WireguardDevice) -> Network {
    let mut want = Network::default();
    want.links.insert(Link::new(name("hf-k"), LinkKind::Wireguard(device.clone())));
    want
}

fn nets(texts: &[&str]) -> BTreeSet<ipnet::IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Sends from one world to the other and back, until it arrives.
fn talk(here: &World, own: &str, there: &World, other: &str) {
    let open = |world: &World, ip: &str| {
        let at = SocketAddr::new(ip.parse::<IpAddr>().unwrap(), 0);
        let socket = world.namespace.enter(|| UdpSocket::bind(at)).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket
    };
    let (near, far) = (open(here, own), open(there, other));
    let (near_at, far_at) = (near.local_addr().unwrap(), far.local_addr().unwrap());
    let mut bytes = [0; 16];
    eventually("a datagram there", || {
        // Refused while the link is coming up.
        let _ = near.send_to(b"there", far_at);
        far.recv_from(&mut bytes).is_ok_and(|(n, from)| &bytes[..n] == b"there" && from == near_at)
    });
    eventually("a datagram back", || {
        let _ = far.send_to(b"back", near_at);
        near.recv_from(&mut bytes).is_ok_and(|(n, from)| &bytes[..n] == b"back" && from == far_at)
    });
}

/// The device as wg(8) sees it, from `wg show <link> dump`.
fn shown(world: &World, link: &str) -> WireguardDevice {
    let dump = || Command::new("wg").args(["show", link, "dump"]).output();
    let output = world.namespace.enter(dump).unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let optional = |text: &str| (text != "(none)").then(|| key(text));
    let peers = lines[1..].iter().map(|fields| {
        let allowed_ips = match fields[3] {
            "(none)" => BTreeSet::new(),
            list => list.split(',').map(|net| net.parse().unwrap()).collect(),
        };
        let peer = WireguardPeer {
            preshared_key: optional(fields[1]),
            endpoint: fields[2].parse().ok(),
            allowed_ips,
            keepalive_secs: if fields[7] == "off" { 0 } else { fields[7].parse().unwrap() },
        };
        (key(fields[0]), peer)
    });
    let mark = lines[0][3].trim_start_matches("0x");
    WireguardDevice {
        private_key: optional(lines[0][0]),
        listen_port: lines[0][2].parse().ok(),
        fwmark: if mark == "off" { 0 } else { u32::from_str_radix(mark, 16).unwrap() },
        peers: peers.collect(),
    }
}

fn generated() -> WgKey {
    let output = Command::new("wg").arg("genkey").output().unwrap();
    key(std::str::from_utf8(&output.stdout).unwrap())
}

/// The public key of a private one, as the kernel computes it.
fn public(private: WgKey) -> WgKey {
    let scratch = wireguard_world().unwrap();
    let device = WireguardDevice { private_key: Some(private), ..WireguardDevice::default() };
    bring_about(&mut scratch.kernel(), &wired(&device));
    let ask = || Command::new("wg").args(["show", "hf-k", "public-key"]).output();
    let output = scratch.namespace.enter(ask).unwrap().unwrap();
    key(std::str::from_utf8(&output.stdout).unwrap())
}

/// Reads base64 (RFC 4648 §4) of 32 bytes.
fn key(text: &str) -> WgKey {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("no base64: {text:?}"),
    };
    let sextets = text.trim().trim_end_matches('=').bytes().map(value);
    let bits: Vec<u8> = sextets.flat_map(|v| (0..6).rev().map(move |bit| v >> bit & 1)).collect();
    let byte = |chunk: &[u8]| chunk.iter().fold(0, |sum, bit| sum << 1 | bit);
    let bytes: Vec<u8> = bits.chunks_exact(8).map(byte).collect();
    WgKey(bytes.try_into().unwrap())
}
