//! WireGuard in this process: for kernels without it, and for the edge.
//!
//! Handshake and ciphers are boringtun's; what is here is everything around them.
//! [`Engine`] is the device without sockets: peers, cryptokey routing, timers, roaming,
//! cookies under load. [`Device`] is a thread that moves packets between a TUN device and a
//! UDP socket through an engine. [`uapi`] lets wg(8) look at it and change it.
//!
//! Straightforward rather than fast: one packet per system call, one thread per device. No
//! allocation per packet, but for those that wait for a handshake.

mod allowed_ips;
mod device;
mod engine;
mod key;
mod peer;
pub mod uapi;

pub use allowed_ips::AllowedIps;
pub(crate) use device::Resident;
pub use device::{Device, DeviceError, Options, WeakDevice};
pub use engine::{Engine, Output};
pub use holdfast_api::tunnel::PublicKey;
pub use key::{KeyError, PresharedKey, PrivateKey};
pub use peer::{PeerConfig, PeerStatus};

/// The MTU of links that carry IP in WireGuard over IPv6 over Ethernet: 1500 − 40 − 8 − 32.
pub const DEFAULT_MTU: u32 = 1420;
