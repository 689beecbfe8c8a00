//! Finds every mistake in a profile file, with the line it is on.
//!
//! Two stages: the text has to be TOML of the right shape (the first mistake ends this stage,
//! since nothing behind it can be trusted), then its meaning is checked and every mistake is
//! reported. What only shows when a profile is put on top of its base is checked by
//! [`Catalogue`](crate::Catalogue), with the same rules.

use crate::file::{NodeFile, PoolFile, ProfileFile};
use crate::kubernetes::label;
use crate::matching::Pattern;
use crate::roles::Role;
use holdfast_api::Reason;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use toml::de::{DeTable, DeValue};

/// A mistake in a profile file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file, as it was named to us.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// `profile.invalid` or `profile.nic-conflict`.
    pub reason: Reason,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

/// Every mistake in the text of a profile file, in order of place; empty when it is good.
///
/// Whether the base exists is not checked here, see
/// [`Catalogue::validate`](crate::Catalogue::validate).
pub fn validate(text: &str, file_name: &str) -> Vec<Problem> {
    match parse(text, file_name) {
        Ok(_) => Vec::new(),
        Err(problems) => problems,
    }
}

/// Reads a profile file.
///
/// # Errors
/// Every mistake that [`validate`] finds.
pub fn parse(text: &str, file_name: &str) -> Result<ProfileFile, Vec<Problem>> {
    let file: ProfileFile = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        vec![problem_at(text, file_name, start, Reason::ProfileInvalid, error.message().to_owned())]
    })?;
    let faults = faults(&file);
    if faults.is_empty() {
        return Ok(file);
    }
    let mut problems: Vec<Problem> =
        faults.into_iter().map(|fault| fault.locate(text, file_name)).collect();
    problems.sort();
    Err(problems)
}

/// A mistake in what a file means, and the keys that lead to it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    path: Vec<String>,
    pub(crate) message: String,
    pub(crate) reason: Reason,
}

impl Fault {
    /// The same mistake with the place of its key in the text.
    pub(crate) fn locate(self, text: &str, file_name: &str) -> Problem {
        let at = position(text, &self.path);
        problem_at(text, file_name, at, self.reason, self.message)
    }
}

/// A problem at a byte offset.
pub(crate) fn problem_at(
    text: &str,
    file: &str,
    offset: usize,
    reason: Reason,
    message: String,
) -> Problem {
    // A span may point behind the last character, or (never seen) into the middle of one.
    let offset =
        (0..=offset.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Problem {
        file: file.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        message,
        reason,
    }
}

/// The byte offset of the deepest key or element of `path` that the text has.
pub(crate) fn position(text: &str, path: &[String]) -> usize {
    let Ok(root) = DeTable::parse(text) else { return 0 };
    let mut at = 0;
    let mut table = Some(root.get_ref());
    let mut array = None;
    for step in path {
        let value = if let Some(entries) = table {
            let Some((key, value)) = entries.iter().find(|(key, _)| key.get_ref() == step.as_str())
            else {
                break;
            };
            at = key.span().start;
            value
        } else if let Some(elements) = array {
            let elements: &toml::de::DeArray<'_> = elements;
            let Some(value) = step.parse().ok().and_then(|index: usize| elements.get(index)) else {
                break;
            };
            at = value.span().start;
            value
        } else {
            break;
        };
        (table, array) = match value.get_ref() {
            DeValue::Table(entries) => (Some(entries), None),
            DeValue::Array(elements) => (None, Some(elements)),
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => (None, None),
        };
    }
    at
}

/// Seconds that a hardware watchdog can usefully be set to: below 5 s a slow disk reboots the
/// box, and few devices count further than ten minutes.
const WATCHDOG_SECS: std::ops::RangeInclusive<u32> = 5..=600;

/// Every mistake in what a file (or a file merged with its bases) means.
pub(crate) fn faults(file: &ProfileFile) -> Vec<Fault> {
    let mut found = Faults::default();
    check_rules(file, &mut found);
    check_nics(file, &mut found);
    check_hugepages(file, &mut found);
    check_kernel(file, &mut found);
    check_rest(file, &mut found);
    check_assertions(file, &mut found);
    found.0
}

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, path: &[&str], message: impl Into<String>) {
        self.add_as(Reason::ProfileInvalid, path, message);
    }

    fn add_as(&mut self, reason: Reason, path: &[&str], message: impl Into<String>) {
        let path = path.iter().map(|step| (*step).to_owned()).collect();
        self.0.push(Fault { path, message: message.into(), reason });
    }
}

