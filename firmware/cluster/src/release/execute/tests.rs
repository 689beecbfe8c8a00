use super::*;
use crate::release::fake::{Fake, kept, parsed};
use crate::release::model::Good;
use std::sync::Mutex;

type Said = Vec<(Option<Reason>, String)>;

/// The step, carried out for a release of one workload; and what was said meanwhile.
async fn carry_out(
    fake: &Fake,
    release: &Release,
    site: SiteRecord,
    step: &Step,
) -> (Result<(), Failure>, Said) {
    let said = Mutex::new(Said::new());
    let say = |reason, words| said.lock().unwrap().push((reason, words));
    let moment = Duration::from_millis(1);
    let context = Context {
        release: Some(release),
        good: None,
        known: Inventory::default(),
        site,
        back: false,
        pace: Pace { first: moment, longest: moment, explain: 10 * moment },
        began: None,
        say: &say,
    };
    let outcome = context.execute(fake, step).await.expect("this node leads");
    (outcome, said.into_inner().unwrap())
}

/// "It is not on a node yet" is so, and says less.
#[tokio::test]
async fn why_something_waits_is_told_until_that_is_asked_again() {
    let release = parsed(&kept("one", &[("Deployment", "web", "a")]));
    let fake = Fake::default();
    fake.apply(&release.items[0], false).await.unwrap();
    {
        let mut conduct = fake.conduct();
        conduct.waiting = 60;
        conduct.explained = Some(Explained {
            reason: Reason::PodNoHugepages,
            message: "pod web: Insufficient hugepages-1Gi".into(),
            hopeless: false,
        });
    }
    let id = release.items[0].object.id.clone();
    let step = Step::Wait(id, Duration::from_secs(60));
    let (outcome, said) = carry_out(&fake, &release, SiteRecord::default(), &step).await;
    assert_eq!(outcome, Ok(()));
    let first = said.iter().position(|(reason, _)| reason.is_some()).expect("it is explained");
    assert_eq!(said[0], (None, "Deployment default/web: it is not on a node yet".into()));
    assert!(said.len() > first + 10, "{} of {}", first, said.len());
    for (reason, message) in &said[first..] {
        assert_eq!(*reason, Some(Reason::PodNoHugepages));
        assert_eq!(message, "Deployment default/web: pod web: Insufficient hugepages-1Gi");
    }
}

/// A manager of before took it; it has to go on being put right.
#[tokio::test]
async fn what_is_asked_of_a_new_release_is_not_asked_of_the_one_in_force() {
    let release = parsed(&kept("one", &[("Deployment", "web", "No Image")]));
    let fake = Fake::default();
    let step = Step::DryRun(release.items[0].object.id.clone());
    let (outcome, _) = carry_out(&fake, &release, SiteRecord::default(), &step).await;
    let failure = outcome.unwrap_err();
    assert_eq!((failure.reason, failure.retry), (Reason::ReleaseInvalid, Retry::Never));
    let site = SiteRecord { good: Some(Good::of(&release)), ..SiteRecord::default() };
    assert_eq!(carry_out(&fake, &release, site, &step).await.0, Ok(()));
}
