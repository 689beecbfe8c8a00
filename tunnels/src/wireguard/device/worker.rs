//! The thread that moves packets between a TUN device and the network.
//!
//! It owns the TUN device, the UDP socket, the clock and the engine. At rest a wake-up is what
//! costs, not the work in it: it sleeps until a packet comes or something is really due, and a
//! packet that comes alone takes three system calls, answer included.
//!
//! Fails: when the link is taken away, the kernel refuses to wait, or a helper panicked; then the
//! thread ends. A datagram that cannot be sent is dropped, as IP may, and so is a packet that the
//! kernel cannot hand over.

use super::commands::Command;
use super::{Resident, Shared, wall};
use crate::wake::{Deadline, wait};
use crate::wireguard::crew::Crew;
use crate::wireguard::engine::{Engine, LinkPacket};
use crate::wireguard::job::{Helpers, Job};
use crate::wireguard::key::wipe_stack;
use crate::wireguard::layout::{Layout, MOST_PACKET_BYTES};
use crate::wireguard::memory::{self, Chunk, Pages, Places};
use crate::wireguard::outbox::{BLOCK_BYTES, Fragments, LEAST_BYTES, MOST_HANDED, Outbox};
use crate::wireguard::port::{Inbox, SLOT_BYTES};
use crate::wireguard::sys::{self, MOST_MESSAGES};
use crate::wireguard::tun::LinkEnd;
use crate::wireguard::wire::Wire;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Packets that are moved one way before the other way has its turn.
const TURN: usize = 64;
/// A turn that comes so long after the last one found the device at rest.
pub(super) const REST: Duration = Duration::from_millis(5);
/// Commands that are done between two turns.
const MOST_COMMANDS: usize = 4;
/// Bytes that are moved from the link before the network has its turn.
const TURN_BYTES: usize = 256 * 1024;
/// Packets in a row that the kernel may fail to hand over.
const MOST_REFUSED: u32 = 10_000;
/// How old what is known of the link's MTU and of the wall clock may be while packets pass.
const LOOK_AGE: Duration = Duration::from_secs(1);

/// What the thread alone has.
pub(super) struct Worker<'a> {
    pub(super) engine: Engine,
    shared: &'a Shared,
    commands: &'a mpsc::Receiver<Command>,
    link: &'a LinkEnd,
    resident: Option<Arc<dyn Resident>>,
    pub(super) helpers: Helpers,
    outbox: Outbox<Wire>,
    inbox: Inbox,
    /// Where the next packet of the link is expected.
    layout: Layout,
    spill: Box<[u8]>,
    /// What changes without being told is looked at again from then on.
    look_due: Instant,
    /// Packets in a row that the kernel did not hand over.
    refused: u32,
}

/// What a worker works with.
pub(super) struct Means {
    /// Which pages the memory is from.
    pub(super) pages: Pages,
    helpers: Helpers,
    blocks: Vec<Chunk>,
    slots: Vec<Chunk>,
}

impl Means {
    /// So many helpers, and memory for all.
    ///
    /// # Errors
    /// The kernel gives no threads or no memory.
    pub(super) fn new(name: &str, helpers: usize, pages: Pages) -> io::Result<Self> {
        let blocks = if helpers > 0 { 1 + MOST_HANDED } else { 1 };
        let lengths = [vec![BLOCK_BYTES; blocks], vec![SLOT_BYTES; MOST_MESSAGES]].concat();
        let (mut blocks_and_slots, pages) = memory::take(&lengths, pages)?;
        let slots = blocks_and_slots.split_off(blocks);
        // Not the name of the device's own thread, which is looked for by it.
        let help = format!("{name}-help");
        let crew = (helpers > 0).then(|| Crew::new(helpers, &help)).transpose()?;
        tracing::debug!(link = name, helpers, %pages, "what a WireGuard device works with");
        Ok(Means { pages, helpers: crew.map(Arc::new), blocks: blocks_and_slots, slots })
    }
}

