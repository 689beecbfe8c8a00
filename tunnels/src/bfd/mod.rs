//! Bidirectional Forwarding Detection inside of tunnels: asynchronous mode, single hop
//! (RFC 5880, RFC 5881).
//!
//! [`Packet`] is the wire, [`Session`] one machine, [`Sessions`] many of them with their
//! timers and the way from a received packet to its session; none of them knows sockets or
//! clocks. [`Service`] has them driven: by a thread of its own on links of the kernel, and by the
//! device's thread on a WireGuard device of this process.
//!
//! Left out: authentication (the tunnel authenticates), echo, multihop, and asking for demand
//! mode (a peer that asks for it is obeyed).

mod datagram;
pub(crate) mod fuzzing;
mod link;
mod packet;
mod path_mtu;
mod service;
mod session;
mod sessions;
mod socket;
mod watch;

pub use holdfast_api::tunnel::BfdState as State;
pub use packet::{Diag, PACKET_BYTES, Packet, ParseError};
pub use service::{Follower, Service};
pub use session::{Change, Role, Session, Settings, SettingsError};
pub use sessions::{Discard, LinkId, Outgoing, Sessions, Status};
pub use socket::{CONTROL_PORT, LinkSocket, SocketError};
