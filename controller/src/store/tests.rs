//! Laws of the store: it is a map, it forgets nothing that it acknowledged, it shows nothing that
//! it did not, and a watch that follows a list knows what the list would say.

use super::*;
use holdfast_api::resources::Kind;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

fn clock() -> Clock {
    Arc::new(|| Timestamp::UNIX_EPOCH)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

fn key(kind: Kind, name: &str) -> Key {
    Key::new(kind, "t", name)
}

fn object(kind: Kind, name: &str, n: u8) -> Value {
    let mut value =
        json!({"kind": kind.name(), "metadata": {"name": name, "uid": name}, "spec": {"n": n}});
    match kind {
        Kind::Site => value["status"] = json!({"phase": n % 3}),
        Kind::Token => value["status"] = json!({"id": format!("id{}", n % 4)}),
        _ => {}
    }
    value
}

#[derive(Debug, Clone)]
enum Op {
    Put(Kind, u8, u8),
    Delete(Kind, u8),
}

fn ops() -> impl Strategy<Value = Vec<(Vec<Op>, bool)>> {
    let kind = prop_oneof![Just(Kind::Site), Just(Kind::Token), Just(Kind::NodeStatus)];
    let op = prop_oneof![
        3 => (kind.clone(), 0u8..6, 0u8..10).prop_map(|(k, name, n)| Op::Put(k, name, n)),
        1 => (kind, 0u8..6).prop_map(|(k, name)| Op::Delete(k, name)),
    ];
    prop::collection::vec((prop::collection::vec(op, 0..5), prop::bool::weighted(0.8)), 0..25)
}

type Model = BTreeMap<Key, Value>;

/// Everything but what the store itself adds.
fn content(store: &Store) -> Model {
    store.read(|state, _| {
        let one = |entry: &Shared| {
            let mut value = entry.value.clone();
            value["metadata"].as_object_mut().unwrap().remove("resourceVersion");
            (entry.key.clone(), value)
        };
        state.all().map(one).collect()
    })
}

async fn run(store: &Store, model: &mut Model, transactions: Vec<(Vec<Op>, bool)>) {
    for (ops, keep) in transactions {
        let mut after = model.clone();
        for op in &ops {
            match op {
                Op::Put(kind, name, n) => {
                    let name = name.to_string();
                    after.insert(key(*kind, &name), object(*kind, &name, *n));
                }
                Op::Delete(kind, name) => drop(after.remove(&key(*kind, &name.to_string()))),
            }
        }
        let result = store
            .write(move |tx| {
                for op in ops {
                    match op {
                        Op::Put(kind, name, n) => {
                            let name = name.to_string();
                            let hidden = (kind == Kind::Token).then(|| format!("h{n}"));
                            tx.put(key(kind, &name), object(kind, &name, n), hidden);
                        }
                        Op::Delete(kind, name) => drop(tx.delete(&key(kind, &name.to_string()))),
                    }
                }
                if keep { Ok(()) } else { Err(StoreError::Closed) }
            })
            .await;
        assert_eq!(result.is_ok(), keep);
        if keep {
            *model = after;
        }
    }
}

/// What a client has that listed at the start and watched ever since.
fn replay(store: &Store, kind: Kind, from: u64, mut have: Model) -> Model {
    let (events, _) = store.since(kind, from).unwrap();
    let mut last = from;
    for event in events {
        assert!(event.version > last, "versions grow");
        last = event.version;
        match (&event.before, &event.after) {
            (_, Some(after)) => {
                let mut value = after.value.clone();
                value["metadata"].as_object_mut().unwrap().remove("resourceVersion");
                have.insert(after.key.clone(), value);
            }
            (Some(before), None) => drop(have.remove(&before.key)),
            (None, None) => panic!("an event of nothing"),
        }
    }
    have
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_is_a_map_with_indexes_and_a_history(before in ops(), after in ops()) {
        runtime().block_on(async {
            let store = Store::open(Forget, clock(), 1_000).unwrap();
            let mut model = Model::new();
            run(&store, &mut model, before).await;
            assert_eq!(content(&store), model);
            let (listed, version) = (content(&store), store.read(|_, version| version));
            run(&store, &mut model, after).await;
            assert_eq!(content(&store), model);
            for kind in [Kind::Site, Kind::Token, Kind::NodeStatus] {
                let of_kind = |all: &Model| -> Model {
                    all.iter().filter(|(k, _)| k.kind == kind).map(|(k, v)| (k.clone(), v.clone())).collect()
                };
                assert_eq!(replay(&store, kind, version, of_kind(&listed)), of_kind(&model));
                assert_eq!(replay(&store, kind, 0, Model::new()), of_kind(&model));
            }
            for id in 0..4 {
                let id = format!("id{id}");
                let found = store.read(|state, _| state.find(Index::TokenId, &id).map(|e| e.key.clone()).collect::<Vec<_>>());
                let want: Vec<Key> = model.iter().filter(|(k, v)| k.kind == Kind::Token && v["status"]["id"] == id.as_str()).map(|(k, _)| k.clone()).collect();
                assert_eq!(found, want);
            }
        });
    }

    #[test]
    fn files_hold_what_memory_holds(before in ops(), after in ops(), lose_status: bool) {
        runtime().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut model = Model::new();
            let store = Store::open(Embedded::new(dir.path()), clock(), 1_000).unwrap();
            run(&store, &mut model, before).await;
            let version = store.read(|_, version| version);
            store.close();
            if lose_status {
                std::fs::remove_file(dir.path().join("status.redb")).unwrap();
                model.retain(|key, _| key.kind != Kind::NodeStatus);
                model.iter_mut().filter(|(key, _)| key.kind == Kind::Site).for_each(|(_, value)| {
                    value.as_object_mut().unwrap().remove("status");
                });
            }
            let store = Store::open(Embedded::new(dir.path()), clock(), 1_000).unwrap();
            assert_eq!(content(&store), model);
            let hidden = store.read(|state, _| state.list(Kind::Token, None, None).all(|e| e.hidden.is_some()));
            assert!(hidden, "secrets' hashes are kept");
            assert!(store.read(|_, now| now) >= version, "versions only grow");
            run(&store, &mut model, after).await;
            store.close();
            let store = Store::open(Embedded::new(dir.path()), clock(), 1_000).unwrap();
            assert_eq!(content(&store), model);
            store.close();
        });
    }
}

