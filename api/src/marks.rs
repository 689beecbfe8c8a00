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
/// Label of every object that a release of ours brought; its value is the release's name.
pub const MANAGED_BY_LABEL: &str = "holdfast.dev/managed-by";
/// Namespace of what the manager keeps in the site's Kubernetes.
pub const SYSTEM_NAMESPACE: &str = "holdfast-system";
/// Annotation: images, separated by commas or white space, that every node pulls before the release begins.
pub const PRE_PULL_ANNOTATION: &str = "holdfast.dev/pre-pull";
/// Annotation: `pessimistic` (the default: wait until the object is ready) or `optimistic`.
pub const DEPLOYMENT_ANNOTATION: &str = "holdfast.dev/deployment";
/// Annotation: seconds that the object may take until it is ready.
pub const TIMEOUT_ANNOTATION: &str = "holdfast.dev/timeout";
/// Annotation: `true` on the workload that carries the site's traffic.
pub const DATA_PLANE_ANNOTATION: &str = "holdfast.dev/data-plane";
/// Annotation of a Node, written by its manager: digest of the release whose images it holds.
pub const PRE_PULLED_ANNOTATION: &str = "holdfast.dev/pre-pulled";
/// Annotation of a Node, written by its manager: how far it is with pulling, for people.
pub const PRE_PULL_PROGRESS_ANNOTATION: &str = "holdfast.dev/pre-pull-progress";
/// Annotation of a Node, written by whoever applied the release: digest of the one in force.
pub const RELEASE_ANNOTATION: &str = "holdfast.dev/release";
/// On Secrets that hold the text of the release in force: digits of its digest.
pub const RELEASE_TEXT_LABEL: &str = "holdfast.dev/release-text";
/// Annotation of a Node, written by its manager: keys of its labels that are ours.
pub const NODE_LABELS_ANNOTATION: &str = "holdfast.dev/node-labels";
/// Annotation of a Node, written by its manager: keys and effects of its taints that are ours.
pub const NODE_TAINTS_ANNOTATION: &str = "holdfast.dev/node-taints";
/// Annotation of a Node, written by its manager: versions of the distribution that failed on it.
pub const FAILED_VERSIONS_ANNOTATION: &str = "holdfast.dev/failed-versions";
/// Port on which servers of a site with several nodes answer for the reboot lock (FleetLock).
pub const FLEET_LOCK_PORT: u16 = 6460;
/// Lease that holds the images of a release in containerd, followed by the release's digest.
pub const IMAGE_LEASE_PREFIX: &str = "holdfast-";