fn check_rules(file: &ProfileFile, found: &mut Faults) {
    for (at, rule) in file.rules.iter().enumerate() {
        let at = at.to_string();
        if rule.fields().next().is_none() {
            found.add(&["match", &at], "a rule without a field matches nothing");
        }
        for (field, pattern) in rule.fields() {
            if let Some(fault) = Pattern::fault(pattern) {
                found.add(&["match", &at, field], fault);
            }
        }
    }
}

fn check_nics(file: &ProfileFile, found: &mut Faults) {
    let mut seen: Vec<(Role, &crate::roles::Selector)> = Vec::new();
    for (role, selectors) in &file.nics {
        for (at, selector) in selectors.iter().enumerate() {
            let (name, at) = (role.to_string(), at.to_string());
            let path = ["nics", name.as_str(), at.as_str()];
            if selector.order.is_some() && selector.from.is_some() {
                found.add(
                    &path,
                    "`order` picks one port and `from` all behind a place; give one of them",
                );
            }
            for (key, pattern) in
                [("pci", &selector.pci), ("driver", &selector.driver), ("name", &selector.name)]
            {
                if pattern.as_deref() == Some("") {
                    found.add(&[path[0], path[1], path[2], key], "an empty text fits no port");
                }
            }
            if let Some(pci) = selector.pci.as_deref().filter(|pci| !is_pci_pattern(pci)) {
                let message = format!(
                    "{pci:?} is not a PCI address; write it as 0000:03:00.0, with * for any"
                );
                found.add(&[path[0], path[1], path[2], "pci"], message);
            }
            if let Some((other, _)) =
                seen.iter().find(|(other, twin)| other != role && *twin == selector)
            {
                let message = format!("the roles {other} and {role} claim the same ports");
                found.add_as(Reason::ProfileNicConflict, &path, message);
            }
            seen.push((*role, selector));
        }
    }
}

/// `dddd:bb:ss.f` in lower-case hexadecimal, any part of it replaced by `*` and `?`.
fn is_pci_pattern(text: &str) -> bool {
    text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f' | ':' | '.' | '*' | '?'))
        && (text.contains('*')
            || (text.len() == 12 && text.matches(':').count() == 2 && text.contains('.')))
}

fn check_hugepages(file: &ProfileFile, found: &mut Faults) {
    let mut shares: BTreeMap<Option<u32>, u32> = BTreeMap::new();
    for (size, pool) in &file.hugepages.pools {
        let size = size.to_string();
        let path = ["hugepages", "pools", size.as_str()];
        let PoolFile { count, share, nodes } = pool;
        check_amount(*count, *share, &path, found);
        *shares.entry(None).or_default() += u32::from(share.unwrap_or(0));
        let mut named = BTreeSet::new();
        for (at, NodeFile { node, count, share }) in nodes.iter().enumerate() {
            let at = at.to_string();
            let path = [path[0], path[1], path[2], "nodes", at.as_str()];
            check_amount(*count, *share, &path, found);
            *shares.entry(Some(*node)).or_default() += u32::from(share.unwrap_or(0));
            if !named.insert(node) {
                found.add(&path, format!("node {node} is named twice"));
            }
        }
    }
    for (node, percent) in shares.into_iter().filter(|(_, percent)| *percent > 100) {
        let whose = node.map_or("every node".to_owned(), |node| format!("node {node}"));
        found.add(
            &["hugepages", "pools"],
            format!("the pools together take {percent} % of the memory of {whose}"),
        );
    }
}

fn check_amount(count: Option<u64>, share: Option<u8>, path: &[&str], found: &mut Faults) {
    match (count, share) {
        (Some(_), Some(_)) => found.add(path, "give `count` or `share`, not both"),
        (None, None) => {
            found.add(path, "give `count` (pages) or `share` (percent of the node's memory)")
        }
        (None, Some(percent)) if !(1..=100).contains(&percent) => {
            found.add(path, format!("a share is 1 to 100 percent, not {percent}"));
        }
        (Some(_), None) | (None, Some(_)) => {}
    }
}

