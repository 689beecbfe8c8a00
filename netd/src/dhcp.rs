//! Addresses by DHCP (RFC 2131), one client per link.
//!
//! The protocol is mozim's. A [`Client`] runs as a task and never gives up; what it has is in
//! a `watch` channel: the caller merges [`Lease::network`] into what it wants and looks at the
//! channel when it changes. The client sets nothing in the kernel itself.
