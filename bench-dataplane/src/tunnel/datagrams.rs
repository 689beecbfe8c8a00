//! A generator of UDP datagrams through a rig, and what becomes of them.
//!
//! One socket at each end. A trial sends at a steady rate from the first for a while, each datagram
//! a packet of its own (no segmentation offload, so that the tunnel has what a router has), and
//! counts at the second, by numbers, what arrived, doubled and out of order. It is over when all
//! arrived, or when nothing came any more; if that is asked for, as soon as one is lost for certain.
//! Sending and receiving go by batches (sendmmsg(2), recvmmsg(2)), both threads go before all
//! others, and the receiver's queue holds some megabytes, so that the generator is not what is
//! measured; how fast it is without a tunnel is measured, too.

mod pace;
mod tally;

use super::rig::{self, Rig};
use anyhow::Context;
use nix::errno::Errno;
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt::RcvBufForce,
};
use pace::{BATCH, Pace};
use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tally::Tally;

const LARGEST: usize = 1500;
const QUEUE_BYTES: usize = 16 << 20;
/// As long as this the receiver sleeps, and its queue holds some hundred times of it.
const POLL: Duration = Duration::from_millis(1);
/// What did not come in this time after the one before is lost. RFC 2544, 23 waits for two seconds,
/// for networks; this is one machine.
const LAST_WAIT: Duration = Duration::from_millis(200);
/// The least share of a rate that must really be sent for the trial to be one of that rate.
const OFFERED: f64 = 0.97;
const NOT_YET: u64 = u64::MAX;

/// Sockets at both ends.
pub(crate) struct Generator {
    from: UdpSocket,
    to: UdpSocket,
    trials: u32,
}

/// When a trial is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    OfTime,
    Loss,
}

/// What came of a trial.
#[derive(Debug, Clone)]
pub(crate) struct Trial {
    /// What was asked for, in datagrams a second.
    pub(crate) rate: u64,
    /// What was sent, in datagrams a second.
    pub(crate) offered: f64,
    pub(crate) sent: u64,
    pub(crate) arrived: u64,
    pub(crate) doubled: u64,
    pub(crate) reordered: u64,
}

impl Trial {
    /// All was sent at the rate, and all of it arrived.
    pub(crate) fn is_lossless(&self) -> bool {
        self.arrived == self.sent && self.offered >= self.rate as f64 * OFFERED
    }
}

impl Generator {
    /// From the first end of a rig to the second.
    pub(crate) fn new(rig: &Rig) -> anyhow::Result<Self> {
        let bind = |end: &rig::End| -> anyhow::Result<UdpSocket> {
            let address = SocketAddr::new(end.address.into(), 0);
            Ok(end.netns.enter(|| UdpSocket::bind(address)).context("namespace")??)
        };
        Self::between(bind(&rig.ends[0])?, bind(&rig.ends[1])?)
    }

    fn between(from: UdpSocket, to: UdpSocket) -> anyhow::Result<Self> {
        from.connect(to.local_addr()?)?;
        // Beyond rmem_max, which is 200 KiB; who may make a rig may do this.
        let _ = setsockopt(&to, RcvBufForce, &QUEUE_BYTES);
        Ok(Generator { from, to, trials: 0 })
    }

    /// Sends for `time` at `rate` datagrams a second; their payloads have `sizes` in turns.
    pub(crate) fn trial(
        &mut self,
        rate: u64,
        time: Duration,
        sizes: &[usize],
    ) -> anyhow::Result<Trial> {
        self.trial_until(End::OfTime, rate, time, sizes)
    }

    /// The same, but over as soon as it is known not to be lossless.
    pub(crate) fn trial_until_lost(
        &mut self,
        rate: u64,
        time: Duration,
        sizes: &[usize],
    ) -> anyhow::Result<Trial> {
        self.trial_until(End::Loss, rate, time, sizes)
    }

    fn trial_until(
        &mut self,
        end: End,
        rate: u64,
        time: Duration,
        sizes: &[usize],
    ) -> anyhow::Result<Trial> {
        self.trials += 1;
        let (number, all, lost) = (self.trials, AtomicU64::new(NOT_YET), AtomicBool::new(false));
        let stop = || end == End::Loss && lost.load(Ordering::Relaxed);
        let (sent, took, tally) = std::thread::scope(|scope| {
            let receiver = scope.spawn(|| receive(&self.to, number, &all, &lost));
            let sender = scope.spawn(|| send(&self.from, number, rate, time, sizes, &stop));
            let sent = sender.join();
            // Whatever became of the sender: the receiver is to end.
            let count = sent.as_ref().ok().and_then(|sent| sent.as_ref().ok());
            all.store(count.map_or(0, |(sent, _)| *sent), Ordering::Release);
            let tally = receiver.join();
            let panicked = |_| anyhow::anyhow!("the generator panicked");
            let (sent, took) = sent.map_err(panicked)??;
            Ok::<_, anyhow::Error>((sent, took, tally.map_err(panicked)??))
        })?;
        Ok(Trial {
            rate,
            offered: sent as f64 / took.as_secs_f64(),
            sent,
            arrived: tally.arrived,
            doubled: tally.doubled,
            reordered: tally.reordered,
        })
    }
}

