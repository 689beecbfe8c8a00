//! WireGuard in this process: for kernels without it, and for the edge.
//!
//! The handshake's cryptography is snow's and the packets' ring's; what is here is everything
//! around them. `Engine` is the device without sockets: peers, cryptokey routing, timers,
//! roaming, cookies under load. [`Device`] is a thread that moves packets between a TUN device and
//! a UDP socket through an engine. [`uapi`] lets wg(8) look at it and change it.
//!
//! Packets move in pieces of up to 64 KiB both ways, as the kernel gives and takes them: one read
//! of the link is split, sealed in place and sent by one call; one call receives many datagrams,
//! which are opened in place and joined into one write. There is no clock read per packet, and no
//! copy and no allocation of packets that are laid out as the one before.

mod aead;
mod allowed_ips;
mod control;
mod cookie;
mod crew;
#[doc(hidden)]
pub mod crowd;
mod deadlines;
mod device;
mod engine;
pub(crate) mod fuzzing;
mod initiations;
mod inner;
mod job;
mod key;
mod keyring;
mod layout;
mod letters;
mod limiter;
mod memory;
mod message;
mod noise;
mod outbox;
mod peer;
mod port;
mod replay;
mod session;
mod staged;
mod sys;
mod timers;
mod tun;
pub mod uapi;
mod unsplit;
mod wire;

pub(crate) use device::Resident;
pub use device::{Device, DeviceError, DeviceStatus, Options, Tuning, WeakDevice};
pub use holdfast_api::tunnel::PublicKey;
pub use inner::join::Offers;
pub use key::{KeyError, PresharedKey, PrivateKey};
pub use limiter::HandshakeCounts;
pub use memory::{Pages, UnknownPages};
pub(crate) use outbox::Fragments;
pub use peer::{PeerConfig, PeerStatus};
pub use tun::LinkEnd;

/// The MTU of links that carry IP in WireGuard over IPv6 over Ethernet: 1500 − 40 − 8 − 32.
pub const DEFAULT_MTU: u32 = 1420;
