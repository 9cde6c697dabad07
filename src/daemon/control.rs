//! What runs apart from the workers: signals, reload, watchdog, and the second's tick.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::drop_report::DropReport;
use super::logging::Logging;
use super::report::{self, Origin, Status};
use super::settings::{Reloadable, Settings};
use super::systemd::{self, ServiceManager};
use super::{DaemonError, Source};
use crate::failure_chain::FailureChain;
use crate::message;
use crate::server::ServerHandle;
use crate::server::blocking::BackgroundServer;

/// How long the end of the process waits for the log's reader.
pub(super) const LOG_WRITTEN_WITHIN: Duration = Duration::from_secs(1);

/// How often the status and the counts of a second are told.
const TICK: Duration = Duration::from_secs(1);

/// Signals could not be watched.
#[derive(Debug, thiserror::Error)]
#[error("watch signals")]
pub(super) struct ControlError(#[from] io::Error);

/// What the signals ask for, and what a reload compares with.
pub(super) struct Control {
    requests: Receiver<Request>,
    /// Set by the handler itself, should its message to the thread be lost.
    stop: Arc<AtomicBool>,
    source: Source,
    /// The settings of the start, which a reload compares with.
    started: Settings,
}

/// What the daemon is asked to do.
enum Request {
    Stop,
    Reload,
    LogCounters,
}

impl Control {
    /// Installs the signal handlers, and starts the thread that hears of them.
    pub(super) fn new(source: Source, started: Settings) -> Result<Self, ControlError> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
        let (heard, requests) = channel();
        thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                let request = match signal {
                    SIGHUP => Request::Reload,
                    SIGUSR1 => Request::LogCounters,
                    _ => Request::Stop,
                };
                // Nobody listens any more: the daemon is stopping.
                let _ = heard.send(request);
            }
        })?;
        let stop = Arc::<AtomicBool>::default();
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        Ok(Self { requests, stop, source, started })
    }

    /// Runs until the daemon is asked to stop; `apply` puts reloaded settings in force.
    pub(super) fn run(
        self,
        server: BackgroundServer,
        origin: Origin,
        logging: &Logging,
        apply: impl Fn(&Reloadable),
    ) -> Result<(), DaemonError> {
        let handle = server.handle().clone();
        report::listeners(handle.listeners(), self.started.receive_buffer_bytes.value() as usize);
        report::origin(origin, handle.listeners(), &self.started);
        report::exempt(&self.started.reloadable());
        let mut status = Status::new(&handle);
        let mut manager = ServiceManager::default();
        manager.ready(status.line(logging.dropped()));
        let mut unlogged = 0;
        let mut drops = DropReport::default();
        let mut tick = Instant::now() + TICK;
        let mut watchdog = Watchdog::new(&handle);
        while handle.is_serving() {
            let next = watchdog.as_ref().map_or(tick, |watchdog| watchdog.due.min(tick));
            match self.requests.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Request::Stop) => break,
                Ok(Request::LogCounters) => report::counters(&handle.stats(), logging.dropped()),
                Ok(Request::Reload) => {
                    manager.reloading();
                    status.note = self.reload(origin, logging, &apply);
                    manager.ready(status.line(logging.dropped()));
                }
                Err(_) if self.stop.load(Relaxed) => break,
                Err(_) => {}
            }
            let now = Instant::now();
            if let Some(watchdog) = &mut watchdog
                && now >= watchdog.due
                && watchdog.is_answered(&handle)
            {
                manager.alive();
            }
            if now >= tick {
                tick = now + TICK;
                let stats = handle.stats();
                report::unlogged(stats.unlogged - unlogged);
                unlogged = stats.unlogged;
                drops.tick(now, &stats.dropped, &handle);
                status.tick(now, stats);
                manager.status(status.line(logging.dropped()));
            }
        }
        manager.stopping();
        handle.shutdown();
        server.join().map_err(DaemonError::Ended)?;
        let stats = handle.stats();
        report::unlogged(stats.unlogged - unlogged);
        report::stopped(&stats, logging.dropped());
        Ok(())
    }

    /// Reads the settings again and puts them in force; says what the status line should add.
    fn reload(&self, origin: Origin, logging: &Logging, apply: &impl Fn(&Reloadable)) -> String {
        let settings = match self.source.read() {
            Ok(settings) => settings,
            Err(error) => {
                let reason = FailureChain(&error).to_string();
                tracing::error!(
                    message_id = message::RELOAD_FAILED,
                    "reload failed: {reason}, keeping the running settings"
                );
                return format!("; reload failed: {reason}");
            }
        };
        let live = settings.reloadable();
        apply(&live);
        logging.set_level(live.log_level);
        report::exempt(&live);
        tracing::info!(message_id = message::RELOADED, "settings reloaded");
        self.warn_of_restart(origin, &settings)
    }

    fn warn_of_restart(&self, origin: Origin, settings: &Settings) -> String {
        let mut changed = self.started.fixed().differences(&settings.fixed());
        // A socket unit says where to listen, at the next start too.
        changed.retain(|&key| key != "listen" || origin.handed_over == 0);
        let changed = changed.join(", ");
        if changed.is_empty() {
            return String::new();
        }
        tracing::warn!(
            message_id = message::NEEDS_RESTART,
            "changed in the settings, but in force only after a restart: {changed}"
        );
        format!("; restart to change {changed}")
    }
}

/// What the service manager's watchdog hears: that every loop gave a proof since it was last asked.
struct Watchdog {
    interval: Duration,
    due: Instant,
    proofs: Vec<u64>,
}

impl Watchdog {
    /// Asks for the first proofs; `None` when nobody watches.
    fn new(server: &ServerHandle) -> Option<Self> {
        let interval = systemd::watchdog_interval()?;
        server.ask_for_proof();
        // The first time soon, so that the service manager has heard before its time is over.
        Some(Self { interval, due: Instant::now() + interval / 2, proofs: vec![0; server.proofs().len()] })
    }

    /// Whether every loop answered; asks anew.
    fn is_answered(&mut self, server: &ServerHandle) -> bool {
        self.due = Instant::now() + self.interval;
        let proofs = server.proofs();
        let answered = proofs.iter().zip(&self.proofs).all(|(now, before)| now > before);
        self.proofs = proofs;
        server.ask_for_proof();
        answered
    }
}
