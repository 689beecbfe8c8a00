//! The search on paths of memory: what is larger than they take vanishes.

use super::*;
use proptest::prelude::*;

const MOST: u16 = 1420;
const S: fn(u64) -> Duration = Duration::from_secs;
const RTT: Duration = Duration::from_millis(80);

struct Path {
    search: Search,
    now: Instant,
    takes: u16,
    asked: Vec<u16>,
    largest_answered: u16,
    /// What was found, as it changed.
    found: Vec<Option<u16>>,
}

impl Path {
    fn new(takes: u16) -> Self {
        let now = Instant::now();
        let mut search = Search::new(MOST, 7, now);
        search.set_up(true, now);
        Path { search, now, takes, asked: Vec::new(), largest_answered: 0, found: Vec::new() }
    }

    /// Lets time pass; of the packets that the path takes each `lost`th is lost all the same.
    fn run(&mut self, time: Duration, lost: usize) {
        let until = self.now + time;
        let mut answers: Vec<(Instant, Ask)> = Vec::new();
        loop {
            let wake = self.search.wake_at();
            assert!(wake.is_some(), "it never sleeps for ever: {:?}", self.search);
            let next = answers.iter().map(|(at, _)| *at).chain(wake).min();
            let Some(next) = next.filter(|at| *at <= until) else { break };
            self.now = self.now.max(next);
            let now = self.now;
            answers.retain(|(at, ask)| {
                if *at <= now && self.search.answered(ask.nonce, now) {
                    self.largest_answered = self.largest_answered.max(ask.bytes);
                    assert!(!self.search.answered(ask.nonce, now), "an answer counts once");
                }
                *at > now
            });
            if let Some(ask) = self.search.run(now) {
                assert!((LEAST..=MOST).contains(&ask.bytes), "{ask:?}");
                self.asked.push(ask.bytes);
                let is_lost = lost > 0 && self.asked.len().is_multiple_of(lost);
                if ask.bytes <= self.takes && !is_lost {
                    answers.push((now + RTT, ask));
                }
                assert_eq!(self.search.run(now), None, "one at a time");
            }
            if self.found.last() != Some(&self.search.mtu()) {
                self.found.push(self.search.mtu());
            }
            if let Some(mtu) = self.search.mtu() {
                assert!(mtu == LEAST || mtu <= self.largest_answered, "{mtu} was never answered");
            }
        }
        self.now = until;
    }

    /// What the link would be set to.
    fn mtu(&self) -> u16 {
        self.search.mtu().unwrap_or(MOST)
    }

    fn has_found_it(&self) -> bool {
        let most = self.takes.min(MOST);
        self.search.phase() == Phase::Complete && (most - (STEP - 1)..=most).contains(&self.mtu())
    }
}

proptest! {
    #[test]
    fn whatever_the_path_takes_is_found(takes in LEAST..1600) {
        let mut path = Path::new(takes);
        path.run(S(40), 0);
        prop_assert!(path.has_found_it(), "{takes}: {:?}", path.search);
        // At rest a look in half a minute.
        let asked = path.asked.len();
        path.run(S(300), 0);
        prop_assert!(path.asked.len() - asked <= 11 && path.has_found_it());
    }

    /// Loss makes it ask again, and at worst find less than there is, until it looks again.
    #[test]
    fn loss_makes_it_never_more_than_there_is(takes in LEAST..1600, lost in 2usize..6) {
        let mut path = Path::new(takes);
        path.run(S(3600), lost);
        prop_assert!(path.mtu() <= takes, "{:?}", path.search);
    }

    /// A path that becomes narrower is noticed within two looks; one that becomes wider, in time.
    #[test]
    fn a_path_that_changes_is_followed(takes in proptest::collection::vec(LEAST..1600, 2..5)) {
        let mut path = Path::new(takes[0]);
        for takes in takes {
            path.takes = takes;
            path.run(CONFIRM + S(4), 0);
            prop_assert!(path.mtu() <= takes, "{:?}", path.search);
            path.run(RAISE + S(60), 0);
            prop_assert!(path.has_found_it(), "{takes}: {:?}", path.search);
        }
    }

    #[test]
    fn ups_and_downs_never_harm_it(events in proptest::collection::vec((any::<bool>(), 0u64..5000, any::<u64>(), LEAST..1500), 0..60)) {
        let now = Instant::now();
        let mut path = Path::new(1400);
        for (up, millis, nonce, takes) in events {
            path.now += Duration::from_millis(millis);
            path.takes = takes;
            path.search.set_up(up, path.now);
            prop_assert!(!path.search.answered(nonce, path.now));
            let ask = path.search.run(path.now);
            prop_assert!(up || ask.is_none());
            if let Some(ask) = ask.filter(|ask| ask.bytes <= takes) {
                path.search.answered(ask.nonce, path.now);
            }
            prop_assert!(path.now >= now && path.mtu() >= LEAST);
        }
    }
}

#[test]
fn on_a_common_path_two_are_asked_and_nothing_changes() {
    let mut path = Path::new(1500);
    path.run(S(5), 0);
    assert_eq!(path.asked, [LEAST, MOST]);
    assert_eq!((path.search.phase(), path.search.mtu()), (Phase::Complete, None));
}

/// Until it is known what passes, the least is; and nothing before something was missing.
#[test]
fn nothing_is_said_before_something_did_not_pass() {
    let mut path = Path::new(1340);
    path.run(S(2), 0);
    assert_eq!((path.search.phase(), path.search.mtu()), (Phase::Searching, None));
    path.run(S(2), 0);
    assert_eq!((path.search.phase(), path.search.mtu()), (Phase::Searching, Some(LEAST)));
}

/// Sessions come and go more often than ways change.
#[test]
fn a_path_that_comes_back_takes_what_it_took() {
    let mut path = Path::new(1340);
    path.run(S(40), 0);
    assert!(path.has_found_it() && path.search.mtu() > Some(LEAST));
    path.found = vec![path.search.mtu()];
    for up_for in [S(0), RTT, S(1), S(2), S(5), S(60)] {
        path.search.set_up(false, path.now);
        path.search.set_up(true, path.now);
        path.run(up_for, 0);
    }
    assert!(path.found.len() == 1 && path.has_found_it(), "{:?}", path.found);
    // It is another one now.
    for takes in [1300, MOST, 1340, 1400] {
        path.search.set_up(false, path.now);
        path.takes = takes;
        path.search.set_up(true, path.now);
        path.run(S(5), 0);
        assert!(path.mtu() <= takes, "{takes}: {:?}", path.search);
        path.run(RAISE + S(40), 0);
        assert!(path.has_found_it(), "{takes}: {:?}", path.search);
    }
}

/// Somebody who does not know these packets, as an edge of an older release, costs nothing.
#[test]
fn who_never_answers_changes_nothing() {
    let mut path = Path::new(0);
    path.run(S(600), 0);
    assert_eq!((path.search.phase(), path.search.mtu()), (Phase::Error, None));
    assert!(path.asked.len() <= 33, "{}", path.asked.len());
    // It has learned it.
    path.takes = MOST;
    path.run(PAUSE + S(5), 0);
    assert!(path.has_found_it());
}
