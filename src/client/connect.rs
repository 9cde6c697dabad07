//! Connecting to a server: the choice of its address and of the local one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use super::ClientError;

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

impl Family {
    /// Returns whether the address is of this family.
    #[must_use]
    pub fn includes(self, address: SocketAddr) -> bool {
        address.is_ipv4() == (self == Self::Ipv4)
    }
}

/// Options of a client's connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectOptions {
    family: Option<Family>,
    local_address: Option<SocketAddr>,
}

impl ConnectOptions {
    /// Creates options for either family and any local address.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Uses only the server's addresses of this family.
    #[must_use]
    pub fn family(mut self, family: Family) -> Self {
        self.family = Some(family);
        self
    }

    /// Sends from this address; port 0 takes a free one. Only the server's addresses of the same family are tried.
    #[must_use]
    pub fn local_address(mut self, address: SocketAddr) -> Self {
        self.local_address = Some(address);
        self
    }

    /// Connects to the first of these addresses that can be connected to; `open` turns the socket into a client's link.
    pub(super) fn connect<T>(
        &self,
        addresses: impl Iterator<Item = SocketAddr>,
        open: impl Fn(UdpSocket) -> io::Result<T>,
    ) -> Result<T, ClientError> {
        let mut last = None;
        for address in addresses.filter(|&address| self.allows(address)) {
            match self.connect_to(address).and_then(|socket| open(socket.into())) {
                Ok(opened) => return Ok(opened),
                Err(source) => last = Some(ClientError::Connect { address, source }),
            }
        }
        Err(last.unwrap_or(ClientError::NoAddress))
    }

    fn allows(&self, address: SocketAddr) -> bool {
        self.family.is_none_or(|family| family.includes(address))
            && self.local_address.is_none_or(|local| local.is_ipv4() == address.is_ipv4())
    }

    fn connect_to(&self, address: SocketAddr) -> io::Result<Socket> {
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
        socket.bind(&self.local_address.unwrap_or(SocketAddr::new(any, 0)).into())?;
        socket.connect(&address.into())?;
        Ok(socket)
    }
}
