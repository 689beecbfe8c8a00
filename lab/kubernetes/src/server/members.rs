//! The members of the datastore: how a further server becomes one, and how one goes.
//!
//! As with k3s a server joins as a learner, which has no vote until it has everything, so that a
//! join that breaks off takes nobody's quorum. Deciding is pure ([`stale`], [`initial_cluster`]);
//! the rest asks `etcdctl`. Left out: a learner that never starts keeps others from joining until
//! it comes back under its name.

use crate::cache::Built;
use crate::config::Settings;
use crate::pki::Pki;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::IpAddr;
use std::process::{Command, Stdio};

/// Port of clients.
pub const CLIENTS: u16 = 2379;

/// Port of other members.
pub const PEERS: u16 = 2380;

/// What etcd says when the others have removed it.
pub const REMOVED: &str = "permanently removed from the cluster";

/// Why the members cannot be asked or changed.
#[derive(Debug, thiserror::Error)]
pub enum MembersError {
    /// `etcdctl` cannot be started.
    #[error("cannot start etcdctl")]
    Start(#[source] io::Error),
    /// It failed.
    #[error("etcdctl {attempt}: {said}")]
    Refused {
        /// Its arguments.
        attempt: String,
        /// Its last words.
        said: String,
    },
    /// Its answer is not understood.
    #[error("the answer to etcdctl {attempt} is not understood")]
    Answer {
        /// Its arguments.
        attempt: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// A member, as etcd tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Its number.
    #[serde(rename = "ID")]
    pub id: u64,
    /// Its name; empty until it has started once.
    #[serde(default)]
    pub name: String,
    /// Where others find it.
    #[serde(default, rename = "peerURLs")]
    pub peers: Vec<String>,
    /// Where clients find it.
    #[serde(default, rename = "clientURLs")]
    pub clients: Vec<String>,
    /// Whether it has no vote yet.
    #[serde(default, rename = "isLearner")]
    pub is_learner: bool,
}

/// What a datastore is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// etcd's `--initial-cluster`.
    pub initial: String,
    /// Whether the others are there already.
    pub exists: bool,
}

/// `scheme://address:port` with brackets where the address needs them.
pub fn url(address: IpAddr, port: u16) -> String {
    format!("https://{}", std::net::SocketAddr::new(address, port))
}

/// Those that stand where the member `name` at `peer` is to be: an earlier one of that name, or
/// one that was added and never started.
pub fn stale<'a>(
    members: &'a [Member],
    name: &'a str,
    peer: &'a str,
) -> impl Iterator<Item = &'a Member> {
    members.iter().filter(move |one| one.name == name || one.peers.iter().any(|url| url == peer))
}

/// All members by name and place, of a list in which `id` has just been added for `name`.
pub fn initial_cluster(members: &[Member], id: u64, name: &str) -> String {
    let entry = |one: &Member| {
        let name = if one.id == id { name } else { &one.name };
        one.peers.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>()
    };
    members.iter().flat_map(entry).collect::<Vec<_>>().join(",")
}

/// With which words the datastore is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Etcdctl {
    program: Vec<String>,
    environment: Vec<(String, String)>,
    endpoints: Vec<String>,
}

impl Etcdctl {
    /// Of the node's own datastore.
    pub fn own(settings: &Settings, built: &Built) -> Self {
        let pki = Pki::below(&settings.data);
        let environment = built.environment().into_iter().map(|(name, value)| (name.into(), value));
        Self {
            program: vec![
                built.usr().join("bin/etcdctl").display().to_string(),
                format!("--cacert={}", pki.path("etcd/server-ca.crt").display()),
                format!("--cert={}", pki.path("etcd/client.crt").display()),
                format!("--key={}", pki.path("etcd/client.key").display()),
            ],
            environment: environment.chain([("ETCDCTL_API".into(), "3".into())]).collect(),
            endpoints: vec![format!("https://127.0.0.1:{CLIENTS}")],
        }
    }

    /// The same rights, elsewhere.
    pub fn at(&self, endpoints: Vec<String>) -> Self {
        Self { endpoints, ..self.clone() }
    }

