//! Errors between a client and its server.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::protocol::DatagramProtocolParseError;
use crate::serializer::SerializeError;

/// An error between a client and its server.
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
        /// The cause.
        source: io::Error,
    },
    /// The given socket is not a connected UDP socket.
    #[error("use the given socket")]
    Adopt(#[source] io::Error),
    /// The packet cannot be serialized.
    #[error(transparent)]
    Serialize(#[from] SerializeError),
    /// The packet does not fit in a datagram.
    #[error("packet is {size} bytes; a datagram carries at most {limit}")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The largest payload to this server.
        limit: usize,
    },
    /// Sending failed; `ConnectionRefused` is about an earlier datagram.
    #[error("send")]
    Send(#[source] io::Error),
    /// Receiving failed; `ConnectionRefused` means that nothing is listening there.
    #[error("receive")]
    Receive(#[source] io::Error),
    /// The kernel could not wait for a reply.
    #[error("wait for a reply")]
    Wait(#[source] io::Error),
    /// Nothing came in time.
    #[error("no reply within {0:?}")]
    TimedOut(Duration),
    /// The reply is not a valid packet; the client remains usable.
    #[error("the reply is not a valid packet")]
    Parse(#[from] DatagramProtocolParseError),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl ClientError {
    /// Returns whether the server's host reported that nothing is listening on that port.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        let (Self::Send(error) | Self::Receive(error)) = self else { return false };
        error.kind() == io::ErrorKind::ConnectionRefused
    }
}
