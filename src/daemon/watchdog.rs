//! The service manager's watchdog: it hears of the service only while every loop of the server turns and can receive.

use std::time::{Duration, Instant};

use super::systemd;
use crate::server::ServerHandle;

/// How many times in an interval proofs that are missing are looked for: one that comes late is then not late by a
/// whole interval, which is half of the time that the service manager gives.
const LOOKS_FOR_MISSING: u32 = 4;

/// Compares the loops' proofs with those at the last sign of life.
pub(super) struct Watchdog {
    interval: Duration,
    due: Instant,
    /// The time of the last sign of life, and each loop's number of proofs then.
    alive: (Instant, Vec<u64>),
    /// The outage under way has been reported.
    is_reported: bool,
}

/// The outcome of a look at the proofs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Every loop gave one since the last sign of life.
    Alive,
    /// A loop has given none for this long, which is new.
    Silent(Duration),
    /// A loop has still given none.
    StillSilent,
}

impl Watchdog {
    /// Asks for the first proofs; `None` when nobody watches.
    pub(super) fn start(server: &ServerHandle) -> Option<Self> {
        let interval = systemd::watchdog_interval()?;
        let watchdog = Self::new(interval, Instant::now(), server.heartbeats());
        server.request_heartbeats();
        Some(watchdog)
    }

    fn new(interval: Duration, now: Instant, proofs: Vec<u64>) -> Self {
        // The first time soon, so that the service manager has heard before its time is over.
        Self { interval, due: now + interval / 2, alive: (now, proofs), is_reported: false }
    }

    /// When to look next.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Looks for a proof of every loop. They are to be asked again then.
    pub(super) fn look(&mut self, now: Instant, proofs: Vec<u64>) -> Finding {
        let (since, before) = &self.alive;
        if proofs.iter().zip(before).all(|(now, before)| now > before) {
            self.due = now + self.interval;
            self.alive = (now, proofs);
            self.is_reported = false;
            return Finding::Alive;
        }
        self.due = now + self.interval / LOOKS_FOR_MISSING;
        if std::mem::replace(&mut self.is_reported, true) {
            return Finding::StillSilent;
        }
        Finding::Silent(now - *since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_proof_is_found_soon_and_an_outage_is_reported_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut watchdog = Watchdog::new(Duration::from_millis(1000), start, vec![0, 7]);
        let mut look = |ms, proofs: [u64; 2]| {
            assert_eq!(watchdog.due(), at(ms));
            watchdog.look(at(ms), proofs.into())
        };
        assert_eq!(look(500, [1, 8]), Finding::Alive);
        assert_eq!(look(1500, [2, 8]), Finding::Silent(Duration::from_millis(1000)));
        assert_eq!(look(1750, [3, 8]), Finding::StillSilent);
        // The first loop's came during the outage.
        assert_eq!(look(2000, [3, 9]), Finding::Alive);
        assert_eq!(look(3000, [4, 9]), Finding::Silent(Duration::from_millis(1000)));
        assert_eq!(look(3250, [4, 10]), Finding::Alive);
    }
}
