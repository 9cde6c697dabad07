//! Sockets from the service manager: those of socket units (sd_listen_fds(3)), and our own, which it keeps across a
//! restart or crash with the datagrams queued in them (the file descriptor store of sd_notify(3)).
//!
//! Both come in one list, each socket with a name. The names of our own begin with `kept-` and contain the socket's
//! address; a socket unit may not use such a name, but its name may be the protocol of its sockets. Only sockets that
//! the daemon bound itself go into the store: one of a socket unit would come back twice. Their protocol is that of
//! `listen`.

#![allow(unsafe_code, reason = "descriptors that a parent process left open have no owner yet")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::ServiceManager;
use crate::daemon::settings::Protocol;

/// The prefix of our own sockets' names.
const KEPT: &str = "kept-";

/// The sockets that this process was started with.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Inherited {
    /// The sockets of socket units.
    pub(in crate::daemon) handed_over: Vec<PassedSocket>,
    /// The sockets of the previous run, each with the name under which the service manager keeps it.
    pub(in crate::daemon) kept: Vec<(String, UdpSocket)>,
}

/// A socket of a socket unit.
#[derive(Debug)]
pub(in crate::daemon) struct PassedSocket {
    pub(in crate::daemon) socket: UdpSocket,
    /// The protocol that FileDescriptorName= names; `None` = that of `reply.protocol`.
    pub(in crate::daemon) protocol: Option<Protocol>,
}

/// Sockets that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::daemon) enum InheritError {
    /// `LISTEN_FDS` or a related variable is invalid.
    #[error("receive sockets from the service manager")]
    Receive(#[from] io::Error),
    /// A socket unit uses a name that only our own sockets have.
    #[error(
        "FileDescriptorName={} of a socket unit is reserved: names that begin with {KEPT} are for the daemon's own \
         sockets; expected \"raw\", \"json\" or any other name",
        .0.escape_debug()
    )]
    ReservedName(String),
    /// Sockets of one address have different protocols: each client would get the one that the kernel picks for it.
    #[error(
        "the socket units pass {address} as {} and as {}: give the sockets of one address the same \
         FileDescriptorName=",
        .protocols[0], .protocols[1]
    )]
    TwoProtocols {
        /// The address of both.
        address: SocketAddr,
        /// What their names say, or `reply.protocol`.
        protocols: [Protocol; 2],
    },
}

impl Inherited {
    /// Takes the inherited sockets, once, before anything else opens a file; none if `LISTEN_PID` is not this process.
    pub(in crate::daemon) fn take() -> Result<Self, InheritError> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let mut inherited = Self::default();
        // Names without sockets, or for another process, are not checked.
        if TAKEN.swap(true, Relaxed) || sd_notify::listen_fds()?.len() == 0 {
            return Ok(inherited);
        }
        for (descriptor, name) in sd_notify::listen_fds_with_names()? {
            // SAFETY: it is open, as fcntl has just shown; `LISTEN_PID` says that it belongs to this process, and it is
            // taken only this once.
            let socket = UdpSocket::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
            inherited.add(name, socket)?;
        }
        Ok(inherited)
    }

    fn add(&mut self, name: String, socket: UdpSocket) -> Result<(), InheritError> {
        if is_own(&name, &socket) {
            self.kept.push((name, socket));
        } else if name.starts_with(KEPT) {
            return Err(InheritError::ReservedName(name));
        } else {
            self.handed_over.push(PassedSocket { socket, protocol: name.parse().ok() });
        }
        Ok(())
    }

    /// The sockets of socket units, each with the protocol that its name says or this one.
    ///
    /// # Errors
    /// Sockets of one address have different protocols.
    pub(in crate::daemon) fn with_default(
        handed_over: Vec<PassedSocket>,
        protocol: Protocol,
    ) -> Result<Vec<(UdpSocket, Protocol)>, InheritError> {
        let mut protocols = BTreeMap::new();
        let mut sockets = Vec::with_capacity(handed_over.len());
        for passed in handed_over {
            let protocol = passed.protocol.unwrap_or(protocol);
            // A socket without an address is refused when it is adopted.
            if let Ok(address) = passed.socket.local_addr() {
                let first = *protocols.entry(address).or_insert(protocol);
                if first != protocol {
                    return Err(InheritError::TwoProtocols { address, protocols: [first, protocol] });
                }
            }
            sockets.push((passed.socket, protocol));
        }
        Ok(sockets)
    }

    /// Picks the sockets of the previous run that are to be used again. The others are closed, here and soon in the
    /// service manager too; returns whether there were any.
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

/// Asks the service manager to keep these sockets until the service is stopped.
pub(in crate::daemon) fn keep<'a>(
    manager: &ServiceManager,
    sockets: impl Iterator<Item = (SocketAddr, BorrowedFd<'a>)>,
) {
    sockets.for_each(|(address, socket)| manager.keep(name(address), socket));
}

/// Returns whether the kernel would let this process bind the socket's port. The kernel checks the privilege before it
/// checks whether the address is free, so any address will do.
pub(in crate::daemon) fn could_bind(socket: &UdpSocket) -> bool {
    let Ok(address) = socket.local_addr() else { return true };
    let probe = UdpSocket::bind((Ipv4Addr::LOCALHOST, address.port()));
    !probe.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// A name for the store: printable, and without a colon, which separates names.
fn name(address: SocketAddr) -> String {
    format!("{KEPT}{address}").replace(':', ".")
}

fn is_own(kept_as: &str, socket: &UdpSocket) -> bool {
    socket.local_addr().is_ok_and(|address| name(address) == kept_as)
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
        assert!(!is_own(KEPT, &socket));
    }

    #[test]
    fn the_name_of_a_socket_unit_s_socket_may_be_a_protocol_but_never_one_of_our_own_names() {
        let socket = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut inherited = Inherited::default();
        for (given, protocol) in [
            ("raw", Some(Protocol::Raw)),
            ("json", Some(Protocol::Json)),
            ("JSON", Some(Protocol::Json)),
            ("echo-udpd.socket", None),
            ("raw ", None),
            ("", None),
        ] {
            inherited.add(given.to_owned(), socket()).unwrap();
            assert_eq!(inherited.handed_over.last().unwrap().protocol, protocol, "{given:?}");
        }
        for reserved in [KEPT, "kept-9000", &name("127.0.0.1:9".parse().unwrap())] {
            let refused = inherited.add(reserved.to_owned(), socket()).unwrap_err().to_string();
            assert!(refused.starts_with(&format!("FileDescriptorName={reserved} of a socket unit is reserved")));
        }
        let own = socket();
        inherited.add(name(own.local_addr().unwrap()), own).unwrap();
        assert_eq!((inherited.handed_over.len(), inherited.kept.len()), (6, 1));
    }
}
