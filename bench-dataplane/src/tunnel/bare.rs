//! What the seal alone costs on this machine: the bound of every tunnel.
//!
//! In processor time, as what programs take is counted, and on a core that was warmed up: a bound
//! that is too slow would flatter whoever is held against it. Where the kernel counted cycles
//! (perf_event_open(2)) both sides could be counted in those; virtual machines mostly cannot.

use crate::report::median;
use anyhow::Context;
use nix::time::ClockId;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use std::time::Duration;

/// As in a tunnel: packets of the MTU, in a piece of 64 KiB.
const PACKET_BYTES: usize = 1420;
const PACKETS: usize = 45;
const TAG_BYTES: usize = 16;
/// Pieces of a pass.
const PIECES: u32 = 200;
const PASSES: usize = 5;
/// Of the processor, until its clock is up and code and data are where they are fast.
const WARM_UP: Duration = Duration::from_millis(100);

/// What was measured on both sides of a turn, pass after pass.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bare {
    seconds_per_gigabyte: Vec<f64>,
}

impl Bare {
    /// Seals and opens for a while, and then in some passes that count.
    pub(crate) fn measure(&mut self) -> anyhow::Result<()> {
        let mut seal = Seal::new()?;
        let begin = own_time()?;
        while own_time()? - begin < WARM_UP {
            seal.piece()?;
        }
        for _ in 0..PASSES {
            let begin = own_time()?;
            for _ in 0..PIECES {
                seal.piece()?;
            }
            let gigabytes = f64::from(PIECES) * (PACKETS * PACKET_BYTES) as f64 / 1e9;
            self.seconds_per_gigabyte.push((own_time()? - begin).as_secs_f64() / gigabytes);
        }
        Ok(())
    }

    /// Seconds of one core for sealing and opening a gigabyte: the median of all passes.
    pub(crate) fn seconds_per_gigabyte(&self) -> f64 {
        let mut sorted = self.seconds_per_gigabyte.clone();
        sorted.sort_by(f64::total_cmp);
        median(&sorted)
    }
}

/// Seals and opens in place, packet after packet.
struct Seal {
    key: LessSafeKey,
    memory: Vec<u8>,
    sealed: u64,
}

impl Seal {
    fn new() -> anyhow::Result<Self> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).ok().context("no key")?;
        let memory = vec![3; PACKETS * (PACKET_BYTES + TAG_BYTES)];
        Ok(Seal { key: LessSafeKey::new(key), memory, sealed: 0 })
    }

    fn piece(&mut self) -> anyhow::Result<()> {
        for packet in self.memory.chunks_mut(PACKET_BYTES + TAG_BYTES) {
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&self.sealed.to_le_bytes());
            self.sealed += 1;
            let (text, tag) = packet.split_at_mut(PACKET_BYTES);
            let nonce_of = || Nonce::assume_unique_for_key(nonce);
            let sealed = self.key.seal_in_place_separate_tag(nonce_of(), Aad::empty(), text);
            tag.copy_from_slice(sealed.ok().context("it does not seal")?.as_ref());
            let opened = self.key.open_in_place(nonce_of(), Aad::empty(), packet);
            opened.ok().context("it does not open")?;
        }
        Ok(())
    }
}

/// What this thread has taken of the processor, until now (clock_gettime(2)).
fn own_time() -> anyhow::Result<Duration> {
    Ok(ClockId::CLOCK_THREAD_CPUTIME_ID.now().context("the thread's clock")?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_a_turn_count_and_one_slow_pass_does_not() {
        let mut bare = Bare::default();
        bare.measure().unwrap();
        bare.measure().unwrap();
        assert_eq!(bare.seconds_per_gigabyte.len(), 2 * PASSES);
        assert!(bare.seconds_per_gigabyte.iter().all(|seconds| *seconds > 0.0), "{bare:?}");
        let bare = Bare { seconds_per_gigabyte: vec![2.0, 2.0, 90.0, 2.0, 2.0] };
        assert_eq!(bare.seconds_per_gigabyte(), 2.0);
    }

    #[test]
    fn what_is_sealed_is_no_text_until_it_is_opened() {
        let mut seal = Seal::new().unwrap();
        let before = seal.memory.clone();
        seal.piece().unwrap();
        let texts = |memory: &[u8]| -> Vec<u8> {
            let packets = memory.chunks(PACKET_BYTES + TAG_BYTES);
            packets.flat_map(|packet| packet[..PACKET_BYTES].to_vec()).collect()
        };
        assert_eq!(texts(&seal.memory), texts(&before));
        assert_ne!(seal.memory, before, "no packet has its tag");
        assert_eq!(seal.sealed, PACKETS as u64);
    }
}
