//! Links on devices of memory.

use super::*;
use crate::bfd::Role;
use crate::bfd::session::Change;
use crate::path_mtu::LEAST;
use holdfast_api::tunnel::BfdTimers;
use std::sync::mpsc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
const HERE: [u8; 4] = [10, 0, 0, 1];
const THERE: [u8; 4] = [10, 0, 0, 2];

fn link(local: [u8; 4]) -> Link<u8> {
    Link::on(1, WeakDevice::gone(), local.into(), 7, Arc::new(Wake::new().unwrap()))
}

fn settings() -> Settings {
    Settings::new(BfdTimers::default(), Role::Active).unwrap()
}

/// What the service's thread has to tell when it looks.
fn told(link: &Link<u8>, now: Instant) -> Vec<(BfdState, BfdState)> {
    let mut told = Told::default();
    link.serve(false, &mut [], now, &mut told);
    told.changes.iter().map(|(_, Change { from, to, .. })| (*from, *to)).collect()
}

fn is_up(link: &Link<u8>) -> bool {
    link.status(&0).unwrap().state == BfdState::Up
}

const LOST: (BfdState, BfdState) = (BfdState::Up, BfdState::Down);

/// Two links on devices, joined by memory, until both sessions are up.
fn up() -> (Link<u8>, Link<u8>) {
    let (here, there) = (link(HERE), link(THERE));
    here.insert(0, THERE.into(), settings());
    there.insert(0, HERE.into(), settings());
    for _ in 0..10 {
        for (from, to) in [(&here, &there), (&there, &here)] {
            let now = Instant::now();
            let mut sent: Vec<Vec<u8>> = Vec::new();
            from.run(now, &mut |packet, _| sent.push(packet.to_vec()));
            assert!(sent.iter().all(|packet| to.receive(packet, now)));
        }
    }
    assert!(is_up(&here) && is_up(&there));
    (here, there)
}

#[test]
fn packets_of_others_are_not_taken() {
    let (here, there) = up();
    let mut sent = Vec::new();
    there.hold_down(&0, true);
    there.run(Instant::now(), &mut |packet, _| sent.push(packet.to_vec()));
    let bye = sent.first().unwrap();
    let now = Instant::now();
    assert!(!there.receive(bye, now), "to another address of ours");
    assert!(!here.receive(&bye[..27], now) && !here.receive(&[], now));
    assert!(here.receive(bye, now));
    here.close();
    assert!(!here.receive(bye, now), "nobody is there any more");
    assert_eq!(here.run(now, &mut |_, _| panic!("nothing is said")), None);
}

#[test]
fn a_device_that_ends_takes_its_sessions_down() {
    let (here, _there) = up();
    let now = Instant::now();
    told(&here, now);
    here.ended();
    assert_eq!(told(&here, now), [(BfdState::Up, BfdState::AdminDown)]);
    assert_eq!(here.status(&0).unwrap().state, BfdState::AdminDown);
    assert!(here.remove(&0) && !here.remove(&0));
}

/// Who is looked after by nobody is not up: BFD's own timers would run in the thread that
/// stands still.
#[test]
fn a_device_that_stands_still_takes_its_sessions_down_and_brings_them_back() {
    let (here, there) = up();
    told(&here, Instant::now());
    let due = here.lock().sessions.wake_at().unwrap();
    let soon = due + UNATTENDED / 2;
    let mut news = Told::default();
    assert_eq!(here.serve(false, &mut [], soon, &mut news), Some(due + UNATTENDED));
    assert!(news.is_empty() && is_up(&here), "late is not dead");

    let late = here.serve(false, &mut [], due + UNATTENDED, &mut news);
    assert!(late > Some(due + UNATTENDED), "looked after again");
    let changes: Vec<_> = news.changes.iter().map(|(_, change)| (change.from, change.to)).collect();
    assert_eq!(changes, [LOST]);

    let mut now = due + UNATTENDED;
    for _ in 0..100 {
        now += Duration::from_millis(100);
        for (from, to) in [(&here, &there), (&there, &here)] {
            let mut sent: Vec<Vec<u8>> = Vec::new();
            from.run(now, &mut |packet, _| sent.push(packet.to_vec()));
            assert!(sent.iter().all(|packet| to.receive(packet, now)));
        }
    }
    assert!(is_up(&here) && is_up(&there));
    here.close();
    assert_eq!(told(&here, now + UNATTENDED * 10), []);
    assert!(is_up(&here), "nobody asks any more");
}

