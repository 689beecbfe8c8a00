//! The conventions of the Kubernetes API, by raw HTTP.

use super::http::Http;
use super::world::{BASE, World, of, operator_token};
use serde_json::{Value, json};
use std::collections::BTreeSet;

async fn with_sites(n: usize) -> (World, Http) {
    let world = World::new().await;
    let operator = world.operator(Some("acme")).await;
    for i in 0..n {
        let parity = if i % 2 == 0 { "even" } else { "odd" };
        let site = json!({"metadata": {"name": format!("s{i:02}"), "labels": {"parity": parity, "n": i.to_string()}}});
        operator.create(&of("acme", "sites"), &site).await;
    }
    (world, operator)
}

fn names(list: &Value) -> Vec<&str> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| o["metadata"]["name"].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_follow_optimistic_concurrency() {
    let (_world, operator) = with_sites(1).await;
    let path = of("acme", "sites/s00");
    let first = operator.must(&path).await;
    assert_eq!(first["metadata"]["generation"], 1);
    let mut second = first.clone();
    second["spec"]["place"]["region"] = "eu".into();
    let written = operator.put(&path, &second).await;
    assert_eq!((written.code, &written.body["metadata"]["generation"]), (200, &json!(2)));
    assert_ne!(written.body["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let stale = operator.put(&path, &second).await;
    assert_eq!((stale.code, stale.status().reason.as_str()), (409, "Conflict"));
    // Without a version the last one wins; what only the server writes is kept.
    second["metadata"] =
        json!({"name": "s00", "creationTimestamp": "2001-01-01T00:00:00Z", "generation": 99});
    let forced = operator.put(&path, &second).await.body;
    assert_eq!(forced["metadata"]["creationTimestamp"], first["metadata"]["creationTimestamp"]);
    assert_eq!(forced["metadata"]["generation"], 2);
    let mut other = forced.clone();
    other["metadata"]["uid"] = "x".into();
    assert_eq!(operator.put(&path, &other).await.code, 409);
    other["metadata"]["name"] = "s01".into();
    assert_eq!(operator.put(&path, &other).await.code, 400);
    // The same again is no write.
    let same = operator.put(&path, &forced).await.body;
    assert_eq!(same["metadata"]["resourceVersion"], forced["metadata"]["resourceVersion"]);
    let again = operator.post(&of("acme", "sites"), &json!({"metadata": {"name": "s00"}})).await;
    assert_eq!((again.code, again.status().reason.as_str()), (409, "AlreadyExists"));
    assert_eq!(
        operator
            .put(&of("acme", "sites/none?fieldManager=me"), &json!({"metadata": {"name": "none"}}))
            .await
            .code,
        404
    );
    // Status is not the operator's to write here, and a write of the object leaves it alone.
    let mut lie = operator.must(&path).await;
    lie["status"]["phase"] = "Online".into();
    assert_eq!(operator.put(&path, &lie).await.body["status"]["phase"], "Pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_of_three_kinds() {
    let (_world, operator) = with_sites(1).await;
    let path = of("acme", "sites/s00");
    let merged = operator.patch(&path, &json!({"metadata": {"labels": {"n": null, "x": "y"}}, "spec": {"place": {"region": "eu"}}})).await;
    assert_eq!(merged.body["metadata"]["labels"], json!({"parity": "even", "x": "y"}));
    let stale = operator.patch(&path, &json!({"metadata": {"resourceVersion": "1"}})).await;
    assert_eq!(stale.code, 409);
    let media = |kind: &'static str| [("content-type", kind)];
    let operations = json!([{"op": "test", "path": "/spec/place/region", "value": "eu"}, {"op": "replace", "path": "/spec/place/region", "value": "us"}]);
    let patched = operator
        .call("PATCH", &path, &media("application/json-patch+json"), operations.to_string())
        .await;
    assert_eq!(patched.body["spec"]["place"]["region"], "us");
    let refused = operator
        .call("PATCH", &path, &media("application/json-patch+json"), operations.to_string())
        .await;
    assert_eq!(refused.code, 400);
    let strategic =
        operator.call("PATCH", &path, &media("application/strategic-merge-patch+json"), "{}").await;
    assert_eq!((strategic.code, strategic.status().reason.as_str()), (415, "UnsupportedMediaType"));
    let broken = operator.call("PATCH", &path, &media("application/merge-patch+json"), "{").await;
    assert_eq!(broken.code, 400);
    assert_eq!(
        operator.patch(&of("acme", "sites/none?fieldManager=me"), &json!({})).await.code,
        404
    );

    let yaml = "apiVersion: fleet.holdfast.dev/v1alpha1\nkind: Site\nmetadata: {name: new}\nspec: {place: {region: eu, address: here}}\n";
    let target = of("acme", "sites/new?fieldManager=me");
    let made = operator.call("PATCH", &target, &media("application/apply-patch+yaml"), yaml).await;
    assert_eq!(made.code, 201, "{}", made.body);
    assert_eq!(made.body["metadata"]["managedFields"][0]["manager"], "me");
    let fewer = yaml.replace(", address: here", "");
    let applied = operator
        .call("PATCH", &target, &media("application/apply-patch+yaml"), fewer.clone())
        .await;
    assert_eq!(applied.body["spec"]["place"], json!({"region": "eu"}));
    let theirs = of("acme", "sites/new?fieldManager=you");
    let clash = operator
        .call("PATCH", &theirs, &media("application/apply-patch+yaml"), fewer.replace("eu", "us"))
        .await;
    assert_eq!((clash.code, clash.fields()), (409, vec![".spec.place.region".to_owned()]));
    let forced = operator
        .call(
            "PATCH",
            &format!("{theirs}&force=true"),
            &media("application/apply-patch+yaml"),
            fewer.replace("eu", "us"),
        )
        .await;
    assert_eq!(forced.body["spec"]["place"]["region"], "us");
    let nameless = operator
        .call("PATCH", &of("acme", "sites/new"), &media("application/apply-patch+yaml"), yaml)
        .await;
    assert_eq!(nameless.code, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_names_its_fields_and_changes_nothing() {
    let (_world, operator) = with_sites(0).await;
    let sites = of("acme", "sites");
    let bad = json!({"metadata": {"name": "a", "labels": {"-bad": "x", "good": "no good!"}}, "spec": {"nodes": 1, "prefix": "10.0.0.0", "place": {"region": 5}}});
    let answer = operator.post(&sites, &bad).await;
    assert_eq!((answer.code, answer.status().reason.as_str()), (422, "Invalid"));
    assert_eq!(answer.fields(), ["spec.place.region", "spec.nodes", "spec.prefix"]);
    let labels = json!({"metadata": {"name": "a", "labels": {"-bad": "x", "good": "no good!"}}});
    assert_eq!(
        operator.post(&sites, &labels).await.fields(),
        ["metadata.labels", "metadata.labels.good"]
    );
    let unknown =
        json!({"metadata": {"name": "a"}, "spec": {"plaice": {}, "place": {"regionn": "x"}}});
    let strict = operator.post(&format!("{sites}?fieldValidation=Strict"), &unknown).await;
    assert_eq!(strict.code, 400);
    assert!(
        strict.status().message.contains(r#"unknown field "spec.place.regionn""#),
        "{:?}",
        strict.status()
    );
    assert!(strict.status().message.contains(r#"unknown field "spec.plaice""#));
    let cases: [(&str, &str, u16); 6] = [
        ("application/json", "{", 400),
        ("application/json", "[]", 422),
        ("application/json", r#"{"kind": "Token", "metadata": {"name": "a"}}"#, 422),
        ("application/json", r#"{"metadata": {"name": "a", "namespace": "other"}}"#, 400),
        ("application/vnd.kubernetes.protobuf", "x", 415),
        ("application/json", r#"{"metadata": {}}"#, 422),
    ];
    for (media, body, code) in cases {
        let answer = operator.call("POST", &sites, &[("content-type", media)], body).await;
        assert_eq!(
            (answer.code, answer.status().status.as_str()),
            (code, "Failure"),
            "{body}: {}",
            answer.body
        );
    }
    let large = format!("{{\"metadata\": {{\"name\": \"{}\"}}}}", "x".repeat(3 << 20));
    assert_eq!(
        operator.call("POST", &sites, &[("content-type", "application/json")], large).await.code,
        413
    );
    let dry =
        operator.post(&format!("{sites}?dryRun=All"), &json!({"metadata": {"name": "a"}})).await;
    assert_eq!((dry.code, &dry.body["spec"]["prefix"]), (201, &json!("10.128.0.0/24")));
    assert!(names(&operator.must(&sites).await).is_empty());
    let warned = operator.post(&sites, &unknown).await;
    assert_eq!(warned.code, 201);
    assert!(warned.headers["warning"].to_str().unwrap().contains("unknown field"));
    assert_eq!(warned.body["spec"].get("plaice"), None, "what is not known is not kept");
    let token = json!({"metadata": {"name": "t"}, "spec": {"uses": 0, "expiresAt": "2001-01-01T00:00:00Z"}});
    assert_eq!(operator.post(&of("acme", "tokens"), &token).await.fields(), ["spec.uses"]);
    let token = json!({"metadata": {"name": "t"}, "spec": {"expiresAt": "2001-01-01T00:00:00Z", "site": "Not A Site"}});
    assert_eq!(
        operator.post(&of("acme", "tokens"), &token).await.fields(),
        ["spec.site", "spec.expiresAt"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_select_and_come_in_pages() {
    let (_world, operator) = with_sites(25).await;
    let sites = of("acme", "sites");
    let select = async |query: &str| {
        let list = operator.must(&format!("{sites}?{query}")).await;
        list["items"].as_array().unwrap().len()
    };
    assert_eq!(select("labelSelector=parity%3Deven").await, 13);
    assert_eq!(select("labelSelector=parity%21%3Deven").await, 12);
    assert_eq!(select("labelSelector=n%20in%20%281%2C2%2C77%29").await, 2);
    assert_eq!(select("labelSelector=n%20notin%20%281%2C2%29%2Cparity").await, 23);
    assert_eq!(select("labelSelector=%21parity").await, 0);
    assert_eq!(select("fieldSelector=metadata.name%3Ds03").await, 1);
    assert_eq!(select("fieldSelector=status.phase%3DPending%2Cmetadata.name%21%3Ds03").await, 24);
    for bad in [
        "labelSelector=%28",
        "labelSelector=a+in+b",
        "fieldSelector=spec.nope%3D1",
        "limit=x",
        "continue=x",
    ] {
        assert_eq!(operator.get(&format!("{sites}?{bad}")).await.code, 400, "{bad}");
    }
    let mut seen = Vec::new();
    let mut next = String::new();
    let mut pages = 0;
    loop {
        let page = operator.must(&format!("{sites}?limit=10&continue={next}")).await;
        seen.extend(names(&page).into_iter().map(str::to_owned));
        pages += 1;
        match page["metadata"]["continue"].as_str() {
            Some(token) => next = token.to_owned(),
            None => break,
        }
    }
    assert_eq!((pages, seen.len(), seen.iter().collect::<BTreeSet<_>>().len()), (3, 25, 25));
    let deleted = operator.delete(&format!("{sites}?labelSelector=parity%3Dodd")).await;
    assert_eq!((deleted.code, names(&deleted.body).len()), (200, 12));
    assert_eq!(select("").await, 13);
    let uid = json!({"preconditions": {"uid": "wrong"}});
    assert_eq!(operator.json("DELETE", &of("acme", "sites/s00"), &uid).await.code, 409);
    assert_eq!(operator.delete(&of("acme", "sites/s00")).await.body["status"], "Success");
    assert_eq!(operator.delete(&of("acme", "sites/s00")).await.code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_as_tables_and_metadata_too() {
    let (_world, operator) = with_sites(2).await;
    let accept = |value: &'static str| [("accept", value)];
    let table = operator
        .call(
            "GET",
            &of("acme", "sites"),
            &accept("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"),
            "",
        )
        .await
        .body;
    assert_eq!(table["kind"], "Table");
    let columns: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        columns,
        ["Name", "Phase", "Nodes", "Tunnels", "Edges", "Region", "Prefix", "Last-Seen", "Age"]
    );
    assert_eq!(table["rows"][1]["cells"][0], "s01");
    assert_eq!(table["rows"][1]["cells"].as_array().unwrap().len(), columns.len());
    assert_eq!(table["rows"][1]["object"]["metadata"]["name"], "s01");
    let metadata = operator
        .call(
            "GET",
            &of("acme", "sites"),
            &accept("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"),
            "",
        )
        .await
        .body;
    assert_eq!(
        (&metadata["kind"], metadata["items"][0].get("spec")),
        (&json!("PartialObjectMetadataList"), None)
    );
    assert_eq!(
        operator.call("GET", &of("acme", "sites"), &accept("text/html"), "").await.code,
        406
    );
    let site = operator.get(&of("acme", "sites/s00")).await;
    let tag = site.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(
        operator.call("GET", &of("acme", "sites/s00"), &[("if-none-match", &tag)], "").await.code,
        304
    );
    // Every kind has a table.
    let all = ["tokens", "registrations", "sites", "nodeconfigs", "nodestatuses", "tunnelpeers"];
    for kind in all {
        let answer = operator
            .call(
                "GET",
                &of("acme", kind),
                &accept("application/json;as=Table;v=v1;g=meta.k8s.io"),
                "",
            )
            .await;
        assert_eq!(answer.body["kind"], "Table", "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_and_openapi_name_every_kind() {
    let world = World::new().await;
    let anybody = world.anybody().await;
    assert_eq!(anybody.must("/api").await["versions"], json!(["v1"]));
    assert_eq!(anybody.must("/apis").await["groups"][0]["name"], "fleet.holdfast.dev");
    assert_eq!(anybody.must("/apis/fleet.holdfast.dev").await["kind"], "APIGroup");
    let resources = anybody.must(BASE).await;
    let plurals: Vec<&str> = resources["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap())
        .collect();
    for kind in holdfast_api::resources::Kind::ALL {
        assert!(plurals.contains(&kind.plural()), "{kind:?}");
    }
    let v2 = anybody.must("/openapi/v2").await;
    let site = &v2["definitions"]["dev.holdfast.fleet.v1alpha1.Site"];
    assert_eq!(site["x-kubernetes-group-version-kind"][0]["kind"], "Site");
    assert_eq!(
        site["properties"]["spec"]["properties"]["edges"]["properties"]["want"]["maximum"],
        3
    );
    let index = anybody.must("/openapi/v3").await;
    let url = index["paths"]["apis/fleet.holdfast.dev/v1alpha1"]["serverRelativeURL"]
        .as_str()
        .unwrap()
        .to_owned();
    let v3 = anybody.must(&url).await;
    assert!(v3["components"]["schemas"]["dev.holdfast.fleet.v1alpha1.TunnelPeer"].is_object());
    let proto = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let binary = anybody.call("GET", "/openapi/v2", &[("accept", proto)], "").await;
    assert_eq!(binary.headers["content-type"], proto.replace('@', "."));
    for (method, path, code) in [
        ("GET", "/nothing", 404),
        ("POST", "/version", 405),
        ("GET", "/apis/apps/v1", 404),
        ("POST", "/nothing", 404),
    ] {
        assert_eq!(anybody.call(method, path, &[], "").await.code, code, "{method} {path}");
    }
    let operator = world.operator(None).await;
    assert_eq!(operator.json("PUT", &format!("{BASE}/sites"), &json!({})).await.code, 405);
    assert_eq!(
        operator.post(&format!("{BASE}/sites"), &json!({"metadata": {"name": "a"}})).await.code,
        400
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_http_are_spoken_on_one_port() {
    let world = World::new().await;
    let token = operator_token(world.data.path(), None);
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let http = Http::try_connect(world.address(), &world.ca(), Some(&token), None, alpn)
            .await
            .unwrap();
        for _ in 0..3 {
            assert_eq!(http.get(&of("acme", "sites")).await.code, 200);
        }
    }
}
