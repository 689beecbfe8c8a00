//! Flows of TCP through a rig that run until they are stopped, half of them the other way.
//!
//! A flow is lost when its connection ends or fails while nobody asked for that. Its bytes count
//! where they arrive.

use super::rig::{End, Rig};
use anyhow::Context;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

const CHUNK: usize = 128 << 10;
/// How soon a flow that stands still sees that it is to stop.
const POLL: Duration = Duration::from_millis(500);

/// Flows that run; stopped when dropped.
pub(crate) struct Flows {
    stop: Arc<AtomicBool>,
    flows: Vec<Arc<Flow>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Flow {
    bytes: AtomicU64,
    lost: Mutex<Option<String>>,
}

impl Flow {
    fn lose(&self, why: &str) {
        if let Ok(mut lost) = self.lost.lock() {
            lost.get_or_insert_with(|| why.to_owned());
        }
    }
}

impl Flows {
    pub(crate) fn start(rig: &Rig, count: usize) -> anyhow::Result<Self> {
        let mut flows = Flows { stop: Arc::default(), flows: Vec::new(), threads: Vec::new() };
        for number in 0..count {
            let [one, other] = &rig.ends;
            let (from, to) = if number % 2 == 0 { (one, other) } else { (other, one) };
            let (sender, receiver) = connect(from, to).context("no flow through the tunnel")?;
            flows.add(sender, receiver)?;
        }
        Ok(flows)
    }

    fn add(&mut self, sender: TcpStream, receiver: TcpStream) -> anyhow::Result<()> {
        sender.set_write_timeout(Some(POLL))?;
        receiver.set_read_timeout(Some(POLL))?;
        let flow = Arc::new(Flow::default());
        self.flows.push(flow.clone());
        let (stop, of) = (self.stop.clone(), flow.clone());
        self.threads.push(std::thread::spawn(move || send(sender, &of, &stop)));
        let stop = self.stop.clone();
        self.threads.push(std::thread::spawn(move || receive(receiver, &flow, &stop)));
        Ok(())
    }

    /// Bytes of each that arrived until now.
    pub(crate) fn bytes(&self) -> Vec<u64> {
        self.flows.iter().map(|flow| flow.bytes.load(Ordering::Relaxed)).collect()
    }

    /// Why each was lost that was.
    pub(crate) fn lost(&self) -> Vec<Option<String>> {
        self.flows.iter().map(|flow| flow.lost.lock().ok().and_then(|lost| lost.clone())).collect()
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn connect(from: &End, to: &End) -> anyhow::Result<(TcpStream, TcpStream)> {
    let address = SocketAddr::new(to.address.into(), 0);
    let listener = to.netns.enter(|| TcpListener::bind(address)).context("namespace")??;
    let address = listener.local_addr()?;
    let sender = from.netns.enter(|| TcpStream::connect(address)).context("namespace")??;
    Ok((sender, listener.accept()?.0))
}

fn send(mut socket: TcpStream, flow: &Flow, stop: &AtomicBool) {
    let chunk = vec![0x5a; CHUNK];
    while !stop.load(Ordering::Relaxed) {
        match socket.write(&chunk) {
            Ok(_) => {}
            Err(error) if is_pause(&error) => {}
            Err(error) => return flow.lose(&error.to_string()),
        }
    }
}

fn receive(mut socket: TcpStream, flow: &Flow, stop: &AtomicBool) {
    let mut chunk = vec![0; CHUNK];
    while !stop.load(Ordering::Relaxed) {
        match socket.read(&mut chunk) {
            // The sender stops first sometimes.
            Ok(0) if stop.load(Ordering::Relaxed) => return,
            Ok(0) => return flow.lose("it was ended"),
            Ok(bytes) => {
                flow.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            Err(error) if is_pause(&error) => {}
            Err(error) => return flow.lose(&error.to_string()),
        }
    }
}

fn is_pause(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (sender, listener.accept().unwrap().0)
    }

    fn wait(holds: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < end);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_flow_runs_and_is_lost_only_when_its_connection_is() {
        let mut flows = Flows { stop: Arc::default(), flows: Vec::new(), threads: Vec::new() };
        let (sender, receiver) = pair();
        flows.add(sender, receiver).unwrap();
        let (sender, receiver) = pair();
        let cut = sender.try_clone().unwrap();
        flows.add(sender, receiver).unwrap();
        wait(|| flows.bytes().iter().all(|bytes| *bytes > 0));
        assert_eq!(flows.lost(), [None, None]);
        cut.shutdown(std::net::Shutdown::Both).unwrap();
        wait(|| flows.lost()[1].is_some());
        assert_eq!(flows.lost()[0], None);
    }
}
