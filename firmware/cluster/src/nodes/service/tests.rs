use super::*;
use crate::nodes::cluster::fake::Fake;
use crate::nodes::model::{BudgetView, PodRef, PodView, Selector};
use crate::nodes::restored::{Reboots, forget_reboots, reboots};
use holdfast_poll::until_async;

const SOON: Duration = Duration::from_secs(60);

fn node(name: &str) -> NodeView {
    NodeView {
        name: name.into(),
        uid: format!("uid-{name}"),
        other_ids: [format!("machine-{name}")].into(),
        readiness: Readiness::Ready,
        ..NodeView::default()
    }
}

fn pod(name: &str) -> PodView {
    PodView {
        pod: PodRef { namespace: "a".into(), name: name.into(), uid: name.into() },
        controller: Some("ReplicaSet".into()),
        ..PodView::default()
    }
}

fn site(nodes: &[&str]) -> Arc<Fake> {
    let fake = Fake::default();
    fake.world().nodes = nodes.iter().map(|name| node(name)).collect();
    fake.world().looks_to_end = 2;
    Arc::new(fake)
}

fn lock_with(fake: &Arc<Fake>, deadline: Duration) -> RebootLock<Fake> {
    let drain = DrainSettings {
        deadline,
        retry: Duration::from_millis(5),
        retry_most: Duration::from_millis(20),
        look: Duration::from_millis(1),
    };
    let patience = Duration::from_millis(1);
    RebootLock::new(Arc::clone(fake), LockSettings { drain, patience, ..LockSettings::default() })
}

fn lock(fake: &Arc<Fake>) -> RebootLock<Fake> {
    lock_with(fake, SOON)
}

fn strict() -> BudgetView {
    let (namespace, name) = ("a".into(), "strict".into());
    BudgetView { namespace, name, selector: Some(Selector::default()), allowed: 0 }
}

fn kind(answer: Result<(), Refusal>) -> Option<Kind> {
    answer.err().map(|refusal| refusal.kind)
}

const BUSY: &[Kind] = &[Kind::Draining, Kind::DrainBlocked];

/// Asks once; the node gets the lock, and its drain begins.
async fn begin(lock: &RebootLock<Fake>, id: &str) {
    let answer = kind(lock.pre_reboot("default", id).await);
    assert!(answer.is_some_and(|kind| BUSY.contains(&kind)), "{answer:?}");
}

/// Asks as clients do, until the answer is none of `passing`.
async fn until_not(lock: &RebootLock<Fake>, id: &str, passing: &[Kind]) -> Result<(), Refusal> {
    let ask = async || match lock.pre_reboot("default", id).await {
        Err(refusal) if passing.contains(&refusal.kind) => Err(refusal),
        answer => Ok(answer),
    };
    until_async("an answer that stays", SOON, ask).await
}

async fn until_at_rest(lock: &RebootLock<Fake>, node: &str) {
    let at_rest = async || lock.running(node).map_or(Ok(()), |_| Err("it drains"));
    until_async("the drain ends", SOON, at_rest).await;
}

#[tokio::test]
async fn one_node_at_a_time_drained_first_and_back_again() {
    let fake = site(&["n1", "n2"]);
    fake.world().pods = vec![("n1".into(), pod("web")), ("n2".into(), pod("other"))];
    let lock = lock(&fake);
    begin(&lock, "n1").await;
    assert_eq!(kind(lock.pre_reboot("default", "n2").await), Some(Kind::Locked));
    until_not(&lock, "n1", &[Kind::Draining]).await.unwrap();
    assert_eq!(fake.world().pods.len(), 1);
    assert!(fake.node("n1").cordoned_by_us);
    // Recursive, also by another id of the same node, and not to be had by others.
    lock.pre_reboot("default", "machine-n1").await.unwrap();
    assert_eq!(kind(lock.pre_reboot("default", "n2").await), Some(Kind::Locked));
    lock.steady_state("default", "n2").await.unwrap();
    assert_eq!(lock.holders().await.unwrap(), [(Group::default(), "n1".to_owned())]);
    lock.steady_state("default", "n1").await.unwrap();
    lock.steady_state("default", "n1").await.unwrap();
    assert!(!fake.node("n1").unschedulable);
    assert_eq!(lock.holders().await.unwrap(), []);
    assert_eq!(kind(lock.pre_reboot("default", "n2").await), Some(Kind::Draining));
    assert_eq!(
        fake.world().log[..7],
        [
            r#"holdfast-reboot: "n1""#,
            "cordon n1",
            "evict a/web",
            // Each grant.
            r#"holdfast-reboot: "n1""#,
            r#"holdfast-reboot: "n1""#,
            "uncordon n1",
            r#"holdfast-reboot: """#
        ]
    );
}

