//! From one version of the program to another, and back.

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);
/// For what is never ready.
const BRIEF: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_first_program_is_fetched_and_a_better_one_replaces_it() {
    let bed = Bed::new();
    std::fs::remove_file(bed.path("machine/k3s")).unwrap();
    let (one, two) = (bed.artifact("v1"), bed.artifact("v2"));
    bed.want(|wants| wants.artifact = Some(one.clone()));
    let manager = bed.manager();
    until(&manager, "v1", |state| state.version == "v1" && state.phase == KubernetesPhase::Ready)
        .await;
    assert_eq!(*bed.moved.lock().unwrap(), [] as [&str; 0]);
    bed.want(|wants| wants.artifact = Some(two.clone()));
    until(&manager, "v2", |state| {
        state.version == "v2"
            && state.phase == KubernetesPhase::Ready
            && state.service == Service::In
    })
    .await;
    assert_eq!(bed.moved.lock().unwrap()[0], "drained");
    let current = bed.path("var/lib/holdfast/cluster/distribution/current/k3s");
    assert!(std::fs::read_to_string(current).unwrap().contains("version v2"));
}

#[tokio::test]
async fn a_drain_that_is_held_up_ends_when_its_version_is_not_wanted_any_more() {
    let bed = Bed::new();
    let held = bed.artifact("v-held");
    bed.want(|_| {});
    let manager = bed.manager();
    let pid = ready(&manager).await.pid;
    bed.want(|wants| wants.artifact = Some(held.clone()));
    until(&manager, "a drain", |state| state.service == Service::Leaving).await;
    drop(manager);
    let manager = bed.manager();
    until(&manager, "the drain again", |state| state.service == Service::Leaving).await;
    assert_eq!(*bed.moved.lock().unwrap(), [] as [&str; 0]);
    bed.want(|_| {});
    let state = until(&manager, "back in service", |state| state.service == Service::In).await;
    assert_eq!((state.pid, state.starts), (pid, 0), "the program was never touched");
    assert_eq!(*bed.moved.lock().unwrap(), ["uncordoned"]);
    let better = bed.artifact("v2");
    bed.want(|wants| wants.artifact = Some(better.clone()));
    until(&manager, "v2", |state| state.version == "v2").await;
}

#[tokio::test]
async fn a_version_that_does_not_come_up_is_left_and_not_tried_again() {
    let mut bed = Bed::new();
    bed.window = BRIEF;
    let bad = bed.artifact("v-never-ready");
    bed.want(|_| {});
    let manager = bed.manager();
    ready(&manager).await;
    bed.want(|wants| wants.artifact = Some(bad.clone()));
    let state = until(&manager, "back", |state| {
        state.reason == Some(Reason::KubernetesUpgradeFailed)
            && state.phase == KubernetesPhase::Ready
            && state.service == Service::In
    })
    .await;
    assert!(state.message.contains("v-never-ready"), "{}", state.message);
    until(&manager, "its version", |state| state.version == "v-machine").await;
    let starts = manager.state().borrow().starts;
    drop(manager);

    let manager = bed.manager();
    let state = ready(&manager).await;
    assert_eq!((state.starts, state.reason), (0, Some(Reason::KubernetesUpgradeFailed)));
    assert!((2..=3).contains(&starts), "{starts}");
    assert_eq!(*bed.moved.lock().unwrap(), ["drained", "noted", "uncordoned"]);
}

#[tokio::test]
async fn a_node_that_ended_does_not_try_what_another_tries_or_failed_with() {
    for (name, told) in
        [("v-elsewhere", Reason::KubernetesFailedElsewhere), ("v-locked", Reason::NodeRebootLocked)]
    {
        let bed = Bed::new();
        bed.want(|_| {});
        let manager = bed.manager();
        ready(&manager).await;
        let other = bed.artifact(name);
        bed.want(|wants| wants.artifact = Some(other.clone()));
        let pid = until(&manager, "told", |state| state.reason == Some(told)).await.pid;
        kill(pid.unwrap());
        until(&manager, "down", |state| state.phase != KubernetesPhase::Ready).await;
        // Asked for once more, no pause is waited for.
        bed.want(|wants| wants.artifact = Some(other.clone()));
        let up = until(&manager, "up again", |state| state.phase == KubernetesPhase::Ready).await;
        assert_eq!(up.version, "v-machine", "{name}");
    }
}

