//! journald's native protocol: an event becomes one datagram of fields.
//!
//! The protocol is that of systemd's JOURNAL_NATIVE_PROTOCOL document: `KEY=value` lines, or for a value with a newline
//! the key, the value's length in 64 bits little-endian, and the value. An entry has no timestamp: journald adds it.

use std::fmt::{self, Write};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::IDENTIFIER;
use super::queue::{Queue, Sink};
use crate::counted::counted;
use crate::message_id;
use crate::printable::beginning;

const SOCKET: &str = "/run/systemd/journal/socket";

/// The largest value of a field; a datagram to journald holds about 200 kB with the kernel's default send buffer.
const MAX_VALUE_BYTES: usize = 32 << 10;

/// The longest time that a process that exits waits for journald.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// journald, as the writer's thread sees it.
pub(super) struct Journal(UnixDatagram);

impl Journal {
    /// Opens a socket to journald; fails if nothing is listening there.
    pub(super) fn open() -> io::Result<Self> {
        UnixDatagram::unbound()?.connect(SOCKET)?;
        // Unconnected, so that a journald that was restarted is found again.
        UnixDatagram::unbound().map(Self)
    }
}

impl Sink for Journal {
    fn write(&mut self, record: &[u8]) -> io::Result<()> {
        self.0.send_to(record, SOCKET).map(drop)
    }

    fn dropped(&self, count: u64) -> Vec<u8> {
        let mut entry = Entry::new(&Level::WARN);
        entry.field("MESSAGE", &format!("dropped {}: journald did not keep up", counted(count, "log line")));
        entry.field("MESSAGE_ID", message_id::LOG_DROPPED);
        entry.field("LOG_DROPPED", &count.to_string());
        entry.0
    }
}

/// Writes one error at once, bypassing the queue.
pub(super) fn write_error(message_id: &str, line: &str) -> io::Result<()> {
    let mut journal = Journal::open()?;
    journal.0.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let mut entry = Entry::new(&Level::ERROR);
    entry.field("MESSAGE", line);
    entry.field("MESSAGE_ID", message_id);
    journal.write(&entry.0)
}

/// Turns events into journal entries, the fields of the event into fields of the entry.
pub(super) fn layer<S: Subscriber>(queue: Queue) -> impl Layer<S> {
    JournalLayer(queue)
}

struct JournalLayer(Queue);

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut entry = Entry::new(event.metadata().level());
        event.record(&mut entry);
        self.0.push(entry.0);
    }
}

/// A journal entry being written.
struct Entry(Vec<u8>);

impl Entry {
    fn new(level: &Level) -> Self {
        let mut entry = Self(Vec::with_capacity(512));
        entry.field("PRIORITY", priority(level));
        entry.field("SYSLOG_IDENTIFIER", IDENTIFIER);
        entry
    }

    /// Adds a field. The name comes from this program, so it needs no check. A value that would not fit in a datagram
    /// with the others is cut.
    fn field(&mut self, name: &str, value: &str) {
        let value = beginning(value, MAX_VALUE_BYTES);
        self.0.extend(name.bytes().map(|byte| byte.to_ascii_uppercase()));
        if value.contains('\n') {
            self.0.push(b'\n');
            self.0.extend((value.len() as u64).to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend(value.bytes());
        self.0.push(b'\n');
    }
}

/// The priority of syslog(3); debug and trace are both 7.
fn priority(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = write!(text, "{value:?}");
        self.field(field.name(), &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_follows_the_native_protocol() {
        let mut entry = Entry::new(&Level::INFO);
        entry.field("message", "one line");
        entry.field("DETAIL", "two\nlines");
        let expected =
            b"PRIORITY=6\nSYSLOG_IDENTIFIER=echo-udpd\nMESSAGE=one line\nDETAIL\n\x09\0\0\0\0\0\0\0two\nlines\n";
        assert_eq!(entry.0, expected);
    }

    #[test]
    fn a_value_is_cut_to_what_journald_takes() {
        let mut entry = Entry::new(&Level::INFO);
        let head = entry.0.len();
        entry.field("MESSAGE", &"\u{e9}".repeat(100_000));
        assert_eq!(entry.0.len(), head + "MESSAGE=\n".len() + MAX_VALUE_BYTES);
    }

    #[test]
    fn priorities_are_those_of_syslog() {
        let priorities = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE].map(|l| priority(&l));
        assert_eq!(priorities, ["3", "4", "6", "7", "7"]);
    }
}
