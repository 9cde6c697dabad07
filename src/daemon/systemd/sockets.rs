//! Sockets from the service manager: those of socket units (sd_listen_fds(3)), and our own, which it keeps over a restart
//! or crash with the datagrams that wait in them (the file descriptor store of sd_notify(3)).
//!
//! The two come in one list and are told apart by name. Only sockets that the daemon bound itself are given to the store:
//! one of a socket unit would come back twice.

#![allow(unsafe_code, reason = "descriptors that a parent process left open have no owner yet")]

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use sd_notify::NotifyState;

use super::untold;

/// How the names of our own sockets begin.
const KEPT: &str = "kept-";

/// The sockets that this process was started with.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Inherited {
    /// Of socket units.
    pub(in crate::daemon) handed_over: Vec<UdpSocket>,
    /// Of an earlier run, each with the name under which the service manager keeps it.
    pub(in crate::daemon) kept: Vec<(String, UdpSocket)>,
}

/// `LISTEN_FDS` or what belongs to it makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("take over the service manager's sockets")]
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
            if name.starts_with(KEPT) {
                inherited.kept.push((name, socket));
            } else {
                inherited.handed_over.push(socket);
            }
        }
        Ok(inherited)
    }

    /// Of an earlier run those that are to be used again. The others are closed, here and soon in the service manager too;
    /// says whether there were any.
    pub(in crate::daemon) fn keep_only(
        kept: Vec<(String, UdpSocket)>,
        is_wanted: impl Fn(&UdpSocket) -> bool,
    ) -> (Vec<UdpSocket>, bool) {
        let (wanted, others): (Vec<_>, Vec<_>) = kept.into_iter().partition(|(_, socket)| is_wanted(socket));
        let names: BTreeSet<_> = others.into_iter().map(|(name, _)| name).collect();
        for name in &names {
            super::send(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
        }
        (wanted.into_iter().map(|(_, socket)| socket).collect(), !names.is_empty())
    }
}

/// Lets the service manager keep these sockets until the service is stopped.
pub(in crate::daemon) fn keep<'a>(sockets: impl Iterator<Item = (SocketAddr, BorrowedFd<'a>)>) {
    for (address, socket) in sockets {
        let name = name(address);
        // Without FDPOLL=0 the service manager would close a socket that has an error pending. One that it keeps already
        // is not kept twice.
        let states = [NotifyState::FdStore, NotifyState::FdName(&name), NotifyState::Custom("FDPOLL=0")];
        if let Err(error) = sd_notify::notify_with_fds(&states, &[socket]) {
            untold(&format!("the socket {name}"), &error);
        }
    }
}

/// A name for the store: printable, and without a colon, which separates names.
fn name(address: SocketAddr) -> String {
    format!("{KEPT}{address}").replace(':', ".")
}
