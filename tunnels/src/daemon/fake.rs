//! A kernel that remembers, for tests: everybody who has one of it speaks to the same. A link of it
//! may be busy, and then it refuses whole batches that touch that link, as the real one takes back
//! what it did before the step that failed.

use super::kernel::KernelNetwork;
use netd::model::{Item, PeerState};
use netd::{
    ApplyError, BatchError, Ipv6, KernelAnswer, Link, LinkKind, LinkName, Network, Nexthop,
    NexthopTarget, ObserveError, Observed, Outcome, Ownership, Step, TalkError, WgKey,
};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Debug, Clone, Default)]
pub(super) struct FakeKernel(Arc<Mutex<Machine>>);

#[derive(Debug, Default)]
pub(super) struct Machine {
    pub(super) have: Observed,
    /// Answers EBUSY to this many batches with steps that name this.
    pub(super) busy: (String, u32),
    /// Every batch that was tried, refused ones too, as its steps print.
    pub(super) tried: Vec<Vec<String>>,
    meanwhile: Meanwhile,
}

/// What happens between a look and what comes of it, once.
#[derive(Default)]
struct Meanwhile(Option<Box<dyn FnOnce() + Send>>);

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Meanwhile").field(&self.0.is_some()).finish()
    }
}

impl FakeKernel {
    pub(super) fn lock(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap()
    }

    /// Somebody opens a TUN device.
    pub(super) fn make_tun(&self, name: &str) {
        let link = Link::new(name.parse().unwrap(), LinkKind::Tun).with_mtu(1500);
        self.lock().have.ours.links.insert(Link { up: false, ..link });
    }

    /// The next so many batches with steps that name `what` are refused.
    pub(super) fn is_busy(&self, what: &str, times: u32) {
        self.lock().busy = (what.into(), times);
    }

    /// What happens as soon as somebody has looked.
    pub(super) fn after_the_next_look(&self, what: impl FnOnce() + Send + 'static) {
        self.lock().meanwhile.0 = Some(Box::new(what));
    }

    /// Batches that were tried so far.
    pub(super) fn tries(&self) -> usize {
        self.lock().tried.len()
    }
}

impl Machine {
    fn link(&mut self, name: &LinkName, change: impl FnOnce(&mut Link)) {
        let mut link = self.have.ours.links.remove(name).expect("the link is there");
        change(&mut link);
        self.have.ours.links.insert(link);
    }

    fn carry_out(&mut self, step: &Step) {
        let ours = &mut self.have.ours;
        match step {
            Step::CreateLink(link) => {
                let bare = Link::new(link.name.clone(), link.kind.clone());
                ours.links.insert(Link { up: false, mtu: link.mtu, ..bare });
            }
            Step::DeleteLink(link) => drop(ours.links.remove(&link.name)),
            Step::SetUp { link, up } => self.link(link, |link| link.up = *up),
            Step::SetMtu { link, to, .. } => self.link(link, |link| link.mtu = Some(*to)),
            Step::SetSysctl { link, sysctl, to, .. } => {
                self.link(link, |link| drop(link.sysctls.insert(sysctl.clone(), to.clone())));
            }
            Step::AddAddress(address) => drop(ours.addresses.insert(address.clone())),
            Step::DeleteAddress(address) => drop(ours.addresses.remove(address)),
            Step::CreateNexthop(nexthop) | Step::ReplaceNexthop { to: nexthop, .. } => {
                ours.nexthops.insert(nexthop.clone());
            }
            Step::DeleteNexthop(nexthop) => drop(ours.nexthops.remove(&nexthop.id)),
            Step::AddRoute(route) | Step::ReplaceRoute { to: route, .. } => {
                ours.routes.insert(route.clone());
            }
            Step::DeleteRoute(route) => drop(ours.routes.remove(&route.key())),
            Step::AddRule(rule) => drop(ours.rules.insert(rule.clone())),
            Step::DeleteRule(rule) => drop(ours.rules.remove(rule)),
            Step::SetMac { .. } | Step::SetController { .. } | Step::SetWireguard { .. } => {
                panic!("tunnels want no such thing: {step}")
            }
        }
    }
}

impl KernelNetwork for FakeKernel {
    fn observe(&mut self, _owner: &Ownership, _want: &Network) -> Result<Observed, ObserveError> {
        let mut machine = self.lock();
        let seen = machine.have.clone();
        let meanwhile = machine.meanwhile.0.take();
        drop(machine);
        if let Some(happens) = meanwhile {
            happens();
        }
        Ok(seen)
    }

    fn apply(&mut self, step: &Step) -> Result<Outcome, ApplyError> {
        self.lock().carry_out(step);
        Ok(Outcome::Changed)
    }

    fn apply_all(&mut self, steps: &[Step]) -> Result<Vec<Outcome>, BatchError> {
        let mut machine = self.lock();
        let printed: Vec<String> = steps.iter().map(ToString::to_string).collect();
        let (what, times) = machine.busy.clone();
        let at = printed.iter().position(|step| step.contains(&what)).filter(|_| times > 0);
        machine.tried.push(printed);
        if let Some(at) = at {
            machine.busy.1 -= 1;
            let source = TalkError::Refused(KernelAnswer { errno: Errno::EBUSY, text: None });
            let step = Box::new(steps[at].clone());
            let refused = ApplyError::Refused { step, hint: "something holds it", source };
            return Err(BatchError {
                at,
                total: steps.len(),
                source: Box::new(refused),
                undo_failures: Vec::new(),
                kept: Vec::new(),
            });
        }
        steps.iter().for_each(|step| machine.carry_out(step));
        Ok(vec![Outcome::Changed; steps.len()])
    }

    fn replace_nexthop(&mut self, nexthop: &Nexthop) -> Result<(), TalkError> {
        let nexthops = &mut self.lock().have.ours.nexthops;
        if let NexthopTarget::Group(members) = &nexthop.target
            && !members.keys().all(|id| nexthops.contains(id))
        {
            let text = Some("Invalid nexthop id".into());
            return Err(TalkError::Refused(KernelAnswer { errno: Errno::EINVAL, text }));
        }
        nexthops.insert(nexthop.clone());
        Ok(())
    }

    fn ipv6(&mut self) -> Ipv6 {
        Ipv6::On
    }

    fn wireguard_supported(&mut self) -> bool {
        false
    }

    fn wireguard_peers(
        &mut self,
        _link: &LinkName,
    ) -> Result<BTreeMap<WgKey, PeerState>, TalkError> {
        Ok(BTreeMap::new())
    }
}
