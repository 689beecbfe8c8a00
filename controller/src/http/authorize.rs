//! Who may do what to which objects: one pure function and its table.
//!
//! | who | may |
//! |---|---|
//! | operator of all tenants | read everything; write tokens, sites, releases, edges; decide on registrations; delete node statuses |
//! | operator of a tenant | the same in its namespace; read edges |
//! | node | read its `NodeConfig` and, by name, its tenant's releases; write its `NodeStatus` |
//! | regional edge | read edges; write its own and its status; read the tunnel peers that name it |
//! | holder of a device key (nodes and edges too) | read and renew its own registration |
//! | holder of a registration token | make a registration |
//!
//! `NodeConfig` and `TunnelPeer` are written by the controller alone, and so is the status of
//! every kind but `NodeStatus` and `RegionalEdge`.

use super::{Caller, Identity, Target};
use holdfast_api::resources::Kind;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read a collection.
    List,
    /// Follow a collection.
    Watch,
    /// Make an object.
    Create,
    /// Replace an object.
    Update,
    /// Change parts of an object.
    Patch,
    /// Remove an object.
    Delete,
    /// Remove a collection.
    DeleteCollection,
}

impl Verb {
    /// Kubernetes' word for it.
    pub fn word(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }

    fn reads(self) -> bool {
        matches!(self, Verb::Get | Verb::List | Verb::Watch)
    }
}

/// Which of the objects of the target the caller sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// All.
    All,
    /// Those with this name (and, when given, in this namespace).
    Named(Option<String>, String),
    /// Tunnel peers that name this edge.
    PeersOf(String),
}

/// The caller may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied;

/// Whether `caller` may do `verb` to `target`, and what of it he sees.
///
/// # Errors
/// He may not.
pub fn authorize(caller: &Caller, verb: Verb, target: &Target) -> Result<Sight, Denied> {
    let own = || own_registration(caller, verb, target);
    match &caller.identity {
        Identity::Operator(operator) => operator_may(operator.tenant.as_deref(), verb, target),
        Identity::Node { tenant, node, .. } => {
            node_may(tenant, node, verb, target).or_else(|_| own())
        }
        Identity::Edge { name, .. } => edge_may(name, verb, target).or_else(|_| own()),
        Identity::Device(_) | Identity::Anonymous => own(),
    }
}

fn operator_may(tenant: Option<&str>, verb: Verb, target: &Target) -> Result<Sight, Denied> {
    let at_home = match (tenant, target.kind.namespaced()) {
        (None, _) => true,
        (Some(tenant), true) => target.namespace.as_deref() == Some(tenant),
        (Some(_), false) => verb.reads(),
    };
    let writes = |verb: Verb| match target.kind {
        Kind::Token | Kind::Site | Kind::Release | Kind::RegionalEdge => !target.status,
        Kind::Registration => !target.status && verb != Verb::Create,
        Kind::NodeStatus => !target.status && matches!(verb, Verb::Delete | Verb::DeleteCollection),
        Kind::NodeConfig | Kind::TunnelPeer => false,
    };
    (at_home && (verb.reads() || writes(verb))).then_some(Sight::All).ok_or(Denied)
}

fn node_may(tenant: &str, node: &str, verb: Verb, target: &Target) -> Result<Sight, Denied> {
    let home = target.namespace.as_deref() == Some(tenant);
    if let (Kind::Release, Verb::Get, Some(name), true) = (target.kind, verb, &target.name, home) {
        return Ok(Sight::Named(Some(tenant.into()), name.clone()));
    }
    let named = target.name.as_deref().is_none_or(|name| name == node);
    let writes = matches!(verb, Verb::Create | Verb::Update | Verb::Patch);
    let may = match target.kind {
        Kind::NodeConfig => verb.reads(),
        Kind::NodeStatus => verb.reads() || writes,
        Kind::Token
        | Kind::Registration
        | Kind::Site
        | Kind::Release
        | Kind::RegionalEdge
        | Kind::TunnelPeer => false,
    };
    let sight = Sight::Named(Some(tenant.into()), node.into());
    (home && named && may).then_some(sight).ok_or(Denied)
}

fn edge_may(edge: &str, verb: Verb, target: &Target) -> Result<Sight, Denied> {
    match target.kind {
        Kind::RegionalEdge if verb.reads() => Ok(Sight::All),
        Kind::RegionalEdge
            if matches!(verb, Verb::Update | Verb::Patch)
                && target.name.as_deref() == Some(edge) =>
        {
            Ok(Sight::Named(None, edge.into()))
        }
        Kind::TunnelPeer if verb.reads() => Ok(Sight::PeersOf(edge.into())),
        Kind::Token
        | Kind::Registration
        | Kind::Site
        | Kind::Release
        | Kind::NodeConfig
        | Kind::NodeStatus
        | Kind::RegionalEdge
        | Kind::TunnelPeer => Err(Denied),
    }
}

