//! The reconcile pass: plan every domain, apply in order, verify, report.
//!
//! Order: host → hugepages → netd → tunnels. What is exclusive is released before it is taken;
//! what carries traffic is made before it is broken (each domain's plan sees to that). A domain
//! that fails is reported with its reason code and does not hold up the others: a box whose
//! hugepages are short must still raise its tunnels, or nobody can help it.
//!
//! A new domain gets a file here, a place in `Pass::domains`, and nothing else moves.

mod host;
mod hugepages;
mod network;
mod tunnels;

use crate::inputs::Inputs;
pub(crate) use holdfast_api::chain;
use holdfast_api::local::{
    Effect, ItemReport, ItemState, PlanReport, PlannedStep, Problem, TrafficImpact,
};
use holdfast_api::{Reason, Severity};
use std::collections::BTreeMap;
use std::error::Error;
use tracing::{debug, info, warn};

/// What a domain would do, and the means to do it.
pub(crate) struct DomainPlan<'a> {
    /// The steps, in order.
    pub(crate) steps: Vec<PlannedStep>,
    /// What cannot be had whatever is done.
    pub(crate) problems: Vec<Problem>,
    /// Carries the steps out; the first failure ends it.
    pub(crate) apply: Box<dyn FnOnce() -> Result<(), Problem> + 'a>,
}

impl DomainPlan<'_> {
    /// A plan of nothing.
    pub(crate) fn nothing(problems: Vec<Problem>) -> Self {
        DomainPlan { steps: Vec::new(), problems, apply: Box::new(|| Ok(())) }
    }
}

/// One domain of the machine as the pass sees it. It keeps what it must remember between passes;
/// all else comes with the inputs.
pub(crate) trait Domain: Send {
    /// The name that reports show.
    fn name(&self) -> &'static str;
    /// Reads the machine and plans; changes nothing.
    fn plan<'a>(&'a mut self, inputs: &'a Inputs) -> Result<DomainPlan<'a>, Problem>;
}

/// All domains, in the order of the pass.
pub struct Pass {
    domains: Vec<Box<dyn Domain>>,
    /// What each domain reported last: what fails again and again is told once.
    last: BTreeMap<&'static str, Told>,
}

/// What the log knows of a domain.
struct Told {
    report: ItemReport,
    /// The steps that failed.
    steps: Vec<String>,
}

impl Default for Pass {
    fn default() -> Self {
        Pass {
            domains: vec![
                Box::new(host::Hosts),
                Box::new(host::Sysctls),
                Box::<host::Ssh>::default(),
                Box::<hugepages::Pools>::default(),
                Box::<network::Network>::default(),
                Box::new(tunnels::Tunnels),
            ],
            last: BTreeMap::new(),
        }
    }
}

impl Pass {
    /// A dry run of everything.
    pub fn plan(&mut self, inputs: &Inputs) -> PlanReport {
        let mut report = PlanReport::default();
        for domain in &mut self.domains {
            match domain.plan(inputs) {
                Ok(plan) => {
                    report.steps.extend(plan.steps);
                    // What is only good to know is in the status; it hinders nothing.
                    let hinders = |problem: &Problem| problem.severity > Severity::Info;
                    report.problems.extend(plan.problems.into_iter().filter(hinders));
                }
                Err(problem) => report.problems.push(problem),
            }
        }
        report
    }

    /// Brings the machine to what the inputs ask for; one report per domain.
    pub fn run(&mut self, inputs: &Inputs) -> Vec<ItemReport> {
        let last = &mut self.last;
        let one = |domain: &mut Box<dyn Domain>| {
            let name = domain.name();
            let known = last.get(name).filter(|told| told.report.state == ItemState::Failed);
            let told = run_one(domain.as_mut(), inputs, known);
            let report = told.report.clone();
            last.insert(name, told);
            report
        };
        self.domains.iter_mut().map(one).collect()
    }
}

