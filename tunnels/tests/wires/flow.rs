//! A stream of TCP that flows for as long as a test wants, and arrives whole or not at all.

use super::End;
use crate::world::wait_for;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// What must arrive to say that it moves.
const STEP_BYTES: u64 = 500_000;
/// The pattern begins anew after a prime number of bytes, which no segment size divides.
const PATTERN_BYTES: u16 = 65_521;
const PATTERN: usize = PATTERN_BYTES as usize;

/// The stream.
pub(crate) struct Flow {
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<u64>,
}

impl Flow {
    /// From an end to another one, at this address inside.
    pub(crate) fn start(from: &End, to: &End, address: &str) -> Self {
        let address: IpAddr = address.parse().unwrap();
        let listener = to.namespace.net.enter(|| TcpListener::bind((address, 0)));
        let listener = listener.unwrap().unwrap();
        let at = listener.local_addr().unwrap();
        let stream = from.namespace.net.enter(|| TcpStream::connect(at)).unwrap().unwrap();
        let (incoming, _) = listener.accept().unwrap();
        let received = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let sender = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || send(stream, &stop)
        });
        let receiver = std::thread::spawn({
            let received = Arc::clone(&received);
            move || receive(incoming, &received)
        });
        Flow { received, stop, sender, receiver }
    }

    /// Waits until more arrives.
    #[track_caller]
    pub(crate) fn moves(&self, when: &str) {
        let arrived = || self.received.load(Ordering::Relaxed);
        let before = arrived();
        wait_for(&format!("the stream moves {when}"), || {
            (arrived() >= before + STEP_BYTES).then_some(())
        });
    }

    /// Whether nothing arrives, for as long as it takes to look a few times.
    pub(crate) fn stands(&self, mut looks: impl FnMut() -> bool) -> bool {
        let before = self.received.load(Ordering::Relaxed);
        looks() && self.received.load(Ordering::Relaxed) < before + STEP_BYTES
    }

    /// Ends it: all that was sent has arrived, unchanged and in its order.
    #[track_caller]
    pub(crate) fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (sent, received) = (self.sender.join().unwrap(), self.receiver.join().unwrap());
        assert!(sent > 0 && sent == received, "{received} of {sent} bytes");
    }
}

fn pattern() -> Vec<u8> {
    (0..u32::from(PATTERN_BYTES)).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect()
}

fn send(mut stream: TcpStream, stop: &AtomicBool) -> u64 {
    let (pattern, mut sent) = (pattern(), 0);
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&pattern).unwrap();
        sent += u64::from(PATTERN_BYTES);
    }
    sent
}

fn receive(mut stream: TcpStream, received: &AtomicU64) -> u64 {
    let pattern = pattern();
    let (mut buffer, mut place, mut total) = (vec![0; 256 * 1024], 0, 0);
    loop {
        let bytes = stream.read(&mut buffer).unwrap();
        if bytes == 0 {
            return total;
        }
        let mut rest = &buffer[..bytes];
        while !rest.is_empty() {
            let part = rest.len().min(PATTERN - place);
            assert!(rest[..part] == pattern[place..place + part], "changed after {total} bytes");
            (rest, place) = (&rest[part..], (place + part) % PATTERN);
        }
        total += bytes as u64;
        received.store(total, Ordering::Relaxed);
    }
}
