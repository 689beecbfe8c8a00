//! What one profile file may say.
//!
//! Everything is optional, an unknown key is an error. A file says only how its machines differ
//! from its base: tables are merged key by key, lists and single values are replaced, and the
//! rules under `match` are never inherited (a base's machines are not the child's).

use crate::assertions::Assertions;
use crate::matching::Rule;
use crate::profile::{
    Amount, Cores, DEFAULT_MEMORY_FLOOR, DataPlane, Hugepages, Interrupts, Kernel, Kubernetes,
    KubernetesPart, Pool, Profile, SysctlValue, Taint, TpmUse, TunnelKind,
};
use crate::roles::{Role, Selector};
use crate::units::{Bytes, PageSize};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileFile {
    /// One line for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Name of the one base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inherit: Option<String>,
    /// What to do with a TPM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmUse>,
    /// Which machines; one of the rules has to match.
    #[serde(rename = "match", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Network ports by role.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub nics: BTreeMap<Role, Vec<Selector>>,
    /// Huge pages.
    pub hugepages: HugepagesFile,
    /// Cores and interrupts.
    pub data_plane: DataPlaneFile,
    /// Kernel arguments and settings.
    pub kernel: KernelFile,
    /// Hardware watchdog.
    pub watchdog: WatchdogFile,
    /// Tunnels.
    pub tunnels: TunnelsFile,
    /// Kubernetes.
    pub kubernetes: KubernetesFile,
    /// What has to hold.
    pub assertions: Assertions,
}

/// The table `hugepages`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HugepagesFile {
    /// Memory that pools never take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_floor: Option<Bytes>,
    /// Pools by page size.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pools: BTreeMap<PageSize, PoolFile>,
}

/// The table `hugepages.pools.<size>`: exactly one of `count` and `share`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolFile {
    /// Pages on each node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Percent of each node's memory, 1 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<u8>,
    /// Nodes that differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeFile>,
}

/// An entry of `hugepages.pools.<size>.nodes`: exactly one of `count` and `share`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    /// Number of the NUMA node.
    pub node: u32,
    /// Pages on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Percent of its memory, 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<u8>,
}

/// The table `data_plane`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataPlaneFile {
    /// Which cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<Cores>,
    /// Where interrupts of network ports go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interrupts: Option<Interrupts>,
    /// Whether everything else is kept off the cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolate: Option<bool>,
}

/// The table `kernel`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KernelFile {
    /// Words of the command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Vec<String>>,
    /// Values by sysctl name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, SysctlValue>,
}

/// The table `watchdog`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchdogFile {
    /// Seconds, 5 to 600; 0 leaves the watchdog alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_secs: Option<u32>,
}

/// The table `tunnels`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TunnelsFile {
    /// Kinds, best first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<TunnelKind>>,
}

/// The table `kubernetes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesFile {
    /// Thousandths of a core kept for the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved_millicores: Option<u32>,
    /// Memory kept for the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved_memory: Option<Bytes>,
    /// Labels of the node.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Taints of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taints: Option<Vec<Taint>>,
    /// Parts of k3s that are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable: Option<BTreeSet<KubernetesPart>>,
}

