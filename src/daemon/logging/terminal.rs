//! The human-readable log on standard error: time, level and message, in colour on a terminal that shows it.

use std::io::{self, Write};

use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::fmt::{MakeWriter, layer as fmt_layer};
use tracing_subscriber::registry::LookupSpan;

use super::queue::{Queue, Sink};
use crate::counted::counted;

/// Standard error, as the writer's thread sees it.
pub(super) struct Stderr;

impl Sink for Stderr {
    fn write(&mut self, record: &[u8]) -> io::Result<()> {
        io::stderr().lock().write_all(record)
    }

    fn dropped(&self, count: u64) -> Vec<u8> {
        format!("dropped {}: the reader did not keep up\n", counted(count, "log line")).into()
    }
}

/// Shows an event as its message, which is complete; the fields are for journald.
pub(super) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(queue: Queue, colour: bool) -> impl Layer<S> {
    let message_alone = debug_fn(|writer, field, value| match field.name() {
        "message" => write!(writer, "{value:?}"),
        _ => Ok(()),
    });
    fmt_layer().with_writer(Lines(queue)).with_ansi(colour).with_target(false).fmt_fields(message_alone)
}

/// Passes each formatted event to the queue.
struct Lines(Queue);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { queue: &self.0, text: Vec::new() }
    }
}

/// One event being formatted.
struct Line<'a> {
    queue: &'a Queue,
    text: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.queue.push(std::mem::take(&mut self.text));
    }
}
