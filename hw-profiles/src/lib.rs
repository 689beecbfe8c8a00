//! What a box is and what that implies.
//!
//! [`probe()`] reads [`Facts`] from `/sys` and `/proc`. A [`Catalogue`] holds the profiles that
//! are compiled in (`profiles/*.toml`) and those of the vendor and the administrator.
//! [`select()`] picks the one [`Profile`] for the facts and explains itself; [`resolve_nics`]
//! gives network ports their roles; [`check`] compares the machine with what the profile
//! promises; [`validate()`] finds the mistakes in a file; [`kubernetes`] has the rules of what a
//! node's distribution takes.
//!
//! Only [`probe()`] and [`Catalogue::load`] touch the machine, and both only read. Neither fails
//! as a whole: the first gives what it could read and complaints, the second what is good and
//! problems with file, line and column. Acting on a profile (pools, sysctls, ports, tunnels) is
//! the business of other crates.
#![warn(missing_docs)]

pub mod assertions;
mod cpulist;
pub mod facts;
pub mod file;
pub mod kubernetes;
pub mod load;
pub mod matching;
pub mod platform;
pub mod probe;
pub mod profile;
pub mod roles;
pub mod select;
pub mod units;
pub mod validate;

pub use assertions::{AssertionResult, check};
pub use facts::Facts;
pub use file::ProfileFile;
pub use load::{Catalogue, shipped};
pub use probe::{Complaint, probe};
pub use profile::Profile;
pub use roles::{Role, RoleError, resolve_nics};
pub use select::{Selection, select};
pub use units::{Bytes, PageSize};
pub use validate::{Problem, validate};
