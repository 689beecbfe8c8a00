//! `program`: two tunnels and their routes programmed by netlink, and traffic switched from one to
//! the other by one message.
//!
//! In a fresh namespace, for 1, 1,000 and 100,000 routes: the time from an empty kernel until
//! everything stands (links exist already: a TUN device belongs to the engine), the same by `ip
//! -batch` as the peer, and the time of replacing the nexthop group under that many routes. The
//! switch must not depend on the number of routes; the peer replaces every route.
//!
//! The kernel waits for a grace period in each switch (`synchronize_net` in `net/ipv4/nexthop.c`), which
//! takes 10 µs or 50 as the other processors happen to sleep or not. So the namespaces with few and with
//! many routes stand at the same time and are switched in turns, and the ratio is that of neighbours.

use super::{Options, Scenario};
use crate::{Report, Series};
use anyhow::Context;
use ipnet::{IpNet, Ipv4Net};
use netd::netns::NetNs;
use netd::tuntap::Tun;
use netd::{
    Address, Family, Kernel, Link, LinkKind, LinkName, Network, Nexthop, Ownership, Route,
    RouteTarget, Rule,
};
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "program",
    about: "two tunnels and 1, 1,000, 100,000 routes programmed, and switched by nexthop group; beside `ip -batch`",
    run,
};

const SIZES: [u32; 3] = [1, 1_000, 100_000];
const ROUNDS: u32 = 5;
const SWITCHES: u32 = 200;
const COMPAT_SWITCHES: u32 = 10;
const COMPAT_MODE: &str = "/proc/sys/net/ipv4/nexthop_compat_mode";
const TABLE: u32 = 7200;
const GROUP: u32 = 0x4846_0000;

fn run(options: &Options) -> anyhow::Result<Report> {
    let rounds = options.rounds.unwrap_or(ROUNDS);
    let mut report = Report::new("program");
    report.set("rounds", rounds);
    report.set("switches per round", SWITCHES);
    report.set("peer", "ip -batch (iproute2)");
    let mut samples: Vec<Samples> = SIZES.iter().map(|routes| Samples::new(*routes)).collect();
    for round in 1..=rounds {
        // Interleaved: a slow moment of the machine meets all of them.
        let mut beds = Vec::new();
        for size in &mut samples {
            (options.progress)(&format!("round {round} of {rounds}: {} routes", size.routes));
            by_peer(size)?;
            beds.push(by_us(size)?);
        }
        (options.progress)(&format!("round {round} of {rounds}: switching in turns"));
        switch_in_turns(&mut beds, &mut samples)?;
    }
    let one_route = samples[0].switch.clone();
    for size in &samples {
        let routes = size.routes;
        report
            .results
            .push(Series::millis(format!("program, {routes} routes, netd"), &size.program));
        report.results.push(Series::millis(
            format!("program, {routes} routes, ip -batch"),
            &size.peer_program,
        ));
        report.results.push(ratio(
            format!("program, {routes} routes, netd / ip -batch"),
            &size.program,
            &size.peer_program,
        ));
        let switch = Series::micros(
            format!("switch, {routes} routes, netd (one group message)"),
            &size.switch,
        );
        report.results.push(switch);
        report.results.push(Series::micros(
            format!("switch, {routes} routes, netd, nexthop_compat_mode=1"),
            &size.compat_switch,
        ));
        report.results.push(ratio(
            format!("switch, {routes} routes / 1 route, in turns"),
            &size.switch,
            &one_route,
        ));
        report.results.push(Series::micros(
            format!("switch, {routes} routes, ip route replace each"),
            &size.peer_switch,
        ));
    }
    Ok(report)
}

fn ratio(name: String, ours: &[Duration], peer: &[Duration]) -> Series {
    let pairs = ours.iter().zip(peer).map(|(ours, peer)| ours.as_secs_f64() / peer.as_secs_f64());
    Series::new(name, "ratio", pairs.collect())
}

struct Samples {
    routes: u32,
    program: Vec<Duration>,
    switch: Vec<Duration>,
    compat_switch: Vec<Duration>,
    peer_program: Vec<Duration>,
    peer_switch: Vec<Duration>,
}

impl Samples {
    fn new(routes: u32) -> Self {
        let none = Vec::new;
        Samples {
            routes,
            program: none(),
            switch: none(),
            compat_switch: none(),
            peer_program: none(),
            peer_switch: none(),
        }
    }
}

/// A namespace in which everything stands, with the socket that programmed it.
struct Bed {
    kernel: Kernel,
    _links: [Tun; 2],
    netns: NetNs,
}

fn fresh(what: &str, routes: u32) -> anyhow::Result<NetNs> {
    let name = format!("bench-{}-{what}{routes}", std::process::id());
    NetNs::create(&name).context("a namespace (this needs root)")
}

fn by_peer(size: &mut Samples) -> anyhow::Result<()> {
    fresh("ip", size.routes)?.enter(|| ip_round(size)).context("namespace")?
}

