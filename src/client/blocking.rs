//! The client on a blocking socket.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use super::link::{Link, receive};
use super::{ClientError, ConnectOptions};
use crate::protocol::DatagramProtocol;
use crate::socket::{disable_error_queue, wait_readable};

/// A client of one server that blocks the thread.
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
    pub fn connect(server: impl ToSocketAddrs, protocol: P) -> Result<Self, ClientError> {
        Self::connect_with(&ConnectOptions::new(), server, protocol)
    }

    /// Connects with these options.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect), or no address is of the family.
    pub fn connect_with(
        options: &ConnectOptions,
        server: impl ToSocketAddrs,
        protocol: P,
    ) -> Result<Self, ClientError> {
        let addresses = server.to_socket_addrs().map_err(ClientError::Resolve)?;
        Ok(Self { protocol, link: options.connect(addresses, open)? })
    }

    /// Uses a socket that is already connected.
    ///
    /// # Errors
    /// The socket is not connected.
    pub fn from_socket(socket: UdpSocket, protocol: P) -> Result<Self, ClientError> {
        Ok(Self { protocol, link: open(socket).map_err(ClientError::Adopt)? })
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// The packet cannot be serialized or is larger than a datagram may be (65 507 bytes over IPv4, 65 527 over IPv6),
    /// the kernel refuses it, or the client is closed.
    pub fn send_packet(&self, packet: P::Sent) -> Result<(), ClientError> {
        let socket = self.link.open()?;
        let datagram = self.protocol.make_datagram(packet)?;
        self.link.check_size(&datagram)?;
        let sent = socket.send(&datagram);
        self.link.open()?;
        sent.map(drop).map_err(ClientError::Send)
    }

    /// Receives a packet; waits as long as it takes.
    ///
    /// # Errors
    /// The reply is not a valid packet (the client remains usable), nothing is listening, or the client is closed.
    pub fn recv_packet(&self) -> Result<P::Received, ClientError> {
        self.receive(None)
    }

    /// Receives a packet within this time. With a time of zero it takes a datagram that has already arrived.
    ///
    /// The time applies to this call alone: other threads may receive meanwhile, each with its own.
    ///
    /// # Errors
    /// Those of [`recv_packet`](Self::recv_packet), and [`ClientError::TimedOut`].
    pub fn recv_packet_within(&self, time: Duration) -> Result<P::Received, ClientError> {
        self.receive(Some(time))
    }

    fn receive(&self, time: Option<Duration>) -> Result<P::Received, ClientError> {
        let socket = self.link.open()?;
        let start = Instant::now();
        loop {
            let remaining = time.map(|time| time.saturating_sub(start.elapsed()));
            wait_readable(&*socket, remaining).map_err(ClientError::Wait)?;
            let received = receive(&*socket);
            self.link.open()?;
            match (received, time) {
                (Ok(datagram), _) => return Ok(self.protocol.build_packet(datagram)?),
                (Err(error), _) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Err(ClientError::Receive(error));
                }
                (Err(_), Some(time)) if start.elapsed() >= time => return Err(ClientError::TimedOut(time)),
                // A signal came, or another thread has taken the datagram.
                (Err(_), _) => {}
            }
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

    /// Closes the socket; a thread that waits for a packet gets [`ClientError::Closed`]. Closing twice is no error.
    pub fn close(&self) {
        self.link.close();
    }
}

/// Prepares a connected socket: sends on it wait for room.
fn open(socket: UdpSocket) -> io::Result<Link<UdpSocket>> {
    disable_error_queue(&socket)?;
    socket.set_nonblocking(false)?;
    Link::new(socket)
}
