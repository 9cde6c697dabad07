//! Messages to the service manager, sent by their own thread: its socket blocks while nobody reads it.
//!
//! Callers never wait. A message replaces those that it makes untrue, so that few queue up however long the service
//! manager does not read: one status, one watchdog message, one reload.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::message_id;

/// A message to the service manager: one datagram.
#[derive(Debug)]
pub(super) enum Message {
    Ready,
    /// With the time at which the reload began, in microseconds of CLOCK_MONOTONIC.
    Reloading(i128),
    Stopping,
    Alive,
    Status(String),
    /// The reason why the service could not run, and the errno(3) that comes closest.
    Failed(String, u32),
    /// A socket to keep under this name.
    Keep(String, OwnedFd),
    /// The name of sockets that are no longer to be kept.
    Forget(String),
}

impl Message {
    /// Returns whether this message makes an earlier one that is still queued pointless.
    fn replaces(&self, earlier: &Self) -> bool {
        match self {
            Self::Alive => matches!(earlier, Self::Alive),
            Self::Status(_) | Self::Failed(..) => matches!(earlier, Self::Status(_)),
            // Both messages of an earlier reload, or READY=1 of the start: READY=1 of this reload serves for them.
            Self::Reloading(_) => matches!(earlier, Self::Reloading(_) | Self::Ready),
            _ => false,
        }
    }

    fn send(&self) -> io::Result<()> {
        match self {
            Self::Ready => notify(&[NotifyState::Ready]),
            // In one datagram, as sd_notify(3) wants it.
            Self::Reloading(since) => notify(&[NotifyState::Reloading, NotifyState::MonotonicUsec(*since)]),
            Self::Stopping => notify(&[NotifyState::Stopping]),
            Self::Alive => notify(&[NotifyState::Watchdog]),
            Self::Status(line) => notify(&[NotifyState::Status(line)]),
            Self::Failed(line, errno) => notify(&[NotifyState::Status(line), NotifyState::Errno(*errno)]),
            Self::Keep(name, socket) => {
                // Without FDPOLL=0 the service manager would close a socket that has an error pending. A socket that
                // it already keeps is not kept twice.
                let states = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
                sd_notify::notify_with_fds(&states, &[socket.as_fd()])
            }
            Self::Forget(name) => notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]),
        }
    }
}

/// Sends one datagram.
fn notify(states: &[NotifyState<'_>]) -> io::Result<()> {
    // The crate sd-notify would take the name for a path.
    let Some(name) = abstract_name() else { return sd_notify::notify(states) };
    let address = SocketAddr::from_abstract_name(name)?;
    let text: String = states.iter().map(|state| format!("{state}\n")).collect();
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address).map(drop)
}

/// The name of the service manager's socket, where that is an abstract one: `@name` (sd_notify(3), unix(7)).
pub(super) fn abstract_name() -> Option<Vec<u8>> {
    std::env::var_os("NOTIFY_SOCKET")?.as_bytes().strip_prefix(b"@").map(<[u8]>::to_owned)
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("READY=1"),
            Self::Reloading(_) => f.write_str("RELOADING=1"),
            Self::Stopping => f.write_str("STOPPING=1"),
            Self::Alive => f.write_str("WATCHDOG=1"),
            Self::Status(_) => f.write_str("the status"),
            Self::Failed(..) => f.write_str("the failure"),
            Self::Keep(name, _) => write!(f, "the socket {name}"),
            Self::Forget(name) => write!(f, "the removal of the socket {name}"),
        }
    }
}

/// The queue of messages for the thread that sends them.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Message>,
    is_sending: bool,
}

impl Outbox {
    /// Starts the thread that sends.
    pub(super) fn start() -> io::Result<Arc<Self>> {
        Self::start_with(Message::send)
    }

    fn start_with(send: impl Fn(&Message) -> io::Result<()> + Send + 'static) -> io::Result<Arc<Self>> {
        let outbox = Arc::<Self>::default();
        let sender = Arc::clone(&outbox);
        thread::Builder::new().name("notify".into()).spawn(move || {
            let mut is_reported = false;
            loop {
                let message = sender.next();
                match send(&message) {
                    Err(error) if !is_reported => {
                        is_reported = true;
                        log_first_failure(&message, &error);
                    }
                    Err(error) => log_failure(&message, &error),
                    Ok(()) => {}
                }
            }
        })?;
        Ok(outbox)
    }

    /// Queues a message, in place of those that it replaces.
    pub(super) fn push(&self, message: Message) {
        let mut waiting = self.lock();
        waiting.messages.retain(|earlier| !message.replaces(earlier));
        waiting.messages.push_back(message);
        self.changed.notify_all();
    }

    /// Waits until everything is sent, but no longer than this.
    pub(super) fn finish(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let mut waiting = self.lock();
        while !waiting.messages.is_empty() || waiting.is_sending {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return;
            }
            waiting = self.changed.wait_timeout(waiting, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the next message to send; the previous one has been sent.
    fn next(&self) -> Message {
        let mut waiting = self.lock();
        waiting.is_sending = false;
        self.changed.notify_all();
        loop {
            if let Some(message) = waiting.messages.pop_front() {
                waiting.is_sending = true;
                return message;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Warns once: a service manager that gets no messages concludes that the service did not start, and stops it.
fn log_first_failure(what: &impl fmt::Display, error: &io::Error) {
    tracing::warn!(message_id = message_id::NOTIFY_FAILED, "could not notify the service manager of {what}: {error}");
}

pub(super) fn log_failure(what: &impl fmt::Display, error: &io::Error) {
    tracing::debug!(message_id = message_id::NOTIFY_FAILED, "could not notify the service manager of {what}: {error}");
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// An outbox that passes each message on, and then waits until it may continue.
    fn held() -> (Arc<Outbox>, Sender<()>, Receiver<String>) {
        let (allow, allowed) = channel::<()>();
        let (sent, messages) = channel();
        let outbox = Outbox::start_with(move |message| {
            sent.send(format!("{message:?}")).map_err(io::Error::other)?;
            allowed.recv().map_err(io::Error::other)
        });
        (outbox.unwrap(), allow, messages)
    }

    #[test]
    fn a_service_manager_that_does_not_read_blocks_nobody_and_later_gets_what_is_still_true() {
        let (outbox, allow, messages) = held();
        outbox.push(Message::Status("being sent".into()));
        assert_eq!(messages.recv().unwrap(), "Status(\"being sent\")");
        outbox.push(Message::Ready);
        for number in 0..1000 {
            outbox.push(Message::Reloading(number));
            outbox.push(Message::Status(format!("reload {number}")));
            outbox.push(Message::Ready);
            outbox.push(Message::Alive);
        }
        outbox.push(Message::Stopping);
        outbox.finish(Duration::from_millis(20));
        (0..10).for_each(|_| allow.send(()).unwrap());
        outbox.finish(Duration::from_secs(20));
        let sent: Vec<String> = messages.try_iter().collect();
        assert_eq!(sent, ["Reloading(999)", "Status(\"reload 999\")", "Ready", "Alive", "Stopping"]);
    }
}
