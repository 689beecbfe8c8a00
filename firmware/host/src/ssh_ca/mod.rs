//! SSH certificate authorities, the host's half: which CA keys sshd trusts to sign users'
//! certificates, and as whom their holders may log in (sshd_config(5), ssh-keygen(1) CERTIFICATES).
//!
//! While a rotation lasts, the declared set holds the old and the new key; certificates of both log
//! in. What is wanted is rendered as a *set*: a directory under `/etc/ssh/holdfast` named by the
//! hash of its content, with the keys, the principals and the drop-in that points to them.
//!
//! ```text
//!  stage ──► check ──► install ──► reload ──► sweep
//!            │ sshd -t  │ the drop-in is       (all but the set in force
//!            ▼          │ replaced by rename    and the last good one)
//!         refused,      ▼ sshd -t again
//!       nothing done   refused: the last good drop-in is put back
//! ```
//!
//! So what was checked is byte for byte what is installed, the switch is one rename(2), and a set
//! that sshd does not accept never replaces one that it did. A declared key that is no key never
//! becomes a [`Want`], so the last good set stays.
//!
//! Fails with [`SshError`]. What it leaves out: host keys and certificates, making keys, users'
//! accounts, and lists of revoked certificates (only their installation).

mod apply;
mod config;
mod daemon;
mod key;
mod model;
mod observe;
mod plan;
mod set;

pub use apply::{SshError, apply};
pub use daemon::{DaemonError, OpenSsh, Reload, Sshd};
pub use key::{KeyError, KeyKind, PublicKey};
pub use model::{Have, Principal, Revoked, UserName, Want, WantError};
pub use observe::observe;
pub use plan::{Step, plan};
pub use set::{Set, SetId};

use holdfast_api::marks::SSHD_DROP_IN;
use holdfast_api::paths::Root;
use std::path::PathBuf;

/// The places of this domain below a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// sshd's main configuration, which we read and never write.
    pub main: PathBuf,
    /// The directory of drop-ins.
    pub drop_ins: PathBuf,
    /// Our drop-in.
    pub drop_in: PathBuf,
    /// Our sets.
    pub sets: PathBuf,
    /// Names the set that was in force before the present one.
    pub last_good: PathBuf,
    /// Names the set with which sshd was last reloaded in this boot.
    pub loaded: PathBuf,
}

impl Places {
    /// The places below `root`.
    pub fn new(root: &Root) -> Self {
        let drop_ins = root.join("etc/ssh/sshd_config.d");
        let sets = root.join("etc/ssh/holdfast");
        Places {
            main: root.join("etc/ssh/sshd_config"),
            drop_in: drop_ins.join(SSHD_DROP_IN),
            drop_ins,
            last_good: sets.join("last-good"),
            sets,
            loaded: root.run_dir().join("ssh-loaded"),
        }
    }
}
