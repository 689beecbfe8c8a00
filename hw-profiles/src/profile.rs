//! What a kind of machine implies: the profile that the rest of the program relies on.
//!
//! A [`Profile`] has inheritance applied and every default filled in. How it is written in a
//! file is [`crate::file`]; the leaves (roles, pools, cores, taints …) are shared by both.

use crate::assertions::Assertions;
use crate::cpulist;
use crate::facts::Facts;
use crate::matching::Rule;
use crate::roles::{Role, Selector};
use crate::units::{Bytes, PageSize};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Memory that hugepages never take when a profile does not say.
pub const DEFAULT_MEMORY_FLOOR: Bytes = Bytes(512 << 20);

/// A profile with inheritance applied and defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// Name: the file's name without `.toml`.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// The profiles that it inherits from, nearest first.
    pub bases: Vec<String>,
    /// Which machines it is for; a profile without rules is a base and never selected.
    pub rules: Vec<Rule>,
    /// Network ports by role.
    pub nics: BTreeMap<Role, Vec<Selector>>,
    /// Huge pages.
    pub hugepages: Hugepages,
    /// Cores and interrupts of the data plane.
    pub data_plane: DataPlane,
    /// Kernel arguments and settings.
    pub kernel: Kernel,
    /// Timeout to arm the hardware watchdog with, in seconds; nothing leaves it alone.
    pub watchdog_timeout_secs: Option<u32>,
    /// What to do with a TPM.
    pub tpm: TpmUse,
    /// Kinds of tunnel, best first.
    pub tunnels: Vec<TunnelKind>,
    /// Options of Kubernetes.
    pub kubernetes: Kubernetes,
    /// What has to hold at each boot.
    pub assertions: Assertions,
}

impl Profile {
    /// The cores that the data plane has to itself on this machine; see [`Cores::on`].
    pub fn data_plane_cores(&self, facts: &Facts) -> BTreeSet<u32> {
        self.data_plane.cores.on(facts.cpus.count)
    }

    /// Every kernel argument that the profile asks for on this machine, those of huge pages
    /// excepted (they are the business of the pool's plan).
    ///
    /// With `isolate`, the cores of the data plane are taken from the scheduler, the tick and RCU
    /// callbacks (Documentation/admin-guide/kernel-parameters.txt).
    pub fn kernel_arguments(&self, facts: &Facts) -> Vec<String> {
        let mut arguments = self.kernel.arguments.clone();
        let cores = cpulist::render(&self.data_plane_cores(facts));
        if self.data_plane.isolate && !cores.is_empty() {
            arguments.push(format!("isolcpus=managed_irq,domain,{cores}"));
            arguments.push(format!("nohz_full={cores}"));
            arguments.push(format!("rcu_nocbs={cores}"));
        }
        arguments
    }
}

/// Huge pages that the profile asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hugepages {
    /// Memory of the machine that pools never take.
    pub memory_floor: Bytes,
    /// Pools by page size.
    pub pools: BTreeMap<PageSize, Pool>,
}

/// One pool: what each NUMA node gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// On every node that `nodes` does not name.
    pub each_node: Amount,
    /// Exceptions by number of node.
    pub nodes: BTreeMap<u32, Amount>,
}

impl Pool {
    /// What this node gives.
    pub fn on(&self, node: u32) -> Amount {
        self.nodes.get(&node).copied().unwrap_or(self.each_node)
    }
}

/// How many pages of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// So many pages.
    Count(u64),
    /// So many percent of the node's memory (`MemTotal`), 0 to 100, rounded down to whole pages.
    SharePercent(u8),
}

impl Amount {
    /// In pages of this size, on a node with this much memory.
    pub fn pages(self, size: PageSize, node_memory_bytes: u64) -> u64 {
        match self {
            Amount::Count(pages) => pages,
            Amount::SharePercent(percent) => {
                let percent = u128::from(percent.min(100));
                let bytes = u128::from(node_memory_bytes) * percent / 100;
                // At most the node's memory, so it fits.
                u64::try_from(bytes).unwrap_or(u64::MAX) / size.bytes()
            }
        }
    }
}