#[tokio::test]
async fn a_strict_budget_is_named_and_then_the_node_takes_pods_and_the_lock_is_free() {
    let fake = site(&["n1", "n2"]);
    fake.world().pods = vec![("n1".into(), pod("web"))];
    fake.world().budgets = vec![strict()];
    let lock = lock_with(&fake, Duration::from_secs(3));
    let blocked = until_not(&lock, "n1", &[Kind::Draining]).await.unwrap_err();
    assert_eq!(blocked.kind, Kind::DrainBlocked);
    assert_eq!(
        blocked.message,
        "budget a/strict does not let pod a/web go: it needs 1 healthy pod"
    );
    let late = until_not(&lock, "n1", BUSY).await.unwrap_err();
    assert_eq!(late.kind, Kind::DrainTimeout);
    assert!(late.message.contains("a/web"), "{}", late.message);
    assert!(!fake.node("n1").unschedulable);
    assert_eq!(lock.holders().await.unwrap(), []);
    // The next request begins anew.
    begin(&lock, "n1").await;
}

/// A drain that ends gives the lock back while a request about it is under way.
#[tokio::test]
async fn what_a_drain_has_no_more_is_not_taken_behind_its_back() {
    let fake = site(&["n1", "n2"]);
    fake.world().pods = vec![("n1".into(), pod("web"))];
    fake.world().budgets = vec![strict()];
    let lock = lock(&fake);
    begin(&lock, "n1").await;
    assert!(lock.break_lock(&Group::default(), "n1").await.unwrap());
    let answer = lock.pre_reboot("default", "n1").await;
    assert!(answer.is_err());
    assert_eq!(lock.holders().await.unwrap(), [], "nobody drains, and somebody has the lock");
    until_at_rest(&lock, "n1").await;
    assert!(!fake.node("n1").unschedulable);
    // The next request begins anew.
    begin(&lock, "n1").await;
    assert_eq!(lock.holders().await.unwrap(), [(Group::default(), "n1".into())]);
}

#[tokio::test]
async fn a_failure_nobody_asked_about_gives_others_their_turn_and_is_told_once() {
    let fake = site(&["n1", "n2"]);
    fake.world().pods = vec![("n1".into(), pod("web"))];
    fake.world().budgets = vec![strict()];
    let lock = lock_with(&fake, Duration::from_secs(2));
    begin(&lock, "n1").await;
    until_not(&lock, "n2", &[Kind::Locked, Kind::Draining]).await.unwrap();
    lock.steady_state("default", "n2").await.unwrap();
    let answer = kind(lock.pre_reboot("default", "n1").await);
    // Told while it is fresh; begun anew when it is not.
    let told = [Kind::DrainTimeout, Kind::Draining, Kind::DrainBlocked];
    assert!(answer.is_some_and(|kind| told.contains(&kind)), "{answer:?}");
}

#[tokio::test]
async fn an_operators_cordon_is_not_ours_to_end() {
    let fake = site(&["n1", "n2"]);
    fake.world().nodes[0].unschedulable = true;
    let lock = lock(&fake);
    until_not(&lock, "n1", &[Kind::Draining]).await.unwrap();
    lock.steady_state("default", "n1").await.unwrap();
    assert!(fake.node("n1").unschedulable);
    assert!(!fake.world().log.iter().any(|line| line.contains("cordon")));
}

#[tokio::test]
async fn a_node_that_is_not_ready_is_not_steady() {
    let fake = site(&["n1", "n2"]);
    let lock = lock(&fake);
    until_not(&lock, "n1", &[Kind::Draining]).await.unwrap();
    fake.world().nodes[0].readiness = Readiness::NotReady;
    assert_eq!(kind(lock.steady_state("default", "n1").await), Some(Kind::NotReady));
    assert_eq!(kind(lock.pre_reboot("default", "n2").await), Some(Kind::Locked));
    fake.world().nodes[0].readiness = Readiness::Ready;
    lock.steady_state("default", "n1").await.unwrap();
}

#[tokio::test]
async fn a_removed_holder_loses_the_lock_and_nobody_unknown_gets_it() {
    let fake = site(&["n1", "n2"]);
    let lock = lock(&fake);
    until_not(&lock, "n1", &[Kind::Draining]).await.unwrap();
    fake.world().nodes.remove(0);
    until_not(&lock, "n2", &[Kind::Draining]).await.unwrap();
    assert_eq!(lock.holders().await.unwrap()[0].1, "n2");
    assert_eq!(kind(lock.pre_reboot("default", "n1").await), Some(Kind::UnknownNode));
    lock.steady_state("default", "n1").await.unwrap();
    assert_eq!(kind(lock.pre_reboot("other", "n2").await), Some(Kind::UnknownGroup));
    assert_eq!(kind(lock.pre_reboot("Not A Group", "n2").await), Some(Kind::UnknownGroup));
}

