//! A kernel that refuses what it is told to refuse, and what becomes of datagrams then.

use super::*;
use crate::wireguard::outbox::Outbox;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;

/// What the kernel is asked to send.
#[derive(Debug, Clone)]
struct Message {
    way: Way,
    /// The bytes of each of its datagrams, where it is to split it.
    segment: Option<usize>,
    datagrams: Vec<Vec<u8>>,
}

type Rule = Box<dyn FnMut(&Message) -> Option<Errno>>;

struct Kernel {
    rule: RefCell<Rule>,
    /// Messages that it takes at a time.
    most: usize,
    asked: RefCell<Vec<Message>>,
    sent: RefCell<Vec<Message>>,
    may_cut: Cell<bool>,
    cannot_forbid: bool,
    /// Whether there was room when it was waited for.
    has_room: bool,
    waits: Cell<u32>,
}

impl Sender for Kernel {
    fn send_some(&self, memory: &[u8], runs: &[Run]) -> io::Result<usize> {
        assert!(!runs.is_empty());
        for (taken, run) in runs.iter().take(self.most).enumerate() {
            let is_run = run.range.len() > run.segment;
            let parts = memory[run.range.clone()].chunks(run.segment);
            let message = Message {
                way: run.way,
                segment: is_run.then_some(run.segment),
                datagrams: parts.map(<[u8]>::to_vec).collect(),
            };
            self.asked.borrow_mut().push(message.clone());
            match (self.rule.borrow_mut())(&message) {
                // As sendmmsg(2): what is refused behind others is asked for again.
                Some(_) if taken > 0 => return Ok(taken),
                Some(errno) => return Err(errno.into()),
                None => self.sent.borrow_mut().push(message),
            }
        }
        Ok(runs.len().min(self.most))
    }

    fn set_fragments(&self, _to: IpAddr, allowed: bool) -> io::Result<()> {
        if self.cannot_forbid && !allowed {
            return Err(Errno::ENOPROTOOPT.into());
        }
        self.may_cut.set(allowed);
        Ok(())
    }

    fn has_room(&self, _patience: Duration) -> bool {
        self.waits.set(self.waits.get() + 1);
        self.has_room
    }
}

fn kernel(rule: impl FnMut(&Message) -> Option<Errno> + 'static) -> Kernel {
    Kernel {
        rule: RefCell::new(Box::new(rule)),
        most: 32,
        asked: RefCell::default(),
        sent: RefCell::default(),
        may_cut: Cell::new(true),
        cannot_forbid: false,
        has_room: true,
        waits: Cell::new(0),
    }
}

fn place(n: u8) -> SocketAddr {
    ([192, 0, 2, n], 51_820).into()
}

fn to(n: u8) -> Way {
    Way { to: place(n), from: None }
}

/// From an address of ours, as who was written to there does.
fn from_ours(n: u8) -> Way {
    Way { from: Some([198, 51, 100, 1].into()), ..to(n) }
}

#[expect(clippy::arc_with_non_send_sync, reason = "as the socket is kept; there is one thread")]
fn outbox(kernel: Kernel) -> Outbox<Wire<Kernel>> {
    Outbox::alone(Wire::new(Arc::new(kernel)))
}

/// Sends numbered datagrams, each of so many bytes; those of one length and way in runs.
fn send(outbox: &mut Outbox<Wire<Kernel>>, datagrams: impl IntoIterator<Item = (Way, u16, usize)>) {
    for (way, number, bytes) in datagrams {
        let mut datagram = vec![0; bytes];
        datagram[..2].copy_from_slice(&number.to_be_bytes());
        outbox.push(way, &datagram);
    }
    outbox.flush();
}

impl Kernel {
    fn refuses(self: &Arc<Self>, rule: impl FnMut(&Message) -> Option<Errno> + 'static) {
        *self.rule.borrow_mut() = Box::new(rule);
    }

    /// What was sent, in its order, and forgets it.
    fn numbers(&self) -> Vec<u16> {
        let sent = self.sent.take();
        let datagrams = sent.iter().flat_map(|message| &message.datagrams);
        datagrams.map(|datagram| u16::from_be_bytes([datagram[0], datagram[1]])).collect()
    }
}

