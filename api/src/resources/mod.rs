//! The kinds of the controller's API, one file each. A new kind gets a file here, an entry in
//! [`Kind`], and its rules in the controller's admission.

mod node_config;
mod node_status;
mod regional_edge;
mod registration;
mod release;
mod site;
mod token;
mod tunnel_peer;

pub use node_config::*;
pub use node_status::*;
pub use regional_edge::*;
pub use registration::*;
pub use release::*;
pub use site::*;
pub use token::*;
pub use tunnel_peer::*;

use crate::meta::{API_VERSION, ObjectMeta};
use serde::{Deserialize, Serialize};

/// An object: what was asked for (`spec`) beside what is (`status`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Object<Spec, Status> {
    /// `fleet.holdfast.dev/v1alpha1`.
    pub api_version: String,
    /// Name of the kind.
    pub kind: String,
    /// Name, labels, version.
    pub metadata: ObjectMeta,
    /// What was asked for.
    #[serde(default)]
    pub spec: Spec,
    /// What is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// Static facts of a kind, implemented on its object type.
pub trait Resource {
    /// The kind.
    const KIND: Kind;
}

macro_rules! kinds {
    ($( $kind:ident { $plural:literal, $short:literal, namespaced: $namespaced:literal, spec: $spec:ty, status: $status:ty } )+) => {
        /// Every kind that the API serves.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $( #[doc = concat!("See [`", stringify!($kind), "`].")] $kind, )+ }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Kind] = &[ $( Kind::$kind, )+ ];
            /// `Site`.
            pub const fn name(self) -> &'static str { match self { $( Kind::$kind => stringify!($kind), )+ } }
            /// `sites`: the path segment.
            pub const fn plural(self) -> &'static str { match self { $( Kind::$kind => $plural, )+ } }
            /// What people type instead.
            pub const fn short(self) -> &'static str { match self { $( Kind::$kind => $short, )+ } }
            /// Whether objects live in a tenant's namespace.
            pub const fn namespaced(self) -> bool { match self { $( Kind::$kind => $namespaced, )+ } }
            /// The kind with this path segment.
            pub fn from_plural(plural: &str) -> Option<Kind> {
                Kind::ALL.iter().copied().find(|kind| kind.plural() == plural)
            }
        }

        $(
            #[doc = concat!("An object of kind ", stringify!($kind), ".")]
            pub type $kind = Object<$spec, $status>;
            impl Resource for $kind { const KIND: Kind = Kind::$kind; }
        )+
    };
}

kinds! {
    Token { "tokens", "tok", namespaced: true, spec: TokenSpec, status: TokenStatus }
    Registration { "registrations", "reg", namespaced: true, spec: RegistrationSpec, status: RegistrationStatus }
    Site { "sites", "si", namespaced: true, spec: SiteSpec, status: SiteStatus }
    NodeConfig { "nodeconfigs", "nc", namespaced: true, spec: NodeConfigSpec, status: NodeConfigStatus }
    NodeStatus { "nodestatuses", "nst", namespaced: true, spec: NodeStatusSpec, status: NodeStatusStatus }
    RegionalEdge { "regionaledges", "re", namespaced: false, spec: RegionalEdgeSpec, status: RegionalEdgeStatus }
    Release { "releases", "rel", namespaced: true, spec: ReleaseSpec, status: ReleaseStatus }
    TunnelPeer { "tunnelpeers", "tp", namespaced: true, spec: TunnelPeerSpec, status: TunnelPeerStatus }
}

impl<Spec, Status> Object<Spec, Status>
where
    Object<Spec, Status>: Resource,
{
    /// An object to be created.
    pub fn new(namespace: Option<&str>, name: &str, spec: Spec) -> Self {
        Object {
            api_version: API_VERSION.into(),
            kind: Self::KIND.name().into(),
            metadata: ObjectMeta {
                name: name.into(),
                namespace: namespace.map(Into::into),
                ..ObjectMeta::default()
            },
            spec,
            status: None,
        }
    }
}

/// Path of a collection (`name` none) or of one object below the server's address.
pub fn path(kind: Kind, namespace: Option<&str>, name: Option<&str>) -> String {
    let mut path = format!("/apis/{API_VERSION}");
    if let Some(namespace) = namespace {
        path += &format!("/namespaces/{namespace}");
    }
    path += "/";
    path += kind.plural();
    if let Some(name) = name {
        path += "/";
        path += name;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plurals_and_short_names_are_unique() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_plural(kind.plural()), Some(*kind));
            assert_eq!(Kind::ALL.iter().filter(|k| k.short() == kind.short()).count(), 1);
        }
        assert_eq!(
            path(Kind::Site, Some("acme"), Some("ce01")),
            "/apis/fleet.holdfast.dev/v1alpha1/namespaces/acme/sites/ce01"
        );
    }

    /// An old node must understand a newer controller.
    #[test]
    fn unknown_fields_are_ignored_and_missing_ones_defaulted() {
        let text = r#"{"apiVersion":"fleet.holdfast.dev/v1alpha1","kind":"Site","metadata":{"name":"a","new":1},"spec":{"later":true},"more":[]}"#;
        let site: Site = serde_json::from_str(text).unwrap();
        assert_eq!(site.metadata.name, "a");
        assert_eq!(site.spec, SiteSpec::default());
    }
}