/// One domain: plan, apply, plan again. `known` is its failure of the last pass; of the same
/// failure, and the same steps, the log is not told again.
fn run_one(domain: &mut dyn Domain, inputs: &Inputs, known: Option<&Told>) -> Told {
    let name = domain.name();
    let report = |state, problem: Option<Problem>| Told {
        report: ItemReport {
            domain: name.into(),
            state,
            reason: problem.as_ref().map(|p| p.reason),
            message: problem.map(|p| p.message).unwrap_or_default(),
        },
        steps: Vec::new(),
    };
    let (steps, problems, apply) = match domain.plan(inputs) {
        Ok(DomainPlan { steps, problems, apply }) => (steps, problems, apply),
        Err(problem) => {
            let failed = report(ItemState::Failed, Some(problem));
            tell(&failed.report, known, "cannot plan");
            return failed;
        }
    };
    if steps.is_empty() {
        return match problems.into_iter().next() {
            None => report(ItemState::Ok, None),
            Some(problem) => report(state_of(problem.reason), Some(problem)),
        };
    }
    let planned = steps.len();
    for step in &steps {
        match known.is_some_and(|told| told.steps.contains(&step.text)) {
            false => info!(domain = name, step = step.text, "applying"),
            true => debug!(domain = name, step = step.text, "trying again"),
        }
    }
    if let Err(problem) = apply() {
        let failed = report(ItemState::Failed, Some(problem));
        tell(&failed.report, known, "step failed");
        return Told { steps: steps.into_iter().map(|step| step.text).collect(), ..failed };
    }
    // What was found and mended: worth knowing, and gone with the next pass.
    let found = problems.into_iter().find(|problem| problem.severity == Severity::Warning);
    if let Some(found) = &found {
        warn!(domain = name, reason = %found.reason, message = found.message, "found and mended");
    }
    // Success is what the kernel says, not what we asked.
    match domain.plan(inputs) {
        Err(problem) => report(ItemState::Failed, Some(problem)),
        Ok(DomainPlan { steps, problems, .. }) => {
            match (steps.first(), problems.into_iter().next()) {
                (Some(left), problem) => {
                    let text = format!(
                        "{} of {planned} steps are still to be done: {}",
                        steps.len(),
                        left.text
                    );
                    let problem = problem.unwrap_or_else(|| Problem::new(Reason::Internal, text));
                    report(ItemState::Waiting, Some(problem))
                }
                (None, Some(problem)) => report(state_of(problem.reason), Some(problem)),
                (None, None) => {
                    debug!(domain = name, steps = planned, "verified");
                    report(ItemState::Changed, found)
                }
            }
        }
    }
}

fn tell(failed: &ItemReport, known: Option<&Told>, what: &str) {
    if known.map(|told| &told.report) != Some(failed) {
        let reason = failed.reason.unwrap_or(Reason::Internal);
        warn!(domain = failed.domain, %reason, message = failed.message, what);
    }
}

fn state_of(reason: Reason) -> ItemState {
    match reason.severity() {
        Severity::Info => ItemState::Ok,
        Severity::Warning => ItemState::Waiting,
        Severity::Error => ItemState::Failed,
    }
}

/// A step that takes effect at once.
pub(crate) fn live(domain: &str, text: impl Into<String>, traffic: TrafficImpact) -> PlannedStep {
    PlannedStep { domain: domain.into(), text: text.into(), effect: Effect::Live, traffic }
}

/// A problem that prints the whole chain of causes.
pub(crate) fn problem(reason: Reason, error: &dyn Error) -> Problem {
    Problem::new(reason, chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A domain whose kernel is a number that should be `want`.
    struct Fake {
        have: Arc<Mutex<u32>>,
        want: u32,
        obeys: bool,
        fails: bool,
    }

    impl Domain for Fake {
        fn name(&self) -> &'static str {
            "fake"
        }

        fn plan<'a>(&'a mut self, _: &'a Inputs) -> Result<DomainPlan<'a>, Problem> {
            let have = *self.have.lock().unwrap();
            if have == self.want {
                return Ok(DomainPlan::nothing(Vec::new()));
            }
            Ok(DomainPlan {
                steps: vec![live(
                    "fake",
                    format!("change {have} to {}", self.want),
                    TrafficImpact::None,
                )],
                problems: Vec::new(),
                apply: Box::new(|| {
                    if self.fails {
                        return Err(Problem::new(Reason::NetPermission, "no"));
                    }
                    if self.obeys {
                        *self.have.lock().unwrap() = self.want;
                    }
                    Ok(())
                }),
            })
        }
    }

    fn run(obeys: bool, fails: bool) -> (ItemState, ItemState) {
        let inputs = Inputs::for_tests();
        let have = Arc::new(Mutex::new(1));
        let domains: Vec<Box<dyn Domain>> = vec![Box::new(Fake { have, want: 2, obeys, fails })];
        let mut pass = Pass { domains, last: BTreeMap::new() };
        assert_eq!(pass.plan(&inputs).steps.len(), 1);
        let first = pass.run(&inputs).remove(0).state;
        (first, pass.run(&inputs).remove(0).state)
    }

    #[test]
    fn what_was_changed_is_ok_the_next_time() {
        assert_eq!(run(true, false), (ItemState::Changed, ItemState::Ok));
    }

    #[test]
    fn a_kernel_that_says_yes_and_does_nothing_is_seen_through() {
        assert_eq!(run(false, false), (ItemState::Waiting, ItemState::Waiting));
    }

    #[test]
    fn a_failed_step_is_reported_with_its_reason() {
        assert_eq!(run(true, true), (ItemState::Failed, ItemState::Failed));
    }
}