fn send(
    socket: &UdpSocket,
    trial: u32,
    rate: u64,
    time: Duration,
    sizes: &[usize],
    stop: &(dyn Fn() -> bool + Sync),
) -> anyhow::Result<(u64, Duration)> {
    go_first();
    // Of this thread: sleeps end when they are to, not 50 µs later (PR_SET_TIMERSLACK, prctl(2)).
    let _ = nix::sys::prctl::set_timerslack(1000);
    let mut pace = Pace::new(rate);
    let mut buffers = vec![[0x55; LARGEST]; BATCH];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let begin = Instant::now();
    loop {
        let now = begin.elapsed();
        if now >= time || stop() {
            return Ok((pace.sent(), now));
        }
        let due = pace.due(now);
        if due == 0 {
            std::thread::sleep(pace.next().saturating_sub(begin.elapsed()));
            continue;
        }
        for (buffer, count) in buffers[..due].iter_mut().zip(pace.sent()..) {
            buffer[..8].copy_from_slice(&tally::number(trial, count));
        }
        let size = |count: u64| {
            let turn = usize::try_from(count % sizes.len().max(1) as u64).unwrap_or(0);
            sizes.get(turn).map_or(8, |size| (*size).clamp(8, LARGEST))
        };
        let slices: Vec<[IoSlice; 1]> = buffers[..due]
            .iter()
            .zip(pace.sent()..)
            .map(|(buffer, count)| [IoSlice::new(&buffer[..size(count)])])
            .collect();
        let (fd, to) = (socket.as_raw_fd(), [None; BATCH]);
        match sendmmsg(fd, &mut headers, &slices, to, [], MsgFlags::empty()) {
            Ok(sent) => pace.on_sent(sent.count()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("sendmmsg"),
        }
    }
}

/// Says in `lost` that one is missing for so long that it will not come.
fn receive(
    socket: &UdpSocket,
    trial: u32,
    all: &AtomicU64,
    lost: &AtomicBool,
) -> anyhow::Result<Tally> {
    go_first();
    let mut tally = Tally::new(trial);
    let mut buffers = vec![[0; LARGEST]; BATCH];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let (mut last, mut over_at) = (Instant::now(), None);
    let (mut missing, mut missing_since) = (None, Instant::now());
    loop {
        let all = all.load(Ordering::Acquire);
        if all != NOT_YET && over_at.is_none() {
            over_at = Some(Instant::now());
        }
        // Known before the look: whoever is kept from looking has missed nothing.
        let waited = over_at.is_some_and(|at| last.max(at).elapsed() >= LAST_WAIT);
        let mut slices: Vec<[IoSliceMut; 1]> =
            buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let fd = socket.as_raw_fd();
        let flags = MsgFlags::MSG_DONTWAIT;
        let lengths = recvmmsg(fd, &mut headers, slices.iter_mut(), flags, None)
            .map(|received| received.map(|message| message.bytes).collect::<Vec<usize>>());
        match lengths {
            Ok(lengths) => {
                last = Instant::now();
                for (buffer, length) in buffers.iter().zip(lengths) {
                    tally.on(&buffer[..length]);
                }
            }
            Err(Errno::EAGAIN) if waited => return Ok(tally),
            // Looked at every while: to be woken up for each would take from the tunnel.
            Err(Errno::EAGAIN) => std::thread::sleep(POLL),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("recvmmsg"),
        }
        if tally.missing() != missing {
            (missing, missing_since) = (tally.missing(), Instant::now());
        }
        if missing.is_some() && missing_since.elapsed() >= LAST_WAIT {
            lost.store(true, Ordering::Relaxed);
        }
        if all != NOT_YET && tally.arrived >= all {
            return Ok(tally);
        }
    }
}

/// Lets this thread go before what it measures, as a generator on a machine of its own would:
/// without that, a tunnel that keeps all processors busy would have less sent to it, and other
/// processes would be taken for its bound (SCHED_FIFO, sched(7)).
fn go_first() {
    let thread = nix::unistd::gettid().to_string();
    let mut command = Command::new("chrt");
    command.args(["--fifo", "--pid", "1", &thread]);
    // Who may not do this has less steady rates.
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_the_loopback_every_datagram_is_counted_trial_after_trial() {
        let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut generator = Generator::between(bind(), bind()).unwrap();
        for _ in 0..2 {
            let trial = generator.trial(2000, Duration::from_secs(1), &[64, 1200]).unwrap();
            assert!(trial.sent > 0 && trial.sent <= 2000, "{trial:?}");
            assert_eq!((trial.arrived, trial.doubled, trial.reordered), (trial.sent, 0, 0));
        }
    }

    #[test]
    fn a_trial_is_over_when_one_is_lost_for_certain() {
        let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let (from, relay, to) = (bind(), bind(), bind());
        from.connect(relay.local_addr().unwrap()).unwrap();
        relay.connect(from.local_addr().unwrap()).unwrap();
        relay.set_read_timeout(Some(POLL)).unwrap();
        let (there, stop) = (to.local_addr().unwrap(), AtomicBool::new(false));
        let out = bind();
        let mut generator = Generator { from, to, trials: 0 };
        let long = Duration::from_secs(60);
        let trial = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut datagram = [0; LARGEST];
                while !stop.load(Ordering::Relaxed) {
                    let Ok(bytes) = relay.recv(&mut datagram) else { continue };
                    if datagram[..8] != tally::number(1, 5) {
                        out.send_to(&datagram[..bytes], there).unwrap();
                    }
                }
            });
            let trial = generator.trial_until_lost(1000, long, &[64]);
            stop.store(true, Ordering::Relaxed);
            trial.unwrap()
        });
        assert!(!trial.is_lossless() && trial.sent < 1000 * long.as_secs() / 2, "{trial:?}");
        assert!(trial.sent > 5 && trial.arrived > 0, "{trial:?}");
    }

    #[test]
    fn a_rate_that_was_not_sent_has_not_passed() {
        let trial = |sent, arrived, offered| Trial {
            rate: 1000,
            offered,
            sent,
            arrived,
            doubled: 0,
            reordered: 0,
        };
        assert!(trial(100, 100, 990.0).is_lossless());
        assert!(!trial(100, 99, 990.0).is_lossless());
        assert!(!trial(80, 80, 800.0).is_lossless());
    }
}
