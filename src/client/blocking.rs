//! The client on a blocking socket.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use socket2::SockRef;

use super::link::{Link, check_size, receive};
use super::{ClientError, ConnectOptions};
use crate::protocol::DatagramProtocol;

/// A client of one server that blocks the thread.
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
    pub fn connect(server: impl ToSocketAddrs, protocol: P) -> Result<Self, ClientError> {
        Self::connect_with(&ConnectOptions::new(), server, protocol)
    }

    /// Connects as these options say.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect), or no address is of the family.
    pub fn connect_with(
        options: &ConnectOptions,
        server: impl ToSocketAddrs,
        protocol: P,
    ) -> Result<Self, ClientError> {
        let addresses = server.to_socket_addrs().map_err(ClientError::Resolve)?;
        Self::from_socket(options.connect(addresses)?.into(), protocol)
    }

    /// Uses a socket that is connected already.
    ///
    /// # Errors
    /// The socket is not connected.
    pub fn from_socket(socket: UdpSocket, protocol: P) -> Result<Self, ClientError> {
        socket.peer_addr().map_err(ClientError::Adopt)?;
        socket.set_nonblocking(false).map_err(ClientError::Adopt)?;
        Ok(Self { protocol, link: Link::new(socket) })
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// The packet cannot be serialized or is larger than a datagram may be (65 507 bytes over IPv4, 65 527 over IPv6),
    /// the kernel refuses it, or the client is closed.
    pub fn send_packet(&self, packet: P::Sent) -> Result<(), ClientError> {
        let socket = self.link.open()?;
        let datagram = self.protocol.make_datagram(packet)?;
        let sent = socket.send(&check_size(datagram, socket.peer_addr())?);
        self.link.open()?;
        sent.map(drop).map_err(ClientError::Send)
    }

    /// Receives a packet, however long that takes.
    ///
    /// # Errors
    /// What came is no packet (the client can go on), nobody listens there, or the client is closed.
    pub fn recv_packet(&self) -> Result<P::Received, ClientError> {
        self.receive(None)
    }

    /// Receives a packet within this time. The time is a property of the socket: one thread at a time.
    ///
    /// # Errors
    /// Those of [`recv_packet`](Self::recv_packet), and [`ClientError::TimedOut`].
    pub fn recv_packet_within(&self, time: Duration) -> Result<P::Received, ClientError> {
        self.receive(Some(time))
    }

    fn receive(&self, time: Option<Duration>) -> Result<P::Received, ClientError> {
        let socket = self.link.open()?;
        // Zero would mean for ever.
        let limit = time.map(|time| time.max(Duration::from_micros(1)));
        socket.set_read_timeout(limit).map_err(ClientError::Receive)?;
        loop {
            let received = receive(|buffer| socket.recv(buffer));
            self.link.open()?;
            match (received, time) {
                (Ok(datagram), _) => return Ok(self.protocol.build_packet(datagram)?),
                (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => {}
                (Err(error), Some(time)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(ClientError::TimedOut(time));
                }
                (Err(error), _) => return Err(ClientError::Receive(error)),
            }
        }
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

    /// Closes the socket; a thread that waits for a packet gets [`ClientError::Closed`]. Closing twice is no error.
    pub fn close(&self) {
        self.link.close(|socket| SockRef::from(socket).shutdown(std::net::Shutdown::Both));
    }
}
