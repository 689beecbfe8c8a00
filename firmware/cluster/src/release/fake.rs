//! A site that remembers what was done to it, for tests: objects with their owners, what is
//! pinned, what the site was told to remember. It can be told to refuse, and to be away.

use super::journal::Kept;
use super::model::{Item, Key, Release, SiteRecord};
use super::target::{Check, Explained, Failure, Lead, Observed, Progress, Retry, Target};
use crate::images::Lacking;
use crate::object::ObjectId;
use holdfast_api::Reason;
use holdfast_api::kubernetes::{ReleaseRef, release_digest};
use holdfast_api::marks::MANAGED_BY_LABEL;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

/// What is on the site.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct World {
    pub(super) objects: BTreeMap<Key, Value>,
    pub(super) record: Option<SiteRecord>,
    /// Digests of releases whose images are pinned.
    pub(super) pinned: BTreeSet<String>,
    pub(super) announced: Option<String>,
    pub(super) snapshots: usize,
    pub(super) text: Option<Kept>,
    /// How often Jobs that pass have run.
    pub(super) ran: BTreeMap<String, usize>,
}

/// How the site behaves.
#[derive(Debug, Clone, Default)]
pub(super) struct Conduct {
    /// Another node applies releases.
    pub(super) is_led_by_another: bool,
    /// So many questions in a row get no answer.
    pub(super) away: usize,
    /// Names of objects that a dry run refuses.
    pub(super) refused_dry: BTreeSet<String>,
    /// Objects, as `name=content`, that are refused for good when they are applied.
    pub(super) refused: BTreeSet<String>,
    /// Objects, as `name=content`, that never become ready.
    pub(super) crashing: BTreeSet<String>,
    /// So many looks at any object find that it waits.
    pub(super) waiting: usize,
    /// Why objects wait.
    pub(super) explained: Option<Explained>,
    /// Names of objects that are not let go.
    pub(super) undeletable: BTreeSet<String>,
    /// Checks that do not hold.
    pub(super) unmet: BTreeSet<Check>,
    /// No image can be pulled.
    pub(super) no_image: bool,
    /// The images of the release with this digest never arrive.
    pub(super) endless: Option<String>,
    /// So many looks at an object of this name find it on its way out.
    pub(super) leaving: Option<(String, usize)>,
    /// While an object of this name is there, a webhook refuses every write of ours but those of
    /// objects of a release.
    pub(super) guard: Option<String>,
    /// Of the object with this name nothing is told while the other one, as `name=content`, is not
    /// there: its part of the API is away.
    pub(super) answered_by: Option<(String, String)>,
    /// What the site remembers is damaged until it is written anew.
    pub(super) unreadable: bool,
}

/// The site.
#[derive(Debug, Default)]
pub(super) struct Fake {
    world: Mutex<World>,
    conduct: Mutex<Conduct>,
    /// Which node asks.
    node: AtomicUsize,
    /// How often images were asked for.
    pulls: AtomicUsize,
}

impl Fake {
    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// The node with this number asks from now on.
    pub(super) fn is_node(&self, n: usize) {
        self.node.store(n, Ordering::Relaxed);
    }

    pub(super) fn pulls(&self) -> usize {
        self.pulls.load(Ordering::Relaxed)
    }

    pub(super) fn conduct(&self) -> MutexGuard<'_, Conduct> {
        self.conduct.lock().unwrap()
    }

    /// An object that is not ours.
    pub(super) fn put_foreign(&self, kind: &str, name: &str) {
        let release = kept("x", &[(kind, name, "theirs")]);
        let release = parsed(&release);
        let mut value = release.items[0].object.value.clone();
        value["metadata"]["labels"] = serde_json::json!({"owner": "theirs"});
        self.world().objects.insert(Key::of(&release.items[0].object.id), value);
    }

    /// Names and contents of the objects with our label.
    pub(super) fn ours(&self) -> BTreeMap<String, String> {
        let world = self.world();
        let ours = world.objects.iter().filter(|(_, value)| is_ours(value));
        ours.map(|(key, value)| (key.name.clone(), content(value))).collect()
    }

    /// Objects without our label.
    pub(super) fn theirs(&self) -> BTreeMap<Key, Value> {
        let world = self.world();
        let theirs = world.objects.iter().filter(|(_, value)| !is_ours(value));
        theirs.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn ask(&self) -> Result<(), Failure> {
        let mut conduct = self.conduct();
        if conduct.away == 0 {
            return Ok(());
        }
        conduct.away -= 1;
        Err(Failure::always(Reason::KubernetesApiUnavailable, "nobody answers"))
    }

    fn ask_of(&self, id: &ObjectId) -> Result<(), Failure> {
        self.ask()?;
        let Some((name, server)) = self.conduct().answered_by.clone() else { return Ok(()) };
        let serves = |(name, content): (String, String)| format!("{name}={content}") == server;
        if id.name != name || self.ours().into_iter().any(serves) {
            return Ok(());
        }
        Err(Failure::always(Reason::KubernetesApiUnavailable, format!("nobody answers for {id}")))
    }

    /// Asks to write something that is no part of a release.
    fn write(&self) -> Result<(), Failure> {
        self.ask()?;
        let Some(guard) = self.conduct().guard.clone() else { return Ok(()) };
        if self.ours().contains_key(&guard) {
            let message = format!("the webhook {guard} refuses");
            return Err(Failure::soon(Reason::KubernetesAdmissionRefused, message));
        }
        Ok(())
    }
}

