//! What a release asks of the node before it begins, beyond the cluster itself.

use super::releases::Leader;
use super::{Tunnels, Wanted};
use holdfast_api::{Reason, chain};
use holdfast_cluster::distribution::diagnose::Facts;
use holdfast_cluster::distribution::observe;
use holdfast_cluster::paths::ClusterPaths;
use holdfast_cluster::release::live::{Later, Manager, lead};
use holdfast_cluster::release::target::{Check, Failure, Lead};
use holdfast_cluster::snapshots::{self, Why};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

/// Room for a snapshot, for the datastore and for unpacking images. The kubelet begins to evict
/// pods below a tenth of the disk (`nodefs.available`), whatever a release does.
const ROOM: u64 = 512 << 20;
/// A release may take so long; a certificate that ends before would break it.
const OUTLIVES: SignedDuration = SignedDuration::from_hours(1);

/// What is looked at.
pub(super) struct Checks {
    pub(super) paths: ClusterPaths,
    pub(super) wants: watch::Receiver<Wanted>,
    /// None on an agent, which never leads.
    pub(super) leader: Option<Leader>,
    pub(super) snapshots: Option<snapshots::Handle>,
}

impl Manager for Checks {
    fn check(&self, check: Check) -> Later<'_, ()> {
        Box::pin(async move {
            match check {
                Check::ApiServer | Check::Nodes => Ok(()),
                Check::Disk => room(&self.facts().await),
                Check::Certificates => certificates(&self.facts().await, Timestamp::now()),
                Check::Tunnels => tunnels(self.wants.borrow().tunnels),
                Check::Snapshot => self.snapshot().await,
            }
        })
    }

    fn lead(&self) -> Later<'_, Lead> {
        Box::pin(async move {
            let Some(leader) = &self.leader else { return Ok(Lead::Others) };
            if self.wants.borrow().is_retired {
                return Ok(Lead::Others);
            }
            lead(leader.lock().await.attempt().await)
        })
    }
}

impl Checks {
    async fn facts(&self) -> Facts {
        let paths = self.paths.clone();
        tokio::task::spawn_blocking(move || observe::facts(&paths)).await.unwrap_or_default()
    }

    async fn snapshot(&self) -> Result<(), Failure> {
        let Some(snapshots) = &self.snapshots else { return Ok(()) };
        let name = self.wants.borrow().release.as_ref().map(|it| it.reference.name.clone());
        let why = Why::Release(name.unwrap_or_default());
        match snapshots.take_now(why).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::always(error.reason(), chain(&error))),
        }
    }
}

/// What is not known holds nothing up.
fn room(facts: &Facts) -> Result<(), Failure> {
    match facts.free_bytes {
        Some(free) if free < ROOM => Err(Failure::always(
            Reason::ReleasePreflight,
            format!("{} MiB are free on the disk, {} MiB are needed", free >> 20, ROOM >> 20),
        )),
        _ => Ok(()),
    }
}

fn certificates(facts: &Facts, now: Timestamp) -> Result<(), Failure> {
    let ends = facts.certificates.iter().find(|one| one.to < now + OUTLIVES || one.from > now);
    ends.map_or(Ok(()), |one| {
        let text = format!(
            "the certificate {} is valid from {} to {}; Kubernetes renews it when it restarts",
            one.path.display(),
            one.from,
            one.to
        );
        Err(Failure::always(Reason::ReleasePreflight, text))
    })
}

fn tunnels(Tunnels { up, want }: Tunnels) -> Result<(), Failure> {
    if up >= usize::from(want) {
        return Ok(());
    }
    let text = format!("{up} of {want} tunnels pass data");
    Err(Failure::always(Reason::ReleasePreflight, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_cluster::distribution::diagnose::Validity;

    #[test]
    fn a_release_waits_for_room_for_certificates_and_for_both_tunnels() {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1000);
        let certificate = |from: i64, to: i64| Facts {
            certificates: vec![Validity {
                path: "a.crt".into(),
                from: now + SignedDuration::from_mins(from),
                to: now + SignedDuration::from_mins(to),
            }],
            ..Facts::default()
        };
        assert_eq!(certificates(&certificate(-10, 61), now), Ok(()));
        for (from, to) in [(-10, 59), (-10, -5), (5, 600)] {
            let failure = certificates(&certificate(from, to), now).unwrap_err();
            assert_eq!(failure.reason, Reason::ReleasePreflight, "{from} {to}");
        }
        let free = |free_bytes| Facts { free_bytes, ..Facts::default() };
        assert_eq!(room(&free(None)), Ok(()));
        assert_eq!(room(&free(Some(ROOM))), Ok(()));
        assert!(room(&free(Some(ROOM - 1))).is_err());
        assert_eq!(tunnels(Tunnels { up: 2, want: 2 }), Ok(()));
        assert!(tunnels(Tunnels { up: 1, want: 2 }).unwrap_err().message.contains("1 of 2"));
    }
}
