//! Carrying out one step, and queueing those that can travel together.

use super::address::{RTM_DELADDR, RTM_NEWADDR};
use super::explain::explain;
use super::route::{Purpose, RTM_DELROUTE, RTM_NEWROUTE, Seen};
use super::rule::{RTM_DELRULE, RTM_NEWRULE};
use super::socket::Batch;
use super::{Kernel, Outcome, address, route, rule};
use crate::error::{ApplyError, TalkError};
use crate::model::{Item, Link, LinkName, Route, RouteTarget};
use crate::step::Step;
use crate::wire::nexthop::{NexthopMessage, RTM_DELNEXTHOP, RTM_NEWNEXTHOP};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::link::LinkAttribute;
use nix::errno::Errno;
use std::collections::BTreeMap;

/// Makes something new; what is there already is not touched.
const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;
/// Changes what is there.
const CHANGE: u16 = NLM_F_CREATE | NLM_F_REPLACE;

impl Kernel {
    /// Carries out one step.
    ///
    /// Doing it twice is ordinary: what is there already, and ours, or is gone already, is
    /// [`Outcome::Unchanged`].
    ///
    /// # Errors
    /// What the kernel refuses, explained.
    pub fn apply(&mut self, step: &Step) -> Result<Outcome, ApplyError> {
        let mut batch = Batch::default();
        match self.queue(step, &mut batch) {
            Ok(true) => {
                let answer = self.route.send(&mut batch);
                let answer = answer.and_then(|mut results| {
                    results.pop().unwrap_or(Ok(())).map_err(TalkError::Refused)
                });
                self.settle(step, answer)
            }
            Ok(false) => self.apply_alone(step),
            Err(error) => self.settle(step, Err(error)),
        }
    }

