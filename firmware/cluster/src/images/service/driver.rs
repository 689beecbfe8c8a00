//! The task behind [`super::PrePuller`]: one machine, its actions as jobs, its state to whoever looks.

use super::note::{Note, Text};
use super::{Asked, PullState};
use crate::images::cri::Credentials;
use crate::images::error::ImageError;
use crate::images::model::{Descriptor, Progress};
use crate::images::prepull::{Action, Event, Pace, PrePull, Problem};
use crate::images::site;
use crate::images::store::{ImageStore, NodeNotes};
use crate::kubernetes::ApiError;
use holdfast_api::{brief, chain};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Progress that waits to be looked at; more is dropped, for the next one says it too.
const PROGRESS_QUEUE: usize = 64;

/// Bytes of a problem's words: they go onto the Node object, whose annotations have 256 KiB in all.
const MESSAGE_BYTES: usize = 1024;

/// What came of a job. The number tells which machine it was for: a job that ended just as it was
/// aborted still answers.
enum Done {
    Event(u64, Event),
    Noted(u64, Result<(), Problem>),
    LetGo(u64, Result<Vec<String>, ImageError>),
}

pub(super) struct Driver<S, N> {
    store: S,
    notes: N,
    wanted: watch::Receiver<Asked>,
    says: watch::Sender<PullState>,
    moves: mpsc::Sender<Progress>,
    moved: mpsc::Receiver<Progress>,
    machine: Option<PrePull>,
    number: u64,
    asked: u64,
    force: u32,
    jobs: JoinSet<Done>,
    note: Note,
    /// Why the last note could not be written.
    unsaid: Option<Problem>,
    pace: Pace,
    /// What was kept when others were let go last.
    kept: Option<BTreeSet<String>>,
}

impl<S: ImageStore, N: NodeNotes> Driver<S, N> {
    pub(super) fn new(
        store: S,
        notes: N,
        wanted: watch::Receiver<Asked>,
        says: watch::Sender<PullState>,
        pace: Pace,
    ) -> Self {
        let (moves, moved) = mpsc::channel(PROGRESS_QUEUE);
        Self {
            store,
            notes,
            wanted,
            says,
            moves,
            moved,
            machine: None,
            number: 0,
            asked: 0,
            force: 0,
            jobs: JoinSet::new(),
            note: Note::new(pace),
            unsaid: None,
            pace,
            kept: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let now = Instant::now();
            let actions = self.machine.as_mut().map(|machine| machine.next(now));
            for action in actions.into_iter().flatten() {
                self.begin(action);
            }
            self.let_go();
            let note_at = self.write_note(now);
            self.publish();
            let machine_at = self.machine.as_ref().and_then(PrePull::wake_at);
            let wake = [note_at, machine_at]
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(now + self.pace.check_every);
            // All of these may be cancelled: each takes one thing out of a queue, or nothing.
            tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.take_want(),
                    Err(_) => return,
                },
                Some(done) = self.jobs.join_next() => match done {
                    Ok(done) => self.take(done),
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => {
                        tracing::error!(%error, "a step of pulling images failed");
                        // Its answer will not come; everything is looked at anew.
                        self.machine = None;
                        self.take_want();
                    }
                },
                Some(progress) = self.moved.recv() => self.feed(Event::Moved(progress)),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    fn take_want(&mut self) {
        let (asked, want) = self.wanted.borrow_and_update().clone();
        self.asked = asked;
        let Some(want) = want else {
            self.stop();
            self.machine = None;
            return;
        };
        self.force = want.force;
        match &mut self.machine {
            Some(machine) if machine.is_of(&want.release, &want.images) => machine.ask_again(),
            _ => {
                // What was begun stays in the runtime; if it is still wanted, it is carried on.
                self.stop();
                let (release, images) = (&want.release, want.images.len());
                tracing::info!(release, images, "images are wanted");
                self.machine = Some(PrePull::new(release, &want.images, self.pace));
            }
        }
        self.kept = None;
    }

    /// Ends what is under way, and no longer listens for what came of it.
    fn stop(&mut self) {
        self.jobs.abort_all();
        self.number += 1;
        self.note.forget();
        self.unsaid = None;
        self.kept = None;
    }

    fn begin(&mut self, action: Action) {
        let Some(machine) = &self.machine else { return };
        let (number, release) = (self.number, machine.release().to_owned());
        let (store, moves) = (self.store.clone(), self.moves.clone());
        let credentials = self.credentials(&action);
        self.jobs.spawn(async move {
            let event = match action {
                Action::Look(image) => match store.present(&image).await {
                    Ok(target) => Event::Found { image, target },
                    Err(error) => Event::Failed { image, problem: problem(&error) },
                },
                Action::Pull(image) => {
                    match store.pull(&image, credentials.as_ref(), moves).await {
                        Ok(target) => Event::Pulled { image, target },
                        Err(error) => Event::Failed { image, problem: problem(&error) },
                    }
                }
                Action::Pin(images) => pin(&store, &release, &images).await,
                Action::Check(images) => check(&store, &release, &images).await,
            };
            Done::Event(number, event)
        });
    }

    /// Who asks the registry, when something is pulled for which somebody is named.
    fn credentials(&self, action: &Action) -> Option<Credentials> {
        let Action::Pull(image) = action else { return None };
        self.wanted.borrow().1.as_ref()?.credentials.get(image).cloned()
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Event(number, event) if number == self.number => self.feed(event),
            Done::Noted(number, outcome) if number == self.number => {
                self.note.end(outcome.is_ok(), Instant::now());
                let problem = outcome.err();
                if let Some(Problem { reason, message, .. }) = &problem
                    && self.unsaid != problem
                {
                    tracing::warn!(%reason, message, "the Node object cannot be annotated");
                }
                self.unsaid = problem;
            }
            Done::LetGo(number, Err(error)) if number == self.number => {
                tracing::warn!(error = chain(&error), "images cannot be let go");
                // Again with the next check.
                self.kept = None;
            }
            Done::LetGo(_, Ok(releases)) => {
                for release in releases {
                    tracing::info!(release, "images of a release were let go");
                }
            }
            Done::Event(..) | Done::Noted(..) | Done::LetGo(_, Err(_)) => {}
        }
    }

