//! Which network port does what.
//!
//! A profile gives each role a list of selectors; a port that any of them picks has the role. A
//! port has at most one role: two roles that claim the same one are an error, because guessing
//! which side of the firewall a cable is on is not ours to do.

use crate::facts::{Facts, Nic, NicKind};
use crate::matching::glob;
use crate::profile::Profile;
use holdfast_api::Reason;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What a network port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Towards the Internet: the tunnels leave here.
    Outside,
    /// Towards the customer's network.
    Inside,
    /// For people and machines that look after the box.
    Management,
    /// Between the nodes of a site, for storage.
    Storage,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 4] = [Role::Outside, Role::Inside, Role::Management, Role::Storage];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Outside => "outside",
            Role::Inside => "inside",
            Role::Management => "management",
            Role::Storage => "storage",
        })
    }
}

/// Picks ports: all keys that are given have to fit, then `order` or `from` picks among them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// PCI address, or a glob such as `0000:03:00.*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci: Option<String>,
    /// Kernel driver, or a glob such as `ixgbe*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Interface name or glob: the last resort where there is neither, as in a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Sort of port; Ethernet where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<PortKind>,
    /// Only the one at this place, counted from 0 by PCI address, then name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<u32>,
    /// The one at this place and all behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u32>,
}

/// The sorts of port that a selector can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortKind {
    /// Ethernet, real or offered by a hypervisor.
    Ethernet,
    /// Wireless LAN.
    Wifi,
    /// Cellular modem.
    Wwan,
    /// Made by software, such as the veth of a container.
    Virtual,
}

impl PortKind {
    fn fits(self, kind: NicKind) -> bool {
        match self {
            PortKind::Ethernet => kind == NicKind::Ethernet,
            PortKind::Wifi => kind == NicKind::Wifi,
            PortKind::Wwan => kind == NicKind::Wwan,
            PortKind::Virtual => kind == NicKind::Virtual,
        }
    }
}

impl Selector {
    fn fits(&self, nic: &Nic) -> bool {
        let like = |pattern: &Option<String>, have: Option<&str>| {
            pattern.as_deref().is_none_or(|pattern| have.is_some_and(|have| glob(pattern, have)))
        };
        self.kind.unwrap_or(PortKind::Ethernet).fits(nic.kind)
            && like(&self.pci, nic.pci_address.as_deref())
            && like(&self.driver, nic.driver.as_deref())
            && like(&self.name, Some(&nic.name))
    }

    /// The ports that it picks. `nics` are in order.
    fn pick<'a>(&self, nics: &[&'a Nic]) -> Vec<&'a Nic> {
        let fitting = nics.iter().copied().filter(|nic| self.fits(nic));
        let at = |place: u32| usize::try_from(place).unwrap_or(usize::MAX);
        match (self.order, self.from) {
            (Some(place), _) => fitting.skip(at(place)).take(1).collect(),
            (None, Some(place)) => fitting.skip(at(place)).collect(),
            (None, None) => fitting.collect(),
        }
    }
}

/// Why ports cannot be given their roles.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    /// Two roles claim one port.
    #[error("profile {profile} gives port {nic} both roles, {first} and {second}")]
    Conflict {
        /// Name of the profile.
        profile: String,
        /// Name of the port.
        nic: String,
        /// One role.
        first: Role,
        /// The other.
        second: Role,
    },
}

impl RoleError {
    /// The reason code.
    pub fn reason(&self) -> Reason {
        match self {
            RoleError::Conflict { .. } => Reason::ProfileNicConflict,
        }
    }
}

