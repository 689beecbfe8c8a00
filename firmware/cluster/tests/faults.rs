//! Releases that a cluster does not take: webhooks that refuse or are away, a definition whose
//! names are taken, pods that never become ready, a StatefulSet that waits for a broken pod. After each the last good one is in force.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panics, as tests do")]

mod faults_lab;

use faults_lab::Lab;
use faults_lab::manager::{Manager, is_decided};
use faults_lab::releases::{Shop, image};
use faults_lab::webhook::{WORDS, Webhook};
use holdfast_api::Reason;
use holdfast_api::kubernetes::{ReleasePhase, ReleaseRef};
use holdfast_cluster::release::journal::Kept;
use holdfast_lab_kubernetes::asked::kubernetes;
use std::time::Instant;

/// A definition of somebody else, and one of a release that wants the same kind.
fn definition(plural: &str) -> String {
    format!(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
         metadata: {{name: {plural}.lab.example}}\nspec:\n  group: lab.example\n  scope: Namespaced\n  \
         names: {{kind: Widget, plural: {plural}}}\n  versions:\n  - name: v1\n    served: true\n    \
         storage: true\n    schema: {{openAPIV3Schema: {{type: object}}}}\n"
    )
}

/// A ConfigMap that a webhook is asked about.
fn guarded(asks: &str, refuse: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: guest, namespace: shop, labels: \
         {{asks: {asks}, refuse: {refuse}}}}}\n"
    )
}

fn daemon_set(text: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: agent, namespace: shop}}\nspec:\n  \
         selector: {{matchLabels: {{app: agent}}}}\n  template:\n    \
         metadata: {{labels: {{app: agent}}}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
         containers:\n      - name: web\n        \
         image: {}\n        env: [{{name: TEXT, value: {text}}}]\n        \
         readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1}}\n",
        image("v1")
    )
}

/// Nobody answers for it, and without an answer nothing of these is let through.
fn dead_webhook(rule: &str, namespaces: &str) -> String {
    format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingWebhookConfiguration\n\
         metadata: {{name: dead, annotations: {{holdfast.dev/timeout: '4'}}}}\nwebhooks:\n\
         - name: dead.lab.example\n  failurePolicy: Fail\n  \
         sideEffects: None\n  admissionReviewVersions: [v1]\n  \
         clientConfig: {{service: {{namespace: shop, name: nobody}}}}\n  rules: [{{{rule}}}]\n  \
         namespaceSelector: {namespaces}\n"
    )
}

const MAPS_AND_DEPLOYMENTS: &str = "apiGroups: ['', apps], apiVersions: [v1], \
    resources: [configmaps, deployments], operations: [CREATE, UPDATE]";
const MAPS: &str =
    "apiGroups: [''], apiVersions: [v1], resources: [configmaps], operations: [CREATE, UPDATE]";
const NAMESPACED: &str = "apiGroups: ['*'], apiVersions: ['*'], resources: ['*'], \
    scope: Namespaced, operations: [CREATE, UPDATE, DELETE]";
/// Of the manager's own namespace, the lead among it. Controllers of Kubernetes end when they cannot
/// renew theirs, and here nobody starts them again.
const OURS: &str = "{matchLabels: {lab: ours}}";

/// An aggregated API that is never available.
fn dead_api() -> &'static str {
    "apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {name: v1.dead.lab.example}\n\
     spec: {group: dead.lab.example, version: v1, insecureSkipTLSVerify: true, groupPriorityMinimum: 100, \
     versionPriority: 10, service: {namespace: shop, name: nobody}}\n"
}

/// Its pod is replaced only when the one before is ready; `more` are further lines of the container.
fn stateful_set(text: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: store, namespace: shop}}\nspec:\n  \
         serviceName: store\n  selector: {{matchLabels: {{app: store}}}}\n  template:\n    \
         metadata: {{labels: {{app: store}}}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
         containers:\n      - name: web\n        \
         image: {}\n        env: [{{name: TEXT, value: {text}}}{more}]\n        \
         readinessProbe: {{httpGet: {{path: /ready, port: 8080}}, periodSeconds: 1}}\n",
        image("v1")
    )
}

struct Story {
    lab: Lab,
    manager: Manager,
    /// The release in force.
    good: ReleaseRef,
}