fn all_but(most: u16, lost: impl Fn(u16) -> bool) -> Vec<u16> {
    (0..most).filter(|number| !lost(*number)).collect()
}

/// EPERM is a firewall's, ENOBUFS and ENOMEM are memory's, the others are those of routes.
#[test]
fn what_is_refused_is_lost_and_nothing_else() {
    let refusals = [
        Errno::ENOBUFS,
        Errno::ENOMEM,
        Errno::EPERM,
        Errno::EACCES,
        Errno::ENETUNREACH,
        Errno::EHOSTUNREACH,
        Errno::ENETDOWN,
        Errno::ECONNREFUSED,
    ];
    for errno in refusals {
        let mut outbox =
            outbox(kernel(move |message| (message.way.to == place(2)).then_some(errno)));
        // Three of each in a row, of which the third's go to another place.
        let datagrams = (0..27).map(|n| (to(1 + u8::try_from(n / 3 % 3).unwrap()), n, 100));
        send(&mut outbox, datagrams);
        let kernel = Arc::clone(&outbox.network.port);
        assert_eq!(kernel.numbers(), all_but(27, |n| n / 3 % 3 == 1), "{errno}");
        let asked = kernel.asked.take();
        let refused = asked.iter().filter(|message| message.way.to == place(2)).count();
        // Once behind what was sent, and once more alone.
        assert!(refused <= 6, "{errno}: asked {refused} times for three runs");
        // And when nothing is refused any more it goes on.
        kernel.refuses(|_| None);
        send(&mut outbox, (0..6).map(|n| (to(2), n, 100)));
        assert_eq!(kernel.numbers(), all_but(6, |_| false));
        assert!(kernel.sent.borrow().iter().all(|message| message.segment.is_some()));
    }
}

#[test]
fn an_interrupted_call_is_repeated() {
    let mut times = 0;
    let mut outbox = outbox(kernel(move |_| {
        times += 1;
        (times % 3 != 0).then_some(Errno::EINTR)
    }));
    send(&mut outbox, (0..20).map(|n| (to(u8::try_from(n % 4).unwrap()), n, 100)));
    assert_eq!(outbox.network.port.numbers(), all_but(20, |_| false));
    assert_eq!(outbox.network.port.waits.get(), 0);
}

/// Of `Errno::EAGAIN`: the socket's own memory is full.
#[test]
fn a_full_queue_is_waited_for_once_in_a_turn() {
    for has_room in [true, false] {
        let mut times = 0;
        let rule = move |_: &Message| {
            times += 1;
            // Twice in the first turn, and in the second one.
            [2, 5, 8].contains(&times).then_some(Errno::EAGAIN)
        };
        let mut outbox = outbox(Kernel { has_room, most: 1, ..kernel(rule) });
        let kernel = Arc::clone(&outbox.network.port);
        let datagrams =
            |range: std::ops::Range<u16>| range.map(|n| (to(1), n, 100 + usize::from(n)));
        outbox.network.begin_turn(Instant::now());
        send(&mut outbox, datagrams(0..5));
        assert_eq!(kernel.waits.get(), 1);
        let lost: &[u16] = if has_room { &[3] } else { &[1, 4] };
        assert_eq!(kernel.numbers(), all_but(5, |n| lost.contains(&n)));
        outbox.network.begin_turn(Instant::now());
        send(&mut outbox, datagrams(0..5));
        assert_eq!(kernel.waits.get(), 2, "another turn");
        let lost: &[u16] = if has_room { &[] } else { &[2] };
        assert_eq!(kernel.numbers(), all_but(5, |n| lost.contains(&n)));
    }
}

