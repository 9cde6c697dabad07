//! One read of a settings file: bounded in size and time, and on a reload only if the file can be read again.
//!
//! A pipe that was read is empty, and so may be a file that is being written in place. Neither may turn the settings in
//! force into the defaults, which deny nobody: a reload requires a regular file that is not empty and that nobody is
//! writing.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::socket::wait_readable;

/// The largest file that is read.
const MAX_BYTES: usize = 1 << 20;

/// The time limit for reading a file.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// The time for which a file must not have been written to before a reload reads it.
const SETTLED_AFTER: Duration = Duration::from_millis(100);

/// The wait before a file that changed while it was read is read again.
const REREAD_AFTER: Duration = Duration::from_millis(10);

/// The origin of the settings in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum Origin {
    /// There is no installed file.
    Absent,
    /// An empty file.
    EmptyFile,
    /// An empty device, such as `/dev/null`, by its number.
    EmptyDevice(u64),
    /// A file of any kind that is not empty.
    Text,
}

/// Reads a file at the start; a pipe or a device will do as well.
pub(super) fn read_first(path: &Path, deadline: Instant) -> io::Result<(String, Origin)> {
    let file = open(path)?;
    let metadata = file.metadata()?;
    let text = read_text(file, deadline)?;
    let origin = origin(&text, &metadata);
    Ok((text, origin))
}

/// Reads a file for a reload.
pub(super) fn read_again(path: &Path, in_force: Origin, deadline: Instant) -> io::Result<(String, Origin)> {
    loop {
        let file = open(path)?;
        let before = file.metadata()?;
        check_readable_again(&before, in_force)?;
        let mut rest = unsettled(&before);
        if rest.is_zero() {
            let text = read_text(file.try_clone()?, deadline)?;
            if state(&file.metadata()?) == state(&before) {
                let origin = origin(&text, &before);
                return check_not_emptied(origin, in_force).map(|()| (text, origin));
            }
            rest = REREAD_AFTER;
        }
        if Instant::now() + rest >= deadline {
            let reason = format!("still being written after {} s", READ_TIMEOUT.as_secs());
            return Err(io::Error::new(ErrorKind::TimedOut, reason));
        }
        thread::sleep(rest);
    }
}

/// Opens a file without waiting for the other end of a pipe, and without making a terminal the controlling one.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

/// Fails for a pipe and the like, whose bytes the first read consumed. Reading a directory fails with its own error.
fn check_readable_again(file: &Metadata, in_force: Origin) -> io::Result<()> {
    let same_device = in_force == Origin::EmptyDevice(file.rdev()) && file.file_type().is_char_device();
    if file.is_file() || file.is_dir() || same_device {
        return Ok(());
    }
    Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file: it cannot be read a second time"))
}

fn check_not_emptied(origin: Origin, in_force: Origin) -> io::Result<()> {
    match (origin, in_force) {
        (Origin::EmptyFile, Origin::Text) => {
            Err(io::Error::new(ErrorKind::InvalidData, "the file is empty (is it being written?)"))
        }
        _ => Ok(()),
    }
}

/// The time for which a file that was just written to must still be left alone; zero where the clocks of the file
/// system and of this host differ too much to tell.
fn unsettled(file: &Metadata) -> Duration {
    let age = file.modified().ok().and_then(|written| SystemTime::now().duration_since(written).ok());
    age.map_or(Duration::ZERO, |age| SETTLED_AFTER.saturating_sub(age))
}

/// The part of the metadata that changes when a file is written to.
fn state(file: &Metadata) -> impl PartialEq + use<> {
    (file.size(), (file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()))
}

fn origin(text: &str, file: &Metadata) -> Origin {
    match text {
        "" if file.file_type().is_char_device() => Origin::EmptyDevice(file.rdev()),
        "" => Origin::EmptyFile,
        _ => Origin::Text,
    }
}

fn read_text(file: File, deadline: Instant) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut file = file.take(MAX_BYTES as u64 + 1);
    loop {
        // Before the first read, too: a pipe without a writer reads as if it had ended.
        wait(file.get_ref(), deadline)?;
        match file.read_to_end(&mut bytes) {
            Ok(_) => break,
            // The bytes so far are kept.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    if bytes.len() > MAX_BYTES {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("larger than {MAX_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        io::Error::new(ErrorKind::InvalidData, format!("not UTF-8 text: byte {offset} is invalid"))
    })
}

/// Waits for bytes, or for the end of a pipe or terminal; anything else is ready at once.
fn wait(file: &File, deadline: Instant) -> io::Result<()> {
    loop {
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Err(not_in_time());
        }
        if wait_readable(file, Some(rest))? {
            return Ok(());
        }
    }
}

pub(super) fn not_in_time() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("not read within {} s", READ_TIMEOUT.as_secs()))
}