    /// A command.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program[0]);
        command
            .args(&self.program[1..])
            .arg(format!("--endpoints={}", self.endpoints.join(",")))
            .args(words)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// A command, to its end; what it wrote.
    ///
    /// # Errors
    /// It cannot be started or fails.
    pub fn run(&self, words: &[&str]) -> Result<Vec<u8>, MembersError> {
        let output = self.command(words).output().map_err(MembersError::Start)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().rfind(|line| !line.is_empty()).unwrap_or("it gave no reason");
        Err(MembersError::Refused { attempt: words.join(" "), said: said.into() })
    }

    /// The members.
    ///
    /// # Errors
    /// The datastore does not answer, or says what is not understood.
    pub fn members(&self) -> Result<Vec<Member>, MembersError> {
        #[derive(Deserialize)]
        struct Answer {
            members: Vec<Member>,
        }
        let words = ["member", "list", "--write-out=json"];
        let answer: Answer = serde_json::from_slice(&self.run(&words)?)
            .map_err(|source| MembersError::Answer { attempt: words.join(" "), source })?;
        Ok(answer.members)
    }

    /// Removes one.
    ///
    /// # Errors
    /// The datastore refuses, for example since too few would be left.
    pub fn remove(&self, member: &Member) -> Result<(), MembersError> {
        self.run(&["member", "remove", &format!("{:x}", member.id)]).map(|_| ())
    }

    /// Makes room for the member `name` at `peer` and adds it as a learner.
    ///
    /// # Errors
    /// The datastore refuses, for a moment after another join for example: try again.
    pub fn add(&self, name: &str, peer: &str) -> Result<Cluster, MembersError> {
        for one in stale(&self.members()?, name, peer) {
            self.remove(one)?;
        }
        self.run(&["member", "add", name, "--learner", &format!("--peer-urls={peer}")])?;
        let members = self.members()?;
        let id = stale(&members, name, peer).map(|one| one.id).next().unwrap_or_default();
        Ok(Cluster { initial: initial_cluster(&members, id, name), exists: true })
    }

    /// Gives the member `name` its vote; whether it has it now.
    ///
    /// # Errors
    /// The datastore does not answer. That the learner is not far enough is no error.
    pub fn promote(&self, name: &str) -> Result<bool, MembersError> {
        let members = self.members()?;
        match members.iter().find(|one| one.name == name && one.is_learner) {
            None => Ok(members.iter().any(|one| one.name == name)),
            Some(one) => Ok(self.run(&["member", "promote", &format!("{:x}", one.id)]).is_ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str, peer: &str) -> Member {
        Member {
            id,
            name: name.into(),
            peers: vec![peer.into()],
            clients: vec![],
            is_learner: false,
        }
    }

    proptest::proptest! {
        #[test]
        fn after_making_room_nobody_has_the_name_or_the_place(
            known in proptest::collection::vec(("[abc]?", "[xyz]"), 0..6),
            name in "[abc]", peer in "[xyz]",
        ) {
            let mut members: Vec<Member> = (1..).zip(&known).map(|(id, (name, peer))| member(id, name, peer)).collect();
            let gone: Vec<u64> = stale(&members, &name, &peer).map(|one| one.id).collect();
            members.retain(|one| !gone.contains(&one.id));
            proptest::prop_assert!(members.iter().all(|one| one.name != name && one.peers != [peer.clone()]));
            members.push(member(99, "", &peer));
            let initial = initial_cluster(&members, 99, &name);
            proptest::prop_assert_eq!(initial.split(',').count(), members.len());
            let own = format!("{name}={peer}");
            proptest::prop_assert!(initial.split(',').any(|entry| entry == own));
        }
    }

    #[test]
    fn an_answer_of_etcd_is_read() {
        let text =
            r#"{"ID":9372538179322589801,"peerURLs":["https://10.0.0.2:2380"],"isLearner":true}"#;
        let read: Member = serde_json::from_str(text).unwrap();
        assert_eq!(
            read,
            Member {
                is_learner: true,
                ..member(9_372_538_179_322_589_801, "", "https://10.0.0.2:2380")
            }
        );
    }

    #[test]
    fn addresses_of_both_families_make_urls() {
        assert_eq!(url([10, 0, 0, 1].into(), PEERS), "https://10.0.0.1:2380");
        assert_eq!(url("fd00::1".parse().unwrap(), PEERS), "https://[fd00::1]:2380");
    }
}
