//! One step. The drop-in is the switch: it is replaced by rename(2), and put back when sshd does
//! not accept the result.

use super::Places;
use super::config::candidate;
use super::daemon::{DaemonError, Sshd};
use super::model::{Have, Revoked};
use super::observe::{NO_SET, names, observe, read, tree};
use super::plan::{Step, in_force};
use super::set::{AUTHORITIES, DROP_IN, PRINCIPALS, REVOKED, Set, SetId};
use crate::Outcome;
use holdfast_api::Reason;
use holdfast_api::paths::Root;
use holdfast_durable::{Outcome as Wrote, WriteError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Which attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// Something cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Something cannot be stored; what is in force stays.
    #[error("cannot store the SSH authorities")]
    Write(#[source] WriteError),
    /// A directory of ours cannot be made or removed.
    #[error("cannot change the directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// sshd does not accept the set; what was in force stays or is back.
    #[error("sshd does not accept the SSH authorities")]
    Rejected(#[source] DaemonError),
    /// sshd accepts the set and would not use it.
    #[error(
        "sshd would not use our {keyword}: it is {} instead of {want} (does sshd_config include sshd_config.d, \
         and does another file set it first?)",
        got.as_deref().unwrap_or("not set")
    )]
    NotInForce {
        /// Which setting.
        keyword: String,
        /// What it should be.
        want: String,
        /// What it is.
        got: Option<String>,
    },
    /// sshd did not accept the installed set, and what was in force could not be put back.
    #[error(
        "sshd does not accept the installed SSH authorities, and the last good ones could not be put back"
    )]
    Stuck {
        /// Why it was not accepted.
        cause: Box<SshError>,
        /// Why the last good ones are not back.
        #[source]
        undo: WriteError,
    },
    /// The running sshd goes on with what it has.
    #[error("sshd did not reload")]
    Reload(#[source] DaemonError),
}

impl SshError {
    /// The code that people see.
    pub fn reason(&self) -> Reason {
        match self {
            SshError::Write(error) | SshError::Stuck { undo: error, .. } if error.disk_full() => {
                Reason::StateDiskFull
            }
            SshError::Read { .. } | SshError::Write(_) | SshError::Directory { .. } => {
                Reason::StateUnwritable
            }
            SshError::Rejected(_) | SshError::NotInForce { .. } | SshError::Stuck { .. } => {
                Reason::SshConfigRejected
            }
            SshError::Reload(_) => Reason::SshReloadFailed,
        }
    }

    /// Whether trying again later can help without another declaration.
    pub fn retryable(&self) -> bool {
        match self {
            SshError::Read { .. }
            | SshError::Write(_)
            | SshError::Directory { .. }
            | SshError::Reload(_) => true,
            // The machine's own part of the configuration may be mended.
            SshError::Rejected(_) | SshError::NotInForce { .. } | SshError::Stuck { .. } => true,
        }
    }
}

/// Carries out one step.
///
/// # Errors
/// [`SshError`]. After an error the rest of the plan must not be carried out.
pub fn apply(root: &Root, step: &Step, sshd: &mut impl Sshd) -> Result<Outcome, SshError> {
    let places = Places::new(root);
    match step {
        Step::Stage { set, .. } => stage(set),
        Step::Check(set) => check_staged(&places, set, sshd).map(|()| Outcome::Unchanged),
        Step::Install(set) => install(root, &places, set, sshd),
        Step::Withdraw => {
            holdfast_durable::remove(&places.drop_in).map(outcome).map_err(SshError::Write)
        }
        Step::Reload(id) => {
            let outcome = sshd.reload().map_err(SshError::Reload)?;
            let word = id.as_ref().map_or(NO_SET.to_string(), SetId::to_string);
            put(&places.loaded, word.as_bytes())?;
            Ok(outcome)
        }
        Step::Sweep(ids) => sweep(&places, ids),
    }
}

