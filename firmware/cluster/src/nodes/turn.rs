//! Carries out a node's way through the reboot lock ([`super::reboot`]): asks the servers, keeps the
//! journal, and lets others wait for the node's turn.
//!
//! A task of its own with the journal; it ends with its handle, at any point, and the next one
//! carries on from the journal. A disk that refuses the journal stops it before the step that
//! could not be written, and is tried again ([`WRITE_AGAIN`]).

use super::client::{Call, Client, Transport};
use super::reboot::{Event, Journal, Next, Purpose, State};
use super::refusal::Refusal;
use holdfast_api::{Reason, chain};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::warn;

/// Between two attempts to write the journal.
pub const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// What the task shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Told {
    state: State,
    /// What it waits for.
    wait: Option<Waits>,
}

/// Why it is not this node's turn yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Waits {
    /// The reason code.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

impl From<&Refusal> for Waits {
    fn from(refusal: &Refusal) -> Self {
        Waits { reason: refusal.reason(), message: refusal.message.clone() }
    }
}

/// An event, and whom to tell when it is in the journal.
type Order = (Event, oneshot::Sender<()>);

/// The handle.
#[derive(Debug)]
pub struct Turn {
    orders: mpsc::Sender<Order>,
    told: watch::Receiver<Told>,
    task: JoinHandle<()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Turn {
    /// Starts the task. `servers` gives a client for the servers as they are at that moment.
    pub fn start<T, F>(journal: Journal, servers: F) -> Turn
    where
        T: Transport + 'static,
        F: Fn() -> Client<T> + Send + 'static,
    {
        // Whoever orders waits for it.
        let (orders, inbox) = mpsc::channel(4);
        let state = journal.machine().state().clone();
        let (tell, told) = watch::channel(Told { state, wait: None });
        let task = tokio::spawn(Task { journal, servers, tell }.run(inbox));
        Turn { orders, told, task }
    }

    /// Waits until it is this node's turn, at most for `patience`: it holds the lock and is drained
    /// then. Being dropped or late gives nothing up; the lock is asked for until
    /// [`Turn::give_back`], or until the journal's own deadline.
    ///
    /// # Errors
    /// What it waits for, or why it was given up.
    pub async fn take(&self, purpose: Purpose, patience: Duration) -> Result<(), Waits> {
        let wait = async {
            // An earlier turn ends by itself, and a new one cannot begin before.
            self.until(|state| !matches!(state, State::Returning { .. })).await;
            self.order(Event::Want(purpose)).await;
            self.until(|state| !matches!(state, State::Asking { .. })).await;
        };
        let late = tokio::time::timeout(patience, wait).await.is_err();
        let told = self.told.borrow().clone();
        match told.state {
            State::Going { .. } => Ok(()),
            State::Returning { failed: Some(reason) } if !late => {
                let message = "the lock was not had in time and is asked for anew".into();
                Err(Waits { reason, message })
            }
            _ => Err(told.waits("the reboot lock is asked for")),
        }
    }

    /// Gives the turn up, taken or not, and waits at most for `patience` until the node serves
    /// workloads again.
    ///
    /// # Errors
    /// Why it does not yet; it will, without being asked again.
    pub async fn give_back(&self, patience: Duration) -> Result<(), Waits> {
        let wait = async {
            self.order(Event::Cancel).await;
            self.until(|state| *state == State::Idle).await;
        };
        match tokio::time::timeout(patience, wait).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.told.borrow().clone().waits("the reboot lock is given back")),
        }
    }

    /// Tells the task, and waits until that is in the journal.
    async fn order(&self, event: Event) {
        let (done, is_done) = oneshot::channel();
        if self.orders.send((event, done)).await.is_err() || is_done.await.is_err() {
            // The task ended with its process; nobody goes on from here.
            std::future::pending::<()>().await;
        }
    }

    async fn until(&self, is: impl Fn(&State) -> bool) {
        let mut told = self.told.clone();
        if told.wait_for(|told| is(&told.state)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Told {
    fn waits(self, meanwhile: &str) -> Waits {
        self.wait.unwrap_or_else(|| Waits {
            reason: Reason::NodeRebootLocked,
            message: meanwhile.into(),
        })
    }
}

struct Task<F> {
    journal: Journal,
    servers: F,
    tell: watch::Sender<Told>,
}

impl<T: Transport, F: Fn() -> Client<T>> Task<F> {
    async fn run(mut self, mut inbox: mpsc::Receiver<Order>) {
        loop {
            let call = match self.journal.machine().next(Instant::now()) {
                Next::PreReboot => Call::PreReboot,
                Next::SteadyState => Call::SteadyState,
                Next::Rest | Next::Go(_) => match inbox.recv().await {
                    Some(order) => {
                        self.obey(order).await;
                        continue;
                    }
                    None => return,
                },
                Next::Wait(until) => {
                    tokio::select! {
                        order = inbox.recv() => match order {
                            Some(order) => self.obey(order).await,
                            None => return,
                        },
                        () = tokio::time::sleep_until(until.into()) => {}
                    }
                    continue;
                }
            };
            let answer = (self.servers)().ask(call).await;
            self.on(match call {
                Call::PreReboot => Event::PreReboot(answer),
                Call::SteadyState => Event::SteadyState(answer),
            })
            .await;
        }
    }

    async fn obey(&mut self, (event, done): Order) {
        self.on(event).await;
        // Whoever ordered may have gone.
        let _gone = done.send(());
    }

    /// Until the disk takes it: nothing goes on that is not in the journal.
    async fn on(&mut self, event: Event) {
        while let Err(error) = self.journal.on(event.clone(), Instant::now()) {
            let wait = Waits { reason: error.reason(), message: chain(&error) };
            warn!(reason = %wait.reason, error = wait.message, "reboot lock");
            self.tell.send_modify(|told| told.wait = Some(wait));
            tokio::time::sleep(WRITE_AGAIN).await;
        }
        let machine = self.journal.machine();
        let told =
            Told { state: machine.state().clone(), wait: machine.refusal().map(Waits::from) };
        self.tell.send_replace(told);
    }
}

#[cfg(test)]
mod tests;
