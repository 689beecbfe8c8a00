//! The highest rate without loss, by binary search (RFC 2544, 26.1).
//!
//! Around a guess the search widens until one rate passed and one failed, and halves what lies
//! between them, as a ratio. A loss may be the machine's and not the tunnel's, so a rate has failed
//! only when it failed every time that it was tried (binary search with loss verification, ETSI GS
//! NFV-TST 009, 12.3.3; RFC 9004 takes it, too). It sends nothing by itself and knows no time: it
//! is asked for the next rate, and told how that went.

/// Rates a second that are looked at.
const LOWEST: u64 = 1_000;
const HIGHEST: u64 = 8_000_000;
/// The first step away from the guess; it is squared each time, up to a doubling.
const FIRST_STEP: f64 = 1.1;

/// What is left of a rate that was not confirmed.
pub(crate) const STEP_DOWN: f64 = 0.98;

/// How carefully a rate is searched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Care {
    /// How often a rate is tried again that lost something.
    pub(crate) again: u32,
    /// The rate that failed is at most this many times the one that passed.
    pub(crate) precision: f64,
}

impl Care {
    pub(crate) const WHOLE: Care = Care { again: 2, precision: 1.02 };
    pub(crate) const QUICK: Care = Care { again: 1, precision: 1.05 };
}

/// A search under way.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    /// The highest that passed, and the lowest that failed.
    passed: Option<u64>,
    failed: Option<u64>,
    /// What is tried now; none when nothing is left to try.
    at: Option<u64>,
    again: u32,
    step: f64,
    care: Care,
}

impl Search {
    /// Begins at a guess, in datagrams a second.
    pub(crate) fn around(guess: u64, care: Care) -> Self {
        Search {
            passed: None,
            failed: None,
            at: Some(guess.clamp(LOWEST, HIGHEST)),
            again: care.again,
            step: FIRST_STEP,
            care,
        }
    }

    /// The rate to try; none when the search is over.
    pub(crate) fn rate(&self) -> Option<u64> {
        self.at
    }

    /// What [`Search::rate`] came to.
    pub(crate) fn on(&mut self, lossless: bool) {
        let Some(at) = self.at else { return };
        match (lossless, self.again) {
            (true, _) => self.passed = Some(at),
            (false, 0) => self.failed = Some(at),
            (false, left) => {
                self.again = left - 1;
                return;
            }
        }
        self.again = self.care.again;
        self.at = match (self.passed, self.failed) {
            (Some(passed), None) => {
                (passed < HIGHEST).then(|| scaled(passed, self.widen()).min(HIGHEST))
            }
            (None, Some(failed)) => {
                (failed > LOWEST).then(|| scaled(failed, 1.0 / self.widen()).max(LOWEST))
            }
            (Some(passed), Some(failed)) => between(passed, failed, self.care.precision),
            (None, None) => None,
        };
    }

    /// The highest rate that passed.
    pub(crate) fn found(&self) -> Option<u64> {
        self.passed
    }

    fn widen(&mut self) -> f64 {
        let step = self.step;
        self.step = (step * step).min(2.0);
        step
    }
}

/// The rates to confirm one that was found with: itself, and then always a little less; each as
/// often as one is tried in the search, for the loss may be the machine's here, too.
pub(crate) fn confirmations(found: u64, care: Care) -> impl Iterator<Item = u64> {
    let less = |rate: &u64| Some(scaled(*rate, STEP_DOWN)).filter(|less| *less >= LOWEST);
    let again = move |rate| std::iter::repeat_n(rate, care.again as usize + 1);
    std::iter::successors(Some(found), less).flat_map(again)
}

/// In the middle of both as ratios; none when they are near enough.
fn between(passed: u64, failed: u64, precision: f64) -> Option<u64> {
    let is_near = failed <= passed + 1 || failed <= scaled(passed, precision);
    (!is_near).then(|| {
        scaled(passed, (failed as f64 / passed as f64).sqrt()).clamp(passed + 1, failed - 1)
    })
}

fn scaled(rate: u64, by: f64) -> u64 {
    // Rates are far below where a float loses whole numbers.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let scaled = (rate as f64 * by).round() as u64;
    scaled
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs a search to its end: what it found, and how many trials it took.
    fn search(guess: u64, care: Care, mut lossless: impl FnMut(u64) -> bool) -> (Option<u64>, u32) {
        let mut search = Search::around(guess, care);
        let mut trials = 0;
        while let Some(rate) = search.rate() {
            assert!((LOWEST..=HIGHEST).contains(&rate));
            search.on(lossless(rate));
            trials += 1;
            assert!(trials < 200, "it does not end");
        }
        (search.found(), trials)
    }

    fn is_bound(found: Option<u64>, bound: u64, care: Care) -> bool {
        match found {
            None => bound < LOWEST,
            Some(HIGHEST) => bound >= HIGHEST,
            Some(found) => found <= bound && bound <= scaled(found, care.precision) + 1,
        }
    }

    fn care() -> impl Strategy<Value = Care> {
        proptest::sample::select(vec![Care::WHOLE, Care::QUICK])
    }

    proptest! {
        #[test]
        fn a_sharp_bound_is_found_from_any_guess(
            bound in 0u64..10_000_000, guess in 0u64..10_000_000, care in care(),
        ) {
            let (found, _) = search(guess, care, |rate| rate <= bound);
            prop_assert!(is_bound(found, bound, care), "{found:?}");
        }

        #[test]
        fn losses_that_do_not_stay_do_not_lower_it(
            bound in LOWEST..HIGHEST,
            guess in LOWEST..HIGHEST,
            care in care(),
            noise in proptest::collection::vec(any::<bool>(), 200),
        ) {
            let mut in_a_row = 0;
            let mut noise = noise.into_iter();
            let (found, _) = search(guess, care, |rate| {
                let lost = noise.next().unwrap_or(false) && in_a_row < care.again;
                in_a_row = if lost { in_a_row + 1 } else { 0 };
                rate <= bound && !lost
            });
            prop_assert!(is_bound(found, bound, care), "{found:?}");
        }

        #[test]
        fn whatever_is_answered_it_ends_at_a_rate_that_passed(
            guess in any::<u64>(),
            care in care(),
            answers in proptest::collection::vec(any::<bool>(), 200),
        ) {
            let mut passed = Vec::new();
            let mut answers = answers.into_iter();
            let (found, _) = search(guess, care, |rate| {
                let lossless = answers.next().unwrap_or(false);
                passed.extend(lossless.then_some(rate));
                lossless
            });
            prop_assert_eq!(found, passed.iter().copied().max());
        }
    }

    #[test]
    fn what_is_not_confirmed_is_tried_with_two_hundredths_less_down_to_the_lowest() {
        let care = Care { again: 1, precision: 1.02 };
        let rates: Vec<u64> = confirmations(100_000, care).collect();
        assert_eq!(rates[..5], [100_000, 100_000, 98_000, 98_000, 96_040]);
        let last = *rates.last().unwrap();
        assert!(last >= LOWEST && scaled(last, STEP_DOWN) < LOWEST, "{last}");
        assert_eq!(confirmations(LOWEST, care).collect::<Vec<_>>(), [LOWEST; 2]);
    }

    #[test]
    fn a_good_guess_is_cheap() {
        let care = Care::WHOLE;
        let (found, trials) = search(100_000, care, |rate| rate <= 103_000);
        assert!(is_bound(found, 103_000, care), "{found:?}");
        assert!(trials <= 12, "{trials}");
    }
}
