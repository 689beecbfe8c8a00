//! Contents of the release that the controller names: fetched once, kept on the disk, so that a
//! node without its controller can bring it onto the cluster, also after a restart.
//!
//! The newest one only: the engine keeps by itself what it needs of the release in force. What is
//! read back is believed only when its digest is the one that is asked for.

use holdfast_api::kubernetes::release_digest;
use holdfast_api::local::Problem;
use holdfast_api::paths::Root;
use holdfast_api::resources::ReleaseSpec;
use holdfast_api::{Reason, chain};
use holdfast_durable::{Loaded, SlotError, Slots};
use tracing::warn;

/// The store.
#[derive(Debug, Clone)]
pub struct ReleaseStore {
    slots: Slots,
}

impl ReleaseStore {
    /// The store below `root`. Manifests may hold secrets: mode 0600.
    pub fn new(root: &Root) -> Self {
        ReleaseStore { slots: Slots::new(root.state_dir().join("release.json"), 0o600) }
    }

    /// The release with this digest, when it is the one that is kept.
    pub fn load(&self, digest: &str) -> Option<ReleaseSpec> {
        let kept = match self.slots.load::<ReleaseSpec>() {
            Ok(Loaded::Newest(kept) | Loaded::LastGood(kept, _)) => kept,
            Ok(Loaded::Empty) => return None,
            Err(error) => {
                warn!(error = chain(&error), "the release is fetched again");
                return None;
            }
        };
        (release_digest(&kept.manifests) == digest).then_some(kept)
    }

    /// Keeps a release in place of the one before.
    ///
    /// # Errors
    /// The disk refuses; the one before is still kept then.
    pub fn store(&self, release: &ReleaseSpec) -> Result<(), Problem> {
        let problem = |error: SlotError| Problem::new(reason(&error), chain(&error));
        self.slots.store(release).map_err(problem)
    }
}

/// Why state is not kept: room is made by other people than those who mend a disk.
pub(crate) fn reason(error: &SlotError) -> Reason {
    match error {
        SlotError::Write { source, .. } if source.disk_full() => Reason::StateDiskFull,
        SlotError::Write { .. } | SlotError::Encode { .. } | SlotError::Damaged { .. } => {
            Reason::StateUnwritable
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_durable::WriteError;

    #[test]
    fn a_disk_that_is_full_is_not_one_that_is_broken() {
        for (errno, want) in [
            (nix::libc::ENOSPC, Reason::StateDiskFull),
            (nix::libc::EDQUOT, Reason::StateDiskFull),
            (nix::libc::EROFS, Reason::StateUnwritable),
        ] {
            let source = std::io::Error::from_raw_os_error(errno);
            let source = WriteError { attempt: "write", path: "x".into(), source };
            assert_eq!(reason(&SlotError::Write { path: "x".into(), source }), want);
        }
        // As the disk says it: no folder where a file is.
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        holdfast_durable::write(&root.state_dir(), b"", 0o600).unwrap();
        let problem = ReleaseStore::new(&root).store(&ReleaseSpec::default()).unwrap_err();
        assert_eq!(problem.reason, Reason::StateUnwritable);
    }

    #[test]
    fn only_the_content_that_was_asked_for_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let store = ReleaseStore::new(&Root::new(dir.path()));
        let release = |text: &str| ReleaseSpec {
            version: "1".into(),
            manifests: [("a.yaml".into(), text.into())].into(),
            timeout_secs: 7,
        };
        let digest = |text: &str| release_digest(&release(text).manifests);
        assert_eq!(store.load(&digest("x")), None);
        store.store(&release("x")).unwrap();
        assert_eq!(store.load(&digest("x")), Some(release("x")));
        assert_eq!(store.load(&digest("y")), None, "another one is wanted");
        std::fs::File::create(dir.path().join("var/lib/holdfast/release.json")).unwrap();
        assert_eq!(store.load(&digest("x")), None, "damaged and nothing before it: fetched again");
    }
}
