//! How large a packet may be to pass a tunnel whole: packets that are padded to the size in
//! question go there and back, and may not be fragmented outside (RFC 8899). Nobody on the way has
//! to say anything, as ICMP would have to.
//!
//! [`Search`] decides what to ask and what follows. Who
//! asks is the active end of a tunnel, whose link takes what was found; both ways are tried, since
//! the answer is as large as the question.

pub(crate) mod packet;
mod search;

pub use search::{Ask, LEAST, Phase, Search};
