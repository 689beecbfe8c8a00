//! The `netd` domain in the pass.

use super::{Domain, DomainPlan, live, problem};
use crate::inputs::Inputs;
use crate::intent::network::wanted;
use holdfast_api::Reason;
use holdfast_api::local::{Problem, TrafficImpact};
use netd::model::MAIN_TABLE;
use netd::{Kernel, LinkName, Ownership, Step};

/// Links, addresses, routes and rules of the host.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// One socket for the life of the manager; opened at the first pass.
    kernel: Option<Kernel>,
    /// What was brought about last. Whatever is to be done to it again, somebody else undid.
    made: Option<netd::Network>,
}

impl Domain for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn plan<'a>(&'a mut self, inputs: &'a Inputs) -> Result<DomainPlan<'a>, Problem> {
        let owner = Ownership::host();
        let Network { kernel, made } = self;
        let kernel = match kernel {
            Some(kernel) => kernel,
            none => none.insert(Kernel::open().map_err(|error| problem(error.reason(), &error))?),
        };
        let mut wanted = wanted(inputs);
        let have = kernel
            .observe(&owner, &wanted.network)
            .map_err(|error| problem(error.reason(), &error))?;
        let waiting = wanted.dhcp.iter().filter(|link| !inputs.leases.contains_key(*link));
        for link in waiting {
            keep_last_lease(link, &have.ours, &mut wanted.network);
        }
        let mut steps = netd::plan(&wanted.network, &have, &owner)
            .map_err(|error| problem(error.reason(), &error))?;
        if inputs.admitted && inputs.desired.is_none() {
            steps.retain(|step| !takes_away(step));
        }
        let mut problems = wanted.problems;
        match steps.first() {
            Some(first) if made.as_ref() == Some(&wanted.network) => {
                problems.push(Problem::new(Reason::NetDrift, format!("put back: {first}")));
            }
            Some(_) => {}
            None => *made = Some(wanted.network),
        }
        Ok(DomainPlan {
            steps: steps
                .iter()
                .map(|step| live("network", step.to_string(), impact(step)))
                .collect(),
            problems,
            apply: Box::new(move || {
                kernel.apply_all(&steps).map(drop).map_err(|error| problem(error.reason(), &error))
            }),
        })
    }
}

/// A manager that was restarted knows no lease; what the last one set stays until the server
/// answers, so that a restart does not interrupt traffic.
fn keep_last_lease(link: &LinkName, have: &netd::Network, wanted: &mut netd::Network) {
    wanted.addresses.extend(have.addresses.iter().filter(|address| address.link == *link).cloned());
    let routes =
        have.routes.iter().filter(|route| route.table == MAIN_TABLE && route.link() == Some(link));
    wanted.routes.extend(routes.cloned());
}

fn takes_away(step: &Step) -> bool {
    matches!(
        step,
        Step::SetUp { up: false, .. }
            | Step::DeleteLink(_)
            | Step::DeleteAddress(_)
            | Step::DeleteRoute(_)
            | Step::DeleteNexthop(_)
            | Step::DeleteRule(_)
    )
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
