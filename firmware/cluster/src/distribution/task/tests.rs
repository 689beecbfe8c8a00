//! The task with a program that is no Kubernetes: it starts, ends and refuses at command.

use super::*;
use crate::distribution::binary::{Download, Fetch};
use crate::distribution::launch::How;
use crate::distribution::model::tests::server;
use crate::distribution::render;
use crate::distribution::service::{Distribution, Handle, Later, Workloads};
use crate::distribution::unit::UnitLauncher;
use crate::distribution::upgrade::{Failed, Service, Version};
use crate::distribution::{NodeWants, Probe};
use crate::paths::ClusterPaths;
use holdfast_api::kubernetes::{DistributionArtifact, KubernetesPhase, RegistryMirror};
use holdfast_api::paths::Root;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Ends for a poisoned configuration and a taken port; else it says its version and stays.
const K3S: &str = r#"#!/bin/sh
[ "$1" = --version ] && { while [ -e ROOT/slow ]; do sleep 0.1; done; echo "k3s version VERSION (abc)"; exit; }
grep -q poison ROOT/etc/rancher/k3s/config.yaml.d/60-holdfast.yaml && { echo "Error: unknown flag: --poison"; exit 1; }
mkdir -p ROOT/CONTAINERD && cd ROOT/CONTAINERD
grep -qs torn io.containerd.metadata.v1.bolt/meta.db && { echo 'msg="failed to load plugin io.containerd.grpc.v1.cri" error="invalid database"' >> containerd.log; exit 1; }
[ -e ROOT/taken ] && { echo "listen tcp 0.0.0.0:10259: bind: address already in use"; exit 1; }
echo VERSION $$ > ROOT/running
exec sleep 1000
"#;

mod containerd;
pub(super) mod killed;
const CONTAINERD: &str = "var/lib/rancher/k3s/agent/containerd";

mod restarts;
mod versions;

struct Bed {
    folder: tempfile::TempDir,
    wishes: watch::Sender<Wish>,
    moved: Arc<Mutex<Vec<&'static str>>>,
    /// It is another node's turn.
    held: watch::Sender<bool>,
    /// How long another version may take to be ready.
    window: Duration,
}

struct Answers {
    root: PathBuf,
    moved: Arc<Mutex<Vec<&'static str>>>,
    held: watch::Receiver<bool>,
}

impl Probe for Answers {
    fn ready<'a>(
        &'a self,
        node: &'a str,
        _since: Option<Timestamp>,
    ) -> Later<'a, Result<(), String>> {
        assert_eq!(node, "node-1");
        let running = std::fs::read_to_string(self.root.join("running")).unwrap_or_default();
        let answer = match running.trim().split_once(' ') {
            Some((version, pid)) if version != "v-never-ready" && runs(pid.parse().unwrap()) => {
                Ok(())
            }
            _ => Err("not yet".to_owned()),
        };
        Box::pin(std::future::ready(answer))
    }
}

impl Fetch for Answers {
    fn fetch<'a>(&'a self, _url: &'a str, _start: u64) -> Later<'a, Result<Download, String>> {
        Box::pin(std::future::ready(Err("there is no network in this test".into())))
    }
}