/// Others may have their turn as long as they have not said that it is ours.
#[tokio::test]
async fn a_node_that_ends_while_it_asks_for_its_turn_starts_again_as_it_was() {
    let mut bed = Bed::new();
    bed.window = Duration::from_secs(15);
    bed.want(|_| {});
    let manager = bed.manager();
    let since = Instant::now();
    ready(&manager).await;
    // For so long after its own start a manager takes nothing for its turn.
    let is_long_ago = || (since.elapsed() > bed.window).then_some(()).ok_or(since.elapsed());
    holdfast_poll::until_async("the start is long ago", PATIENCE, async || is_long_ago()).await;
    let held = bed.artifact("v-held");
    bed.want(|wants| wants.artifact = Some(held.clone()));
    let pid = until(&manager, "a drain", |state| state.service == Service::Leaving).await.pid;
    kill(pid.unwrap());
    until(&manager, "down", |state| state.phase != KubernetesPhase::Ready).await;
    let up = until(&manager, "up again", |state| state.phase == KubernetesPhase::Ready).await;
    assert_eq!((up.version.as_str(), up.starts), ("v-machine", 2));
}

#[tokio::test]
async fn a_version_that_failed_is_tried_again_when_it_is_asked_for_anew() {
    let mut bed = Bed::new();
    bed.window = BRIEF;
    let mut bad = bed.artifact("v-never-ready");
    bed.want(|wants| wants.artifact = Some(bad.clone()));
    let manager = bed.manager();
    let failed = |starts: u32| {
        move |state: &DistributionState| {
            state.reason == Some(Reason::KubernetesUpgradeFailed)
                && state.phase == KubernetesPhase::Ready
                && state.service == Service::In
                && state.starts >= starts
        }
    };
    let starts = until(&manager, "back", failed(2)).await.starts;
    bad.url.push_str("#2");
    bed.want(|wants| wants.artifact = Some(bad.clone()));
    until(&manager, "back again", failed(starts + 2)).await;
}

/// As after a boot, when everything takes its time.
#[tokio::test]
async fn a_server_whose_version_is_not_known_yet_skips_none() {
    let bed = Bed::new();
    bed.program("machine/k3s", "v1.33.1+k3s1");
    let slow = bed.path("slow");
    holdfast_durable::write(&slow, b"", 0o644).unwrap();
    let far = bed.artifact("v1.35.0+k3s1");
    bed.want(|wants| wants.artifact = Some(far.clone()));
    let manager = bed.manager();
    ready(&manager).await;
    let (store, version) = (Store::new(&bed.paths()), Version::of(&far));
    holdfast_poll::until_async("the version is fetched", PATIENCE, async || {
        store.has(&version).then_some(()).ok_or("not yet")
    })
    .await;
    std::fs::remove_file(&slow).unwrap();
    let state =
        until(&manager, "refused", |state| state.reason == Some(Reason::KubernetesVersionSkipped))
            .await;
    assert_eq!((state.service, state.starts), (Service::In, 1));
    assert_eq!(*bed.moved.lock().unwrap(), [] as [&str; 0]);
}

