//! The real kernel: observing it, and carrying out steps.
//!
//! A [`Kernel`] speaks over one route socket, one conversation at a time (`&mut self` sees to
//! it), in the network namespace in which it was opened, whichever thread uses it later. It
//! makes no choices: what to do is in the [`Step`]; it only says what the kernel answered.

mod address;
mod apply;
mod batch;
mod explain;
mod link;
mod observe;
mod route;
mod rule;
mod socket;
mod sysctl;
mod wireguard;

pub use sysctl::Ipv6;

use crate::error::{KernelAnswer, OpenError, TalkError};
use crate::model::{LinkName, Nexthop};
use crate::netns::NetNs;
use crate::wire::nexthop::{NexthopMessage, RTM_NEWNEXTHOP};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use nix::errno::Errno;
use socket::Conversation;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Something is there that was not.
    Created,
    /// Something is different.
    Changed,
    /// It was so already.
    Unchanged,
    /// Something is no longer there.
    Deleted,
}

/// A conversation with the kernel of one network namespace.
#[derive(Debug)]
pub struct Kernel {
    route: Conversation,
    generic: Conversation,
    /// Set when the namespace is not that of the process: procfs shows that of the thread.
    namespace: Option<NetNs>,
    proc_root: PathBuf,
    /// Indexes by name, as last heard; an index is never reused before 2³¹ links were made.
    indexes: BTreeMap<LinkName, u32>,
    /// The generic netlink family of WireGuard, when the kernel has one.
    wireguard: Option<u16>,
    mark: u8,
}

impl Kernel {
    /// Opens the calling thread's network namespace.
    ///
    /// # Errors
    /// The sockets cannot be had.
    pub fn open() -> Result<Self, OpenError> {
        Self::build(None)
    }

    /// Opens the network namespace whose file is at `path`: `/run/netns/<name>` or
    /// `/proc/<pid>/ns/net`. The calling thread stays where it is.
    ///
    /// # Errors
    /// The namespace cannot be entered (CAP_SYS_ADMIN), or the sockets cannot be had.
    pub fn open_in(path: &Path) -> Result<Self, OpenError> {
        let fail = |error: crate::netns::NetNsError| OpenError::Namespace {
            path: error.path,
            source: error.source,
        };
        let namespace = NetNs::open_at(path).map_err(fail)?;
        let mut kernel = namespace.enter(|| Self::build(None)).map_err(fail)??;
        kernel.namespace = Some(namespace);
        Ok(kernel)
    }

    /// With procfs at `root` instead of `/proc`, for settings of links.
    #[must_use]
    pub fn with_proc_root(mut self, root: impl Into<PathBuf>) -> Self {
        self.proc_root = root.into();
        self
    }

    fn build(namespace: Option<NetNs>) -> Result<Self, OpenError> {
        let mut kernel = Kernel {
            route: Conversation::open(NETLINK_ROUTE).map_err(OpenError::Socket)?,
            generic: Conversation::open(NETLINK_GENERIC).map_err(OpenError::Socket)?,
            namespace,
            proc_root: PathBuf::from("/proc"),
            indexes: BTreeMap::new(),
            wireguard: None,
            mark: holdfast_api::marks::ROUTE_PROTOCOL,
        };
        // Without WireGuard in the kernel its devices simply do not exist.
        kernel.wireguard = kernel.find_wireguard().ok();
        Ok(kernel)
    }

    /// Points the nexthop object `nexthop.id` at its new target, making it when it is not there:
    /// one message, no look around. Every route over it moves at once. This is the step that
    /// failover takes; [`Kernel::disable_nexthop_compat`] makes it quick with many routes.
    ///
    /// # Errors
    /// The kernel refuses: a member is missing (`ENOENT`/`EINVAL`), the link is down
    /// (`ENETDOWN`), a group would become a single nexthop or the reverse (`EINVAL`).
    pub fn replace_nexthop(&mut self, nexthop: &Nexthop) -> Result<(), TalkError> {
        let index = match nexthop.link() {
            Some(link) => Some(self.index(link)?),
            None => None,
        };
        let message = NexthopMessage::describe(nexthop, self.mark, index);
        self.route.request(RTM_NEWNEXTHOP, NLM_F_CREATE | NLM_F_REPLACE, &message)
    }

    /// The index of a link by its name.
    ///
    /// # Errors
    /// `ENODEV` when it is not there.
    pub fn index(&mut self, link: &LinkName) -> Result<u32, TalkError> {
        if let Some(index) = self.indexes.get(link) {
            return Ok(*index);
        }
        let index = self.ask_index(link)?;
        self.indexes.insert(link.clone(), index);
        Ok(index)
    }
}

fn refused(errno: Errno, text: &str) -> TalkError {
    TalkError::Refused(KernelAnswer { errno, text: Some(text.to_string()) })
}
