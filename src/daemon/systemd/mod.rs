//! The service manager: notifications to it through the socket that `NOTIFY_SOCKET` names (sd_notify(3)), and the
//! sockets that it passes or keeps ([`sockets`]).
//!
//! Nothing here waits for the service manager; without one, nothing is sent. No byte that a client sent ever goes into
//! a status line.

mod notify;
pub(super) mod sockets;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use self::notify::{Message, Outbox, log_failure};
use super::logging;

/// The longest status line; systemd discards a message of more than 4096 bytes.
const MAX_STATUS_BYTES: usize = 1024;

/// The shortest interval between two watchdog messages.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// The longest time that a process that exits waits for its messages to be sent.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// The service manager that started the daemon and wants to be notified, if there is one.
#[derive(Debug, Default)]
pub(super) struct ServiceManager {
    outbox: Option<Arc<Outbox>>,
}

impl ServiceManager {
    /// The service manager that `NOTIFY_SOCKET` names.
    pub(super) fn from_environment() -> Self {
        if !is_supervised() {
            return Self::default();
        }
        // There is no log yet.
        let outbox = Outbox::start().inspect_err(|error| {
            logging::warn_on_stderr(&format!("could not notify the service manager of anything: {error}"));
        });
        Self { outbox: outbox.ok() }
    }

    /// Says that the service is ready on every socket, or that a reload has ended; the status tells whether it failed.
    pub(super) fn ready(&self) {
        self.push(Message::Ready);
    }

    /// Says that a reload has begun.
    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(NotifyState::MonotonicUsec(now)) => self.push(Message::Reloading(now)),
            Ok(_) => {}
            Err(error) => log_failure(&"a reload", &error),
        }
    }

    pub(super) fn stopping(&self) {
        self.push(Message::Stopping);
    }

    /// Feeds the watchdog.
    pub(super) fn alive(&self) {
        self.push(Message::Alive);
    }

    /// Sets the status line of `systemctl status`.
    pub(super) fn status(&self, line: &str) {
        self.push(Message::Status(status_line(line)));
    }

    /// Says why the service could not start.
    pub(super) fn failed(&self, line: &str, errno: i32) {
        self.push(Message::Failed(status_line(line), errno.unsigned_abs()));
    }

    /// Asks the service manager to keep a socket until the service is stopped.
    pub(super) fn keep(&self, name: String, socket: BorrowedFd<'_>) {
        // sd-notify passes sockets only to a path, not to an abstract name.
        if self.outbox.is_none() || notify::abstract_name().is_some() {
            return;
        }
        match socket.try_clone_to_owned() {
            Ok(socket) => self.push(Message::Keep(name, socket)),
            Err(error) => log_failure(&format!("the socket {name}"), &error),
        }
    }

    /// Asks the service manager to close the sockets kept under this name.
    pub(super) fn forget(&self, name: String) {
        self.push(Message::Forget(name));
    }

    /// Waits a short time for messages that are not sent yet.
    pub(super) fn finish(&self) {
        if let Some(outbox) = &self.outbox {
            outbox.finish(SEND_TIMEOUT);
        }
    }

    fn push(&self, message: Message) {
        if let Some(outbox) = &self.outbox {
            outbox.push(message);
        }
    }
}

/// The interval between watchdog messages: half of WatchdogSec=; `None` = there is no watchdog.
pub(super) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().and_then(interval_for)
}

/// The interval for a time limit: none for the invalid 0 (sd_watchdog_enabled(3)), and never so short that nothing else
/// gets done.
fn interval_for(limit: Duration) -> Option<Duration> {
    (!limit.is_zero()).then(|| (limit / 2).max(SHORTEST_INTERVAL))
}

/// Returns whether a service manager wants to be notified.
pub(super) fn is_supervised() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// The line as a status: only up to the first newline, which would begin another variable, and cut if it is too long.
fn status_line(line: &str) -> String {
    let line = line.lines().next().unwrap_or_default();
    if line.len() <= MAX_STATUS_BYTES {
        return line.to_owned();
    }
    let room = MAX_STATUS_BYTES - "...".len();
    let end = (0..=room).rev().find(|&end| line.is_char_boundary(end)).unwrap_or(0);
    format!("{}...", &line[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_half_of_the_limit_and_never_too_short() {
        let interval = |limit| interval_for(Duration::from_micros(limit)).map(|interval| interval.as_micros());
        assert_eq!([30_000_000, 1, 0].map(interval), [Some(15_000_000), Some(10_000), None]);
    }

    #[test]
    fn a_status_is_one_line_and_is_cut_between_characters() {
        assert_eq!(status_line("short\nREADY=1"), "short");
        let long = status_line(&format!("1{}", "\u{e9}".repeat(1000)));
        assert!(long.ends_with("\u{e9}...") && (1020..=1024).contains(&long.len()), "{long}");
    }
}
