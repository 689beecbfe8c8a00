//! Ownership marks: how Holdfast recognises its own things on a machine it shares with others.
//!
//! We delete only what carries a mark and compare only what we set. Two daemons of ours write to
//! the kernel's network: `holdfastd` (the host's links, addresses, routes) and `tunneld` (the
//! uplinks). The marked ranges are split between them, so neither ever removes what is the other's.

/// Every interface of ours begins with this.
pub const LINK_PREFIX: &str = "hf-";
/// Interfaces that belong to `tunneld` (and to `regional-edge` on the other side).
pub const TUNNEL_LINK_PREFIX: &str = "hf-wg";
/// `rtm_protocol` of every route and nexthop of ours (free in `/etc/iproute2/rt_protos`).
pub const ROUTE_PROTOCOL: u8 = 72;
/// Routing tables of `tunneld`.
pub const TUNNEL_TABLES: std::ops::RangeInclusive<u32> = 7200..=7249;
/// Routing tables of `holdfastd`.
pub const HOST_TABLES: std::ops::RangeInclusive<u32> = 7250..=7299;
/// Rule priorities of `tunneld`.
pub const TUNNEL_RULES: std::ops::RangeInclusive<u32> = 7200..=7249;
/// Rule priorities of `holdfastd`.
pub const HOST_RULES: std::ops::RangeInclusive<u32> = 7250..=7299;
/// Nexthop ids of `tunneld` ("HF" in the upper half).
pub const TUNNEL_NEXTHOPS: std::ops::RangeInclusive<u32> = 0x4846_0000..=0x4846_7fff;
/// Nexthop ids of `holdfastd`.
pub const HOST_NEXTHOPS: std::ops::RangeInclusive<u32> = 0x4846_8000..=0x4846_ffff;
/// First line of our block in `/etc/hosts`.
pub const HOSTS_BEGIN: &str = "# BEGIN holdfast (managed block; edits inside are replaced)";
/// Last line of our block in `/etc/hosts`.
pub const HOSTS_END: &str = "# END holdfast";
/// Our drop-in in `/etc/ssh/sshd_config.d`.
pub const SSHD_DROP_IN: &str = "60-holdfast.conf";
/// Kubernetes field manager.
pub const FIELD_MANAGER: &str = "holdfast";
