//! One program that ends many tunnels, and a crowd of devices at their other ends.
//!
//! The crowd is in this process and has one thread: what the program takes is counted by its
//! process, and a rate is that of both together, on cores that both share.

use super::program::Program;
use super::rig::{End, tempdir, wired};
use anyhow::Context;
use lab::measure::Usage;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tunnels::wireguard::PrivateKey;
use tunnels::wireguard::crowd::{Crowd, Place};

const PORT: u16 = 5001;
/// Of the datagrams inside.
const INSIDE_PORT: u16 = 9;
const MTU: &str = "1420";
/// How long everybody may take to shake hands.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
/// Bytes of a packet inside: 1,200 of payload.
const PACKET_BYTES: usize = 1228;
/// Packets to one tunnel before the next one has its turn.
const BURST: usize = 4;
/// Whoever is asked for a cookie has one after this.
const COOKIES: Duration = Duration::from_secs(3);
/// In how long a time everybody has noticed that an edge is gone, as with BFD.
const NOTICE: Duration = Duration::from_millis(300);

/// What stands; gone when dropped.
pub(crate) struct Edge {
    end: End,
    /// Where the crowd is.
    _there: End,
    crowd: Crowd,
    config: PathBuf,
}

/// What passed, and in what time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passed {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
}

/// What a restart of the edge took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Restart {
    /// From when the program was started again, before it was set up, until everybody was
    /// answered, or until patience ended.
    pub(crate) time: Duration,
    /// Who was not answered until then.
    pub(crate) missing: usize,
}

impl Edge {
    /// `program` ends `count` tunnels; nobody has said anything yet.
    pub(crate) fn up(program: &Program, count: u32) -> anyhow::Result<Self> {
        let name = program.kind.name();
        Self::up_with(program, count).with_context(|| format!("an edge of {name} did not come up"))
    }

    fn up_with(program: &Program, count: u32) -> anyhow::Result<Self> {
        let [end, there] = wired()?;
        there.run("ip", &["route", "add", "local", "10.64.0.0/16", "dev", "lo"])?;
        end.run("ip", &["route", "add", "10.64.0.0/16", "via", "192.0.2.2"])?;
        let key = PrivateKey::generate()?;
        let place = Place {
            edge: key.public(),
            endpoint: ([192, 0, 2, 1], PORT).into(),
            inside: (end.address, INSIDE_PORT),
            first_outer: [10, 64, 0, 1].into(),
            first_inner: [10, 128, 0, 1].into(),
        };
        let crowd = there.netns.enter(|| Crowd::new(count, place)).context("namespace")??;
        let mut text =
            format!("[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n", *key.to_base64());
        for (key, inner) in crowd.members() {
            text += &format!("[Peer]\nPublicKey = {key}\nAllowedIPs = {inner}/32\n");
        }
        let config = tempdir()?.join("edge.conf");
        holdfast_durable::write(&config, text.as_bytes(), 0o600)?;
        let mut edge = Edge { end, _there: there, crowd, config };
        edge.start(program)?;
        Ok(edge)
    }

    fn start(&mut self, program: &Program) -> anyhow::Result<()> {
        start(&mut self.end, program, &self.config)
    }

