//! Decisions about registrations. Pure.
//!
//! ```text
//!  (new) ─▶ Pending ──approved──▶ Admitted ──tunnels up──▶ Online
//!              │                     │                        │
//!              └──rejected──▶ Rejected ◀──────rejected────────┤
//!                                    └── site or node removed ┴──▶ Retired
//! ```
//! A rejected or retired device comes back with a new token only.

use holdfast_api::meta::is_dns_label;
use holdfast_api::resources::{
    Decision, NodeRole, RegistrationPhase, RegistrationSpec, RegistrationStatus, SiteNode,
};

/// What to do with a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Wait for an operator.
    Wait,
    /// Refuse it, and take back what it was given.
    Refuse,
    /// Give it its place, certificate and configuration.
    Admit,
    /// Leave it as it is.
    Leave,
}

/// What to do with a registration as it stands.
pub fn decide(spec: &RegistrationSpec, status: &RegistrationStatus) -> Verdict {
    let admitted = matches!(status.phase, RegistrationPhase::Admitted | RegistrationPhase::Online);
    match (status.phase, spec.approval.as_ref().map(|approval| approval.decision)) {
        (RegistrationPhase::Retired, _) => Verdict::Leave,
        (_, Some(Decision::Rejected)) => Verdict::Refuse,
        (_, Some(Decision::Approved)) => Verdict::Admit,
        // An answer that was taken back does not take back what followed from it.
        (_, None) if admitted => Verdict::Admit,
        (_, None) => Verdict::Wait,
    }
}

/// Name of the site that a node joins: the one that was asked for, else one of its own that is
/// free, made from its hostname or its registration's name.
pub fn site_name(
    asked: Option<&str>,
    hostname: &str,
    registration: &str,
    exists: impl Fn(&str) -> bool,
) -> String {
    if let Some(asked) = asked {
        return asked.to_owned();
    }
    let suffix = registration.strip_prefix("reg-").unwrap_or(registration);
    let short: String = suffix.chars().take(8).collect();
    let base = label_of(hostname).unwrap_or_else(|| format!("site-{short}"));
    if !exists(&base) {
        return base;
    }
    let cut: String = base.chars().take(50).collect();
    let longer = format!("{}-{short}", cut.trim_end_matches('-'));
    if exists(&longer) { format!("site-{suffix}") } else { longer }
}

/// Name of a node that joins a site: the site's own for the first, then with a number.
pub fn node_name(site: &str, taken: impl Fn(&str) -> bool) -> String {
    numbered(site, taken)
}

/// `base`, or `base-2`, `base-3`, … whichever is free first.
pub fn numbered(base: &str, taken: impl Fn(&str) -> bool) -> String {
    let cut: String = base.chars().take(56).collect();
    let cut = cut.trim_end_matches('-');
    std::iter::once(base.to_owned())
        .chain((2u32..).map(|n| format!("{cut}-{n}")))
        .find(|name| !taken(name))
        .unwrap_or_else(|| base.to_owned())
}

/// A host's name as a DNS label: the part before the first dot, in lower case.
pub fn label_of(hostname: &str) -> Option<String> {
    let first = hostname.split('.').next().unwrap_or_default();
    let label: String = first
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(63)
        .collect();
    let label = label.trim_matches('-').to_owned();
    // A name that every unconfigured machine has names nothing.
    (is_dns_label(&label) && label != "localhost").then_some(label)
}

/// Roles by the order of joining: one control plane, three as soon as there are three nodes. A
/// node that runs a control plane keeps it. Where none is left, one begins anew, and others follow
/// it when the next node joins.
pub fn assign_roles(nodes: &mut [SiteNode]) {
    let mut have = nodes.iter().filter(|node| node.role == NodeRole::ControlPlane).count();
    let wanted = if nodes.len() >= 3 && have > 0 { 3 } else { 1 };
    for node in nodes.iter_mut() {
        if have >= wanted {
            break;
        }
        if node.role == NodeRole::Worker {
            node.role = NodeRole::ControlPlane;
            have += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::resources::Approval;
    use proptest::prelude::*;

    fn node(n: usize, role: NodeRole) -> SiteNode {
        SiteNode { name: format!("n{n}"), registration: format!("reg-{n}"), role, address: None }
    }

    #[test]
    fn one_then_three_control_planes() {
        let mut nodes = Vec::new();
        let mut planes = Vec::new();
        for n in 0..5 {
            nodes.push(node(n, NodeRole::Worker));
            assign_roles(&mut nodes);
            planes.push(nodes.iter().filter(|n| n.role == NodeRole::ControlPlane).count());
        }
        assert_eq!(planes, [1, 1, 3, 3, 3]);
        nodes.remove(0);
        assign_roles(&mut nodes);
        assert_eq!(nodes[2].role, NodeRole::ControlPlane, "the next in line takes over");
        nodes.drain(..3);
        nodes.extend([node(6, NodeRole::Worker), node(7, NodeRole::Worker)]);
        nodes[0].role = NodeRole::Worker;
        assign_roles(&mut nodes);
        let roles: Vec<_> = nodes.iter().map(|node| node.role).collect();
        assert_eq!(roles, [NodeRole::ControlPlane, NodeRole::Worker, NodeRole::Worker]);
    }

    #[test]
    fn the_verdict_follows_approval_and_phase() {
        let approval =
            |decision| Some(Approval { decision, site: None, labels: Default::default() });
        let verdict = |approval, phase| {
            decide(
                &RegistrationSpec { approval, ..Default::default() },
                &RegistrationStatus { phase, ..Default::default() },
            )
        };
        use RegistrationPhase as P;
        assert_eq!(verdict(None, P::Pending), Verdict::Wait);
        assert_eq!(verdict(None, P::Rejected), Verdict::Wait);
        assert_eq!(verdict(approval(Decision::Approved), P::Pending), Verdict::Admit);
        assert_eq!(verdict(approval(Decision::Approved), P::Retired), Verdict::Leave);
        assert_eq!(verdict(approval(Decision::Rejected), P::Online), Verdict::Refuse);
        assert_eq!(verdict(None, P::Online), Verdict::Admit);
    }

    proptest! {
        #[test]
        fn names_are_labels_and_free(hostname in ".{0,80}", taken: bool) {
            let first = site_name(None, &hostname, "reg-0123456789abcdef0123", |_| false);
            let name = site_name(None, &hostname, "reg-0123456789abcdef0123", |n| taken && n == first);
            prop_assert!(is_dns_label(&name), "{name}");
            prop_assert_eq!(taken, name != first);
            let node = node_name(&name, |n| n == name);
            prop_assert!(is_dns_label(&node) && node != name, "{node}");
        }
    }
}
