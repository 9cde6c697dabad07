//! The client for tokio.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::{ToSocketAddrs, UdpSocket, lookup_host};
use tokio::task::coop::consume_budget;
use tokio::time::timeout;

use super::link::{Link, receive};
use super::{ClientError, ConnectOptions};
use crate::protocol::DatagramProtocol;
use crate::socket::disable_error_queue;

/// A client of one server, for use with tokio.
///
/// Sending and receiving take `&self`: share the client in an [`Arc`](std::sync::Arc) to do both at once.
#[derive(Debug)]
pub struct UdpClient<P> {
    protocol: P,
    link: Link<UdpSocket>,
}

impl<P: DatagramProtocol> UdpClient<P> {
    /// Connects to a name and port, `("localhost", 9000)`: the first of its addresses that can be connected to.
    ///
    /// Connecting a datagram socket sends nothing: only the first reply shows whether anything is listening there.
    ///
    /// # Errors
    /// The name has no address, or none of them can be connected to.
    pub async fn connect(server: impl ToSocketAddrs, protocol: P) -> Result<Self, ClientError> {
        Self::connect_with(&ConnectOptions::new(), server, protocol).await
    }

    /// Connects with these options.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect), or no address is of the family.
    pub async fn connect_with(
        options: &ConnectOptions,
        server: impl ToSocketAddrs,
        protocol: P,
    ) -> Result<Self, ClientError> {
        let addresses = lookup_host(server).await.map_err(ClientError::Resolve)?;
        Ok(Self { protocol, link: options.connect(addresses, open)? })
    }

    /// Uses a socket that is already connected.
    ///
    /// # Errors
    /// The socket is not connected, or cannot be used with tokio.
    pub fn from_socket(socket: std::net::UdpSocket, protocol: P) -> Result<Self, ClientError> {
        Ok(Self { protocol, link: open(socket).map_err(ClientError::Adopt)? })
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// The packet cannot be serialized or is larger than a datagram may be (65 507 bytes over IPv4, 65 527 over IPv6),
    /// the kernel refuses it, or the client is closed.
    pub async fn send_packet(&self, packet: P::Sent) -> Result<(), ClientError> {
        let socket = self.link.open()?;
        let datagram = self.protocol.make_datagram(packet)?;
        self.link.check_size(&datagram)?;
        let sent = socket.send(&datagram).await;
        self.link.open()?;
        sent.map(drop).map_err(ClientError::Send)
    }

    /// Receives a packet.
    ///
    /// Cancel-safe: a datagram is taken from the socket only when it is returned.
    ///
    /// # Errors
    /// The reply is not a valid packet (the client remains usable), nothing is listening, or the client is closed.
    pub async fn recv_packet(&self) -> Result<P::Received, ClientError> {
        let socket = self.link.open()?;
        loop {
            // An ICMP error alone does not make a socket readable.
            let ready = socket.ready(Interest::READABLE | Interest::ERROR).await;
            self.link.open()?;
            let received = ready.and_then(|ready| {
                let interest = if ready.is_error() { Interest::ERROR } else { Interest::READABLE };
                socket.try_io(interest, || receive(&*socket))
            });
            match received {
                Ok(datagram) => return Ok(self.protocol.build_packet(datagram)?),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(ClientError::Receive(error)),
            }
        }
    }

    /// Receives a packet within this time. With a time of zero it takes a datagram that has already arrived.
    ///
    /// # Errors
    /// Those of [`recv_packet`](Self::recv_packet), and [`ClientError::TimedOut`].
    pub async fn recv_packet_within(&self, time: Duration) -> Result<P::Received, ClientError> {
        if time.is_zero() {
            // A caller that does this in a loop must not keep other tasks from running.
            consume_budget().await;
        } else if let Ok(received) = timeout(time, self.recv_packet()).await {
            return received;
        }
        // A datagram may have arrived that the runtime has not noticed yet.
        let received = receive(&*self.link.open()?);
        self.link.open()?;
        match received {
            Ok(datagram) => Ok(self.protocol.build_packet(datagram)?),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(ClientError::TimedOut(time)),
            Err(error) => Err(ClientError::Receive(error)),
        }
    }
}

impl<P> UdpClient<P> {
    /// The local address that the client sends from.
    ///
    /// # Errors
    /// The client is closed.
    pub fn local_address(&self) -> Result<SocketAddr, ClientError> {
        self.link.local_address()
    }

    /// The server's address.
    ///
    /// # Errors
    /// The client is closed.
    pub fn server_address(&self) -> Result<SocketAddr, ClientError> {
        self.link.server_address()
    }

    /// Returns whether the client was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.link.open().is_err()
    }

    /// Closes the socket; a task that waits for a packet gets [`ClientError::Closed`]. Closing twice is no error.
    pub fn close(&self) {
        self.link.close();
    }
}

/// Registers a connected socket with tokio.
fn open(socket: std::net::UdpSocket) -> io::Result<Link<UdpSocket>> {
    disable_error_queue(&socket)?;
    socket.set_nonblocking(true)?;
    Link::new(UdpSocket::from_std(socket)?)
}