fn is_ours(value: &Value) -> bool {
    value["metadata"]["labels"].get(MANAGED_BY_LABEL).is_some()
}

fn content(value: &Value) -> String {
    value["spec"]["content"].as_str().unwrap_or_default().to_owned()
}

fn mark(item: &Item) -> String {
    format!("{}={}", item.object.id.name, content(&item.object.value))
}

impl Target for Fake {
    fn node(&self) -> &str {
        ["node-1", "node-2"][self.node.load(Ordering::Relaxed)]
    }

    async fn keep_text(&self, text: &Kept) -> Result<(), Failure> {
        self.ask()?;
        self.world().text = Some(text.clone());
        Ok(())
    }

    async fn text(&self, digest: &str) -> Result<Option<Kept>, Failure> {
        self.ask()?;
        Ok(self.world().text.clone().filter(|text| text.release.digest == digest))
    }

    async fn lead(&self) -> Result<Lead, Failure> {
        if self.conduct().is_led_by_another {
            return Ok(Lead::Others);
        }
        match self.write() {
            Ok(()) => Ok(Lead::Ours),
            Err(failure) if failure.retry == Retry::Always => Err(failure),
            Err(failure) => Ok(Lead::Unrenewed(failure)),
        }
    }

    async fn recall(&self) -> Result<Option<SiteRecord>, Failure> {
        self.ask()?;
        if self.conduct().unreadable {
            return Err(Failure::never(Reason::ReleaseRecordUnreadable, "it is damaged"));
        }
        Ok(self.world().record.clone())
    }

    async fn record(&self, record: &SiteRecord) -> Result<(), Failure> {
        self.write()?;
        self.conduct().unreadable = false;
        self.world().record = Some(record.clone());
        Ok(())
    }

    async fn check(&self, check: Check) -> Result<(), Failure> {
        self.ask()?;
        if self.conduct().unmet.contains(&check) {
            return Err(Failure::always(Reason::ReleasePreflight, format!("not: {check}")));
        }
        if check == Check::Snapshot {
            self.world().snapshots += 1;
        }
        Ok(())
    }

    async fn dry_run(&self, _: &Release, item: &Item) -> Result<(), Failure> {
        self.ask()?;
        if self.conduct().refused_dry.contains(&item.object.id.name) {
            let message = format!("{}: spec.typo: no such field", item.object.origin);
            return Err(Failure::never(Reason::ReleaseInvalid, message));
        }
        Ok(())
    }

    async fn may_replace(&self, release: &Release, item: &Item) -> Result<(), Failure> {
        self.ask()?;
        if self.world().pinned.contains(&release.reference.digest) {
            return Ok(());
        }
        let message = format!("the images of {} are not here", item.object.id);
        Err(Failure::never(Reason::ReleasePrePull, message))
    }

    async fn apply(&self, item: &Item, _: bool) -> Result<(), Failure> {
        self.ask_of(&item.object.id)?;
        if self.conduct().refused.contains(&mark(item)) {
            return Err(Failure::never(Reason::ReleaseApplyRefused, item.object.id.to_string()));
        }
        let key = Key::of(&item.object.id);
        if item.passes() {
            // It has run and is gone at once.
            *self.world().ran.entry(key.name).or_default() += 1;
            return Ok(());
        }
        self.world().objects.insert(key, item.object.value.clone());
        Ok(())
    }

