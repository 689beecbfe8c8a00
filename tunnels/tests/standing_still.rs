//! Threads of the real `tunneld` that stand still, held from outside as a fault of the kernel would hold
//! them: their tunnel is red within two intervals and traffic leaves it.

#![allow(clippy::unwrap_used, reason = "helpers of the test; a panic is a failed test")]

mod world;

use holdfast_api::Reason;
use holdfast_api::tunnel::{BfdState, TunnelKind};
use nix::sys::{ptrace, wait};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use world::{TARGET, World, active, need_rights, of, wait_for};

/// Between two looks at a thread (docs/reference/tunnels.md, Liveness): a second and BFD's interval.
const INTERVAL: Duration = Duration::from_millis(1100);
/// A machine that is busy elsewhere for a second may be so once or twice.
const TRIES: usize = 3;
/// What arrives after a helper was held only if nobody waits for it.
const MOVES_BYTES: u64 = 8 << 20;
/// How often a helper is held before it is in the midst of its work.
const CATCHES: usize = 50;
/// Looks at a helper before it is held whether it is at rest or not.
const LOOKS: usize = 1000;

/// A thread of the daemon that is held still; it goes on when this is dropped. Only the thread that
/// made it may drop it.
struct HeldStill {
    thread: Pid,
    since: Instant,
}

impl HeldStill {
    fn new(world: &World, name: &str) -> Self {
        let thread = thread(world, name).unwrap();
        let since = Instant::now();
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        wait::waitpid(thread, Some(wait::WaitPidFlag::__WALL)).unwrap();
        HeldStill { thread, since }
    }
}

impl Drop for HeldStill {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.thread, None);
    }
}

/// The daemon's first thread of this name.
fn thread(world: &World, name: &str) -> Option<Pid> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", world.pid())).unwrap();
    let named = |task: &std::path::Path| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let task = tasks.map(|task| task.unwrap().path()).find(|task| named(task))?;
    Some(Pid::from_raw(task.file_name()?.to_str()?.parse().unwrap()))
}

/// Whether the daemon's thread has work, or had some a moment ago.
fn works(world: &World, thread: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/task/{thread}/stat", world.pid()));
    stat.unwrap().contains(") R ")
}

/// Two tunnels in userspace, of which the first carries traffic.
fn userspace() -> World {
    let mut world = World::three_with_usual_timers();
    let mut config = world.config();
    config.kinds = vec![TunnelKind::WireguardUserspace];
    world.write(&config);
    world.start();
    at_rest(&world);
    world
}

fn at_rest(world: &World) {
    world.wait("two tunnels up", |state| state.up() == 2 && active(state) == "re-1");
}

/// How long after `held` the first tunnel turned red, by the time that the daemon itself took when it
/// noticed; none while it is not, or traffic does not go by the second.
fn red_after(world: &World, held: &HeldStill) -> Option<Duration> {
    let asked = Instant::now();
    let state = world.state()?;
    let first = of(&state, "re-1")?;
    let is_red = first.state == BfdState::Down && first.reason == Some(Reason::TunnelNoData);
    // A busy machine may take the second one down for a moment.
    let is_left = active(&state) == "re-2" && state.reason == Some(Reason::TunnelSingle);
    let since = Duration::from_millis(first.since_ms);
    (is_red && is_left).then(|| asked.duration_since(held.since).saturating_sub(since))
}

/// Has the story told until it is as quick as it should be, at most three times.
fn within_two_intervals(mut story: impl FnMut() -> Duration) {
    let mut took = Vec::new();
    while took.len() < TRIES {
        took.push(story());
        eprintln!("red {:?} after the thread stood still", took.last());
        if took.last().is_some_and(|took| *took <= INTERVAL * 2) {
            return;
        }
    }
    panic!("not within {:?}: {took:?}", INTERVAL * 2);
}

