//! Restarts of what runs.

use super::*;

#[tokio::test]
async fn labels_and_taints_take_no_restart() {
    let bed = Bed::new();
    bed.want(|_| {});
    let manager = bed.manager();
    let pid = ready(&manager).await.pid;
    bed.want(|wants| {
        wants.labels.insert("more".into(), "yes".into());
        wants.taints.clear();
    });
    holdfast_poll::until_async("it is written", Duration::from_secs(20), async || {
        let text = std::fs::read_to_string(bed.config()).unwrap();
        if text.contains("more=yes") && !text.contains("taint") { Ok(()) } else { Err(text) }
    })
    .await;
    assert_eq!(ready(&manager).await.pid, pid, "another start takes them");
    assert_eq!(*bed.moved.lock().unwrap(), [] as [&str; 0]);
}

/// All nodes of a site are told of a change at the same moment.
#[tokio::test]
async fn a_change_waits_for_the_nodes_turn_and_gives_it_back() {
    let bed = Bed::new();
    bed.want(|_| {});
    let manager = bed.manager();
    let pid = ready(&manager).await.pid;
    bed.held.send_replace(true);
    bed.want(|wants| {
        wants.disable.insert("more".into());
    });
    let state = until(&manager, "aside", |state| state.service == Service::Leaving).await;
    assert_eq!((state.phase, state.pid), (KubernetesPhase::Ready, pid));
    // The next manager asks again; and what is not wanted any more is given back.
    drop(manager);
    let manager = bed.manager();
    ready(&manager).await;
    bed.want(|_| {});
    let state = until(&manager, "in service", |state| state.service == Service::In).await;
    assert_eq!((state.pid, state.starts), (pid, 0));
    assert_eq!(*bed.moved.lock().unwrap(), ["uncordoned"]);

    bed.want(|wants| {
        wants.disable.insert("more".into());
    });
    until(&manager, "aside", |state| state.service == Service::Leaving).await;
    assert_eq!(ready(&manager).await.pid, pid);
    bed.held.send_replace(false);
    let state = until(&manager, "restarted", |state| {
        state.starts == 1 && state.service == Service::In && state.phase == KubernetesPhase::Ready
    })
    .await;
    assert_ne!(state.pid, pid);
    assert_eq!(*bed.moved.lock().unwrap(), ["uncordoned", "aside", "uncordoned"]);

    // What serves nobody waits for nobody.
    bed.held.send_replace(true);
    std::fs::remove_file(bed.path("running")).unwrap();
    until(&manager, "not ready", |state| state.phase == KubernetesPhase::NotReady).await;
    bed.want(|_| {});
    let state = until(&manager, "restarted", |state| {
        state.starts == 2 && state.phase == KubernetesPhase::Ready
    })
    .await;
    assert_eq!(state.service, Service::In);
}

/// A certificate below the data directory, until so many days from now.
fn certificate(bed: &Bed, name: &str, days: i64) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["node-1".into()]).unwrap();
    let now = u64::try_from(Timestamp::now().as_second() / 86_400).unwrap();
    let at = |days: i64| {
        let days = now.saturating_add_signed(days);
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(days * 86_400)
    };
    (params.not_before, params.not_after) = (at(-400), at(days));
    let pem = params.self_signed(&key).unwrap().pem();
    holdfast_durable::write(&bed.path(name), pem.as_bytes(), 0o600).unwrap();
}

const LEAF: &str = "var/lib/rancher/k3s/server/tls/serving-kube-apiserver.crt";

#[tokio::test]
async fn it_is_restarted_when_a_certificate_ends_soon_and_once_only() {
    let bed = Bed::new();
    certificate(&bed, LEAF, 30);
    certificate(&bed, "var/lib/rancher/k3s/server/tls/server-ca.crt", 30);
    // As k3s does.
    certificate(&bed, "renewed", 365);
    let k3s = std::fs::read_to_string(bed.path("machine/k3s")).unwrap();
    let renews =
        format!("[ -e ROOT/started ] && cp ROOT/renewed ROOT/{LEAF}; touch ROOT/started\necho v");
    let renews = renews.replace("ROOT", &bed.folder.path().display().to_string());
    let k3s = k3s.replace("\necho v", &format!("\n{renews}"));
    holdfast_durable::write(&bed.path("machine/k3s"), k3s.as_bytes(), 0o755).unwrap();
    bed.want(|_| {});
    let manager = bed.manager();
    let state = until(&manager, "a restart", |state| {
        state.starts == 2 && state.phase == KubernetesPhase::Ready && state.service == Service::In
    })
    .await;
    assert_eq!(state.reason, None);
    assert_eq!(*bed.moved.lock().unwrap(), ["aside", "uncordoned"]);
}

#[tokio::test]
async fn a_certificate_that_is_not_renewed_is_told() {
    let bed = Bed::new();
    certificate(&bed, LEAF, 30);
    bed.want(|_| {});
    let manager = bed.manager();
    let told = |state: &DistributionState| {
        state.reason == Some(Reason::KubernetesCertificateNotRenewed)
            && state.service == Service::In
    };
    let state = until(&manager, "told", told).await;
    assert_eq!((state.starts, state.phase), (2, KubernetesPhase::Ready));
    assert!(state.message.contains("serving-kube-apiserver.crt"), "{}", state.message);
    drop(manager);
    // The next manager knows.
    let manager = bed.manager();
    assert_eq!(until(&manager, "told", told).await.starts, 0);
}

/// A slow link may take hours for it.
#[tokio::test]
async fn a_download_holds_no_restart_up() {
    struct Never(Arc<tokio::sync::Notify>);
    impl Fetch for Never {
        fn fetch<'a>(&'a self, _: &'a str, _: u64) -> Later<'a, Result<Download, String>> {
            self.0.notify_one();
            Box::pin(std::future::pending())
        }
    }
    let begun = Arc::new(tokio::sync::Notify::new());
    let bed = Bed::new();
    bed.want(|_| {});
    let manager =
        bed.manager_with(Helpers { fetch: Arc::new(Never(begun.clone())), ..bed.helpers() });
    ready(&manager).await;
    let mut artifact = bed.artifact("v2");
    artifact.url = "https://artifacts.example/k3s".into();
    bed.want(|wants| wants.artifact = Some(artifact.clone()));
    begun.notified().await;
    bed.want(|wants| {
        wants.artifact = Some(artifact.clone());
        wants.disable.insert("more".into());
    });
    until(&manager, "restarted", |state| {
        state.starts == 2 && state.phase == KubernetesPhase::Ready && state.service == Service::In
    })
    .await;
}