    async fn observe(&self, id: &ObjectId) -> Result<Observed, Failure> {
        self.ask_of(id)?;
        if let Some((_, left)) =
            self.conduct().leaving.as_mut().filter(|(name, _)| *name == id.name)
            && *left > 0
        {
            *left -= 1;
            return Ok(Observed::Leaving);
        }
        let world = self.world();
        let Some(value) = world.objects.get(&Key::of(id)) else { return Ok(Observed::Absent) };
        if !is_ours(value) {
            return Ok(Observed::Foreign);
        }
        let mark = format!("{}={}", id.name, content(value));
        if self.conduct().crashing.contains(&mark) {
            return Ok(Observed::Failed(Reason::PodCrashing, "it ends again and again".into()));
        }
        let mut conduct = self.conduct();
        if conduct.waiting > 0 {
            conduct.waiting -= 1;
            return Ok(Observed::Waiting("it is not on a node yet".into()));
        }
        Ok(Observed::Ready)
    }

    async fn explain(&self, _: &ObjectId) -> Result<Option<Explained>, Failure> {
        self.ask()?;
        Ok(self.conduct().explained.clone())
    }

    async fn clear_way(&self, _: &ObjectId, _: std::time::Duration) -> Result<(), Failure> {
        self.ask()
    }

    async fn delete(&self, id: &ObjectId) -> Result<(), Failure> {
        self.ask()?;
        if self.conduct().undeletable.contains(&id.name) {
            return Err(Failure::never(Reason::ReleaseWebhookRefused, format!("{id} stays")));
        }
        let mut world = self.world();
        if world.objects.get(&Key::of(id)).is_some_and(is_ours) {
            world.objects.remove(&Key::of(id));
        }
        Ok(())
    }

    async fn pull_here(&self, release: &Release, say: Progress<'_>) -> Result<(), Failure> {
        self.ask()?;
        self.pulls.fetch_add(1, Ordering::Relaxed);
        say("pulling".into());
        if self.conduct().no_image {
            return Err(Failure::never(Reason::ReleaseImageMissing, "no such image"));
        }
        let digest = &release.reference.digest;
        if self.conduct().endless.as_ref() == Some(digest) {
            std::future::pending::<()>().await;
        }
        self.world().pinned.insert(digest.clone());
        Ok(())
    }

    async fn lacking(&self, release: &Release) -> Result<Vec<Lacking>, Failure> {
        self.ask()?;
        let node = |node: &str, images: &[String]| Lacking {
            node: node.into(),
            images: images.to_vec(),
            is_sure: true,
            is_ready: true,
        };
        Ok(vec![node("node-1", &[]), node("node-2", &release.images)])
    }

    async fn pulled_everywhere(&self, _: &Release, _: Progress<'_>) -> Result<(), Failure> {
        self.ask()
    }

    async fn announce(&self, digest: &str) -> Result<(), Failure> {
        self.ask()?;
        self.write()?;
        self.world().announced = Some(digest.to_owned());
        Ok(())
    }

    async fn may_announce(&self) -> Result<(), Failure> {
        self.write()
    }

    async fn in_force(&self) -> Result<Option<String>, Failure> {
        self.ask()?;
        Ok(self.world().announced.clone())
    }

    async fn keep_only(&self, release: Option<&Release>) -> Result<(), Failure> {
        self.ask()?;
        let keep = release.map(|release| &release.reference.digest);
        self.world().pinned.retain(|digest| Some(digest) == keep);
        Ok(())
    }
}

/// A release of objects, given as kind, name and content.
pub(super) fn kept(name: &str, objects: &[(&str, &str, &str)]) -> Kept {
    let text = objects.iter().map(|(kind, name, content)| {
        let version = match *kind {
            "Deployment" | "DaemonSet" => "apps/v1",
            "CustomResourceDefinition" => "apiextensions.k8s.io/v1",
            "Gadget" => "x.example/v1",
            "Job" => "batch/v1",
            _ => "v1",
        };
        let data_plane = *kind == "DaemonSet";
        let more = if *kind == "Job" { ", ttlSecondsAfterFinished: 0" } else { "" };
        format!(
            "---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}, annotations: \
             {{holdfast.dev/data-plane: '{data_plane}'}}}}\nspec: \
             {{content: {content}, containers: [{{image: {content}}}]{more}}}\n"
        )
    });
    let manifests = BTreeMap::from([("all.yaml".to_owned(), text.collect())]);
    let digest = release_digest(&manifests);
    let version = name.to_owned();
    let release = ReleaseRef { name: name.to_owned(), version, digest, force: 0 };
    Kept { release, manifests, timeout_secs: 0 }
}

/// The same, read.
pub(super) fn parsed(kept: &Kept) -> Release {
    super::parse::parse(&kept.release, &kept.manifests, std::time::Duration::ZERO).unwrap()
}
