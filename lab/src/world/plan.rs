//! Which steps lead from what is there to the world that is wanted.
//!
//! The same plan makes a world from nothing and adds a site to one that runs; once it has been carried out,
//! planning again gives nothing. Taking a world down is no plan of single steps: everything
//! that bears its name goes (see [`super::down()`]).

use super::topology::{Host, HostSetup, Topology};
use crate::emulator::Link;
use std::collections::BTreeSet;
use std::fmt;

/// What of a world is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Hosts that have their namespace.
    pub hosts: BTreeSet<Host>,
    /// Links that the emulator carries; none when it does not run.
    pub links: Option<BTreeSet<String>>,
    /// Hosts that have their root directory.
    pub roots: BTreeSet<Host>,
}

/// One step towards the world.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Make the namespace of a host.
    Namespace(Host),
    /// Start the link emulator with these links.
    Emulate(Vec<Link>),
    /// Add a link to the running emulator.
    AddLink(Box<Link>),
    /// Set a host up: addresses, routes, kernel settings.
    SetUp(Host, HostSetup),
    /// Make the root directory of a host.
    Root(Host),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Namespace(host) => write!(f, "make host {host}"),
            Step::Emulate(links) => write!(f, "start the link emulator with {} links", links.len()),
            Step::AddLink(link) => write!(f, "add link {}: {link}", link.name),
            Step::SetUp(host, setup) => {
                write!(f, "set up {host}:")?;
                setup.ip.iter().try_for_each(|line| write!(f, " ip {line};"))?;
                setup.sysctls.iter().try_for_each(|(name, value)| write!(f, " {name} = {value};"))
            }
            Step::Root(host) => write!(f, "make the root directory of {host}"),
        }
    }
}

/// The steps from `have` to `want`, in order.
pub fn plan(want: &Topology, have: &Observed) -> Vec<Step> {
    let new_hosts: Vec<Host> =
        want.hosts.iter().copied().filter(|host| !have.hosts.contains(host)).collect();
    let carried = |link: &Link| have.links.as_ref().is_some_and(|links| links.contains(&link.name));
    let new_links: Vec<Link> = want.links.iter().filter(|link| !carried(link)).cloned().collect();

    let namespaces = new_hosts.iter().copied().map(Step::Namespace);
    let links = match (&have.links, new_links.is_empty()) {
        (_, true) => vec![],
        (None, false) => vec![Step::Emulate(new_links.clone())],
        (Some(_), false) => {
            new_links.iter().map(|link| Step::AddLink(Box::new(link.clone()))).collect()
        }
    };
    let setups = want
        .setup(&new_hosts, &new_links)
        .into_iter()
        .map(|(host, setup)| Step::SetUp(host, setup));
    let roots = want
        .hosts
        .iter()
        .copied()
        .filter(|host| host.has_root() && !have.roots.contains(host))
        .map(Step::Root);
    namespaces.chain(links).chain(setups).chain(roots).collect()
}

impl Host {
    /// Whether daemons of ours work there below a root directory.
    pub fn has_root(self) -> bool {
        match self {
            Host::Controller | Host::Edge(_) | Host::Node(_) => true,
            Host::Net | Host::Backbone | Host::Lan => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::WorldSpec;
    use super::*;
    use proptest::prelude::*;

    fn world(edges: u8, nodes: u8) -> Topology {
        Topology::of(&WorldSpec { edges, nodes, ..WorldSpec::default() })
    }

    /// What would be there after the steps.
    fn carry_out(have: &mut Observed, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Namespace(host) => assert!(have.hosts.insert(*host), "{host} made twice"),
                Step::Emulate(links) => {
                    assert!(have.links.is_none(), "a second emulator");
                    have.links = Some(links.iter().map(|link| link.name.clone()).collect());
                }
                Step::AddLink(link) => {
                    assert!(have.links.as_mut().unwrap().insert(link.name.clone()))
                }
                Step::SetUp(host, _) => {
                    assert!(have.hosts.contains(host), "{host} set up before it was made")
                }
                Step::Root(host) => assert!(have.roots.insert(*host)),
            }
        }
    }

    proptest! {
        #[test]
        fn planning_again_yields_nothing(edges in 0u8..9, nodes in 0u8..9) {
            let want = world(edges, nodes);
            let mut have = Observed::default();
            let steps = plan(&want, &have);
            carry_out(&mut have, &steps);
            prop_assert_eq!(plan(&want, &have), vec![]);
        }

        #[test]
        fn growing_touches_only_what_is_new(edges in 0u8..5, nodes in 0u8..5, more in 1u8..4) {
            let mut have = Observed::default();
            let steps = plan(&world(edges, nodes), &have);
            carry_out(&mut have, &steps);
            let grown = world(edges, nodes + more);
            let steps = plan(&grown, &have);
            for step in &steps {
                if let Step::Namespace(host) | Step::Root(host) = step {
                    prop_assert!(matches!(host, Host::Node(n) if *n > nodes), "{}", step);
                }
                prop_assert!(!matches!(step, Step::Emulate(_)));
            }
            carry_out(&mut have, &steps);
            prop_assert_eq!(plan(&grown, &have), vec![]);
        }
    }

    #[test]
    fn a_plan_reads_like_what_it_does() {
        let steps = plan(&world(1, 0), &Observed::default());
        let text: Vec<String> = steps.iter().map(Step::to_string).collect();
        assert_eq!(text[0], "make host net");
        assert!(text.contains(&"start the link emulator with 3 links".into()), "{text:#?}");
        assert!(text.iter().any(|line| {
            line.starts_with("set up re-1: ip link set dev lo up; ip address replace 10.254.0.1/32")
        }));
    }
}
