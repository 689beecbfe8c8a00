//! What kind of world is asked for.

use crate::node_root::Hardware;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Name of a world: one to eight lower-case letters and digits.
///
/// It is part of the names of namespaces, `hfl-<world>-<host>`. Without dashes inside, the
/// namespaces of one world are never taken for those of another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorldName(String);

/// Why a text names no world.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name for a world: use one to eight lower-case letters and digits")]
pub struct BadName(String);

impl WorldName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl WorldName {
    /// What `cargo lab` has to be told to mean this world, with a space before it; nothing for the
    /// usual one.
    pub fn option(&self) -> String {
        if *self == WorldName::default() { String::new() } else { format!(" -w {self}") }
    }
}

impl Default for WorldName {
    fn default() -> Self {
        WorldName("default".into())
    }
}

impl FromStr for WorldName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let ok = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if (1..=8).contains(&text.len()) && text.bytes().all(ok) {
            return Ok(WorldName(text.into()));
        }
        Err(BadName(text.into()))
    }
}

impl TryFrom<String> for WorldName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<WorldName> for String {
    fn from(name: WorldName) -> String {
        name.0
    }
}

impl fmt::Display for WorldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Most edges in a world: their number is a byte of their addresses.
pub const EDGES_MAX: u8 = 99;
/// Most nodes in a world, for the same reason.
pub const NODES_MAX: u8 = 99;

/// Intervals of BFD in milliseconds that the tunnels take ([`holdfast_api::tunnel::BfdTimers`]).
pub const BFD_MS: std::ops::RangeInclusive<u32> = 10..=10_000;

/// A world to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldSpec {
    /// Its name.
    pub name: WorldName,
    /// The tenant that its sites belong to, a DNS label.
    pub tenant: String,
    /// Regional edges, 0 to [`EDGES_MAX`].
    pub edges: u8,
    /// Nodes, 0 to [`NODES_MAX`].
    pub nodes: u8,
    /// How many of them are the first site, 1 to [`NODES_MAX`]: those with the lowest numbers, with
    /// a network between them. Each of the others is a site of its own.
    #[serde(default = "one")]
    pub site_nodes: u8,
    /// Whether the nodes' own managers give them their addresses; else the laboratory does.
    pub nodes_set_themselves_up: bool,
    /// What hardware the nodes believe to be.
    pub hardware: Hardware,
    /// Interval of BFD in milliseconds, one of [`BFD_MS`], when it is not to be the default.
    pub bfd_interval_ms: Option<u32>,
    /// The build of Kubernetes that the first site runs, with a workload; none without.
    #[serde(default)]
    pub kubernetes: Option<PathBuf>,
}

fn one() -> u8 {
    1
}

/// Why a world cannot be made as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Too many hosts of a kind.
    #[error("a world has at most {max} {what}, {given} were asked for")]
    TooMany {
        /// `edges` or `nodes`.
        what: &'static str,
        /// The limit.
        max: u8,
        /// What was asked for.
        given: u8,
    },
    /// A site without a node.
    #[error("the first site has at least one node")]
    EmptySite,
    /// A site with more nodes than there are.
    #[error("the first site cannot have {site} nodes: the world has {nodes}")]
    LargeSite {
        /// Nodes of the site.
        site: u8,
        /// Nodes of the world.
        nodes: u8,
    },
    /// The interval of BFD.
    #[error("BFD cannot have an interval of {0} ms: it must be from {least} to {most} ms",
        least = BFD_MS.start(), most = BFD_MS.end())]
    Bfd(u32),
    /// The tenant's name.
    #[error("{0:?} is no name for a tenant: use lower-case letters, digits and inner dashes")]
    Tenant(String),
}

impl Default for WorldSpec {
    /// Three edges and one node.
    fn default() -> Self {
        WorldSpec {
            name: WorldName::default(),
            tenant: "acme".into(),
            edges: 3,
            nodes: 1,
            site_nodes: 1,
            nodes_set_themselves_up: true,
            hardware: Hardware::default(),
            bfd_interval_ms: None,
            kubernetes: None,
        }
    }
}

impl WorldSpec {
    /// Checks the limits that the fields document.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), SpecError> {
        for (what, max, given) in
            [("edges", EDGES_MAX, self.edges), ("nodes", NODES_MAX, self.nodes)]
        {
            if given > max {
                return Err(SpecError::TooMany { what, max, given });
            }
        }
        if self.site_nodes == 0 {
            return Err(SpecError::EmptySite);
        }
        // One is what nobody asked for: a world may do without nodes.
        if self.site_nodes > self.nodes.max(1) {
            return Err(SpecError::LargeSite { site: self.site_nodes, nodes: self.nodes });
        }
        if let Some(bad) = self.bfd_interval_ms.filter(|interval| !BFD_MS.contains(interval)) {
            return Err(SpecError::Bfd(bad));
        }
        if !holdfast_api::meta::is_dns_label(&self.tenant) {
            return Err(SpecError::Tenant(self.tenant.clone()));
        }
        Ok(())
    }

    /// The numbers of the nodes of the first site.
    pub fn first_site(&self) -> std::ops::RangeInclusive<u8> {
        1..=self.site_nodes.min(self.nodes)
    }

    /// The number of the site that the node of this number belongs to: that of its first node.
    pub fn site_of(&self, node: u8) -> u8 {
        if self.first_site().contains(&node) { 1 } else { node }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_confused_are_refused() {
        for bad in ["", "a-b", "UPPER", "ninechars", "../x", "a b"] {
            assert_eq!(bad.parse::<WorldName>(), Err(BadName(bad.into())));
        }
        assert_eq!("w1".parse::<WorldName>().unwrap().as_str(), "w1");
    }

    #[test]
    fn a_world_that_is_too_large_says_which_part() {
        let spec = WorldSpec { nodes: 100, ..WorldSpec::default() };
        assert_eq!(spec.validate(), Err(SpecError::TooMany { what: "nodes", max: 99, given: 100 }));
        let spec = WorldSpec { tenant: "Not A Label".into(), ..WorldSpec::default() };
        assert_eq!(spec.validate(), Err(SpecError::Tenant("Not A Label".into())));
        for (interval, want) in
            [(9, Err(SpecError::Bfd(9))), (10, Ok(())), (10_001, Err(SpecError::Bfd(10_001)))]
        {
            let spec = WorldSpec { bfd_interval_ms: Some(interval), ..WorldSpec::default() };
            assert_eq!(spec.validate(), want);
        }
        let spec = WorldSpec { site_nodes: 0, ..WorldSpec::default() };
        assert_eq!(spec.validate(), Err(SpecError::EmptySite));
        let spec = WorldSpec { nodes: 2, site_nodes: 5, ..WorldSpec::default() };
        assert_eq!(spec.validate(), Err(SpecError::LargeSite { site: 5, nodes: 2 }));
        assert_eq!(WorldSpec { nodes: 5, ..spec }.validate(), Ok(()));
        assert_eq!(WorldSpec { nodes: 0, ..WorldSpec::default() }.validate(), Ok(()));
        assert_eq!(WorldSpec::default().validate(), Ok(()));
    }

    #[test]
    fn the_first_site_has_the_first_nodes_and_no_more_than_there_are() {
        let spec = WorldSpec { nodes: 4, site_nodes: 3, ..WorldSpec::default() };
        assert_eq!([1, 2, 3, 4].map(|node| spec.site_of(node)), [1, 1, 1, 4]);
        assert_eq!(WorldSpec { nodes: 2, ..spec }.first_site(), 1..=2);
    }
}
