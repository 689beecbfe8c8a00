//! From the kernel's error number to a sentence with the next thing to check.

use crate::error::{ApplyError, TalkError};
use crate::model::LinkName;
use crate::step::Step;
use nix::errno::Errno;

/// What the kernel's refusal of `step` means.
pub(super) fn explain(step: &Step, source: TalkError) -> ApplyError {
    let step = Box::new(step.clone());
    let Some(errno) = source.errno() else {
        return ApplyError::Refused {
            step,
            hint: "the conversation with the kernel broke off",
            source,
        };
    };
    match errno {
        Errno::EPERM | Errno::EACCES => ApplyError::Permission { step, source },
        Errno::EEXIST => ApplyError::Conflict { step, source },
        Errno::ENODEV | Errno::ENXIO => match missing(&step) {
            Some(link) => ApplyError::LinkMissing { step, link },
            None => ApplyError::Refused { step, hint: "a link that it needs is not there", source },
        },
        Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT | Errno::ENOENT
            if let Some((thing, module)) = lacking(&step, errno) =>
        {
            ApplyError::Unsupported { step, thing, module, source }
        }
        errno => {
            let hint = hint(&step, errno);
            ApplyError::Refused { step, hint, source }
        }
    }
}

/// The link that a step cannot do without.
fn missing(step: &Step) -> Option<LinkName> {
    match step {
        Step::CreateLink(link) => link.parent().cloned(),
        Step::DeleteLink(link) => Some(link.name.clone()),
        Step::SetController { to: Some(controller), .. } => Some(controller.clone()),
        Step::SetUp { link, .. }
        | Step::SetMtu { link, .. }
        | Step::SetMac { link, .. }
        | Step::SetController { link, .. }
        | Step::SetWireguard { link, .. }
        | Step::SetSysctl { link, .. } => Some(link.clone()),
        Step::AddAddress(address) | Step::DeleteAddress(address) => Some(address.link.clone()),
        Step::CreateNexthop(nexthop)
        | Step::DeleteNexthop(nexthop)
        | Step::ReplaceNexthop { to: nexthop, .. } => nexthop.link().cloned(),
        Step::AddRoute(route) | Step::DeleteRoute(route) | Step::ReplaceRoute { to: route, .. } => {
            route.link().cloned()
        }
        Step::AddRule(rule) | Step::DeleteRule(rule) => rule.iif.clone(),
    }
}

/// What the kernel lacks when it does not support `step`, and the module that would bring it.
fn lacking(step: &Step, errno: Errno) -> Option<(String, String)> {
    match step {
        Step::CreateLink(link) if errno != Errno::ENOENT => {
            Some((format!("links of kind {}", link.kind.name()), link.kind.module().to_string()))
        }
        // ENOENT is what the generic netlink controller says of a family that it does not know.
        Step::SetWireguard { .. } => Some(("WireGuard".to_string(), "wireguard".to_string())),
        Step::AddAddress(address) if errno != Errno::ENOENT && address.net.addr().is_ipv6() => {
            Some(("IPv6".to_string(), "ipv6".to_string()))
        }
        _ => None,
    }
}

fn hint(step: &Step, errno: Errno) -> &'static str {
    match (step, errno) {
        (_, Errno::ENETUNREACH | Errno::EHOSTUNREACH) => {
            "the gateway is not reachable over the link; check that the link is up and that one \
             of its addresses covers the gateway"
        }
        (_, Errno::ENETDOWN) => "the link is down; set it up first",
        (_, Errno::EADDRNOTAVAIL) => {
            "the link does not take this address; check whether IPv6 is switched off on it, or \
             whether the source address exists"
        }
        (_, Errno::EBUSY) => {
            "something holds it; check whether the link is a port of a bridge or bond, or in use \
             by a program"
        }
        (_, Errno::ENOBUFS | Errno::ENOMEM | Errno::ENOSPC) => {
            "the kernel has no room left; check the memory and net.ipv6.route.max_size"
        }
        (Step::CreateNexthop(_) | Step::ReplaceNexthop { .. }, Errno::ENOENT | Errno::EINVAL) => {
            "check that the members of the group exist and that its link is up; a group cannot \
             become a single nexthop or the reverse"
        }
        (Step::AddRoute(_) | Step::ReplaceRoute { .. }, Errno::ENOENT | Errno::EINVAL) => {
            "check that its nexthop and its source address exist"
        }
        (Step::SetMtu { .. }, Errno::EINVAL | Errno::ERANGE) => {
            "the link does not take packets of this size; compare with `ip -d link`"
        }
        (Step::SetMac { .. }, Errno::EADDRINUSE | Errno::EINVAL) => {
            "the link does not take this hardware address"
        }
        (_, Errno::EINVAL | Errno::ERANGE) => "the kernel does not take this value",
        _ => "read the kernel's answer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::KernelAnswer;
    use crate::model::{Family, Link, LinkKind, Nexthop};
    use holdfast_api::Reason;

    fn answer(errno: Errno) -> TalkError {
        TalkError::Refused(KernelAnswer { errno, text: None })
    }

    #[test]
    fn each_errno_of_the_field_has_its_reason_and_next_step() {
        let link: LinkName = "hf-bond0".parse().unwrap();
        let bond = LinkKind::Bond { mode: crate::BondMode::ActiveBackup, miimon_ms: 100 };
        let create = Step::CreateLink(Link::new(link.clone(), bond));
        let error = explain(&create, answer(Errno::EOPNOTSUPP));
        assert_eq!(error.reason(), Reason::NetUnsupported);
        assert!(error.to_string().contains("modprobe bonding"), "{error}");

        let error = explain(&create, answer(Errno::EPERM));
        assert_eq!(error.reason(), Reason::NetPermission);
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");

        assert_eq!(explain(&create, answer(Errno::EEXIST)).reason(), Reason::NetConflict);

        let up = Step::SetUp { link: link.clone(), up: true };
        for step in [&create, &up] {
            let error = explain(step, answer(Errno::EBUSY));
            assert_eq!(error.reason(), Reason::NetApplyFailed);
            assert!(
                error.retryable() && error.to_string().contains("something holds it"),
                "{error}"
            );
            assert!(error.to_string().contains("hf-bond0"), "{error}");
        }

        let nexthop = Step::CreateNexthop(Nexthop::dev(0x4846_8000, Family::V4, link.clone()));
        let error = explain(&nexthop, answer(Errno::ENODEV));
        assert_eq!(error.reason(), Reason::NetLinkMissing);
        assert!(error.to_string().contains("hf-bond0"), "{error}");

        let error = explain(&nexthop, answer(Errno::ENETUNREACH));
        assert_eq!(error.reason(), Reason::NetApplyFailed);
        assert!(error.to_string().contains("covers the gateway"), "{error}");
    }
}