    fn feed(&mut self, event: Event) {
        match &event {
            Event::Failed { problem: Problem { reason, message, .. }, .. }
            | Event::NotKept(Problem { reason, message, .. }) => {
                tracing::warn!(%reason, message, "images cannot be had yet");
            }
            Event::Lost(images) => tracing::warn!(?images, "images are gone from this node"),
            Event::Found { .. } | Event::Moved(_) | Event::Pulled { .. } | Event::Kept => {}
        }
        if let Some(machine) = &mut self.machine {
            machine.on(event, Instant::now(), jitter());
        }
    }

    /// Lets go of what is not kept, once everything wanted is pinned.
    fn let_go(&mut self) {
        let want = self.wanted.borrow().1.clone();
        let (Some(machine), Some(want)) = (&self.machine, want) else { return };
        // A want that came meanwhile is taken first.
        if !machine.is_held() || !machine.is_of(&want.release, &want.images) {
            return;
        }
        let Some(mut keep) = want.keep else { return };
        keep.insert(want.release);
        if self.kept.as_ref() == Some(&keep) {
            return;
        }
        self.kept = Some(keep.clone());
        let (number, store) = (self.number, self.store.clone());
        self.jobs
            .spawn(async move { Done::LetGo(number, store.retain(&keep, &want.images).await) });
    }

    /// Says on the Node how far it is, if that is due; when to look again.
    fn write_note(&mut self, now: Instant) -> Option<Instant> {
        let text = self.text()?;
        let due = self.note.due(&text, now)?;
        if due > now {
            return Some(due);
        }
        self.note.begin(text.clone());
        let (number, notes) = (self.number, self.notes.clone());
        self.jobs.spawn(async move {
            Done::Noted(number, notes.annotate(&text).await.map_err(|error| unsaid(&error)))
        });
        None
    }

    fn publish(&self) {
        let state = match &self.machine {
            None => PullState { asked: self.asked, ..PullState::default() },
            Some(machine) => {
                let (held, problem) = (machine.is_held(), machine.problem());
                let announced = self.text().is_some_and(|text| self.note.is_said(&text));
                // Until everything is here nobody waits for the note.
                let unsaid = self.unsaid.as_ref().filter(|_| held && !announced);
                PullState {
                    release: machine.release().to_owned(),
                    asked: self.asked,
                    held,
                    announced,
                    totals: machine.totals(),
                    problem: problem.or(unsaid).cloned(),
                }
            }
        };
        self.says.send_if_modified(|said| {
            let is_new = *said != state;
            *said = state;
            is_new
        });
    }

    fn text(&self) -> Option<Text> {
        match &self.machine {
            Some(machine) => {
                let (totals, problem) = (machine.totals(), machine.problem());
                let (release, is_held) = (machine.release(), machine.is_held());
                Some(site::notes(release, self.force, is_held, totals, problem))
            }
            // What was said is not so any more.
            None => self.note.has_said().then(site::no_notes),
        }
    }
}

async fn pin(
    store: &impl ImageStore,
    release: &str,
    images: &BTreeMap<String, Descriptor>,
) -> Event {
    match store.pin(release, images).await {
        Ok(()) => Event::Kept,
        // It names one; a look at all of them costs little.
        Err(ImageError::Lost { .. }) => Event::Lost(images.keys().cloned().collect()),
        Err(error) => Event::NotKept(problem(&error)),
    }
}

async fn check(
    store: &impl ImageStore,
    release: &str,
    images: &BTreeMap<String, Descriptor>,
) -> Event {
    let mut lost = BTreeSet::new();
    for (image, target) in images {
        match store.ensure(image, target).await {
            Ok(_) => {}
            Err(ImageError::Lost { .. } | ImageError::NotTakenUp { .. }) => {
                lost.insert(image.clone());
            }
            Err(error) => return Event::NotKept(problem(&error)),
        }
    }
    if !lost.is_empty() {
        return Event::Lost(lost);
    }
    // The lease may be gone as well; where it is not, this changes nothing.
    pin(store, release, images).await
}

fn problem(error: &ImageError) -> Problem {
    let message = brief(&chain(error), MESSAGE_BYTES);
    Problem { reason: error.reason(), message, retryable: error.retryable() }
}

/// Whoever refuses it now, a webhook or a rule of the cluster, may be taken away.
fn unsaid(error: &ApiError) -> Problem {
    let message = format!("the Node cannot say what it holds: {}", chain(error));
    let message = brief(&message, MESSAGE_BYTES);
    Problem { reason: error.reason(), message, retryable: true }
}

/// From 0 to 1. Without random numbers all nodes try at the same time, which is only unkind.
fn jitter() -> f64 {
    let mut byte = [0u8; 1];
    match getrandom::fill(&mut byte) {
        Ok(()) => f64::from(byte[0]) / f64::from(u8::MAX),
        Err(_) => 1.0,
    }
}