fn check_kernel(file: &ProfileFile, found: &mut Faults) {
    for (at, argument) in file.kernel.arguments.iter().flatten().enumerate() {
        let at = at.to_string();
        let path = ["kernel", "arguments", at.as_str()];
        let plain = |c: char| c.is_ascii_graphic() && c != '"';
        let key = argument.split('=').next().unwrap_or_default();
        if argument.is_empty() || !argument.chars().all(plain) {
            found.add(&path, format!("{argument:?} is not one word of a kernel command line"));
        } else if ["hugepages", "hugepagesz", "default_hugepagesz"].contains(&key) {
            found.add(
                &path,
                format!("`{key}` is worked out from the table `hugepages`; say it there"),
            );
        }
    }
    for name in file.kernel.sysctls.keys() {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_' | '-');
        if name.is_empty()
            || !name.chars().all(plain)
            || name.contains("..")
            || name.starts_with(['.', '/'])
        {
            found
                .add(&["kernel", "sysctls", name], format!("{name:?} is not the name of a sysctl"));
        }
    }
}

fn check_rest(file: &ProfileFile, found: &mut Faults) {
    if let Some(secs) =
        file.watchdog.timeout_secs.filter(|secs| *secs != 0 && !WATCHDOG_SECS.contains(secs))
    {
        let (min, max) = (WATCHDOG_SECS.start(), WATCHDOG_SECS.end());
        let message = format!("{secs} s is outside {min} to {max} s (0 leaves the watchdog alone)");
        found.add(&["watchdog", "timeout_secs"], message);
    }
    if let Some(kinds) = &file.tunnels.kinds {
        let distinct: BTreeSet<_> = kinds.iter().collect();
        if kinds.is_empty() || distinct.len() != kinds.len() {
            found.add(&["tunnels", "kinds"], "name at least one kind of tunnel, and each once");
        }
    }
    for (key, value) in &file.kubernetes.labels {
        if let Err(wrong) = label(key, value) {
            found.add(&["kubernetes", "labels", key], wrong.problem);
        }
    }
    if let Some(base) = file.inherit.as_deref().filter(|base| !is_profile_name(base)) {
        found.add(&["inherit"], format!("{base:?} cannot be the name of a profile"));
    }
}

fn check_assertions(file: &ProfileFile, found: &mut Faults) {
    let assertions = &file.assertions;
    for (key, range) in [
        ("cpus", assertions.cpus),
        ("sockets", assertions.sockets),
        ("numa_nodes", assertions.numa_nodes),
    ] {
        if let Some(range) = range {
            check_range(key, range.min, range.max, found);
        }
    }
    if let Some(range) = assertions.memory {
        check_range("memory", range.min, range.max, found);
    }
    for (role, assertion) in &assertions.nics {
        let name = role.to_string();
        if assertion.count.is_some() && assertion.min.is_some() {
            found.add(
                &["assertions", "nics", &name],
                "give `count` (exactly) or `min` (at least), not both",
            );
        }
        if assertion.driver.as_ref().is_some_and(|drivers| drivers.is_empty()) {
            found.add(
                &["assertions", "nics", &name, "driver"],
                "an empty list of drivers holds for no port",
            );
        }
    }
}

fn check_range<T: PartialOrd>(key: &str, min: Option<T>, max: Option<T>, found: &mut Faults) {
    match (min, max) {
        (None, None) => found.add(&["assertions", key], "give `min`, `max` or both"),
        (Some(min), Some(max)) if min > max => {
            found.add(&["assertions", key], "`min` is more than `max`")
        }
        (Some(_), Some(_)) | (Some(_), None) | (None, Some(_)) => {}
    }
}

/// Names are those of files, and of labels: lower-case letters, digits and hyphens, at most 63.
pub(crate) fn is_profile_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty()
        && name.len() <= 63
        && name.chars().all(plain)
        && !name.starts_with('-')
        && !name.ends_with('-')
}
