//! Why it does not come up: out of how it ended, what it logged and what the machine says. Pure.
//!
//! The texts are those of k3s, etcd, the kubelet and the kernel as they print them; each stands
//! beside one that was seen in the tests below. A log that tells nothing known gives
//! [`Reason::KubernetesExited`] with its last lines, which is true, if less helpful.
//!
//! k3s logs in the words of all its parts, and of what its parts were given: a text about a
//! configuration counts only where a part ends with it, or names our files. containerd and etcd keep
//! the same kind of file, and say the same of one that is damaged: what each says counts for its own.

use super::process::Ending;
use holdfast_api::Reason;
use jiff::Timestamp;
use std::path::PathBuf;

/// A port somebody listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The port (TCP).
    pub port: u16,
    /// Who, where that can be found.
    pub program: Option<Program>,
}

/// A running program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
}

/// A certificate's validity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validity {
    /// Its file.
    pub path: PathBuf,
    /// From.
    pub from: Timestamp,
    /// To.
    pub to: Timestamp,
}

/// What the machine says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Bytes that can be written below the data directory; none when that is not known.
    pub free_bytes: Option<u64>,
    /// Who listens.
    pub listeners: Vec<Listener>,
    /// The distribution's certificates.
    pub certificates: Vec<Validity>,
}

/// What was logged since the start, newest last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    /// By k3s and its parts, but not containerd; its own log last.
    pub kubernetes: Vec<String>,
    /// By containerd.
    pub containerd: Vec<String>,
}

impl Log {
    fn lines(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.containerd.iter().chain(&self.kubernetes).map(String::as_str)
    }

    /// Of etcd or k3s itself, which also tell what containerd told them.
    fn of_datastore(&self) -> impl DoubleEndedIterator<Item = &str> {
        let lines = self.kubernetes.iter().map(String::as_str);
        lines.filter(|line| !line.contains("containerd") && !line.contains("rpc error"))
    }
}

/// Everything to judge by.
#[derive(Debug, Clone)]
pub struct Evidence<'a> {
    /// How it ended; none while it runs.
    pub ending: Option<Ending>,
    /// What was logged.
    pub log: &'a Log,
    /// What the machine says.
    pub facts: &'a Facts,
    /// Now.
    pub now: Timestamp,
}

/// The finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// The code.
    pub reason: Reason,
    /// In detail.
    pub message: String,
}

/// Less than this, and etcd cannot make its next log file of 64 MB.
const ROOM: u64 = 64_000_000;

