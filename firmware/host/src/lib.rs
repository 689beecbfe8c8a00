//! The host's own files and settings: our block of `/etc/hosts`, kernel settings, SSH authorities.
//!
//! Each part is used the same way: `observe` reads what there is below a [`Root`], `plan` says
//! purely which steps lead to what is wanted, `apply` carries one out. Doing it twice changes
//! nothing the second time. Only what carries our marks is changed: the block between two marker
//! lines, settings that are named, and the sshd drop-in with the directory it points to.
//!
//! What it leaves out: users and console access, SSH host keys, and settings that are to hold
//! before the manager runs (the image's `sysctl.d`).
//!
//! [`Root`]: holdfast_api::paths::Root
#![warn(missing_docs)]

pub mod etc_hosts;
pub mod ssh_ca;
pub mod sysctl;

/// Whether a step changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Something is there that was not.
    Created,
    /// Something is different.
    Changed,
    /// It was so already.
    Unchanged,
}
