//! Namespaces, TUN and TAP devices, the watcher, and what happens without rights.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use common::{eventually, name, world};
use holdfast_api::Reason;
use netd::netns::NetNs;
use netd::tuntap::{Options, Tap, Tun};
use netd::watch::Watch;
use netd::{Address, Link, LinkKind, Network, Ownership, Step, plan};
use nix::unistd::{read, write};
use std::time::Duration;

#[test]
fn a_namespace_vanishes_with_its_value_and_the_caller_never_moves() {
    let Some(world) = world() else { return };
    let here = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let before = here();
    let inside = world.namespace.enter(here).unwrap();
    assert_ne!(inside, before);
    assert_eq!(here(), before);
    let path = world.namespace.path().to_path_buf();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let world = world;
        world.namespace.enter(|| panic!("inside")).unwrap();
    }));
    assert!(panicked.is_err());
    assert_eq!(here(), before);
    assert!(!path.exists(), "removed although the work panicked");
    let error = NetNs::open_at(&path).unwrap_err();
    assert_eq!(error.attempt, "open");
    assert_eq!(NetNs::create("../x").unwrap_err().source.kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn a_name_that_is_taken_is_a_conflict() {
    let Some(world) = world() else { return };
    assert_eq!(NetNs::create(&world.name).unwrap_err().reason(), Reason::NetConflict);
    assert!(world.namespace.path().exists(), "the first one stays");
}

#[test]
fn packets_pass_through_tun_and_frames_through_tap() {
    let Some(world) = world() else { return };
    let open = || -> Result<(Tun, Tap), netd::tuntap::TunError> {
        let options = Options { nonblocking: true, ..Options::default() };
        Ok((Tun::open(&name("hf-tun0"), options)?, Tap::open(&name("hf-tap0"), options)?))
    };
    let (tun, tap) = match world.namespace.enter(open).unwrap() {
        Ok(devices) => devices,
        Err(error) if error.reason() == Reason::NetUnsupported => {
            return eprintln!("skipped: {error}");
        }
        Err(error) => panic!("{error}"),
    };
    // Our plan can configure such a link, though not make it.
    let mut kernel = world.kernel();
    let owner = Ownership::host();
    let mut want = Network::default();
    want.links.insert(Link::new(name("hf-tun0"), LinkKind::Tun).with_mtu(1380));
    want.links.insert(Link::new(name("hf-tap0"), LinkKind::Tun));
    want.addresses.insert(Address::new(name("hf-tun0"), "10.6.0.1/24".parse().unwrap()));
    let have = kernel.observe(&owner, &want).unwrap();
    kernel.apply_all(&plan(&want, &have, &owner).unwrap()).unwrap();
    assert_eq!(world.link("hf-tun0").unwrap()["ifindex"], tun.index());
    assert_eq!(world.link("hf-tun0").unwrap()["mtu"], 1380);

    world
        .namespace
        .enter(|| {
            let socket = std::net::UdpSocket::bind("10.6.0.1:0").unwrap();
            socket.send_to(b"hello", "10.6.0.2:7").unwrap();
        })
        .unwrap();
    let mut packet = [0; 2000];
    eventually("the datagram on the device", || {
        read(&tun, &mut packet)
            .is_ok_and(|n| packet[..n].ends_with(b"hello") && packet[0] >> 4 == 4)
    });
    let frame = [[0xff; 6].as_slice(), &[2, 0, 0, 0, 0, 1], &[0x88, 0xb5], &[0; 46]].concat();
    assert_eq!(write(&tap, &frame).unwrap(), frame.len());

    let busy = world.namespace.enter(|| Tap::open(&name("hf-tun0"), Options::default())).unwrap();
    assert_eq!(busy.unwrap_err().reason(), Reason::NetConflict);
    drop(tun);
    assert!(world.link("hf-tun0").is_none(), "it goes with its descriptor");
}

#[test]
fn a_persistent_device_outlives_its_descriptor() {
    let Some(world) = world() else { return };
    let options =
        Options { persist: true, vnet_hdr: true, multi_queue: true, ..Options::default() };
    let Ok(tun) = world.namespace.enter(|| Tun::open(&name("hf-tun0"), options)).unwrap() else {
        return eprintln!("skipped: the kernel has no TUN driver");
    };
    let second = world.namespace.enter(|| Tun::open(&name("hf-tun0"), options)).unwrap().unwrap();
    drop(tun);
    assert!(world.link("hf-tun0").is_some());
    second.set_persist(false).unwrap();
    drop(second);
    assert!(world.link("hf-tun0").is_none());
}

#[test]
fn drift_is_noticed_and_put_right() {
    let Some(world) = world() else { return };
    let (mut kernel, owner) = (world.kernel(), Ownership::host());
    let mut watch = Watch::open_in(world.namespace.path()).unwrap();
    let mut want = Network::default();
    want.links.insert(Link::new(name("hf-br0"), LinkKind::Bridge));
    want.addresses.insert(Address::new(name("hf-br0"), "10.0.0.1/24".parse().unwrap()));
    let have = kernel.observe(&owner, &want).unwrap();
    kernel.apply_all(&plan(&want, &have, &owner).unwrap()).unwrap();
    assert!(watch.wait(Duration::from_secs(60)).unwrap());
    eventually("quiet", || !watch.wait(Duration::from_millis(50)).unwrap());

    world.ip("addr del 10.0.0.1/24 dev hf-br0");
    assert!(watch.wait(Duration::from_secs(60)).unwrap());
    let have = kernel.observe(&owner, &want).unwrap();
    let steps = plan(&want, &have, &owner).unwrap();
    assert_eq!(
        steps,
        [Step::AddAddress(Address::new(name("hf-br0"), "10.0.0.1/24".parse().unwrap()))]
    );
    kernel.apply_all(&steps).unwrap();
    assert_eq!(world.ask("addr show dev hf-br0")[0]["addr_info"][0]["local"], "10.0.0.1");
}

#[test]
fn each_sort_of_change_wakes_an_asynchronous_program() {
    let Some(world) = world() else { return };
    world.ip("link set lo up");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut watch = Watch::open_in(world.namespace.path()).unwrap().into_async().unwrap();
        for change in [
            "link set lo mtu 60000",
            "addr add 10.7.0.1/32 dev lo",
            "addr add 2001:db8::7/128 dev lo",
            "route add 10.8.0.0/16 dev lo",
            "-6 route add 2001:db8:8::/48 dev lo",
            "rule add priority 999 table 999",
            "-6 rule add priority 999 table 999",
            "nexthop add id 9 blackhole",
        ] {
            // Whatever the previous change still had to say is heard first.
            while tokio::time::timeout(Duration::from_millis(30), watch.changed()).await.is_ok() {}
            world.ip(change);
            tokio::time::timeout(Duration::from_secs(60), watch.changed())
                .await
                .expect(change)
                .unwrap();
        }
    });
}

