//! Settings of one link below `/proc/sys/net`.

use super::Family;
use std::fmt;
use std::path::PathBuf;

/// One setting of a link: `net.ipv4.conf.<link>.<name>` or `net.ipv6.conf.<link>.<name>`
/// (Documentation/networking/ip-sysctl.rst).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkSysctl {
    family: Family,
    name: String,
}

/// A text that can't name a setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no setting of a link; small letters, digits and '_' name one")]
pub struct SysctlNameError(pub String);

impl LinkSysctl {
    /// The setting `name` of `family`.
    ///
    /// # Errors
    /// The name has other characters than small letters, digits and `_`.
    pub fn new(family: Family, name: &str) -> Result<Self, SysctlNameError> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if name.is_empty() || !name.bytes().all(fits) {
            return Err(SysctlNameError(name.to_string()));
        }
        Ok(LinkSysctl { family, name: name.to_string() })
    }

    /// `forwarding`: whether packets that arrive on the link are passed on.
    pub fn forwarding(family: Family) -> Self {
        LinkSysctl { family, name: "forwarding".into() }
    }

    /// `rp_filter` (IPv4): 0 off, 1 strict, 2 loose check of the source's return path.
    pub fn rp_filter() -> Self {
        LinkSysctl { family: Family::V4, name: "rp_filter".into() }
    }

    /// `promote_secondaries` (IPv4): removing an address keeps the others of its subnet.
    pub fn promote_secondaries() -> Self {
        LinkSysctl { family: Family::V4, name: "promote_secondaries".into() }
    }

    /// `disable_ipv6`.
    pub fn disable_ipv6() -> Self {
        LinkSysctl { family: Family::V6, name: "disable_ipv6".into() }
    }

    /// `accept_ra` (IPv6): 0 off, 1 unless forwarding, 2 always.
    pub fn accept_ra() -> Self {
        LinkSysctl { family: Family::V6, name: "accept_ra".into() }
    }

    /// The address family that it belongs to.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Where it is below the root of procfs. The link's name is one directory even when it
    /// contains dots: paths are used, not dotted names.
    pub fn path(&self, link: &super::LinkName) -> PathBuf {
        let family = match self.family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        ["sys/net", family, "conf", link.as_str(), &self.name].iter().collect()
    }
}

impl fmt::Display for LinkSysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.family {
            Family::V4 => write!(f, "ipv4 {}", self.name),
            Family::V6 => write!(f, "ipv6 {}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_cannot_leave_its_directory() {
        for bad in ["", "../all/forwarding", "a.b", "A"] {
            assert_eq!(LinkSysctl::new(Family::V4, bad), Err(SysctlNameError(bad.to_string())));
        }
        let link = "eth0.7".parse().unwrap();
        let path = LinkSysctl::forwarding(Family::V6).path(&link);
        assert_eq!(path, PathBuf::from("sys/net/ipv6/conf/eth0.7/forwarding"));
    }
}
