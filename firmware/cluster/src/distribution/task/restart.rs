//! Restarts of what runs, for another configuration and for certificates that end soon; and what
//! has to be mended before a start.

use super::{News, Task};
use crate::distribution::diagnose::{Diagnosis, Validity};
use crate::distribution::machine::{Event, State};
use crate::distribution::plan::Aspect;
use crate::distribution::renew::{self, Tried, Verdict};
use crate::distribution::service::Wish;
use crate::distribution::{containerd, observe};
use crate::paths::ClusterPaths;
use holdfast_api::Reason;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// One that was only just found has this long to say that it is ready: one that serves waits for
/// its turn.
const JUST_FOUND: Duration = Duration::from_secs(30);
/// One that is not ready for longer than a start takes may suffer from its certificates.
const DOWN: Duration = Duration::from_secs(120);
/// A disk that damages it again and again is not to pull all images without end.
const MEND_AGAIN: Duration = Duration::from_secs(3600);

/// What is known of certificates.
pub(super) struct Renewal {
    seen: Vec<Validity>,
    tried: Vec<Tried>,
    verdict: Verdict,
}

fn path(paths: &ClusterPaths) -> PathBuf {
    paths.state_dir().join("distribution/renewal.json")
}

impl Renewal {
    /// With what was tried by earlier managers.
    pub(super) fn load(paths: &ClusterPaths) -> Self {
        let text = std::fs::read(path(paths)).unwrap_or_default();
        let tried = serde_json::from_slice(&text).unwrap_or_default();
        Renewal { seen: Vec::new(), tried, verdict: Verdict::Good }
    }
}

impl Task {
    /// What runs was started with something else.
    pub(super) async fn restart_for(&mut self, changed: BTreeSet<Aspect>) {
        let serves = matches!(self.machine.state(), State::Ready { .. }) || self.is_just_found();
        // Another program comes after a drain of its own, or is the way back.
        if serves && !changed.contains(&Aspect::Program) {
            self.changed = Some(changed);
        } else {
            self.event(Event::Restart).await;
        }
    }

    fn is_just_found(&self) -> bool {
        let State::Starting { since, .. } = self.machine.state() else { return false };
        self.started.is_none() && since.elapsed() < JUST_FOUND
    }

    /// Whether what runs has to be restarted; not said while it may be ready in a moment.
    pub(super) fn must_restart(&self) -> bool {
        // One that starts renews them by itself.
        let renews = matches!(self.renewal.verdict, Verdict::Restart(_))
            && matches!(self.machine.state(), State::Ready { .. });
        (self.changed.is_some() || renews) && !self.is_just_found()
    }

    /// It is this node's turn, or nobody is served.
    pub(super) async fn restart(&mut self) {
        if let Some(changed) = self.changed.take() {
            info!(?changed, "Kubernetes is restarted for what changed");
        }
        if let Verdict::Restart(one) = self.renewal.verdict.clone() {
            self.renew(&one);
        }
        self.event(Event::Restart).await;
    }

    /// k3s renews when it starts. What that has to renew is written down first, so that what is not
    /// renewed does not restart it again and again.
    fn renew(&mut self, first: &Validity) {
        let ends = first.to;
        warn!(path = %first.path.display(), %ends, "Kubernetes is restarted to renew its certificates");
        self.renewal.tried = renew::remember(&self.renewal.seen, Timestamp::now());
        self.renewal.verdict = Verdict::Good;
        let text = serde_json::to_vec_pretty(&self.renewal.tried).unwrap_or_default();
        if let Err(error) = holdfast_durable::write(&path(&self.settings.paths), &text, 0o600) {
            warn!(error = %error, "what was renewed of Kubernetes' certificates is not kept");
        }
    }

    pub(super) fn send_look_at_certificates(&mut self) {
        let data = self.settings.paths.data_dir();
        let of = self.identity();
        self.sent.spawn_blocking(move || News::Certificates(of, observe::certificates(&data)));
    }

    pub(super) async fn judge_certificates(&mut self, seen: Vec<Validity>) {
        let wanted = matches!(self.wish, Wish::Run(_)) && self.pauses == 0;
        let is_down = match self.machine.state() {
            State::Ready { .. } => false,
            State::Starting { since, .. } | State::NotReady { since, .. }
                if since.elapsed() >= DOWN =>
            {
                true
            }
            // One that starts is about to renew them.
            State::Starting { .. }
            | State::NotReady { .. }
            | State::Off
            | State::Backoff { .. }
            | State::Stopping { .. } => {
                self.renewal.verdict = Verdict::Good;
                return;
            }
        };
        if !wanted {
            return;
        }
        self.renewal.seen = seen;
        let Renewal { seen, tried, .. } = &self.renewal;
        self.renewal.verdict = renew::judge(seen, tried, is_down, Timestamp::now());
        if let Verdict::RestartAtOnce(one) = self.renewal.verdict.clone() {
            self.renew(&one);
            self.event(Event::Restart).await;
        }
    }

    /// What stands in the way of the next start and comes again by itself.
    pub(super) async fn mend(&mut self) {
        let problem = self.problem.as_ref();
        if problem.is_none_or(|it| it.reason != Reason::KubernetesContainerdDamaged)
            || self.mended.is_some_and(|at| at.elapsed() < MEND_AGAIN)
        {
            return;
        }
        let paths = self.settings.paths.clone();
        let mended = tokio::task::spawn_blocking(move || {
            if containerd::has_containers(Path::new("/proc"), &paths) {
                return Ok(false);
            }
            containerd::set_aside(&paths).map(|()| true)
        });
        match mended.await {
            Ok(Ok(true)) => {
                warn!("the folder of containerd is emptied, and images are pulled again");
                self.mended = Some(Instant::now());
                self.send_clean();
            }
            Ok(Ok(false)) => warn!("the folder of containerd is in use by containers, and stays"),
            Ok(Err(error)) => warn!(error = %error, "the folder of containerd cannot be emptied"),
            Err(fault) => warn!(error = %fault, "the folder of containerd is not emptied"),
        }
    }

    /// Removes what was moved aside, which takes its time.
    pub(super) fn send_clean(&self) {
        let paths = self.settings.paths.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = containerd::remove_aside(&paths) {
                warn!(error = %error, "what containerd left behind takes room");
            }
        });
    }

    /// What a restart did not renew.
    pub(super) fn not_renewed(&self) -> Option<Diagnosis> {
        let Verdict::Stuck(one) = &self.renewal.verdict else { return None };
        let message = format!("{} ends at {}", one.path.display(), one.to);
        Some(Diagnosis { reason: Reason::KubernetesCertificateNotRenewed, message })
    }
}
