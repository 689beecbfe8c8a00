//! Congestion marks through two engines (RFC 6040).

use super::stream::{offered, parts, read};
use super::*;
use crate::wireguard::inner::packet::UDP;
use crate::wireguard::inner::packet::tests::Sample;

/// What is urgent inside is nobody's business outside.
const URGENT: u8 = 46 << 2;
const MARKS: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce];
/// Figure 4: a row for each mark inside, a column for each outside.
const COMES_IN: [[Option<Ecn>; 4]; 4] = [
    [Some(Ecn::NotEct), Some(Ecn::NotEct), Some(Ecn::NotEct), None],
    [Some(Ecn::Ect0), Some(Ecn::Ect0), Some(Ecn::Ect1), Some(Ecn::Ce)],
    [Some(Ecn::Ect1), Some(Ecn::Ect1), Some(Ecn::Ect1), Some(Ecn::Ce)],
    [Some(Ecn::Ce), Some(Ecn::Ce), Some(Ecn::Ce), Some(Ecn::Ce)],
];

/// Datagrams and what they are marked with.
#[derive(Debug, Default)]
struct Marked(Vec<(Ecn, Vec<u8>)>);

impl Network for Marked {
    fn send(&mut self, memory: &[u8], runs: &[Run]) {
        let single = |run: Run| (run.ecn, memory[run.range].to_vec());
        self.0.extend(runs.iter().flat_map(Run::singles).map(single));
    }
}

fn sent(act: impl FnOnce(&mut Outbox<Marked>)) -> Vec<(Ecn, Vec<u8>)> {
    let mut outbox = Outbox::alone(Marked::default());
    act(&mut outbox);
    outbox.flush();
    outbox.network.0
}

fn sample(v6: bool, ecn: Ecn) -> Sample {
    let payload = vec![7; 900];
    Sample { v6, protocol: UDP, tos: URGENT | ecn.bits(), payload, ..Sample::default() }
}

/// With a session, and for all addresses of a sample.
fn connected() -> (End, End) {
    let (mut a, mut b) = pair();
    let knows = |end: &mut End, other: &End, nets: [&str; 2]| {
        let config = PeerConfig {
            endpoint: Some(other.address),
            allowed_ips: nets.map(|net| net.parse().unwrap()).into(),
            ..PeerConfig::default()
        };
        end.engine.set_peer(other.key, config, end.now);
    };
    knows(&mut a, &b, ["10.0.0.2/32", "3030::/16"]);
    knows(&mut b, &a, ["10.0.0.1/32", "2020::/16"]);
    send(&mut a, &mut b, &packet(A, B, b"first"));
    (a, b)
}

/// Whether the kernel hands a packet over whole or to be split, as foreseen or not.
#[test]
fn marks_go_out_and_come_back_in() {
    for v6 in [false, true] {
        let (mut a, mut b) = connected();
        for (inside, row) in MARKS.into_iter().zip(COMES_IN) {
            for (outside, comes_in) in MARKS.into_iter().zip(row) {
                let offer = |ecn| offered(&sample(v6, ecn), 300);
                let whole = sample(v6, inside).build();
                let datagrams = sent(|outbox| {
                    let foreseen = a.engine.layout();
                    let foreseen = read(&mut a, outbox, foreseen, &(Default::default(), whole));
                    let foreseen = read(&mut a, outbox, foreseen, &offer(inside));
                    read(&mut a, outbox, foreseen, &offer(inside));
                });
                assert_eq!(datagrams.len(), 7);
                let marks = datagrams.iter().map(|(ecn, _)| *ecn);
                assert!(marks.eq([inside; 7]), "{inside:?} inside");
                let take = |(_, datagram): &(Ecn, Vec<u8>)| {
                    b.take_marked(a.address, outside, datagram).link
                };
                let came: Vec<_> = datagrams.iter().flat_map(take).collect();
                // With DSCP as it was, and the checksum that belongs to the marks.
                let want = comes_in.map(|ecn| {
                    let split = parts(&offer(ecn));
                    [vec![sample(v6, ecn).build()], split.clone(), split].concat()
                });
                assert!(
                    came == want.unwrap_or_default(),
                    "{inside:?} inside and {outside:?} outside do not become {comes_in:?}"
                );
            }
        }
    }
}

/// Whoever waits for a session keeps its marks; a handshake has none, and says nothing by them.
#[test]
fn what_waited_goes_out_marked_and_handshakes_do_not() {
    let (mut a, mut b) = pair();
    let now = a.now;
    let waits = sample(false, Ecn::Ce).build();
    let first = sent(|outbox| a.engine.send(&waits, Fragments::Allowed, outbox, now));
    assert_eq!(first.iter().map(|(ecn, _)| *ecn).collect::<Vec<_>>(), [Ecn::NotEct]);
    let answer = b.take_marked(a.address, Ecn::Ce, &first[0].1).network.remove(0).1;
    let data = sent(|outbox| {
        let mut memory = answer.clone();
        let whole = Datagrams {
            at: None,
            from: b.address,
            ecn: Ecn::Ce,
            range: 0..memory.len(),
            segment: memory.len(),
        };
        a.engine.take_datagrams(&mut memory, &whole, outbox, &mut |_| false, now);
    });
    assert_eq!(data.iter().map(|(ecn, _)| *ecn).collect::<Vec<_>>(), [Ecn::Ce]);
    assert_eq!(b.take_marked(a.address, Ecn::Ce, &data[0].1).link, [waits]);
}
