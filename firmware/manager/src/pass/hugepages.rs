//! The `hugepages` domain in the pass.

use super::{Domain, DomainPlan, live, problem};
use crate::inputs::Inputs;
use crate::intent::hugepages::request;
use holdfast_api::Reason;
use holdfast_api::local::{Effect, PlannedStep, Problem, TrafficImpact};
use hugepages::drive::SystemClock;
use hugepages::plan::Reboot;
use hugepages::{Patience, Plan, Sysfs, demand, drive, observe, plan};
use std::time::{Duration, Instant};

/// Compacting memory costs a core for a second; a pool that the kernel could not fill is not asked
/// for again before this time, unless something else is wanted or there.
const RETRY: Duration = Duration::from_secs(300);

/// Pools of huge pages.
#[derive(Debug, Default)]
pub(super) struct Pools {
    /// The last plan that could not be carried out whole, when, and why.
    gave_up: Option<(Plan, Instant, Problem)>,
}

impl Domain for Pools {
    fn name(&self) -> &'static str {
        "hugepages"
    }

    fn plan<'a>(&'a mut self, inputs: &'a Inputs) -> Result<DomainPlan<'a>, Problem> {
        let have = observe(&inputs.root).map_err(|error| problem(error.reason(), &error))?;
        let want = demand(&request(&inputs.profile), &have)
            .map_err(|error| problem(error.reason(), &error))?;
        let plan = plan(&want, &have);
        let mut steps: Vec<PlannedStep> = plan
            .steps
            .iter()
            .map(|step| live("hugepages", step.to_string(), TrafficImpact::None))
            .collect();
        let mut problems: Vec<Problem> = plan
            .refused
            .iter()
            .map(|refusal| Problem::new(refusal.reason(), refusal.to_string()))
            .collect();
        match &plan.reboot {
            Reboot::No | Reboot::Perhaps(_) => {}
            Reboot::Needed(arguments) => {
                let text = format!("boot with the kernel arguments `{arguments}`");
                problems.insert(0, Problem::new(Reason::HugepagesNeedReboot, text.clone()));
                steps.push(PlannedStep {
                    domain: "hugepages".into(),
                    text,
                    effect: Effect::Reboot,
                    traffic: TrafficImpact::Interrupted,
                });
            }
        }
        let apply = Box::new(move || {
            if let Some((tried, at, why)) = &self.gave_up
                && *tried == plan
                && at.elapsed() < RETRY
            {
                return Err(why.clone());
            }
            self.gave_up = None;
            let mut kernel = Sysfs::new(inputs.root.clone());
            let report =
                drive(&mut kernel, &want, Patience::default(), &inputs.root, &mut SystemClock)
                    .map_err(|error| problem(error.reason(), &error))?;
            match report.findings().into_iter().next() {
                None => Ok(()),
                Some(finding) => {
                    let why = Problem::new(finding.reason, finding.message);
                    self.gave_up = Some((plan, Instant::now(), why.clone()));
                    Err(why)
                }
            }
        });
        Ok(DomainPlan { steps, problems, apply })
    }
}
