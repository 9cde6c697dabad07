//! The reasons why a command of the client program failed, with their messages and exit statuses.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use crate::client::ClientError;
use crate::printable::Printable;
use crate::serializer::DeserializeError;

/// The reason why a command failed; an address is text, as [`Server::show`](super::server::Server::show) writes it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Also what --help and --version print.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    #[error("resolve {}", Printable::raw(.host.as_bytes()))]
    Resolve { host: String, source: io::Error },
    #[error("{} has no {family} address", Printable::raw(.host.as_bytes()))]
    NoAddress { host: String, family: &'static str },
    #[error("{address} is not a unicast address: it reaches many hosts")]
    NotUnicast { address: String },
    #[error("a link-local address needs its interface: {ip}%eth0")]
    NoInterface { ip: IpAddr },
    #[error("read standard input")]
    ReadInput(#[source] io::Error),
    #[error("standard input is more than {limit} bytes, the most that a datagram carries")]
    InputTooLarge { limit: usize },
    #[error("write standard output")]
    WriteOutput(#[source] io::Error),
    #[error("connect to {address}")]
    Connect { address: String, source: io::Error },
    #[error("connect to {address} (a broadcast address, or forbidden by this host)")]
    Forbidden { address: String, source: io::Error },
    #[error("send to {address}")]
    Send { address: String, source: io::Error },
    #[error("receive from {address}")]
    Receive { address: String, source: io::Error },
    /// An error that does not depend on the server.
    #[error(transparent)]
    Client(ClientError),
    #[error(
        "no reply from {address} within {} s (the server may be rate limiting; echo-udpd by default allows \
         200 datagrams and 10 error replies per second to one source)",
        .wait.as_secs_f64()
    )]
    NoReply { address: String, wait: Duration },
    #[error("connection refused by {address} (nothing is listening there)")]
    Refused { address: String },
    #[error("{address} replied with an error: {text}")]
    ErrorReply { address: String, text: String },
    #[error("invalid reply from {address}")]
    InvalidReply { address: String, source: DeserializeError },
    #[error("the reply from {address} differs from what was sent")]
    Different { address: String },
}

impl Failure {
    /// The failure that a client's error stands for, with this address and this time to wait.
    pub(super) fn of_client(error: ClientError, address: String, wait: Duration) -> Self {
        match error {
            error if error.is_refused() => Self::Refused { address },
            ClientError::TimedOut(_) => Self::NoReply { address, wait },
            ClientError::Send(source) => Self::Send { address, source },
            // An ICMP error of the server's host or of a router on the way.
            ClientError::Receive(source) => Self::Receive { address, source },
            // connect(2): a socket that may not send broadcasts cannot be connected to a broadcast address.
            ClientError::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Self::Forbidden { address, source }
            }
            ClientError::Connect { source, .. } => Self::Connect { address, source },
            error => Self::Client(error),
        }
    }

    /// The exit status. 1: no reply, or a wrong one. 2: nothing could be sent, or printed.
    pub(super) fn status(&self) -> u8 {
        match self {
            Self::Receive { .. }
            | Self::NoReply { .. }
            | Self::Refused { .. }
            | Self::ErrorReply { .. }
            | Self::InvalidReply { .. }
            | Self::Different { .. } => 1,
            Self::CommandLine(_)
            | Self::Resolve { .. }
            | Self::NoAddress { .. }
            | Self::NotUnicast { .. }
            | Self::NoInterface { .. }
            | Self::ReadInput(_)
            | Self::InputTooLarge { .. }
            | Self::WriteOutput(_)
            | Self::Connect { .. }
            | Self::Forbidden { .. }
            | Self::Send { .. }
            | Self::Client(_) => 2,
        }
    }
}
