//! Datagrams with both of their addresses: one that was received, and one that is to be sent.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

/// The largest payload of a datagram over IPv4, in bytes: 65 535 less the IP and UDP headers (RFC 791, RFC 768).
pub const MAX_PAYLOAD_IPV4: usize = 65_507;
/// The largest payload of a datagram over IPv6, in bytes: 65 535 less the UDP header (RFC 8200, RFC 768).
pub const MAX_PAYLOAD_IPV6: usize = 65_527;

/// The largest payload of a datagram to this address, in bytes.
#[must_use]
pub fn max_payload(peer: SocketAddr) -> usize {
    if peer.ip().to_canonical().is_ipv4() { MAX_PAYLOAD_IPV4 } else { MAX_PAYLOAD_IPV6 }
}

/// The address that a datagram was sent to, as its packet information says (`ip(7)`, `ipv6(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The destination in the IP header (`ipi_addr`, `ipi6_addr`); an IPv4 address is never in mapped form.
    pub address: IpAddr,
    /// The local address that a reply leaves from (`ipi_spec_dst`): the same, unless that is a broadcast address.
    pub local: IpAddr,
    /// The index of the interface that it came through.
    pub interface: u32,
}

impl Destination {
    /// Returns whether the datagram was sent to one host: neither broadcast nor multicast.
    #[must_use]
    pub fn is_unicast(&self) -> bool {
        self.address == self.local && !self.address.is_multicast()
    }
}

/// The two ends of a request, which its replies share: the peer, and the address of this host that it sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The other end; an IPv4 address is never in mapped form.
    pub peer: SocketAddr,
    /// This end: where a request was sent to, and where a reply leaves from. `None` if the kernel did not say; the
    /// kernel then also chooses the source of a reply.
    pub destination: Option<Destination>,
}

/// A datagram as it was received.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Datagram {
    /// Its sender and its destination.
    pub flow: Flow,
    /// Its payload: 0 to 65 527 bytes, sharing the receive buffer.
    pub payload: Bytes,
    /// Its payload did not fit.
    pub truncated: bool,
    /// It arrived over IPv6 with an IPv4-mapped source address: a reply would leave over IPv4, to somebody else.
    pub mapped_over_ipv6: bool,
}

impl Datagram {
    /// Creates a complete datagram, with its addresses as they were on the wire.
    #[must_use]
    pub fn new(flow: Flow, payload: Bytes) -> Self {
        Self { flow, payload, truncated: false, mapped_over_ipv6: false }
    }
}

/// A datagram to be sent.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The address that it goes to, and the one that it leaves from.
    pub flow: Flow,
    /// Its payload.
    pub payload: Bytes,
}

impl AsRef<Self> for Outgoing {
    fn as_ref(&self) -> &Self {
        self
    }
}
