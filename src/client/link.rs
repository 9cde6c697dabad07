//! The socket of either client: who waits on it may be told that it is closed.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::ClientError;
use crate::protocol::{MAX_PAYLOAD_IPV4, MAX_PAYLOAD_IPV6};

/// A socket until it is closed.
#[derive(Debug)]
pub(super) struct Link<S>(Mutex<Option<Arc<S>>>);

impl<S> Link<S> {
    pub(super) fn new(socket: S) -> Self {
        Self(Mutex::new(Some(Arc::new(socket))))
    }

    pub(super) fn open(&self) -> Result<Arc<S>, ClientError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(ClientError::Closed)
    }

    /// Lets go of the socket; `wake` ends the waits of those who still use it.
    pub(super) fn close(&self, wake: impl FnOnce(&S) -> io::Result<()>) {
        if let Some(socket) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Fails only where nobody can be waiting.
            let _ = wake(&socket);
        }
    }
}

pub(super) fn check_size(datagram: Bytes, server: io::Result<SocketAddr>) -> Result<Bytes, ClientError> {
    let ipv4 = server.map_err(ClientError::Send)?.ip().to_canonical().is_ipv4();
    let limit = if ipv4 { MAX_PAYLOAD_IPV4 } else { MAX_PAYLOAD_IPV6 };
    if datagram.len() <= limit { Ok(datagram) } else { Err(ClientError::TooLarge { size: datagram.len(), limit }) }
}

/// Receives one datagram of any size, and keeps it at its own.
pub(super) fn receive(receive: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<Bytes> {
    let mut buffer = [0; 1 << 16];
    let length = receive(&mut buffer)?;
    Ok(Bytes::copy_from_slice(&buffer[..length]))
}
