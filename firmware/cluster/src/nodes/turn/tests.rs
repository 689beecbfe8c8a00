use super::*;
use crate::nodes::client::NoAnswer;
use crate::nodes::fleetlock::Problem;
use crate::nodes::reboot::RebootSettings;
use crate::nodes::refusal::Kind;
use bytes::Bytes;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);
/// Patience of somebody who comes again.
const SHORT: Duration = Duration::from_millis(20);

/// A server that refuses as long as it is told to.
#[derive(Clone, Default)]
struct Server {
    refuses: Arc<Mutex<Option<Kind>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn refuse(&self, kind: impl Into<Option<Kind>>) {
        *self.refuses.lock().unwrap() = kind.into();
    }

    fn asked(&self) -> Vec<String> {
        let mut asked = self.asked.lock().unwrap().clone();
        asked.dedup();
        asked
    }

    fn node(&self, dir: &Path) -> Turn {
        self.patient(dir, LONG)
    }

    /// A node that gives up after `deadline`.
    fn patient(&self, dir: &Path, deadline: Duration) -> Turn {
        let settings = RebootSettings { deadline, pause_most: Duration::from_millis(2) };
        let path = dir.join("reboot.json");
        let (journal, _) = Journal::open(path, "boot", settings, Instant::now());
        let server = self.clone();
        Turn::start(journal, move || Client::new("n1", "default", vec![server.clone()]))
    }
}

impl Transport for Server {
    async fn post(&self, path: &str, _body: Bytes) -> Result<(u16, Bytes), NoAnswer> {
        self.asked.lock().unwrap().push(path.to_owned());
        Ok(match *self.refuses.lock().unwrap() {
            None => (200, Bytes::new()),
            Some(kind) => {
                let problem = Problem { kind: kind.code().into(), value: format!("{kind}!") };
                (kind.status(), serde_json::to_vec(&problem).unwrap().into())
            }
        })
    }
}

/// Comes again until it is told this.
async fn refused(turn: &Turn, reason: Reason) -> Waits {
    let again = async {
        loop {
            match turn.take(Purpose::Upgrade, SHORT).await {
                Err(waits) if waits.reason == reason => return waits,
                answer => assert!(answer.is_err(), "{reason}"),
            }
        }
    };
    tokio::time::timeout(LONG, again).await.expect("it is told in time")
}

const STEADY: &str = "/v1/steady-state";
const PRE: &str = "/v1/pre-reboot";

#[tokio::test]
async fn a_turn_is_taken_once_it_is_granted_and_given_back() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::default());
    let turn = server.node(dir.path());
    turn.take(Purpose::Upgrade, LONG).await.unwrap();
    turn.take(Purpose::Upgrade, LONG).await.unwrap();
    turn.give_back(LONG).await.unwrap();
    turn.give_back(LONG).await.unwrap();
    assert_eq!(server.asked(), [STEADY, PRE, STEADY]);
}

#[tokio::test]
async fn who_waits_is_told_what_for_and_gives_nothing_up() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::default());
    let turn = server.node(dir.path());
    turn.give_back(LONG).await.unwrap();
    server.refuse(Kind::BadHeader);
    let waits = refused(&turn, Kind::BadHeader.reason()).await;
    assert_eq!(waits.message, "bad_header!");
    server.refuse(None);
    turn.take(Purpose::Upgrade, LONG).await.unwrap();
}

#[tokio::test]
async fn a_turn_that_was_asked_for_can_be_given_up_before_it_is_had() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::default());
    let turn = server.node(dir.path());
    turn.give_back(LONG).await.unwrap();
    server.refuse(Kind::DrainBlocked);
    refused(&turn, Kind::DrainBlocked.reason()).await;
    turn.give_back(SHORT).await.expect_err("the server refuses that too");
    server.refuse(None);
    turn.give_back(LONG).await.unwrap();
    assert_eq!(server.asked(), [STEADY, PRE, STEADY]);
}

#[tokio::test]
async fn whoever_comes_after_a_death_asks_before_it_goes_on() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::default());
    let turn = server.node(dir.path());
    turn.take(Purpose::Upgrade, LONG).await.unwrap();
    drop(turn);
    let turn = server.node(dir.path());
    turn.take(Purpose::Upgrade, LONG).await.unwrap();
    drop(turn);
    let turn = server.node(dir.path());
    turn.give_back(LONG).await.unwrap();
    let asked = server.asked();
    assert_eq!(asked.last().map(String::as_str), Some(STEADY), "{asked:?}");
}

#[tokio::test]
async fn a_lock_that_is_never_had_is_given_up_and_asked_for_anew() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::default());
    let turn = server.patient(dir.path(), Duration::from_millis(50));
    turn.give_back(LONG).await.unwrap();
    server.refuse(Kind::DrainBlocked);
    let given_up = turn.take(Purpose::Upgrade, LONG).await.unwrap_err();
    assert_eq!(given_up.reason, Kind::DrainBlocked.reason());
    server.refuse(None);
    turn.take(Purpose::Upgrade, LONG).await.unwrap();
}

#[tokio::test]
async fn nothing_is_asked_that_the_disk_did_not_take() {
    let (dir, server) = (tempfile::tempdir().unwrap(), Server::default());
    let folder = dir.path().join("state");
    std::fs::create_dir(&folder).unwrap();
    let turn = server.node(&folder);
    turn.give_back(LONG).await.unwrap();
    std::fs::rename(&folder, dir.path().join("away")).unwrap();
    holdfast_durable::write(&folder, b"in the way", 0o600).unwrap();
    refused(&turn, Reason::StateUnwritable).await;
    assert_eq!(server.asked(), [STEADY]);
    std::fs::remove_file(&folder).unwrap();
    turn.take(Purpose::Upgrade, LONG).await.unwrap();
    assert_eq!(server.asked(), [STEADY, PRE]);
}