/// Cores and interrupts of the data plane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DataPlane {
    /// Cores that it has to itself.
    pub cores: Cores,
    /// Where the interrupts of network ports go.
    pub interrupts: Interrupts,
    /// Whether the kernel keeps everything else off these cores (needs a reboot).
    pub isolate: bool,
}

/// Which cores. Written `"none"`, `"2-3,6"` or `"last 2"`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Cores {
    /// None: the data plane shares all cores.
    #[default]
    None,
    /// These.
    List(BTreeSet<u32>),
    /// So many, counted from the end.
    Last(u32),
}

impl Cores {
    /// On a machine with `count` cores. Core 0 is never given away (it carries the boot
    /// processor's duties), and neither are cores that are not there.
    pub fn on(&self, count: u32) -> BTreeSet<u32> {
        match self {
            Cores::None => BTreeSet::new(),
            Cores::List(cores) => {
                cores.iter().copied().filter(|core| (1..count).contains(core)).collect()
            }
            Cores::Last(wanted) => (count.saturating_sub(*wanted).max(1)..count).collect(),
        }
    }
}

impl std::str::FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault =
            || format!("{text:?} is no choice of cores; write \"none\", \"2-3,6\" or \"last 2\"");
        if text == "none" {
            return Ok(Cores::None);
        }
        if let Some(count) = text.strip_prefix("last ") {
            return count.parse().ok().filter(|n| *n > 0).map(Cores::Last).ok_or_else(fault);
        }
        cpulist::parse(text).filter(|cores| !cores.is_empty()).map(Cores::List).ok_or_else(fault)
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cores::None => f.write_str("none"),
            Cores::List(cores) => f.write_str(&cpulist::render(cores)),
            Cores::Last(count) => write!(f, "last {count}"),
        }
    }
}

/// Where the interrupts of network ports go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interrupts {
    /// Where the kernel puts them.
    #[default]
    Unchanged,
    /// To the cores of the data plane.
    DataPlane,
    /// To all other cores.
    Housekeeping,
}

/// Kernel arguments and settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// Words of the kernel command line.
    pub arguments: Vec<String>,
    /// Values by sysctl name (dots or slashes, as sysctl(8) takes them).
    pub sysctls: BTreeMap<String, SysctlValue>,
}

/// The value of a sysctl; a number in a file is taken as its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct SysctlValue(pub String);

impl<'de> Deserialize<'de> for SysctlValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrNumber;
        impl serde::de::Visitor<'_> for TextOrNumber {
            type Value = SysctlValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a whole number")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SysctlValue, E> {
                Ok(SysctlValue(text.to_owned()))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<SysctlValue, E> {
                Ok(SysctlValue(number.to_string()))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<SysctlValue, E> {
                Ok(SysctlValue(number.to_string()))
            }
        }
        deserializer.deserialize_any(TextOrNumber)
    }
}

/// What to do with a TPM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TpmUse {
    /// Without one the machine does not register.
    Required,
    /// Keys live in it when there is one.
    #[default]
    Preferred,
    /// Keys live on disk even when there is one.
    Unused,
}

/// A way to reach a regional edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TunnelKind {
    /// WireGuard in the kernel.
    WireguardKernel,
    /// WireGuard in `tunneld`.
    WireguardUserspace,
    /// IPsec with IKEv2.
    Ipsec,
    /// WireGuard's datagrams in TLS on TCP 443.
    Tls,
}

impl TunnelKind {
    /// All of them, in the order that is preferred where a profile does not say.
    pub const ALL: [TunnelKind; 4] = [
        TunnelKind::WireguardKernel,
        TunnelKind::WireguardUserspace,
        TunnelKind::Ipsec,
        TunnelKind::Tls,
    ];
}

