//! Sockets, and datagrams with both their addresses.
//!
//! Binds through socket2 ([`bind`]), and moves datagrams in batches (`recvmmsg(2)`, `sendmmsg(2)`) with the packet
//! information that says which address was asked (`ip(7)`, `ipv6(7)`; RFC 3542 s6). Knows no JSON and no policy. All
//! `unsafe` code is here, but for taking the descriptors that a service manager left open.

#![allow(unsafe_code, reason = "recvmmsg, sendmmsg and some socket options have no safe wrapper")]

mod ancillary;
mod bind;
mod bound;
mod interface;
mod messages;
mod options;
mod receive;
mod send;
mod sockaddr;
mod wait;
mod watch;

use std::net::{IpAddr, SocketAddr};

pub use ancillary::PacketInfo;
pub use bind::{BindTarget, adopt, bind, client_ports};
pub use bound::{BindError, BoundSocket, Families, SocketOptions};
use bytes::Bytes;
pub use interface::{interface_index, interface_name};
pub(crate) use options::disable_error_queue;
pub use options::kernel_drops;
pub use receive::ReceiveBatch;
pub use send::{SendBatch, SendOutcome};
#[cfg(feature = "daemon")]
pub(crate) use wait::wait_writable;
pub(crate) use wait::{receive_now, wait_readable};
pub(crate) use watch::watch_readable;

/// How many datagrams one system call moves at most.
pub const BATCH_SIZE: usize = 64;

/// The address that a datagram was sent to, as its packet information says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The destination in the IP header (`ipi_addr`, `ipi6_addr`); an IPv4 address is never in mapped form.
    pub address: IpAddr,
    /// The local address that a reply leaves from (`ipi_spec_dst`): the same, unless it was a broadcast.
    pub local: IpAddr,
    /// The index of the interface that it came through.
    pub interface: u32,
}

impl Destination {
    /// Returns whether it was sent to one host: neither broadcast nor multicast.
    #[must_use]
    pub fn is_unicast(&self) -> bool {
        self.address == self.local && !self.address.is_multicast()
    }
}

/// A datagram as it was received.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// The sender; an IPv4 address is never in mapped form.
    pub peer: SocketAddr,
    /// Where it was sent to; `None` when the kernel did not say.
    pub destination: Option<Destination>,
    /// What it carries: 0 to 65 527 bytes, sharing the receive buffer.
    pub payload: Bytes,
    /// Its payload did not fit.
    pub truncated: bool,
    /// It came over IPv6 with an IPv4-mapped source address: a reply would leave over IPv4, to somebody else.
    pub mapped_over_ipv6: bool,
}

/// A datagram to be sent.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Where to; an IPv4 address is mapped as the socket needs it.
    pub peer: SocketAddr,
    /// The address that was asked: the datagram leaves from there. `None` leaves the choice to the kernel.
    pub asked: Option<Destination>,
    /// What it carries.
    pub payload: Bytes,
    /// How it is counted.
    pub kind: ReplyKind,
}

/// How a datagram that is sent is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// A packet.
    Packet,
    /// A reply to what was not a packet.
    ErrorReply,
}
