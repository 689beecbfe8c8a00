//! Against a small API server that remembers objects: what real ones do rarely or at their own
//! pace (pages, lists that grow too old, kinds that come and go).

use super::*;
use crate::kubernetes::pages::PAGE;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use kube::client::Body;
use std::sync::{Arc, Mutex};

/// A fake API server.
#[derive(Default)]
struct Server {
    /// Objects by path.
    objects: BTreeMap<String, Value>,
    /// Kinds of `example.org/v1`: kind, plural.
    kinds: Vec<(&'static str, &'static str)>,
    /// The next list that goes on is told that it is too old.
    forgets: bool,
    /// Requests it had.
    asked: Vec<String>,
    version: u64,
}

impl Server {
    fn api(self) -> (Api, Arc<Mutex<Server>>) {
        let server = Arc::new(Mutex::new(self));
        let shared = Arc::clone(&server);
        let service = tower::service_fn(move |request: Request<Body>| {
            let shared = Arc::clone(&shared);
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let (code, value) = shared.lock().unwrap().answer(&head, &body);
                let body = Full::new(Bytes::from(value.to_string()));
                Ok::<_, std::io::Error>(Response::builder().status(code).body(body).unwrap())
            }
            .boxed()
        });
        (Api::with_client(kube::Client::new(service, "default")), server)
    }

    fn answer(&mut self, head: &http::request::Parts, body: &[u8]) -> (u16, Value) {
        let path = head.uri.path().to_owned();
        let query = head.uri.query().unwrap_or_default();
        self.asked.push(format!("{} {path}?{query}", head.method));
        let resource = |kind: &str, plural: &str, namespaced: bool| json!({"kind": kind, "name": plural, "namespaced": namespaced, "verbs": ["list", "get"]});
        match path.as_str() {
            "/apis" => {
                return (
                    200,
                    json!({"groups": [{
                        "preferredVersion": {"groupVersion": "example.org/v1"},
                        "versions": [{"groupVersion": "example.org/v2"}, {"groupVersion": "example.org/v1"}],
                    }]}),
                );
            }
            "/api/v1" => {
                let kinds = [
                    resource("ConfigMap", "configmaps", true),
                    resource("Namespace", "namespaces", false),
                    resource("Endpoints", "endpoints", true),
                    resource("ServiceAccount", "serviceaccounts", true),
                    resource("Secret", "secrets", true),
                ];
                return (200, json!({ "resources": kinds }));
            }
            "/apis/example.org/v1" if !self.kinds.is_empty() => {
                let kinds: Vec<_> =
                    self.kinds.iter().map(|(kind, plural)| resource(kind, plural, true)).collect();
                return (200, json!({ "resources": kinds }));
            }
            _ => {}
        }
        let no_such_kind = path.starts_with("/apis/example.org/v1")
            && !self.kinds.iter().any(|(_, plural)| path.contains(plural));
        if no_such_kind || path.starts_with("/apis/example.org/v2") {
            return (
                404,
                json!({"message": "the server could not find the requested resource", "details": {}}),
            );
        }
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        if head.method == Method::PATCH {
            let before = self.objects.get(&path).cloned();
            let mut after = value;
            self.version += 1;
            after["metadata"]["resourceVersion"] = json!(self.version.to_string());
            after["metadata"]["managedFields"] = json!([{"time": self.version}]);
            if !query.contains("dryRun=All") {
                self.objects.insert(path, after.clone());
            }
            return (if before.is_some() { 200 } else { 201 }, after);
        }
        if let Some(object) = self.objects.get(&path) {
            return (200, object.clone());
        }
        let plural = path.rsplit('/').next().unwrap_or_default().to_owned();
        let listed =
            ["configmaps", "namespaces", "gadgets", "endpoints", "serviceaccounts", "secrets"];
        if listed.contains(&plural.as_str()) {
            return self.list(&plural, query);
        }
        (404, json!({"message": "not found", "details": {"name": plural, "kind": "configmaps"}}))
    }

    fn list(&mut self, plural: &str, query: &str) -> (u16, Value) {
        let parameter = |name: &str| {
            let value = query.split('&').find_map(|part| part.strip_prefix(&format!("{name}=")));
            value.and_then(|value| value.parse::<usize>().ok())
        };
        let from = parameter("continue").unwrap_or(0);
        if from > 0 && std::mem::take(&mut self.forgets) {
            return (410, json!({"reason": "Expired", "message": "too old"}));
        }
        let all: Vec<_> = self
            .objects
            .iter()
            .filter(|(path, _)| path.contains(&format!("/default/{plural}/")))
            .map(|(_, object)| object.clone())
            .collect();
        let until = (from + parameter("limit").unwrap()).min(all.len());
        let next = if until < all.len() { until.to_string() } else { String::new() };
        (200, json!({"metadata": {"continue": next}, "items": all[from..until]}))
    }

    fn with(mut self, plural: &str, name: &str, metadata: Value) -> Self {
        let root = if plural == "gadgets" { "/apis/example.org/v1" } else { "/api/v1" };
        let path = format!("{root}/namespaces/default/{plural}/{name}");
        let mut object = json!({"metadata": {"name": name, "namespace": "default", "uid": format!("{plural}-{name}")}});
        for (key, value) in metadata.as_object().into_iter().flatten() {
            object["metadata"][key] = value.clone();
        }
        self.objects.insert(path, object);
        self
    }
}

