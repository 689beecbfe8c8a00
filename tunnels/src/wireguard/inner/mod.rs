//! The packets inside: read, split when they come from the link, joined on their way to it.

pub(crate) mod checksum;
pub(crate) mod ecn;
pub(crate) mod flow;
pub(crate) mod join;
pub(crate) mod offload;
pub(crate) mod packet;
pub(crate) mod split;
