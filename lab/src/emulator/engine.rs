//! The emulator's loop: frames from TAP devices through the shapers to TAP devices.
//!
//! One thread owns everything. It sleeps in ppoll(2) until a frame comes, a frame is due, or
//! somebody talks on the control socket; with nothing in flight it sleeps without a timeout.
//! A TAP device whose namespace is gone is left alone from then on; its link passes nothing.

use super::control::{LinkState, Reply, Request};
use super::model::{Cut, Direction, Link, ModelError};
use super::port::Port;
pub use super::port::PortError;
use super::shaper::Shaper;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Instant;

/// Why the emulator cannot run, or could not do what a request asked.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// The control socket cannot be made.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// The control socket.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// A link's interface cannot be made.
    #[error("cannot make link {link}")]
    Port {
        /// The link.
        link: String,
        /// What failed at which end.
        #[source]
        source: Box<PortError>,
    },
    /// A link model out of range.
    #[error("link {link} cannot be emulated")]
    Model {
        /// The link.
        link: String,
        /// Which field.
        #[source]
        source: ModelError,
    },
    /// No such link.
    #[error("there is no link {0}")]
    NoSuchLink(String),
    /// A link of this name is there already.
    #[error("there is a link {0} already")]
    Exists(String),
    /// Waiting failed, which ends the emulator.
    #[error("cannot wait for frames")]
    Wait(#[source] io::Error),
}

/// A running emulator on a thread of this process. Dropping it ends the emulation; the
/// interfaces vanish with it.
#[derive(Debug)]
pub struct Emulator {
    socket: PathBuf,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<Result<(), EmulatorError>>>,
}

impl Emulator {
    /// Makes `links` and emulates them until dropped. When this returns, the interfaces are up
    /// and the control socket at `socket` (at most 107 bytes long) answers.
    ///
    /// # Errors
    /// [`EmulatorError`] when a link cannot be made or the socket cannot be listened on.
    pub fn start(socket: &Path, links: &[Link]) -> Result<Self, EmulatorError> {
        let (stop, stopped) = UnixStream::pair().map_err(EmulatorError::Wait)?;
        let mut engine = Engine::new(socket, links)?;
        let thread = std::thread::Builder::new()
            .name("link-emulator".into())
            .spawn(move || engine.run(Some(&stopped)))
            .map_err(EmulatorError::Wait)?;
        Ok(Emulator { socket: socket.into(), stop: Some(stop), thread: Some(thread) })
    }