/// Moves packets until it is told to stop.
pub(super) fn run(
    shared: &Shared,
    link: &LinkEnd,
    engine: Engine,
    commands: &mpsc::Receiver<Command>,
    Means { helpers, blocks, slots, .. }: Means,
) -> io::Result<()> {
    let now = Instant::now();
    let layout = engine.layout();
    let mut worker = Worker {
        engine,
        shared,
        commands,
        link,
        resident: None,
        outbox: Outbox::new(Wire::new(shared.port()), helpers.clone(), blocks),
        inbox: Inbox::new(slots),
        helpers,
        layout,
        spill: vec![0; MOST_PACKET_BYTES].into_boxed_slice(),
        look_due: now,
        refused: 0,
    };
    worker.look_around(now);
    // Nothing is known yet, so everything is looked at.
    let [mut woken, mut from_network, mut from_link] = [false, true, true];
    let mut before = now;
    while !shared.stop.load(Ordering::Acquire) {
        let is_woken = shared.wake.take(woken);
        let now = Instant::now();
        if is_woken {
            worker.look_around(now);
        }
        // What comes after a rest mostly comes alone: asking for a second packet would be a
        // system call for nothing. If it did not come alone, poll says so at once.
        let most = if now.saturating_duration_since(before) >= REST { 1 } else { TURN };
        before = now;
        let more;
        (more, [from_network, from_link]) = worker.turn([from_network, from_link], most, now)?;
        woken = false;
        if let Some(sides) = without_rest([from_network, from_link]) {
            [from_network, from_link] = sides;
            continue;
        }
        let port = Arc::clone(&worker.outbox.network.port);
        let mut fds = [
            PollFd::new(shared.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(port.as_fd(), PollFlags::POLLIN),
            PollFd::new(link.as_fd(), PollFlags::POLLIN),
        ];
        wait(&mut fds, Deadline::at(more))?;
        [woken, from_network, from_link] = fds.map(|fd| fd.any().unwrap_or(true));
    }
    Ok(())
}

/// Where to look at once, when there is more of the network or of the link: at both, for it may be
/// long before nothing is left of the one.
pub(super) fn without_rest(more: [bool; 2]) -> Option<[bool; 2]> {
    more.contains(&true).then_some([true, true])
}

impl Worker<'_> {
    /// Encrypts a packet as if it came from the link.
    pub(super) fn send(&mut self, packet: &[u8], now: Instant) {
        self.engine.send(packet, Fragments::Allowed, &mut self.outbox, now);
    }

    /// Looks at what others may have changed, and does what they want.
    fn look_around(&mut self, now: Instant) {
        self.shared.is_silent.store(false, Ordering::Release);
        let port = self.shared.port();
        if !Arc::ptr_eq(&port, &self.outbox.network.port) {
            self.outbox.network = Wire::new(port);
        }
        self.resident = self.shared.resident();
        for _ in 0..MOST_COMMANDS {
            let Ok(command) = self.commands.try_recv() else { return };
            command(self, now);
            // It may have been about keys.
            wipe_stack();
        }
        // There may be more, and packets wait.
        self.shared.wake.wake();
    }

    /// Moves what is there, from the network and from the link; gives when to come again at the
    /// latest, and from where there may be more at once.
    fn turn(
        &mut self,
        [from_network, from_link]: [bool; 2],
        most: usize,
        now: Instant,
    ) -> io::Result<(Option<Instant>, [bool; 2])> {
        if now >= self.look_due {
            self.look_due = now + LOOK_AGE;
            self.engine.set_wall(now, wall());
            let port = &self.outbox.network.port;
            if let Ok(mtu) = sys::mtu(port.as_fd(), &self.shared.name) {
                self.engine.set_mtu(mtu);
            }
        }
        self.outbox.network.begin_turn(now);
        let mut more = [false; 2];
        if from_network {
            more[0] = self.inbox.receive(&self.outbox.network.port) && most > 1;
            self.take_received(now)?;
            // What answers goes out first: it is in a hurry.
            self.outbox.flush();
            self.engine.deliver(&mut self.inbox.slots, |packet| self.link.write(packet));
        }
        // Before what comes from the link: it is in a hurry, and answers what just came.
        let resident_at = self.resident.as_ref().and_then(|resident| {
            let send = &mut |packet: &[u8], fragments| {
                self.engine.send(packet, fragments, &mut self.outbox, now);
            };
            resident.run(now, send)
        });
        if self.engine.due_at().is_some_and(|at| at <= now) {
            self.engine.timers(&mut self.outbox, now);
        }
        if from_link {
            more[1] = self.drain_link(most, now)? && most > 1;
        }
        self.outbox.flush();
        if self.outbox.has_lost {
            return Err(io::Error::other("a helper of the device panicked"));
        }
        let due = [resident_at, self.engine.due_at()].into_iter().flatten().min();
        Ok((due, more))
    }

    /// Opens what was received and takes it in, in the order in which it came.
    fn take_received(&mut self, now: Instant) -> io::Result<()> {
        let Worker { engine, helpers, resident, outbox, inbox, .. } = self;
        let Inbox { slots, datagrams, .. } = inbox;
        for (datagrams, letters) in datagrams.iter_mut() {
            engine.sort(slots, datagrams, letters, now);
        }
        let mut tickets = VecDeque::new();
        if let Some(helpers) = helpers {
            // The first one is ours.
            for (number, (datagrams, letters)) in datagrams.iter_mut().enumerate().skip(1) {
                if datagrams.range.len() >= LEAST_BYTES
                    && let Some(chunk) = slots.lend(&datagrams.range)
                {
                    let job = Job::Open(chunk, std::mem::take(letters));
                    tickets.push_back((number, helpers.hand(job)));
                }
            }
        }
        let mut resident =
            |packet: &[u8]| resident.as_ref().is_some_and(|resident| resident.receive(packet, now));
        for (number, (datagrams, letters)) in datagrams.iter_mut().enumerate() {
            match tickets.pop_front_if(|(handed, _)| *handed == number) {
                None => {
                    let piece = slots.at_mut(datagrams.range.clone());
                    letters.open(piece.unwrap_or_default());
                }
                Some((_, ticket)) => {
                    let back = helpers.as_ref().and_then(|helpers| helpers.back(ticket));
                    let Some(Job::Open(chunk, opened)) = back else {
                        return Err(io::Error::other("a helper of the device panicked"));
                    };
                    slots.restore(&datagrams.range, chunk);
                    *letters = opened;
                }
            }
            engine.take(slots, (datagrams, letters), outbox, &mut resident, now);
        }
        Ok(())
    }

    /// Reads the link; true when there may be more.
    fn drain_link(&mut self, most: usize, now: Instant) -> io::Result<bool> {
        let mut bytes = 0;
        for _ in 0..most {
            let room = self.outbox.room();
            let read = match self.link.read(&self.layout, room, &mut self.spill) {
                // A packet that the kernel cannot describe is gone by then (tun_put_user in
                // drivers/net/tun.c); those behind it are not.
                Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
                    self.refused += 1;
                    tracing::debug!(link = self.shared.name, %error, "a packet of the link is lost");
                    if self.refused >= MOST_REFUSED {
                        return Err(error);
                    }
                    continue;
                }
                read => read?,
            };
            let Some((vnet, total)) = read else { return Ok(false) };
            self.refused = 0;
            let packet = LinkPacket { vnet, layout: self.layout, spill: &self.spill, total };
            self.layout = self.engine.take_packet(packet, &mut self.outbox, now);
            bytes += total;
            if bytes >= TURN_BYTES {
                break;
            }
        }
        Ok(true)
    }
}
