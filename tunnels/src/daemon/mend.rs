//! One look at the kernel and what it leads to: observed, planned, applied.
//!
//! A plan is done whole or taken back. When the kernel refuses a step of one tunnel, the plan is made
//! anew without that tunnel, of which everything stays as it is: a tunnel that cannot be set up keeps
//! no other from standing. Fails, and has changed nothing then: when the kernel cannot be asked, when
//! there is no plan, and when a step is refused that is no single tunnel's.

use super::control::Trouble;
use super::kernel::KernelNetwork;
use super::settings::Settings;
use super::tunnel::chain;
use super::want::{self, Wanted};
use crate::names::{self, GROUP};
use holdfast_api::Reason;
use netd::{LinkName, Observed, Ownership};
use std::collections::{BTreeMap, BTreeSet};

/// What a look at the kernel led to.
pub(super) struct Mended {
    /// What was done, in words.
    pub(super) steps: Vec<String>,
    /// The group as the kernel has it now.
    pub(super) group: Option<netd::Nexthop>,
    /// The links of tunnels that are not as they should be, and why.
    pub(super) refused: Refused,
    /// Those of them that nothing can be sent over.
    pub(super) stranded: BTreeSet<LinkName>,
}

/// Links of tunnels that the kernel refuses to set up or to mend, and why.
pub(super) type Refused = BTreeMap<LinkName, Trouble>;

/// Why a plan was not carried out.
struct Failure {
    trouble: Trouble,
    /// The link of the step that was refused.
    link: Option<LinkName>,
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        Failure { trouble, link: None }
    }
}

/// Makes of the kernel's network what is wanted, as far as it lets us. What is `refused` from the
/// beginning is not tried. `pending` says what is still to be done, before and afterwards.
pub(super) fn mend(
    kernel: &mut dyn KernelNetwork,
    settings: &Settings,
    mut wanted: Vec<Wanted>,
    mut refused: Refused,
    pending: &mut Vec<String>,
) -> Result<Mended, Trouble> {
    for tunnel in &mut wanted {
        tunnel.refused = refused.contains_key(&want::link_name(tunnel.slot));
    }
    refused.retain(|link, _| wanted.iter().any(|tunnel| want::link_name(tunnel.slot) == *link));
    let mut left = if refused.is_empty() { Vec::new() } else { pending.clone() };
    loop {
        let mut try_once = || carry_out(kernel, settings, &wanted, pending);
        let outcome = match try_once() {
            // Liveness may have made the group between our look and our step.
            Err(Failure { trouble: (Reason::NetConflict, _), .. }) => try_once(),
            outcome => outcome,
        };
        let failure = match outcome {
            Ok(mended) => {
                left.retain(|step| !mended.steps.contains(step));
                *pending = left;
                return Ok(Mended { refused, ..mended });
            }
            Err(failure) => failure,
        };
        let tunnel = failure.link.as_ref().and_then(|link| {
            wanted.iter_mut().find(|of| !of.refused && want::link_name(of.slot) == *link)
        });
        let Some(tunnel) = tunnel else { return Err(failure.trouble) };
        tunnel.refused = true;
        let link = want::link_name(tunnel.slot);
        let (reason, message) = &failure.trouble;
        tracing::error!(%reason, %link, message, "a tunnel is not as it should be");
        refused.insert(link, failure.trouble);
        if left.is_empty() {
            left.clone_from(pending);
        }
    }
}

fn carry_out(
    kernel: &mut dyn KernelNetwork,
    settings: &Settings,
    wanted: &[Wanted],
    pending: &mut Vec<String>,
) -> Result<Mended, Failure> {
    let owner = Ownership::tunnels();
    let draft = want::network(settings, wanted, &Observed::default());
    let have = kernel.observe(&owner, &draft).map_err(|error| (error.reason(), chain(&error)))?;
    let want = want::network(settings, wanted, &have);
    let steps = netd::plan(&want, &have, &owner).map_err(|error| {
        pending.clear();
        (error.reason(), chain(&error))
    })?;
    *pending = steps.iter().map(ToString::to_string).collect();
    if !steps.is_empty() {
        kernel.apply_all(&steps).map_err(|error| Failure {
            trouble: (error.reason(), chain(&error)),
            link: steps.get(error.at).and_then(netd::Step::link).cloned(),
        })?;
    }
    let group = want.nexthops.get(&GROUP).cloned();
    let is_stranded =
        |tunnel: &&Wanted| tunnel.refused && !want.nexthops.contains(&names::nexthop(tunnel.slot));
    let stranded = wanted.iter().filter(is_stranded).map(|of| want::link_name(of.slot)).collect();
    Ok(Mended { steps: std::mem::take(pending), group, refused: Refused::new(), stranded })
}