    /// Where to connect a [`Control`](super::Control).
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        drop(self.stop.take());
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => {
                tracing::warn!(error = %error, "the link emulator had stopped by itself")
            }
            Some(Err(_)) => tracing::error!("the link emulator had panicked"),
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Makes `links` and emulates them on this thread, forever.
///
/// # Errors
/// [`EmulatorError`] when a link cannot be made, or waiting fails later.
pub fn run(socket: &Path, links: &[Link]) -> Result<(), EmulatorError> {
    Engine::new(socket, links)?.run(None)
}

/// Frames taken from one device before the others get their turn.
const BATCH: usize = 32;
/// Frame buffers that are kept for reuse.
const SPARE_FRAMES: usize = 4096;
/// Ethernet header and VLAN tag beside the largest MTU of a TAP device.
const LARGEST_FRAME: usize = 65_535 + 18;
/// ppoll(2) may sleep this much longer than asked (prctl(2), PR_SET_TIMERSLACK); the default of
/// 50 µs would show in every delay.
const TIMER_SLACK_NANOS: u64 = 1_000;

struct Engine {
    listener: UnixListener,
    clients: Vec<Client>,
    wires: Vec<Wire>,
    spare: Vec<Vec<u8>>,
    buffer: Vec<u8>,
}

/// A link with its two devices.
struct Wire {
    link: Link,
    a: Port,
    b: Port,
    a_to_b: Shaper<Vec<u8>>,
    b_to_a: Shaper<Vec<u8>>,
}

struct Client {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Engine {
    fn new(socket: &Path, links: &[Link]) -> Result<Self, EmulatorError> {
        let listen = || {
            let _ = std::fs::remove_file(socket);
            let listener = UnixListener::bind(socket)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let mut engine = Engine {
            // Bound last in time but first here: nobody is served before `run`.
            listener: listen()
                .map_err(|source| EmulatorError::Listen { path: socket.into(), source })?,
            clients: Vec::new(),
            wires: Vec::new(),
            spare: Vec::new(),
            buffer: vec![0; LARGEST_FRAME],
        };
        for link in links {
            engine.add(link)?;
        }
        Ok(engine)
    }

    fn add(&mut self, link: &Link) -> Result<(), EmulatorError> {
        let name = || link.name.clone();
        if self.wires.iter().any(|wire| wire.link.name == link.name) {
            return Err(EmulatorError::Exists(name()));
        }
        link.model.validate().map_err(|source| EmulatorError::Model { link: name(), source })?;
        let open = |end| {
            Port::open(end, link.mtu)
                .map_err(|source| EmulatorError::Port { link: name(), source: Box::new(source) })
        };
        self.wires.push(Wire {
            a: open(&link.a)?,
            b: open(&link.b)?,
            a_to_b: Shaper::new(Direction::AToB, link.model.clone()),
            b_to_a: Shaper::new(Direction::BToA, link.model.clone()),
            link: link.clone(),
        });
        Ok(())
    }

    fn run(&mut self, stop: Option<&UnixStream>) -> Result<(), EmulatorError> {
        // Without it delays are up to 50 µs long, which is no reason not to run.
        let _ = nix::sys::prctl::set_timerslack(TIMER_SLACK_NANOS);
        loop {
            self.deliver(Instant::now());
            let ready = self.wait(stop).map_err(EmulatorError::Wait)?;
            if ready.stop {
                return Ok(());
            }
            self.take_frames(&ready.ports);
            if ready.listener {
                self.accept();
            }
            if !ready.clients.is_empty() {
                self.serve(&ready.clients);
            }
        }
    }

    fn deliver(&mut self, now: Instant) {
        for wire in &mut self.wires {
            for (shaper, port) in [(&mut wire.a_to_b, &mut wire.b), (&mut wire.b_to_a, &mut wire.a)]
            {
                while let Some(frame) = shaper.due(now) {
                    port.send(&frame);
                    if self.spare.len() < SPARE_FRAMES {
                        self.spare.push(frame);
                    }
                }
            }
        }
    }

    fn wait(&self, stop: Option<&UnixStream>) -> io::Result<Ready> {
        let wake_at = self
            .wires
            .iter()
            .flat_map(|w| [w.a_to_b.wake_at(), w.b_to_a.wake_at()])
            .flatten()
            .min();
        let timeout =
            wake_at.map(|at| TimeSpec::from(at.saturating_duration_since(Instant::now())));
        let own = [stop.map(AsFd::as_fd), Some(self.listener.as_fd())];
        let clients = self.clients.iter().map(|client| Some(client.stream.as_fd()));
        let ports = self.wires.iter().flat_map(|wire| [wire.a.poll_fd(), wire.b.poll_fd()]);
        // poll(2) has no "none": what is not waited for is left out, and its place remembered.
        let sources: Vec<Option<BorrowedFd<'_>>> =
            own.into_iter().chain(clients).chain(ports).collect();
        let mut fds: Vec<PollFd<'_>> =
            sources.iter().flatten().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        match ppoll(&mut fds, timeout, None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut answers = fds.iter().map(|fd| fd.any().unwrap_or(true));
        let mut ready =
            sources.iter().map(|source| source.is_some() && answers.next().unwrap_or(false));
        let mut indices = |count: usize| {
            let here: Vec<bool> = ready.by_ref().take(count).collect();
            here.iter()
                .enumerate()
                .filter(|(_, ready)| **ready)
                .map(|(index, _)| index)
                .collect::<Vec<_>>()
        };
        let (stop, listener) = (!indices(1).is_empty(), !indices(1).is_empty());
        Ok(Ready {
            stop,
            listener,
            clients: indices(self.clients.len()),
            ports: indices(self.wires.len() * 2),
        })
    }

    fn take_frames(&mut self, ports: &[usize]) {
        for index in ports {
            let wire = &mut self.wires[index / 2];
            let (port, shaper) = match index % 2 {
                0 => (&mut wire.a, &mut wire.a_to_b),
                _ => (&mut wire.b, &mut wire.b_to_a),
            };
            for _ in 0..BATCH {
                let Some(bytes) = port.receive(&mut self.buffer) else { break };
                let mut frame = self.spare.pop().unwrap_or_default();
                frame.clear();
                frame.extend_from_slice(&self.buffer[..bytes]);
                // What the shaper drops is counted there.
                let _ = shaper.offer(frame, bytes, Instant::now());
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client { stream, received: Vec::new() });
            }
        }
    }

    fn serve(&mut self, ready: &[usize]) {
        // From the end, so that removing one keeps the indices of those before it.
        for index in ready.iter().rev() {
            let mut client = self.clients.swap_remove(*index);
            if self.talk(&mut client).is_ok() {
                self.clients.push(client);
            }
        }
    }

    /// Answers what a client has asked; an error means that it is gone.
    fn talk(&mut self, client: &mut Client) -> io::Result<()> {
        let mut chunk = [0; 4096];
        loop {
            match client.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => client.received.extend_from_slice(&chunk[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        while let Some(end) = client.received.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = client.received.drain(..=end).collect();
            let reply = match serde_json::from_slice(&line) {
                Ok(request) => self.answer(&request),
                Err(error) => Reply::Error(format!("not a request: {error}")),
            };
            let mut answer = serde_json::to_vec(&reply)?;
            answer.push(b'\n');
            client.stream.write_all(&answer)?;
        }
        Ok(())
    }

    fn answer(&mut self, request: &Request) -> Reply {
        match self.carry_out(request) {
            Ok(names) => {
                let asked =
                    |wire: &&Wire| names.as_ref().is_none_or(|name| *name == wire.link.name);
                Reply::Links(self.wires.iter().filter(asked).map(Wire::state).collect())
            }
            Err(error) => Reply::Error(holdfast_api::chain(&error)),
        }
    }

    /// The link that the request was about; none for all.
    fn carry_out(&mut self, request: &Request) -> Result<Option<String>, EmulatorError> {
        match request {
            Request::List => Ok(None),
            Request::Add { link } => self.add(link).map(|()| Some(link.name.clone())),
            Request::Remove { link } => {
                let index = self.find(link)?;
                self.wires.remove(index);
                Ok(Some(link.clone()))
            }
            Request::Set { link, change } => {
                let index = self.find(link)?;
                let model = change.applied_to(&self.wires[index].link.model);
                model
                    .validate()
                    .map_err(|source| EmulatorError::Model { link: link.clone(), source })?;
                self.wires[index].set_model(model);
                Ok(Some(link.clone()))
            }
            Request::Cut { link, cut } => {
                let index = self.find(link)?;
                self.wires[index].set_cut(*cut);
                Ok(Some(link.clone()))
            }
            Request::Heal { link: Some(link) } => {
                let index = self.find(link)?;
                self.wires[index].set_cut(Cut::None);
                Ok(Some(link.clone()))
            }
            Request::Heal { link: None } => {
                self.wires.iter_mut().for_each(|wire| wire.set_cut(Cut::None));
                Ok(None)
            }
        }
    }

    fn find(&self, name: &str) -> Result<usize, EmulatorError> {
        let found = self.wires.iter().position(|wire| wire.link.name == name);
        found.ok_or_else(|| EmulatorError::NoSuchLink(name.into()))
    }
}

struct Ready {
    stop: bool,
    listener: bool,
    clients: Vec<usize>,
    ports: Vec<usize>,
}

impl Wire {
    fn set_cut(&mut self, cut: Cut) {
        self.set_model(super::LinkModel { cut, ..self.link.model.clone() });
    }

    fn set_model(&mut self, model: super::LinkModel) {
        self.a_to_b.set_model(model.clone());
        self.b_to_a.set_model(model.clone());
        self.link.model = model;
    }

    fn state(&self) -> LinkState {
        LinkState {
            link: self.link.clone(),
            a_to_b: self.a_to_b.counters(),
            b_to_a: self.b_to_a.counters(),
        }
    }
}
