//! The manager is killed at every point of every step on the way to another version, back from one
//! that does not come up, and through a restart. The points are those that a manager which lives
//! passes; a kind of step without any fails the test.

use super::super::point::{Edge, Points};
use super::*;
use crate::distribution::upgrade::StepKind;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use std::collections::BTreeSet;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

type Point = (StepKind, Edge);

/// Where managers die, and where they came by.
#[derive(Debug, Default)]
pub(in super::super) struct Watch {
    passed: Mutex<BTreeSet<Point>>,
    /// A manager dies at each of them, once.
    deadly: Mutex<BTreeSet<Point>>,
    died: Notify,
}

impl Watch {
    pub(in super::super) async fn pass(&self, point: Point) {
        self.passed.lock().unwrap().insert(point);
        if self.deadly.lock().unwrap().remove(&point) {
            self.died.notify_one();
            std::future::pending().await
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Story {
    /// A machine without any program.
    First,
    Good,
    Bad,
    /// For another configuration.
    Restart,
}

impl Story {
    const ALL: [Story; 4] = [Story::First, Story::Good, Story::Bad, Story::Restart];

    fn window(self) -> Duration {
        match self {
            Story::Bad => Duration::from_secs(5),
            // Longer than a busy machine takes.
            Story::First | Story::Good | Story::Restart => Duration::from_secs(60),
        }
    }

    fn version(self) -> &'static str {
        match self {
            Story::First | Story::Bad | Story::Restart => "v1",
            Story::Good => "v2",
        }
    }

    fn begin(self, bed: &Bed, one: &DistributionArtifact) {
        let artifact = match self {
            Story::First | Story::Restart => one.clone(),
            Story::Good => bed.artifact("v2"),
            Story::Bad => bed.artifact("v-never-ready"),
        };
        bed.want(|wants| {
            wants.artifact = Some(artifact);
            if matches!(self, Story::Restart) {
                wants.disable.insert("more".into());
            }
        });
    }

    fn is_over(self, state: &DistributionState, noted: &Versions, before: Option<u32>) -> bool {
        let rests = state.phase == KubernetesPhase::Ready
            && state.version == self.version()
            && noted.current.as_ref().is_some_and(|it| it.version == self.version())
            && (noted.service, noted.for_restart, noted.on_trial) == (Service::In, false, false);
        let done = match self {
            Story::First | Story::Good => true,
            Story::Bad => state.reason == Some(Reason::KubernetesUpgradeFailed),
            Story::Restart => state.pid != before,
        };
        rests && done
    }
}

/// What is left on the machine and around it, by names of versions.
#[derive(Debug, PartialEq, Eq)]
struct End {
    current: Option<String>,
    previous: Option<String>,
    failed: Vec<String>,
    link: Option<String>,
    programs: BTreeSet<String>,
    config: String,
    runs: String,
    last_moved: Option<&'static str>,
    is_noted: bool,
}

impl End {
    fn of(bed: &Bed) -> Self {
        let Versions { current, previous, failed, .. } = noted(bed);
        let folder = bed.path("var/lib/holdfast/cluster/distribution");
        let entries = std::fs::read_dir(&folder).unwrap().flatten();
        let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
        let name = |folder: &Path| {
            folder.to_str().unwrap().rsplit_once('-').expect("its digits").0.to_owned()
        };
        let config = std::fs::read_to_string(bed.config()).unwrap();
        let running = std::fs::read_to_string(bed.path("running")).unwrap();
        let moved = bed.moved.lock().unwrap();
        End {
            current: current.map(|it| it.version),
            previous: previous.map(|it| it.version),
            failed: failed.into_iter().map(|it| it.version.version).collect(),
            link: std::fs::read_link(folder.join("current")).ok().map(|link| name(&link)),
            programs: folders.map(|entry| name(Path::new(&entry.file_name()))).collect(),
            config: config.replace(bed.folder.path().to_str().unwrap(), "ROOT"),
            runs: running.split(' ').next().unwrap().to_owned(),
            last_moved: moved.last().copied(),
            is_noted: moved.contains(&"noted"),
        }
    }
}

fn noted(bed: &Bed) -> Versions {
    let path = bed.path("var/lib/holdfast/cluster/distribution/versions.json");
    serde_json::from_slice(&std::fs::read(path).unwrap_or_default()).unwrap_or_default()
}

/// A manager with its points.
struct Mortal {
    told: watch::Receiver<DistributionState>,
    _orders: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

impl Mortal {
    fn start(bed: &Bed, story: Story, watch: &Arc<Watch>) -> Self {
        let settings = Settings {
            how: How::Child,
            upgrade_window: story.window(),
            ..Settings::new(bed.paths(), bed.path("machine/k3s"))
        };
        let (orders, inbox) = mpsc::channel(1);
        let (tell, told) = watch::channel(DistributionState::default());
        let wishes = bed.wishes.subscribe();
        let mut task = Task::new(settings, bed.helpers(), wishes, inbox, tell);
        task.points = Points { watch: Some(watch.clone()) };
        Mortal { told, _orders: orders, task: tokio::spawn(task.run()) }
    }

    async fn die(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|error| error.is_cancelled()), "it ended by itself");
    }
}

/// The story with managers that die at these points, up to one that sees its end.
async fn play(story: Story, deadly: BTreeSet<Point>) -> (End, BTreeSet<Point>) {
    let what = format!("{story:?} with deaths at {deadly:?}");
    let deaths = deadly.len();
    let bed = Bed::new();
    std::fs::remove_file(bed.path("machine/k3s")).unwrap();
    let one = bed.artifact("v1");
    let mut before = None;
    if !matches!(story, Story::First) {
        bed.want(|wants| wants.artifact = Some(one.clone()));
        before = ready(&bed.manager()).await.pid;
        // Of a version long ago.
        let old = bed.path("var/lib/holdfast/cluster/distribution/v0-000000000000/k3s");
        holdfast_durable::write(&old, b"", 0o755).unwrap();
    }
    story.begin(&bed, &one);
    let watch = Arc::new(Watch { deadly: Mutex::new(deadly), ..Watch::default() });
    loop {
        let manager = Mortal::start(&bed, story, &watch);
        let patience = Duration::from_secs(60);
        let end = holdfast_poll::until_async(&what, patience, async || {
            let (state, noted) = (manager.told.borrow().clone(), noted(&bed));
            if story.is_over(&state, &noted, before) { Ok(()) } else { Err((state, noted)) }
        });
        let is_over = tokio::select! {
            () = watch.died.notified() => false,
            () = end => true,
        };
        manager.die().await;
        if is_over {
            break;
        }
    }
    // What is noted is not done a second time, so of several points not all are passed.
    let spared = watch.deadly.lock().unwrap().len();
    assert!(spared < deaths.max(1), "{what}: nobody came by");
    let moves = bed.moved.lock().unwrap().clone();
    let drains = moves.iter().filter(|moved| ["drained", "aside"].contains(moved)).count();
    assert!(drains <= 1 + deaths, "{what}: {moves:?}");
    (End::of(&bed), watch.passed.lock().unwrap().clone())
}

/// All deaths of a story, each for itself and all of them in one.
async fn die_everywhere(story: Story) -> BTreeSet<Point> {
    let (want, points) = play(story, BTreeSet::new()).await;
    match story {
        Story::First => assert_eq!(want.last_moved, None),
        Story::Good | Story::Bad | Story::Restart => {
            assert_eq!(want.last_moved, Some("uncordoned"), "{story:?}");
        }
    }
    assert_eq!(want.is_noted, matches!(story, Story::Bad));
    let each = points.iter().map(|point| BTreeSet::from([*point])).chain([points.clone()]);
    let plays = each.map(|deadly| async move { (play(story, deadly.clone()).await.0, deadly) });
    let ends: Vec<_> = stream::iter(plays).buffer_unordered(8).collect().await;
    for (end, deadly) in ends {
        assert_eq!(end, want, "{story:?} with deaths at {deadly:?}");
    }
    points
}

#[tokio::test]
async fn killed_at_every_step_it_ends_where_it_would_have() {
    let died = join_all(Story::ALL.map(die_everywhere)).await;
    let died: BTreeSet<Point> = died.into_iter().flatten().collect();
    for kind in StepKind::ALL {
        for edge in [Edge::Begins, Edge::Over] {
            assert!(
                died.contains(&(*kind, edge)),
                "nobody died where {kind:?} is {edge:?}: add a point, or a story with such a step"
            );
        }
    }
}