/// Options of Kubernetes on this kind of machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Kubernetes {
    /// Processor time kept for the system, in thousandths of a core.
    pub reserved_millicores: u32,
    /// Memory kept for the system.
    pub reserved_memory: Bytes,
    /// Labels of the node.
    pub labels: BTreeMap<String, String>,
    /// Taints of the node.
    pub taints: Vec<Taint>,
    /// Parts of k3s that are left out.
    pub disable: BTreeSet<KubernetesPart>,
}

/// A part of k3s that can be left out (`--disable`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // the names are those of k3s
pub enum KubernetesPart {
    Coredns,
    LocalStorage,
    MetricsServer,
    Servicelb,
    Traefik,
}

/// A taint, written `key=value:Effect` or `key:Effect`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taint {
    /// Key, as in a label.
    pub key: String,
    /// Value; may be empty.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

impl std::str::FromStr for Taint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault = || {
            format!(
                "{text:?} is not a taint; write key=value:NoSchedule (or PreferNoSchedule, NoExecute)"
            )
        };
        let (label, effect) = text.rsplit_once(':').ok_or_else(fault)?;
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect)
            || !is_label_key(key)
            || !is_label_value(value)
        {
            return Err(fault());
        }
        Ok(Taint { key: key.into(), value: value.into(), effect: effect.into() })
    }
}

impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let equals = if self.value.is_empty() { "" } else { "=" };
        write!(f, "{}{equals}{}:{}", self.key, self.value, self.effect)
    }
}

macro_rules! serde_as_text {
    ($($type:ty),+) => { $(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::units::parsed(deserializer)
            }
        }
    )+ };
}
serde_as_text!(Cores, Taint);

/// A label's key: an optional DNS subdomain and a slash, then a name of at most 63 characters
/// (Kubernetes, "Labels and Selectors", syntax and character set).
pub(crate) fn is_label_key(key: &str) -> bool {
    let (prefix, name) =
        key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let dns = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let part = |part: &str| {
        !part.is_empty() && part.chars().all(dns) && !part.starts_with('-') && !part.ends_with('-')
    };
    let prefix_fits = prefix.is_none_or(|p| p.len() <= 253 && p.split('.').all(part));
    prefix_fits && !name.is_empty() && is_label_value(name)
}

/// A label's value: empty, or at most 63 characters that begin and end with a letter or digit.
pub(crate) fn is_label_value(value: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    value.len() <= 63
        && value.chars().all(inner)
        && edge(value.chars().next())
        && edge(value.chars().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_plane_never_gets_core_0_nor_cores_that_are_not_there() {
        let on = |text: &str, count| cpulist::render(&text.parse::<Cores>().unwrap().on(count));
        assert_eq!(on("none", 8), "");
        assert_eq!(on("2-3", 8), "2-3");
        assert_eq!(on("0-3", 3), "1-2");
        assert_eq!(on("last 2", 8), "6-7");
        assert_eq!(on("last 8", 4), "1-3");
        assert_eq!(on("last 2", 1), "");
        assert_eq!(on("last 2", 0), "");
        for text in ["", "last", "last 0", "all", "3-2"] {
            assert!(text.parse::<Cores>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_is_rounded_down_to_whole_pages() {
        assert_eq!(Amount::SharePercent(25).pages(PageSize::M2, 8 << 30), 1024);
        assert_eq!(Amount::SharePercent(25).pages(PageSize::G1, 7 << 30), 1);
        assert_eq!(Amount::SharePercent(100).pages(PageSize::M2, u64::MAX), u64::MAX / (2 << 20));
        assert_eq!(Amount::Count(7).pages(PageSize::G1, 0), 7);
    }

    #[test]
    fn taints_are_read_as_kubectl_takes_them() {
        for text in ["dedicated=edge:NoSchedule", "holdfast.dev/data-plane:NoExecute"] {
            assert_eq!(text.parse::<Taint>().unwrap().to_string(), text);
        }
        for text in
            ["", "x", "x=y", "x=y:Never", "=y:NoSchedule", "-x:NoSchedule", "X_/y:NoSchedule"]
        {
            assert!(text.parse::<Taint>().is_err(), "{text}");
        }
    }
}
