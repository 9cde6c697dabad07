//! The client: packets to one server, and only from it.
//!
//! A connected socket: the kernel passes on what that endpoint sends and nothing else, and "connection refused" (an
//! ICMP port unreachable) comes back as an error. `blocking` is the twin without a runtime. Knows no server.

mod asynchronous;
pub(crate) mod blocking;
mod connect;
mod error;
mod link;

pub use asynchronous::UdpClient;
pub use connect::{ConnectOptions, Family};
pub use error::ClientError;
