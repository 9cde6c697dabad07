//! The options of a socket, the socket once it is bound, and the reasons why it could not be created or bound.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::RawFd;

/// Options of a socket to be bound or adopted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketOptions {
    /// Bytes of receive buffer (SO_RCVBUFFORCE, else SO_RCVBUF); `None` leaves the kernel's default.
    pub receive_buffer: Option<usize>,
    /// Bytes of send buffer (SO_SNDBUFFORCE, else SO_SNDBUF); `None` leaves the kernel's default. Replies wait in it
    /// while the kernel looks up the neighbour that they go to.
    pub send_buffer: Option<usize>,
    /// Lets the kernel hand over a run of datagrams of one flow and size as one message (UDP_GRO of udp(7)), where it
    /// can: each costs less then. A batch tells them apart again. On by default.
    pub udp_gro: bool,
    /// The number of sockets that share the address, one per worker; at least 1.
    pub sockets: usize,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self { receive_buffer: None, send_buffer: None, udp_gro: true, sockets: 1 }
    }
}

/// The IP families that a socket accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Families {
    /// One AF_INET6 socket bound to `[::]`, IPV6_V6ONLY off.
    Both,
    /// The same on a host without any IPv6 address (the sysctl `disable_ipv6`): only IPv4 reaches it, until that
    /// changes.
    NoIpv6Address,
    /// AF_INET6, one address.
    Ipv6,
    /// AF_INET.
    Ipv4,
    /// AF_INET although `[::]` was requested: this host has no IPv6.
    Ipv4Fallback,
}

impl Families {
    /// Returns whether the socket is of the family AF_INET6.
    #[must_use]
    pub fn is_ipv6_socket(self) -> bool {
        matches!(self, Self::Both | Self::NoIpv6Address | Self::Ipv6)
    }
}

impl std::fmt::Display for Families {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Both => "IPv6 and IPv4",
            Self::NoIpv6Address => "IPv4; this host has no IPv6 address",
            Self::Ipv6 => "IPv6",
            Self::Ipv4 | Self::Ipv4Fallback => "IPv4",
        })
    }
}

/// A socket that is ready for batches.
#[derive(Debug)]
#[non_exhaustive]
pub struct BoundSocket {
    /// The socket, not blocking.
    pub socket: UdpSocket,
    /// Its address, with the real port.
    pub address: SocketAddr,
    /// The families that it accepts.
    pub families: Families,
    /// Bytes of receive buffer that the kernel granted.
    pub receive_buffer: usize,
    /// Bytes of send buffer that the kernel granted.
    pub send_buffer: usize,
    /// This program bound it, now or in an earlier run: nobody else changes its options.
    pub bound_here: bool,
}

/// A socket that could not be created or bound: the step that failed, and the address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// There is nothing to listen on.
    #[error("no address to listen on")]
    NoAddress,
    /// A name has no address, or an address is not well-formed.
    #[error("resolve the address to listen on")]
    Resolve(#[source] io::Error),
    /// The interface of a link-local address does not exist now.
    #[error("find interface {interface} of {address}")]
    FindInterface {
        /// The address to listen on, with the interface.
        address: String,
        /// The interface's name or number.
        interface: String,
        /// The cause.
        source: io::Error,
    },
    /// A socket of this family could not be created.
    #[error("create socket for {address}")]
    Create {
        /// The address to listen on.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// An option was refused.
    #[error("set {option} on the socket for {address}")]
    SetOption {
        /// The address to listen on.
        address: SocketAddr,
        /// The option's name.
        option: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// An option could not be read.
    #[error("read {option} of the socket for {address}")]
    GetOption {
        /// The address to listen on.
        address: SocketAddr,
        /// The option's name.
        option: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// Another socket holds the address.
    #[error("bind {address}: address in use")]
    AddressInUse {
        /// The address to listen on.
        address: SocketAddr,
    },
    /// The port is reserved.
    #[error(
        "bind {address}: permission denied; a port below 1024 needs the capability CAP_NET_BIND_SERVICE \
         (in a unit: AmbientCapabilities=CAP_NET_BIND_SERVICE)"
    )]
    PermissionDenied {
        /// The address to listen on.
        address: SocketAddr,
    },
    /// The address was refused for another reason.
    #[error("bind {address}")]
    Bind {
        /// The address to listen on.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// A given socket is not a bound UDP socket.
    #[error("adopt file descriptor {descriptor}")]
    Adopt {
        /// The descriptor's number.
        descriptor: RawFd,
        /// The cause.
        source: io::Error,
    },
}
