//! The `netd` domain in the pass.

use super::{Domain, DomainPlan, live, problem};
use crate::inputs::Inputs;
use crate::intent::network::wanted;
use holdfast_api::local::{Problem, TrafficImpact};
use netd::{Kernel, Ownership, Step};

/// Links, addresses, routes and rules of the host.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// One socket for the life of the manager; opened at the first pass.
    kernel: Option<Kernel>,
}

impl Domain for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn plan<'a>(&'a mut self, inputs: &'a Inputs) -> Result<DomainPlan<'a>, Problem> {
        let owner = Ownership::host();
        let kernel = match &mut self.kernel {
            Some(kernel) => kernel,
            none => none.insert(Kernel::open().map_err(|error| problem(error.reason(), &error))?),
        };
        let wanted = wanted(inputs);
        let have = kernel.observe(&owner, &wanted.network).map_err(|error| problem(error.reason(), &error))?;
        let steps = netd::plan(&wanted.network, &have, &owner).map_err(|error| problem(error.reason(), &error))?;
        Ok(DomainPlan {
            steps: steps.iter().map(|step| live("network", step.to_string(), impact(step))).collect(),
            problems: wanted.problems,
            apply: Box::new(move || {
                kernel.apply_all(&steps).map(drop).map_err(|error| problem(error.reason(), &error))
            }),
        })
    }
}

/// Taking something away can cost traffic that used it; the plan makes before it breaks.
fn impact(step: &Step) -> TrafficImpact {
    match step {
        Step::SetUp { up: false, .. } | Step::DeleteLink(_) => TrafficImpact::Interrupted,
        Step::DeleteAddress(_)
        | Step::DeleteRoute(_)
        | Step::DeleteNexthop(_)
        | Step::DeleteRule(_)
        | Step::SetMac { .. }
        | Step::SetController { .. }
        | Step::SetWireguard { .. } => TrafficImpact::Brief,
        Step::CreateLink(_)
        | Step::SetUp { up: true, .. }
        | Step::SetMtu { .. }
        | Step::SetSysctl { .. }
        | Step::AddAddress(_)
        | Step::CreateNexthop(_)
        | Step::ReplaceNexthop { .. }
        | Step::AddRoute(_)
        | Step::ReplaceRoute { .. }
        | Step::AddRule(_) => TrafficImpact::None,
    }
}