/// A thread that stands still cannot say so, and its BFD would be up for ever.
#[test]
fn a_device_that_stands_still_turns_red_within_two_intervals_and_traffic_leaves_it() {
    need_rights!();
    let world = userspace();
    within_two_intervals(|| {
        at_rest(&world);
        let held = HeldStill::new(&world, "hf-wg0");
        let took = wait_for("red, and traffic on the second", || red_after(&world, &held));
        wait_for("an answer over the second", || world.ping().then_some(()));
        drop(held);
        world.wait("both up again", |state| state.up() == 2);
        took
    });
    wait_for("an answer", || world.ping().then_some(()));
}

/// TCP into the first tunnel as fast as it goes; it ends with this.
struct Load {
    received: Arc<AtomicU64>,
    ends: [TcpStream; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(world: &World) -> Self {
        let edge = &world.edge("re-1").namespace;
        let listener = edge.net.enter(|| TcpListener::bind((TARGET, 0)).unwrap()).unwrap();
        let at = listener.local_addr().unwrap();
        let connect = || TcpStream::connect_timeout(&at, Duration::from_secs(5));
        let mut from = wait_for("a stream", || world.node.net.enter(connect).unwrap().ok());
        let (mut to, _) = listener.accept().unwrap();
        let ends = [from.try_clone().unwrap(), to.try_clone().unwrap()];
        let received = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&received);
        // Either ends when the other tunnel has the traffic, where nobody knows of it.
        let write = std::thread::spawn(move || while from.write_all(&[7; 65_536]).is_ok() {});
        let read = std::thread::spawn(move || {
            let mut buffer = vec![0; 256 * 1024];
            while let Ok(bytes @ 1..) = to.read(&mut buffer) {
                count.fetch_add(bytes as u64, Ordering::Relaxed);
            }
        });
        Load { received, ends, threads: vec![write, read] }
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Whoever wrote was turned away.
    fn has_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for end in &self.ends {
            let _ = end.shutdown(Shutdown::Both);
        }
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

/// What comes of holding a helper.
enum Held {
    /// It was at rest, and the stream moves on.
    AtRest,
    /// A busy machine took the tunnel down for a moment, and the stream with it.
    Lost,
    /// The tunnel turned red so long after.
    Red(Duration),
}

fn what_comes_of(world: &World, load: &Load, held: &HeldStill) -> Held {
    let before = load.received();
    let outcome = wait_for("the stream moves on, or the tunnel is red", || {
        if load.received() >= before + MOVES_BYTES {
            return Some(Held::AtRest);
        }
        if let Some(took) = red_after(world, held) {
            return Some(Held::Red(took));
        }
        let is_back = || world.state().is_some_and(|state| state.up() == 2);
        (load.has_ended() && is_back()).then_some(Held::Lost)
    });
    let Held::Red(took) = outcome else { return outcome };
    wait_for("an answer over the second", || world.ping().then_some(()));
    // What was down for a moment is up by now.
    let stays = red_after(world, held).is_some_and(|again| again.abs_diff(took) < INTERVAL / 2);
    if stays { Held::Red(took) } else { Held::Lost }
}

/// Whoever handed a piece of work out waits for it: the device's thread stands still with its helper.
/// A helper at rest is waited for by nobody.
#[test]
fn a_helper_that_stands_still_turns_its_tunnel_red_within_two_intervals() {
    need_rights!();
    let world = userspace();
    let Some(helper) = thread(&world, "hf-wg0-help") else {
        return eprintln!("skipped: on a machine of one processor nobody helps");
    };
    let mut held_at_rest = 0;
    within_two_intervals(|| {
        while held_at_rest < CATCHES {
            at_rest(&world);
            let load = Load::start(&world);
            while !load.has_ended() && held_at_rest < CATCHES {
                let _ = (0..LOOKS).find(|_| works(&world, helper));
                let held = HeldStill::new(&world, "hf-wg0-help");
                match what_comes_of(&world, &load, &held) {
                    Held::AtRest => held_at_rest += 1,
                    Held::Lost => break,
                    Held::Red(took) => {
                        eprintln!("the helper was held at rest {held_at_rest} times before");
                        drop((held, load));
                        world.wait("both up again", |state| state.up() == 2);
                        return took;
                    }
                }
            }
        }
        eprintln!("skipped: the helper was at rest whenever it was held");
        Duration::ZERO
    });
}
