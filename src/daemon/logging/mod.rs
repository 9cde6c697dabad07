//! Logging: events become records, records wait in a bounded queue, one thread writes them.
//!
//! Nothing that happens to the log's reader (a stopped journald, a pipe that nobody empties) delays those who log: a
//! record that does not fit in the queue is dropped and counted, and the writer reports the number once it can write
//! again.

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
use crate::message_id;
use crate::printable::Printable;

const IDENTIFIER: &str = "echo-udpd";

/// The longest time that a process that exits waits for the log's reader.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// Sends all events of this process where the settings say, or to standard error if journald is not available.
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
            tracing::error!(message_id = message_id::PANIC, "{}", Printable::raw(text.as_bytes()).limit(1024));
        }));
        if let Some(error) = unavailable {
            tracing::warn!(
                message_id = message_id::NO_JOURNALD,
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

    /// The number of lines dropped since the start because the reader did not keep up.
    pub(super) fn dropped(&self) -> u64 {
        self.queue.dropped()
    }
}

/// Writes what is still queued, also while a panic unwinds.
impl Drop for Logging {
    fn drop(&mut self) {
        self.queue.flush(WRITE_TIMEOUT);
    }
}

/// Reports why the process ends, with or without a log: to journald if standard error is connected to it, else to
/// standard error.
pub(super) fn report_fatal(lines: &[String]) {
    let mut remaining = lines;
    if stderr_is_the_journal() {
        while let [line, more @ ..] = remaining
            && journal::write_error(message_id::FAILED, line).is_ok()
        {
            remaining = more;
        }
    }
    if !remaining.is_empty() {
        stderr::write(&remaining.iter().map(|line| format!("{IDENTIFIER}: {line}\n")).collect::<String>());
    }
}

/// Writes a warning to standard error.
pub(super) fn warn_on_stderr(line: &str) {
    stderr::write(&format!("{IDENTIFIER}: warning: {line}\n"));
}

/// Writes what is wrong with the command line, with the usage and a hint.
pub(super) fn write_usage(error: &clap::Error) {
    let text = error.render();
    stderr::write(&if stderr::has_colour() { text.ansi().to_string() } else { text.to_string() });
}

/// Our own events at this level and above; of the libraries below us only warnings and errors.
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

/// Returns whether standard error is the file that `JOURNAL_STREAM` names (systemd.exec(5)).
pub(super) fn stderr_is_the_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", stderr.st_dev(), stderr.st_ino())
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc::{Sender, channel};

    use super::queue::Sink;
    use super::*;

    /// A slow reader.
    struct Slow(Sender<Vec<u8>>);

    impl Sink for Slow {
        fn write(&mut self, record: &[u8]) -> io::Result<()> {
            std::thread::sleep(Duration::from_millis(2));
            self.0.send(record.to_owned()).map_err(io::Error::other)
        }

        fn dropped(&self, _: u64) -> Vec<u8> {
            Vec::new()
        }
    }

    #[test]
    fn a_panic_leaves_no_line_unwritten() {
        let (written, lines) = channel();
        let (_, level) = reload::Layer::<Targets, Registry>::new(targets(LogLevel::Info));
        let logging = Logging { level, queue: Queue::start(Slow(written)).unwrap() };
        let panicked = catch_unwind(AssertUnwindSafe(move || {
            (0..50).for_each(|number| logging.queue.push(vec![number]));
            std::panic::resume_unwind(Box::new("a panic without its message"));
        }));
        assert!(panicked.is_err());
        assert_eq!(lines.try_iter().count(), 50);
    }
}
