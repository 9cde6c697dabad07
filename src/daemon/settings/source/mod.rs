//! The source of the settings: the file of the command line, else the installed one, else the defaults.
//!
//! The defaults stand in only for an installed file that does not exist, at a start; never for one that cannot be read.
//! A file may be on a network file system that does not respond: it is read ([`read`]) on its own thread. A thread that
//! is stuck is left behind, a few at most.

mod read;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use self::read::{Origin, READ_TIMEOUT};
use super::{Faults, Listen, Settings};

/// The settings file that is read unless the command line names another.
pub(in crate::daemon) const INSTALLED: &str = "/etc/echo-udpd/echo-udpd.toml";

/// The most threads that may be left behind because they have not returned.
const MAX_STUCK: usize = 4;

/// A settings file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::daemon) enum SettingsError {
    /// It cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It is invalid.
    #[error("{}:{faults}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Its faults.
        faults: Faults,
    },
}

/// Settings, and the file that they were read from.
#[derive(Debug)]
pub(in crate::daemon) struct Loaded {
    pub(in crate::daemon) settings: Settings,
    /// `None`: there is no installed file, and these are the defaults.
    pub(in crate::daemon) file: Option<PathBuf>,
    origin: Origin,
}

impl Loaded {
    /// The file, where it is an empty one and these are the defaults. A device is empty on purpose.
    pub(in crate::daemon) fn empty_file(&self) -> Option<&Path> {
        self.file.as_deref().filter(|_| self.origin == Origin::EmptyFile)
    }
}

/// The source of the settings, at the start and on each reload.
#[derive(Debug)]
pub(in crate::daemon) struct Source {
    path: PathBuf,
    /// Listeners of the command line, which win over the file's.
    listen: Option<Listen>,
    /// The origin of the settings in force; `None` at the start.
    in_force: Option<Origin>,
    /// The file is the installed one, which need not exist.
    is_optional: bool,
    reading: Option<Reading>,
    /// Threads that did not return in time.
    stuck: Vec<JoinHandle<()>>,
}

/// A read in progress.
#[derive(Debug)]
struct Reading {
    deadline: Instant,
    /// The bytes were read, and what remains takes a bounded time.
    has_text: Arc<AtomicBool>,
    result: Receiver<Result<Loaded, SettingsError>>,
    thread: JoinHandle<()>,
}

impl Source {
    /// The file named on the command line, or the installed one.
    pub(in crate::daemon) fn new(named: Option<PathBuf>, listen: Option<Listen>) -> Self {
        let is_optional = named.is_none();
        let path = named.unwrap_or_else(|| INSTALLED.into());
        Self { path, listen, in_force: None, is_optional, reading: None, stuck: Vec::new() }
    }

    /// Starts to read on its own thread, which calls `wake` when [`poll`](Self::poll) has something to give.
    ///
    /// # Errors
    /// The thread could not be started, or too many earlier ones are still stuck.
    pub(in crate::daemon) fn begin(&mut self, wake: impl Fn() + Send + 'static) -> Result<(), SettingsError> {
        let refuse = |source| SettingsError::Read { path: self.path.clone(), source };
        self.stuck.retain(|thread| !thread.is_finished());
        if self.stuck.len() >= MAX_STUCK {
            let reason = format!("{MAX_STUCK} earlier reads have not returned; a restart is needed");
            return Err(refuse(io::Error::other(reason)));
        }
        let request = Request {
            path: self.path.clone(),
            in_force: self.in_force,
            // A file that was in force and is gone is an error.
            may_be_absent: self.is_optional && self.in_force.is_none_or(|origin| origin == Origin::Absent),
            deadline: Instant::now() + READ_TIMEOUT,
        };
        let deadline = request.deadline;
        let has_text = Arc::<AtomicBool>::default();
        let (done, result) = channel();
        let read = {
            let has_text = Arc::clone(&has_text);
            move || {
                // After a timeout nobody waits for it any more.
                let _ = done.send(request.load(&has_text));
                wake();
            }
        };
        let thread = thread::Builder::new().name("settings".into()).spawn(read).map_err(refuse)?;
        self.reading = Some(Reading { deadline, has_text, result, thread });
        Ok(())
    }

