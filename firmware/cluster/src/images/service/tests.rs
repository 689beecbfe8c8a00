use super::*;
use crate::images::error::ImageError;
use crate::images::model::{Descriptor, Progress};
use crate::kubernetes::ApiError;
use holdfast_api::Reason;
use holdfast_api::marks::{PRE_PULL_PROGRESS_ANNOTATION, PRE_PULLED_ANNOTATION};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A node that remembers.
#[derive(Clone, Default)]
struct Fake(Arc<watch::Sender<World>>);

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct World {
    registry: BTreeSet<String>,
    /// Not given to anybody.
    private: BTreeSet<String>,
    store: BTreeSet<String>,
    leases: BTreeMap<String, BTreeSet<String>>,
    annotations: BTreeMap<String, String>,
    failures: u32,
    put_back: u32,
    /// A webhook refuses changes of Nodes.
    is_refused: bool,
}

impl Fake {
    fn with<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        let mut seen = None;
        self.0.send_modify(|world| seen = Some(look(world)));
        seen.unwrap()
    }

    async fn until(&self, what: &str, is_so: impl FnMut(&World) -> bool) {
        let mut world = self.0.subscribe();
        let met = tokio::time::timeout(PATIENCE, world.wait_for(is_so)).await;
        assert!(met.is_ok(), "not within {PATIENCE:?}: {what}");
    }

    fn note(&self, name: &str) -> Option<String> {
        self.with(|world| world.annotations.get(name).cloned())
    }
}

fn target(image: &str) -> Descriptor {
    Descriptor { media_type: "m".into(), digest: format!("sha256:{image}"), size: 1 }
}

impl ImageStore for Fake {
    async fn present(&self, image: &str) -> Result<Option<Descriptor>, ImageError> {
        Ok(self.with(|world| world.store.contains(image)).then(|| target(image)))
    }

    async fn pull(
        &self,
        image: &str,
        credentials: Option<&Credentials>,
        tell: mpsc::Sender<Progress>,
    ) -> Result<Descriptor, ImageError> {
        let half = Progress { image: image.into(), done_bytes: 1, total_bytes: 2 };
        let _told = tell.try_send(half);
        tokio::task::yield_now().await;
        self.with(|world| {
            let (image, said) = (image.to_owned(), "m".to_owned());
            if world.failures > 0 {
                world.failures -= 1;
                return Err(ImageError::Registry { image, said });
            }
            if world.private.contains(&image) && credentials.is_none() {
                return Err(ImageError::Denied { image, said });
            }
            if !world.registry.contains(&image) {
                return Err(ImageError::Missing { image, said });
            }
            world.store.insert(image.clone());
            Ok(target(&image))
        })
    }

    async fn pin(
        &self,
        release: &str,
        images: &BTreeMap<String, Descriptor>,
    ) -> Result<(), ImageError> {
        self.with(|world| {
            world.leases.insert(release.into(), images.keys().cloned().collect());
        });
        Ok(())
    }

    async fn ensure(&self, image: &str, _: &Descriptor) -> Result<bool, ImageError> {
        Ok(self.with(|world| {
            let is_new = world.store.insert(image.into());
            world.put_back += u32::from(is_new);
            is_new
        }))
    }

    async fn retain(
        &self,
        keep: &BTreeSet<String>,
        _: &BTreeSet<String>,
    ) -> Result<Vec<String>, ImageError> {
        self.with(|world| world.leases.retain(|release, _| keep.contains(release)));
        Ok(Vec::new())
    }
}

impl NodeNotes for Fake {
    async fn annotate(
        &self,
        annotations: &BTreeMap<String, Option<String>>,
    ) -> Result<(), ApiError> {
        self.with(|world| {
            if world.is_refused {
                let (attempt, webhook) = ("change Node a".to_owned(), "no.example".to_owned());
                return Err(ApiError::Webhook { attempt, webhook, message: "no".repeat(99_999) });
            }
            for (name, value) in annotations {
                match value {
                    Some(value) => world.annotations.insert(name.clone(), value.clone()),
                    None => world.annotations.remove(name),
                };
            }
            Ok(())
        })
    }
}

/// A hundred times quicker than on a site.
fn start(store: Fake, notes: Fake) -> PrePuller {
    let milliseconds = Duration::from_millis;
    let pace = Pace {
        pause_first: milliseconds(10),
        pause_most: milliseconds(100),
        check_every: milliseconds(100),
        progress_every: milliseconds(20),
        note_again: milliseconds(50),
    };
    PrePuller::start_at(pace, store, notes)
}

fn want(release: &str, images: &[&str], keep: Option<&[&str]>) -> Want {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Want { release: release.into(), images: set(images), keep: keep.map(set), ..Want::default() }
}