impl Workloads for Answers {
    fn drain(&self, to: &Version) -> Later<'_, Result<(), Diagnosis>> {
        if to.version == "v-held" {
            return Box::pin(std::future::pending());
        }
        let refused = match to.version.as_str() {
            "v-elsewhere" => Some(Reason::KubernetesFailedElsewhere),
            "v-locked" => Some(Reason::NodeRebootLocked),
            _ => None,
        };
        if let Some(reason) = refused {
            let told = Diagnosis { reason, message: "another node has it, or had".into() };
            return Box::pin(std::future::ready(Err(told)));
        }
        self.moved.lock().unwrap().push("drained");
        Box::pin(std::future::ready(Ok(())))
    }

    fn note<'a>(&'a self, failed: &'a [Failed]) -> Later<'a, Result<(), Diagnosis>> {
        if !failed.is_empty() {
            self.moved.lock().unwrap().push("noted");
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn step_aside(&self) -> Later<'_, Result<(), Diagnosis>> {
        let (mut held, moved) = (self.held.clone(), self.moved.clone());
        Box::pin(async move {
            held.wait_for(|held| !held).await.unwrap();
            moved.lock().unwrap().push("aside");
            Ok(())
        })
    }

    fn uncordon(&self) -> Later<'_, Result<(), Diagnosis>> {
        self.moved.lock().unwrap().push("uncordoned");
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (wishes, held) = (watch::Sender::default(), watch::Sender::new(false));
        let window = Duration::from_secs(60);
        let bed = Bed { folder, wishes, moved: Arc::default(), held, window };
        bed.program("machine/k3s", "v-machine");
        bed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn paths(&self) -> ClusterPaths {
        ClusterPaths::new(&Root::new(self.folder.path()))
    }

    fn program(&self, name: &str, version: &str) -> String {
        let root = self.folder.path().display().to_string();
        let text = K3S.replace("ROOT", &root).replace("CONTAINERD", CONTAINERD);
        let text = text.replace("VERSION", version);
        holdfast_durable::write(&self.path(name), text.as_bytes(), 0o755).unwrap();
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        holdfast_api::hex(digest.as_ref())
    }

    fn helpers(&self) -> Helpers {
        let answers = || Answers {
            root: self.folder.path().into(),
            moved: self.moved.clone(),
            held: self.held.subscribe(),
        };
        Helpers {
            probe: Arc::new(answers()),
            fetch: Arc::new(answers()),
            workloads: Arc::new(answers()),
        }
    }

    fn manager(&self) -> Handle {
        self.manager_with(self.helpers())
    }

    fn manager_with(&self, helpers: Helpers) -> Handle {
        let settings = Settings {
            how: How::Child,
            upgrade_window: self.window,
            ..Settings::new(self.paths(), self.path("machine/k3s"))
        };
        Distribution::start(settings, helpers, self.wishes.subscribe())
    }

    fn want(&self, change: impl FnOnce(&mut NodeWants)) {
        let mut wants = server();
        change(&mut wants);
        self.wishes.send_replace(Wish::Run(Box::new(wants)));
    }

    fn artifact(&self, version: &str) -> DistributionArtifact {
        let name = format!("artifacts/{version}");
        let sha256 = self.program(&name, version);
        let url = format!("file://{}", self.path(&name).display());
        DistributionArtifact { version: version.into(), url, sha256 }
    }

    fn config(&self) -> PathBuf {
        render::config_path(&self.paths())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let launcher = crate::distribution::child::ChildLauncher::new(
            crate::distribution::launch::Places::new(&self.paths()),
        );
        if let Ok(Some((process, _))) = launcher.find() {
            let _gone = process.kill();
        }
    }
}

async fn until(
    handle: &Handle,
    what: &str,
    holds: impl FnMut(&DistributionState) -> bool,
) -> DistributionState {
    let mut state = handle.state();
    let found = tokio::time::timeout(Duration::from_secs(60), state.wait_for(holds)).await;
    match found {
        Ok(found) => found.unwrap().clone(),
        Err(_) => panic!("{what}: {:?}", handle.state().borrow().clone()),
    }
}

async fn ready(handle: &Handle) -> DistributionState {
    until(handle, "ready", |state| state.phase == KubernetesPhase::Ready && state.pid.is_some())
        .await
}

fn runs(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !status.is_empty() && !status.contains(") Z ")
}

fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn it_outlives_its_manager_and_is_restarted_only_for_a_change() {
    let bed = Bed::new();
    bed.want(|_| {});
    let first = bed.manager();
    let state = ready(&first).await;
    let pid = state.pid.unwrap();
    assert_eq!((state.starts, state.reason), (1, None));
    assert!(state.ready_after.is_some());
    until(&first, "its version", |state| state.version == "v-machine").await;
    drop(first);

    let second = bed.manager();
    let state = ready(&second).await;
    assert_eq!((state.pid, state.starts), (Some(pid), 0), "adopted, not started");

    kill(pid);
    let state = until(&second, "a pause", |state| state.phase == KubernetesPhase::Backoff).await;
    assert_eq!(state.reason, Some(Reason::KubernetesExited));
    assert!(state.message.contains("signal 9"), "{}", state.message);
    let state = ready(&second).await;
    assert_eq!((state.starts, state.ends), (1, 1));
    let pid = state.pid.unwrap();

    bed.want(|wants| {
        wants.disable.insert("more".into());
    });
    let state = until(&second, "another process", |state| {
        state.pid.is_some_and(|now| now != pid) && state.phase == KubernetesPhase::Ready
    })
    .await;
    assert!(!runs(pid));
    assert_eq!((state.starts, state.ends), (2, 1), "the second time was ours");
    assert!(std::fs::read_to_string(bed.config()).unwrap().contains("- more"));
    let pid = state.pid.unwrap();
    drop(second);

    // What changed while nobody was there takes a restart, and one copy only.
    bed.want(|wants| wants.hugepages = [(hw_profiles::PageSize::G1, 1)].into());
    let third = bed.manager();
    let state = until(&third, "another process", |state| {
        state.starts == 1 && state.phase == KubernetesPhase::Ready
    })
    .await;
    assert!(state.pid.is_some_and(|now| now != pid) && !runs(pid));

    let pid = state.pid.unwrap();
    bed.wishes.send_replace(Wish::Off);
    until(&third, "off", |state| state.phase == KubernetesPhase::Off && state.pid.is_none()).await;
    assert!(!runs(pid) && !bed.config().exists());
}

#[tokio::test]
async fn nothing_is_touched_before_a_wish_is_known() {
    let bed = Bed::new();
    bed.want(|_| {});
    let first = bed.manager();
    let pid = ready(&first).await.pid.unwrap();
    drop(first);
    bed.wishes.send_replace(Wish::Unknown);
    let second = bed.manager();
    // The runtime has one thread: each turn of ours gives the task one.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(runs(pid) && bed.config().exists());
    bed.want(|_| {});
    assert_eq!(ready(&second).await.pid, Some(pid));
}

#[tokio::test]
async fn a_pause_holds_until_it_is_dropped() {
    let bed = Bed::new();
    bed.want(|_| {});
    let manager = bed.manager();
    let pid = ready(&manager).await.pid.unwrap();
    let pause = manager.pause().await.unwrap();
    assert!(!runs(pid) && bed.config().exists());
    until(&manager, "restoring", |state| state.phase == KubernetesPhase::Restoring).await;
    // A wish meanwhile does not start it.
    bed.want(|wants| drop(wants.labels.insert("more".into(), "yes".into())));
    let second = manager.pause().await.unwrap();
    drop(pause);
    assert_eq!(manager.state().borrow().pid, None);
    drop(second);
    assert_ne!(ready(&manager).await.pid, Some(pid));
    assert!(std::fs::read_to_string(bed.config()).unwrap().contains("more=yes"));
}

