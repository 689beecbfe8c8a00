//! Brings the machine to what is wanted: files, process, and what was found running.

use super::{RETRY, Task, told};
use crate::distribution::diagnose::Diagnosis;
use crate::distribution::launch::Record;
use crate::distribution::machine::{Event, State};
use crate::distribution::plan::{FileState, Have, Running, Step, plan};
use crate::distribution::process::Process;
use crate::distribution::render::{self, MODE};
use crate::distribution::service::Wish;
use crate::distribution::want::Wanted;
use crate::distribution::{last_good, observe};
use holdfast_api::Reason;
use std::path::PathBuf;
use std::time::Instant;
use tracing::{info, warn};

impl Task {
    /// Brings the machine to what is wanted.
    pub(super) async fn reconcile(&mut self) {
        (self.blocked, self.retry_at) = (None, None);
        if let Err(problem) = self.try_reconcile().await {
            warn!(reason = %problem.reason, message = %problem.message, "Kubernetes is not as it is wanted");
            self.blocked = Some(problem);
            self.retry_at = Some(Instant::now() + RETRY);
        }
        self.tell_whether_ended();
    }

    async fn try_reconcile(&mut self) -> Result<(), Diagnosis> {
        self.changed = None;
        if self.pauses == 0 && self.wish == Wish::Unknown {
            return Ok(());
        }
        let mut found = None;
        if !self.machine.runs() {
            self.is_absent = false;
            found = self.launcher.find().await.map_err(|error| told(&error, error.reason()))?;
            self.is_absent = found.is_none();
        }
        if self.pauses > 0 {
            self.adopt(found).await;
            self.event(Event::Unwanted).await;
            return Ok(());
        }
        let want = self.want();
        if found.is_none() && !self.machine.runs() && want.is_some() && self.awaits_program() {
            return Ok(());
        }
        let have = Have {
            config: observed(render::config_path(&self.settings.paths)),
            registries: observed(render::registries_path(&self.settings.paths)),
            running: self.running(found.as_ref()),
            is_member: self.settings.paths.datastore_member().exists(),
            elsewhere: observe::elsewhere(&self.settings.paths),
        };
        let steps = match plan(want.as_ref(), &have) {
            Ok(steps) => steps,
            Err(error) => {
                // What runs already is the last good.
                self.adopt(found).await;
                return Err(told(&error, error.reason()));
            }
        };
        self.wanted = want;
        let done = self.carry_out(steps, &mut found).await;
        // Whatever could not be done: what runs is watched.
        self.adopt(found).await;
        done
    }

    async fn carry_out(
        &mut self,
        steps: Vec<Step>,
        found: &mut Option<(Process, Record)>,
    ) -> Result<(), Diagnosis> {
        for step in steps {
            info!(step = %step, "Kubernetes");
            match step {
                Step::Write(file) => {
                    holdfast_durable::write(&file.path, file.content.as_bytes(), MODE)
                        .map_err(|error| told(&error, unwritable(&error)))?;
                }
                Step::Remove(path) => {
                    holdfast_durable::remove(&path)
                        .map_err(|error| told(&error, unwritable(&error)))?;
                }
                Step::Adopt(_) => self.adopt(found.take()).await,
                Step::Start => self.event(Event::Wanted).await,
                Step::Restart(changed) => self.restart_for(changed).await,
                Step::Stop => self.event(Event::Unwanted).await,
            }
        }
        Ok(())
    }

    /// What is wanted, with the last good files for those that were refused.
    fn want(&mut self) -> Option<Wanted> {
        let Wish::Run(wants) = &self.wish else {
            (self.refused, self.problem) = (None, None);
            return None;
        };
        let mut arguments = vec![wants.command().to_owned()];
        arguments.extend(self.settings.arguments.iter().cloned());
        let want = Wanted::new(wants, &self.settings.paths, &self.program(), &arguments);
        if self.refused.as_ref().is_some_and(|refused| *refused != want) {
            self.refused = None;
        }
        match &self.refused {
            Some(refused) => last_good::instead_of(&self.settings.paths, refused).or(Some(want)),
            None => Some(want),
        }
    }

    fn running(&self, found: Option<&(Process, Record)>) -> Running {
        let aspects = self.record.aspects.clone();
        match (found, &self.process, self.machine.state()) {
            (Some((process, record)), _, _) => {
                Running::Found { pid: process.pid(), aspects: record.aspects.clone() }
            }
            (None, Some(process), _) => Running::Supervised { pid: process.pid(), aspects },
            // What was last wanted is what the next start takes.
            (None, None, State::Backoff { .. }) => Running::Pausing(
                self.wanted.as_ref().map(|wanted| wanted.aspects.clone()).unwrap_or_default(),
            ),
            (None, None, _) => Running::None,
        }
    }

    pub(super) async fn adopt(&mut self, found: Option<(Process, Record)>) {
        let Some((process, record)) = found else { return };
        info!(pid = process.pid(), "Kubernetes runs already and is adopted");
        (self.process, self.record, self.started) = (Some(process), record, None);
        self.is_absent = false;
        self.ask_version();
        self.event(Event::Adopted).await;
    }
}

fn observed(path: PathBuf) -> (PathBuf, FileState) {
    let state = observe::file(&path);
    (path, state)
}

fn unwritable(error: &holdfast_durable::WriteError) -> Reason {
    if error.disk_full() { Reason::KubernetesDiskFull } else { Reason::StateUnwritable }
}
