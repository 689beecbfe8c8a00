//! Tokens and registrations: the way in, and every way in which it is closed.

use super::http::Http;
use super::world::{BASE, Device, World, fingerprint, of};
use holdfast_api::token::{CaFingerprint, Envelope, TokenSecret};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_leads_to_certificate_and_configuration_in_one_answer() {
    let world = World::new().await;
    world.edge("re-1", 1).await;
    let token = world
        .token(
            "acme",
            json!({"approval": "Automatic", "site": "ce01", "labels": {"region": "us-west"}}),
        )
        .await;
    assert_eq!(token.ca, fingerprint(&world.ca()));
    assert_eq!(token.tenant, "acme");
    let device = Device::new();
    let registration = world.register(&token, &device, json!({})).await;
    assert_eq!(registration["status"]["phase"], "Admitted");
    assert_eq!(registration["status"]["node"], "ce01");
    assert_eq!(registration["status"]["ca"], world.ca());
    assert!(!registration.to_string().contains(&*token.credential()), "the secret is not kept");

    let node = world.certified(&device, &registration).await;
    let config = node.must(&of("acme", "nodeconfigs/ce01")).await;
    assert_eq!(config["spec"]["role"], "control-plane");
    assert_eq!(config["spec"]["tunnels"]["overlayAddress"], "100.64.0.1");
    assert_eq!(config["spec"]["tunnels"]["sitePrefixes"], json!(["10.128.0.0/24"]));
    let candidate = &config["spec"]["tunnels"]["candidates"][0];
    assert_eq!(
        (&candidate["name"], &candidate["overlayAddress"]),
        (&json!("re-1"), &json!("100.127.0.1"))
    );

    let operator = world.operator(Some("acme")).await;
    let site = operator.must(&of("acme", "sites/ce01")).await;
    assert_eq!(site["metadata"]["labels"]["region"], "us-west");
    assert_eq!(site["spec"]["nodes"][0]["registration"], device.name());
    let peer = operator.must(&of("acme", "tunnelpeers/ce01")).await;
    assert_eq!(peer["spec"]["publicKey"], device.wireguard());
    assert_eq!(peer["spec"]["edges"], json!(["re-1"]));
    let used = operator.must(&of("acme", "tokens")).await;
    assert_eq!(used["items"][0]["status"]["used"], 1);
    assert!(used["items"][0]["status"].get("token").is_none(), "shown once only");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_devices_with_one_single_use_token_make_one_site() {
    const DEVICES: usize = 10_000;
    const CONNECTIONS: usize = 50;
    let world = World::new().await;
    let token = Arc::new(world.token("acme", json!({"approval": "Automatic"})).await);
    let (address, ca) = (world.address(), world.ca());
    // Keys first, so that the requests come as close together as can be.
    let mut batches = JoinSet::new();
    for _ in 0..CONNECTIONS {
        batches.spawn_blocking(|| {
            let one = || Device::new().registration(json!({"hostname": "box"}));
            (0..DEVICES / CONNECTIONS).map(|_| one()).collect::<Vec<Value>>()
        });
    }
    let mut presentations = JoinSet::new();
    while let Some(batch) = batches.join_next().await {
        let http = Arc::new(Http::connect(address, &ca, None, None).await);
        for registration in batch.unwrap() {
            let (http, token) = (http.clone(), token.clone());
            presentations.spawn(async move {
                let answer = http.present(&token, &registration).await;
                let reason = if answer.code == 201 { "made" } else { answer.reason() };
                (answer.code, reason)
            });
        }
    }
    let mut counts: BTreeMap<(u16, &str), usize> = BTreeMap::new();
    while let Some(result) = presentations.join_next().await {
        *counts.entry(result.unwrap()).or_default() += 1;
    }
    assert_eq!(counts, BTreeMap::from([((201, "made"), 1), ((403, "token.used-up"), DEVICES - 1)]));
    let operator = world.operator(Some("acme")).await;
    for kind in ["sites", "registrations", "nodeconfigs", "tunnelpeers"] {
        let list = operator.must(&of("acme", kind)).await;
        assert_eq!(list["items"].as_array().unwrap().len(), 1, "{kind}");
    }
    let tokens = operator.must(&of("acme", "tokens")).await;
    assert_eq!(tokens["items"][0]["status"]["used"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_a_token_has_its_reason_and_changes_nothing() {
    let world = World::new().await;
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60);
    let expiring = world.token("acme", json!({"expiresAt": soon.to_string()})).await;
    let once = world.token("acme", json!({"uses": 1})).await;
    let anybody = world.anybody().await;
    let present = async |token: &Envelope| {
        let answer = anybody.present(token, &Device::new().registration(json!({}))).await;
        (answer.code, if answer.code < 300 { "" } else { answer.reason() })
    };

    assert_eq!(present(&once).await, (201, ""));
    assert_eq!(present(&once).await, (403, "token.used-up"));
    world.pass(61);
    assert_eq!(present(&expiring).await, (403, "token.expired"));
    let wrong = Envelope { secret: TokenSecret::new([1; 10]), ..once.clone() };
    assert_eq!(present(&wrong).await, (403, "token.unknown"), "no hint that it is used up");
    let stranger = Envelope { id: holdfast_api::token::TokenId([9; 5]), ..once.clone() };
    assert_eq!(present(&stranger).await, (403, "token.unknown"));
    let foreign = Envelope { tenant: "other".into(), ..once.clone() };
    assert_eq!(present(&foreign).await, (403, "token.foreign"));
    // What the node checks (the CA) is the node's business; the server does not look at it.
    let elsewhere = Envelope { ca: CaFingerprint([0; 16]), ..once.clone() };
    assert_eq!(present(&elsewhere).await, (403, "token.used-up"));

    let operator = world.operator(Some("acme")).await;
    let all = operator.must(&of("acme", "registrations")).await;
    assert_eq!(all["items"].as_array().unwrap().len(), 1);
    let status = &all["items"][0]["status"];
    assert_eq!(
        (&status["phase"], &status["reason"]),
        (&json!("Pending"), &json!("registration.pending"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn presenting_again_is_the_same_device() {
    let world = World::new().await;
    let token = world.token("acme", json!({"approval": "Automatic"})).await;
    let device = Device::new();
    let first = world.register(&token, &device, json!({})).await;
    // Without proof of the key the answer is the same and what it says is not believed.
    let anybody = world.anybody().await;
    let again = anybody.present(&token, &device.registration(json!({"hostname": "evil"}))).await;
    assert_eq!((again.code, &again.body), (200, &first));
    // With proof it may say something new, which still uses nothing up.
    let moved = world.register(&token, &device, json!({"hostname": "renamed"})).await;
    assert_eq!(moved["spec"]["hostname"], "renamed");
    assert_eq!(moved["metadata"]["uid"], first["metadata"]["uid"]);
    assert_eq!(moved["status"]["node"], first["status"]["node"]);
    // Long after the token has ended, too.
    world.pass(1_000_000);
    assert_eq!(
        world.register(&token, &device, json!({})).await["metadata"]["uid"],
        first["metadata"]["uid"]
    );
    let operator = world.operator(None).await;
    assert_eq!(operator.must(&of("acme", "tokens")).await["items"][0]["status"]["used"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_cannot_prove_is_refused() {
    let world = World::new().await;
    let token = world.token("acme", json!({"uses": 100})).await;
    let (device, other) = (Device::new(), Device::new());
    let anybody = world.anybody().await;
    let fields = async |http: &Http, registration: &Value| {
        let answer = http.present(&token, registration).await;
        assert_eq!(answer.code, 422, "{}", answer.body);
        answer.fields().join(",")
    };
    let mut named = device.registration(json!({}));
    named["metadata"]["name"] = "reg-0123".into();
    assert_eq!(fields(&anybody, &named).await, "metadata.name");
    assert_eq!(fields(&anybody, &device.registration(json!({"csr": "junk"}))).await, "spec.csr");
    // A request in which the key was exchanged: the signature is that of another key.
    let (mine, theirs) = (device.csr(), other.csr());
    let cut = |pem: &str| pem.lines().map(str::to_owned).collect::<Vec<_>>();
    let (mut forged, theirs) = (cut(&mine), cut(&theirs));
    let last = forged.len() - 2;
    forged[last].clone_from(&theirs[last]);
    let forged = device.registration(json!({"csr": forged.join("\n")}));
    assert_eq!(fields(&anybody, &forged).await, "spec.csr");
    let with_certificate = world.device(&other).await;
    let mut stolen = device.registration(json!({}));
    stolen["metadata"] = json!({});
    assert_eq!(fields(&with_certificate, &stolen).await, "spec.csr");
    assert_eq!(
        fields(&anybody, &device.registration(json!({"role": "RegionalEdge"}))).await,
        "spec.role"
    );
    assert_eq!(
        fields(&anybody, &device.registration(json!({"edge": {"drained": true}}))).await,
        "spec.edge"
    );
    // Nothing of all that used the token up.
    let operator = world.operator(None).await;
    assert_eq!(operator.must(&of("acme", "tokens")).await["items"][0]["status"]["used"], 0);
    // A WireGuard key can be had by one device only.
    assert_eq!(anybody.present(&token, &device.registration(json!({}))).await.code, 201);
    let thief = other.registration(json!({"wireguardPublicKey": device.wireguard()}));
    assert_eq!(fields(&anybody, &thief).await, "spec.wireguardPublicKey");
    // Certificates that are neither ours nor the device's own do not even get through TLS.
    let mut foreign_ca = rcgen::CertificateParams::default();
    foreign_ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    foreign_ca.distinguished_name.push(rcgen::DnType::CommonName, "other CA");
    let issuer =
        rcgen::CertifiedIssuer::self_signed(foreign_ca, rcgen::KeyPair::generate().unwrap())
            .unwrap();
    let foreign =
        rcgen::CertificateParams::default().signed_by(&device.key, &issuer).unwrap().pem();
    let pair = (foreign.as_str(), device.key.serialize_pem());
    let http =
        Http::try_connect(world.address(), &world.ca(), None, Some((pair.0, &pair.1)), b"h2").await;
    let refused = match http {
        Err(_) => true,
        Ok(http) => http.try_call("GET", "/version", &[], "").await.is_err(),
    };
    assert!(refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_approves_rejects_and_is_obeyed_at_once() {
    let world = World::new().await;
    let token =
        world.token("acme", json!({"uses": 2, "labels": {"a": "token", "b": "token"}})).await;
    let (one, two) = (Device::new(), Device::new());
    let waiting = world.register(&token, &one, json!({"hostname": "Shop.Example"})).await;
    assert_eq!(waiting["status"]["phase"], "Pending");
    assert!(waiting["status"].get("certificate").is_none());
    let operator = world.operator(Some("acme")).await;
    let path = of("acme", &format!("registrations/{}", one.name()));
    let device = world.device(&one).await;
    let mut watch = device
        .watch(&format!(
            "{}?watch=true&fieldSelector=metadata.name%3D{}",
            of("acme", "registrations"),
            one.name()
        ))
        .await;
    assert_eq!(watch.short().await, format!("ADDED {}", one.name()));
    let approve =
        json!({"spec": {"approval": {"decision": "Approved", "labels": {"b": "operator"}}}});
    assert_eq!(operator.patch(&path, &approve).await.code, 200);
    let event = watch.next().await.unwrap();
    assert_eq!(event["object"]["status"]["phase"], "Admitted");
    assert_eq!(event["object"]["status"]["node"], "shop");
    let labels = operator.must(&of("acme", "sites/shop")).await["metadata"]["labels"].clone();
    assert_eq!(labels, json!({"a": "token", "b": "operator"}));
    // What is not the operator's to write.
    let answer = operator.patch(&path, &json!({"spec": {"csr": "x", "tokenId": "y"}})).await;
    assert_eq!(
        (answer.code, answer.fields()),
        (422, vec!["spec.csr".to_owned(), "spec.tokenId".into()])
    );
    assert_eq!(operator.put(&format!("{path}/status"), &waiting).await.code, 403);

    world.register(&token, &two, json!({})).await;
    let path = of("acme", &format!("registrations/{}", two.name()));
    let reject = json!({"spec": {"approval": {"decision": "Rejected"}}});
    let rejected = operator.patch(&path, &reject).await.body;
    assert_eq!(
        (&rejected["status"]["phase"], &rejected["status"]["reason"]),
        (&json!("Rejected"), &json!("registration.rejected"))
    );
    // The same token does not help, a new one does.
    assert_eq!(world.register(&token, &two, json!({})).await["status"]["phase"], "Rejected");
    let fresh = world.token("acme", json!({"approval": "Automatic"})).await;
    assert_eq!(world.register(&fresh, &two, json!({})).await["status"]["phase"], "Admitted");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_by_the_device_key() {
    let world = World::new().await;
    let (device, first) = world.node("acme", "ce01").await;
    let path = of("acme", &format!("registrations/{}", device.name()));
    let certificate =
        |registration: &Value| registration["status"]["certificate"].as_str().unwrap().to_owned();
    let node = world.certified(&device, &first).await;
    // A new request is answered by a new certificate.
    let mut renewal = first.clone();
    renewal["spec"]["csr"] = device.csr().into();
    let second = node.put(&path, &renewal).await;
    assert_eq!(second.code, 200, "{}", second.body);
    assert_ne!(certificate(&second.body), certificate(&first));
    // The same request again is not, until a third of the life is over.
    let mut same = second.body.clone();
    same["metadata"]["resourceVersion"] = Value::Null;
    assert_eq!(certificate(&node.put(&path, &same).await.body), certificate(&second.body));
    world.pass(9 * 3_600);
    let third = node.put(&path, &same).await.body;
    assert_ne!(certificate(&third), certificate(&second.body));
    // A request for another key is refused.
    let mut other = same.clone();
    other["spec"]["csr"] = Device::new().csr().into();
    assert_eq!(node.put(&path, &other).await.fields(), ["spec.csr"]);

    // After its life a certificate proves the device's key and nothing more.
    world.pass(48 * 3_600);
    let late = world.certified(&device, &third).await;
    assert_eq!(late.get(&of("acme", "nodeconfigs/ce01")).await.code, 403);
    let fourth = late.put(&path, &same).await;
    assert_eq!(fourth.code, 200, "{}", fourth.body);
    let back = world.certified(&device, &fourth.body).await;
    assert_eq!(back.get(&of("acme", "nodeconfigs/ce01")).await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_may_only_see_to_its_own_registration() {
    let world = World::new().await;
    let (device, mine) = world.node("acme", "ce01").await;
    let (_, theirs) = world.node("acme", "ce02").await;
    let http = world.device(&device).await;
    let name = |registration: &Value| registration["metadata"]["name"].as_str().unwrap().to_owned();
    assert_eq!(http.get(&of("acme", &format!("registrations/{}", name(&mine)))).await.code, 200);
    assert_eq!(http.get(&of("acme", &format!("registrations/{}", name(&theirs)))).await.code, 403);
    let list = http.must(&of("acme", "registrations")).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    for path in ["sites", "nodeconfigs", "nodeconfigs/ce01", "tokens", "tunnelpeers"] {
        assert_eq!(http.get(&of("acme", path)).await.code, 403, "{path}");
    }
    assert_eq!(http.get(&format!("{BASE}/regionaledges")).await.code, 403);
    // The operator's part of a registration is not the device's to write.
    let path = of("acme", &format!("registrations/{}", name(&mine)));
    let answer = http
        .patch(&path, &json!({"spec": {"approval": {"decision": "Rejected"}, "tokenId": "x"}}))
        .await;
    assert_eq!(
        (answer.code, answer.fields()),
        (422, vec!["spec.approval".to_owned(), "spec.tokenId".into()])
    );
    assert_eq!(http.delete(&path).await.code, 403);
    // Nor are the controller's annotations.
    let annotate =
        json!({"metadata": {"annotations": {"holdfast.dev/overlay-address": "100.64.0.2"}}});
    let kept = http.patch(&path, &annotate).await.body;
    assert_eq!(kept["metadata"]["annotations"]["holdfast.dev/overlay-address"], "100.64.0.1");
}
