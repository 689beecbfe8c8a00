//! Nexthops: single ones before groups, removed the other way round.

use super::Halves;
use crate::model::{Keyed, Network, Nexthop};
use crate::step::Step;
use std::borrow::Cow;

/// `ours` loses what falls when a nexthop has to be removed to change its type.
pub(super) fn plan(want: &Keyed<Nexthop>, ours: &mut Cow<'_, Network>) -> Halves {
    let mut halves = Halves::default();
    for to in want {
        if let Some(from) = ours.nexthops.get(&to.id).cloned()
            && from.is_group() != to.is_group()
        {
            ours.to_mut().remove_nexthop(to.id);
            halves.make.push(Step::DeleteNexthop(from));
        }
    }
    let have = &ours.nexthops;
    let change = |to: &Nexthop| match have.get(&to.id) {
        None => Some(Step::CreateNexthop(to.clone())),
        Some(from) if from != to => {
            Some(Step::ReplaceNexthop { from: from.clone(), to: to.clone() })
        }
        Some(_) => None,
    };
    let (groups, singles): (Vec<&Nexthop>, Vec<&Nexthop>) = want.iter().partition(|n| n.is_group());
    halves.make.extend(singles.into_iter().chain(groups).filter_map(change));

    let unwanted = have.iter().filter(|nexthop| !want.contains(&nexthop.id));
    let (groups, singles): (Vec<&Nexthop>, Vec<&Nexthop>) = unwanted.partition(|n| n.is_group());
    halves.remove.extend(groups.into_iter().chain(singles).cloned().map(Step::DeleteNexthop));
    halves
}