fn stage(set: &Set) -> Result<Outcome, SshError> {
    let fail = |path: &Path| {
        let path = path.to_path_buf();
        move |source| SshError::Directory { path, source }
    };
    let made = !set.dir().exists();
    let place = set.dir().parent().unwrap_or(set.dir());
    for dir in [place, set.dir(), &set.dir().join(PRINCIPALS)] {
        std::fs::create_dir_all(dir).map_err(fail(dir))?;
        // sshd reads principals only below directories that nobody else can write (StrictModes).
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir, mode).map_err(fail(dir))?;
    }
    let mut changed = false;
    for path in tree(set.dir(), Path::new(""))? {
        if !set.files().contains_key(&path) && path != Path::new(DROP_IN) {
            changed |= holdfast_durable::remove(&set.dir().join(path)).map_err(SshError::Write)?
                == Wrote::Changed;
        }
    }
    for (path, content) in set.files() {
        changed |= put(&set.dir().join(path), content)? == Wrote::Changed;
    }
    changed |= put(&set.dir().join(DROP_IN), set.drop_in().as_bytes())? == Wrote::Changed;
    Ok(match (made, changed) {
        (true, _) => Outcome::Created,
        (false, true) => Outcome::Changed,
        (false, false) => Outcome::Unchanged,
    })
}

fn check_staged(places: &Places, set: &Set, sshd: &impl Sshd) -> Result<(), SshError> {
    let krl = set.files().get(Path::new(REVOKED)).is_some_and(|list| Revoked::is_krl(list));
    if krl {
        let (list, key) = (set.dir().join(REVOKED), set.dir().join(AUTHORITIES));
        sshd.check_krl(&list, &key).map_err(SshError::Rejected)?;
    }
    let main = read(&places.main)?.unwrap_or_default();
    let home = places.main.parent().unwrap_or(Path::new("/"));
    let staged = set.dir().join(DROP_IN);
    let text = String::from_utf8_lossy(&main);
    let text = candidate(&text, home, &places.drop_ins, &names(&places.drop_ins)?, &staged);
    let file = places.sets.join("check.conf");
    put(&file, text.as_bytes())?;
    let result = in_effect(set, sshd, &file);
    // A left-over does no harm; nobody includes it.
    let _ = std::fs::remove_file(&file);
    result
}

fn install(root: &Root, places: &Places, set: &Set, sshd: &impl Sshd) -> Result<Outcome, SshError> {
    let have: Have = observe(root, sshd)?;
    if let Some(id) = in_force(&have).filter(|id| id != set.id()) {
        put(&places.last_good, id.to_string().as_bytes())?;
    }
    let wrote = put(&places.drop_in, set.drop_in().as_bytes())?;
    let Err(cause) = in_effect(set, sshd, &places.main) else {
        return Ok(match (have.drop_in, wrote) {
            (None, _) => Outcome::Created,
            (Some(_), wrote) => outcome(wrote),
        });
    };
    let undone = match &have.drop_in {
        Some(earlier) => holdfast_durable::write(&places.drop_in, earlier, 0o644),
        None => holdfast_durable::remove(&places.drop_in).map(|_| ()),
    };
    match undone {
        Ok(()) => Err(cause),
        Err(undo) => Err(SshError::Stuck { cause: Box::new(cause), undo }),
    }
}

/// Whether sshd accepts `config`, and our settings would be in force.
fn in_effect(set: &Set, sshd: &impl Sshd, config: &Path) -> Result<(), SshError> {
    let effective = sshd.check(config).map_err(SshError::Rejected)?;
    for (keyword, want) in set.settings() {
        let got = effective.get(keyword);
        if got != Some(&want) {
            return Err(SshError::NotInForce {
                keyword: keyword.to_string(),
                want,
                got: got.cloned(),
            });
        }
    }
    Ok(())
}

fn sweep(places: &Places, ids: &[SetId]) -> Result<Outcome, SshError> {
    let mut swept = Outcome::Unchanged;
    for id in ids {
        let path = places.sets.join(id.to_string());
        match std::fs::remove_dir_all(&path) {
            Ok(()) => swept = Outcome::Changed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(SshError::Directory { path, source }),
        }
    }
    Ok(swept)
}

fn put(path: &Path, content: &[u8]) -> Result<Wrote, SshError> {
    holdfast_durable::write_if_changed(path, content, 0o644).map_err(SshError::Write)
}

fn outcome(wrote: Wrote) -> Outcome {
    match wrote {
        Wrote::Changed => Outcome::Changed,
        Wrote::Unchanged => Outcome::Unchanged,
    }
}
