//! What the service manager hears: sd_notify(3), through the socket that `NOTIFY_SOCKET` names.
//!
//! Without a service manager nothing is sent. No byte of a stranger ever goes into a status line.

use std::error::Error;
use std::io;
use std::time::Duration;

use sd_notify::NotifyState;

/// The status line, sent again only when it changed.
#[derive(Debug, Default)]
pub(super) struct ServiceManager {
    status: String,
}

impl ServiceManager {
    /// Every socket answers.
    pub(super) fn ready(&mut self, status: String) {
        self.status = status;
        send(&[NotifyState::Ready, NotifyState::Status(&self.status)]);
    }

    pub(super) fn status(&mut self, status: String) {
        if status != self.status {
            self.status = status;
            send(&[NotifyState::Status(&self.status)]);
        }
    }

    /// A reload has begun: RELOADING=1 and MONOTONIC_USEC= in one message, as sd_notify(3) wants it.
    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => send(&[NotifyState::Reloading, now]),
            Err(error) => tracing::debug!("the service manager is not told of the reload: {error}"),
        }
    }

    /// The service answers.
    pub(super) fn alive(&self) {
        send(&[NotifyState::Watchdog]);
    }

    pub(super) fn stopping(&mut self) {
        self.status = "stopping".into();
        send(&[NotifyState::Stopping, NotifyState::Status(&self.status)]);
    }
}

/// How often the service manager wants to hear that the service answers: half of WatchdogSec=; `None` = not at all.
pub(super) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// Says why the service could not start, with the errno where there is one.
pub(super) fn failed(error: &(dyn Error + 'static), line: &str) {
    let mut states = vec![NotifyState::Status(line)];
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(errno) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            states.push(NotifyState::Errno(errno.unsigned_abs()));
            break;
        }
        cause = error.source();
    }
    send(&states);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager was not told {states:?}: {error}");
    }
}