impl Story {
    /// The release fails for this reason, in these words, and everything is as it was.
    fn fails(&mut self, kept: &Kept, phase: ReleasePhase, reason: Reason, words: &[&str]) {
        let generation = |lab: &Lab| lab.get("deployment/web", ".metadata.generation").unwrap();
        let before = generation(&self.lab);
        let version = &kept.release.version;
        let state = self.manager.bring(version, kept);
        assert_eq!((state.phase, state.reason), (phase, Some(reason)), "{state:#?}{}", self.seen());
        let failed = state.failed.last().unwrap();
        assert_eq!((&failed.release, failed.reason), (&kept.release, reason));
        for words in words {
            assert!(failed.message.contains(words), "{words}: {failed:#?}");
        }
        self.lab.passed(&format!("{version}: {phase:?}, {reason}: {}", failed.message));
        assert_eq!(state.good.as_ref(), Some(&self.good));
        if phase == ReleasePhase::Refused {
            assert_eq!(generation(&self.lab), before, "nothing was touched");
        }
        let text = ".spec.template.spec.containers[0].env[0].value";
        assert_eq!(self.lab.get("deployment/web", text).unwrap(), self.good.version);
        assert_eq!(self.lab.get("deployment/web", ".status.availableReplicas").unwrap(), "1");
        for gone in ["configmap/guest", "configmap/never"] {
            let told = self.lab.get(gone, ".metadata.name").unwrap_err();
            assert!(told.contains("not found"), "{gone}: {told}");
        }
    }

    /// What Kubernetes has of the shop, for whoever reads why a test failed.
    fn seen(&self) -> String {
        let asked =
            [&["get", "pods", "-n", "shop", "-o", "wide"][..], &["get", "events", "-n", "shop"]];
        asked
            .map(|words| format!("\n{}", self.lab.kubectl(words).unwrap_or_else(|why| why)))
            .concat()
    }

    fn succeeds(&mut self, kept: &Kept) {
        let version = &kept.release.version;
        let state = self.manager.bring(version, kept);
        assert_eq!((state.phase, state.reason), (ReleasePhase::Committed, None), "{state:#?}");
        self.good = kept.release.clone();
        self.lab.passed(&format!("{version} is in force"));
    }

    fn webhooks(&mut self) {
        use ReleasePhase::{Refused, RolledBack};
        let webhook = Webhook::start();
        self.lab.node().apply(&webhook.manifests()).unwrap();
        let reason = Reason::ReleaseWebhookRefused;
        let gnomes = ["gnomes.lab.example", WORDS, "ConfigMap shop/guest"];
        let guest = |version, asks, refuse| {
            let more = guarded(asks, refuse);
            let shop =
                Shop { version, config: "never", timeout: 3, more: &more, ..Shop::default() };
            shop.release()
        };
        self.fails(&guest("always", "gnomes", "always"), Refused, reason, &gnomes);
        let mut later = guest("later", "gnomes", "later");
        self.fails(&later, RolledBack, reason, &gnomes);

        // Remembered by the next process as well, until somebody insists.
        let surroundings = self.lab.surroundings();
        std::mem::replace(&mut self.manager, Manager::start(&surroundings)).kill();
        let state = self.manager.bring("the same again", &later);
        assert_eq!((state.phase, state.reason), (Refused, Some(Reason::ReleaseRefused)));
        assert!(state.message.contains(WORDS), "{state:#?}");
        later.release.force = 1;
        self.fails(&later, RolledBack, reason, &gnomes);

        let away = ["gnomes.lab.example", "more.yaml, document 1"];
        self.fails(&guest("fail", "gnomes", "fail"), RolledBack, reason, &away);
        let nobody = ["nobody.lab.example", "service \"nobody\" not found"];
        self.fails(&guest("nobody", "nobody", "no"), Refused, reason, &nobody);
        webhook.be_lenient(true);
        later.release.force = 2;
        // Its pods have to come now.
        later.timeout_secs = 90;
        self.succeeds(&later);
        self.succeeds(&Shop { version: "two", ..Shop::default() }.release());
    }

    fn names_are_taken(&mut self) {
        self.lab.node().apply(&definition("widgets")).unwrap();
        let more = definition("gizmos");
        let shop = Shop { version: "taken", config: "never", more: &more, ..Shop::default() };
        let words = ["gizmos.lab.example", "is already in use"];
        self.fails(
            &shop.release(),
            ReleasePhase::RolledBack,
            Reason::ReleaseCrdNotEstablished,
            &words,
        );
        self.lab.kubectl(&["get", "crd", "gizmos.lab.example"]).unwrap_err();
        self.lab.kubectl(&["get", "crd", "widgets.lab.example"]).unwrap();
    }

    fn pods(&mut self) {
        let shop = Shop { config: "never", timeout: 10, ..Shop::default() };
        let greedy = Shop {
            version: "greedy",
            variables: ", {name: EAT_MIB, value: '64'}",
            resources: "{limits: {memory: 24Mi}}",
            // containerd may tell of an end before it hears why, and then again: it is over at the
            // first end whose reason is known.
            timeout: 30,
            ..shop
        };
        let huge = "{limits: {hugepages-2Mi: 512Gi, memory: 16Mi}}";
        let huge = Shop { version: "huge", resources: huge, ..shop };
        let wide = Shop { version: "wide", resources: "{requests: {cpu: '4000'}}", ..shop };
        for (bad, reason, words) in [
            (greedy, Reason::PodOutOfMemory, "OOMKilled"),
            (huge, Reason::PodNoHugepages, "hugepages-2Mi"),
            (wide, Reason::PodUnschedulable, "cpu"),
        ] {
            self.fails(&bad.release(), ReleasePhase::RolledBack, reason, &[words]);
        }
    }

