//! The read readiness of a socket.
//!
//! tokio's own socket registers for both directions: every datagram that leaves makes it writable again, which wakes
//! its loop.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a socket for datagrams, on the current runtime.
///
/// # Errors
/// The runtime cannot watch it.
pub(crate) fn watch_readable(socket: Arc<UdpSocket>) -> io::Result<AsyncFd<Arc<UdpSocket>>> {
    // SAFETY: the Arc that moves in owns the descriptor through a UdpSocket, which nobody in this crate replaces
    // (`AsyncFd::get_mut` is never called), so the descriptor is open and the same for as long as the registration
    // lives.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}
