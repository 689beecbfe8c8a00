//! Helpers of the device's thread: large pieces of work are handed out and taken back in the order
//! in which they were handed out, so that nothing is ever reordered.
//!
//! Whoever hands out does not wait: a piece that nobody has begun when it is taken back is done by
//! whoever takes it. So a busy machine loses nothing by it, and one with idle cores has the newest
//! pieces done while the oldest are sent. Waking a helper costs a few microseconds; one that
//! came in vain a few times is called less often.
//!
//! Fails: starting the threads, for the caller to report. A piece whose helper panicked is lost, and
//! whoever takes it back is told; where a panic ends the program it ends with all of it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Futile calls after which helpers are called less often.
const MOST_FUTILE: u32 = 4;
/// How many calls are left out then at most: 2 to the power of this, less one.
const RAREST: u32 = 6;

/// What can be done by any thread.
pub(crate) trait Work: Send + 'static {
    /// Does it.
    fn run(&mut self);
}

/// A piece that was handed out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// The helpers.
#[derive(Debug)]
pub(crate) struct Crew<W> {
    shared: Arc<Shared<W>>,
    helpers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared<W> {
    state: Mutex<State<W>>,
    come: Condvar,
    done: Condvar,
}

#[derive(Debug)]
struct State<W> {
    next: u64,
    waiting: VecDeque<(u64, W)>,
    /// What helpers have done; none where one panicked.
    done: Vec<(u64, Option<W>)>,
    asleep: usize,
    calls: Calls,
    has_ended: bool,
    /// Pieces that helpers did.
    #[cfg(test)]
    helped: u64,
}

impl<W: Work> Crew<W> {
    /// So many helpers, whose threads are called `name`.
    ///
    /// # Errors
    /// The kernel gives no threads.
    pub(crate) fn new(helpers: usize, name: &str) -> io::Result<Self> {
        let state = State {
            next: 0,
            waiting: VecDeque::new(),
            done: Vec::new(),
            asleep: 0,
            calls: Calls::default(),
            has_ended: false,
            #[cfg(test)]
            helped: 0,
        };
        let shared =
            Shared { state: Mutex::new(state), come: Condvar::new(), done: Condvar::new() };
        let mut crew = Crew { shared: Arc::new(shared), helpers: Vec::new() };
        for _ in 0..helpers {
            let shared = Arc::clone(&crew.shared);
            let thread = std::thread::Builder::new().name(name.into());
            crew.helpers.push(thread.spawn(move || help(&shared))?);
        }
        Ok(crew)
    }

    /// Hands out a piece.
    pub(crate) fn hand(&self, work: W) -> Ticket {
        let mut state = self.shared.lock();
        let number = state.next;
        state.next += 1;
        state.waiting.push_back((number, work));
        if state.asleep > 0 && state.calls.is_worth_it() {
            self.shared.come.notify_one();
        }
        Ticket(number)
    }

    /// Takes a piece back that is done, by the caller if need be; none when it was lost.
    pub(crate) fn back(&self, Ticket(number): Ticket) -> Option<W> {
        let mut state = self.shared.lock();
        if let Some(at) = state.waiting.iter().position(|(waits, _)| *waits == number) {
            let (_, mut work) = state.waiting.remove(at)?;
            drop(state);
            work.run();
            return Some(work);
        }
        loop {
            if let Some(at) = state.done.iter().position(|(done, _)| *done == number) {
                return state.done.swap_remove(at).1;
            }
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
impl<W> Crew<W> {
    /// How many pieces were done by helpers and not by who took them back.
    pub(crate) fn helped(&self) -> u64 {
        self.shared.lock().helped
    }
}

impl<W> Drop for Crew<W> {
    fn drop(&mut self) {
        self.shared.lock().has_ended = true;
        self.shared.come.notify_all();
        for helper in self.helpers.drain(..) {
            let _ = helper.join();
        }
    }
}

impl<W> Shared<W> {
    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that a piece is done, also when it was lost in a panic.
struct Done<'a, W> {
    shared: &'a Shared<W>,
    number: u64,
    work: Option<W>,
}

impl<W> Drop for Done<'_, W> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.done.push((self.number, self.work.take()));
        #[cfg(test)]
        {
            state.helped += 1;
        }
        drop(state);
        self.shared.done.notify_all();
    }
}

fn help<W: Work>(shared: &Shared<W>) {
    let mut state = shared.lock();
    let mut was_called = false;
    while !state.has_ended {
        // The newest: whoever handed out begins with the oldest.
        let Some((number, mut work)) = state.waiting.pop_back() else {
            if std::mem::take(&mut was_called) {
                state.calls.was_futile();
            }
            state.asleep += 1;
            state = shared.come.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.asleep -= 1;
            was_called = true;
            continue;
        };
        if std::mem::take(&mut was_called) {
            state.calls.was_useful();
        }
        drop(state);
        let mut done = Done { shared, number, work: None };
        work.run();
        done.work = Some(work);
        drop(done);
        state = shared.lock();
    }
}

/// When to call.
#[derive(Debug, Default)]
struct Calls {
    futile: u32,
    left_out: u32,
}

impl Calls {
    fn is_worth_it(&mut self) -> bool {
        let pause = (1 << self.futile.saturating_sub(MOST_FUTILE).min(RAREST)) - 1;
        if self.left_out < pause {
            self.left_out += 1;
            return false;
        }
        self.left_out = 0;
        true
    }

    fn was_futile(&mut self) {
        self.futile = (self.futile + 1).min(MOST_FUTILE + RAREST);
    }

    fn was_useful(&mut self) {
        self.futile = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug)]
    struct Square(u64, bool);

    impl Work for Square {
        fn run(&mut self) {
            assert!(!self.1, "on purpose");
            self.0 *= self.0;
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// However many help, and however many pieces are out: each comes back once, done once.
        #[test]
        fn every_piece_comes_back_done_in_its_order(helpers in 0usize..4, depths in proptest::collection::vec(1usize..9, 1..60)) {
            let crew = Crew::new(helpers, "test").unwrap();
            let mut number = 0;
            for depth in depths {
                let out: Vec<_> = (number..).take(depth).map(|n| (n, crew.hand(Square(n, false)))).collect();
                number += depth as u64;
                for (n, ticket) in out {
                    prop_assert_eq!(crew.back(ticket).unwrap().0, n * n);
                }
            }
            let state = crew.shared.lock();
            prop_assert!(state.waiting.is_empty() && state.done.is_empty());
        }
    }

    #[test]
    fn what_a_helper_loses_does_not_hold_up_the_rest() {
        let crew = Crew::new(1, "test").unwrap();
        let bad = crew.hand(Square(2, true));
        // Until the helper has it: taken back earlier it would panic here.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !crew.shared.lock().waiting.is_empty() {
            crew.shared.come.notify_all();
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert!(crew.back(bad).is_none());
        let ticket = crew.hand(Square(3, false));
        assert_eq!(crew.back(ticket).unwrap().0, 9, "and then there is nobody but the caller");
    }

    #[test]
    fn who_comes_in_vain_is_called_less_often_until_he_is_of_use() {
        let mut calls = Calls::default();
        let of_a_thousand = |calls: &mut Calls| (0..1000).filter(|_| calls.is_worth_it()).count();
        assert_eq!(of_a_thousand(&mut calls), 1000);
        for _ in 0..100 {
            calls.was_futile();
        }
        let rarely = of_a_thousand(&mut calls);
        assert!((10..20).contains(&rarely), "{rarely}");
        calls.was_useful();
        assert_eq!(of_a_thousand(&mut calls), 1000);
    }
}
