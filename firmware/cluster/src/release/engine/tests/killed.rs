//! The manager is killed at any step of any story, and the site ends where it would have.

use super::*;

/// What the matrix is made of: how a site is brought to the interesting moment, and how it ends.
#[derive(Debug, Clone, Copy)]
enum Story {
    First,
    Update,
    FirstFails,
    UpdateFails,
    UpdateIsRefusedInTheMiddle,
    UpdateRefusesTheRecord,
}

impl Story {
    const ALL: [Story; 6] = [
        Story::First,
        Story::Update,
        Story::FirstFails,
        Story::UpdateFails,
        Story::UpdateIsRefusedInTheMiddle,
        Story::UpdateRefusesTheRecord,
    ];

    fn begin(self) -> (Site, Kept) {
        let two = kept("two", TWO);
        let site = match self {
            Story::First | Story::FirstFails => Site::new(),
            Story::Update
            | Story::UpdateFails
            | Story::UpdateIsRefusedInTheMiddle
            | Story::UpdateRefusesTheRecord => Site::with(ONE),
        };
        match self {
            Story::First | Story::Update => {}
            Story::FirstFails | Story::UpdateFails => {
                site.fake.conduct().crashing.insert("new=b".into());
            }
            Story::UpdateIsRefusedInTheMiddle => {
                site.fake.conduct().refused.insert("web=b".into());
            }
            Story::UpdateRefusesTheRecord => site.fake.conduct().guard = Some("new".into()),
        }
        (site, two)
    }

    fn check_end(self, site: &mut Site, two: &Kept) {
        let (phase, end) = match self {
            Story::First | Story::Update => (ReleasePhase::Committed, Some((two, TWO))),
            Story::FirstFails => (ReleasePhase::RolledBack, None),
            Story::UpdateFails
            | Story::UpdateIsRefusedInTheMiddle
            | Story::UpdateRefusesTheRecord => {
                (ReleasePhase::RolledBack, Some((&kept("one", ONE), ONE)))
            }
        };
        site.assert_has(end);
        let state = site.state();
        // Killed between the last step and its note, it only knows that the version failed.
        let is_refused = phase == ReleasePhase::RolledBack && state.phase == ReleasePhase::Refused;
        assert!(state.phase == phase || is_refused, "{state:?}");
        let failed: Vec<_> = state.failed.iter().map(|failed| &failed.release).collect();
        assert_eq!(failed.is_empty(), phase == ReleasePhase::Committed);
        assert!(failed.iter().all(|release| **release == two.release));
    }
}

/// The generated matrix: every step of every story, killed before it and after it.
#[test]
fn killed_anywhere_it_ends_where_it_would_have() {
    let mut kinds = BTreeSet::new();
    let mut points = 0;
    for story in Story::ALL {
        for fault in [Fault::Before, Fault::After] {
            for at in 0.. {
                let (mut site, two) = story.begin();
                site.want(&two);
                let Some(step) = site.run_steps(at, fault) else {
                    story.check_end(&mut site, &two);
                    break;
                };
                kinds.insert(step.kind());
                points += 1;
                site.want(&two);
                site.run();
                story.check_end(&mut site, &two);
            }
        }
    }
    let all: BTreeSet<_> = StepKind::ALL.iter().copied().collect();
    assert_eq!(kinds, all, "a kind of step has no fault point; add a story that takes it");
    assert!(points > 150, "{points}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Killed again and again, and the API server away in between.
    #[test]
    fn killed_often_it_ends_where_it_would_have(
        story in 0usize..Story::ALL.len(),
        faults in proptest::collection::vec((0usize..12, any::<bool>(), 0usize..4), 0..6),
    ) {
        let story = Story::ALL[story];
        let (mut site, two) = story.begin();
        for (steps, before, away) in faults {
            site.want(&two);
            site.fake.conduct().away = away;
            site.run_steps(steps, if before { Fault::Before } else { Fault::After });
        }
        site.want(&two);
        site.run();
        story.check_end(&mut site, &two);
    }
}