fn own_registration(caller: &Caller, verb: Verb, target: &Target) -> Result<Sight, Denied> {
    if target.kind != Kind::Registration || target.status {
        return Err(Denied);
    }
    if verb == Verb::Create {
        // Whether the token is good is for the transaction to say that uses it.
        return caller.credential.as_ref().map(|_| Sight::All).ok_or(Denied);
    }
    let name = caller.identity.device().ok_or(Denied)?.registration();
    let named = target.name.as_ref().is_none_or(|asked| *asked == name);
    let may = verb.reads() || matches!(verb, Verb::Update | Verb::Patch);
    (named && may).then_some(Sight::Named(target.namespace.clone(), name)).ok_or(Denied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::Operator;
    use crate::trust::csr::DeviceId;
    use std::collections::BTreeSet;

    const VERBS: &[Verb] = &[
        Verb::Get,
        Verb::List,
        Verb::Watch,
        Verb::Create,
        Verb::Update,
        Verb::Patch,
        Verb::Delete,
        Verb::DeleteCollection,
    ];
    const DEVICE: DeviceId = DeviceId([7; 32]);

    fn caller(identity: Identity) -> Caller {
        Caller { identity, credential: None, retired: false }
    }

    /// Everything that the caller may do in a world of two tenants, as short words.
    fn all(caller: &Caller) -> BTreeSet<String> {
        let own = DEVICE.registration();
        let mut may = BTreeSet::new();
        for kind in Kind::ALL.iter().copied() {
            let spaces: &[Option<&str>] =
                if kind.namespaced() { &[None, Some("t"), Some("u")] } else { &[None] };
            for namespace in spaces {
                for (verb, name) in VERBS.iter().flat_map(|v| {
                    [None, Some("me"), Some("you"), Some(own.as_str())].map(|n| (*v, n))
                }) {
                    let collective = matches!(
                        verb,
                        Verb::List | Verb::Watch | Verb::Create | Verb::DeleteCollection
                    );
                    if collective != name.is_none()
                        || (name.is_some() && kind.namespaced() && namespace.is_none())
                    {
                        continue;
                    }
                    for status in [false, true] {
                        let target = Target {
                            kind,
                            namespace: namespace.map(Into::into),
                            name: name.map(Into::into),
                            status,
                        };
                        if authorize(caller, verb, &target).is_ok() {
                            let part = if status { "/status" } else { "" };
                            may.insert(format!(
                                "{} {}/{}/{}{part}",
                                verb.word(),
                                kind.plural(),
                                namespace.unwrap_or("*"),
                                name.unwrap_or("*")
                            ));
                        }
                    }
                }
            }
        }
        may
    }

    #[test]
    fn nobody_and_strangers_may_nothing() {
        assert_eq!(all(&caller(Identity::Anonymous)), BTreeSet::new());
        let own = all(&caller(Identity::Device(DEVICE)));
        assert!(own.iter().all(|line| line.contains("registrations/")), "{own:?}");
        assert!(own.iter().all(|line| !line.contains("/me")
            && !line.contains("/you")
            && !line.contains("/status")));
        assert!(!own.iter().any(|line| line.starts_with("delete") || line.starts_with("create")));
    }

    #[test]
    fn a_node_may_read_its_configuration_and_write_its_status() {
        let node = Identity::Node { tenant: "t".into(), node: "me".into(), device: DEVICE };
        let rest: BTreeSet<String> = all(&caller(node))
            .difference(&all(&caller(Identity::Device(DEVICE))))
            .cloned()
            .collect();
        for line in &rest {
            assert!(line.contains("/t/"), "{line}");
            if line.contains(" releases/") {
                assert!(line.starts_with("get releases/t/"), "{line}");
                continue;
            }
            assert!(!line.contains("/you"), "{line}");
            let status = line.contains(" nodestatuses/");
            assert!(status || line.contains(" nodeconfigs/"), "{line}");
            assert!(
                status || ["get", "list", "watch"].contains(&line.split(' ').next().unwrap()),
                "{line}"
            );
        }
        assert!(rest.contains("update nodestatuses/t/me/status"));
        assert!(!rest.contains("delete nodestatuses/t/me"));
    }

    #[test]
    fn an_edge_may_read_edges_and_its_peers_and_write_itself() {
        let edge = Identity::Edge { name: "me".into(), device: DEVICE };
        let rest: BTreeSet<String> = all(&caller(edge))
            .difference(&all(&caller(Identity::Device(DEVICE))))
            .cloned()
            .collect();
        for line in &rest {
            let writes = line.starts_with("update") || line.starts_with("patch");
            assert!(!writes || line.contains("regionaledges/*/me"), "{line}");
            assert!(line.contains("regionaledges") || line.contains("tunnelpeers"), "{line}");
            assert!(!line.starts_with("create") && !line.starts_with("delete"), "{line}");
        }
        assert!(rest.contains("list tunnelpeers/*/*"));
    }

    #[test]
    fn an_operator_of_a_tenant_stays_at_home() {
        let operator = |tenant: Option<&str>| {
            caller(Identity::Operator(Operator {
                name: "o".into(),
                tenant: tenant.map(Into::into),
            }))
        };
        let (one, every) = (all(&operator(Some("t"))), all(&operator(None)));
        for line in &one {
            let reads = ["get", "list", "watch"].contains(&line.split(' ').next().unwrap());
            assert!(line.contains("/t/") || (reads && line.contains("regionaledges")), "{line}");
        }
        assert!(one.is_subset(&every));
        for never in [
            "create registrations",
            "update nodeconfigs",
            "update tunnelpeers",
            "update nodestatuses",
        ] {
            assert!(!every.iter().any(|line| line.starts_with(never)), "{never}");
        }
        assert!(
            !every.iter().any(|line| line.ends_with("/status")
                && !line.starts_with("get")
                && !line.starts_with("list")
                && !line.starts_with("watch")),
            "status is the controller's"
        );
    }
}
