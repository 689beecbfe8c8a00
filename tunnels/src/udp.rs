//! UDP sockets for both families at once: of WireGuard devices and of probes.

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Room for what arrives while the thread is busy: 20 ms at 800 Mbit/s.
const BUFFER_BYTES: usize = 2 << 20;

/// A socket on `port` (0: the kernel chooses) of all addresses, whose datagrams carry the mark
/// `fwmark`. Without IPv6 in the kernel it speaks IPv4 alone.
pub(crate) fn open(port: u16, fwmark: u32) -> io::Result<UdpSocket> {
    let both = Socket::new(Domain::IPV6, Type::DGRAM.cloexec().nonblocking(), Some(Protocol::UDP));
    let (socket, any): (Socket, IpAddr) = match both {
        Ok(socket) => {
            socket.set_only_v6(false)?;
            (socket, Ipv6Addr::UNSPECIFIED.into())
        }
        Err(error) if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => {
            let socket = Socket::new(
                Domain::IPV4,
                Type::DGRAM.cloexec().nonblocking(),
                Some(Protocol::UDP),
            )?;
            (socket, Ipv4Addr::UNSPECIFIED.into())
        }
        Err(error) => return Err(error),
    };
    if fwmark != 0 {
        socket.set_mark(fwmark)?;
    }
    // Smaller buffers lose packets under load, no more.
    let _ = socket.set_recv_buffer_size(BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(BUFFER_BYTES);
    let address: SockAddr = SocketAddr::new(any, port).into();
    socket.bind(&address)?;
    Ok(socket.into())
}

/// `to` as the socket wants it: a socket for both families takes IPv4 as mapped addresses.
pub(crate) fn address_for(socket_is_v6: bool, to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(v4) if socket_is_v6 => {
            SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
        }
        other => other,
    }
}
