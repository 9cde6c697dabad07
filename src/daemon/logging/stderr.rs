//! Standard error: whether it shows colours, and text for it from a process that must go on whatever reads it.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// How long a reader that does not read can delay the end of the process.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

/// Returns whether it is a terminal that shows colours.
pub(super) fn has_colour() -> bool {
    let variable = |name| std::env::var_os(name).unwrap_or_default();
    io::stderr().is_terminal() && variable("NO_COLOR").is_empty() && variable("TERM") != "dumb"
}

/// Writes text, waiting a bounded time; nobody is left to tell where it fails.
pub(super) fn write(text: &str) {
    let text = Arc::<str>::from(text);
    let (written, wait) = channel::<()>();
    let writer = thread::Builder::new().name("stderr".into()).spawn({
        let text = Arc::clone(&text);
        move || {
            let _ = io::stderr().lock().write_all(text.as_bytes());
            drop(written);
        }
    });
    match writer {
        // Disconnected: written. Timed out: nobody reads.
        Ok(_) => drop(wait.recv_timeout(WRITTEN_WITHIN)),
        // Better to wait than to say nothing.
        Err(_) => drop(io::stderr().lock().write_all(text.as_bytes())),
    }
}