/// The way out makes no checksums (EIO), or the way's MTU is smaller (EMSGSIZE, EINVAL before).
#[test]
fn runs_that_are_refused_go_one_by_one_until_they_are_tried_again() {
    for errno in [Errno::EIO, Errno::EINVAL, Errno::EMSGSIZE, Errno::EOPNOTSUPP] {
        let runs_to =
            |message: &Message, n| message.way.to == place(n) && message.segment.is_some();
        let mut outbox = outbox(kernel(move |message| runs_to(message, 2).then_some(errno)));
        let kernel = Arc::clone(&outbox.network.port);
        let datagrams = || (0..30).map(|n| (to(1 + u8::try_from(n / 10).unwrap()), n, 1000));
        send(&mut outbox, datagrams());
        assert_eq!(kernel.numbers(), all_but(30, |_| false), "{errno}");
        let tried = || {
            let asked = kernel.asked.take();
            [1, 2, 3].map(|n| asked.iter().filter(|message| runs_to(message, n)).count())
        };
        assert!(tried()[1] > 0);
        send(&mut outbox, datagrams());
        assert_eq!(kernel.numbers(), all_but(30, |_| false), "{errno}");
        assert_eq!(tried(), [1, 0, 1], "it is remembered, of this place alone");
        // They are refused after a second, after two more, and are taken after four more.
        let begun = outbox.network.now;
        for (millis, is_tried) in [(999, false), (1000, true), (2999, false), (3000, true)] {
            outbox.network.begin_turn(begun + Duration::from_millis(millis));
            send(&mut outbox, datagrams());
            assert_eq!(tried()[1] > 0, is_tried, "{errno} after {millis} ms");
            assert_eq!(kernel.numbers(), all_but(30, |_| false), "{errno}");
        }
        kernel.refuses(|_| None);
        outbox.network.begin_turn(begun + Duration::from_secs(7));
        for _ in 0..2 {
            send(&mut outbox, datagrams());
            assert_eq!(tried(), [1; 3], "{errno}");
            assert_eq!(kernel.numbers(), all_but(30, |_| false), "{errno}");
        }
        // Which has been forgotten by the next time.
        kernel.refuses(move |message| runs_to(message, 2).then_some(errno));
        send(&mut outbox, datagrams());
        outbox.network.begin_turn(begun + Duration::from_secs(8));
        kernel.refuses(|_| None);
        tried();
        send(&mut outbox, datagrams());
        assert_eq!(tried(), [1; 3], "{errno}");
    }
}

#[test]
fn what_is_too_large_even_alone_is_lost_alone() {
    let fits = |datagram: &Vec<u8>| datagram.len() <= 1000;
    let rule =
        move |message: &Message| (!message.datagrams.iter().all(fits)).then_some(Errno::EMSGSIZE);
    let mut outbox = outbox(kernel(rule));
    // The last of a run is shorter.
    let bytes = |n| if n % 4 == 3 { 900 } else { 1200 };
    send(&mut outbox, (0..12).map(|n| (to(1), n, bytes(n))));
    assert_eq!(outbox.network.port.numbers(), all_but(12, |n| n % 4 != 3));
}

#[test]
fn an_address_that_is_gone_is_not_sent_from() {
    for errno in [Errno::EINVAL, Errno::EADDRNOTAVAIL, Errno::ENETUNREACH] {
        let is_gone = move |message: &Message| message.way.from.map(|_| errno);
        let mut outbox = outbox(kernel(is_gone));
        send(&mut outbox, (0..20).map(|n| (from_ours(1 + u8::try_from(n / 10).unwrap()), n, 100)));
        let kernel = &outbox.network.port;
        assert!(kernel.sent.borrow().iter().all(|message| message.segment == Some(100)), "{errno}");
        assert_eq!(kernel.numbers(), all_but(20, |_| false), "{errno}");
    }
}

/// EINVAL of an older kernel, which has the address: it is kept, and nothing goes out twice.
#[test]
fn an_older_kernel_that_takes_no_run_is_not_taken_for_a_lost_address() {
    let takes_no_runs = |message: &Message| message.segment.map(|_| Errno::EINVAL);
    let mut outbox = outbox(kernel(takes_no_runs));
    let kernel = Arc::clone(&outbox.network.port);
    for round in 0..2 {
        send(&mut outbox, (0..10).map(|n| (from_ours(1), n, 1000)));
        assert!(kernel.sent.borrow().iter().all(|message| message.way == from_ours(1)));
        assert_eq!(kernel.numbers(), all_but(10, |_| false));
        let asked = kernel.asked.take();
        assert_eq!(asked.iter().filter(|message| message.segment.is_some()).count(), 1 - round);
    }
}