    /// The latest time to poll, while a read is in progress.
    pub(in crate::daemon) fn deadline(&self) -> Option<Instant> {
        self.reading.as_ref().filter(|reading| !reading.has_text.load(SeqCst)).map(|reading| reading.deadline)
    }

    pub(in crate::daemon) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// The result of the read in progress, once it has ended or has taken too long.
    pub(in crate::daemon) fn poll(&mut self) -> Option<Result<Loaded, SettingsError>> {
        let reading = self.reading.as_ref()?;
        let refuse = |source| Err(SettingsError::Read { path: self.path.clone(), source });
        let result = match reading.result.try_recv() {
            Ok(result) => result,
            Err(TryRecvError::Disconnected) => refuse(io::Error::other("the reading thread panicked")),
            Err(TryRecvError::Empty) if self.deadline().is_some_and(|deadline| Instant::now() >= deadline) => {
                let late = refuse(read::not_in_time());
                self.stuck.extend(self.reading.take().map(|reading| reading.thread));
                return Some(late);
            }
            Err(TryRecvError::Empty) => return None,
        };
        self.reading = None;
        Some(result.map(|loaded| self.accept(loaded)))
    }

    fn accept(&mut self, mut loaded: Loaded) -> Loaded {
        self.in_force = Some(loaded.origin);
        if let Some(listen) = &self.listen {
            loaded.settings.listen = listen.clone();
        }
        loaded
    }
}

/// The task of a reading thread.
struct Request {
    path: PathBuf,
    in_force: Option<Origin>,
    may_be_absent: bool,
    deadline: Instant,
}

impl Request {
    fn load(self, has_text: &AtomicBool) -> Result<Loaded, SettingsError> {
        let path = self.path;
        let read = match self.in_force {
            None => read::read_first(&path, self.deadline),
            Some(in_force) => read::read_again(&path, in_force, self.deadline),
        };
        match read {
            Ok((text, origin)) => {
                has_text.store(true, SeqCst);
                match Settings::parse(&text) {
                    Ok(settings) => Ok(Loaded { settings, file: Some(path), origin }),
                    Err(faults) => Err(SettingsError::Invalid { path, faults }),
                }
            }
            Err(error) if self.may_be_absent && error.kind() == io::ErrorKind::NotFound => match absence(&path) {
                Ok(()) => Ok(Loaded { settings: Settings::default(), file: None, origin: Origin::Absent }),
                Err(source) => Err(SettingsError::Read { path, source }),
            },
            Err(source) => Err(SettingsError::Read { path, source }),
        }
    }
}

/// Succeeds if nothing exists at the path: the kernel reports "no such file" for a dangling symbolic link too, be it
/// the file itself or a directory on its path.
fn absence(path: &Path) -> io::Result<()> {
    for place in path.ancestors() {
        match fs::symlink_metadata(place) {
            Ok(there) if there.is_symlink() && fs::metadata(place).is_err() => {
                let reason = format!("{} is a dangling symbolic link", place.display());
                return Err(io::Error::new(io::ErrorKind::NotFound, reason));
            }
            // It was created meanwhile.
            Ok(_) if place == path => return Err(io::ErrorKind::NotFound.into()),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The file, or the directory on its path, that only some users may read or enter. `None` if all can read the file.
pub(in crate::daemon) fn private_part(path: &Path) -> Option<PathBuf> {
    let real = fs::canonicalize(path).ok()?;
    for place in real.ancestors() {
        let needed = if place == real { 0o004 } else { 0o001 };
        if fs::metadata(place).is_ok_and(|there| there.permissions().mode() & needed == 0) {
            return Some(place.to_owned());
        }
    }
    None
}
