//! Sockets from the service manager: those of socket units (sd_listen_fds(3)), and our own, which it keeps over a
//! restart or crash with the datagrams that wait in them (the file descriptor store of sd_notify(3)).
//!
//! The two come in one list. Ours are told by a name that holds the socket's own address: no socket unit has it by
//! accident, whatever its FileDescriptorName=. Only sockets that the daemon bound itself are given to the store: one
//! of a socket unit would come back twice.

#![allow(unsafe_code, reason = "descriptors that a parent process left open have no owner yet")]

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::ServiceManager;

/// How the names of our own sockets begin.
const STORED: &str = "echo-udpd-stored-";

/// The sockets that this process was started with.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Inherited {
    /// Of socket units.
    pub(in crate::daemon) handed_over: Vec<UdpSocket>,
    /// From the previous run, each with the name under which the service manager keeps it.
    pub(in crate::daemon) kept: Vec<(String, UdpSocket)>,
}

/// `LISTEN_FDS` or what belongs to it is invalid.
#[derive(Debug, thiserror::Error)]
#[error("receive sockets from the service manager")]
pub(in crate::daemon) struct InheritError(#[from] io::Error);

impl Inherited {
    /// Takes them, once, before anything else opens a file; none when `LISTEN_PID` is not this process.
    pub(in crate::daemon) fn take() -> Result<Self, InheritError> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let mut inherited = Self::default();
        // Names of none, or of another process's, are no names that could be wrong.
        if TAKEN.swap(true, Relaxed) || sd_notify::listen_fds()?.len() == 0 {
            return Ok(inherited);
        }
        for (descriptor, name) in sd_notify::listen_fds_with_names()? {
            // SAFETY: it is open, as fcntl has just shown; `LISTEN_PID` says that it is this process's to own, and this
            // is the only time that it is taken.
            let socket = UdpSocket::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
            if is_own(&name, &socket) {
                inherited.kept.push((name, socket));
            } else {
                inherited.handed_over.push(socket);
            }
        }
        Ok(inherited)
    }

    /// From the previous run those that are to be used again. The others are closed, here and soon in the service
    /// manager too; says whether there were any.
    pub(in crate::daemon) fn keep_only(
        kept: Vec<(String, UdpSocket)>,
        manager: &ServiceManager,
        is_wanted: impl Fn(&UdpSocket) -> bool,
    ) -> (Vec<UdpSocket>, bool) {
        let (wanted, others): (Vec<_>, Vec<_>) = kept.into_iter().partition(|(_, socket)| is_wanted(socket));
        let names: BTreeSet<_> = others.into_iter().map(|(name, _)| name).collect();
        let some_gone = !names.is_empty();
        names.into_iter().for_each(|name| manager.forget(name));
        (wanted.into_iter().map(|(_, socket)| socket).collect(), some_gone)
    }
}

/// Lets the service manager keep these sockets until the service is stopped.
pub(in crate::daemon) fn keep<'a>(
    manager: &ServiceManager,
    sockets: impl Iterator<Item = (SocketAddr, BorrowedFd<'a>)>,
) {
    sockets.for_each(|(address, socket)| manager.keep(name(address), socket));
}

/// Returns whether the kernel would let this process bind the socket's port. It asks for the privilege before it looks
/// whether the address is free, so that any address tells.
pub(in crate::daemon) fn could_bind(socket: &UdpSocket) -> bool {
    let Ok(address) = socket.local_addr() else { return true };
    let probe = UdpSocket::bind((Ipv4Addr::LOCALHOST, address.port()));
    !probe.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// A name for the store: printable, and without a colon, which separates names.
fn name(address: SocketAddr) -> String {
    format!("{STORED}{address}").replace(':', ".")
}

fn is_own(stored_as: &str, socket: &UdpSocket) -> bool {
    socket.local_addr().is_ok_and(|address| name(address) == stored_as)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_sockets_have_names_that_no_other_socket_has() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let own = name(socket.local_addr().unwrap());
        assert!(own.is_ascii() && !own.contains(':') && own.len() < 255);
        assert!(is_own(&own, &socket));
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(!is_own(&own, &other));
        assert!(!is_own(STORED, &socket));
    }
}
