//! Asks the registry over a way, again and again, and remembers when it answered.

use super::InNetwork;
use holdfast_lab_kubernetes::node::Node;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(20);

/// It ends when it is dropped.
pub struct Probe {
    answers: Arc<Mutex<Vec<Instant>>>,
    _thread: InNetwork,
}

impl Probe {
    /// From inside of the node's network.
    pub fn start(node: &Node, way: &str) -> Self {
        let answers = Arc::new(Mutex::new(vec![Instant::now()]));
        let (remembers, way) = (answers.clone(), way.parse().unwrap());
        let thread = InNetwork::run(node, move |end| {
            let mut pause = Duration::ZERO;
            while !end.comes_within(pause) {
                let asked = Instant::now();
                if answers_at(way) {
                    remembers.lock().unwrap().push(Instant::now());
                }
                pause = EVERY.saturating_sub(asked.elapsed());
            }
        });
        Self { answers, _thread: thread }
    }

    pub fn last_answer(&self) -> Instant {
        *self.answers.lock().unwrap().last().unwrap()
    }

    /// The longest time without an answer from `since` until now.
    pub fn longest_gap_since(&self, since: Instant) -> Duration {
        let answers = self.answers.lock().unwrap();
        let times = answers.iter().copied().filter(|answer| *answer > since);
        let times: Vec<Instant> =
            std::iter::once(since).chain(times).chain([Instant::now()]).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap()
    }
}

/// Whether the registry itself answers: that the pod takes the connection says nothing yet.
fn answers_at(way: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&way, Duration::from_millis(500))?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.write_all(b"GET /v2/ HTTP/1.0\r\nHost: registry\r\n\r\n")?;
        let mut head = [0u8; 12];
        stream.read_exact(&mut head)?;
        Ok(head.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}
