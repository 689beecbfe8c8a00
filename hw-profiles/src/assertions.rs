//! Whether a machine is what its profile promises; checked at each boot, pure.
//!
//! Beside what a profile states under `assertions`, four things follow from the rest of it: that
//! the roles of network ports do not overlap, that a required TPM is there, that the kernel
//! offers the page sizes of the pools, and that a watchdog which is to be armed exists.

use crate::facts::{Facts, Nic, TpmVersion};
use crate::profile::{Profile, TpmUse};
use crate::roles::{Role, resolve_nics};
use crate::units::{Bytes, PageSize};
use holdfast_api::Reason;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What has to hold at each boot; checked by [`crate::check`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assertions {
    /// Logical processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<CountRange>,
    /// Physical packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sockets: Option<CountRange>,
    /// NUMA nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa_nodes: Option<CountRange>,
    /// `MemTotal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<SizeRange>,
    /// Network ports by role.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nics: BTreeMap<Role, NicAssertion>,
    /// The TPM is there and at least of this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmVersion>,
    /// The kernel offers pages of all these sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_sizes: Option<BTreeSet<PageSize>>,
    /// Whether there is a hardware watchdog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<bool>,
    /// Disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks: Option<DiskAssertion>,
}

/// A number between two bounds, both included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountRange {
    /// At least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    /// At most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

/// A size between two bounds, both included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeRange {
    /// At least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Bytes>,
    /// At most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Bytes>,
}

/// What has to hold for the ports of one role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NicAssertion {
    /// Exactly so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// At least so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    /// Each has one of these drivers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<BTreeSet<String>>,
    /// Each port whose link is up has at least this speed, in Mbit/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_speed_mbps: Option<u32>,
}

/// What has to hold for disks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskAssertion {
    /// At least so many that are at least `min_size` large (default 1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    /// Capacity of a disk that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_size: Option<Bytes>,
}

/// One assertion and whether it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AssertionResult {
    /// What it is about, such as `memory` or `nics.outside.count`; fit for a metric label.
    pub name: String,
    /// What the profile promises.
    pub want: String,
    /// What the machine has.
    pub have: String,
    /// Whether it holds.
    pub holds: bool,
    /// Why it does not.
    pub reason: Option<Reason>,
}

impl fmt::Display for AssertionResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.holds { "holds" } else { "FAILS" };
        write!(f, "{} {verdict}: want {}, have {}", self.name, self.want, self.have)
    }
}

/// Checks a machine against its profile; one result for each assertion, in order of name.
pub fn check(profile: &Profile, facts: &Facts) -> Vec<AssertionResult> {
    let mut results = Results::default();
    let roles = check_roles(profile, facts, &mut results);
    check_counts(profile, facts, &mut results);
    check_tpm(profile, facts, &mut results);
    check_page_sizes(profile, facts, &mut results);
    check_watchdog(profile, facts, &mut results);
    for (role, assertion) in &profile.assertions.nics {
        let ports = roles.get(role).map_or(&[][..], Vec::as_slice);
        check_ports(*role, assertion, ports, &mut results);
    }
    if let Some(disks) = profile.assertions.disks {
        check_disks(disks, facts, &mut results);
    }
    results.0.sort_by(|a, b| a.name.cmp(&b.name));
    results.0
}

#[derive(Default)]
struct Results(Vec<AssertionResult>);

impl Results {
    fn add(&mut self, name: impl Into<String>, want: String, have: String, holds: bool) {
        self.add_as(Reason::HwAssertionFailed, name, want, have, holds);
    }

    fn add_as(
        &mut self,
        reason: Reason,
        name: impl Into<String>,
        want: String,
        have: String,
        holds: bool,
    ) {
        let reason = (!holds).then_some(reason);
        self.0.push(AssertionResult { name: name.into(), want, have, holds, reason });
    }
}

fn check_roles(
    profile: &Profile,
    facts: &Facts,
    results: &mut Results,
) -> BTreeMap<Role, Vec<Nic>> {
    if profile.nics.is_empty() {
        return BTreeMap::new();
    }
    let resolved = resolve_nics(profile, facts);
    let have = match &resolved {
        Ok(_) => "disjoint roles".to_owned(),
        Err(error) => error.to_string(),
    };
    let reason = resolved.as_ref().err().map_or(Reason::ProfileNicConflict, |error| error.reason());
    results.add_as(reason, "nics.roles", "disjoint roles".into(), have, resolved.is_ok());
    resolved.unwrap_or_default()
}

fn check_counts(profile: &Profile, facts: &Facts, results: &mut Results) {
    let nodes = u32::try_from(facts.memory_nodes().len()).unwrap_or(u32::MAX);
    for (name, range, have) in [
        ("cpus", profile.assertions.cpus, facts.cpus.count),
        ("sockets", profile.assertions.sockets, facts.cpus.sockets),
        ("numa_nodes", profile.assertions.numa_nodes, nodes),
    ] {
        if let Some(CountRange { min, max }) = range {
            results.add(name, between(min, max), have.to_string(), within(have, min, max));
        }
    }
    if let Some(SizeRange { min, max }) = profile.assertions.memory {
        let have = Bytes(facts.memory_bytes);
        results.add("memory", between(min, max), have.to_string(), within(have, min, max));
    }
}

