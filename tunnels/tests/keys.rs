//! What becomes of the keys of a real device: those that are taken away are nowhere in the memory of
//! the program any more, and those that are changed make it another device.

#![allow(clippy::unwrap_used, reason = "helpers of the test; a panic is a failed test")]

mod wires;
mod world;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_poll::until;
use std::fs::File;
use std::io::BufRead;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use wires::{End, Kind, need, tunnel, wg_key};
use x25519_dalek::{PublicKey, StaticSecret};

/// What a program answers by is done, and what it did it with is dropped a moment later.
const PATIENCE: Duration = Duration::from_secs(60);

/// A secret in a form in which it may be in memory.
struct Wanted {
    name: String,
    bytes: Vec<u8>,
}

fn raw(base64: &str) -> [u8; 32] {
    STANDARD.decode(base64).unwrap().try_into().unwrap()
}

/// A key in its three forms.
fn forms(name: &str, base64: &str) -> [Wanted; 3] {
    let bytes = raw(base64);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [
        Wanted { name: name.to_owned(), bytes: bytes.into() },
        Wanted { name: format!("{name} in hexadecimal"), bytes: hex.into() },
        Wanted { name: format!("{name} in base64"), bytes: base64.trim_end_matches('=').into() },
    ]
}

/// What every handshake of both needs besides their own keys.
fn common(end: &End, other: &End) -> Wanted {
    let secret = StaticSecret::from(raw(&end.private));
    let common = secret.diffie_hellman(&PublicKey::from(raw(&other.public)));
    Wanted { name: "what both keys have in common".into(), bytes: common.as_bytes().into() }
}

/// Where `bytes` has the other ones.
fn place(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let (first, others) = wanted.split_first()?;
    let mut rest = bytes;
    while !rest.is_empty() {
        rest.skip_until(*first).unwrap();
        if rest.starts_with(others) {
            return Some(bytes.len() - rest.len() - 1);
        }
    }
    None
}

/// What of `wanted` is in the memory of an end's program, and where.
fn found(end: &End, wanted: &[Wanted]) -> Vec<String> {
    let pid = end.program.as_ref().unwrap().id();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut found = Vec::new();
    for map in maps.lines() {
        let mut words = map.split_ascii_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        // What was unmapped meanwhile is nowhere.
        if !rights.starts_with("rw") || memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        for Wanted { name, bytes: wanted } in wanted {
            found.extend(
                place(&bytes, wanted).map(|at| format!("{name}, {at:#x} bytes into {map}")),
            );
        }
    }
    found
}

#[test]
fn keys_that_are_taken_away_are_nowhere_in_memory() {
    need!(Kind::Ours);
    let shared = wg_key("genpsk", "");
    let ends = tunnel([Kind::Ours, Kind::Ours], &shared);
    let [a, b] = &ends;
    assert!(a.pings("10.9.0.2", "4000") && b.pings("fd09::1", "4000"));
    // The one began the handshake, the other one answered it.
    for (end, other) in [(a, b), (b, a)] {
        let own = forms("the private key", &end.private);
        let shared = forms("the preshared key", &shared);
        let wanted: Vec<Wanted> =
            own.into_iter().chain(shared).chain([common(end, other)]).collect();
        let shown = end.run("wg", &["showconf", &end.link]);
        assert!(shown.contains(&end.private));
        let before = found(end, &wanted);
        for name in ["the private key", "the preshared key", "what both keys have in common"] {
            let is_it = |found: &String| found.starts_with(&format!("{name},"));
            assert!(before.iter().any(is_it), "who looks does not find {name}: {before:#?}");
        }
        let take = ["private-key", "/dev/null", "peer", &other.public, "remove"];
        end.run("wg", &[&["set", &end.link][..], &take].concat());
        until("nothing is left of the keys", PATIENCE, || match found(end, &wanted) {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        });
    }
}

/// Also for whoever had a session with it.
#[test]
fn a_device_with_another_key_is_another_device() {
    need!(Kind::Ours);
    let shared = wg_key("genpsk", "");
    let ends = tunnel([Kind::Ours, Kind::Ours], &shared);
    let [a, b] = &ends;
    assert!(a.pings("10.9.0.2", "56") && b.pings("10.9.0.1", "56"));
    let private = wg_key("genkey", "");
    let public = wg_key("pubkey", &private);
    a.run("wg", &["set", &a.link, "private-key", a.file("another", &private).to_str().unwrap()]);
    let ping = ["-c", "1", "-W", "1"];
    for (end, to) in [(a, "10.9.0.2"), (b, "10.9.0.1")] {
        let answered = end.namespace.run("ping", &[&ping[..], &[to]].concat()).status.success();
        assert!(!answered, "nobody knows the new key");
    }
    let shared = b.file("shared", &shared);
    let follow = [
        &["set", &b.link, "peer", &a.public, "remove", "peer", &public][..],
        &["preshared-key", shared.to_str().unwrap(), "endpoint", "192.0.2.1:5001"],
        &["allowed-ips", "10.9.0.1,fd09::1"],
    ];
    b.run("wg", &follow.concat());
    assert!(b.pings("10.9.0.1", "56") && a.pings("fd09::2", "56"));
    let shakes = b.run("wg", &["show", &b.link, "latest-handshakes"]);
    assert!(shakes.starts_with(&public) && !shakes.ends_with("\t0"), "{shakes}");
}
