//! The connected socket of a client, blocking or not, until it is closed.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use socket2::{SockAddr, SockRef};

use super::ClientError;
use crate::socket::{max_payload, receive_now};

/// A connected socket that can be closed while other threads or tasks wait on it.
#[derive(Debug)]
pub(super) struct Link<S> {
    socket: Mutex<Option<Arc<S>>>,
    local: SocketAddr,
    server: SocketAddr,
}

impl<S: AsFd> Link<S> {
    /// Takes a socket, which must be connected.
    pub(super) fn new(socket: S) -> io::Result<Self> {
        let internet = |address: SockAddr| {
            address.as_socket().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a UDP socket"))
        };
        let reference = SockRef::from(&socket);
        let (local, server) = (internet(reference.local_addr()?)?, internet(reference.peer_addr()?)?);
        Ok(Self { socket: Mutex::new(Some(Arc::new(socket))), local, server })
    }

    /// Closes the socket, and wakes those that wait on it.
    pub(super) fn close(&self) {
        if let Some(socket) = self.lock().take() {
            // Fails only if nobody can be waiting.
            let _ = SockRef::from(&*socket).shutdown(Shutdown::Both);
        }
    }
}

impl<S> Link<S> {
    /// The socket, unless it was closed.
    pub(super) fn open(&self) -> Result<Arc<S>, ClientError> {
        self.lock().clone().ok_or(ClientError::Closed)
    }

    pub(super) fn local_address(&self) -> Result<SocketAddr, ClientError> {
        self.open().map(|_| self.local)
    }

    pub(super) fn server_address(&self) -> Result<SocketAddr, ClientError> {
        self.open().map(|_| self.server)
    }

    /// Refuses a payload that no datagram to this server can carry.
    pub(super) fn check_size(&self, datagram: &Bytes) -> Result<(), ClientError> {
        let (size, limit) = (datagram.len(), max_payload(self.server));
        if size <= limit { Ok(()) } else { Err(ClientError::TooLarge { size, limit }) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<S>>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Receives the datagram that waits in the socket, whatever its size, into a buffer of exactly that size.
pub(super) fn receive(socket: impl AsFd) -> io::Result<Bytes> {
    let mut buffer = [0; 1 << 16];
    let length = receive_now(socket, &mut buffer)?;
    Ok(Bytes::copy_from_slice(&buffer[..length]))
}
