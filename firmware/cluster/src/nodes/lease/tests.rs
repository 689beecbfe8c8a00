use super::*;
use proptest::prelude::*;

const TTL: Duration = Duration::from_secs(60);

fn held(holder: &str, renewed: &str) -> Record {
    Record { holder: holder.into(), renewed: Some(renewed.into()), ..Record::default() }
}

/// A store of one Lease with versions, as the API server keeps it.
#[derive(Debug, Default)]
struct Store {
    record: Option<Record>,
    version: u64,
}

impl Store {
    fn put(&mut self, record: Record, read: u64) -> bool {
        if read != self.version {
            return false;
        }
        self.record = Some(record);
        self.version += 1;
        true
    }
}

/// A contender with a clock of its own, which began at another time and runs at another speed.
struct Contender {
    name: String,
    watcher: Watcher,
    epoch: Instant,
    offset_ms: u64,
    speed_percent: u64,
    read: Option<(Option<Record>, u64)>,
    /// A write on its way: what, over which version, sent when by its own clock.
    sent: Option<(Record, u64, Instant)>,
    /// The answer of the store on its way back: when the write was sent.
    answer: Option<Instant>,
    until: Option<Instant>,
}

impl Contender {
    fn clock(&self, real_ms: u64) -> Instant {
        self.epoch + Duration::from_millis(self.offset_ms + real_ms * self.speed_percent / 100)
    }

    fn wall(&self, real_ms: u64) -> Timestamp {
        // Wall clocks are off by days and stand still: nothing may depend on them.
        Timestamp::from_second((self.offset_ms * 1000 + real_ms / 1_000_000) as i64).unwrap()
    }

    fn holds(&self, real_ms: u64) -> bool {
        self.until.is_some_and(|until| self.clock(real_ms) < until)
    }
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Read,
    Send,
    Arrive,
    Answer,
    LoseAnswer,
}

/// Long ways of the same kinds make that locks are really won and kept, not only disputed.
fn acts() -> impl Strategy<Value = Vec<(usize, &'static [Act], u64)>> {
    use Act::{Answer, Arrive, LoseAnswer, Read, Send};
    let acts: [&'static [Act]; 8] = [
        &[Read, Send, Arrive, Answer],
        &[Read, Send, Arrive, Answer],
        &[Read, Send],
        &[Read],
        &[Send],
        &[Arrive],
        &[Answer],
        &[LoseAnswer],
    ];
    let pause = prop_oneof![2 => 0u64..2_000, 2 => 10_000u64..40_000, 1 => 0u64..90_000];
    prop::collection::vec((0usize..3, prop::sample::select(acts.to_vec()), pause), 1..120)
}

