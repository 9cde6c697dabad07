//! The end of the process: why it could not run, its exit status, and the last line that says so.

use std::error::Error;
use std::io;
use std::time::Duration;

use super::logging::{self, LoggingError};
use super::settings::source::SettingsError;
use super::signals::{Requests, SignalError};
use super::systemd::sockets::InheritError;
use super::systemd::{self, ServiceManager};
use crate::failure_chain::FailureChain;
use crate::server::ServeError;
use crate::socket::BindError;

/// The time that a daemon that cannot start waits before it exits. systemd starts a service at once while a datagram
/// waits in a socket of its socket unit: neither RestartSec= nor RestartPreventExitStatus= applies.
const RESTART_DELAY: Duration = Duration::from_secs(2);

/// The reason why the daemon did not run, or did not end as asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum DaemonError {
    #[error("{}", first_line(.0))]
    Usage(clap::Error),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A stop was requested before the daemon had done what it was started for.
    #[error("interrupted")]
    Interrupted,
    #[error("write standard output")]
    WriteOutput(#[source] io::Error),
    #[error(transparent)]
    Signals(#[from] SignalError),
    #[error("start the control thread")]
    StartControl(#[source] io::Error),
    #[error("the control thread panicked")]
    ControlPanicked,
    #[error(transparent)]
    Inherit(#[from] InheritError),
    #[error(transparent)]
    Logging(#[from] LoggingError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Serve(ServeError),
    /// The server ended by itself after it had served.
    #[error(transparent)]
    Ended(ServeError),
}

impl DaemonError {
    /// The exit status; 78 is EX_CONFIG of sysexits.h.
    pub(super) fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Settings(_) | Self::Inherit(InheritError::ReservedName(_) | InheritError::TwoProtocols { .. }) => 78,
            Self::Interrupted
            | Self::WriteOutput(_)
            | Self::Signals(_)
            | Self::StartControl(_)
            | Self::ControlPanicked
            | Self::Inherit(InheritError::Receive(_))
            | Self::Logging(_)
            | Self::Bind(_)
            | Self::Serve(_)
            | Self::Ended(_) => 1,
        }
    }

    /// The errno(3) that comes closest.
    fn errno(&self) -> i32 {
        match self {
            Self::Usage(_) => return libc::EINVAL,
            Self::Bind(BindError::AddressInUse { .. }) => return libc::EADDRINUSE,
            Self::Bind(BindError::PermissionDenied { .. }) => return libc::EACCES,
            _ => {}
        }
        let mut cause: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(errno) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
                return errno;
            }
            cause = error.source();
        }
        libc::EINVAL
    }

    /// Returns whether a service manager would restart the daemon at once, in vain: for the datagram that still waits
    /// if a socket unit passed the sockets, else for Restart=, unless RestartPreventExitStatus= lists the status.
    fn would_restart_at_once(&self, triggered: bool) -> bool {
        triggered || (systemd::is_supervised() && self.status() == 1 && !matches!(self, Self::Ended(_)))
    }

    /// Reports why the process ends, to the operator and the service manager.
    pub(super) fn report(&self, manager: &ServiceManager) {
        let line = FailureChain(self).to_string();
        manager.failed(&line, self.errno());
        match self {
            // With the usage and a hint.
            Self::Usage(usage) if !logging::stderr_is_the_journal() => logging::write_usage(usage),
            Self::Settings(SettingsError::Invalid { path, faults }) => {
                logging::report_fatal(&faults.lines(path).collect::<Vec<_>>());
            }
            _ => logging::report_fatal(&[line]),
        }
    }

    /// Waits, so that a daemon that cannot start is not restarted a thousand times per second. A request to stop ends
    /// the wait.
    pub(super) fn delay_restart(&self, triggered: bool, requests: &Requests) {
        if self.would_restart_at_once(triggered) {
            requests.wait_for_stop(RESTART_DELAY);
        }
    }
}

/// The error alone: clap adds the usage and a hint.
fn first_line(error: &clap::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
