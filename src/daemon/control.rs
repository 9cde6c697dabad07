//! The control loop, apart from the workers: stop, reload, counters, watchdog, and the once-a-second tick.
//!
//! The loop waits in one place, until it is woken or the next event is due. Anything that an outsider can stall, such
//! as a settings file or the service manager's socket, has its own thread.

use std::time::{Duration, Instant};

use super::operator::Operator;
use super::report;
use super::settings::source::{Loaded, SettingsError, Source};
use super::settings::{Protocol, Reloadable, Settings};
use super::signals::{Requests, Wake, Wakeups};
use super::watchdog::{Finding, Watchdog};
use crate::message_id;
use crate::server::blocking::BackgroundServer;
use crate::server::{ServeError, ServerHandle};

/// The interval between updates of the status line and of the once-a-second summaries.
const TICK_INTERVAL: Duration = Duration::from_secs(1);

/// The time that the server may take to stop: longer than the grace period of handlers that wait.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(4);

/// The interval at which a server that does not stop is woken again.
const WAKE_INTERVAL: Duration = Duration::from_millis(100);

/// The requests to the process, and the wake-ups of its control thread.
pub(super) struct Inbox {
    pub(super) requests: Requests,
    pub(super) wake: Wake,
    pub(super) wakeups: Wakeups,
}

impl Inbox {
    /// Reads settings, unless the daemon is asked to stop first.
    ///
    /// # Errors
    /// Those of [`Source`].
    pub(super) fn read(&self, source: &mut Source) -> Result<Option<Loaded>, SettingsError> {
        source.begin(self.waker())?;
        while !self.requests.stop() {
            if let Some(read) = source.poll() {
                return read.map(Some);
            }
            self.wakeups.wait_until(source.deadline().unwrap_or_else(|| Instant::now() + TICK_INTERVAL));
        }
        Ok(None)
    }

    fn waker(&self) -> impl Fn() + Send + 'static {
        let wake = self.wake.clone();
        move || wake.wake()
    }
}

/// The control of a running server.
pub(super) struct Control<'a, A> {
    server: BackgroundServer,
    handle: ServerHandle,
    inbox: &'a Inbox,
    operator: Operator<'a>,
    source: Source,
    started: Started,
    /// Applies reloaded settings.
    apply: A,
    watchdog: Option<Watchdog>,
    tick: Instant,
}

/// The settings and sockets that the server was started with, for a reload to compare with.
pub(super) struct Started {
    pub(super) settings: Settings,
    /// The protocol of each socket that a socket unit passed, if its name is one.
    pub(super) passed: Vec<Option<Protocol>>,
}

impl<'a, A: Fn(&Reloadable)> Control<'a, A> {
    pub(super) fn new(
        server: BackgroundServer,
        inbox: &'a Inbox,
        operator: Operator<'a>,
        source: Source,
        started: Started,
        apply: A,
    ) -> Self {
        let handle = server.handle().clone();
        let watchdog = Watchdog::start(&handle);
        let tick = Instant::now() + TICK_INTERVAL;
        Self { server, handle, inbox, operator, source, started, apply, watchdog, tick }
    }

    /// Runs until the daemon is asked to stop.
    ///
    /// # Errors
    /// The server stopped by itself.
    pub(super) fn run(mut self) -> Result<(), ServeError> {
        self.operator.ready();
        // A stop takes precedence over everything else.
        while self.handle.is_serving() && !self.inbox.requests.stop() {
            if self.inbox.requests.take_counters() {
                self.operator.counters();
            }
            self.reload();
            self.watch();
            self.tick();
            self.inbox.wakeups.wait_until(self.next_event());
        }
        self.stop()
    }

    /// Starts a reload that was requested, or ends the one in progress.
    fn reload(&mut self) {
        if !self.source.is_reading() {
            if !self.inbox.requests.take_reload() {
                return;
            }
            self.operator.reloading();
            if let Err(error) = self.source.begin(self.inbox.waker()) {
                self.end_reload(Err(error));
                return;
            }
        }
        if let Some(read) = self.source.poll() {
            self.end_reload(read);
        }
    }

    fn end_reload(&mut self, read: Result<Loaded, SettingsError>) {
        match read {
            Ok(loaded) => self.put_in_force(&loaded),
            Err(error) => self.operator.reload_failed(&error),
        }
        self.operator.ready();
        // Another may have been requested meanwhile.
        self.inbox.wake.wake();
    }

    fn put_in_force(&mut self, loaded: &Loaded) {
        let reloadable = loaded.settings.reloadable();
        (self.apply)(&reloadable);
        report::exempt(&reloadable);
        let Started { settings, passed } = &self.started;
        let changed = settings.fixed().differences(&loaded.settings.fixed(), passed);
        self.operator.reloaded(&report::origin(loaded), reloadable.log_level, &changed);
    }

    fn watch(&mut self) {
        let now = Instant::now();
        let Some(watchdog) = self.watchdog.as_mut().filter(|watchdog| now >= watchdog.due()) else { return };
        match watchdog.check(now, self.handle.heartbeats()) {
            Finding::Alive => self.operator.alive(),
            Finding::Silent(time) => self.operator.not_alive(time),
            Finding::StillSilent => {}
        }
        self.handle.request_heartbeats();
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if now >= self.tick {
            self.tick = now + TICK_INTERVAL;
            self.operator.tick(now);
        }
    }

    fn next_event(&self) -> Instant {
        let watchdog = self.watchdog.as_ref().map(Watchdog::due);
        [watchdog, self.source.deadline()].into_iter().flatten().fold(self.tick, Instant::min)
    }

    fn stop(mut self) -> Result<(), ServeError> {
        self.operator.stopping();
        self.handle.shutdown();
        let ended = join(self.server);
        if ended.is_none() {
            tracing::error!(
                message_id = message_id::NOT_STOPPED,
                "the server did not stop within {} s, exiting anyway",
                SHUTDOWN_GRACE.as_secs()
            );
        }
        self.operator.stopped();
        ended.unwrap_or(Ok(()))
    }
}

/// Waits for a server that was asked to stop, and wakes it again in case the first wake failed. `None`: it did not stop
/// in time, and is left behind.
fn join(mut server: BackgroundServer) -> Option<Result<(), ServeError>> {
    let deadline = Instant::now() + SHUTDOWN_GRACE;
    while Instant::now() < deadline {
        if let Some(ended) = server.join_timeout(WAKE_INTERVAL) {
            return Some(ended);
        }
        server.handle().wake();
    }
    // Dropping it would wait for it.
    std::mem::forget(server);
    None
}