impl Contender {
    fn act(&mut self, act: Act, store: &mut Store, real_ms: u64) {
        let expiry = Expiry::After(TTL);
        let now = self.clock(real_ms);
        match act {
            Act::Read => self.read = Some((store.record.clone(), store.version)),
            Act::Send => {
                if let (Some((record, version)), None) = (self.read.take(), &self.sent) {
                    match self.watcher.decide(record.as_ref(), &self.name, expiry, now) {
                        Decision::Wait { .. } => {}
                        Decision::Acquire | Decision::Renew | Decision::TakeOver { .. } => {
                            let wall = self.wall(real_ms);
                            let mine = Record::held_by(&self.name, record.as_ref(), expiry, wall);
                            self.sent = Some((mine, version, now));
                        }
                    }
                }
            }
            Act::Arrive => {
                if let Some((record, version, sent)) = self.sent.take()
                    && store.put(record, version)
                {
                    self.answer = Some(sent);
                }
            }
            Act::Answer => {
                if let Some(sent) = self.answer.take() {
                    self.until = expiry.held_until(sent).max(self.until);
                }
            }
            Act::LoseAnswer => self.answer = None,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Whatever the order of reads, writes and answers, however late or lost, and however the
    /// clocks are set and run: no two contenders regard themselves as holders at once.
    #[test]
    fn never_two_holders(
        acts in acts(),
        offsets in prop::array::uniform3(0u64..10_000_000),
        speeds in prop::array::uniform3(85u64..=120),
    ) {
        let mut store = Store::default();
        let mut all: Vec<Contender> = (0..3)
            .map(|at| Contender {
                name: format!("n{at}"),
                watcher: Watcher::default(),
                epoch: Instant::now(),
                offset_ms: offsets[at],
                speed_percent: speeds[at],
                read: None,
                sent: None,
                answer: None,
                until: None,
            })
            .collect();
        let mut real_ms = 0;
        for (who, acts, pause) in acts {
            real_ms += pause;
            for act in acts {
                all[who].act(*act, &mut store, real_ms);
                let holders: Vec<_> =
                    all.iter().filter(|one| one.holds(real_ms)).map(|one| &one.name).collect();
                prop_assert!(holders.len() <= 1, "{holders:?} at {real_ms} ms");
            }
        }
    }
}

proptest! {
    /// A lock for good changes hands only by the doing of its holder.
    #[test]
    fn a_lock_for_good_stays_with_its_holder(acts in prop::collection::vec((0usize..3, any::<bool>(), any::<bool>()), 1..100)) {
        let mut store = Store::default();
        let mut reads: [Option<(Option<Record>, u64)>; 3] = Default::default();
        let mut watchers: [Watcher; 3] = Default::default();
        let mut holder = String::new();
        let start = Instant::now();
        for (step, (who, read, release)) in acts.into_iter().enumerate() {
            let me = format!("n{who}");
            if read {
                reads[who] = Some((store.record.clone(), store.version));
                continue;
            }
            let Some((record, version)) = reads[who].take() else { continue };
            let now = start + Duration::from_secs(step as u64 * 100_000);
            match watchers[who].decide(record.as_ref(), &me, Expiry::Never, now) {
                Decision::Wait { holder: other, until } => {
                    prop_assert_eq!(until, None);
                    prop_assert_ne!(other, me);
                }
                Decision::TakeOver { from } => prop_assert!(false, "taken from {}", from),
                Decision::Renew if release => {
                    let before = record.unwrap();
                    if store.put(before.released(), version) {
                        prop_assert_eq!(&holder, &me);
                        holder.clear();
                    }
                }
                Decision::Acquire | Decision::Renew => {
                    let mine = Record::held_by(&me, record.as_ref(), Expiry::Never, Timestamp::UNIX_EPOCH);
                    if store.put(mine, version) {
                        prop_assert!(holder.is_empty() || holder == me, "{holder} lost it to {me}");
                        holder = me;
                    }
                }
            }
        }
    }

    #[test]
    fn a_record_survives_its_way_through_a_lease(
        holder in "[a-z]{0,5}", secs in prop::option::of(1u32..1000), transitions in 0u32..9,
    ) {
        let record = Record {
            holder,
            duration_secs: secs,
            acquired: Some("2026-01-02T03:04:05.000006Z".into()),
            renewed: None,
            transitions,
        };
        prop_assert_eq!(Record::of(&json!({"spec": record.spec()})), record);
    }
}

#[test]
fn a_silent_holder_is_replaced_and_a_renewing_one_is_not() {
    let start = Instant::now();
    let at = |secs| start + Duration::from_secs(secs);
    let mut watcher = Watcher::default();
    let mut decide =
        |lease: &Record, now| watcher.decide(Some(lease), "b", Expiry::After(TTL), now);
    let wait = |until| Decision::Wait { holder: "a".into(), until: Some(until) };
    assert_eq!(decide(&held("a", "1"), at(0)), wait(at(60)));
    assert_eq!(decide(&held("a", "1"), at(59)), wait(at(60)));
    assert_eq!(decide(&held("a", "2"), at(59)), wait(at(119)));
    assert_eq!(decide(&held("a", "2"), at(119)), Decision::TakeOver { from: "a".into() });
    assert_eq!(decide(&Record::default(), at(120)), Decision::Acquire);
    assert_eq!(decide(&held("b", "3"), at(121)), Decision::Renew);
}

#[test]
fn a_change_of_hands_is_counted_and_a_renewal_keeps_the_beginning() {
    let (early, late) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(5).unwrap());
    let first = Record::held_by("a", None, Expiry::After(TTL), early);
    assert_eq!(first.acquired.as_deref(), Some("1970-01-01T00:00:00.000000Z"));
    assert_eq!((first.transitions, first.duration_secs), (0, Some(60)));
    let renewed = Record::held_by("a", Some(&first), Expiry::After(TTL), late);
    assert_eq!(renewed.acquired, first.acquired);
    assert_eq!(renewed.renewed.as_deref(), Some("1970-01-01T00:00:05.000000Z"));
    let other = Record::held_by("b", Some(&renewed), Expiry::Never, late);
    assert_eq!((other.transitions, other.duration_secs), (1, None));
    assert_eq!(other.released().spec()["holderIdentity"], Value::Null);
    assert_eq!(other.released().transitions, 1);
}

proptest! {
    /// Others see life in changes alone. So every renewal is one, and its time goes forwards,
    /// wherever the holder's clock jumps; and it stays the same holder's.
    #[test]
    fn every_renewal_is_seen_though_the_clock_jumps(
        jumps in prop::collection::vec((-4_000_000_000i64..4_000_000_000, 0i32..1_000_000), 1..40),
    ) {
        let start = Instant::now();
        let mut watcher = Watcher::default();
        let expiry = Expiry::After(TTL);
        let mut lease = Record::held_by("a", None, expiry, Timestamp::UNIX_EPOCH);
        for (turn, (second, micros)) in (0..).zip(jumps) {
            let now = start + TTL * turn;
            let seen = watcher.decide(Some(&lease), "b", expiry, now);
            prop_assert!(matches!(seen, Decision::Wait { .. }), "{seen:?}");
            let wall = Timestamp::new(second, micros * 1000).unwrap();
            let next = Record::held_by("a", Some(&lease), expiry, wall);
            let time = |record: &Record| record.renewed.clone().unwrap().parse::<Timestamp>().unwrap();
            prop_assert!(time(&next) > time(&lease), "{next:?} after {lease:?}");
            prop_assert_eq!((&next.acquired, next.transitions), (&lease.acquired, 0));
            lease = next;
        }
        let end = watcher.decide(Some(&lease), "b", expiry, start + TTL * 100);
        prop_assert!(matches!(end, Decision::Wait { .. }), "a change was not seen: {end:?}");
        let end = watcher.decide(Some(&lease), "b", expiry, start + TTL * 101);
        prop_assert_eq!(end, Decision::TakeOver { from: "a".into() });
    }
}