#[test]
fn what_must_not_be_cut_goes_whole_or_not_at_all() {
    for cannot_forbid in [false, true] {
        let refuses_second =
            |message: &Message| (message.datagrams[0][..2] == [0, 1]).then_some(Errno::EMSGSIZE);
        let mut outbox = outbox(Kernel { cannot_forbid, ..kernel(refuses_second) });
        let kernel = Arc::clone(&outbox.network.port);
        outbox.fragments = Fragments::Forbidden;
        for n in 0..3u16 {
            outbox.push(to(1), &[&n.to_be_bytes()[..], &[0; 98]].concat());
        }
        outbox.fragments = Fragments::Allowed;
        send(&mut outbox, (3..6).map(|n| (to(1), n, 100)));
        let lost = |n| if cannot_forbid { n < 3 } else { n == 1 };
        assert!(kernel.may_cut.get(), "those behind them may be cut again");
        assert!(kernel.sent.borrow().iter().all(|message| {
            let is_whole = message.datagrams[0][1] < 3;
            message.segment.is_none() == is_whole
        }));
        assert_eq!(kernel.numbers(), all_but(6, lost));
    }
}

/// How the way to a place is.
#[derive(Debug, Clone, Copy)]
enum Nature {
    Open,
    Shut(Errno),
    NoRuns(Errno),
    /// Of an address that we had.
    GoneFrom(Errno),
    Narrow(usize),
}

fn natures() -> impl Strategy<Value = Nature> {
    let refusals = prop_oneof![Just(Errno::EPERM), Just(Errno::ENOBUFS), Just(Errno::EHOSTUNREACH)];
    let no_runs = prop_oneof![Just(Errno::EIO), Just(Errno::EINVAL), Just(Errno::EOPNOTSUPP)];
    let gone = prop_oneof![Just(Errno::EINVAL), Just(Errno::ENETUNREACH)];
    prop_oneof![
        Just(Nature::Open),
        refusals.prop_map(Nature::Shut),
        no_runs.prop_map(Nature::NoRuns),
        gone.prop_map(Nature::GoneFrom),
        (100usize..1000).prop_map(Nature::Narrow),
    ]
}

impl Nature {
    fn refuses(self, message: &Message) -> Option<Errno> {
        let largest = message.datagrams.iter().map(Vec::len).max();
        match self {
            Nature::Open => None,
            Nature::Shut(errno) => Some(errno),
            Nature::NoRuns(errno) => message.segment.map(|_| errno),
            Nature::GoneFrom(errno) => message.way.from.map(|_| errno),
            Nature::Narrow(most) => (largest > Some(most)).then_some(Errno::EMSGSIZE),
        }
    }

    fn passes(self, bytes: usize) -> bool {
        match self {
            Nature::Shut(_) => false,
            Nature::Narrow(most) => bytes <= most,
            _ => true,
        }
    }
}

proptest! {
    /// Whatever the ways are like: each datagram that can go goes once, in its order.
    #[test]
    fn what_can_go_goes_once_and_in_its_order(
        natures in proptest::collection::vec(natures(), 4),
        most in 1usize..6,
        datagrams in proptest::collection::vec((0u8..4, any::<bool>(), prop_oneof![Just(900usize), 2usize..1200]), 0..80),
        flushes in 1usize..4,
    ) {
        let rule = { let natures = natures.clone(); move |message: &Message| {
            let IpAddr::V4(ip) = message.way.to.ip() else { return None };
            natures[usize::from(ip.octets()[3])].refuses(message)
        } };
        let mut outbox = outbox(Kernel { most, ..kernel(rule) });
        let each = datagrams.len().div_ceil(flushes).max(1);
        let mut want = Vec::new();
        let numbered: Vec<_> = (0..).zip(&datagrams).collect();
        for some in numbered.chunks(each) {
            send(&mut outbox, some.iter().map(|(n, (place, is_from, bytes))| {
                (if *is_from { from_ours(*place) } else { to(*place) }, *n, *bytes)
            }));
        }
        for (n, (place, _, bytes)) in numbered {
            want.extend(natures[usize::from(*place)].passes(*bytes).then_some(n));
        }
        prop_assert_eq!(outbox.network.port.numbers(), want);
    }
}