    /// Adds `step` to `batch`; `false` when it cannot travel with others.
    pub(super) fn queue(&mut self, step: &Step, batch: &mut Batch) -> Result<bool, TalkError> {
        let mark = self.mark;
        match step {
            Step::AddAddress(address) => {
                let index = self.index(&address.link)?;
                batch.push(RTM_NEWADDR, NEW, &address::describe(address, index, Some(mark)));
            }
            Step::DeleteAddress(address) => {
                let index = self.index(&address.link)?;
                batch.push(RTM_DELADDR, 0, &address::describe(address, index, None));
            }
            Step::CreateNexthop(nexthop) | Step::ReplaceNexthop { to: nexthop, .. } => {
                let index = self.index_of(nexthop.link())?;
                let flags = if matches!(step, Step::CreateNexthop(_)) { NEW } else { CHANGE };
                batch.push(RTM_NEWNEXTHOP, flags, &NexthopMessage::describe(nexthop, mark, index));
            }
            Step::DeleteNexthop(nexthop) => {
                batch.push(RTM_DELNEXTHOP, 0, &NexthopMessage::by_id(nexthop.id));
            }
            Step::AddRoute(route) => {
                let index = self.index_of(route.link())?;
                batch.push(RTM_NEWROUTE, NEW, &route::describe(route, index, mark, Purpose::Add));
            }
            Step::ReplaceRoute { to: route, .. } => {
                let index = self.index_of(route.link())?;
                batch.push(
                    RTM_NEWROUTE,
                    CHANGE,
                    &route::describe(route, index, mark, Purpose::Add),
                );
            }
            Step::DeleteRoute(route) => {
                let index = self.index_of(route.link())?;
                // Unsigned: in tables of ours a route is ours whoever signed it.
                batch.push(RTM_DELROUTE, 0, &route::describe(route, index, 0, Purpose::Delete));
            }
            Step::AddRule(rule) => batch.push(RTM_NEWRULE, NEW, &rule::describe(rule, Some(mark))),
            Step::DeleteRule(rule) => batch.push(RTM_DELRULE, 0, &rule::describe(rule, None)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn index_of(&mut self, link: Option<&LinkName>) -> Result<Option<u32>, TalkError> {
        link.map(|link| self.index(link)).transpose()
    }

    /// Steps on links, which later steps need to have happened.
    fn apply_alone(&mut self, step: &Step) -> Result<Outcome, ApplyError> {
        let result = match step {
            Step::CreateLink(link) => self.create_link(link),
            Step::DeleteLink(link) => self.delete_link(&link.name),
            Step::SetUp { link, up } => self.set_up(link, *up),
            Step::SetMtu { link, to, .. } => self.set_link(link, LinkAttribute::Mtu(*to)),
            Step::SetMac { link, to, .. } => {
                self.set_link(link, LinkAttribute::Address(to.0.to_vec()))
            }
            Step::SetController { link, to, .. } => self.index_of(to.as_ref()).and_then(|index| {
                self.set_link(link, LinkAttribute::Controller(index.unwrap_or(0)))
            }),
            Step::SetWireguard { link, from, to } => self.set_wireguard(link, from, to),
            Step::SetSysctl { link, sysctl, to, .. } => {
                let path = self.sysctl_path(link, sysctl);
                return match self.write_sysctl(&path, to) {
                    Ok(()) => Ok(Outcome::Changed),
                    Err(source) => {
                        Err(ApplyError::Sysctl { step: Box::new(step.clone()), path, source })
                    }
                };
            }
            _ => Ok(()),
        };
        self.settle(step, result)
    }

    /// What the kernel's answer to `step` amounts to.
    pub(super) fn settle(
        &mut self,
        step: &Step,
        answer: Result<(), TalkError>,
    ) -> Result<Outcome, ApplyError> {
        let error = match answer {
            Ok(()) => return Ok(done(step)),
            Err(error) => error,
        };
        let unchanged = match error.errno() {
            // The cached index may be that of a link that was made anew.
            Some(Errno::ENODEV | Errno::ENXIO) => {
                self.indexes.clear();
                removes(step)
            }
            Some(Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL) => removes(step),
            Some(Errno::EEXIST) => self.is_there(step).unwrap_or(false),
            // A route falls with its nexthop; asked to delete it then, the kernel complains of
            // the nexthop.
            Some(Errno::EINVAL) => match step {
                Step::DeleteRoute(Route { target: RouteTarget::Nexthop(id), .. }) => {
                    self.get_nexthop(*id).is_err_and(|error| error.errno() == Some(Errno::ENOENT))
                }
                _ => false,
            },
            _ => false,
        };
        if unchanged { Ok(Outcome::Unchanged) } else { Err(explain(step, error)) }
    }

    /// Whether the thing that `step` would make is there already, just as it would make it.
    fn is_there(&mut self, step: &Step) -> Result<bool, TalkError> {
        let mark = self.mark;
        let raw = self.dump_links()?;
        let names: BTreeMap<u32, LinkName> =
            raw.iter().filter_map(|(index, link)| Some((*index, link.name.clone()?))).collect();
        Ok(match step {
            Step::CreateLink(Link { name, kind, .. }) => {
                let same = |link: Link| link.name == *name && kind.is_met_by(&link.kind);
                raw.values().filter_map(|link| link.link(&names)).any(same)
            }
            Step::AddAddress(address) => {
                self.dump_addresses(&names)?.iter().any(|(have, by)| have == address && *by == mark)
            }
            Step::CreateNexthop(nexthop) => self.get_nexthop(nexthop.id)?.as_ref() == Some(nexthop),
            Step::AddRoute(route) => {
                let want = Seen::Route(route.clone().normal(), mark);
                self.dump_routes(&names, Some(mark), |table| table == route.table)?.contains(&want)
            }
            // The kernel says so only of a rule that is the same in every respect.
            Step::AddRule(_) => true,
            _ => false,
        })
    }
}

fn done(step: &Step) -> Outcome {
    match step {
        Step::CreateLink(_)
        | Step::AddAddress(_)
        | Step::CreateNexthop(_)
        | Step::AddRoute(_)
        | Step::AddRule(_) => Outcome::Created,
        _ if removes(step) => Outcome::Deleted,
        _ => Outcome::Changed,
    }
}

fn removes(step: &Step) -> bool {
    matches!(
        step,
        Step::DeleteLink(_)
            | Step::DeleteAddress(_)
            | Step::DeleteNexthop(_)
            | Step::DeleteRoute(_)
            | Step::DeleteRule(_)
    )
}
