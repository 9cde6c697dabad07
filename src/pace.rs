//! How often one thing may happen: a rate with a burst, as one atomic word.
//!
//! The generic cell rate algorithm: the word is the theoretical arrival time, the moment at which the burst would be
//! whole again. An event that is refused writes nothing, so a flood of them shares the cache line in peace.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Allows `rate` events a second on average, and up to `burst` at once.
#[derive(Debug)]
pub(crate) struct Pace {
    origin: Instant,
    /// Nanoseconds since `origin`.
    arrival: AtomicU64,
    /// Nanoseconds that one event costs; 0 = no limit.
    cost: AtomicU64,
    /// Nanoseconds that the arrival time may be ahead of now.
    ahead: AtomicU64,
}

impl Pace {
    pub(crate) fn new(rate: u32, burst: u32) -> Self {
        let pace =
            Self { origin: Instant::now(), arrival: 0.into(), cost: AtomicU64::default(), ahead: AtomicU64::default() };
        pace.set(rate, burst);
        pace
    }

    /// Changes the rate; 0 = no limit. What has been used of the burst stays used.
    pub(crate) fn set(&self, rate: u32, burst: u32) {
        let cost = if rate == 0 { 0 } else { 1_000_000_000 / u64::from(rate) };
        self.cost.store(cost, Relaxed);
        self.ahead.store(cost * u64::from(burst.max(1)), Relaxed);
    }

    /// Returns whether one more event may happen now, and counts it if so.
    pub(crate) fn allow(&self, now: Instant) -> bool {
        let cost = self.cost.load(Relaxed);
        if cost == 0 {
            return true;
        }
        let now = nanoseconds(now.saturating_duration_since(self.origin));
        let limit = now + self.ahead.load(Relaxed);
        self.arrival
            .fetch_update(Relaxed, Relaxed, |arrival| {
                let next = arrival.max(now) + cost;
                (next <= limit).then_some(next)
            })
            .is_ok()
    }
}

/// At most one event in each `interval`.
impl From<Duration> for Pace {
    fn from(interval: Duration) -> Self {
        let pace = Self::new(1, 1);
        let nanos = nanoseconds(interval);
        pace.cost.store(nanos, Relaxed);
        pace.ahead.store(nanos, Relaxed);
        pace
    }
}

/// 64 bits last for 584 years.
fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_burst_passes_at_once_and_then_the_rate() {
        let pace = Pace::new(10, 5);
        let start = pace.origin;
        assert_eq!((0..100).filter(|_| pace.allow(start)).count(), 5);
        let passed = (0..1000).filter(|step| pace.allow(start + Duration::from_millis(10 * step))).count();
        assert!((99..=100).contains(&passed), "10 seconds at 10 a second passed {passed}");
    }

    #[test]
    fn zero_is_no_limit_and_an_interval_passes_one() {
        let free = Pace::new(0, 0);
        assert_eq!((0..1000).filter(|_| free.allow(free.origin)).count(), 1000);
        let once = Pace::from(Duration::from_secs(30));
        let passed = (0..90).filter(|&second| once.allow(once.origin + Duration::from_secs(second))).count();
        assert_eq!(passed, 3);
    }
}