#[tokio::test]
async fn an_operator_breaks_the_lock_of_the_holder_that_was_meant() {
    let fake = site(&["n1", "n2"]);
    fake.world().pods = vec![("n1".into(), pod("web"))];
    fake.world().budgets = vec![strict()];
    let lock = lock(&fake);
    begin(&lock, "n1").await;
    assert!(!lock.break_lock(&Group::default(), "n2").await.unwrap());
    assert!(lock.break_lock(&Group::default(), "n1").await.unwrap());
    // The drain notices, and takes its cordon away.
    until_at_rest(&lock, "n1").await;
    assert!(!fake.node("n1").unschedulable);
    assert_eq!(fake.world().pods.len(), 1);
}

#[tokio::test]
async fn races_and_an_absent_api_server_are_survived() {
    let fake = site(&["n1", "n2"]);
    let lock = lock(&fake);
    fake.race_next_write("n2");
    assert_eq!(kind(lock.pre_reboot("default", "n1").await), Some(Kind::Locked));
    assert!(lock.break_lock(&Group::default(), "n2").await.unwrap());
    for failures in 1..12 {
        fake.fail_next(failures);
        let answer = lock.pre_reboot("default", "n1").await;
        assert!(answer.is_ok() || kind(answer.clone()) == Some(Kind::Unavailable), "{answer:?}");
        fake.fail_next(0);
        until_not(&lock, "n1", &[Kind::Draining, Kind::Unavailable]).await.unwrap();
        fake.fail_next(failures);
        let answer = lock.steady_state("default", "n1").await;
        assert_eq!(kind(answer), Some(Kind::Unavailable));
        fake.fail_next(0);
        lock.steady_state("default", "n1").await.unwrap();
        assert!(!fake.node("n1").unschedulable);
    }
}

#[tokio::test]
async fn another_server_carries_on_a_drain_and_ends_one() {
    let fake = site(&["n1", "n2"]);
    fake.world().pods = vec![("n1".into(), pod("web"))];
    fake.world().budgets = vec![strict()];
    let first = lock(&fake);
    begin(&first, "n1").await;
    let second = lock(&fake);
    let answer = until_not(&second, "n1", &[Kind::Draining]).await.unwrap_err();
    assert_eq!(answer.kind, Kind::DrainBlocked);
    // The second one is told that the node is steady; the first one's drain has to notice.
    second.steady_state("default", "n1").await.unwrap();
    until_at_rest(&first, "n1").await;
    assert!(!fake.node("n1").unschedulable);
    drop(first);
}

#[tokio::test]
async fn a_reboot_that_would_stop_the_datastore_waits() {
    let fake = site(&["s1", "s2", "s3", "w1"]);
    for server in &mut fake.world().nodes[..3] {
        server.server = true;
    }
    let lock = lock(&fake);
    until_not(&lock, "s1", BUSY).await.unwrap();
    fake.world().nodes[2].readiness = Readiness::Unknown;
    assert_eq!(kind(lock.pre_reboot("default", "s1").await), Some(Kind::Datastore));
    lock.steady_state("default", "s1").await.unwrap();
    assert_eq!(kind(lock.pre_reboot("default", "s1").await), Some(Kind::Datastore));
    // The silent one itself may: it costs nothing, and is how it comes back.
    lock.pre_reboot("default", "s3").await.unwrap();
    lock.break_lock(&Group::default(), "s3").await.unwrap();
    until_not(&lock, "w1", &[Kind::Draining]).await.unwrap();
}

#[test]
fn groups_and_leases_name_each_other() {
    for name in ["default", "workers", "rack-1.row.2"] {
        let group = Group::try_from(name).unwrap();
        assert_eq!(Group::of_lease(&group.lease_name()), Some(group));
    }
    assert_eq!(Group::of_lease("holdfast-reboot"), Some(Group::default()));
    assert_eq!(Group::of_lease("holdfast-release"), None);
    assert_eq!(Group::of_lease("holdfast-rebooted"), None);
    for name in ["", "A", "a_b", "-a", "a-", "a..b", "a/b", &"x".repeat(64)] {
        assert_eq!(Group::try_from(name).unwrap_err().kind, Kind::UnknownGroup, "{name}");
    }
}

