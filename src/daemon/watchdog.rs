//! The service manager's watchdog: it is fed only while every loop of the server runs and can receive.

use std::time::{Duration, Instant};

use super::systemd;
use crate::server::ServerHandle;

/// The number of checks per interval while a heartbeat is missing, so that a late one does not cost a whole interval,
/// which is half of the time that the service manager gives.
const CHECKS_WHILE_MISSING: u32 = 4;

/// Compares the loops' heartbeats with those when the watchdog was last fed.
pub(super) struct Watchdog {
    interval: Duration,
    due: Instant,
    /// When the watchdog was last fed, and each loop's number of heartbeats then.
    alive: (Instant, Vec<u64>),
    /// The current outage has been reported.
    is_reported: bool,
}

/// The outcome of a check of the heartbeats.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Every loop gave one since the last time.
    Alive,
    /// A loop has given none for this long, which has not been reported.
    Silent(Duration),
    /// A loop has still given none, which has been reported.
    StillSilent,
}

impl Watchdog {
    /// Requests the first heartbeats; `None` if the service manager has no watchdog for this service.
    pub(super) fn start(server: &ServerHandle) -> Option<Self> {
        let interval = systemd::watchdog_interval()?;
        let watchdog = Self::new(interval, Instant::now(), server.heartbeats());
        server.request_heartbeats();
        Some(watchdog)
    }

    fn new(interval: Duration, now: Instant, heartbeats: Vec<u64>) -> Self {
        // The first check is early, so that the watchdog is fed before its time is over.
        Self { interval, due: now + interval / 2, alive: (now, heartbeats), is_reported: false }
    }

    /// The time of the next check.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Checks for a heartbeat of every loop. The caller then requests the next ones.
    pub(super) fn check(&mut self, now: Instant, heartbeats: Vec<u64>) -> Finding {
        let (since, before) = &self.alive;
        if heartbeats.iter().zip(before).all(|(now, before)| now > before) {
            self.due = now + self.interval;
            self.alive = (now, heartbeats);
            self.is_reported = false;
            return Finding::Alive;
        }
        self.due = now + self.interval / CHECKS_WHILE_MISSING;
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
    fn a_late_heartbeat_is_found_soon_and_an_outage_is_reported_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut watchdog = Watchdog::new(Duration::from_millis(1000), start, vec![0, 7]);
        let mut check = |ms, heartbeats: [u64; 2]| {
            assert_eq!(watchdog.due(), at(ms));
            watchdog.check(at(ms), heartbeats.into())
        };
        assert_eq!(check(500, [1, 8]), Finding::Alive);
        assert_eq!(check(1500, [2, 8]), Finding::Silent(Duration::from_millis(1000)));
        assert_eq!(check(1750, [3, 8]), Finding::StillSilent);
        // The first loop's heartbeat came during the outage.
        assert_eq!(check(2000, [3, 9]), Finding::Alive);
        assert_eq!(check(3000, [4, 9]), Finding::Silent(Duration::from_millis(1000)));
        assert_eq!(check(3250, [4, 10]), Finding::Alive);
    }
}
