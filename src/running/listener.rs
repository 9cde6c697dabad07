//! An address that a server listens on.

use std::net::SocketAddr;

use crate::socket::{BoundSocket, Families};

/// An address that a server listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listener {
    /// The address, with the real port.
    pub address: SocketAddr,
    /// The IP families that it accepts.
    pub families: Families,
    /// The name of the [`Service`](crate::server::Service) there; empty if it has none.
    pub service: &'static str,
    /// Bytes of receive buffer that the kernel granted.
    pub receive_buffer: usize,
    /// Bytes of send buffer that the kernel granted.
    pub send_buffer: usize,
}

impl Listener {
    pub(crate) fn new(bound: &BoundSocket, service: &'static str) -> Self {
        let BoundSocket { address, families, receive_buffer, send_buffer, .. } = *bound;
        Self { address, families, service, receive_buffer, send_buffer }
    }

    /// Returns whether this is the listener of the service at this address.
    pub(crate) fn is_at(&self, address: SocketAddr, service: &str) -> bool {
        self.address == address && self.service == service
    }
}