fn id(api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> ObjectId {
    ObjectId {
        api_version: api_version.into(),
        kind: kind.into(),
        namespace: namespace.map(str::to_owned),
        name: name.into(),
    }
}

fn config_map(data: &str) -> Object {
    let id = id("v1", "ConfigMap", None, "a");
    let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": data}});
    Object { id, origin: crate::object::Origin::default(), value }
}

#[tokio::test]
async fn applying_twice_changes_nothing_though_the_server_counts_it() {
    let (api, _server) = Server::default().api();
    let dry_run = Mode { dry_run: true, ..Mode::default() };
    assert_eq!(api.apply(&config_map("1"), dry_run).await.unwrap(), Applied::Created);
    assert_eq!(api.apply(&config_map("1"), Mode::default()).await.unwrap(), Applied::Created);
    assert_eq!(api.apply(&config_map("1"), Mode::default()).await.unwrap(), Applied::Unchanged);
    assert_eq!(api.apply(&config_map("2"), dry_run).await.unwrap(), Applied::Changed);
    assert_eq!(api.apply(&config_map("1"), dry_run).await.unwrap(), Applied::Unchanged);
    assert_eq!(api.apply(&config_map("2"), Mode::default()).await.unwrap(), Applied::Changed);
}

#[tokio::test]
async fn a_long_list_comes_whole_even_when_the_server_forgets_its_beginning() {
    for forgets in [false, true] {
        let mut server = Server { forgets, ..Server::default() };
        for number in 0..2 * PAGE + 50 {
            server = server.with("configmaps", &format!("c{number:04}"), json!({}));
        }
        let (api, server) = server.api();
        let all = api.list("v1", "ConfigMap", None, "a=b", "").await.unwrap();
        let names: BTreeSet<_> =
            all.iter().map(|one| one["metadata"]["name"].to_string()).collect();
        assert_eq!((all.len(), names.len()), (2 * PAGE + 50, 2 * PAGE + 50));
        assert!(all.iter().all(|one| one["kind"] == "ConfigMap" && one["apiVersion"] == "v1"));
        let lists = server.lock().unwrap().asked.iter().filter(|one| one.contains("limit")).count();
        assert_eq!(lists, if forgets { 5 } else { 3 });
    }
}

/// Objects may be large; a page of them comes in parts then.
#[tokio::test]
async fn a_list_of_large_objects_comes_whole() {
    let mut server = Server::default();
    let large = json!({"annotations": {"a": "x".repeat(1 << 20)}});
    for number in 0..34 {
        server = server.with("configmaps", &format!("c{number}"), large.clone());
    }
    let (api, server) = server.api();
    assert_eq!(api.list("v1", "ConfigMap", None, "", "").await.unwrap().len(), 34);
    let asked = server.lock().unwrap().asked.split_off(1);
    let limit = |one: &String| one.split("limit=").nth(1).unwrap().to_owned();
    assert_eq!(asked.iter().map(limit).collect::<Vec<_>>(), ["100", "50", "25", "25&continue=25"]);

    let larger = json!({"annotations": {"a": "x".repeat(33 << 20)}});
    let (api, _server) = Server::default().with("configmaps", "a", larger).api();
    let error = api.get(&id("v1", "ConfigMap", None, "a")).await.unwrap_err();
    assert!(matches!(error, ApiError::Answer { .. }), "{error:?}");
}

#[tokio::test]
async fn a_kind_made_a_moment_ago_is_found_and_one_that_went_is_told() {
    let (api, server) = Server::default().api();
    let gadget = id("example.org/v1", "Gadget", Some("default"), "g");
    let error = api.get(&gadget).await.unwrap_err();
    assert!(matches!(error, ApiError::UnknownKind { .. }), "{error:?}");
    server.lock().unwrap().kinds.push(("Widget", "widgets"));
    assert!(api.get(&gadget).await.is_err());
    server.lock().unwrap().kinds.push(("Gadget", "gadgets"));
    assert_eq!(api.get(&gadget).await.unwrap(), None);
    let asked = |server: &Mutex<Server>| server.lock().unwrap().asked.len();
    let before = asked(&server);
    assert_eq!(api.get(&gadget).await.unwrap(), None);
    assert_eq!(asked(&server), before + 1, "what is known is not asked for again");
    server.lock().unwrap().kinds.clear();
    let error = api.get(&gadget).await.unwrap_err();
    assert!(matches!(error, ApiError::UnknownKind { .. }), "{error:?}");
    server.lock().unwrap().kinds.push(("Gadget", "gadgets"));
    assert_eq!(api.get(&gadget).await.unwrap(), None);
}

#[tokio::test]
async fn an_object_is_placed_by_its_kind() {
    let (api, _server) = Server::default().api();
    for (kind, named, want) in [
        ("ConfigMap", None, Some("default")),
        ("ConfigMap", Some("x"), Some("x")),
        ("Namespace", Some("x"), None),
    ] {
        let placed = api.place(&id("v1", kind, named, "a")).await.unwrap();
        assert_eq!(placed.namespace.as_deref(), want);
    }
}

#[tokio::test]
async fn a_name_cannot_lead_to_another_object() {
    let (api, server) = Server::default().api();
    for name in ["../../../secrets/x", "..", "", "a%2fb"] {
        let error = api.get(&id("v1", "ConfigMap", None, name)).await.unwrap_err();
        assert!(matches!(error, ApiError::Refused { .. }), "{error:?}");
    }
    assert!(server.lock().unwrap().asked.is_empty());
    let _none = api.get(&id("v1", "ConfigMap", None, "a?b#c")).await.unwrap();
    let asked = server.lock().unwrap().asked.pop().unwrap();
    assert_eq!(asked, "GET /api/v1/namespaces/default/configmaps/a%3Fb%23c?");
}

#[tokio::test]
async fn what_controllers_made_is_not_managed() {
    let owned = json!({"ownerReferences": [{"uid": "x", "controller": true}]});
    let mut server = Server::default()
        .with("configmaps", "mine", json!({}))
        .with("configmaps", "made", owned)
        .with("configmaps", "held", json!({"ownerReferences": [{"uid": "x"}]}))
        .with("endpoints", "copied", json!({}))
        .with("gadgets", "g", json!({}));
    server.kinds.push(("Gadget", "gadgets"));
    let (api, server) = server.api();
    let managed = api.managed("edge").await.unwrap();
    let names: Vec<_> = managed.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["Gadget default/g", "ConfigMap default/held", "ConfigMap default/mine"]);
    let asked = &server.lock().unwrap().asked;
    assert!(asked.iter().any(|one| one.contains("labelSelector=holdfast.dev%2Fmanaged-by%3Dedge")));
}

