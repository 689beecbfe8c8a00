//! Who may shake hands how often.
//!
//! Under the device's limit everybody may: so many a second, after a rest as many more as it has
//! peers, for an edge that was started anew hears of all of them at once. Beyond it a sender must
//! have shown its address, and each address (of IPv6 its /64) has a bucket of five that fills with
//! twenty a second (`PACKETS_PER_SECOND` and `PACKETS_BURSTABLE` in
//! drivers/net/wireguard/ratelimiter.c). The table of addresses is bounded: when it is full of
//! addresses that write now, new ones wait.

use super::cookie::Proof;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
/// One more message of an address.
const REFILL: Duration = Duration::from_millis(50);
/// A full bucket is five of them.
const BURST: Duration = Duration::from_millis(250);
/// Addresses at a time; more than any edge has tunnels.
const MOST_ADDRESSES: usize = 16_384;

/// What becomes of a handshake message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is worked on.
    Work,
    /// Its sender shall show its address first.
    AskForCookie,
    /// It is dropped.
    Drop,
}

/// What became of the handshake messages that came, since the device was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HandshakeCounts {
    /// Worked on, or waiting for that.
    pub taken: u64,
    /// Answered with a cookie: the sender has to show its address first.
    pub cookies: u64,
    /// Dropped: forged, too many of one address, or too many that wait.
    pub dropped: u64,
}

/// Counts.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// A message takes so much of the limit.
    each: Duration,
    /// When the limit is unused again (the generic cell rate algorithm, ITU-T I.371).
    unused_at: Instant,
    /// Addresses that owe nothing are forgotten then.
    forget_at: Instant,
    /// Load does not end before this, so that it does not begin anew each second.
    loaded_until: Option<Instant>,
    /// Until when each address has used up its bucket: a time in the future is what it owes.
    owed: BTreeMap<IpAddr, Instant>,
}

impl Limiter {
    /// Load begins beyond `per_second` messages, 1 and up; see the module for bursts.
    pub(crate) fn new(per_second: u64, now: Instant) -> Self {
        Limiter {
            each: Duration::from_nanos(1_000_000_000 / per_second.max(1)),
            unused_at: now,
            forget_at: now + SECOND,
            loaded_until: None,
            owed: BTreeMap::new(),
        }
    }

    /// Whether senders must show their address now.
    pub(crate) fn is_loaded(&self, now: Instant) -> bool {
        self.loaded_until.is_some_and(|until| now < until)
    }

    /// Decides about a message, to a device with so many peers.
    pub(crate) fn judge(
        &mut self,
        proof: Proof,
        from: IpAddr,
        peers: usize,
        now: Instant,
    ) -> Verdict {
        if proof == Proof::None {
            return Verdict::Drop;
        }
        if now >= self.forget_at {
            self.forget_at = now + SECOND;
            self.owed.retain(|_, until| *until > now);
        }
        let burst = self.each.saturating_mul(u32::try_from(peers).unwrap_or(u32::MAX)).max(SECOND);
        let next = self.unused_at.max(now) + self.each;
        if next <= now + burst {
            self.unused_at = next;
        } else {
            self.loaded_until = Some(now + SECOND);
        }
        match (self.is_loaded(now), proof) {
            (false, _) => Verdict::Work,
            (true, Proof::Address) if self.pays(from, now) => Verdict::Work,
            (true, Proof::Address) => Verdict::Drop,
            (true, _) => Verdict::AskForCookie,
        }
    }

    fn pays(&mut self, from: IpAddr, now: Instant) -> bool {
        let source = source(from);
        if self.owed.len() >= MOST_ADDRESSES && !self.owed.contains_key(&source) {
            return false;
        }
        let until = self.owed.entry(source).or_insert(now);
        let next = (*until).max(now) + REFILL;
        let pays = next <= now + BURST;
        if pays {
            *until = next;
        }
        pays
    }
}

