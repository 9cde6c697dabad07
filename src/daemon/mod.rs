//! The daemon `echo-udpd`: reads command line and settings, runs a server, and keeps operator and service manager
//! informed.
//!
//! Each worker has its own thread, and so does control (signals, reload, status). The main thread only waits for
//! control to end, so that no stalled call keeps the process from exiting when it is asked to. How a datagram gets its
//! reply is left to the server.

mod command_line;
mod control;
mod drop_report;
mod echo_services;
mod exit;
mod logging;
mod operator;
mod report;
pub mod settings;
mod signals;
mod start;
mod status;
mod systemd;
mod watchdog;

use std::io::{self, Write};
use std::os::linux::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::CommandFactory;

use self::command_line::CommandLine;
use self::control::Inbox;
use self::exit::DaemonError;
use self::logging::Logging;
use self::settings::source::{Loaded, Source, private_part};
use self::signals::{Requests, wake_channel};
use self::start::DaemonContext;
use self::systemd::ServiceManager;
use self::systemd::sockets::{InheritError, Inherited};

/// The time that the control thread may take to end after a request to stop: longer than all of its waits together.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);

/// The definition of the command line: for man pages and completions.
#[must_use]
pub fn command_line() -> clap::Command {
    CommandLine::command()
}

/// Runs the program and returns its exit status.
#[must_use]
pub fn main() -> ExitCode {
    let requests = Requests::default();
    // First of all: from here on a signal is a request.
    let installed = requests.install();
    let inherited = Inherited::take();
    let triggered = is_triggered(&inherited);
    let status = installed.map_err(DaemonError::from).and_then(|()| supervise(&requests, inherited));
    ExitCode::from(status.unwrap_or_else(|error| {
        error.report(&ServiceManager::default());
        error.delay_restart(triggered, &requests);
        error.status()
    }))
}

/// Returns whether a socket unit started the daemon; assumes so if the sockets cannot be read.
fn is_triggered(inherited: &Result<Inherited, InheritError>) -> bool {
    inherited.as_ref().map_or(true, |inherited| !inherited.handed_over.is_empty())
}

/// An event that the main thread waits for.
enum Event {
    /// A signal came.
    Signal,
    /// The control thread ended with this exit status.
    Ended(u8),
}

/// Runs the daemon on its own thread, and leaves that behind if it does not end when asked to.
fn supervise(requests: &Requests, inherited: Result<Inherited, InheritError>) -> Result<u8, DaemonError> {
    let (events, incoming) = channel();
    let (wake, wakeups) = wake_channel();
    let inbox = Inbox { requests: requests.clone(), wake: wake.clone(), wakeups };
    requests.watch({
        let events = events.clone();
        move || {
            wake.wake();
            // Nobody is listening any more: the process is ending.
            let _ = events.send(Event::Signal);
        }
    })?;
    thread::Builder::new()
        .name("control".into())
        .spawn(move || end_with(&events, || control(&inbox, inherited)))
        .map_err(DaemonError::StartControl)?;
    wait_for_end(requests, &incoming)
}

/// Sends how the control thread ended, be it by a panic, whose own line is in the log by then.
fn end_with(events: &Sender<Event>, run: impl FnOnce() -> u8) {
    let status = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        DaemonError::ControlPanicked.report(&ServiceManager::default());
        DaemonError::ControlPanicked.status()
    });
    // Disconnected: the main thread did not wait this long.
    let _ = events.send(Event::Ended(status));
}

fn wait_for_end(requests: &Requests, incoming: &Receiver<Event>) -> Result<u8, DaemonError> {
    let mut deadline = None;
    loop {
        if requests.stop() {
            deadline.get_or_insert_with(|| Instant::now() + STOP_TIMEOUT);
        }
        let event = match deadline {
            None => incoming.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(deadline) => incoming.recv_timeout(deadline.saturating_duration_since(Instant::now())),
        };
        match event {
            Ok(Event::Ended(status)) => return Ok(status),
            Ok(Event::Signal) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(DaemonError::ControlPanicked),
            Err(RecvTimeoutError::Timeout) => {
                logging::report_fatal(&[format!("not stopped within {} s, exiting anyway", STOP_TIMEOUT.as_secs())]);
                return Ok(0);
            }
        }
    }
}

/// The control thread: runs the daemon, and returns the exit status.
fn control(inbox: &Inbox, inherited: Result<Inherited, InheritError>) -> u8 {
    let manager = ServiceManager::from_environment();
    let triggered = is_triggered(&inherited);
    let ran = CommandLine::read().map_err(DaemonError::Usage).and_then(|command_line| {
        let source = command_line.source();
        run(&command_line, source, inherited, inbox, &manager)
    });
    let ran = match ran {
        // What was asked for: --help, --version.
        Err(DaemonError::Usage(shown)) if !shown.use_stderr() => print(&inbox.requests, || shown.print()),
        ran => ran,
    };
    let status = ran.err().map_or(0, |error| {
        error.report(&manager);
        error.delay_restart(triggered, &inbox.requests);
        error.status()
    });
    manager.finish();
    status
}

fn run(
    command_line: &CommandLine,
    mut source: Source,
    inherited: Result<Inherited, InheritError>,
    inbox: &Inbox,
    manager: &ServiceManager,
) -> Result<(), DaemonError> {
    let only_looks = command_line.check || command_line.print_config;
    let Some(loaded) = inbox.read(&mut source)? else {
        return if only_looks { Err(DaemonError::Interrupted) } else { Ok(()) };
    };
    if command_line.print_config {
        let text = loaded.settings.to_string();
        print(&inbox.requests, || io::stdout().lock().write_all(text.as_bytes()))?;
    }
    if command_line.check {
        warn_of_private_file(&loaded);
    }
    if only_looks {
        return Ok(());
    }
    let inherited = inherited?;
    let logging = Logging::start(loaded.settings.fixed().log_target, loaded.settings.log.level)?;
    DaemonContext { inbox, manager, logging: &logging }.run(source, &loaded, inherited)
}

/// Writes to standard output. Its reader may keep the write waiting, so a signal ends the process from here on.
fn print(requests: &Requests, write: impl FnOnce() -> io::Result<()>) -> Result<(), DaemonError> {
    requests.end_at_once();
    // A signal that came before.
    if requests.stop() {
        return Err(DaemonError::Interrupted);
    }
    write().map_err(DaemonError::WriteOutput)
}

/// Warns of a file that only some users can read: root reads every file, but the service runs as a user that exists
/// only while it runs.
fn warn_of_private_file(loaded: &Loaded) {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| own.st_uid() == 0);
    if is_root && let Some(private) = loaded.file.as_deref().and_then(private_part) {
        logging::warn_on_stderr(&format!(
            "not everyone can read {}, and the service runs as a dynamic user (DynamicUser=)",
            private.display()
        ));
    }
}