impl ProfileFile {
    /// This file on top of `base`: what this one says wins.
    #[must_use]
    pub fn over(self, base: ProfileFile) -> ProfileFile {
        ProfileFile {
            description: self.description.or(base.description),
            inherit: None,
            tpm: self.tpm.or(base.tpm),
            rules: self.rules,
            nics: merged(self.nics, base.nics),
            hugepages: HugepagesFile {
                memory_floor: self.hugepages.memory_floor.or(base.hugepages.memory_floor),
                pools: merged(self.hugepages.pools, base.hugepages.pools),
            },
            data_plane: DataPlaneFile {
                cores: self.data_plane.cores.or(base.data_plane.cores),
                interrupts: self.data_plane.interrupts.or(base.data_plane.interrupts),
                isolate: self.data_plane.isolate.or(base.data_plane.isolate),
            },
            kernel: KernelFile {
                arguments: self.kernel.arguments.or(base.kernel.arguments),
                sysctls: merged(self.kernel.sysctls, base.kernel.sysctls),
            },
            watchdog: WatchdogFile {
                timeout_secs: self.watchdog.timeout_secs.or(base.watchdog.timeout_secs),
            },
            tunnels: TunnelsFile { kinds: self.tunnels.kinds.or(base.tunnels.kinds) },
            kubernetes: KubernetesFile {
                reserved_millicores: self
                    .kubernetes
                    .reserved_millicores
                    .or(base.kubernetes.reserved_millicores),
                reserved_memory: self
                    .kubernetes
                    .reserved_memory
                    .or(base.kubernetes.reserved_memory),
                labels: merged(self.kubernetes.labels, base.kubernetes.labels),
                taints: self.kubernetes.taints.or(base.kubernetes.taints),
                disable: self.kubernetes.disable.or(base.kubernetes.disable),
            },
            assertions: Assertions {
                cpus: self.assertions.cpus.or(base.assertions.cpus),
                sockets: self.assertions.sockets.or(base.assertions.sockets),
                numa_nodes: self.assertions.numa_nodes.or(base.assertions.numa_nodes),
                memory: self.assertions.memory.or(base.assertions.memory),
                nics: merged(self.assertions.nics, base.assertions.nics),
                tpm: self.assertions.tpm.or(base.assertions.tpm),
                page_sizes: self.assertions.page_sizes.or(base.assertions.page_sizes),
                watchdog: self.assertions.watchdog.or(base.assertions.watchdog),
                disks: self.assertions.disks.or(base.assertions.disks),
            },
        }
    }

    /// Fills in the defaults. `self` has been merged with its bases, whose names are `bases`.
    pub(crate) fn resolve(self, name: &str, bases: Vec<String>) -> Profile {
        Profile {
            name: name.to_owned(),
            description: self.description.unwrap_or_default(),
            bases,
            rules: self.rules,
            nics: self.nics,
            hugepages: Hugepages {
                memory_floor: self.hugepages.memory_floor.unwrap_or(DEFAULT_MEMORY_FLOOR),
                pools: self
                    .hugepages
                    .pools
                    .into_iter()
                    .map(|(size, pool)| (size, pool.resolve()))
                    .collect(),
            },
            data_plane: DataPlane {
                cores: self.data_plane.cores.unwrap_or_default(),
                interrupts: self.data_plane.interrupts.unwrap_or_default(),
                isolate: self.data_plane.isolate.unwrap_or_default(),
            },
            kernel: Kernel {
                arguments: self.kernel.arguments.unwrap_or_default(),
                sysctls: self.kernel.sysctls,
            },
            watchdog_timeout_secs: self.watchdog.timeout_secs.filter(|secs| *secs > 0),
            tpm: self.tpm.unwrap_or_default(),
            tunnels: self.tunnels.kinds.unwrap_or_else(|| TunnelKind::ALL.to_vec()),
            kubernetes: Kubernetes {
                reserved_millicores: self.kubernetes.reserved_millicores.unwrap_or_default(),
                reserved_memory: self.kubernetes.reserved_memory.unwrap_or_default(),
                labels: self.kubernetes.labels,
                taints: self.kubernetes.taints.unwrap_or_default(),
                disable: self.kubernetes.disable.unwrap_or_default(),
            },
            assertions: self.assertions,
        }
    }
}