/// A line means something when it has all texts of one row.
type Texts = &'static [&'static [&'static str]];

const DISK: Texts = &[&["no space left on device"], &["disk quota exceeded"]];

/// etcd and bbolt (and SQLite, with which k3s runs without `cluster-init`).
const DATASTORE: Texts = &[
    &["crc mismatch"],
    &["\"failed to open database\""],
    &["invalid database"],
    &["wal: file not found"],
    &["max entry size limit exceeded"],
    &["Was the raft log corrupted, truncated, or lost"],
    &["failed to recover v3 backend from snapshot"],
    &["freepages: failed to get all reachable pages"],
    &["database file corrupt"],
    &["database disk image is malformed"],
    &["file checksum does not match"],
    &["\"discovery failed\"", "proto: "],
    &["\"discovery failed\"", "unexpected EOF"],
];

/// containerd, with the words of bbolt, in its own log: it runs on without what Kubernetes needs. By
/// the beginning of the message, since others quote what pods are told to run.
const CONTAINERD: Texts = &[
    &["msg=\"failed to load plugin", "invalid database"],
    &["msg=\"failed to load plugin", "file size too small"],
    &["msg=\"failed to load plugin", "checksum error"],
    &["msg=\"failed to load plugin", "version mismatch"],
];

/// etcd of a version that went back (docs.k3s.io, "Rolling Back K3s": only with a snapshot of the
/// version before).
const NEWER_DATASTORE: Texts =
    &[&["invalid downgrade; server version is lower than determined cluster version"]];

/// k3s, the kubelet, and the YAML reader.
const CONFIGURATION: Texts = &[
    &["flag provided but not defined"],
    &["unknown flag: "],
    &["unknown option \""],
    &["unknown 'kubernetes.io' or 'k8s.io' labels"],
    &["failed to load configuration"],
    &["is not a YAML mapping"],
    &["yaml: line "],
    &["invalid argument \""],
    &["is for servers only"],
    &["registries.yaml is refused"],
];

/// How a part says that it ends: logrus, klog (in [`is_fatal`]), zap, cobra, and what Kubernetes'
/// programs print last.
const FATAL: Texts = &[
    &["level=fatal"],
    &["FATA["],
    &["\"level\":\"fatal\""],
    &["\"level\":\"panic\""],
    &["\"command failed\""],
];

/// The files that we write, and k3s reads before anything else.
const OUR_FILES: Texts = &[&["/k3s/config.yaml"], &["registries.yaml"]];

/// Without these nothing runs (docs.k3s.io, "Requirements"; kubernetes.io, "Ports and Protocols"):
/// etcd, API server and supervisor, containerd's streams, kubelet, and the controllers.
const PORTS: &[u16] =
    &[2379, 2380, 2381, 2382, 6443, 6444, 10010, 10250, 10256, 10257, 10258, 10259];

const JOIN: Texts = &[
    &["token CA hash does not match"],
    &["encrypted with different token"],
    &["failed to validate token"],
    &["Node password rejected"],
    &["failed to retrieve configuration from server: not authorized"],
    &["401 Unauthorized", "/cacerts"],
    &["401 Unauthorized", "/v1-k3s/"],
    &["403 Forbidden", "/v1-k3s/"],
    &["cannot create certificate signing request: Unauthorized"],
    &["the token is not that of this datastore"],
    &["is not the one that the token was made by"],
    &["has been permanently removed from the cluster"],
];

const CERTIFICATE: Texts = &[&["certificate has expired or is not yet valid"]];

const SERVER: Texts = &[
    &["failed to get CA certs"],
    &["failed to validate connection to cluster at"],
    &["does not answer yet"],
];

/// The finding. None for a process that runs and whose log says nothing known.
pub fn diagnose(evidence: &Evidence<'_>) -> Option<Diagnosis> {
    let found = |reason, message: String| Some(Diagnosis { reason, message });
    let log = || evidence.log.lines();
    if let Some((port, line)) = taken_port(log()) {
        return found(Reason::KubernetesPortTaken, port_message(port, evidence.facts, line));
    }
    let full = evidence.facts.free_bytes.is_some_and(|free| free == 0);
    if let Some(line) = last(log(), DISK) {
        return found(Reason::KubernetesDiskFull, with_room(line, evidence.facts));
    }
    if full {
        return found(Reason::KubernetesDiskFull, "nothing is free on the disk".into());
    }
    if let Some(line) = last(evidence.log.of_datastore(), NEWER_DATASTORE) {
        let message = format!(
            "a newer Kubernetes wrote the datastore, and this one cannot go on with it; a snapshot \
             from before can be put back: {}",
            shortened(line)
        );
        return found(Reason::KubernetesDatastoreDamaged, message);
    }
    if let Some(line) = last(evidence.log.of_datastore(), DATASTORE) {
        return found(Reason::KubernetesDatastoreDamaged, shortened(line));
    }
    if let Some(line) = containerd_damage(evidence.log) {
        return found(Reason::KubernetesContainerdDamaged, shortened(line));
    }
    if let Some(line) = refusal(log()) {
        return found(Reason::KubernetesConfigRefused, shortened(line));
    }
    if let Some(line) = last(log(), JOIN) {
        return found(Reason::KubernetesJoinRefused, shortened(line));
    }
    if let Some(line) = last(log(), CERTIFICATE) {
        return found(Reason::KubernetesCertificateExpired, certificate_message(line, evidence));
    }
    if let Some(line) = last(log(), SERVER) {
        return found(Reason::KubernetesServerUnreachable, shortened(line));
    }
    let ending = evidence.ending?;
    if evidence.facts.free_bytes.is_some_and(|free| free < ROOM) {
        let message = with_room(&ending.to_string(), evidence.facts);
        return found(Reason::KubernetesDiskFull, message);
    }
    found(Reason::KubernetesExited, last_words(ending, log()))
}

/// Whether a process with this log will never be ready, though it still runs.
pub fn is_doomed(log: &Log) -> bool {
    taken_port(log.lines()).is_some()
        || refusal(log.lines()).is_some()
        || log.of_datastore().any(|line| is_fatal(line) && says(line, DATASTORE))
        || containerd_damage(log).is_some()
}

fn containerd_damage(log: &Log) -> Option<&str> {
    let mut lines = log.containerd.iter().map(String::as_str);
    lines.find(|line| says(line, CONTAINERD)).or_else(|| crash_of_bbolt(&log.containerd))
}

/// What a Go program crashed of, when bbolt's own function did: the first one of the stack that is
/// not the runtime's. Whatever runs in a transaction has bbolt below itself.
fn crash_of_bbolt(log: &[String]) -> Option<&str> {
    let begins = |line: &&String| {
        line.starts_with("panic: ") || line.starts_with("unexpected fault address ")
    };
    let at = log.iter().position(|line| begins(&line))?;
    let stack = log[at..].iter().skip_while(|line| !line.starts_with("goroutine ")).skip(1);
    let of_runtime = ["\t", "panic(", "runtime."];
    let mut functions =
        stack.filter(|line| !of_runtime.iter().any(|start| line.starts_with(start)));
    functions.next()?.starts_with("go.etcd.io/bbolt.").then_some(log[at].as_str())
}

fn says(line: &str, texts: Texts) -> bool {
    texts.iter().any(|row| row.iter().all(|text| line.contains(text)))
}

fn last<'a>(log: impl DoubleEndedIterator<Item = &'a str>, texts: Texts) -> Option<&'a str> {
    log.rev().find(|line| says(line, texts))
}

