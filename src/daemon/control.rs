//! What runs apart from the workers: signals, reload, the status line, and what is logged once a second at most.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::logging::{Logging, message};
use super::settings::{Live, Settings, SettingsError};
use super::systemd::{self, ServiceManager};
use super::{DaemonError, Source};
use crate::ledger::Stats;
use crate::server::blocking::BackgroundServer;
use crate::server::{Listener, ServerHandle};
use crate::socket::Families;

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
        logging: &Logging,
        apply: impl Fn(&Live),
    ) -> Result<(), DaemonError> {
        let handle = server.handle().clone();
        log_listeners(handle.listeners(), self.started.receive_buffer_bytes.value() as usize);
        warn_of_exempt(&self.started.live());
        let mut status = Status::new(&handle);
        let mut manager = ServiceManager::default();
        manager.ready(status.line(&handle.stats(), logging.dropped()));
        let mut unlogged = 0;
        let mut tick = Instant::now() + TICK;
        let mut watchdog = Watchdog::new(&handle);
        while handle.is_serving() {
            let next = watchdog.as_ref().map_or(tick, |watchdog| watchdog.due.min(tick));
            match self.requests.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Request::Stop) => break,
                Ok(Request::LogCounters) => log_counters(&handle.stats(), logging.dropped()),
                Ok(Request::Reload) => {
                    manager.reloading();
                    status.note = self.reload(logging, &apply);
                    manager.ready(status.line(&handle.stats(), logging.dropped()));
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
                log_unlogged(stats.unlogged - unlogged);
                unlogged = stats.unlogged;
                log_limited(&handle);
                manager.status(status.line(&stats, logging.dropped()));
            }
        }
        manager.stopping();
        handle.shutdown();
        server.join()?;
        let stats = handle.stats();
        log_unlogged(stats.unlogged - unlogged);
        let dropped = logging.dropped();
        tracing::info!(message_id = message::STOPPED, "stopped: {stats} log_dropped={dropped}");
        Ok(())
    }

    /// Reads the settings again and puts them in force; says what the status line should add.
    fn reload(&self, logging: &Logging, apply: &impl Fn(&Live)) -> String {
        let settings = match self.source.read() {
            Ok(settings) => settings,
            Err(error) => {
                let reason = reason(&error);
                tracing::error!(
                    message_id = message::RELOAD_FAILED,
                    "reload failed: {reason}, keeping the running settings"
                );
                return format!("; reload failed: {reason}");
            }
        };
        let live = settings.live();
        apply(&live);
        logging.set_level(live.log_level);
        warn_of_exempt(&live);
        tracing::info!(message_id = message::RELOADED, "settings reloaded");
        self.warn_of_restart(&settings)
    }

    fn warn_of_restart(&self, settings: &Settings) -> String {
        let changed = self.started.start().differences(&settings.start()).join(", ");
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

/// The line of `systemctl status`.
struct Status {
    listeners: String,
    /// What the last reload left to say.
    note: String,
}

impl Status {
    fn new(server: &ServerHandle) -> Self {
        let listeners: Vec<_> = server.listeners().iter().map(describe).collect();
        Self { listeners: listeners.join(", "), note: String::new() }
    }

    fn line(&self, stats: &Stats, log_dropped: u64) -> String {
        let Stats { received, echoed, error_replies, kernel_drops, .. } = stats;
        let dropped = stats.dropped.total();
        format!(
            "listening on {}; received {received}, echoed {echoed}, error replies {error_replies}, dropped {dropped}, \
             kernel drops {kernel_drops}, log lines lost {log_dropped}{}",
            self.listeners, self.note
        )
    }
}

fn describe(listener: &Listener) -> String {
    format!("{} ({})", listener.address, listener.families)
}

/// The first lines of the log.
fn log_listeners(listeners: &[Listener], wanted: usize) {
    for listener in listeners {
        if listener.families == Families::Ipv4Only {
            tracing::warn!(
                message_id = message::NO_IPV6,
                "this host has no IPv6: {} is served instead of [::]:{}",
                listener.address,
                listener.address.port()
            );
        }
        let granted = listener.receive_buffer;
        tracing::info!(
            message_id = message::LISTENING,
            local_address = %listener.address.ip(),
            local_port = listener.address.port(),
            receive_buffer = granted,
            "listening on {}",
            describe(listener)
        );
    }
    for listener in listeners {
        let granted = listener.receive_buffer;
        // A buffer of another size by rounding is no reason to warn.
        if granted < wanted / 10 * 9 {
            tracing::warn!(
                message_id = message::RECEIVE_BUFFER_SMALL,
                "receive buffer of {}: {granted} of {wanted} bytes granted, bursts beyond it are lost; \
                 set the sysctl net.core.rmem_max = {wanted}",
                listener.address
            );
        } else {
            tracing::info!(message_id = message::LISTENING, "receive buffer of {}: {granted} bytes", listener.address);
        }
    }
}

fn log_counters(stats: &Stats, log_dropped: u64) {
    tracing::info!(message_id = message::COUNTERS, "counters: {stats} log_dropped={log_dropped}");
}

fn log_unlogged(requests: u64) {
    if requests > 0 {
        tracing::info!(
            message_id = message::REQUESTS_NOT_LOGGED,
            "{requests} more requests, not logged each: over log.requests-per-second"
        );
    }
}

/// An address can be forged, a friend's too.
fn warn_of_exempt(live: &Live) {
    let exempt: Vec<_> = live.policy.rate_limit.exempt.iter().map(ToString::to_string).collect();
    if !exempt.is_empty() {
        tracing::warn!(
            message_id = message::EXEMPT,
            "no rate limit for {}, nor for whoever can forge an address there",
            exempt.join(", ")
        );
    }
}

fn log_limited(server: &ServerHandle) {
    if let Some(source) = server.take_limited() {
        tracing::warn!(
            message_id = message::LIMITED,
            peer_address = %source,
            "{source} is over its rate, what is beyond it is dropped; if it is a friend, \
             raise rate-limit.per-second or add it to rate-limit.exempt"
        );
    }
}

/// The error with its causes, on one line.
fn reason(error: &SettingsError) -> String {
    match error {
        SettingsError::Read { source, .. } => format!("{error}: {source}"),
        SettingsError::Invalid { .. } => error.to_string(),
    }
}