impl From<&Profile> for ProfileFile {
    /// The profile written out in full, without a base.
    fn from(profile: &Profile) -> ProfileFile {
        ProfileFile {
            description: Some(profile.description.clone()),
            inherit: None,
            tpm: Some(profile.tpm),
            rules: profile.rules.clone(),
            nics: profile.nics.clone(),
            hugepages: HugepagesFile {
                memory_floor: Some(profile.hugepages.memory_floor),
                pools: profile
                    .hugepages
                    .pools
                    .iter()
                    .map(|(size, pool)| (*size, pool.into()))
                    .collect(),
            },
            data_plane: DataPlaneFile {
                cores: Some(profile.data_plane.cores.clone()),
                interrupts: Some(profile.data_plane.interrupts),
                isolate: Some(profile.data_plane.isolate),
            },
            kernel: KernelFile {
                arguments: Some(profile.kernel.arguments.clone()),
                sysctls: profile.kernel.sysctls.clone(),
            },
            watchdog: WatchdogFile {
                timeout_secs: Some(profile.watchdog_timeout_secs.unwrap_or(0)),
            },
            tunnels: TunnelsFile { kinds: Some(profile.tunnels.clone()) },
            kubernetes: KubernetesFile {
                reserved_millicores: Some(profile.kubernetes.reserved_millicores),
                reserved_memory: Some(profile.kubernetes.reserved_memory),
                labels: profile.kubernetes.labels.clone(),
                taints: Some(profile.kubernetes.taints.clone()),
                disable: Some(profile.kubernetes.disable.clone()),
            },
            assertions: profile.assertions.clone(),
        }
    }
}

impl PoolFile {
    fn resolve(self) -> Pool {
        Pool {
            each_node: amount(self.count, self.share),
            nodes: self
                .nodes
                .into_iter()
                .map(|entry| (entry.node, amount(entry.count, entry.share)))
                .collect(),
        }
    }
}

impl From<&Pool> for PoolFile {
    fn from(pool: &Pool) -> PoolFile {
        let (count, share) = split(pool.each_node);
        let nodes = pool.nodes.iter().map(|(node, amount)| {
            let (count, share) = split(*amount);
            NodeFile { node: *node, count, share }
        });
        PoolFile { count, share, nodes: nodes.collect() }
    }
}

// The validator has refused both and neither; without it, asking for nothing is the safe reading.
fn amount(count: Option<u64>, share: Option<u8>) -> Amount {
    share.map_or(Amount::Count(count.unwrap_or(0)), Amount::SharePercent)
}

fn split(amount: Amount) -> (Option<u64>, Option<u8>) {
    match amount {
        Amount::Count(pages) => (Some(pages), None),
        Amount::SharePercent(percent) => (None, Some(percent)),
    }
}

fn merged<K: Ord, V>(own: BTreeMap<K, V>, mut base: BTreeMap<K, V>) -> BTreeMap<K, V> {
    base.extend(own);
    base
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Catalogue, shipped};
    use proptest::prelude::*;
    use proptest::sample::select;

    fn shipped_files() -> Vec<ProfileFile> {
        shipped().iter().map(|(_, text)| toml::from_str(text).unwrap()).collect()
    }

    #[test]
    fn a_profile_written_out_in_full_resolves_to_itself() {
        for profile in Catalogue::shipped().iter() {
            let text = toml::to_string(&ProfileFile::from(profile)).unwrap();
            let file = crate::validate::parse(&text, &profile.name).unwrap();
            assert_eq!(&file.resolve(&profile.name, profile.bases.clone()), profile, "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_from_which_end_a_chain_is_merged(
            a in select(shipped_files()), b in select(shipped_files()), c in select(shipped_files()),
        ) {
            let (own, base) = (a.clone(), b.clone());
            prop_assert_eq!(own.over(base).over(c.clone()), a.over(b.over(c)));
        }

        #[test]
        fn what_a_file_says_wins_and_what_it_leaves_out_is_its_bases(
            own in select(shipped_files()), base in select(shipped_files()),
        ) {
            let merged = own.clone().over(base.clone());
            prop_assert_eq!(&merged.rules, &own.rules);
            prop_assert_eq!(merged.tpm, own.tpm.or(base.tpm));
            for (role, selectors) in &merged.nics {
                prop_assert_eq!(selectors, own.nics.get(role).unwrap_or_else(|| &base.nics[role]));
            }
            prop_assert_eq!(own.clone().over(merged.clone()), merged);
        }
    }
}
