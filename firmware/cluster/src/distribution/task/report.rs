//! What is told of the task's state.

use super::Task;
use crate::distribution::diagnose::Diagnosis;
use crate::distribution::machine::State;
use crate::distribution::service::{DistributionState, Wish};
use crate::distribution::upgrade::{Service, Version};
use holdfast_api::Reason;
use holdfast_api::kubernetes::{KubernetesPhase, KubernetesRole};

impl Task {
    pub(super) fn report(&self) {
        let state = self.told_state();
        self.tell.send_if_modified(|told| {
            let is_news = *told != state;
            *told = state;
            is_news
        });
    }

    fn told_state(&self) -> DistributionState {
        let (phase, why) = self.phase_and_why();
        let (reason, message) = match why {
            Some(Diagnosis { reason, message }) => (Some(reason), message),
            None => (None, String::new()),
        };
        DistributionState {
            phase,
            role: match &self.wish {
                Wish::Run(wants) => wants.role,
                Wish::Unknown | Wish::Off => KubernetesRole::default(),
            },
            reason,
            message,
            version: self.version.clone(),
            ready_after: self.ready_after,
            starts: self.starts,
            ends: self.ends,
            pid: self.process.as_ref().map(|process| process.pid()),
            program: self.program(),
            service: self.versions.service,
        }
    }

    fn phase_and_why(&self) -> (KubernetesPhase, Option<Diagnosis>) {
        let why = |reason, message: &str| Some(Diagnosis { reason, message: message.into() });
        if self.pauses > 0 {
            return (KubernetesPhase::Restoring, self.blocked.clone());
        }
        let phase = self.machine.phase();
        let wrong = self.blocked.clone().or_else(|| self.problem.clone());
        match self.machine.state() {
            State::Off if matches!(self.wish, Wish::Run(_)) => {
                let wrong = wrong.or_else(|| self.upgrade_wrong());
                (KubernetesPhase::Preparing, wrong.or_else(|| why(Reason::KubernetesStarting, "")))
            }
            State::Off => (phase, None),
            State::Starting { .. } => {
                (phase, wrong.or_else(|| why(Reason::KubernetesStarting, "")))
            }
            State::Stopping { .. } => {
                (phase, wrong.or_else(|| why(Reason::KubernetesStarting, "it is restarted")))
            }
            State::NotReady { .. } => {
                (phase, wrong.or_else(|| why(Reason::KubernetesNotReady, "")))
            }
            State::Backoff { .. } => (phase, wrong),
            State::Ready { .. } => {
                let refused = self.refused.is_some().then(|| Diagnosis {
                    reason: Reason::KubernetesConfigRefused,
                    message: "the newest configuration was refused; the last good one runs".into(),
                });
                let wrong = self.blocked.clone().or(refused).or_else(|| self.upgrade_wrong());
                (phase, wrong.or_else(|| self.not_renewed()))
            }
        }
    }

    /// What keeps the wanted version from running, or the node from its restart.
    fn upgrade_wrong(&self) -> Option<Diagnosis> {
        let Wish::Run(wants) = &self.wish else { return None };
        let want = wants.artifact.as_ref().map(Version::of);
        if let Some(want) = &want {
            if let Some(failed) = self.versions.failure(want) {
                return Some(Diagnosis {
                    reason: Reason::KubernetesUpgradeFailed,
                    message: format!("{}: {}", failed.version, failed.message),
                });
            }
            if let Some(runs) = self.skipped_by(want) {
                return Some(Diagnosis {
                    reason: Reason::KubernetesVersionSkipped,
                    message: format!("{runs} runs, and {want} is asked for"),
                });
            }
        }
        let is_under_way = want.is_some() || self.versions.service != Service::In;
        self.upgrade_problem.clone().filter(|_| is_under_way)
    }
}
