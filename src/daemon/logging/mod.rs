//! Where the log goes: events become records, records wait in a bounded queue, one thread writes them.
//!
//! Nothing that happens to the reader (a stopped journald, a pipe that nobody empties) reaches those who log: a record that
//! does not fit the queue is dropped and counted, and the writer says how many once it can write again.

mod journal;
mod queue;
mod terminal;

use std::io::{self, IsTerminal};
use std::os::linux::fs::MetadataExt;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use self::queue::Queue;
use super::settings::{LogLevel, LogTarget};
use crate::message;
use crate::printable::Printable;

const IDENTIFIER: &str = "echo-udpd";

/// The log of this process.
pub(super) struct Logging {
    level: reload::Handle<Targets, Registry>,
    queue: Queue,
}

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoggingError {
    #[error("open the journal's socket")]
    Journal(#[source] io::Error),
    #[error("start the log's thread")]
    Thread(#[source] io::Error),
    #[error("a log is set up already")]
    Twice,
}

impl Logging {
    /// Makes all events of this process go where the settings say.
    pub(super) fn start(target: LogTarget, level: LogLevel) -> Result<Self, LoggingError> {
        let to_journal = match target {
            LogTarget::Journald => true,
            LogTarget::Stderr => false,
            LogTarget::Auto => stderr_is_the_journal(),
        };
        let (filter, level) = reload::Layer::new(targets(level));
        let filtered = tracing_subscriber::registry().with(filter);
        let (queue, set) = if to_journal {
            let queue = Queue::start(journal::Journal::open().map_err(LoggingError::Journal)?);
            let queue = queue.map_err(LoggingError::Thread)?;
            let set = filtered.with(journal::layer(queue.clone())).try_init();
            (queue, set)
        } else {
            let queue = Queue::start(terminal::Stderr).map_err(LoggingError::Thread)?;
            let colour =
                io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            let set = filtered.with(terminal::layer(queue.clone(), colour)).try_init();
            (queue, set)
        };
        set.map_err(|_| LoggingError::Twice)?;
        // A panic is an event like any other, on one line.
        std::panic::set_hook(Box::new(|panic| {
            let text = panic.to_string();
            tracing::error!(message_id = message::PANIC, "{}", Printable::raw(text.as_bytes()).limit(1024));
        }));
        Ok(Self { level, queue })
    }

    /// Changes the level, at once.
    pub(super) fn set_level(&self, level: LogLevel) {
        // Fails only when the subscriber is gone, and then there is no log.
        let _ = self.level.reload(targets(level));
    }

    /// Lines that were lost since the start because the reader did not keep up.
    pub(super) fn dropped(&self) -> u64 {
        self.queue.dropped()
    }

    /// Waits until what was logged is written, but not longer than this.
    pub(super) fn finish(&self, within: Duration) {
        self.queue.flush(within);
    }
}

/// Says why the process ends, log or no log: to journald when standard error is connected to it, else there.
pub(super) fn last_words(line: &str) {
    if !stderr_is_the_journal() || journal::write_error(message::FAILED, line).is_err() {
        eprintln!("{IDENTIFIER}: {line}");
    }
}

/// Our own events from this level on, and from the libraries below us what is at least a warning.
fn targets(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("echo_udpd", level)
}

/// Whether `JOURNAL_STREAM` names the very file that stderr is: systemd.exec(5).
pub(super) fn stderr_is_the_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", stderr.st_dev(), stderr.st_ino())
}
