//! The service manager's side of the daemon: what it is notified of, through the socket that `NOTIFY_SOCKET` names
//! (sd_notify(3)), and the sockets that it hands over or keeps ([`sockets`]).
//!
//! Nothing here waits for it. Without a service manager nothing is sent. No byte of a stranger ever goes into a status
//! line.

mod notify;
pub(super) mod sockets;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use self::notify::{Message, Outbox, log_failure};
use super::logging;

/// The longest status line: a datagram of more than 4096 bytes is thrown away by systemd.
const MAX_STATUS_BYTES: usize = 1024;

/// The shortest interval between two signs of life.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// How long the end of the process waits for messages to be sent.
const SENT_WITHIN: Duration = Duration::from_secs(1);

/// Who started the daemon and wants to be notified, if anybody.
#[derive(Debug, Default)]
pub(super) struct ServiceManager {
    outbox: Option<Arc<Outbox>>,
}

impl ServiceManager {
    /// The one that `NOTIFY_SOCKET` names.
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

    /// The service answers on every socket, or a reload has ended; good or bad, the status says.
    pub(super) fn ready(&self) {
        self.push(Message::Ready);
    }

    /// A reload has begun.
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

    /// Every worker can receive.
    pub(super) fn alive(&self) {
        self.push(Message::Alive);
    }

    /// The line of `systemctl status`.
    pub(super) fn status(&self, line: &str) {
        self.push(Message::Status(status_line(line)));
    }

    /// Says why the service could not start.
    pub(super) fn failed(&self, line: &str, errno: i32) {
        self.push(Message::Failed(status_line(line), errno.unsigned_abs()));
    }

    /// Keeps a socket until the service is stopped.
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

    /// Closes what was kept under this name.
    pub(super) fn forget(&self, name: String) {
        self.push(Message::Forget(name));
    }

    /// Waits for messages on their way, a short time.
    pub(super) fn finish(&self) {
        if let Some(outbox) = &self.outbox {
            outbox.finish(SENT_WITHIN);
        }
    }

    fn push(&self, message: Message) {
        if let Some(outbox) = &self.outbox {
            outbox.push(message);
        }
    }
}

/// How often the service manager wants to hear that the service answers: half of WatchdogSec=; `None` = not at all.
pub(super) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().and_then(interval_for)
}

/// The interval for a time limit: none for the invalid 0 (sd_watchdog_enabled(3)), and never so short that keeping it
/// is all that gets done.
fn interval_for(limit: Duration) -> Option<Duration> {
    (!limit.is_zero()).then(|| (limit / 2).max(SHORTEST_INTERVAL))
}

/// Returns whether a service manager wants to be notified.
pub(super) fn is_supervised() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// A line that fits: a newline would begin another variable, and what is too long is cut.
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
    fn the_interval_is_half_of_the_limit_and_never_none_at_all() {
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
