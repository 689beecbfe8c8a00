//! One peer of a device.

use super::key::{PresharedKey, PrivateKey};
use boringtun::noise::Tunn;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519;
use holdfast_api::tunnel::PublicKey;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The first repetition of a handshake that is wanted now. The protocol's own is five seconds
/// (`REKEY_TIMEOUT`), which is how long a node would wait whose edge learns of it a moment
/// after its first message; responders take up to one initiation in 20 ms.
const FIRST_REPEAT: Duration = Duration::from_millis(200);
/// Repetitions double up to the protocol's own interval, from which boringtun's timers count on.
const LAST_REPEAT: Duration = Duration::from_secs(5);

/// How a peer shall be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerConfig {
    /// Where it is; none: wherever it speaks up from. It may roam.
    pub endpoint: Option<SocketAddr>,
    /// Extra symmetric key.
    pub preshared_key: Option<PresharedKey>,
    /// Seconds between keepalives, 0 for none.
    pub keepalive_secs: u16,
    /// What is sent to it and accepted from it.
    pub allowed_ips: BTreeSet<IpNet>,
    /// Shake hands at once and keep trying, not only when there is something to send.
    pub eager: bool,
}

/// What can be said about a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its key.
    pub public_key: PublicKey,
    /// How it is set up, with the endpoint it was last heard from.
    pub config: PeerConfig,
    /// Time since the last handshake was completed; none without a session.
    pub handshake_age: Option<Duration>,
    /// Bytes of datagrams received from it.
    pub rx_bytes: u64,
    /// Bytes of datagrams sent to it.
    pub tx_bytes: u64,
}

pub(super) struct Peer {
    pub(super) public_key: PublicKey,
    pub(super) config: PeerConfig,
    pub(super) tunn: Tunn,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
    /// A handshake is wanted: when to send the next initiation, and the pause after it.
    pub(super) hello: Option<(Instant, Duration)>,
}

impl Peer {
    pub(super) fn new(
        private_key: &PrivateKey,
        public_key: PublicKey,
        config: PeerConfig,
        index: u32,
        limiter: &Arc<RateLimiter>,
        now: Instant,
    ) -> Self {
        let tunn = Tunn::new(
            private_key.secret(),
            x25519::PublicKey::from(public_key.0),
            config.preshared_key.as_ref().map(|key| *key.expose()),
            Some(config.keepalive_secs).filter(|secs| *secs > 0),
            index,
            Some(Arc::clone(limiter)),
        );
        let hello = config.eager.then_some((now, FIRST_REPEAT));
        Peer { public_key, config, tunn, rx_bytes: 0, tx_bytes: 0, hello }
    }

    /// Wants a handshake now, whatever the state of the session.
    pub(super) fn renew(&mut self, now: Instant) {
        if self.hello.is_none() {
            self.hello = Some((now, FIRST_REPEAT));
        }
    }

    /// When the next initiation is due.
    pub(super) fn hello_at(&self) -> Option<Instant> {
        self.hello.filter(|_| self.config.endpoint.is_some()).map(|(at, _)| at)
    }

    /// Whether an initiation is due; plans the next one.
    pub(super) fn hello_due(&mut self, now: Instant) -> bool {
        if self.hello_at().is_none_or(|at| now < at) {
            return false;
        }
        let Some((_, pause)) = self.hello else { return false };
        self.hello = Some((now + pause, (pause * 2).min(LAST_REPEAT)));
        true
    }

    pub(super) fn status(&self) -> PeerStatus {
        PeerStatus {
            public_key: self.public_key,
            config: self.config.clone(),
            handshake_age: self.tunn.time_since_last_handshake(),
            rx_bytes: self.rx_bytes,
            tx_bytes: self.tx_bytes,
        }
    }
}