#[test]
fn too_many_changes_at_once_are_one_change() {
    let Some(world) = world() else { return };
    let mut watch = Watch::open_in(world.namespace.path()).unwrap();
    world.ip("link set lo up");
    let (mut kernel, owner) = (world.kernel(), Ownership::host());
    let mut want = Network::default();
    for n in 0..3000u32 {
        let prefix = format!("100.{}.{}.0/24", 64 + n / 256, n % 256).parse().unwrap();
        want.routes.insert(netd::Route::new(7250, prefix, netd::RouteTarget::Blackhole));
    }
    let have = kernel.observe(&owner, &want).unwrap();
    kernel.apply_all(&plan(&want, &have, &owner).unwrap()).unwrap();
    assert!(watch.changed().unwrap(), "the socket overflowed, and that is a change");
    assert!(!watch.changed().unwrap());
    world.ip("link set lo down");
    assert!(watch.wait(Duration::from_secs(60)).unwrap(), "and it goes on");
}

/// Set for the child of a test.
const CHILD: &str = "HOLDFAST_TEST_CHILD";

/// Run by `without_rights_the_reason_says_so` in a process without any.
#[test]
fn child_without_rights() {
    if std::env::var_os(CHILD).is_none() {
        eprintln!("skipped: it is the child of without_rights_the_reason_says_so");
        return;
    }
    let mut kernel = netd::Kernel::open().unwrap();
    let step = Step::CreateLink(Link::new(name("hf-no"), LinkKind::Bridge));
    let error = kernel.apply(&step).unwrap_err();
    assert_eq!(error.reason(), Reason::NetPermission);
    assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
}

#[test]
fn without_rights_the_reason_says_so() {
    let Some(world) = world() else { return };
    let program = std::env::current_exe().unwrap();
    let child = world.namespace.enter(|| {
        std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .args(["--exact", "child_without_rights", "--nocapture"])
            .env(CHILD, "1")
            .output()
    });
    match child.unwrap() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
            assert!(text.contains("1 passed"), "{text}");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!said.contains("skipped"), "{said}");
        }
        Err(error) => eprintln!("skipped: setpriv (util-linux) cannot be run: {error}"),
    }
}
