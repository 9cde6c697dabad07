//! Standard error: whether it shows colours, and writing to it without waiting for its reader.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::socket::wait_writable;

/// The longest time that a reader that does not read can delay the process.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// The bytes that any writable pipe, socket or terminal takes without waiting; a pipe takes PIPE_BUF (pipe(7)).
const ALWAYS_FITS: usize = 512;

/// Returns whether standard error is a terminal that shows colours.
pub(super) fn has_colour() -> bool {
    let variable = |name| std::env::var_os(name).unwrap_or_default();
    io::stderr().is_terminal() && variable("NO_COLOR").is_empty() && variable("TERM") != "dumb"
}

/// Writes text, waiting a bounded time. A failure is ignored: there is nowhere left to report it.
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
        // Disconnected: written. Timed out: nobody is reading.
        Ok(_) => drop(wait.recv_timeout(WRITE_TIMEOUT)),
        Err(_) => drop(write_without_thread(text.as_bytes())),
    }
}

/// Writes while there is room, bypassing the lock, which a thread that waits for the reader may hold.
fn write_without_thread(text: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + WRITE_TIMEOUT;
    let mut stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    for piece in text.chunks(ALWAYS_FITS) {
        while !wait_writable(&stderr, Some(deadline.saturating_duration_since(Instant::now())))? {
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        stderr.write_all(piece)?;
    }
    Ok(())
}
