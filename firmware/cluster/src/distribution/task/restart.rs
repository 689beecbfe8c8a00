//! Restarts of what runs: for another configuration, and for certificates that end soon.

use super::{News, Task};
use crate::distribution::diagnose::{Diagnosis, Validity};
use crate::distribution::machine::{Event, State};
use crate::distribution::observe;
use crate::distribution::plan::Aspect;
use crate::distribution::renew::{self, Tried, Verdict};
use crate::distribution::service::Wish;
use crate::paths::ClusterPaths;
use holdfast_api::Reason;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tracing::{info, warn};

/// One that was only just found has this long to say that it is ready: one that serves waits for
/// its turn.
const JUST_FOUND: Duration = Duration::from_secs(30);
/// One that is not ready for longer than a start takes may suffer from its certificates.
const DOWN: Duration = Duration::from_secs(120);

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
        self.sent.spawn_blocking(move || News::Certificates(observe::certificates(&data)));
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

    /// What a restart did not renew.
    pub(super) fn not_renewed(&self) -> Option<Diagnosis> {
        let Verdict::Stuck(one) = &self.renewal.verdict else { return None };
        let message = format!("{} ends at {}", one.path.display(), one.to);
        Some(Diagnosis { reason: Reason::KubernetesCertificateNotRenewed, message })
    }
}
