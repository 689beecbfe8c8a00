//! The edge's half: repeat the nonce.

use super::packet::{Kind, PACKET_BYTES, Probe};
use std::io;
use tokio::net::UdpSocket;

/// The reply to a datagram, when it is a request; as long as the request.
pub fn answer(datagram: &[u8]) -> Option<[u8; PACKET_BYTES]> {
    match Probe::parse(datagram) {
        Ok(Probe { kind: Kind::Request, nonce }) => Some(Probe { kind: Kind::Reply, nonce }.emit()),
        Ok(Probe { kind: Kind::Reply, .. }) | Err(_) => None,
    }
}

/// Answers probes on `socket` until the task is dropped.
///
/// # Errors
/// The socket cannot be read any more. A reply that cannot be sent is a lost reply.
pub async fn serve(socket: &UdpSocket) -> io::Result<()> {
    // One byte more than a probe, so that longer datagrams are seen to be longer.
    let mut buffer = [0; PACKET_BYTES + 1];
    loop {
        let (bytes, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error about an earlier reply; it says nothing about the socket.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        if let Some(reply) = answer(&buffer[..bytes])
            && let Err(error) = socket.try_send_to(&reply, from)
        {
            tracing::debug!(%error, "probe not answered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_are_answered_so_two_edges_cannot_be_set_on_each_other() {
        let request = Probe { kind: Kind::Request, nonce: 3 }.emit();
        let reply = answer(&request).unwrap();
        assert_eq!(Probe::parse(&reply), Ok(Probe { kind: Kind::Reply, nonce: 3 }));
        assert_eq!(reply.len(), request.len());
        assert_eq!(answer(&reply), None);
        assert_eq!(answer(b"GET / HTTP/1.1\r\n"), None);
    }
}