/// Fails when told to, counts, and can be held up.
struct Moody {
    fail: Arc<std::sync::atomic::AtomicBool>,
    commits: Arc<AtomicUsize>,
    gate: Option<mpsc::Receiver<()>>,
}

impl Backend for Moody {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        Ok(Loaded::default())
    }

    fn commit(&mut self, _batch: &Batch) -> Result<(), StoreError> {
        if let Some(gate) = self.gate.take() {
            gate.recv().unwrap();
        }
        self.commits.fetch_add(1, Ordering::SeqCst);
        if self.fail.load(Ordering::SeqCst) {
            let source = Arc::new(std::io::ErrorKind::StorageFull.into());
            return Err(StoreError::File { attempt: "write", path: "x".into(), source });
        }
        Ok(())
    }

    fn flush(&mut self) {}
}

fn moody() -> (Moody, Arc<std::sync::atomic::AtomicBool>, Arc<AtomicUsize>, mpsc::Sender<()>) {
    let (open, gate) = mpsc::channel();
    let (fail, commits) = (Arc::default(), Arc::default());
    let backend =
        Moody { fail: Arc::clone(&fail), commits: Arc::clone(&commits), gate: Some(gate) };
    (backend, fail, commits, open)
}

fn put(store: &Store, n: usize) -> tokio::task::JoinHandle<Result<(), StoreError>> {
    let store = store.clone();
    tokio::spawn(async move {
        store
            .write(move |tx| {
                tx.put(key(Kind::Site, &n.to_string()), object(Kind::Site, "x", 0), None);
                Ok(())
            })
            .await
    })
}