fn check_tpm(profile: &Profile, facts: &Facts, results: &mut Results) {
    let have = facts.tpm.map_or("none".to_owned(), |version| version.as_str().to_owned());
    if profile.tpm == TpmUse::Required {
        // Holdfast speaks TPM 2.0 only; an older one is as good as none.
        let holds = facts.tpm >= Some(TpmVersion::V2_0);
        results.add_as(
            Reason::ProfileTpmMissing,
            "tpm.required",
            "at least 2.0".into(),
            have.clone(),
            holds,
        );
    }
    if let Some(version) = profile.assertions.tpm {
        results.add(
            "tpm",
            format!("at least {}", version.as_str()),
            have,
            facts.tpm >= Some(version),
        );
    }
}

fn check_page_sizes(profile: &Profile, facts: &Facts, results: &mut Results) {
    let mut wanted: Vec<_> = profile.hugepages.pools.keys().copied().collect();
    wanted.extend(profile.assertions.page_sizes.iter().flatten().copied());
    wanted.sort_unstable();
    wanted.dedup();
    for size in wanted {
        let holds = facts.offers(size);
        let have = if holds { "offered" } else { "not offered by the kernel" };
        let name = format!("hugepages.{size}");
        results.add_as(Reason::HugepagesUnsupported, name, "offered".into(), have.into(), holds);
    }
}

fn check_watchdog(profile: &Profile, facts: &Facts, results: &mut Results) {
    let wanted = profile.assertions.watchdog.or(profile.watchdog_timeout_secs.map(|_| true));
    if let Some(wanted) = wanted {
        let word = |there: bool| if there { "present" } else { "absent" }.to_owned();
        let there = facts.watchdog.is_some();
        results.add("watchdog", word(wanted), word(there), there == wanted);
    }
}

fn check_ports(role: Role, assertion: &NicAssertion, ports: &[Nic], results: &mut Results) {
    let have = u32::try_from(ports.len()).unwrap_or(u32::MAX);
    if let Some(count) = assertion.count {
        results.add(
            format!("nics.{role}.count"),
            format!("exactly {count}"),
            have.to_string(),
            have == count,
        );
    }
    if let Some(min) = assertion.min {
        results.add(
            format!("nics.{role}.count"),
            format!("at least {min}"),
            have.to_string(),
            have >= min,
        );
    }
    if let Some(drivers) = &assertion.driver {
        let strange: Vec<String> = ports
            .iter()
            .map(|nic| (nic, nic.driver.as_deref().unwrap_or("no driver")))
            .filter(|(_, driver)| !drivers.contains(*driver))
            .map(|(nic, driver)| format!("{} on {driver}", nic.name))
            .collect();
        let wanted: Vec<&str> = drivers.iter().map(String::as_str).collect();
        let have = if strange.is_empty() { "as wanted".to_owned() } else { strange.join(", ") };
        results.add(format!("nics.{role}.driver"), wanted.join(" or "), have, strange.is_empty());
    }
    if let Some(min) = assertion.min_speed_mbps {
        let slow: Vec<String> = ports
            .iter()
            .filter_map(|nic| nic.speed_mbps.map(|speed| (nic, speed)))
            .filter(|(_, speed)| *speed < min)
            .map(|(nic, speed)| format!("{} at {speed} Mbit/s", nic.name))
            .collect();
        let have = if slow.is_empty() { "as wanted".to_owned() } else { slow.join(", ") };
        results.add(
            format!("nics.{role}.speed"),
            format!("at least {min} Mbit/s"),
            have,
            slow.is_empty(),
        );
    }
}

fn check_disks(assertion: DiskAssertion, facts: &Facts, results: &mut Results) {
    let min = assertion.min.unwrap_or(1);
    let size = assertion.min_size.unwrap_or_default();
    let large = facts.disks.iter().filter(|disk| disk.size_bytes >= size.0).count();
    let large = u32::try_from(large).unwrap_or(u32::MAX);
    results.add(
        "disks",
        format!("at least {min} of {size} or more"),
        large.to_string(),
        large >= min,
    );
}

fn within<T: PartialOrd>(have: T, min: Option<T>, max: Option<T>) -> bool {
    min.is_none_or(|min| have >= min) && max.is_none_or(|max| have <= max)
}

fn between<T: fmt::Display + PartialEq>(min: Option<T>, max: Option<T>) -> String {
    match (min, max) {
        (Some(min), Some(max)) if min == max => format!("exactly {min}"),
        (Some(min), Some(max)) => format!("{min} to {max}"),
        (Some(min), None) => format!("at least {min}"),
        (None, Some(max)) => format!("at most {max}"),
        (None, None) => "any".to_owned(),
    }
}