fn refusal<'a>(log: impl DoubleEndedIterator<Item = &'a str>) -> Option<&'a str> {
    let is_one =
        |line: &&str| says(line, CONFIGURATION) && (is_fatal(line) || says(line, OUR_FILES));
    log.rev().find(is_one)
}

/// Whether a part ends with this line.
fn is_fatal(line: &str) -> bool {
    // `F1016 03:31:28.074425`, as klog writes it.
    let klog = line.strip_prefix('F').is_some_and(|rest| {
        rest.len() > 5
            && rest.bytes().take(4).all(|b| b.is_ascii_digit())
            && rest[4..].starts_with(' ')
    });
    klog || line.starts_with("Error: ") || says(line, FATAL)
}

/// `listen tcp 0.0.0.0:6443: bind: address already in use`, as Go's net package prints it. Other
/// ports are those of workloads, without which Kubernetes does.
fn taken_port<'a>(log: impl DoubleEndedIterator<Item = &'a str>) -> Option<(u16, &'a str)> {
    log.rev().find_map(|line| {
        let (before, _) = line.split_once(": bind: address already in use")?;
        let (_, port) = before.rsplit_once(':')?;
        let port = port.parse().ok()?;
        (PORTS.contains(&port) || is_fatal(line)).then_some((port, line))
    })
}

fn port_message(port: u16, facts: &Facts, line: &str) -> String {
    let listener = facts.listeners.iter().find(|listener| listener.port == port);
    match listener.map(|listener| &listener.program) {
        Some(Some(Program { name, pid })) => {
            format!("port {port} is taken by {name} (process {pid})")
        }
        Some(None) => format!("port {port} is taken by a program that cannot be seen from here"),
        None => format!("port {port} was taken: {}", shortened(line)),
    }
}

fn with_room(line: &str, facts: &Facts) -> String {
    match facts.free_bytes {
        Some(free) => format!("{} ({} MB free)", shortened(line), free / 1_000_000),
        None => shortened(line),
    }
}

fn certificate_message(line: &str, evidence: &Evidence<'_>) -> String {
    let outside = |one: &&Validity| evidence.now < one.from || evidence.now >= one.to;
    match evidence.facts.certificates.iter().find(outside) {
        Some(one) if evidence.now < one.from => {
            format!("{} is valid from {} only", one.path.display(), one.from)
        }
        Some(one) => format!("{} expired at {}", one.path.display(), one.to),
        None => shortened(line),
    }
}

/// How it ended, and its last lines that are not the rest of a stack trace.
fn last_words<'a>(ending: Ending, log: impl DoubleEndedIterator<Item = &'a str>) -> String {
    let said = log.rev().filter(|line| !line.trim().is_empty() && !line.starts_with('\t'));
    let mut lines: Vec<String> = said.take(3).map(shortened).collect();
    lines.reverse();
    match lines.is_empty() {
        true => format!("{ending} and logged nothing"),
        false => format!("{ending}: {}", lines.join(" | ")),
    }
}

/// etcd's lines carry stack traces; people read the beginning.
fn shortened(line: &str) -> String {
    const LONGEST: usize = 300;
    let line = line.trim();
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests;