#[tokio::test]
async fn a_release_is_held_through_failures_and_the_one_before_is_let_go() {
    let fake = Fake::default();
    fake.with(|world| {
        world.registry = ["a", "b", "c"].map(str::to_owned).into();
        world.failures = 5;
    });
    let service = start(fake.clone(), fake.clone());
    service.want(want("one", &["a", "b", "c"], Some(&[])));
    let (mut failed, mut state) = (0, service.watch());
    while let Err(problem) = service.held("one", |_| ()).await {
        assert_eq!((problem.reason, problem.retryable), (Reason::ReleaseRegistry, true));
        failed += 1;
        tokio::time::timeout(PATIENCE, state.changed()).await.unwrap().unwrap();
    }
    assert!(failed > 0);
    assert_eq!(fake.note(PRE_PULLED_ANNOTATION).as_deref(), Some("one"));
    assert_eq!(fake.with(|world| world.leases["one"].len()), 3);

    service.want(want("two", &["a"], None));
    service.held("two", |_| ()).await.unwrap();
    assert_eq!(fake.with(|world| world.leases.len()), 2, "what to keep was not known");
    service.want(want("two", &["a"], Some(&["one"])));
    service.want(want("two", &["a"], Some(&[])));
    fake.until("the first is let go of", |world| world.leases.len() == 1).await;
    assert!(fake.with(|world| world.leases.contains_key("two")));
}

#[tokio::test]
async fn what_the_registry_has_not_is_told_and_tried_again_when_asked() {
    let fake = Fake::default();
    let service = start(fake.clone(), fake.clone());
    service.want(want("one", &["a"], None));
    let problem = service.held("one", |_| ()).await.unwrap_err();
    assert_eq!(problem.reason, Reason::ReleaseImageMissing);
    fake.until("the Node says that it is refused", |world| {
        let note = world.annotations.get(PRE_PULL_PROGRESS_ANNOTATION);
        note.is_some_and(|note| note.contains("refused"))
    })
    .await;
    assert_eq!(fake.note(PRE_PULLED_ANNOTATION), None);
    fake.with(|world| world.registry.insert("a".into()));
    service.want(want("one", &["a"], None));
    service.held("one", |_| ()).await.unwrap();
}

#[tokio::test]
async fn what_is_taken_away_is_put_back() {
    let fake = Fake::default();
    fake.with(|world| world.registry.insert("a".into()));
    let service = start(fake.clone(), fake.clone());
    service.want(want("one", &["a"], None));
    service.held("one", |_| ()).await.unwrap();
    fake.with(|world| {
        world.store.clear();
        world.leases.clear();
        world.annotations.clear();
    });
    fake.until("all of it is back", |world| {
        world.put_back > 0 && !world.leases.is_empty() && !world.annotations.is_empty()
    })
    .await;
    assert_eq!(fake.note(PRE_PULLED_ANNOTATION).as_deref(), Some("one"));
}

#[tokio::test]
async fn who_is_asked_for_nothing_says_nothing() {
    let fake = Fake::default();
    fake.with(|world| world.registry.insert("a".into()));
    let service = start(fake.clone(), fake.clone());
    service.want(want("one", &["a"], None));
    service.held("one", |_| ()).await.unwrap();
    service.rest();
    fake.until("the Node says nothing", |world| world.annotations.is_empty()).await;
    assert!(!service.watch().borrow().held);
    assert_eq!(fake.with(|world| world.leases.len()), 1);
}

#[tokio::test]
async fn a_node_that_cannot_say_what_it_holds_tells_why() {
    let fake = Fake::default();
    fake.with(|world| {
        world.registry.insert("a".into());
        world.is_refused = true;
    });
    let service = start(fake.clone(), fake.clone());
    service.want(want("one", &["a"], None));
    let problem = tokio::time::timeout(PATIENCE, service.held("one", |_| ())).await;
    let problem = problem.expect("it is told, and not waited for without end").unwrap_err();
    assert_eq!((problem.reason, problem.retryable), (Reason::ReleaseWebhookRefused, true));
    assert!(problem.message.contains("no.example") && problem.message.len() <= 1024);
    assert!(service.watch().borrow().held, "the images are kept meanwhile");
    fake.with(|world| world.is_refused = false);
    fake.until("the Node says it", |world| !world.annotations.is_empty()).await;
    let mut state = service.watch();
    let is_over = |state: &PullState| state.announced && state.problem.is_none();
    tokio::time::timeout(PATIENCE, state.wait_for(is_over)).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_the_registry_gives_not_to_anybody_is_asked_for_by_name() {
    let fake = Fake::default();
    fake.with(|world| {
        world.registry = ["a", "b"].map(str::to_owned).into();
        world.private.insert("b".into());
    });
    let service = start(fake.clone(), fake.clone());
    service.want(want("one", &["a", "b"], None));
    let problem = service.held("one", |_| ()).await.unwrap_err();
    assert_eq!((problem.reason, problem.retryable), (Reason::ReleaseRegistryDenied, true));
    assert!(problem.message.contains("kubernetes.io/dockerconfigjson"), "{}", problem.message);
    let who = Credentials {
        username: "robot".into(),
        password: holdfast_api::kubernetes::Secret("hunter2".into()),
    };
    let credentials = BTreeMap::from([("b".to_owned(), who)]);
    service.want(Want { credentials, ..want("two", &["a", "b"], None) });
    service.held("two", |_| ()).await.unwrap();
}