/// What one sender can write from.
fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn beyond_the_limit_an_address_must_be_shown() {
        let now = Instant::now();
        let mut limiter = Limiter::new(10, now);
        let verdicts: Vec<_> = (0..12).map(|n| limiter.judge(Proof::Key, ip(n), 1, now)).collect();
        assert!(verdicts[..10].iter().all(|verdict| *verdict == Verdict::Work));
        assert!(verdicts[10..].iter().all(|verdict| *verdict == Verdict::AskForCookie));
        assert_eq!(limiter.judge(Proof::None, ip(0), 1, now), Verdict::Drop);
        assert_eq!(limiter.judge(Proof::Address, ip(0), 1, now), Verdict::Work);
        let later = now + SECOND;
        assert!(!limiter.is_loaded(later));
        assert_eq!(limiter.judge(Proof::Key, ip(0), 1, later), Verdict::Work, "it has passed");
    }

    #[test]
    fn one_address_of_ipv6_is_a_whole_network() {
        let now = Instant::now();
        let mut limiter = Limiter::new(1, now);
        limiter.judge(Proof::Key, ip(1), 1, now);
        let worked = (0..100u128)
            .map(|n| IpAddr::V6((0x2001_0db8_u128 << 96 | n).into()))
            .filter(|from| limiter.judge(Proof::Address, *from, 1, now) == Verdict::Work)
            .count();
        assert_eq!(worked, 5);
    }

    #[test]
    fn the_table_of_addresses_is_bounded() {
        let now = Instant::now();
        let mut limiter = Limiter::new(1, now);
        for n in 0..100_000u32 {
            limiter.judge(Proof::Address, IpAddr::V4(n.into()), 1, now);
        }
        assert!(limiter.owed.len() <= MOST_ADDRESSES);
        let later = now + 2 * SECOND;
        limiter.judge(Proof::Address, ip(1), 1, later);
        assert!(limiter.owed.len() <= 1, "addresses that fell silent are forgotten");
    }

    proptest! {
        /// Whoever proves no address is worked on so many times a second, and in a burst once for
        /// each peer or for a second; load is told as soon as that is used up.
        #[test]
        fn a_burst_is_as_many_as_there_are_peers(per_second in 1u64..500, peers in 0usize..2000, gaps in proptest::collection::vec(0u64..2_000, 1..400)) {
            let start = Instant::now();
            let mut limiter = Limiter::new(per_second, start);
            let most = per_second.max(peers as u64);
            let at_once = (0..most + 3).filter(|_| limiter.judge(Proof::Key, ip(1), peers, start) == Verdict::Work).count();
            prop_assert!((most..=most + 1).contains(&(at_once as u64)), "{} of {}", at_once, most);
            prop_assert!(limiter.is_loaded(start));
            let (mut now, mut worked) = (start, 0u64);
            for gap in gaps {
                now += Duration::from_millis(gap);
                worked += u64::from(limiter.judge(Proof::Key, ip(1), peers, now) == Verdict::Work);
            }
            let millis = u64::try_from((now - start).as_millis()).unwrap();
            prop_assert!(worked <= 1 + millis * per_second / 1000, "{} in {} ms", worked, millis);
        }

        /// Over any stretch an address gets five and twenty a second, under load.
        #[test]
        fn an_address_gets_no_more_than_its_share(gaps in proptest::collection::vec(0u64..200, 1..200)) {
            let start = Instant::now();
            let mut limiter = Limiter::new(1, start);
            let mut now = start;
            let mut worked = 0u64;
            for gap in gaps {
                now += Duration::from_millis(gap);
                // Others keep it loaded.
                limiter.judge(Proof::Key, ip(1), 1, now);
                limiter.judge(Proof::Key, ip(1), 1, now);
                if limiter.judge(Proof::Address, ip(2), 1, now) == Verdict::Work {
                    worked += 1;
                }
                let millis = u64::try_from((now - start).as_millis()).unwrap();
                prop_assert!(worked <= 5 + millis / 50, "{} after {} ms", worked, millis);
            }
        }
    }
}
