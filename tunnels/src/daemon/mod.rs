//! `tunneld`: follows a file, holds the tunnels that it asks for, and says how they are.
//!
//! One thread on a current-thread runtime decides (`control::Control`); one thread is told of dead
//! tunnels and moves traffic (`liveness::Liveness`); one thread per userspace device moves packets and
//! runs BFD on it. The last two are in a hurry, and wait for nobody.
//!
//! Fails: at the start, when there is no rights to speak of or another `tunneld` runs. After
//! that every trouble is in the state with its reason, and is tried again.

mod choose;
mod control;
#[cfg(test)]
mod fake;
mod follow;
mod health;
mod http;
mod kernel;
mod liveness;
mod mend;
mod metrics;
mod reconcile;
mod report;
mod settings;
mod tunnel;
mod want;

use control::Control;

use anyhow::Context;
use holdfast_api::paths::Root;
use holdfast_api::tunnel::TunnelsState;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

/// How often the file is looked at by a thread that is awake anyway, and when one wakes up for
/// it. Whoever writes it and is in a hurry asks for a reload.
const LOOK_AT_FILE: Duration = Duration::from_secs(1);
const WAKE_FOR_FILE: Duration = Duration::from_secs(10);
/// Between two looks at the network when something changes all the time.
const NETWORK_PAUSE: Duration = Duration::from_millis(100);
/// Questions that wait; more than people and the manager ever ask at once.
const QUESTIONS: usize = 16;

/// Answers to probes that are taken in before everything else; a flood waits after these.
const PROBES_AT_ONCE: usize = 64;

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Options {
    /// Below which all paths are.
    pub root: Root,
    /// The file to follow, when it is not the usual one.
    pub config: Option<PathBuf>,
}

/// A question from the socket.
#[derive(Debug)]
enum Question {
    State(oneshot::Sender<TunnelsState>),
    Metrics(oneshot::Sender<String>),
    Reload(oneshot::Sender<Result<u64, holdfast_api::local::Problem>>),
}

/// Runs until SIGTERM or SIGINT, and then takes away what it made.
///
/// # Errors
/// It cannot start: no rights, no socket, or another one runs.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let root = &options.root;
    std::fs::create_dir_all(root.run_dir())
        .with_context(|| format!("cannot make {}", root.run_dir().display()))?;
    let _alone = only_one(&root.run_dir().join("tunneld.lock"))?;

    let (events_in, mut events) = mpsc::unbounded_channel();
    let mut control = Control::start(&options, events_in)?;
    let socket = control.probe_socket()?;
    let waiting = socket.try_clone().context("cannot share the socket for probes")?;
    let probes = tokio::net::UdpSocket::from_std(socket)?;
    let probes_are_v6 = probes.local_addr()?.is_ipv6();
    let mut watch = netd::watch::Watch::open()
        .context("cannot watch the kernel's network")?
        .into_async()
        .context("cannot wait for changes of the kernel's network")?;
    let (questions_in, mut questions) = mpsc::channel(QUESTIONS);
    let (news, version) = watch::channel(first_version());
    let mut told = None;
    let server = http::Server::open(&root.tunneld_socket(), questions_in, version)?;

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut buffer = [0; 64];
    let mut network_looked_at = Instant::now();
    let mut file_looked_at = Instant::now();

    control.load(Instant::now());
    loop {
        let now = Instant::now();
        if now.duration_since(file_looked_at) >= LOOK_AT_FILE {
            control.look_at_file(now);
            file_looked_at = now;
        }
        // What came while something kept us from looking is not lost.
        for _ in 0..PROBES_AT_ONCE {
            let Ok((bytes, from)) = waiting.recv_from(&mut buffer) else { break };
            control.probe_answer(from, &buffer[..bytes], Instant::now());
        }
        control.turn(now);
        for (to, probe) in control.due_probes(now) {
            // Not sent is not answered.
            let _ = probes.try_send_to(&probe, crate::udp::address_for(probes_are_v6, to));
        }
        let now_so = control.news();
        if told.as_ref() != Some(&now_so) {
            told = Some(now_so);
            news.send_modify(|version| *version = version.wrapping_add(1));
        }
        let resting = control.is_configured();
        let for_file = file_looked_at + if resting { WAKE_FOR_FILE } else { LOOK_AT_FILE };
        let wake = control.wake_at().map_or(for_file, |at| at.min(for_file));
        // Every arm either has no state of its own or is cancel safe by its documentation:
        // what is not taken now is taken on the next turn.
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(event) = events.recv() => control.event(event, Instant::now()),
            _ = hangup.recv() => drop(control.reload(Instant::now())),
            Some(question) = questions.recv() => control.answer(question),
            changed = watch.changed(), if network_looked_at.elapsed() >= NETWORK_PAUSE => {
                changed.context("the watch on the kernel's network broke")?;
                network_looked_at = Instant::now();
                control.network_changed();
            }
            () = tokio::time::sleep_until((network_looked_at + NETWORK_PAUSE).into()), if network_looked_at.elapsed() < NETWORK_PAUSE => {}
            // After what others ask and change: whoever floods the socket keeps nobody else waiting.
            received = probes.recv_from(&mut buffer) => match received {
                Ok((bytes, from)) => control.probe_answer(from, &buffer[..bytes], Instant::now()),
                Err(error) => tracing::debug!(%error, "probe socket"),
            },
            () = tokio::time::sleep_until(wake.into()) => {}
        }
    }
    tracing::info!("taking the tunnels down");
    drop(server);
    control.shut_down();
    Ok(())
}

/// Another than that of an earlier process, whose last version somebody may still know.
fn first_version() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0))
}

/// Holds a lock while we run: two of us would fight over the links.
fn only_one(path: &std::path::Path) -> anyhow::Result<Flock<File>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, errno)| errno)
        .with_context(|| format!("another tunneld runs: it holds {}", path.display()))
}
