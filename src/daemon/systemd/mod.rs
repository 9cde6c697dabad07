//! What the service manager hears, through the socket that `NOTIFY_SOCKET` names (sd_notify(3)), and the sockets that it
//! hands over or keeps ([`sockets`]).
//!
//! Without a service manager nothing is sent. No byte of a stranger ever goes into a status line.

pub(super) mod sockets;

use std::io;
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::message;

/// systemd starts a service at once for each datagram that waits in a socket unit's socket: neither RestartSec= nor
/// RestartPreventExitStatus= has a say in it.
const HOLD_BACK: Duration = Duration::from_secs(2);

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
            Err(error) => untold("a reload", &error),
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

/// Says why the service could not start.
pub(super) fn failed(line: &str, errno: i32) {
    // A newline would begin another variable.
    let line = line.lines().next().unwrap_or_default();
    send(&[NotifyState::Status(line), NotifyState::Errno(errno.unsigned_abs())]);
}

/// Waits before the process ends, so that one that cannot start is not started a thousand times a second.
pub(super) fn hold_back() {
    thread::sleep(HOLD_BACK);
}

/// Whether somebody would hear.
pub(super) fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        untold(&format!("{states:?}"), &error);
    }
}

fn untold(what: &str, error: &io::Error) {
    tracing::debug!(message_id = message::UNTOLD, "the service manager was not told of {what}: {error}");
}