#[tokio::test]
async fn an_object_is_found_by_another_version_when_its_own_is_gone() {
    let mut server = Server::default();
    server.kinds.push(("Gadget", "gadgets"));
    let (api, _server) = server.api();
    let old = id("example.org/v1beta1", "Gadget", Some("default"), "g");
    let now = id("example.org/v1", "Gadget", Some("default"), "g");
    assert_eq!(api.elsewhere(&old).await.unwrap(), Some(now));
    let unknown = id("example.org/v1", "Widget", Some("default"), "g");
    assert_eq!(api.elsewhere(&unknown).await.unwrap(), None);
    assert_eq!(api.elsewhere(&id("v1", "Widget", None, "g")).await.unwrap(), None);
}

#[tokio::test]
async fn what_goes_with_a_namespace_or_a_definition_is_told() {
    let owner = |kind: &str, uid: &str| {
        let version = if kind == "Gadget" { "example.org/v1" } else { "v1" };
        let name = uid.rsplit('-').next().unwrap();
        json!({"ownerReferences": [{"apiVersion": version, "kind": kind, "name": name, "uid": uid}]})
    };
    let of_account = json!({"annotations": {"kubernetes.io/service-account.name": "default"}});
    let mut server = Server::default()
        // Of every namespace.
        .with("serviceaccounts", "default", json!({}))
        .with("secrets", "token", of_account)
        .with("configmaps", "kube-root-ca.crt", json!({}))
        .with("endpoints", "web", json!({}))
        // On its way.
        .with("configmaps", "leaving", json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}))
        .with("configmaps", "orphan", owner("ConfigMap", "configmaps-gone"))
        .with("configmaps", "renewed", owner("Gadget", "gadgets-of-before-theirs"))
        // Somebody's.
        .with("configmaps", "theirs", json!({}))
        .with("configmaps", "part", owner("ConfigMap", "configmaps-theirs"))
        .with("gadgets", "theirs", json!({}));
    server.kinds.push(("Gadget", "gadgets"));
    let (api, _server) = server.api();
    let told = async |object: Value| -> Vec<String> {
        api.content(&object).await.unwrap().iter().map(ToString::to_string).collect()
    };
    let definition = |served| {
        json!({"kind": "CustomResourceDefinition", "spec": {
            "group": "example.org", "names": {"kind": "Gadget"},
            "versions": [{"name": "v2", "served": true}, {"name": "v1", "served": served}],
        }})
    };
    let namespace = json!({"kind": "Namespace", "metadata": {"name": "default"}});
    assert_eq!(told(namespace).await, ["Gadget default/theirs", "ConfigMap default/theirs"]);
    assert_eq!(told(definition(true)).await, ["Gadget default/theirs"]);
    assert_eq!(told(definition(false)).await, [""; 0]);
    let map = json!({"kind": "ConfigMap", "metadata": {"name": "theirs"}});
    assert_eq!(told(map).await, [""; 0]);
}
