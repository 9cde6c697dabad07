//! The client: packets to one server, and only from it.
//!
//! A connected socket: the kernel passes on what that endpoint sends and nothing else, and "connection refused" (an ICMP
//! port unreachable) comes back as an error. [`blocking`] is the twin without a runtime. Knows no server.

pub mod blocking;

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::{ToSocketAddrs, UdpSocket, lookup_host};

use crate::protocol::{DatagramProtocol, DatagramProtocolParseError, MAX_PAYLOAD_IPV4, MAX_PAYLOAD_IPV6};
use crate::serializer::SerializeError;

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

impl Family {
    /// Whether the address is of this family.
    #[must_use]
    pub fn includes(self, address: SocketAddr) -> bool {
        address.is_ipv4() == (self == Self::Ipv4)
    }
}

/// How a client connects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectOptions {
    family: Option<Family>,
    local_address: Option<SocketAddr>,
}

impl ConnectOptions {
    /// Either family, any local address.
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

    /// Connects to the first of these addresses that can be connected to.
    fn connect(&self, addresses: impl Iterator<Item = SocketAddr>) -> Result<Socket, ClientError> {
        let mut last = None;
        for address in addresses.filter(|&address| self.allows(address)) {
            match self.connect_to(address) {
                Ok(socket) => return Ok(socket),
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

/// What can go wrong between a client and its server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The name has no address.
    #[error("resolve the server's name")]
    Resolve(#[source] io::Error),
    /// No address of the server is of a family that may be used.
    #[error("the server has no address of that family")]
    NoAddress,
    /// The last address that was tried could not be connected to.
    #[error("connect to {address}")]
    Connect {
        /// The server's address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The socket that was handed over is not a connected UDP socket.
    #[error("use the socket that was given")]
    Adopt(#[source] io::Error),
    /// The packet has no form in bytes.
    #[error(transparent)]
    Serialize(#[from] SerializeError),
    /// The packet does not fit a datagram.
    #[error("packet of {size} bytes is over the {limit} that a datagram may carry")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The largest payload to this server.
        limit: usize,
    },
    /// The kernel did not send; `ConnectionRefused` tells of an earlier datagram.
    #[error("send")]
    Send(#[source] io::Error),
    /// The kernel did not receive; `ConnectionRefused` says that nobody listens there.
    #[error("receive")]
    Receive(#[source] io::Error),
    /// Nothing came in time.
    #[error("no reply within {0:?}")]
    TimedOut(Duration),
    /// What came is no packet; the client can go on.
    #[error("the reply is not a packet: {0}")]
    Parse(#[from] DatagramProtocolParseError),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl ClientError {
    /// Whether the server's host said that nobody listens on that port.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        let (Self::Send(error) | Self::Receive(error)) = self else { return false };
        error.kind() == io::ErrorKind::ConnectionRefused
    }
}

/// A client of one server, for use with tokio.
///
/// Sending and receiving take `&self`: share the client in an [`Arc`] to do both at once.
#[derive(Debug)]
pub struct UdpClient<P> {
    protocol: P,
    link: Link<UdpSocket>,
}

impl<P: DatagramProtocol> UdpClient<P> {
    /// Connects to a name and port, `("localhost", 9000)`: the first of its addresses that can be connected to.
    ///
    /// Connecting a datagram socket sends nothing: whether somebody listens shows with the first reply.
    ///
    /// # Errors
    /// The name has no address, or none of them can be connected to.
    pub async fn connect(server: impl ToSocketAddrs, protocol: P) -> Result<Self, ClientError> {
        Self::connect_with(&ConnectOptions::new(), server, protocol).await
    }

    /// Connects as these options say.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect), or no address is of the family.
    pub async fn connect_with(
        options: &ConnectOptions,
        server: impl ToSocketAddrs,
        protocol: P,
    ) -> Result<Self, ClientError> {
        let addresses = lookup_host(server).await.map_err(ClientError::Resolve)?;
        Self::from_socket(options.connect(addresses)?.into(), protocol)
    }

    /// Uses a socket that is connected already.
    ///
    /// # Errors
    /// The socket is not connected, or cannot be used with tokio.
    pub fn from_socket(socket: std::net::UdpSocket, protocol: P) -> Result<Self, ClientError> {
        socket.peer_addr().map_err(ClientError::Adopt)?;
        socket.set_nonblocking(true).map_err(ClientError::Adopt)?;
        let socket = UdpSocket::from_std(socket).map_err(ClientError::Adopt)?;
        Ok(Self { protocol, link: Link::new(socket) })
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// The packet cannot be serialized or is larger than a datagram may be (65 507 bytes over IPv4, 65 527 over IPv6),
    /// the kernel refuses it, or the client is closed.
    pub async fn send_packet(&self, packet: P::Sent) -> Result<(), ClientError> {
        let socket = self.link.open()?;
        let datagram = self.protocol.make_datagram(packet)?;
        let sent = socket.send(&check_size(datagram, socket.peer_addr())?).await;
        self.link.open()?;
        sent.map(drop).map_err(ClientError::Send)
    }

    /// Receives a packet.
    ///
    /// Cancel-safe: a datagram is taken from the socket only when it is returned.
    ///
    /// # Errors
    /// What came is no packet (the client can go on), nobody listens there, or the client is closed.
    pub async fn recv_packet(&self) -> Result<P::Received, ClientError> {
        let socket = self.link.open()?;
        loop {
            // An ICMP error alone does not make a socket readable.
            let ready = socket.ready(Interest::READABLE | Interest::ERROR).await;
            self.link.open()?;
            let received = ready.and_then(|ready| {
                let interest = if ready.is_error() { Interest::ERROR } else { Interest::READABLE };
                receive(|buffer| socket.try_io(interest, || (&*SockRef::from(&*socket)).read(buffer)))
            });
            match received {
                Ok(datagram) => return Ok(self.protocol.build_packet(datagram)?),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(ClientError::Receive(error)),
            }
        }
    }

    /// Receives a packet within this time.
    ///
    /// # Errors
    /// Those of [`recv_packet`](Self::recv_packet), and [`ClientError::TimedOut`].
    pub async fn recv_packet_within(&self, time: Duration) -> Result<P::Received, ClientError> {
        tokio::time::timeout(time, self.recv_packet()).await.unwrap_or(Err(ClientError::TimedOut(time)))
    }
}

impl<P> UdpClient<P> {
    /// The address that it sends from.
    ///
    /// # Errors
    /// The client is closed.
    pub fn local_address(&self) -> Result<SocketAddr, ClientError> {
        self.link.open()?.local_addr().map_err(ClientError::Adopt)
    }

    /// The server's address.
    ///
    /// # Errors
    /// The client is closed.
    pub fn server_address(&self) -> Result<SocketAddr, ClientError> {
        self.link.open()?.peer_addr().map_err(ClientError::Adopt)
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.link.open().is_err()
    }

    /// Closes the socket; whoever waits for a packet gets [`ClientError::Closed`]. Closing twice is no error.
    pub fn close(&self) {
        self.link.close(|socket| SockRef::from(socket).shutdown(std::net::Shutdown::Both));
    }
}

/// A socket until it is closed.
#[derive(Debug)]
struct Link<S>(Mutex<Option<Arc<S>>>);

impl<S> Link<S> {
    fn new(socket: S) -> Self {
        Self(Mutex::new(Some(Arc::new(socket))))
    }

    fn open(&self) -> Result<Arc<S>, ClientError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(ClientError::Closed)
    }

    /// Lets go of the socket; `wake` ends the waits of those who still use it.
    fn close(&self, wake: impl FnOnce(&S) -> io::Result<()>) {
        if let Some(socket) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Fails only where nobody can be waiting.
            let _ = wake(&socket);
        }
    }
}

fn check_size(datagram: Bytes, server: io::Result<SocketAddr>) -> Result<Bytes, ClientError> {
    let ipv4 = server.map_err(ClientError::Send)?.ip().to_canonical().is_ipv4();
    let limit = if ipv4 { MAX_PAYLOAD_IPV4 } else { MAX_PAYLOAD_IPV6 };
    if datagram.len() <= limit { Ok(datagram) } else { Err(ClientError::TooLarge { size: datagram.len(), limit }) }
}

/// Receives one datagram of any size, and keeps it at its own.
fn receive(receive: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<Bytes> {
    let mut buffer = [0; 1 << 16];
    let length = receive(&mut buffer)?;
    Ok(Bytes::copy_from_slice(&buffer[..length]))
}