#[tokio::test]
async fn a_node_that_goes_in_the_middle_of_its_drain_is_not_granted_anything() {
    let fake = site(&["n1", "n2"]);
    fake.world().pods = vec![("n1".into(), pod("web"))];
    fake.world().budgets = vec![strict()];
    let lock = lock(&fake);
    begin(&lock, "n1").await;
    fake.world().nodes.remove(0);
    let answer = until_not(&lock, "n1", BUSY).await.unwrap_err();
    assert_eq!(answer.kind, Kind::UnknownNode);
    until_not(&lock, "n2", BUSY).await.unwrap();
}

#[tokio::test]
async fn a_restored_lock_and_cordon_are_of_another_time() {
    let fake = site(&["n1", "n2", "n3"]);
    let held = |holder: &str| (1, Record { holder: holder.into(), ..Record::default() });
    {
        let mut world = fake.world();
        world.leases = [
            (REBOOT_LEASE.to_owned(), held("n2")),
            (format!("{REBOOT_LEASE}-workers"), held("n3")),
            ("holdfast-release".to_owned(), held("n1")),
        ]
        .into();
        (world.nodes[1].unschedulable, world.nodes[1].cordoned_by_us) = (true, true);
        world.nodes[2].unschedulable = true;
    }
    let of_before = reboots(&*fake).await.unwrap();
    fake.fail_after(3);
    assert!(forget_reboots(&*fake, &of_before).await.is_err());
    fake.fail_next(0);
    forget_reboots(&*fake, &of_before).await.unwrap();
    let holder = |lease: &str| fake.lease_record(lease).unwrap().holder;
    assert_eq!(holder(REBOOT_LEASE), "");
    assert_eq!(holder(&format!("{REBOOT_LEASE}-workers")), "");
    assert_eq!(holder("holdfast-release"), "n1", "that one expires by itself");
    assert!(!fake.node("n2").unschedulable);
    assert!(fake.node("n3").unschedulable, "an operator's cordon stays");

    // The same nodes reboot again before a late manager forgets.
    let lock = lock(&fake);
    until_not(&lock, "n2", BUSY).await.unwrap();
    forget_reboots(&*fake, &of_before).await.unwrap();
    assert_eq!(holder(REBOOT_LEASE), "n2");
    assert!(fake.node("n2").unschedulable);
}

#[tokio::test]
async fn a_restored_lock_on_which_its_holder_reboots_is_of_this_time() {
    let fake = site(&["n1", "n2"]);
    let mine = Record { holder: "n2".into(), ..Record::default() };
    {
        let mut world = fake.world();
        world.leases = [(REBOOT_LEASE.to_owned(), (0, mine))].into();
        (world.nodes[1].unschedulable, world.nodes[1].cordoned_by_us) = (true, true);
        world.pods = vec![("n2".into(), pod("web"))];
        world.budgets = vec![strict()];
    }
    let is_left = async |of_before: &Reboots| {
        forget_reboots(&*fake, of_before).await.unwrap();
        assert_eq!(fake.lease_record(REBOOT_LEASE).unwrap().holder, "n2");
        assert!(fake.node("n2").cordoned_by_us);
    };
    // It asks before anybody forgot the lock that it had.
    let of_before = reboots(&*fake).await.unwrap();
    let lock = lock(&fake);
    begin(&lock, "n2").await;
    is_left(&of_before).await;

    // The drain goes on while another snapshot is restored, which has it too.
    let of_before = reboots(&*fake).await.unwrap();
    for _ in 0..5 {
        begin(&lock, "n2").await;
    }
    assert_eq!(reboots(&*fake).await.unwrap(), of_before, "written at every request");
    fake.world().budgets.clear();
    until_not(&lock, "n2", BUSY).await.unwrap();
    is_left(&of_before).await;
}

#[tokio::test]
async fn an_id_that_two_nodes_have_drains_neither() {
    let fake = site(&["n1", "n2", "n3"]);
    for node in &mut fake.world().nodes[..2] {
        node.other_ids.insert("cloned".into());
    }
    let lock = lock(&fake);
    for answer in
        [lock.pre_reboot("default", "cloned").await, lock.steady_state("default", "cloned").await]
    {
        let refusal = answer.unwrap_err();
        assert_eq!(refusal.kind, Kind::BadRequest);
        assert!(refusal.message.contains("n1 and n2"), "{refusal:?}");
    }
    assert_eq!(fake.lease_record(REBOOT_LEASE), None);
    // By a name that is another's id, the node of the name is meant.
    fake.world().nodes[0].other_ids.insert("n3".into());
    until_not(&lock, "n3", BUSY).await.unwrap();
    assert_eq!(fake.lease_record(REBOOT_LEASE).unwrap().holder, "n3");
}
