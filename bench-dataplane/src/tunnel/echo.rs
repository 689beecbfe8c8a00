//! Numbered datagrams, one at a time, and how long their answers take.
//!
//! An answer counts for the datagram whose number it has: one that comes when the next datagram is
//! already on its way is not taken for that one's.

use super::rig::{End, Rig};
use anyhow::Context;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const BYTES: usize = 64;

/// Asks from one socket; an echo is to answer at another.
pub(crate) struct Asker {
    socket: UdpSocket,
    asked: u64,
    patience: Duration,
}

/// The way there and back of one datagram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Answer {
    /// At least the patience when it was lost or late.
    pub(crate) time: Duration,
    /// It did not come within the patience.
    pub(crate) is_late: bool,
}

impl Asker {
    /// From the first end of a rig to the second, through the tunnel, with the socket for the echo
    /// there.
    pub(crate) fn new(rig: &Rig, patience: Duration) -> anyhow::Result<(Self, UdpSocket)> {
        Self::to(rig, patience, |end| end.address)
    }

    /// The same over the wire that the tunnel is on, past the tunnel.
    pub(crate) fn past(rig: &Rig, patience: Duration) -> anyhow::Result<(Self, UdpSocket)> {
        Self::to(rig, patience, |end| end.wire)
    }

    fn to(
        rig: &Rig,
        patience: Duration,
        address: fn(&End) -> Ipv4Addr,
    ) -> anyhow::Result<(Self, UdpSocket)> {
        let [from, to] = &rig.ends;
        let bind = |end: &End| -> anyhow::Result<UdpSocket> {
            let address = SocketAddr::new(address(end).into(), 0);
            Ok(end.netns.enter(|| UdpSocket::bind(address)).context("namespace")??)
        };
        let echo = bind(to)?;
        Ok((Self::between(bind(from)?, &echo, patience)?, echo))
    }

    fn between(socket: UdpSocket, echo: &UdpSocket, patience: Duration) -> anyhow::Result<Self> {
        socket.connect(echo.local_addr()?)?;
        socket.set_read_timeout(Some(patience))?;
        Ok(Asker { socket, asked: 0, patience })
    }

    /// Sends one, and waits for its answer.
    pub(crate) fn ask(&mut self) -> anyhow::Result<Answer> {
        self.asked += 1;
        let mut datagram = [1; BYTES];
        datagram[..8].copy_from_slice(&self.asked.to_be_bytes());
        let begin = Instant::now();
        self.socket.send(&datagram)?;
        loop {
            let mut came = [0; BYTES];
            let received = self.socket.recv(&mut came);
            let time = begin.elapsed();
            match received {
                Ok(BYTES) if came == datagram => {
                    return Ok(Answer { time, is_late: time >= self.patience });
                }
                // An answer to one before, which was given up.
                Ok(_) if time < self.patience => {}
                Ok(_) => return Ok(self.given_up(time)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(self.given_up(time));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn given_up(&self, after: Duration) -> Answer {
        Answer { time: after.max(self.patience), is_late: true }
    }
}

/// Sends back whatever comes, until it is stopped; it looks for that once in a patience.
pub(crate) fn answer(
    socket: &UdpSocket,
    patience: Duration,
    stop: &AtomicBool,
) -> std::io::Result<()> {
    socket.set_read_timeout(Some(patience))?;
    let mut buffer = [0; BYTES];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((bytes, back)) = socket.recv_from(&mut buffer) {
            // What cannot be sent is lost, and the other side counts it.
            let _ = socket.send_to(&buffer[..bytes], back);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody on the loopback is so slow.
    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(1);

    fn pair(patience: Duration) -> (Asker, UdpSocket) {
        let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let echo = bind();
        (Asker::between(bind(), &echo, patience).unwrap(), echo)
    }

    #[test]
    fn each_datagram_is_answered_by_its_own() {
        let (mut asker, echo) = pair(LONG);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| answer(&echo, SHORT, &stop));
            for _ in 0..100 {
                let answer = asker.ask().unwrap();
                assert!(!answer.is_late && answer.time > Duration::ZERO, "{answer:?}");
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn one_that_is_lost_takes_at_least_the_patience() {
        let (mut asker, _echo) = pair(SHORT);
        let answer = asker.ask().unwrap();
        assert!(answer.is_late && answer.time >= SHORT, "{answer:?}");
    }

    #[test]
    fn an_answer_to_one_before_is_none() {
        let (mut asker, echo) = pair(SHORT);
        assert!(asker.ask().unwrap().is_late);
        let mut stale = [0; BYTES];
        let (_, back) = echo.recv_from(&mut stale).unwrap();
        // It waits in the queue when the next one is asked, and that one is never answered.
        echo.send_to(&stale, back).unwrap();
        let second = asker.ask().unwrap();
        assert!(second.is_late, "{second:?}");
    }
}
