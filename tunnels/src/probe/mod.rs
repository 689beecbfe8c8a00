//! How far an edge is: a UDP probe of ours and its echo.
//!
//! [`Prober`] decides when to ask whom and keeps the smoothed round-trip times; it knows no
//! socket and no clock. [`answer`] is all that the other side does. A reply is as long as the
//! request, so nobody can use an edge to amplify traffic, and it repeats a nonce that only the
//! asker and the edge know, so nobody off the path can pretend to be near.
//!
//! ```text
//!  0      4        5       6          8                16
//!  ┌──────┬────────┬───────┬──────────┬────────────────┐
//!  │ HFPB │ version│ kind  │ zero     │ nonce          │   kind: 1 request, 2 reply
//!  └──────┴────────┴───────┴──────────┴────────────────┘
//! ```

mod packet;
mod prober;
mod responder;

pub use packet::{Kind, PACKET_BYTES, ParseError, Probe};
pub use prober::{Measured, Prober};
pub use responder::{answer, serve};
