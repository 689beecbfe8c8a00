//! A distribution for tests: its datastore is a folder, its program a shell script. It remembers
//! what it holds, so that it can be killed between any two steps.

use super::distribution::{Distribution, Paused, Refusal};
use super::etcd_file;
use super::records::Records;
use crate::nodes::restored::Reboots;
use crate::paths::ClusterPaths;
use futures_util::future::BoxFuture;
use holdfast_api::paths::Root;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::process::Command;

/// Databases of this many pages do not start.
pub(super) const DOES_NOT_START: u64 = 13;

pub(super) struct Fake {
    pub(super) paths: ClusterPaths,
    pub(super) version: Mutex<String>,
    /// A reset ends badly, with half a datastore.
    pub(super) breaks: AtomicBool,
    /// A drill does not end by itself.
    pub(super) drills_forever: AtomicBool,
    /// How often reboots were forgotten after a restore; that fails for the first so many times.
    pub(super) forgot: AtomicU32,
    pub(super) cannot_forget: AtomicU32,
    /// The next so many questions about reboots have no answer.
    pub(super) cannot_tell: AtomicU32,
    /// The version of the reboot lock, which a node holds.
    pub(super) lock: AtomicU32,
    paused: Arc<AtomicU32>,
}

struct Guard(Arc<AtomicU32>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Fake {
    pub(super) fn below(dir: &Path) -> Self {
        Fake {
            paths: ClusterPaths::new(&Root::new(dir)),
            version: Mutex::new("v1.33.1+k3s1".into()),
            breaks: AtomicBool::new(false),
            drills_forever: AtomicBool::new(false),
            forgot: AtomicU32::default(),
            cannot_forget: AtomicU32::default(),
            cannot_tell: AtomicU32::default(),
            lock: AtomicU32::new(1),
            paused: Arc::default(),
        }
    }

    /// The datastore has a database of so many pages.
    pub(super) fn hold(&self, pages: u64) {
        holdfast_durable::write(&self.database(), &etcd_file::sample(pages), 0o600).unwrap();
    }

    /// The pages of the datastore that is in place.
    pub(super) fn holds(&self) -> Option<u64> {
        std::fs::metadata(self.database()).ok().map(|data| data.len() / 4096)
    }

    pub(super) fn database(&self) -> PathBuf {
        self.paths.data_dir().join("server/db/etcd/member/snap/db")
    }

    /// A snapshot of ours with so many pages, and its name.
    pub(super) fn snapshot(&self, stamp: u64, pages: u64) -> String {
        let name = format!("holdfast-{stamp:010}-n-{stamp}");
        let path = Records::new(&self.paths).snapshot(&name);
        holdfast_durable::write(&path, &etcd_file::sample(pages), 0o600).unwrap();
        name
    }

    pub(super) fn secret(&self, name: &str, content: &str) {
        let path = self.paths.data_dir().join(name);
        holdfast_durable::write(&path, content.as_bytes(), 0o600).unwrap();
    }

    pub(super) fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.paths.data_dir().join(name)).ok()
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst) > 0
    }
}

impl Distribution for Fake {
    fn command(&self, words: &[&str]) -> Command {
        let data = self.paths.data_dir();
        let script = match words {
            ["etcd-snapshot", "save", "--name", name] => format!(
                "mkdir -p {data}/server/db/snapshots && cp {db} {data}/server/db/snapshots/{name}-n-1",
                data = data.display(),
                db = self.database().display()
            ),
            // As k3s: without the last word it would not, on a server that was told to join others.
            ["server", "--cluster-reset", path, "--server="] => {
                assert!(self.is_paused(), "the datastore is made while the distribution runs");
                let from = path.split_once('=').unwrap().1;
                let db = self.database();
                let ending = if self.breaks.load(Ordering::SeqCst) { "exit 1" } else { "" };
                format!(
                    "test ! -e {flag} && mkdir -p {dir} && cp {from} {db} && touch {flag}; {ending}",
                    dir = db.parent().unwrap().display(),
                    db = db.display(),
                    flag = data.join("server/db/reset-flag").display()
                )
            }
            ["server", _, "--cluster-reset", _] if self.drills_forever.load(Ordering::SeqCst) => {
                "exec sleep 600".into()
            }
            _ => "exit 1".into(),
        };
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        command
    }

    fn version(&self) -> String {
        self.version.lock().unwrap().clone()
    }

    fn pause(&self) -> BoxFuture<'_, Result<Paused, Refusal>> {
        self.paused.fetch_add(1, Ordering::SeqCst);
        let guard: Paused = Box::new(Guard(self.paused.clone()));
        Box::pin(async { Ok(guard) })
    }

    fn wait_ready(&self, _: Duration) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async {
            match self.holds() {
                _ if self.is_paused() => Err("it is kept stopped".into()),
                None => Err("it has no datastore".into()),
                Some(DOES_NOT_START) => Err("the datastore is damaged".into()),
                Some(_) => Ok(()),
            }
        })
    }

    fn reboots(&self) -> BoxFuture<'_, Result<Reboots, Refusal>> {
        let version = self.lock.load(Ordering::SeqCst).to_string();
        let leases = [("holdfast-reboot".to_owned(), version)].into();
        let left = self.cannot_tell.load(Ordering::SeqCst);
        self.cannot_tell.store(left.saturating_sub(1), Ordering::SeqCst);
        let answers = left == 0 && self.holds().is_some_and(|_| !self.is_paused());
        let found = Reboots { leases, ..Reboots::default() };
        Box::pin(async move { if answers { Ok(found) } else { Err("it does not answer".into()) } })
    }

    fn forget_reboots<'a>(&'a self, of_before: &'a Reboots) -> BoxFuture<'a, Result<(), Refusal>> {
        let left = self.cannot_forget.load(Ordering::SeqCst);
        self.cannot_forget.store(left.saturating_sub(1), Ordering::SeqCst);
        let answers = left == 0 && self.holds().is_some_and(|_| !self.is_paused());
        let version = self.lock.load(Ordering::SeqCst).to_string();
        let forgets = answers && of_before.leases["holdfast-reboot"] == version;
        self.forgot.fetch_add(u32::from(forgets), Ordering::SeqCst);
        Box::pin(async move { if answers { Ok(()) } else { Err("it does not answer".into()) } })
    }
}
