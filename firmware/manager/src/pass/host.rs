//! The `host` domain in the pass: three items, because each fails for reasons of its own.

use super::{Domain, DomainPlan, live, problem};
use crate::inputs::Inputs;
use crate::intent::host as intent;
use holdfast_api::local::{Effect, PlannedStep, Problem, TrafficImpact};
use holdfast_host::{etc_hosts, ssh_ca, sysctl};

/// Our block of `/etc/hosts`.
#[derive(Debug)]
pub(super) struct Hosts;

impl Domain for Hosts {
    fn name(&self) -> &'static str {
        "hosts"
    }

    fn plan<'a>(&'a mut self, inputs: &'a Inputs) -> Result<DomainPlan<'a>, Problem> {
        let (want, mut problems) = intent::hosts(inputs);
        let have =
            etc_hosts::observe(&inputs.root).map_err(|error| problem(error.reason(), &error))?;
        let steps = etc_hosts::plan(&want, &have);
        problems.extend(
            steps.iter().filter_map(|step| {
                step.reason().map(|reason| Problem::new(reason, step.to_string()))
            }),
        );
        Ok(DomainPlan {
            steps: steps
                .iter()
                .map(|step| live("hosts", step.to_string(), TrafficImpact::None))
                .collect(),
            problems,
            apply: Box::new(move || {
                let mut each = steps.iter().map(|step| etc_hosts::apply(&inputs.root, step));
                each.try_for_each(|done| done.map(drop))
                    .map_err(|error| problem(error.reason(), &error))
            }),
        })
    }
}

/// Kernel settings.
#[derive(Debug)]
pub(super) struct Sysctls;

impl Domain for Sysctls {
    fn name(&self) -> &'static str {
        "sysctl"
    }

    fn plan<'a>(&'a mut self, inputs: &'a Inputs) -> Result<DomainPlan<'a>, Problem> {
        let (want, problems) = intent::sysctls(inputs);
        let steps = sysctl::plan(&want, &sysctl::observe(&inputs.root, &want));
        Ok(DomainPlan {
            steps: steps
                .iter()
                .map(|step| live("sysctl", step.to_string(), TrafficImpact::None))
                .collect(),
            problems,
            // One setting that this kernel lacks must not keep the others from being made.
            apply: Box::new(move || {
                let failed = steps
                    .iter()
                    .filter_map(|step| sysctl::apply(&inputs.root, step).err())
                    .reduce(|first, _| first);
                failed.map_or(Ok(()), |error| Err(problem(error.reason(), &error)))
            }),
        })
    }
}

/// SSH authorities.
#[derive(Debug, Default)]
pub(super) struct Ssh {
    sshd: Option<ssh_ca::OpenSsh>,
}

impl Domain for Ssh {
    fn name(&self) -> &'static str {
        "ssh"
    }

    fn plan<'a>(&'a mut self, inputs: &'a Inputs) -> Result<DomainPlan<'a>, Problem> {
        let Some(want) = intent::ssh(inputs)? else { return Ok(DomainPlan::nothing(Vec::new())) };
        let sshd = self.sshd.get_or_insert_with(|| ssh_ca::OpenSsh::find(&inputs.root));
        let have =
            ssh_ca::observe(&inputs.root, sshd).map_err(|error| problem(error.reason(), &error))?;
        let steps = ssh_ca::plan(&want, &have);
        let notes = have
            .reason()
            .map(|reason| Problem::new(reason, reason.sentence()))
            .into_iter()
            .collect();
        let step = |step: &ssh_ca::Step| PlannedStep {
            domain: "ssh".into(),
            text: step.to_string(),
            // sshd reloads; sessions go on.
            effect: Effect::Restart,
            traffic: TrafficImpact::None,
        };
        Ok(DomainPlan {
            steps: steps.iter().map(step).collect(),
            problems: notes,
            apply: Box::new(move || {
                let mut each = steps.iter().map(|step| ssh_ca::apply(&inputs.root, step, sshd));
                each.try_for_each(|done| done.map(drop))
                    .map_err(|error| problem(error.reason(), &error))
            }),
        })
    }
}
