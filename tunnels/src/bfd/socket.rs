//! The two sockets of BFD on one link (RFC 5881 §4 and §5): one that listens on port 3784 and
//! one that sends from a port of 49152 to 65535 with a TTL of 255. Both are bound to the link,
//! so nothing that came in elsewhere is heard and nothing leaves elsewhere.

use super::packet::PACKET_BYTES;
use nix::libc;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Where control packets of single-hop sessions go (RFC 5881 §4).
pub const CONTROL_PORT: u16 = 3784;

pub(super) const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;
const TTL: u32 = 255;

/// Why the sockets could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempt} for BFD at {local} on {link}")]
pub struct SocketError {
    /// What was tried.
    pub attempt: &'static str,
    /// The link.
    pub link: String,
    /// Our address on it.
    pub local: IpAddr,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// The sockets of one link.
#[derive(Debug)]
pub struct LinkSocket {
    listen: Socket,
    send: Socket,
}

impl LinkSocket {
    /// Opens both in the calling thread's network namespace. `local` must be an address of
    /// `link`; `seed` chooses the source port.
    ///
    /// # Errors
    /// The link or the address is not there, the rights are missing, or somebody else listens.
    pub fn open(link: &str, local: IpAddr, seed: u64) -> Result<Self, SocketError> {
        let fail = |attempt| {
            let link = link.to_string();
            move |source| SocketError { attempt, link, local, source }
        };
        let listen = bare(link, local).map_err(fail("open a socket"))?;
        set_receive_ttl(&listen, local).map_err(fail("ask for the TTL"))?;
        listen.bind(&SocketAddr::new(local, CONTROL_PORT).into()).map_err(fail("listen"))?;

        let send = bare(link, local).map_err(fail("open a socket"))?;
        match local {
            IpAddr::V4(_) => send.set_ttl_v4(TTL),
            IpAddr::V6(_) => send.set_unicast_hops_v6(TTL),
        }
        .map_err(fail("set the TTL"))?;
        bind_to_source_port(&send, local, seed).map_err(fail("find a free source port"))?;
        Ok(LinkSocket { listen, send })
    }

    /// Sends one control packet to `to`.
    ///
    /// # Errors
    /// The kernel's; a packet that is not sent is like one that is lost.
    pub fn send(&self, to: IpAddr, bytes: &[u8; PACKET_BYTES]) -> io::Result<()> {
        let to: SockAddr = SocketAddr::new(to, CONTROL_PORT).into();
        self.send.send_to(bytes, &to).map(drop)
    }

    /// Takes one packet, without waiting: who sent it, its TTL, and how much of `buffer` it is.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; else the kernel's.
    pub fn receive(
        &self,
        buffer: &mut [u8],
        control: &mut [u8],
    ) -> io::Result<(IpAddr, u8, usize)> {
        let mut parts = [IoSliceMut::new(buffer)];
        let fd = self.listen.as_raw_fd();
        let message =
            recvmsg::<SockaddrStorage>(fd, &mut parts, Some(control), MsgFlags::MSG_DONTWAIT)?;
        let ttl = message.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => {
                u8::try_from(ttl).ok()
            }
            _ => None,
        });
        let from = message.address.as_ref().and_then(|address| {
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        });
        let from = from.ok_or_else(|| io::Error::other("the sender has no IP address"))?;
        // A kernel that tells no TTL gets the packet discarded, not trusted.
        Ok((from, ttl.unwrap_or(0), message.bytes))
    }

    /// Space for what [`LinkSocket::receive`] learns beside the packet.
    pub fn control_buffer() -> Vec<u8> {
        nix::cmsg_space!(libc::c_int, libc::c_int)
    }

    /// Readable when a packet is there.
    pub fn as_listen_fd(&self) -> BorrowedFd<'_> {
        self.listen.as_fd()
    }
}

fn bare(link: &str, local: IpAddr) -> io::Result<Socket> {
    let domain = if local.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    // Before bind(2): the same address and port can be bound once on each link.
    socket.bind_device(Some(link.as_bytes()))?;
    Ok(socket)
}

fn set_receive_ttl(socket: &Socket, local: IpAddr) -> io::Result<()> {
    match local {
        IpAddr::V4(_) => Ok(setsockopt(socket, sockopt::Ipv4RecvTtl, &true)?),
        IpAddr::V6(_) => socket.set_recv_hoplimit_v6(true),
    }
}

fn bind_to_source_port(socket: &Socket, local: IpAddr, seed: u64) -> io::Result<()> {
    let (first, count) = (*SOURCE_PORTS.start(), SOURCE_PORTS.len() as u64);
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for n in 0..64 {
        let offset = u16::try_from((seed.wrapping_add(n * 257)) % count).unwrap_or(0);
        match socket.bind(&SocketAddr::new(local, first + offset).into()) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}