/// A restore would replace the datastore under a running one.
#[tokio::test]
async fn nobody_is_told_that_it_is_stopped_before_that_is_known() {
    let bed = Bed::new();
    // One of an earlier manager, and a systemd that does not answer.
    let mut k3s = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let systemctl = format!(
        "#!/bin/sh\n[ -e ROOT/deaf ] && exit 1\n[ \"$2\" = --property=MainPID ] && echo {}; true\n",
        k3s.id()
    );
    let systemctl = systemctl.replace("ROOT", &bed.folder.path().display().to_string());
    holdfast_durable::write(&bed.path("systemctl"), systemctl.as_bytes(), 0o755).unwrap();
    std::fs::File::create(bed.path("deaf")).unwrap();

    let (orders, inbox) = mpsc::channel(1);
    let (tell, mut told) = watch::channel(DistributionState::default());
    let settings = Settings::new(bed.paths(), bed.path("machine/k3s"));
    let wishes = bed.wishes.subscribe();
    let mut task = Task::new(settings, bed.helpers(), wishes, inbox, tell);
    let places = crate::distribution::launch::Places::new(&bed.paths());
    let unit = UnitLauncher::of(places, bed.path("systemctl"), bed.path("units"));
    task.launcher = Launcher::Unit(unit);
    let task = tokio::spawn(task.run());

    let (stopped, mut is_stopped) = oneshot::channel();
    let (_pause, until) = oneshot::channel();
    orders.send(Command::Pause { stopped, until }).await.unwrap();
    let state = told.wait_for(|state| state.phase == KubernetesPhase::Restoring).await.unwrap();
    assert!(state.reason.is_some() && state.message.contains("systemctl"), "{state:?}");
    drop(state);
    assert_eq!(is_stopped.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    assert!(runs(k3s.id()));

    std::fs::remove_file(bed.path("deaf")).unwrap();
    bed.want(|_| {});
    tokio::time::timeout(Duration::from_secs(20), is_stopped).await.unwrap().unwrap();
    assert!(!runs(k3s.id()));
    k3s.wait().unwrap();
    task.abort();
}

#[tokio::test]
async fn what_runs_is_watched_also_when_its_files_cannot_be_written() {
    let bed = Bed::new();
    bed.want(|_| {});
    let first = bed.manager();
    let pid = ready(&first).await.pid;
    drop(first);
    let folder = bed.config().parent().unwrap().to_path_buf();
    std::fs::remove_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink(bed.path("nowhere/at/all"), &folder).unwrap();
    let second = bed.manager();
    let state = until(&second, "blocked", |state| {
        state.phase == KubernetesPhase::Ready && state.reason.is_some()
    })
    .await;
    assert_eq!((state.pid, state.reason), (pid, Some(Reason::StateUnwritable)));
}

/// Its first answer comes when it is let go; the others say no.
#[derive(Default)]
struct Late {
    asked: std::sync::atomic::AtomicU32,
    go: tokio::sync::Notify,
}

impl Probe for Late {
    fn ready<'a>(
        &'a self,
        _node: &'a str,
        _since: Option<Timestamp>,
    ) -> Later<'a, Result<(), String>> {
        Box::pin(async {
            if self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 0 {
                return Err("not yet".into());
            }
            self.go.notified().await;
            Ok(())
        })
    }
}

#[tokio::test]
async fn an_answer_of_the_process_before_says_nothing_of_this_one() {
    let bed = Bed::new();
    bed.want(|_| {});
    let probe = Arc::new(Late::default());
    let helpers = Helpers { probe: probe.clone(), ..bed.helpers() };
    let manager = bed.manager_with(helpers);
    let asked = || probe.asked.load(std::sync::atomic::Ordering::Relaxed);
    holdfast_poll::until_async("it is asked", Duration::from_secs(20), async || {
        if asked() > 0 { Ok(()) } else { Err(()) }
    })
    .await;
    manager.restart().await.unwrap();
    until(&manager, "a restart", |state| state.starts == 2 && state.pid.is_some()).await;
    probe.go.notify_one();
    holdfast_poll::until_async("it is asked again", Duration::from_secs(20), async || {
        assert_ne!(manager.state().borrow().phase, KubernetesPhase::Ready);
        if asked() > 2 { Ok(()) } else { Err(asked()) }
    })
    .await;
    assert_eq!(manager.state().borrow().ready_after, None);
}

#[tokio::test]
async fn a_refused_configuration_gives_way_to_the_last_good_one() {
    let bed = Bed::new();
    bed.want(|_| {});
    let manager = bed.manager();
    ready(&manager).await;
    bed.want(|wants| {
        wants.disable.insert("poison".into());
    });
    let state = until(&manager, "the last good one", |state| {
        state.phase == KubernetesPhase::Ready && state.starts == 3
    })
    .await;
    assert_eq!(state.reason, Some(Reason::KubernetesConfigRefused));
    assert!(!std::fs::read_to_string(bed.config()).unwrap().contains("poison"));
    bed.want(|wants| {
        wants.disable.insert("cured".into());
    });
    let state = until(&manager, "the corrected one", |state| {
        state.phase == KubernetesPhase::Ready && state.starts == 4
    })
    .await;
    assert_eq!(state.reason, None);
    assert!(std::fs::read_to_string(bed.config()).unwrap().contains("cured"));
}

