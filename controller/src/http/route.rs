//! Paths of the API.

use holdfast_api::meta::{GROUP, VERSION};
use holdfast_api::resources::Kind;

/// A collection, an object or its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The kind.
    pub kind: Kind,
    /// The namespace; none for all namespaces and for kinds that have none.
    pub namespace: Option<String>,
    /// The object; the collection when none.
    pub name: Option<String>,
    /// The `status` subresource.
    pub status: bool,
}

/// What a path means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/healthz`, `/livez`, `/readyz`.
    Health,
    /// `/version`.
    Version,
    /// `/api`.
    CoreVersions,
    /// `/api/v1`.
    CoreResources,
    /// `/api/v1/namespaces` and below.
    Namespaces(Option<String>),
    /// `/apis`.
    Groups,
    /// `/apis/GROUP`.
    Group,
    /// `/apis/GROUP/VERSION`.
    Resources,
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3`.
    OpenApiV3Index,
    /// `/openapi/v3/apis/GROUP/VERSION`.
    OpenApiV3,
    /// Objects.
    Objects(Target),
    /// Nothing of ours.
    Unknown,
}

impl Route {
    /// The meaning of `path`.
    pub fn parse(path: &str) -> Route {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        match parts.as_slice() {
            ["healthz" | "livez" | "readyz", ..] => Route::Health,
            ["version"] => Route::Version,
            ["api"] => Route::CoreVersions,
            ["api", "v1"] => Route::CoreResources,
            ["api", "v1", "namespaces"] => Route::Namespaces(None),
            ["api", "v1", "namespaces", name] => Route::Namespaces(Some((*name).into())),
            ["apis"] => Route::Groups,
            ["apis", group] if *group == GROUP => Route::Group,
            ["apis", group, version] if *group == GROUP && *version == VERSION => Route::Resources,
            ["apis", group, version, rest @ ..] if *group == GROUP && *version == VERSION => {
                objects(rest).map_or(Route::Unknown, Route::Objects)
            }
            ["openapi", "v2"] => Route::OpenApiV2,
            ["openapi", "v3"] => Route::OpenApiV3Index,
            ["openapi", "v3", "apis", group, version] if *group == GROUP && *version == VERSION => {
                Route::OpenApiV3
            }
            _ => Route::Unknown,
        }
    }
}

fn objects(parts: &[&str]) -> Option<Target> {
    let (namespace, rest) = match parts {
        ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
        rest => (None, rest),
    };
    let (plural, name, status) = match rest {
        [plural] => (plural, None, false),
        [plural, name] => (plural, Some(*name), false),
        [plural, name, "status"] => (plural, Some(*name), true),
        _ => return None,
    };
    let kind = Kind::from_plural(plural)?;
    // One object of a kind with namespaces is always named with its namespace.
    let whole = match (kind.namespaced(), &namespace, name) {
        (true, None, name) => name.is_none(),
        (true, Some(_), _) | (false, None, _) => true,
        (false, Some(_), _) => false,
    };
    whole.then(|| Target { kind, namespace, name: name.map(Into::into), status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_mean_what_kubernetes_means_by_them() {
        let base = format!("/apis/{GROUP}/{VERSION}");
        let target = |kind, namespace: Option<&str>, name: Option<&str>, status| {
            let (namespace, name) = (namespace.map(Into::into), name.map(Into::into));
            Route::Objects(Target { kind, namespace, name, status })
        };
        let cases = [
            ("/sites", target(Kind::Site, None, None, false)),
            ("/namespaces/acme/sites", target(Kind::Site, Some("acme"), None, false)),
            ("/namespaces/acme/sites/a/status", target(Kind::Site, Some("acme"), Some("a"), true)),
            ("/regionaledges/re-1", target(Kind::RegionalEdge, None, Some("re-1"), false)),
            ("/namespaces/acme/regionaledges", Route::Unknown),
            ("/sites/a", Route::Unknown),
            ("/namespaces/acme/sites/a/scale", Route::Unknown),
            ("/namespaces/acme/pods", Route::Unknown),
        ];
        for (path, want) in cases {
            assert_eq!(Route::parse(&format!("{base}{path}")), want, "{path}");
        }
        assert_eq!(Route::parse("/apis/apps/v1"), Route::Unknown);
        assert_eq!(Route::parse("/api/v1/namespaces/x"), Route::Namespaces(Some("x".into())));
    }
}
