//! What the seal alone costs on this machine: the bound of every tunnel.

use anyhow::Context;
use nix::time::ClockId;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use std::time::Duration;

/// As in a tunnel: packets of the MTU, in a piece of 64 KiB.
const PACKET_BYTES: usize = 1420;
const PACKETS: usize = 45;
const TAG_BYTES: usize = 16;
const REPEATS: u32 = 400;

/// Seconds of one core for sealing and opening a gigabyte in place, packet after packet.
pub(crate) fn seconds_per_gigabyte() -> anyhow::Result<f64> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).ok().context("no key")?;
    let key = LessSafeKey::new(key);
    let mut memory = vec![3; PACKETS * (PACKET_BYTES + TAG_BYTES)];
    // The thread's own time: what else runs on the machine is not the seal's.
    let begin = own_time()?;
    for round in 0..REPEATS {
        for (packet, number) in memory.chunks_mut(PACKET_BYTES + TAG_BYTES).zip(0u32..) {
            let mut nonce = [0; 12];
            nonce[..4].copy_from_slice(&number.to_le_bytes());
            nonce[4..8].copy_from_slice(&round.to_le_bytes());
            let (text, tag) = packet.split_at_mut(PACKET_BYTES);
            let nonce_of = || Nonce::assume_unique_for_key(nonce);
            let sealed = key.seal_in_place_separate_tag(nonce_of(), Aad::empty(), text);
            tag.copy_from_slice(sealed.ok().context("it does not seal")?.as_ref());
            let opened = key.open_in_place(nonce_of(), Aad::empty(), packet);
            opened.ok().context("it does not open")?;
        }
    }
    let bytes = f64::from(REPEATS) * (PACKETS * PACKET_BYTES) as f64;
    Ok((own_time()? - begin).as_secs_f64() / (bytes / 1e9))
}

/// What this thread has taken of the processor, until now (clock_gettime(2)).
fn own_time() -> anyhow::Result<Duration> {
    Ok(ClockId::CLOCK_THREAD_CPUTIME_ID.now().context("the thread's clock")?.into())
}
