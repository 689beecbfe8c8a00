//! Reading the kernel's network into [`Observed`].

use super::Kernel;
use super::route::Seen;
use crate::error::{ObserveError, TalkError};
use crate::model::{LinkKind, LinkName, Network, Nexthop, Observed};
use crate::ownership::Ownership;
use crate::wire::nexthop::{NexthopMessage, RTM_GETNEXTHOP, RTM_NEWNEXTHOP};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::path::PathBuf;

impl Kernel {
    /// Reads what the kernel has, sorted by `owner`. Of `want` only the settings of links are
    /// used: no others are read, so no others are compared.
    ///
    /// # Errors
    /// A dump is refused, or changes under the reader again and again.
    pub fn observe(&mut self, owner: &Ownership, want: &Network) -> Result<Observed, ObserveError> {
        let fail = |what| move |source| ObserveError { what, source };
        let mut observed = Observed::default();

        let raw = self.dump_links().map_err(fail("links"))?;
        let names: BTreeMap<u32, LinkName> =
            raw.iter().filter_map(|(index, link)| Some((*index, link.name.clone()?))).collect();
        for link in raw.values() {
            let Some(mut link) = link.link(&names) else { continue };
            if owner.owns_link(&link.name)
                && let LinkKind::Wireguard(device) = &mut link.kind
            {
                *device = self.read_wireguard(&link.name).map_err(fail("WireGuard devices"))?;
            }
            observed.add_link(owner, link);
        }
        self.observe_sysctls(want, &mut observed).map_err(fail("settings of links"))?;

        for (address, mark) in self.dump_addresses(&names).map_err(fail("addresses"))? {
            observed.add_address(owner, address, mark);
        }
        for (id, nexthop, mark) in self.dump_nexthops(&names).map_err(fail("nexthops"))? {
            match nexthop {
                Some(nexthop) => observed.add_nexthop(owner, nexthop, mark),
                None => {
                    observed.others.nexthops.insert(id, mark);
                }
            }
        }
        // Unfiltered by mark: what others put into the way, or into our tables, counts too. Who
        // may have nothing in the main table need not hear of the routes there.
        let in_reach = |table| owner.may_add_route(table);
        for seen in self.dump_routes(&names, None, in_reach).map_err(fail("routes"))? {
            match seen {
                Seen::Route(route, mark) => observed.add_route(owner, route, mark),
                Seen::Place(key, mark) => {
                    observed.others.routes.insert(key, mark);
                }
            }
        }
        for rule in self.dump_rules().map_err(fail("rules"))? {
            observed.add_rule(owner, rule);
        }
        Ok(observed)
    }

    fn observe_sysctls(
        &mut self,
        want: &Network,
        observed: &mut Observed,
    ) -> Result<(), TalkError> {
        let mut keys = Vec::new();
        for link in &want.links {
            keys.extend(link.sysctls.keys().map(|sysctl| (link.name.clone(), sysctl.clone())));
        }
        if keys.is_empty() {
            return Ok(());
        }
        let paths: Vec<PathBuf> =
            keys.iter().map(|(link, sysctl)| self.sysctl_path(link, sysctl)).collect();
        for ((name, sysctl), value) in keys.into_iter().zip(self.read_sysctls(&paths)?) {
            let (Some(link), Some(value)) = (observed.link(&name).cloned(), value) else {
                continue;
            };
            let links = match observed.ours.links.contains(&name) {
                true => &mut observed.ours.links,
                false => &mut observed.others.links,
            };
            links.insert(link.with_sysctl(sysctl, value));
        }
        Ok(())
    }

    /// All nexthops: id, what it is when the model can say it, mark.
    fn dump_nexthops(
        &mut self,
        names: &BTreeMap<u32, LinkName>,
    ) -> Result<Vec<(u32, Option<Nexthop>, u8)>, TalkError> {
        let read = self.route.dump(
            RTM_GETNEXTHOP,
            &NexthopMessage::dump(),
            Vec::new,
            |all, kind, body| {
                if kind == RTM_NEWNEXTHOP {
                    let message = NexthopMessage::parse(body)
                        .map_err(|e| TalkError::Unreadable(e.to_string()))?;
                    if let Some(id) = message.id() {
                        all.push((
                            id,
                            message.nexthop(|i| names.get(&i).cloned()),
                            message.protocol,
                        ));
                    }
                }
                Ok(())
            },
        );
        match read {
            // A kernel before 5.3 has none.
            Err(error) if error.errno() == Some(Errno::EOPNOTSUPP) => Ok(Vec::new()),
            read => read,
        }
    }

    /// One nexthop by id.
    pub(super) fn get_nexthop(&mut self, id: u32) -> Result<Option<Nexthop>, TalkError> {
        let names = self
            .indexes
            .iter()
            .map(|(name, index)| (*index, name.clone()))
            .collect::<BTreeMap<_, _>>();
        let mut found = None;
        self.route.ask(
            RTM_GETNEXTHOP,
            netlink_packet_core::NLM_F_ACK,
            &NexthopMessage::by_id(id),
            |_, body| {
                let message = NexthopMessage::parse(body)
                    .map_err(|e| TalkError::Unreadable(e.to_string()))?;
                found = message.nexthop(|index| names.get(&index).cloned());
                Ok(())
            },
        )?;
        Ok(found)
    }
}
