//! The search for the path's MTU on a link through a device of this process: beside the sessions,
//! since both ends have to be there, and it is asked only while a session is up.

use super::datagram::{Datagram, header_bytes, wrap};
use crate::path_mtu::packet::{self, Kind, LONGEST, PORT};
use crate::path_mtu::{Phase, Search};
use std::net::IpAddr;
use std::time::Instant;

/// Answers that wait for one turn; whoever asks more than that asks again.
const MOST_OWED: usize = 256;

/// The search of the session `key`, and what we answer others.
#[derive(Debug)]
pub(super) struct PathMtu<K> {
    search: Option<Active<K>>,
    owed: Vec<Owed>,
}

#[derive(Debug)]
struct Active<K> {
    key: K,
    peer: IpAddr,
    search: Search,
    told: Option<u16>,
}

/// An answer of so many bytes.
#[derive(Debug, Clone, Copy)]
struct Owed {
    to: IpAddr,
    payload_bytes: usize,
    nonce: u64,
}

impl<K: Ord + Clone> PathMtu<K> {
    pub(super) fn new() -> Self {
        PathMtu { search: None, owed: Vec::new() }
    }

    /// Searches on the way to `peer` as long as the session `key` is there.
    pub(super) fn begin(&mut self, key: K, peer: IpAddr, search: Search) {
        self.search = Some(Active { key, peer, search, told: None });
    }

    pub(super) fn forget(&mut self, key: &K) {
        self.search = self.search.take().filter(|active| active.key != *key);
    }

    pub(super) fn status(&self, key: &K) -> Option<(Phase, Option<u16>)> {
        let active = self.search.as_ref().filter(|active| active.key == *key)?;
        Some((active.search.phase(), active.search.mtu()))
    }

    /// Whose search it is.
    pub(super) fn key(&self) -> Option<&K> {
        self.search.as_ref().map(|active| &active.key)
    }

    /// Takes a datagram in; false when it is none of ours.
    pub(super) fn receive(&mut self, datagram: &Datagram<'_>, now: Instant) -> bool {
        match packet::parse(datagram.payload) {
            Some((Kind::Question, nonce)) => {
                if self.owed.len() < MOST_OWED {
                    let payload_bytes = datagram.payload.len();
                    self.owed.push(Owed { to: datagram.from, payload_bytes, nonce });
                }
                true
            }
            Some((Kind::Answer, nonce)) => {
                if let Some(active) = self.search.as_mut().filter(|a| a.peer == datagram.from) {
                    active.search.answered(nonce, now);
                }
                true
            }
            None => false,
        }
    }

    /// Sends what is due; `up` says whether the session is. A new result is the answer.
    pub(super) fn run(
        &mut self,
        local: IpAddr,
        up: bool,
        now: Instant,
        mut send: impl FnMut(&[u8]),
    ) -> Option<(K, Option<u16>)> {
        let mut buffer = [0; LONGEST + 48];
        for owed in self.owed.drain(..) {
            let payload = packet::payload(Kind::Answer, owed.nonce, owed.payload_bytes);
            if let Some(payload) = payload
                && let Some(packet) = wrap(local, owed.to, [PORT, PORT], &payload, &mut buffer)
            {
                send(packet);
            }
        }
        let active = self.search.as_mut()?;
        active.search.set_up(up, now);
        if let Some(ask) = active.search.run(now) {
            let payload_bytes = usize::from(ask.bytes).saturating_sub(header_bytes(active.peer));
            if let Some(payload) = packet::payload(Kind::Question, ask.nonce, payload_bytes)
                && let Some(packet) = wrap(local, active.peer, [PORT, PORT], &payload, &mut buffer)
            {
                send(packet);
            }
        }
        let mtu = active.search.mtu();
        (std::mem::replace(&mut active.told, mtu) != mtu).then(|| (active.key.clone(), mtu))
    }

    /// When [`PathMtu::run`] is due next.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.search.as_ref()?.search.wake_at()
    }
}