#[tokio::test]
async fn a_flood_of_writes_is_few_commits() {
    let (backend, _, commits, open) = moody();
    let store = Store::open(backend, clock(), 1_000).unwrap();
    let writes: Vec<_> = (0..1_000).map(|n| put(&store, n)).collect();
    // A turn runs some dozens of tasks: now all of them wait for their answers.
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    assert!(store.get(&key(Kind::Site, "0")).is_none(), "nothing is seen before it is durable");
    open.send(()).unwrap();
    for write in writes {
        write.await.unwrap().unwrap();
    }
    let commits = commits.load(Ordering::SeqCst);
    assert!(commits <= 3, "{commits}");
    assert_eq!(store.read(|state, _| state.all().count()), 1_000);
}

#[tokio::test]
async fn a_disk_that_refuses_undoes_the_whole_batch() {
    let (backend, fail, _, open) = moody();
    open.send(()).unwrap();
    let store = Store::open(backend, clock(), 1_000).unwrap();
    put(&store, 0).await.unwrap().unwrap();
    let before = store.read(|_, version| version);
    fail.store(true, Ordering::SeqCst);
    let refused = [put(&store, 1), put(&store, 0), put(&store, 2)];
    for write in refused {
        // The second is no change, and may rest on what failed with it or stand alone.
        if let Err(error) = write.await.unwrap() {
            assert_eq!(error.reason(), holdfast_api::Reason::StateDiskFull);
        }
    }
    assert_eq!(content(&store).len(), 1);
    assert_eq!(store.read(|_, version| version), before);
    fail.store(false, Ordering::SeqCst);
    put(&store, 3).await.unwrap().unwrap();
    assert_eq!(content(&store).len(), 2);
    assert_eq!(replay(&store, Kind::Site, 0, Model::new()).len(), 2, "and no watch saw the others");
}

#[tokio::test]
async fn history_is_bounded_and_says_so() {
    let store = Store::open(Forget, clock(), 10).unwrap();
    for n in 0..30 {
        put(&store, n).await.unwrap().unwrap();
    }
    let (events, version) = store.since(Kind::Site, 20).unwrap();
    assert_eq!((events.len(), version), (10, 30));
    assert_eq!(store.since(Kind::Site, 19).unwrap_err(), Gone { oldest: 20 });
    assert!(store.since(Kind::Token, 0).is_ok(), "each kind has its own");
    store.close();
    assert!(matches!(put(&store, 0).await.unwrap(), Err(StoreError::Closed)));
}

#[test]
fn the_same_content_is_no_write() {
    runtime().block_on(async {
        let store = Store::open(Forget, clock(), 10).unwrap();
        for (n, versions) in [(1, 1), (1, 1), (2, 2)] {
            let write = move |tx: &mut Tx<'_>| {
                Ok::<_, StoreError>(
                    tx.put(key(Kind::Site, "a"), object(Kind::Site, "a", n), None).version,
                )
            };
            assert_eq!(store.write(write).await.unwrap(), versions);
        }
        // Made and removed in one transaction, it never was.
        store
            .write(|tx| {
                tx.put(key(Kind::Site, "b"), json!({}), None);
                tx.delete(&key(Kind::Site, "b"));
                Ok::<_, StoreError>(())
            })
            .await
            .unwrap();
        assert_eq!(store.since(Kind::Site, 0).unwrap().0.len(), 2);
    });
}

#[test]
fn records_of_kinds_that_are_not_known_are_left_alone() {
    assert_eq!(Key::from_record("sites/a/b"), Some(Key::new(Kind::Site, "a", "b")));
    assert_eq!(Key::from_record("regionaledges//b"), Some(Key::new(Kind::RegionalEdge, "", "b")));
    assert_eq!(Key::from_record("later/a/b"), None);
    assert_eq!(Key::from_record("sites"), None);
}
