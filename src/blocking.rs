//! The blocking twins, for programs without an asynchronous runtime.
//!
//! [`UdpServer`] drives the asynchronous server on a runtime that it makes: loop and life cycle are the same.
//! [`UdpClient`] is a client on a blocking socket.

pub use crate::client::blocking::UdpClient;
pub use crate::server::blocking::{BackgroundServer, UdpServer};
