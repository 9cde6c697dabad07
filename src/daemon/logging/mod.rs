//! Where the log goes: events become records, records wait in a bounded queue, one thread writes them.
//!
//! Nothing that happens to the reader (a stopped journald, a pipe that nobody empties) reaches those who log: a
//! record that does not fit the queue is dropped and counted, and the writer says how many once it can write again.

mod journal;
mod queue;
mod stderr;
mod terminal;

use std::io;
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
    #[error("start the log's thread")]
    Thread(#[source] io::Error),
    #[error("logging is already set up")]
    Twice,
}

impl Logging {
    /// Makes all events of this process go where the settings say; to standard error where journald is not there.
    pub(super) fn start(target: LogTarget, level: LogLevel) -> Result<Self, LoggingError> {
        let to_journal = match target {
            LogTarget::Journald => true,
            LogTarget::Stderr => false,
            LogTarget::Auto => stderr_is_the_journal(),
        };
        let journal = to_journal.then(journal::Journal::open);
        let (filter, level) = reload::Layer::new(targets(level));
        let filtered = tracing_subscriber::registry().with(filter);
        let (queue, set, unavailable) = match journal {
            Some(Ok(journal)) => {
                let queue = Queue::start(journal).map_err(LoggingError::Thread)?;
                let set = filtered.with(journal::layer(queue.clone())).try_init();
                (queue, set, None)
            }
            to_stderr => {
                let queue = Queue::start(terminal::Stderr).map_err(LoggingError::Thread)?;
                let set = filtered.with(terminal::layer(queue.clone(), stderr::has_colour())).try_init();
                (queue, set, to_stderr.and_then(Result::err))
            }
        };
        set.map_err(|_| LoggingError::Twice)?;
        // A panic is an event like any other, on one line.
        std::panic::set_hook(Box::new(|panic| {
            let text = panic.to_string();
            tracing::error!(message_id = message::PANIC, "{}", Printable::raw(text.as_bytes()).limit(1024));
        }));
        if let Some(error) = unavailable {
            tracing::warn!(
                message_id = message::NO_JOURNALD,
                "journald is not available ({error}): logging to standard error"
            );
        }
        Ok(Self { level, queue })
    }

    /// Changes the level, at once.
    pub(super) fn set_level(&self, level: LogLevel) {
        // Fails only when the subscriber is gone, and then there is no log.
        let _ = self.level.reload(targets(level));
    }

    /// Lines that were dropped since the start because the reader did not keep up.
    pub(super) fn dropped(&self) -> u64 {
        self.queue.dropped()
    }

    /// Waits until what was logged is written, but not longer than this.
    pub(super) fn finish(&self, within: Duration) {
        self.queue.flush(within);
    }
}

/// Says why the process ends, log or no log: to journald when standard error is connected to it, else there.
pub(super) fn report_fatal(lines: &[String]) {
    let mut left = lines;
    if stderr_is_the_journal() {
        while let [line, more @ ..] = left
            && journal::write_error(message::FAILED, line).is_ok()
        {
            left = more;
        }
    }
    if !left.is_empty() {
        stderr::write(&left.iter().map(|line| format!("{IDENTIFIER}: {line}\n")).collect::<String>());
    }
}

/// Writes a line that is no reason to end.
pub(super) fn warn_on_stderr(line: &str) {
    stderr::write(&format!("{IDENTIFIER}: warning: {line}\n"));
}

/// Says what is wrong with the command line, with the usage and a hint.
pub(super) fn write_usage(error: &clap::Error) {
    let text = error.render();
    stderr::write(&if stderr::has_colour() { text.ansi().to_string() } else { text.to_string() });
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

/// Returns whether `JOURNAL_STREAM` names the very file that stderr is: systemd.exec(5).
pub(super) fn stderr_is_the_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", stderr.st_dev(), stderr.st_ino())
}
