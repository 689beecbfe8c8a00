//! Netlink messages that no crate has, or that we read more patiently than the crate does.

pub(crate) mod nexthop;