    /// What it brings refuses every change of ours, the site's record among them, until it is gone.
    fn gate(&mut self) {
        let more = format!("{}---\n{}", dead_webhook(MAPS_AND_DEPLOYMENTS, "{}"), dead_api());
        let shop =
            Shop { version: "gate", config: "never", timeout: 4, more: &more, ..Shop::default() };
        let words = ["v1.dead.lab.example", "nobody"];
        self.fails(&shop.release(), ReleasePhase::RolledBack, Reason::ReleaseTimeout, &words);
        self.lab.kubectl(&["get", "validatingwebhookconfiguration", "dead"]).unwrap_err();
        self.lab.kubectl(&["get", "apiservice", "v1.dead.lab.example"]).unwrap_err();
    }

    /// Everything is ready, and the site's record, or not even the lead, can be written.
    fn shut(&mut self) {
        let label = ["label", "namespace", "holdfast-system", "lab=ours"];
        self.lab.kubectl(&label).unwrap();
        for (version, rule, namespaces) in [("maps", MAPS, "{}"), ("everything", NAMESPACED, OURS)]
        {
            let more = dead_webhook(rule, namespaces);
            let shop = Shop { version, config: "never", more: &more, ..Shop::default() };
            let words = ["dead.lab.example", "holdfast-"];
            let reason = Reason::KubernetesAdmissionRefused;
            self.fails(&shop.release(), ReleasePhase::RolledBack, reason, &words);
            self.lab.kubectl(&["get", "validatingwebhookconfiguration", "dead"]).unwrap_err();
        }
    }

    /// Kubernetes does not replace its broken pod, whatever the template says by then.
    fn stateful_set(&mut self) {
        let shop = |version, text, more, timeout| {
            let more = stateful_set(text, more);
            Shop { version, more: &more, timeout, ..Shop::default() }.release()
        };
        self.succeeds(&shop("stored", "a", "", 30));
        let never = ", {name: READY_AFTER, value: 1h}";
        // Its pod ends and the next one starts when the kubelet looks, every few seconds.
        // When the kubelet fails to end it at once, it tries again 10 to 15 s later
        // (pkg/kubelet/pod_workers.go: backOffPeriod), and so it may for the next one.
        let bad = shop("stuck", "b", never, 45);
        self.fails(&bad, ReleasePhase::RolledBack, Reason::PodProbeFailing, &["store-0"]);
        let text = ".spec.containers[0].env[0].value";
        assert_eq!(self.lab.get("pod/store-0", text).unwrap(), "a");
        assert_eq!(self.lab.get("statefulset/store", ".status.readyReplicas").unwrap(), "1");
    }

    /// The second one is wanted while the pod of the first one starts. One that is asked to end
    /// before it listens to signals takes all of its grace; hence that is short.
    fn daemon_set_twice(&mut self) {
        let shop = |version, text| {
            let more = daemon_set(text);
            Shop { version, more: &more, timeout: 60, ..Shop::default() }.release()
        };
        self.succeeds(&shop("three", "a"));
        let (four, five) = (shop("four", "b"), shop("five", "c"));
        self.manager.want(&four);
        self.manager.reach("the DaemonSet is updated", |state| {
            state.wanted == four.release && state.message.contains("DaemonSet shop/agent: ")
        });
        let again = Instant::now();
        self.manager.want(&five);
        let state = self.manager.reach("it is decided", |state| is_decided(state, &five));
        assert_eq!((state.phase, state.reason), (ReleasePhase::Committed, None), "{state:#?}");
        self.good = five.release;
        self.lab.passed(&format!("updated again, after {:?}", again.elapsed()));
    }
}

#[test]
fn what_a_cluster_refuses_is_taken_back() {
    let Some(kubernetes) = kubernetes("faults") else { return };
    let lab = Lab::start(&kubernetes, &["v1"], Vec::new());
    let manager = Manager::start(&lab.surroundings());
    let one = Shop::default().release();
    let mut story = Story { lab, manager, good: one.release.clone() };
    story.succeeds(&one);
    story.webhooks();
    story.names_are_taken();
    story.pods();
    story.gate();
    story.shut();
    story.stateful_set();
    story.daemon_set_twice();
    story.manager.kill();
    story.lab.stop();
}