/// As when the helpers, or the network's room, are waited for in vain.
#[test]
fn a_device_that_stands_still_while_it_sends_holds_nobody_up() {
    let (here, _there) = up();
    let due = here.lock().sessions.wake_at().unwrap();
    let (stand, stands) = mpsc::channel();
    let (go, goes) = mpsc::channel::<()>();
    let (look, looks) = mpsc::channel();
    let (here, link) = (&here, &here);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            here.run(due, &mut |_, _| {
                let _ = stand.send(());
                let _ = goes.recv();
            });
        });
        stands.recv_timeout(PATIENCE).unwrap();
        scope.spawn(move || {
            told(link, due);
            let left = link.lock().sessions.wake_at().unwrap();
            let _ = look.send(told(link, left + UNATTENDED));
        });
        let seen = looks.recv_timeout(PATIENCE);
        drop(go);
        assert_eq!(seen.as_deref(), Ok(&[LOST][..]));
    });
}

/// Also where it stands still in the midst of the sessions, so that nobody can ask them.
#[test]
fn sessions_that_nobody_can_ask_are_down_until_they_can_be_asked() {
    let (here, there) = up();
    let now = Instant::now();
    told(&here, now);
    let held = here.lock();
    assert_eq!(told(&here, now), [], "somebody has them for a moment");
    assert_eq!(told(&here, now + UNATTENDED / 2), []);
    assert_eq!(told(&here, now + UNATTENDED), [LOST]);
    assert_eq!(told(&here, now + UNATTENDED * 2), [], "once");
    drop(held);
    // They were up all the time.
    assert_eq!(told(&here, now), [(BfdState::Down, BfdState::Up)]);

    let held = here.lock();
    told(&here, now);
    assert_eq!(told(&here, now + UNATTENDED), [LOST]);
    drop(held);
    there.hold_down(&0, true);
    there.run(Instant::now(), &mut |packet, _| assert!(here.receive(packet, now)));
    assert_eq!(told(&here, now), [], "it is down and told so");
    assert!(!is_up(&here));
}

/// What is larger than the way between them takes vanishes.
#[test]
fn what_passes_between_two_links_is_found_and_told_once() {
    let (here, there) = up();
    here.search_path_mtu(0, THERE.into(), 1420);
    let mut now = Instant::now();
    let mut pass = |steps, told: &mut Told<u8>| {
        for _ in 0..steps {
            now += Duration::from_millis(50);
            for (from, to) in [(&here, &there), (&there, &here)] {
                let mut sent: Vec<(Vec<u8>, Fragments)> = Vec::new();
                from.run(now, &mut |packet, fragments| sent.push((packet.to_vec(), fragments)));
                for (packet, fragments) in sent {
                    assert_eq!(fragments == Fragments::Forbidden, packet.len() > 100);
                    if packet.len() <= 1340 {
                        assert!(to.receive(&packet, now));
                    }
                }
            }
            here.serve(false, &mut [], now, told);
        }
    };
    let mut told = Told::default();
    pass(600, &mut told);
    let (phase, mtu) = here.path_mtu(&0).unwrap();
    assert!(phase == Phase::Complete && (1337..=1340).contains(&mtu.unwrap()), "{mtu:?}");
    assert_eq!(told.path_mtus, [(0, Some(LEAST)), (0, mtu)]);
    assert_eq!(there.path_mtu(&0), None, "who answers does not search");
    // A session that goes down and comes back finds the same way.
    for hold in [true, false] {
        there.hold_down(&0, hold);
        pass(40, &mut told);
        assert_eq!(is_up(&here), !hold);
    }
    pass(600, &mut told);
    assert_eq!((told.path_mtus.len(), here.path_mtu(&0)), (2, Some((Phase::Complete, mtu))));
    here.remove(&0);
    assert_eq!(here.path_mtu(&0), None);
}

#[test]
fn a_packet_of_another_family_is_not_sent() {
    let here = link(HERE);
    here.insert(0, "::1".parse().unwrap(), settings());
    let now = Instant::now();
    assert!(here.run(now, &mut |_, _| panic!("nothing is sent")) > Some(now));
}
