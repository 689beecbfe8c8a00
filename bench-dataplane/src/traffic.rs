//! Steady traffic through a node's tunnels: numbered datagrams to what stands behind the edges, and
//! their echoes.
//!
//! A gap is counted by the times at which datagrams were *sent*, from the last that was answered
//! before to the first that was answered after. So round-trip times that differ between edges do
//! not count, and an answer that is only late is none.

use anyhow::Context;
use lab::exec;
use lab::world::topology::SERVICE;
use lab::world::{Host, World};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(50);

/// Echoes datagrams at the service address of every edge.
pub(crate) struct Echoes {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    port: u16,
}

impl Echoes {
    pub(crate) fn start(world: &World) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut echoes = Echoes { stop: stop.clone(), threads: Vec::new(), port: 0 };
        for edge in 1..=world.spec().edges {
            let address = (SERVICE, echoes.port);
            let socket =
                exec::on_host(&world.netns(Host::Edge(edge)), || UdpSocket::bind(address))?
                    .with_context(|| format!("no echo at {SERVICE} on edge {edge}"))?;
            socket.set_read_timeout(Some(POLL))?;
            echoes.port = socket.local_addr()?.port();
            let stop = stop.clone();
            echoes.threads.push(std::thread::spawn(move || echo(&socket, &stop)));
        }
        Ok(echoes)
    }
}

impl Drop for Echoes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn echo(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // An edge that is cut off cannot answer; that is what is measured.
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}

/// A stream of datagrams from a node.
pub(crate) struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    answered: Arc<Mutex<Vec<(u64, Duration)>>>,
    begin: Instant,
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    /// Sends one datagram every `interval`.
    pub(crate) fn start(
        world: &World,
        node: u8,
        echoes: &Echoes,
        interval: Duration,
    ) -> anyhow::Result<Self> {
        let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
        let socket = Arc::new(exec::on_host(&world.netns(Host::Node(node)), bind)??);
        socket.set_read_timeout(Some(POLL))?;
        let to = (SERVICE, echoes.port);
        let begin = Instant::now();
        let mut stream = Stream {
            stop: Arc::default(),
            sent: Arc::default(),
            answered: Arc::default(),
            begin,
            threads: Vec::new(),
        };
        let (stop, sent, sender) = (stream.stop.clone(), stream.sent.clone(), socket.clone());
        let send = std::thread::spawn(move || {
            let mut due = begin;
            while !stop.load(Ordering::Relaxed) {
                let number = sent.fetch_add(1, Ordering::Relaxed);
                let mut datagram = [0; 16];
                datagram[..8].copy_from_slice(&number.to_be_bytes());
                let at = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
                datagram[8..].copy_from_slice(&at.to_be_bytes());
                // No route for a moment counts like a lost datagram.
                let _ = sender.send_to(&datagram, to);
                due += interval;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        });
        let (stop, answered) = (stream.stop.clone(), stream.answered.clone());
        let receive = std::thread::spawn(move || {
            let mut datagram = [0; 16];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((16, _)) = socket.recv_from(&mut datagram) {
                    let word = |at: usize| {
                        datagram[at..at + 8].iter().fold(0, |all, b| all << 8 | u64::from(*b))
                    };
                    if let Ok(mut answered) = answered.lock() {
                        answered.push((word(0), Duration::from_nanos(word(8))));
                    }
                }
            }
        });
        stream.threads = vec![send, receive];
        Ok(stream)
    }

    /// Time since the stream began, on the clock of its datagrams.
    pub(crate) fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Datagrams sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until so many more datagrams were sent.
    pub(crate) fn wait(&self, datagrams: u64) {
        let end = self.sent() + datagrams;
        while self.sent() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The longest time without an answered datagram around the moment `at`: from the last one sent
    /// before that was answered, to the first after it.
    pub(crate) fn gap_around(&self, at: Duration) -> Option<Duration> {
        let mut times: Vec<Duration> =
            self.answered.lock().ok()?.iter().map(|(_, sent)| *sent).collect();
        times.sort();
        longest_gap(&times, at)
    }

    /// How many of the datagrams with these numbers were not answered.
    pub(crate) fn lost(&self, numbers: std::ops::Range<u64>) -> u64 {
        let Ok(answered) = self.answered.lock() else { return 0 };
        let inside: std::collections::BTreeSet<u64> = answered
            .iter()
            .map(|(number, _)| *number)
            .filter(|number| numbers.contains(number))
            .collect();
        numbers.end - numbers.start - u64::try_from(inside.len()).unwrap_or(0)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The largest distance between neighbours of sorted `times`, from the last one before `at` on.
fn longest_gap(times: &[Duration], at: Duration) -> Option<Duration> {
    let first = times.partition_point(|time| *time < at).checked_sub(1)?;
    times[first..].windows(2).map(|pair| pair[1] - pair[0]).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_reaches_from_the_last_answer_before_to_the_first_after() {
        let times: Vec<Duration> = [0, 1, 2, 300, 301, 302].map(Duration::from_millis).to_vec();
        assert_eq!(longest_gap(&times, Duration::from_millis(3)), Some(Duration::from_millis(298)));
        assert_eq!(longest_gap(&times, Duration::from_millis(301)), Some(Duration::from_millis(1)));
        assert_eq!(longest_gap(&times, Duration::ZERO), None);
    }
}
