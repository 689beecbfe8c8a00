//! The DHCP client against a real server.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use common::{World, name, world};
use holdfast_api::Reason;
use netd::dhcp::Client;
use netd::{Network, Ownership, plan};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// dnsmasq on the link `srv` of `world`; stopped on drop.
struct Server {
    child: Child,
    _leases: tempfile::TempDir,
}

impl Server {
    fn start(world: &World) -> Option<Server> {
        let leases = tempfile::tempdir().unwrap();
        let child = world.namespace.enter(|| {
            Command::new("dnsmasq")
                .args([
                    "--keep-in-foreground",
                    "--log-facility=-",
                    "--conf-file=/dev/null",
                    "--port=0",
                ])
                .args(["--no-resolv", "--no-hosts", "--no-ping", "--user=root", "--pid-file="])
                .args(["--interface=srv", "--bind-interfaces", "--dhcp-authoritative"])
                .arg("--dhcp-range=10.77.0.50,10.77.0.60,255.255.255.0,2m")
                .args([
                    "--dhcp-option=3,10.77.0.1",
                    "--dhcp-option=6,10.77.0.53",
                    "--dhcp-option=26,1400",
                ])
                .arg(format!("--dhcp-leasefile={}", leases.path().join("leases").display()))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
        });
        match child.unwrap() {
            Ok(child) => Some(Server { child, _leases: leases }),
            Err(error) => {
                eprintln!("skipped: dnsmasq (Debian: dnsmasq-base) cannot be run: {error}");
                None
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut log = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut log);
        }
        if std::thread::panicking() {
            eprintln!("{log}");
        }
    }
}

/// A client's world and a server's, joined by a cable.
fn joined() -> Option<(World, World)> {
    let (client, server) = (world()?, world()?);
    client.ip(&format!("link add eth0 type veth peer name srv netns {}", server.name));
    client.ip("link set eth0 up");
    server.ip("addr add 10.77.0.1/24 dev srv");
    server.ip("link set srv up");
    Some((client, server))
}

/// Runs `work` on a runtime whose thread lives in `world`.
fn inside<T: Send>(world: &World, work: impl AsyncFnOnce() -> T + Send) -> T {
    world
        .namespace
        .enter(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(work())
        })
        .unwrap()
}

#[test]
fn a_lease_becomes_an_address_and_a_default_route() {
    let Some((client, server)) = joined() else { return };
    let Some(_server) = Server::start(&server) else { return };
    let lease = inside(&client, async || {
        let mut dhcp = Client::start(name("eth0"), Some("box".into()));
        tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                if let Some(lease) = dhcp.state().lease {
                    return lease;
                }
                dhcp.changed().await;
            }
        })
        .await
        .expect("a lease")
    });
    assert_eq!(lease.dns, [std::net::Ipv4Addr::new(10, 77, 0, 53)]);
    assert_eq!((lease.mtu, lease.valid_for), (Some(1400), Duration::from_secs(120)));

    let mut want = Network::default();
    want.merge(lease.network(100));
    let (mut kernel, owner) = (client.kernel(), Ownership::host());
    let have = kernel.observe(&owner, &want).unwrap();
    kernel.apply_all(&plan(&want, &have, &owner).unwrap()).unwrap();
    let route = &client.ask("route get 192.0.2.1")[0];
    assert_eq!(route["gateway"], "10.77.0.1");
    assert_eq!(route["prefsrc"], lease.address.net.addr().to_string());
}

#[test]
fn a_link_that_is_not_there_is_tried_again_until_it_is() {
    let Some((client, server)) = joined() else { return };
    let Some(_server) = Server::start(&server) else { return };
    // Before Linux 6.2 only a link that is down takes another name.
    client.ip("link set eth0 down");
    client.ip("link set eth0 name later");
    inside(&client, async || {
        let mut dhcp = Client::start(name("eth0"), None);
        let patience = Duration::from_secs(60);
        tokio::time::timeout(patience, dhcp.changed()).await.expect("trouble is told");
        let state = dhcp.state();
        assert_eq!(state.reason(), Some(Reason::NetDhcpFailed));
        assert!(state.lease.is_none() && state.trouble.unwrap().contains("eth0"));
        client.ip("link set later down");
        client.ip("link set later name eth0");
        client.ip("link set eth0 up");
        tokio::time::timeout(patience, async {
            while dhcp.state().lease.is_none() {
                dhcp.changed().await;
            }
        })
        .await
        .expect("a lease once the link is there");
        assert_eq!(dhcp.state().reason(), None);
    });
}