    /// What the program takes now; zeros of the kernel's.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let nothing = Usage { pss_bytes: 0, rss_bytes: 0, cpu_ms: 0, age_ms: 0, threads: 0 };
        Ok(self.end.usage()?.unwrap_or(nothing))
    }

    /// Everybody shakes hands.
    pub(crate) fn shake(&mut self) -> anyhow::Result<()> {
        let missing = shake(&mut self.crowd, Duration::ZERO)?.1;
        anyhow::ensure!(missing == 0, "{missing} were not answered");
        Ok(())
    }

    /// How many handshakes are completed in `time` when `at_once` are under way all the time,
    /// after a while that does not count; what the program took of the processor for one, in
    /// milliseconds.
    pub(crate) fn handshakes(
        &mut self,
        at_once: usize,
        time: Duration,
    ) -> anyhow::Result<(u64, f64)> {
        let count = self.crowd.members().count();
        let mut idle: VecDeque<usize> = (0..count).collect();
        for n in idle.drain(..at_once.min(count)) {
            self.crowd.call(n);
        }
        let mut run = |time: Duration| -> anyhow::Result<u64> {
            let (begin, mut completed) = (Instant::now(), 0);
            while begin.elapsed() < time {
                for n in self.crowd.run(POLL)? {
                    completed += 1;
                    idle.push_back(n);
                    if let Some(next) = idle.pop_front() {
                        self.crowd.call(next);
                    }
                }
            }
            Ok(completed)
        };
        run(COOKIES)?;
        let before = self.end.usage()?;
        let completed = run(time)?;
        let cpu_ms = |usage: Option<Usage>| usage.map_or(0.0, |usage| usage.cpu_ms as f64);
        let taken = cpu_ms(self.end.usage()?) - cpu_ms(before);
        Ok((completed, taken / completed.max(1) as f64))
    }

    /// Ends the program and starts it anew, while everybody who was in a tunnel wants it back.
    pub(crate) fn restart(&mut self, program: &Program) -> anyhow::Result<Restart> {
        let Edge { end, crowd, config, .. } = self;
        end.stop();
        std::thread::scope(|scope| {
            let begin = Instant::now();
            let crowd = scope.spawn(|| shake(crowd, NOTICE));
            let started = start(end, program, config);
            let shaken = crowd.join().map_err(|_| anyhow::anyhow!("the crowd panicked"))?;
            started?;
            let (at, missing) = shaken?;
            Ok(Restart { time: at.saturating_duration_since(begin), missing })
        })
    }

    /// Everybody sends to the edge, in turns, as fast as the crowd can; what the link was given.
    pub(crate) fn up_stream(&mut self, time: Duration) -> anyhow::Result<Passed> {
        // Nobody reads it: what does not fit is dropped, and nobody is told.
        let _sink = self.inside()?;
        let count = self.crowd.members().count();
        let (before, begin) = (self.given_to_link()?, Instant::now());
        let mut n = 0;
        while begin.elapsed() < time {
            self.crowd.send(n % count, BURST, PACKET_BYTES);
            n += 1;
            if n % 8 == 0 {
                self.crowd.run(Duration::ZERO)?;
            }
        }
        let (bytes, time) = (self.given_to_link()? - before, begin.elapsed());
        Ok(Passed { bytes, time })
    }

    /// The edge's machine sends to everybody, in turns; what came out of the tunnels.
    pub(crate) fn down_stream(&mut self, time: Duration) -> anyhow::Result<Passed> {
        let socket = self.inside()?;
        let to: Vec<Ipv4Addr> = self.crowd.members().map(|(_, inner)| inner).collect();
        let stop = AtomicBool::new(false);
        let payload = [0; PACKET_BYTES - 28];
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                for to in to.iter().cycle().flat_map(|to| std::iter::repeat_n(to, BURST)) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    // A full queue is what is measured.
                    let _ = socket.send_to(&payload, (*to, INSIDE_PORT));
                }
            });
            let (before, begin) = (self.crowd.arrived().bytes, Instant::now());
            let mut result = Ok(Vec::new());
            while begin.elapsed() < time && result.is_ok() {
                result = self.crowd.run(POLL);
            }
            let (bytes, time) = (self.crowd.arrived().bytes - before, begin.elapsed());
            stop.store(true, Ordering::Relaxed);
            sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
            result?;
            Ok(Passed { bytes, time })
        })
    }

    /// A socket at the edge's address inside.
    fn inside(&self) -> anyhow::Result<UdpSocket> {
        let address = SocketAddr::new(self.end.address.into(), INSIDE_PORT);
        Ok(self.end.netns.enter(|| UdpSocket::bind(address)).context("namespace")??)
    }

    /// Bytes of packets that the program has given to the link.
    fn given_to_link(&self) -> anyhow::Result<u64> {
        let text =
            self.end.run("ip", &["-json", "-statistics", "link", "show", self.end.link()])?;
        let links: serde_json::Value = serde_json::from_str(&text).context("ip's answer")?;
        links[0]["stats64"]["rx"]["bytes"].as_u64().context("ip tells no statistics")
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if let Some(dir) = self.config.parent() {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

fn start(end: &mut End, program: &Program, config: &std::path::Path) -> anyhow::Result<()> {
    end.start(program)?;
    let link = end.link().to_owned();
    end.run("wg", &["setconf", &link, &config.display().to_string()])?;
    end.run("ip", &["address", "add", &format!("{}/32", end.address), "dev", &link])?;
    end.run("ip", &["link", "set", &link, "mtu", MTU, "up"])?;
    end.run("ip", &["route", "add", "10.128.0.0/16", "dev", &link])?;
    Ok(())
}

/// Everybody calls, spread over `spread`; when the last was answered, and how many were not.
fn shake(crowd: &mut Crowd, spread: Duration) -> anyhow::Result<(Instant, usize)> {
    let count = crowd.members().count();
    let begin = Instant::now();
    let mut waits = vec![true; count];
    let (mut missing, mut called) = (count, 0);
    while missing > 0 && begin.elapsed() < PATIENCE {
        let share = match spread.is_zero() {
            true => 1.0,
            false => begin.elapsed().as_secs_f64() / spread.as_secs_f64(),
        };
        while called < count && called as f64 <= share * count as f64 {
            crowd.call(called);
            called += 1;
        }
        for n in crowd.run(if called < count { Duration::ZERO } else { POLL })? {
            if let Some(waits) = waits.get_mut(n) {
                missing -= usize::from(std::mem::take(waits));
            }
        }
    }
    Ok((Instant::now(), missing))
}
