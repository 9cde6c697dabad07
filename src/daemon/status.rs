//! The status line of `systemctl status`: where the daemon listens, and the counters that matter most.

use std::time::Instant;

use super::report::{describe, first_few};
use super::settings::Listen;
use crate::server::ServerHandle;
use crate::stats::{COUNTERS, DropReason, Stats};

/// The number of listeners that the line names.
const LISTENERS_SHOWN: usize = 3;

/// The parts of the status line.
pub(super) struct Status {
    listeners: Vec<String>,
    /// The counters of each listener.
    by_listener: Vec<Stats>,
    /// A remark on the last reload; empty if there is none.
    pub(super) note: String,
    /// The counters at the previous tick and at the last one, each with its time.
    ticks: [(Instant, Stats); 2],
}

impl Status {
    pub(super) fn new(server: &ServerHandle, listen: &Listen) -> Self {
        let now = (Instant::now(), server.stats());
        let listeners = server.listeners().iter().map(|listener| describe(listener, listen)).collect();
        Self { listeners, by_listener: server.listener_stats(), note: String::new(), ticks: [now, now] }
    }

    /// Records the current counters; rates are those since the previous tick.
    pub(super) fn tick(&mut self, now: Instant, sum: Stats, by_listener: Vec<Stats>) {
        self.ticks.swap(0, 1);
        self.ticks[1] = (now, sum);
        self.by_listener = by_listener;
    }

    pub(super) fn line(&self) -> String {
        let totals = COUNTERS.iter().filter_map(|counter| match (counter.status?, counter.reason) {
            (label, None) => Some(format!("{label} {}", self.count(|stats| counter.read(stats)))),
            // All reasons share one place in the line.
            (label, Some(reason)) => (reason == DropReason::ALL[0]).then(|| format!("{label} {}", self.dropped())),
        });
        let totals = totals.collect::<Vec<_>>().join(", ");
        let in_total = if self.listeners.len() > 1 { "in total " } else { "" };
        format!("listening on {}; {in_total}{totals}{}", self.listeners(), self.note)
    }

    /// The listeners; if there are several, with what each received and sent.
    fn listeners(&self) -> String {
        if let [only] = &*self.listeners {
            return only.clone();
        }
        let each = self.listeners.iter().zip(&self.by_listener);
        let shown = each
            .map(|(listener, Stats { received, sent, .. })| format!("{listener}: received {received}, echoed {sent}"));
        first_few(shown, LISTENERS_SHOWN, "; ")
    }

    /// A count and its rate.
    fn count(&self, of: impl Fn(&Stats) -> u64) -> String {
        match self.rate(&of) {
            Some(rate) => format!("{} ({rate})", of(&self.ticks[1].1)),
            None => of(&self.ticks[1].1).to_string(),
        }
    }

    /// The number of drops, its rate, and the reasons that occurred.
    fn dropped(&self) -> String {
        let dropped = &self.ticks[1].1.dropped;
        let counts = DropReason::ALL.map(|reason| (reason, dropped.of(reason)));
        let reasons: Vec<_> =
            counts.iter().filter(|(_, count)| *count > 0).map(|(reason, count)| format!("{reason} {count}")).collect();
        let details = [self.rate(|stats| stats.dropped.total()), (!reasons.is_empty()).then(|| reasons.join(", "))];
        let details: Vec<_> = details.into_iter().flatten().collect();
        match details.is_empty() {
            true => dropped.total().to_string(),
            false => format!("{} ({})", dropped.total(), details.join("; ")),
        }
    }

    /// The rate per second, if it is at least one.
    fn rate(&self, of: impl Fn(&Stats) -> u64) -> Option<String> {
        let [(since, before), (now, stats)] = &self.ticks;
        let rate = ((of(stats) - of(before)) as f64 / now.duration_since(*since).as_secs_f64()).round();
        (rate >= 1.0).then(|| format!("{rate}/s"))
    }
}
