use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::path::Path;

/// What is outside of the process: the lock's server, and the machine.
#[derive(Debug, Default)]
struct Outside {
    held: bool,
    drained: bool,
    boot: u32,
    worked: u32,
    /// Requests that are refused before the lock is granted.
    busy: u32,
}

impl Outside {
    fn pre_reboot(&mut self) -> Result<(), Refusal> {
        if self.busy > 0 {
            self.busy -= 1;
            return Err(Refusal::new(Kind::Locked, "another has it"));
        }
        if !std::mem::replace(&mut self.held, true) {
            return Err(Refusal::new(Kind::Draining, "wait"));
        }
        self.drained = true;
        Ok(())
    }

    fn steady_state(&mut self) {
        (self.held, self.drained) = (false, false);
    }

    fn work(&mut self) {
        assert!(self.held && self.drained, "nothing is done without lock and drain");
        self.worked += 1;
    }
}

/// How a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    Kill,
    PowerCut,
}

/// A countdown to a death; every place where one matters calls [`Fuse::burn`].
struct Fuse {
    left: Option<u32>,
    burnt: u32,
    seen: BTreeSet<&'static str>,
}

struct Dead;

impl Fuse {
    fn burn(&mut self, state: &State) -> Result<(), Dead> {
        self.seen.insert(match state {
            State::Idle => "idle",
            State::Asking { .. } => "asking",
            State::Going { .. } => "going",
            State::Returning { .. } => "returning",
        });
        self.burnt += 1;
        match &mut self.left {
            Some(0) => {
                self.left = None;
                Err(Dead)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// One process, until it rests or dies; the manager wants `purpose` until it was worked on.
fn process(
    path: &Path,
    outside: &mut Outside,
    purpose: Purpose,
    fuse: &mut Fuse,
    clock: &mut Instant,
) -> Result<(), Dead> {
    let boot = outside.boot.to_string();
    let (mut journal, complaint) = Journal::open(path, &boot, RebootSettings::default(), *clock);
    assert_eq!(complaint, None);
    let tell = |journal: &mut Journal, event, fuse: &mut Fuse, clock| {
        fuse.burn(journal.machine().state())?;
        journal.on(event, clock).unwrap();
        fuse.burn(journal.machine().state())
    };
    loop {
        match journal.machine().next(*clock) {
            Next::Rest if outside.worked > 0 => return Ok(()),
            Next::Rest => tell(&mut journal, Event::Want(purpose), fuse, *clock)?,
            Next::Wait(until) => *clock = until,
            Next::PreReboot => {
                fuse.burn(journal.machine().state())?;
                let answer = outside.pre_reboot();
                tell(&mut journal, Event::PreReboot(answer), fuse, *clock)?;
            }
            Next::SteadyState => {
                fuse.burn(journal.machine().state())?;
                outside.steady_state();
                tell(&mut journal, Event::SteadyState(Ok(())), fuse, *clock)?;
            }
            Next::Go(Purpose::Upgrade) => {
                fuse.burn(journal.machine().state())?;
                outside.work();
                tell(&mut journal, Event::Done, fuse, *clock)?;
            }
            Next::Go(Purpose::Reboot) => {
                fuse.burn(journal.machine().state())?;
                outside.work();
                outside.boot += 1;
                return Err(Dead);
            }
        }
    }
}

/// Processes one after the other, until one of them rests. How many places to die there were.
fn story(path: &Path, purpose: Purpose, deaths: &[(u32, Death)]) -> (Outside, Fuse) {
    let mut outside = Outside { busy: 2, ..Outside::default() };
    let mut clock = Instant::now();
    let mut fuse = Fuse { left: None, burnt: 0, seen: BTreeSet::new() };
    let mut deaths = deaths.iter();
    let mut death = deaths.next();
    fuse.left = death.map(|(at, _)| *at);
    for _ in 0..20 {
        match process(path, &mut outside, purpose, &mut fuse, &mut clock) {
            Ok(()) => return (outside, fuse),
            Err(Dead) if fuse.left.is_none() => {
                if let Some((_, Death::PowerCut)) = death {
                    outside.boot += 1;
                }
                death = deaths.next();
                fuse.left = death.map(|(at, _)| *at);
            }
            // The reboot that was wanted.
            Err(Dead) => {}
        }
    }
    panic!("it does not come to rest");
}

/// Every place where a process can die, by every kind of death, alone and before another kill.
#[test]
fn wherever_it_dies_the_work_is_done_under_the_lock_and_the_lock_is_free_again() {
    // Thousands of syncs: in memory where the machine has such a place.
    let memory = Path::new("/dev/shm");
    let dir = match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    };
    let mut stories = 0;
    let mut story = |purpose, deaths: &[(u32, Death)]| {
        stories += 1;
        story(&dir.path().join(stories.to_string()), purpose, deaths)
    };
    for purpose in [Purpose::Reboot, Purpose::Upgrade] {
        let (outside, fuse) = story(purpose, &[]);
        assert_eq!((outside.worked, outside.held), (1, false));
        assert_eq!(
            fuse.seen.into_iter().collect::<Vec<_>>(),
            ["asking", "going", "idle", "returning"],
            "a state without a place to die"
        );
        let places = fuse.burnt;
        assert!(places > 10);
        for first in 0..places {
            for kind in [Death::Kill, Death::PowerCut] {
                // Twice in a row: soon after, and while it is on its way again.
                for second in [0, 4, 9] {
                    let (outside, _) = story(purpose, &[(first, kind), (second, Death::Kill)]);
                    assert!(outside.worked >= 1 && !outside.held, "{first} {kind:?} {second}");
                    assert!(outside.worked <= 3, "it is done again and again");
                }
            }
        }
    }
}

fn refused(kind: Kind) -> Event {
    Event::PreReboot(Err(Refusal::new(kind, "no")))
}

#[test]
fn a_lock_that_is_not_to_be_had_is_given_up_with_the_reason() {
    let start = Instant::now();
    let settings = RebootSettings::default();
    let mut machine = Reboot::resume(State::Idle, "b", settings, start);
    assert_eq!(machine.next(start), Next::Rest);
    machine.on(Event::Want(Purpose::Upgrade), start);
    let mut now = start;
    let mut asked = 0;
    while matches!(machine.state(), State::Asking { .. }) {
        match machine.next(now) {
            Next::Wait(until) => now = until,
            Next::PreReboot => {
                asked += 1;
                machine.on(refused(Kind::DrainBlocked), now);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(machine.state(), &State::Returning { failed: Some(Reason::NodeDrainBlocked) });
    let took = now - start;
    assert!(took >= settings.deadline && took <= settings.deadline + settings.pause_most);
    assert!((720..730).contains(&asked), "{asked}");
    assert_eq!(machine.next(now), Next::SteadyState);
    machine.on(Event::SteadyState(Ok(())), now);
    assert_eq!(machine.state(), &State::Idle);
}

#[test]
fn pauses_grow_but_not_while_draining() {
    let start = Instant::now();
    let mut machine = Reboot::resume(State::Idle, "b", RebootSettings::default(), start);
    machine.on(Event::Want(Purpose::Reboot), start);
    let mut pause = |kind| {
        machine.on(refused(kind), start);
        match machine.next(start) {
            Next::Wait(until) => (until - start).as_secs(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([0; 3].map(|_| pause(Kind::Locked)), [1, 2, 4]);
    assert_eq!(pause(Kind::Draining), 1);
    assert_eq!(pause(Kind::UnknownGroup), 60);
    assert_eq!(pause(Kind::DrainTimeout), 32);
    assert_eq!(pause(Kind::DrainTimeout), 60);
    assert_eq!(pause(Kind::Locked), 15);
    assert_eq!(pause(Kind::Unavailable), 10);
}

#[test]
fn a_grant_is_asked_for_again_by_another_process_and_over_in_another_boot() {
    let now = Instant::now();
    let resume = |state: &State, boot| {
        Reboot::resume(state.clone(), boot, RebootSettings::default(), now).state().clone()
    };
    let (purpose, boot) = (Purpose::Reboot, "b1".to_owned());
    let going = State::Going { purpose, boot: boot.clone() };
    let asking = State::Asking { purpose, boot };
    assert_eq!(resume(&going, "b1"), asking);
    assert_eq!(resume(&asking, "b1"), asking);
    for state in [going, asking] {
        assert_eq!(resume(&state, "b2"), State::Returning { failed: None });
    }
    assert_eq!(resume(&State::Idle, "b2"), State::Idle);
}

#[test]
fn a_damaged_or_missing_journal_gives_the_lock_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("reboot.json");
    let now = Instant::now();
    let open = || Journal::open(&path, "b", RebootSettings::default(), now);
    let (mut journal, complaint) = open();
    assert_eq!((journal.machine().next(now), complaint), (Next::SteadyState, None));
    journal.on(Event::SteadyState(Ok(())), now).unwrap();
    journal.on(Event::Want(Purpose::Reboot), now).unwrap();
    assert_eq!(open().0.machine().next(now), Next::PreReboot);
    holdfast_durable::write(&path, b"cut off", 0o600).unwrap();
    let (journal, complaint) = open();
    assert_eq!(journal.machine().next(now), Next::SteadyState);
    assert!(complaint.is_some());
}

#[test]
fn a_disk_that_refuses_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("taken");
    let now = Instant::now();
    let (mut journal, _) = Journal::open(&path, "b", RebootSettings::default(), now);
    std::fs::create_dir(&path).unwrap();
    let error = journal.on(Event::SteadyState(Ok(())), now).unwrap_err();
    assert_eq!(error.reason(), Reason::StateUnwritable);
    assert_eq!(journal.machine().next(now), Next::SteadyState);
}

proptest! {
    /// Whatever arrives in whatever order: it never goes ahead without a grant since it was last
    /// idle, and from anywhere it comes to rest when requests are granted.
    #[test]
    fn it_goes_only_after_a_grant(events in prop::collection::vec(0u8..7, 0..60)) {
        let start = Instant::now();
        let mut machine = Reboot::resume(State::Idle, "b", RebootSettings::default(), start);
        let mut granted = false;
        for (at, event) in events.into_iter().enumerate() {
            let now = start + Duration::from_secs(at as u64 * 600);
            let asking = matches!(machine.state(), State::Asking { .. });
            let event = match event {
                0 => Event::Want(Purpose::Upgrade),
                1 => Event::Cancel,
                2 => { granted |= asking; Event::PreReboot(Ok(())) }
                3 => refused(Kind::Locked),
                4 => Event::Done,
                5 => Event::SteadyState(Ok(())),
                _ => Event::SteadyState(Err(Refusal::new(Kind::NotReady, "no"))),
            };
            machine.on(event, now);
            if machine.state() == &State::Idle {
                granted = false;
            }
            prop_assert!(granted || !matches!(machine.next(now), Next::Go(_)));
        }
        let mut now = start + Duration::from_secs(1_000_000);
        for _ in 0..10 {
            match machine.next(now) {
                Next::Rest => break,
                Next::Wait(until) => now = until,
                Next::PreReboot => machine.on(Event::PreReboot(Ok(())), now),
                Next::Go(_) => machine.on(Event::Done, now),
                Next::SteadyState => machine.on(Event::SteadyState(Ok(())), now),
            }
        }
        prop_assert_eq!(machine.next(now), Next::Rest);
    }
}