#[tokio::test]
async fn why_it_does_not_come_up_is_told_until_it_does() {
    let bed = Bed::new();
    std::fs::File::create(bed.path("taken")).unwrap();
    bed.want(|_| {});
    let manager = bed.manager();
    let state = until(&manager, "a second start", |state| {
        state.starts >= 2 && state.phase == KubernetesPhase::Backoff
    })
    .await;
    assert_eq!(state.reason, Some(Reason::KubernetesPortTaken));
    assert!(state.message.starts_with("port 10259 "), "{}", state.message);
    std::fs::remove_file(bed.path("taken")).unwrap();
    assert_eq!(ready(&manager).await.reason, None);
}

#[tokio::test]
async fn a_machine_without_the_program_says_so() {
    let bed = Bed::new();
    std::fs::remove_file(bed.path("machine/k3s")).unwrap();
    bed.want(|_| {});
    let manager = bed.manager();
    let state = until(&manager, "a pause", |state| state.phase == KubernetesPhase::Backoff).await;
    assert_eq!(state.reason, Some(Reason::KubernetesAbsent));
    assert_eq!(state.starts, 0);
}

#[tokio::test]
async fn a_registries_file_of_somebody_else_is_in_the_way_and_what_runs_goes_on() {
    let bed = Bed::new();
    bed.want(|_| {});
    let manager = bed.manager();
    let pid = ready(&manager).await.pid;
    let foreign = render::registries_path(&bed.paths());
    holdfast_durable::write(&foreign, b"mirrors: {}\n", 0o644).unwrap();
    let mirror =
        RegistryMirror { registry: "*".into(), endpoints: vec!["http://10.0.0.1:5000".into()] };
    bed.want(|wants| wants.mirrors.push(mirror.clone()));
    let state = until(&manager, "blocked", |state| state.reason.is_some()).await;
    assert_eq!(state.reason, Some(Reason::KubernetesConfigRefused));
    assert_eq!((state.phase, state.pid), (KubernetesPhase::Ready, pid));
    assert_eq!(std::fs::read(&foreign).unwrap(), b"mirrors: {}\n");

    // A version that could not be started would be taken for a bad one, by the whole site.
    let two = bed.artifact("v2");
    let want = |registry: &str| {
        let mirror = RegistryMirror { registry: registry.into(), ..mirror.clone() };
        bed.want(|wants| {
            wants.mirrors.push(mirror);
            wants.artifact = Some(two.clone());
        });
    };
    want("*");
    let (store, version) = (Store::new(&bed.paths()), Version::of(&two));
    let fetched = move || store.has(&version);
    let wait = move || holdfast_poll::holds("v2 is here", Duration::from_secs(20), fetched);
    tokio::task::spawn_blocking(wait).await.unwrap();
    // What is new is looked at without a pause.
    want("registry.example");
    let blocked = until(&manager, "blocked again", |state| state.reason.is_some()).await;
    assert_eq!((blocked.phase, blocked.pid), (KubernetesPhase::Ready, pid));
    assert_eq!(*bed.moved.lock().unwrap(), [] as [&str; 0]);
    std::fs::remove_file(&foreign).unwrap();
    until(&manager, "v2", |state| state.version == "v2").await;
}

#[tokio::test]
async fn what_ends_while_its_data_is_put_elsewhere_is_not_started_there() {
    let bed = Bed::new();
    bed.want(|_| {});
    let manager = bed.manager();
    let pid = ready(&manager).await.pid.unwrap();
    let other = bed.config().with_file_name("90-other.yaml");
    holdfast_durable::write(&other, b"data-dir: /srv\n", 0o644).unwrap();
    kill(pid);
    let refused = Some(Reason::KubernetesConfigRefused);
    let state = until(&manager, "refused", |state| state.reason == refused).await;
    assert_eq!((state.starts, state.phase), (1, KubernetesPhase::Backoff));
    // Asked to, too; who asks for a pause waits until that was done.
    manager.restart().await.unwrap();
    drop(manager.pause().await.unwrap());
    assert_eq!(manager.state().borrow().starts, 1);
    std::fs::remove_file(&other).unwrap();
    ready(&manager).await;
}
