//! The lock of whoever applies releases (and removes nodes): one manager of the site at a time.
//!
//! [`LeaderLock::attempt`] is called by the manager's pass every [`RENEW_EVERY`]; it reads the
//! Lease, decides ([`super::lease`]) and writes. The answer says until when the lock is ours: work
//! that must not be done by two is begun only before that moment, and its writes go on being
//! guarded by the API server. A manager that dies loses the lock after [`TTL`]; one that ends
//! gives it back.

use super::cluster::{Answer, Cluster, ClusterError};
use super::lease::{Decision, Expiry, Record, Watcher};
use holdfast_api::{Reason, chain};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The Lease.
pub const RELEASE_LEASE: &str = "holdfast-release";
/// How long a silent holder keeps it. A release loses a minute when its manager dies.
pub const TTL: Duration = Duration::from_secs(60);
/// How often it is renewed: several attempts fit into the 40 s that a holder counts on.
pub const RENEW_EVERY: Duration = Duration::from_secs(10);

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    /// We do, until then.
    Ours {
        /// On our clock; renew before.
        until: Instant,
    },
    /// The Lease says that we do, and our renewal did not get through. Another one may take it
    /// over when it was silent for [`TTL`].
    Unrenewed {
        /// The cluster refused it, as opposed to not answering.
        refused: bool,
        /// The reason code.
        reason: Reason,
        /// In detail.
        message: String,
    },
    /// Another does.
    Others {
        /// Who.
        holder: String,
        /// When it could be ours, if it stays silent.
        until: Option<Instant>,
    },
}

/// The lock.
#[derive(Debug)]
pub struct LeaderLock<K> {
    cluster: Arc<K>,
    name: String,
    me: String,
    ttl: Duration,
    watcher: Watcher,
    until: Option<Instant>,
}

impl<K: Cluster> LeaderLock<K> {
    /// The lock of releases, for the node `me`.
    pub fn of_releases(cluster: Arc<K>, me: &str) -> Self {
        Self::new(cluster, RELEASE_LEASE, me, TTL)
    }

    /// A lock of another name and time.
    pub fn new(cluster: Arc<K>, name: &str, me: &str, ttl: Duration) -> Self {
        let (name, me) = (name.to_owned(), me.to_owned());
        LeaderLock { cluster, name, me, ttl, watcher: Watcher::default(), until: None }
    }

