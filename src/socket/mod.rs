//! Sockets, and datagrams with both of their addresses.
//!
//! Binds through socket2 ([`bind`]), and moves datagrams in batches (`recvmmsg(2)`, `sendmmsg(2)`) with the packet
//! information that names the destination (`ip(7)`, `ipv6(7)`; RFC 3542 s6). Knows no JSON and no policy. All `unsafe`
//! code is here, except for taking the descriptors that a service manager left open.

#![allow(unsafe_code, reason = "recvmmsg, sendmmsg and some socket options have no safe wrapper")]

mod ancillary;
mod bind;
mod bound;
mod datagram;
mod interface;
mod messages;
mod options;
mod receive;
mod send;
mod sockaddr;
mod wait;
mod watch;

pub use ancillary::ControlMessages;
pub use bind::{BindTarget, adopt, bind, client_ports};
pub use bound::{BindError, BoundSocket, Families, SocketOptions};
pub use datagram::{Datagram, Destination, Flow, MAX_PAYLOAD_IPV4, MAX_PAYLOAD_IPV6, Outgoing, max_payload};
pub use interface::{interface_index, interface_name};
pub(crate) use options::disable_error_queue;
pub use options::kernel_drops;
pub use receive::ReceiveBatch;
pub use send::{SendBatch, SendOutcome};
#[cfg(feature = "daemon")]
pub(crate) use wait::wait_writable;
pub(crate) use wait::{receive_now, wait_readable};
pub(crate) use watch::watch_readable;

/// The most messages that one system call moves: each is a datagram, or a run of them.
pub const BATCH_SIZE: usize = 64;
