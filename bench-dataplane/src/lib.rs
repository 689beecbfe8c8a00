//! Numbers with their setup.
//!
//! A scenario builds what it measures on this machine, in network namespaces of its own, measures
//! it many times beside a peer (another way of doing the same thing, in the same run, interleaved),
//! and gives a [`Report`]. Reports are printed as a table, as JSON, and drawn. Nothing is asserted:
//! a number that falls short is still a number.
//!
//! A new scenario gets a file in `scenario/` and a line in [`scenario::ALL`].
#![warn(missing_docs)]

mod interrupt;
mod kubernetes;
mod leftovers;
pub mod page;
pub mod plot;
pub mod report;
pub mod scenario;
pub mod table;
mod traffic;
mod tunnel;
mod world;

pub use interrupt::{clean_up_on_signals, wait_for_clean_up};
pub use report::{Report, Series};

/// Gets the WireGuard programs that ours is compared with into the user's cache; says what it does.
///
/// # Errors
/// A program cannot be fetched or built.
pub fn install_peers(say: fn(&str)) -> anyhow::Result<()> {
    tunnel::install::install(say)
}
