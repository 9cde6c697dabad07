//! The operator's view of a running server: status line, service manager and log, kept in step.

use std::time::{Duration, Instant};

use super::drop_report::DropReport;
use super::logging::Logging;
use super::report;
use super::settings::{Listen, LogLevel};
use super::status::Status;
use super::systemd::ServiceManager;
use crate::failure_chain::FailureChain;
use crate::message_id;
use crate::server::ServerHandle;
use crate::stats::Stats;

/// The channels to the operator: status line, service manager and log.
pub(super) struct Operator<'a> {
    server: ServerHandle,
    status: Status,
    /// The status line that was last sent to the service manager.
    shown: String,
    manager: &'a ServiceManager,
    logging: &'a Logging,
    /// The number of suppressed request lines that were reported.
    suppressed: u64,
    drops: DropReport,
}

impl<'a> Operator<'a> {
    pub(super) fn new(
        server: ServerHandle,
        listen: &Listen,
        manager: &'a ServiceManager,
        logging: &'a Logging,
    ) -> Self {
        let status = Status::new(&server, listen);
        Self { server, status, shown: String::new(), manager, logging, suppressed: 0, drops: DropReport::default() }
    }

    /// Reports that the server is ready, for the first time or after a reload. The status goes first, so that those who
    /// wait for a reload to end find it up to date.
    pub(super) fn ready(&mut self) {
        self.show_status();
        self.manager.ready();
    }

    pub(super) fn reloading(&self) {
        self.manager.reloading();
    }

    /// Reports that the settings were reloaded and are in force; `from` says where they came from, `needs_restart`
    /// lists the keys that take effect only after a restart.
    pub(super) fn reloaded(&mut self, from: &str, level: LogLevel, needs_restart: &[&str]) {
        self.logging.set_level(level);
        tracing::info!(message_id = message_id::RELOADED, "settings reloaded{from}");
        let keys = needs_restart.join(", ");
        self.status.note = String::new();
        if !keys.is_empty() {
            self.status.note = format!("; restart needed for {keys}");
            tracing::warn!(
                message_id = message_id::NEEDS_RESTART,
                "these settings changed and need a restart to take effect: {keys}"
            );
        }
    }

    pub(super) fn reload_failed(&mut self, error: &dyn std::error::Error) {
        let reason = FailureChain(error);
        tracing::error!(
            message_id = message_id::RELOAD_FAILED,
            "reload failed: {reason}, keeping the running settings"
        );
        self.status.note = format!("; reload failed: {reason}");
    }

    /// Feeds the watchdog: every worker can receive.
    pub(super) fn alive(&self) {
        self.manager.alive();
    }

    /// Warns that a worker has not been able to receive for this long.
    pub(super) fn not_alive(&self, time: Duration) {
        tracing::warn!(
            message_id = message_id::WATCHDOG_NOT_FED,
            "a worker has not responded for {:.1} s: the watchdog is not fed",
            time.as_secs_f64()
        );
    }

    pub(super) fn counters(&self) {
        let (sum, by_listener) = self.stats();
        report::counters(&sum);
        let listeners = self.server.listeners();
        if listeners.len() > 1 {
            for (listener, stats) in listeners.iter().zip(&by_listener) {
                report::listener_counters(listener, stats);
            }
        }
    }

    /// The counters of each listener, and before them their sum with those of the log. Read once: under load a second
    /// look would not add up with the first.
    fn stats(&self) -> (Stats, Vec<Stats>) {
        let by_listener = self.server.listener_stats();
        let mut sum = Stats { log_dropped: self.logging.dropped(), ..Stats::default() };
        by_listener.iter().for_each(|stats| sum += *stats);
        (sum, by_listener)
    }

    /// Reports what happened since the last tick, once a second.
    pub(super) fn tick(&mut self, now: Instant) {
        let (sum, by_listener) = self.stats();
        self.suppressed(sum.log_suppressed);
        self.drops.tick(now, &sum.dropped, &self.server);
        self.status.tick(now, sum, by_listener);
        self.show_status();
    }

    pub(super) fn stopping(&mut self) {
        self.manager.stopping();
        self.manager.status("stopping");
    }

    /// Logs the last lines.
    pub(super) fn stopped(&mut self) {
        let (sum, _) = self.stats();
        self.suppressed(sum.log_suppressed);
        report::stopped(&sum);
    }

    fn suppressed(&mut self, total: u64) {
        report::suppressed(total - self.suppressed);
        self.suppressed = total;
    }

    /// Sends the status line if it changed.
    fn show_status(&mut self) {
        let line = self.status.line();
        if line != self.shown {
            self.manager.status(&line);
            self.shown = line;
        }
    }
}
