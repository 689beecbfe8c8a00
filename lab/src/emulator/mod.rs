//! Emulated links between network namespaces: delay, jitter, loss, rate, cuts.
//!
//! A kernel may lack netem, so the laboratory carries frames itself: the [`engine`] owns a TAP
//! device at each end of each link and moves Ethernet frames between them through a [`Shaper`]
//! per direction. The shaper is pure (virtual time in tests); the engine is one thread around
//! ppoll(2), asleep when nothing is in flight.
//!
//! The interfaces live as long as the file descriptors: killing the emulator in any way leaves
//! nothing behind. It runs as a process of its own (`lab emulate`) or as a thread
//! ([`Emulator::start`]), and is changed live over its [`control`] socket.
//!
//! Left out: queueing disciplines other than drop at the tail, corruption, duplication.

pub mod control;
pub mod engine;
pub mod model;
mod port;
pub mod shaper;

pub use control::{Control, ControlError, LinkState, Reply, Request};
pub use engine::{Emulator, EmulatorError, PortError, run};
pub use model::{Change, Cut, Direction, End, Link, LinkModel, check_loss};
pub use shaper::{Counters, Dropped, Shaper, Verdict};
