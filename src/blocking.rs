//! The blocking twins, for programs without an asynchronous runtime.
//!
//! [`UdpServer`] drives the asynchronous server on a runtime of its own; there is no second loop. [`UdpClient`] is the
//! client on a blocking socket.

pub use crate::client::blocking::UdpClient;
pub use crate::server::blocking::{BackgroundServer, UdpServer};