#[tokio::test]
async fn a_server_skips_no_minor_version() {
    let bed = Bed::new();
    bed.program("machine/k3s", "v1.33.1+k3s1");
    let far = bed.artifact("v1.35.0+k3s1");
    bed.want(|_| {});
    let manager = bed.manager();
    until(&manager, "its version", |state| state.version == "v1.33.1+k3s1").await;
    bed.want(|wants| wants.artifact = Some(far.clone()));
    let state = until(&manager, "refused", |state| {
        state.phase == KubernetesPhase::Ready && state.reason.is_some()
    })
    .await;
    assert_eq!((state.reason, state.starts), (Some(Reason::KubernetesVersionSkipped), 1));
    assert_eq!(*bed.moved.lock().unwrap(), [] as [&str; 0]);
    let next = bed.artifact("v1.34.2+k3s1");
    bed.want(|wants| wants.artifact = Some(next.clone()));
    until(&manager, "the next one", |state| {
        state.version == "v1.34.2+k3s1" && state.service == Service::In
    })
    .await;
    bed.want(|wants| wants.artifact = Some(far.clone()));
    until(&manager, "the one after", |state| state.version == "v1.35.0+k3s1").await;
}

#[tokio::test]
async fn a_program_with_another_checksum_is_never_run() {
    let bed = Bed::new();
    let mut artifact = bed.artifact("v1");
    artifact.sha256 = "0".repeat(64);
    bed.want(|wants| wants.artifact = Some(artifact));
    let manager = bed.manager();
    let state = until(&manager, "refused", |state| {
        state.reason == Some(Reason::KubernetesArtifactRejected)
            && state.phase == KubernetesPhase::Ready
            && !state.version.is_empty()
    })
    .await;
    assert_eq!((state.version.as_str(), state.starts), ("v-machine", 1));
    let folder = Path::new("var/lib/holdfast/cluster/distribution/v1-000000000000/k3s");
    assert!(!bed.folder.path().join(folder).exists());
}

/// In its way when the node was drained.
struct Blocks {
    notes: PathBuf,
    answers: Arc<dyn Workloads>,
}

fn block(notes: &Path) {
    let _none_yet = std::fs::remove_file(notes);
    std::fs::create_dir_all(notes.join("in the way")).unwrap();
}

impl Workloads for Blocks {
    fn drain(&self, to: &Version) -> Later<'_, Result<(), Diagnosis>> {
        block(&self.notes);
        self.answers.drain(to)
    }

    fn note<'a>(&'a self, failed: &'a [Failed]) -> Later<'a, Result<(), Diagnosis>> {
        self.answers.note(failed)
    }

    fn step_aside(&self) -> Later<'_, Result<(), Diagnosis>> {
        self.answers.step_aside()
    }

    fn uncordon(&self) -> Later<'_, Result<(), Diagnosis>> {
        self.answers.uncordon()
    }
}

/// The next manager would know of no drain that it has to end, and of no version on trial.
#[tokio::test]
async fn nothing_is_begun_that_cannot_be_written_down() {
    for (service, moved) in [(Service::In, &[][..]), (Service::Out, &["drained"])] {
        let bed = Bed::new();
        bed.want(|_| {});
        let notes = bed.path("var/lib/holdfast/cluster/distribution/versions.json");
        let mut helpers = bed.helpers();
        if service == Service::Out {
            let answers = helpers.workloads;
            helpers.workloads = Arc::new(Blocks { notes: notes.clone(), answers });
        } else {
            block(&notes);
        }
        let manager = bed.manager_with(helpers);
        let pid = ready(&manager).await.pid;
        let two = bed.artifact("v2");
        bed.want(|wants| wants.artifact = Some(two.clone()));
        let told = until(&manager, "told", |state| state.reason == Some(Reason::StateUnwritable));
        let state = told.await;
        assert_eq!((state.pid, state.service, state.starts), (pid, service, 1));
        assert_eq!(*bed.moved.lock().unwrap(), moved);
        std::fs::remove_dir_all(&notes).unwrap();
        bed.want(|wants| {
            wants.artifact = Some(two.clone());
            wants.labels.insert("more".into(), "yes".into());
        });
        until(&manager, "v2", |state| state.version == "v2" && state.reason.is_none()).await;
    }
}