fn by_us(size: &mut Samples) -> anyhow::Result<Bed> {
    let netns = fresh("netd", size.routes)?;
    let (kernel, links) = netns.enter(|| netd_round(size)).context("namespace")??;
    Ok(Bed { kernel, _links: links, netns })
}

fn netd_round(size: &mut Samples) -> anyhow::Result<(Kernel, [Tun; 2])> {
    let links = links()?;
    let owner = Ownership::tunnels();
    let want = network(size.routes)?;
    let mut kernel = Kernel::open().context("netlink")?;
    let begin = Instant::now();
    let have = kernel.observe(&owner, &want).context("observe")?;
    let steps = netd::plan(&want, &have, &owner).context("plan")?;
    kernel.apply_all(&steps).context("apply")?;
    size.program.push(begin.elapsed());
    let left = netd::plan(&want, &kernel.observe(&owner, &want)?, &owner)?;
    anyhow::ensure!(left.is_empty(), "{} steps left after programming", left.len());
    kernel.disable_nexthop_compat().context(COMPAT_MODE)?;
    Ok((kernel, links))
}

fn switch_in_turns(beds: &mut [Bed], samples: &mut [Samples]) -> anyhow::Result<()> {
    for count in 0..SWITCHES {
        for (bed, size) in beds.iter_mut().zip(samples.iter_mut()) {
            size.switch.push(switch(&mut bed.kernel, count)?);
        }
    }
    for (bed, size) in beds.iter_mut().zip(samples) {
        let on = || std::fs::OpenOptions::new().write(true).open(COMPAT_MODE)?.write_all(b"1");
        bed.netns.enter(on).context("namespace")?.context(COMPAT_MODE)?;
        for count in 0..COMPAT_SWITCHES {
            size.compat_switch.push(switch(&mut bed.kernel, count)?);
        }
    }
    Ok(())
}

fn switch(kernel: &mut Kernel, count: u32) -> anyhow::Result<Duration> {
    let group = Nexthop::active(GROUP, GROUP + 1 + (count + 1) % 2);
    let begin = Instant::now();
    kernel.replace_nexthop(&group).context("switch")?;
    Ok(begin.elapsed())
}

/// The same state by iproute2: what a script would do.
fn ip_round(size: &mut Samples) -> anyhow::Result<()> {
    let _links = links()?;
    let mut text = String::new();
    for index in 0..2 {
        let name = link_name(index);
        text += &format!(
            "link set {name} mtu 1420 up\naddress add 100.64.0.1 peer 100.127.0.{}/32 dev {name}\n",
            index + 1
        );
    }
    text += &format!("rule add priority {TABLE} table {TABLE}\n");
    for prefix in prefixes(size.routes) {
        text += &format!("route add {prefix} dev {} table {TABLE} proto 72\n", link_name(0));
    }
    size.peer_program.push(batch(&text)?);
    let replaced: String = prefixes(size.routes)
        .map(|prefix| {
            format!("route replace {prefix} dev {} table {TABLE} proto 72\n", link_name(1))
        })
        .collect();
    size.peer_switch.push(batch(&replaced)?);
    Ok(())
}

fn batch(text: &str) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("ip(8), package iproute2")?;
    child.stdin.take().context("ip's input")?.write_all(text.as_bytes()).context("ip's input")?;
    let status = child.wait().context("ip")?;
    anyhow::ensure!(status.success(), "ip -batch: {status}");
    Ok(begin.elapsed())
}

fn link_name(index: u8) -> String {
    format!("hf-wg{index}")
}

fn links() -> anyhow::Result<[Tun; 2]> {
    let open = |index| -> anyhow::Result<Tun> {
        let name: LinkName = link_name(index).parse()?;
        Tun::open(&name, Default::default()).context("/dev/net/tun")
    };
    Ok([open(0)?, open(1)?])
}

fn network(routes: u32) -> anyhow::Result<Network> {
    let mut network = Network::default();
    for index in 0..2u8 {
        let name: LinkName = link_name(index).parse()?;
        network.links.insert(Link::new(name.clone(), LinkKind::Tun).with_mtu(1420));
        let mut address = Address::new(name.clone(), "100.64.0.1/32".parse()?);
        address.peer = Some(Ipv4Addr::new(100, 127, 0, index + 1).into());
        network.addresses.insert(address);
        network.nexthops.insert(Nexthop::dev(GROUP + 1 + u32::from(index), Family::V4, name));
    }
    network.nexthops.insert(Nexthop::active(GROUP, GROUP + 1));
    network.routes.extend(
        prefixes(routes).map(|prefix| Route::new(TABLE, prefix, RouteTarget::Nexthop(GROUP))),
    );
    network.rules.insert(Rule::new(TABLE, Family::V4, TABLE));
    Ok(network)
}

/// So many prefixes of 32 addresses from 10.0.0.0 on.
fn prefixes(routes: u32) -> impl Iterator<Item = IpNet> {
    let base = u32::from(Ipv4Addr::new(10, 0, 0, 0));
    (0..routes)
        .filter_map(move |index| Ipv4Net::new(Ipv4Addr::from(base + index * 32), 27).ok())
        .map(IpNet::V4)
}
