//! The client: sends packets to one server, and receives only from it.
//!
//! Its socket is connected: the kernel delivers what that endpoint sends and nothing else, and "connection refused" (an
//! ICMP port unreachable) comes back as an error. `blocking` is the twin without a runtime. This room does not know
//! the server's.

mod asynchronous;
pub(crate) mod blocking;
mod connect;
mod error;
mod link;

pub use asynchronous::UdpClient;
pub use connect::{ConnectOptions, Family};
pub use error::ClientError;
