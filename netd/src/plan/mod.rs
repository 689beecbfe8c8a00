//! From what is and what is wanted to steps. Pure.
//!
//! What carries traffic is made before it is broken: links, addresses, nexthops, routes and
//! rules are added or replaced in the order in which they need each other, and only then is
//! removed what is no longer wanted, in the reverse order. Everything is checked before the
//! first step ([`check`]), so a wish that cannot be met as a whole changes nothing.
//!
//! Exceptions, each because the kernel has no other way: a link that must become another kind
//! is removed first; a nexthop that becomes a group, or the reverse, is removed first; an IPv6
//! address that only changes its prefix length is removed first.

mod addresses;
mod check;
mod links;
mod nexthops;
#[cfg(test)]
mod tests;

use crate::error::PlanError;
use crate::model::{Item, Keyed, Network, Observed, Route, Rule};
use crate::ownership::Ownership;
use crate::step::Step;
use std::borrow::Cow;
use std::collections::BTreeSet;

/// The steps that lead from `have` to `want`, in order; none when all is as wanted.
///
/// Only what `owner` owns is added, changed or removed. The settings of a link of others are
/// changed when `want` declares it, as far as it declares them.
///
/// # Errors
/// The wish contradicts itself, goes beyond what `owner` owns, needs a link that is not there,
/// or somebody else's thing is in the way. [`Network::remove_link`] takes a missing port out of
/// a wish, so that the rest can be had.
pub fn plan(want: &Network, have: &Observed, owner: &Ownership) -> Result<Vec<Step>, PlanError> {
    check::check(want, have, owner)?;
    let links = links::plan(want, have, owner)?;

    // What falls with the links and nexthops that are made anew has to be made anew as well.
    let mut ours = Cow::Borrowed(&have.ours);
    for name in &links.lost {
        ours.to_mut().remove_link(name);
    }
    let nexthops = nexthops::plan(&want.nexthops, &mut ours);
    let addresses = addresses::plan(&want.addresses, &ours.addresses, &have.others.addresses);
    let (more_routes, less_routes) = routes(&want.routes, &ours.routes);
    let (more_rules, less_rules) = rules(&want.rules, &ours.rules);

    Ok([
        links.make,
        addresses.make,
        nexthops.make,
        more_routes,
        more_rules,
        less_rules,
        less_routes,
        nexthops.remove,
        addresses.remove,
        links.remove,
    ]
    .concat())
}

/// Steps before and after those on everything else.
#[derive(Debug, Default)]
struct Halves {
    make: Vec<Step>,
    remove: Vec<Step>,
}

fn routes(want: &Keyed<Route>, have: &Keyed<Route>) -> (Vec<Step>, Vec<Step>) {
    let change = |to: &Route| match have.get(&to.key()) {
        None => Some(Step::AddRoute(to.clone())),
        Some(from) if from != to => Some(Step::ReplaceRoute { from: from.clone(), to: to.clone() }),
        Some(_) => None,
    };
    let unwanted = have.iter().filter(|route| !want.contains(&route.key()));
    (want.iter().filter_map(change).collect(), unwanted.cloned().map(Step::DeleteRoute).collect())
}

fn rules(want: &BTreeSet<Rule>, have: &BTreeSet<Rule>) -> (Vec<Step>, Vec<Step>) {
    let want: BTreeSet<Rule> = want.iter().cloned().map(Rule::normal).collect();
    (
        want.difference(have).cloned().map(Step::AddRule).collect(),
        have.difference(&want).cloned().map(Step::DeleteRule).collect(),
    )
}
