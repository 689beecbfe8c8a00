//! Emulated links between real namespaces, looked at with ping(8) and ip(8).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Namespace, all_answered, cannot};
use holdfast_poll::holds as until;
use lab::emulator::{
    Change, Control, ControlError, Cut, Emulator, EmulatorError, End, Link, LinkModel,
};
use std::time::Duration;

struct Bed {
    a: Namespace,
    b: Namespace,
    emulator: Option<Emulator>,
    dir: tempfile::TempDir,
}

fn link(name: &str, a: &Namespace, b: &Namespace, model: LinkModel) -> Link {
    let end = |at: &Namespace| End { netns: at.name.clone(), interface: name.into() };
    Link { name: name.into(), a: end(a), b: end(b), mtu: 1500, model }
}

/// 192.0.2.1 on one end, 192.0.2.2 on the other.
fn bed(model: LinkModel) -> Bed {
    let (a, b) = (Namespace::new("a"), Namespace::new("b"));
    let dir = tempfile::tempdir().unwrap();
    let emulator = Emulator::start(&dir.path().join("s"), &[link("w0", &a, &b, model)]).unwrap();
    a.ip("address add 192.0.2.1/24 dev w0");
    b.ip("address add 192.0.2.2/24 dev w0");
    Bed { a, b, emulator: Some(emulator), dir }
}

impl Bed {
    fn control(&self) -> Control {
        Control::connect(&self.dir.path().join("s")).unwrap()
    }
}

#[test]
fn delay_is_there_and_back_and_cuts_are_live() {
    if cannot("delay_is_there_and_back_and_cuts_are_live") {
        return;
    }
    let bed = bed(LinkModel::delayed(Duration::from_millis(20)));
    let mut control = bed.control();
    assert!(!bed.a.ping("192.0.2.2", 3).is_empty());
    let rtts = all_answered(&bed.a.name, "192.0.2.2", 10);
    assert_eq!(rtts.len(), 10, "frames were lost: {rtts:?}");
    assert!(rtts.iter().all(|rtt| *rtt >= 40.0), "sooner than the delay: {rtts:?}");

    control.cut("w0", Cut::BToA).unwrap();
    assert_eq!(bed.a.ping("192.0.2.2", 2), [] as [f64; 0]);
    let state = &control.list().unwrap()[0];
    assert!(state.a_to_b.cut == 0 && state.b_to_a.cut > 0, "{state:?}");
    control.heal(None).unwrap();
    assert_eq!(all_answered(&bed.a.name, "192.0.2.2", 2).len(), 2);

    control.set("w0", Change { delay_us: Some(0), loss: Some(1.0), ..Change::default() }).unwrap();
    assert_eq!(bed.a.ping("192.0.2.2", 2), [] as [f64; 0]);
    control.set("w0", Change { loss: Some(0.0), ..Change::default() }).unwrap();
    // A busy machine delays some of them, not all.
    let quickest = bed.a.ping("192.0.2.2", 20).into_iter().fold(f64::INFINITY, f64::min);
    assert!(quickest < 40.0, "the delay is still there: {quickest} ms");
}

#[test]
fn links_come_and_go_while_others_carry_on() {
    if cannot("links_come_and_go_while_others_carry_on") {
        return;
    }
    let bed = bed(LinkModel::default());
    let mut control = bed.control();
    let second = link("w1", &bed.a, &bed.b, LinkModel::default());
    control.add(&second).unwrap();
    assert!(matches!(control.add(&second), Err(ControlError::Refused(why)) if why.contains("w1")));
    assert!(
        matches!(control.cut("w9", Cut::Both), Err(ControlError::Refused(why)) if why.contains("w9"))
    );
    bed.a.ip("address add 198.51.100.1/24 dev w1");
    bed.b.ip("address add 198.51.100.2/24 dev w1");
    assert_eq!(all_answered(&bed.a.name, "198.51.100.2", 3).len(), 3);
    control.request(&lab::emulator::Request::Remove { link: "w1".into() }).unwrap();
    assert!(!bed.a.ip("-o link").contains("w1"));
    assert_eq!(all_answered(&bed.a.name, "192.0.2.2", 3).len(), 3);
}

#[test]
fn an_interface_that_was_down_carries_on() {
    if cannot("an_interface_that_was_down_carries_on") {
        return;
    }
    let bed = bed(LinkModel::default());
    assert_eq!(all_answered(&bed.a.name, "192.0.2.2", 2).len(), 2);
    bed.b.ip("link set w0 down");
    assert_eq!(bed.a.ping("192.0.2.2", 2), [] as [f64; 0]);
    bed.b.ip("link set w0 up");
    assert_eq!(all_answered(&bed.a.name, "192.0.2.2", 2).len(), 2);
}

#[test]
fn a_host_that_went_away_leaves_the_other_links_working() {
    if cannot("a_host_that_went_away_leaves_the_other_links_working") {
        return;
    }
    let bed = bed(LinkModel::default());
    let third = Namespace::new("c");
    bed.control().add(&link("w1", &bed.a, &third, LinkModel::default())).unwrap();
    third.ip("link delete w1");
    assert_eq!(all_answered(&bed.a.name, "192.0.2.2", 3).len(), 3);
    assert_eq!(bed.control().list().unwrap().len(), 2);
}

#[test]
fn nothing_is_left_when_it_ends() {
    if cannot("nothing_is_left_when_it_ends") {
        return;
    }
    let mut bed = bed(LinkModel::default());
    assert!(bed.a.ip("-o link").contains("w0"));
    drop(bed.emulator.take());
    until("the interfaces are gone", Duration::from_secs(60), || {
        !bed.a.ip("-o link").contains("w0") && !bed.b.ip("-o link").contains("w0")
    });
    assert!(!bed.dir.path().join("s").exists());
}

#[test]
fn a_link_to_nowhere_is_refused_with_both_names() {
    if cannot("a_link_to_nowhere_is_refused_with_both_names") {
        return;
    }
    let a = Namespace::new("a");
    let dir = tempfile::tempdir().unwrap();
    let mut broken = link("w0", &a, &a, LinkModel::default());
    broken.b.netns = "no-such-namespace".into();
    let error = Emulator::start(&dir.path().join("s"), &[broken]).unwrap_err();
    assert!(matches!(&error, EmulatorError::Port { link, .. } if link == "w0"), "{error:?}");
    assert!(!a.ip("-o link").contains("w0"));
}