    /// Whether it is ours at this moment.
    pub fn is_ours(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Takes or renews it when that is allowed.
    ///
    /// # Errors
    /// The cluster does not answer, or does not let us take it. What was ours stays ours until its time is over.
    pub async fn attempt(&mut self) -> Answer<Leadership> {
        let expiry = Expiry::After(self.ttl);
        loop {
            let sent = Instant::now();
            let lease = self.cluster.lease(&self.name).await?;
            let record = lease.as_ref().map(|lease| &lease.record);
            let decision = self.watcher.decide(record, &self.me, expiry, Instant::now());
            let renews = decision == Decision::Renew;
            match decision {
                Decision::Wait { holder, until } => {
                    if self.until.take().is_some() {
                        tracing::info!(lease = self.name, holder, "another node leads");
                    }
                    return Ok(Leadership::Others { holder, until });
                }
                Decision::TakeOver { from } => {
                    tracing::info!(lease = self.name, from, "its holder is silent; taking over");
                }
                Decision::Acquire | Decision::Renew => {}
            }
            let mine = Record::held_by(&self.me, record, expiry, Timestamp::now());
            match self.cluster.write_lease(&self.name, &mine, lease.as_ref()).await {
                Ok(()) => {
                    // Never none for a lock that expires.
                    let until = expiry.held_until(sent).unwrap_or(sent);
                    if self.until.replace(until).is_none() {
                        tracing::info!(lease = self.name, "this node leads");
                    }
                    return Ok(Leadership::Ours { until });
                }
                // Somebody was faster; the next look shows who.
                Err(ClusterError::Conflict { .. }) => {}
                Err(error) if renews => {
                    // An answer may have taken long.
                    let lease = self.cluster.lease(&self.name).await?;
                    if lease.is_some_and(|lease| lease.record.holder == self.me) {
                        return Ok(Leadership::Unrenewed {
                            refused: error.is_refused(),
                            reason: error.reason(),
                            message: chain(&error),
                        });
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives it back, when it is ours.
    ///
    /// # Errors
    /// The cluster does not answer; the lock is free after [`TTL`] then.
    pub async fn give_back(&mut self) -> Answer<()> {
        self.until = None;
        let lease = self.cluster.lease(&self.name).await?;
        let Some(lease) = lease.filter(|lease| lease.record.holder == self.me) else {
            return Ok(());
        };
        match self.cluster.write_lease(&self.name, &lease.record.released(), Some(&lease)).await {
            Err(ClusterError::Conflict { .. }) => Ok(()),
            done => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::cluster::fake::Fake;

    #[tokio::test]
    async fn one_leads_and_the_other_follows_when_it_gives_back_or_is_silent() {
        let fake = Arc::new(Fake::default());
        let ttl = Duration::from_millis(200);
        let mut a = LeaderLock::new(Arc::clone(&fake), "l", "a", ttl);
        let mut b = LeaderLock::new(Arc::clone(&fake), "l", "b", ttl);
        assert!(matches!(a.attempt().await.unwrap(), Leadership::Ours { .. }));
        assert!(a.is_ours(Instant::now()));
        let Leadership::Others { holder, until } = b.attempt().await.unwrap() else { panic!() };
        assert_eq!(holder, "a");
        tokio::time::sleep_until(until.unwrap().into()).await;
        assert!(!a.is_ours(Instant::now()), "it stops before others begin");
        assert!(matches!(b.attempt().await.unwrap(), Leadership::Ours { .. }));
        assert!(matches!(a.attempt().await.unwrap(), Leadership::Others { .. }));
        b.give_back().await.unwrap();
        assert!(matches!(a.attempt().await.unwrap(), Leadership::Ours { .. }));
        assert_eq!(fake.lease_record("l").unwrap().transitions, 2);
    }

    #[tokio::test]
    async fn a_lost_race_is_seen_and_a_silent_cluster_changes_nothing() {
        let fake = Arc::new(Fake::default());
        let mut a = LeaderLock::of_releases(Arc::clone(&fake), "a");
        fake.race_next_write("b");
        let Leadership::Others { holder, .. } = a.attempt().await.unwrap() else { panic!() };
        assert_eq!(holder, "b");
        fake.fail_next(1);
        assert!(a.attempt().await.unwrap_err().retryable());
        assert!(!a.is_ours(Instant::now()));
    }

    /// A webhook of a release may refuse it; nobody else leads because of that.
    #[tokio::test]
    async fn who_cannot_renew_is_still_named_until_another_one_is() {
        let fake = Arc::new(Fake::default());
        let mut a = LeaderLock::of_releases(Arc::clone(&fake), "a");
        fake.refuse_leases(true);
        assert!(a.attempt().await.unwrap_err().is_refused(), "it is not ours yet");
        fake.refuse_leases(false);
        assert!(matches!(a.attempt().await.unwrap(), Leadership::Ours { .. }));
        fake.refuse_leases(true);
        let Leadership::Unrenewed { refused, reason, .. } = a.attempt().await.unwrap() else {
            panic!()
        };
        assert_eq!((refused, reason), (true, Reason::KubernetesAdmissionRefused));
        // Read, written in vain, read again.
        fake.fail_after(1);
        assert!(a.attempt().await.is_err(), "silence is no answer");
        fake.fail_next(0);
        let theirs = Record { holder: "b".into(), ..Record::default() };
        fake.world().leases.insert(RELEASE_LEASE.into(), (9, theirs));
        assert!(matches!(a.attempt().await.unwrap(), Leadership::Others { .. }));
    }
}