/// Gives the ports of a machine the roles of a profile; pure.
///
/// Every role that the profile names is in the result; without a fitting port its list is empty
/// (that a port must be there is for an assertion to say). Ports are in order of PCI address,
/// those without one last, then of name.
///
/// # Errors
/// [`RoleError::Conflict`] when two roles claim the same port.
pub fn resolve_nics(
    profile: &Profile,
    facts: &Facts,
) -> Result<BTreeMap<Role, Vec<Nic>>, RoleError> {
    let nics = in_order(facts);
    let mut taken: BTreeMap<&str, Role> = BTreeMap::new();
    let mut roles = BTreeMap::new();
    for (role, selectors) in &profile.nics {
        let picked: Vec<&Nic> =
            selectors.iter().flat_map(|selector| selector.pick(&nics)).collect();
        for nic in &picked {
            match taken.insert(&nic.name, *role) {
                Some(other) if other != *role => {
                    return Err(RoleError::Conflict {
                        profile: profile.name.clone(),
                        nic: nic.name.clone(),
                        first: other,
                        second: *role,
                    });
                }
                Some(_) | None => {}
            }
        }
        let mine = nics.iter().filter(|nic| picked.iter().any(|p| p.name == nic.name));
        roles.insert(*role, mine.map(|nic| (*nic).clone()).collect());
    }
    Ok(roles)
}

fn in_order(facts: &Facts) -> Vec<&Nic> {
    let mut nics: Vec<&Nic> = facts.nics.iter().collect();
    nics.sort_by_key(|nic| order_key(nic));
    nics
}

/// Ports without a PCI address come last.
pub(crate) fn order_key(nic: &Nic) -> (bool, Option<String>, String) {
    (nic.pci_address.is_none(), nic.pci_address.clone(), nic.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::ProfileFile;

    fn nic(name: &str, pci: &str, driver: &str) -> Nic {
        Nic {
            name: name.into(),
            pci_address: (!pci.is_empty()).then(|| pci.into()),
            driver: (!driver.is_empty()).then(|| driver.into()),
            kind: NicKind::Ethernet,
            ..Nic::default()
        }
    }

    fn facts() -> Facts {
        Facts {
            nics: vec![
                nic("eth9", "", "r8152"),
                nic("eno2", "0000:05:00.1", "igb"),
                nic("enp3s0", "0000:03:00.0", "ixgbe"),
                nic("eno1", "0000:05:00.0", "igb"),
                Nic { kind: NicKind::Wifi, ..nic("wlp2s0", "0000:02:00.0", "iwlwifi") },
                Nic { kind: NicKind::Virtual, ..nic("veth0", "", "") },
            ],
            ..Facts::default()
        }
    }

    fn roles(toml: &str) -> Result<String, RoleError> {
        let profile = toml::from_str::<ProfileFile>(toml).unwrap().resolve("test", vec![]);
        let roles = resolve_nics(&profile, &facts())?;
        let shown = roles.iter().map(|(role, nics)| {
            let names: Vec<_> = nics.iter().map(|nic| nic.name.as_str()).collect();
            format!("{role}={}", names.join(","))
        });
        Ok(shown.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn ports_are_picked_by_path_driver_and_order() {
        for (toml, want) in [
            (
                "nics.outside = [{ order = 0 }]\nnics.inside = [{ from = 1 }]",
                "outside=enp3s0 inside=eno1,eno2,eth9",
            ),
            ("nics.outside = [{ driver = 'igb', order = 1 }]", "outside=eno2"),
            ("nics.inside = [{ pci = '0000:05:00.*' }]", "inside=eno1,eno2"),
            (
                "nics.inside = [{ driver = 'igb', order = 1 }, { driver = 'ixgbe' }]",
                "inside=enp3s0,eno2",
            ),
            ("nics.management = [{ kind = 'wifi' }]", "management=wlp2s0"),
            ("nics.storage = [{ kind = 'virtual', name = 'veth*' }]", "storage=veth0"),
            ("nics.outside = [{ driver = 'mlx5_core' }]", "outside="),
            ("nics.outside = [{ driver = 'igb' }, { pci = '0000:05:00.0' }]", "outside=eno1,eno2"),
        ] {
            assert_eq!(roles(toml).as_deref(), Ok(want), "{toml}");
        }
    }

    #[test]
    fn overlapping_roles_are_an_error_with_both_names() {
        let error =
            roles("nics.outside = [{ driver = 'igb' }]\nnics.inside = [{ pci = '0000:05:00.0' }]")
                .unwrap_err();
        assert_eq!(error.reason(), Reason::ProfileNicConflict);
        assert_eq!(
            error.to_string(),
            "profile test gives port eno1 both roles, outside and inside"
        );
    }
}
