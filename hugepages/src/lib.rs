//! Huge pages of the machine: pools of 2 MiB and 1 GiB per NUMA node, and hugetlbfs mounts.
//!
//! The way through: [`demand()`] turns a [`Request`] (counts and shares, from the profile) into a
//! [`Want`] for this machine; [`observe()`] reads what [`Have`] there is; [`plan()`] says which
//! [`Step`]s lead from one to the other; [`Converge`] drives them, with what to do when the
//! kernel gives less than it was asked for; [`verify()`] compares at each boot.
//!
//! What it promises:
//! * a NUMA node gets all that is wanted of it, or its earlier pools back;
//! * no step takes the machine below the memory floor;
//! * a pool never shrinks below the pages that are in use;
//! * pools of a size that nobody asked for, and mounts elsewhere, are left alone.
//!
//! Pure but for [`mod@observe`], [`mod@apply`], [`baseline`] and [`mod@drive`]. What it leaves out: writing the
//! kernel command line (the boot loader's owner does that, with the argument from the report),
//! transparent huge pages, and overcommit (surplus) pages, which only the kernel makes.
#![warn(missing_docs)]

pub mod apply;
pub mod baseline;
pub mod boot;
pub mod converge;
pub mod demand;
pub mod drive;
pub mod model;
pub mod mounts;
pub mod observe;
pub mod plan;
pub mod recover;
pub mod report;
pub mod verify;

#[cfg(test)]
mod fake;

pub use apply::{ApplyError, Kernel, Outcome, Sysfs, apply};
pub use baseline::Baseline;
pub use boot::KernelArguments;
pub use converge::{Action, Converge};
pub use demand::{DemandError, demand};
pub use drive::{DriveError, drive};
pub use model::{
    Amount, Bytes, Have, Memory, Mount, NodeHave, NodeId, PageSize, Pool, PoolRequest, Request,
    Want, Where,
};
pub use observe::{ObserveError, observe};
pub use plan::{Plan, Refusal, Step, plan};
pub use recover::Patience;
pub use report::{Finding, MountOutcome, NodeOutcome, Report};
pub use verify::verify;
