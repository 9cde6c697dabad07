//! How often one thing may happen: one rate, as one atomic word.
//!
//! The word is the theoretical arrival time, in 64 bits of nanoseconds, which never come round. An event that is
//! refused writes nothing, so a flood of them does not contend for the cache line.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::gcra::Rate;

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

/// Allows a number of events a second on average, and a burst of them at once.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    origin: Instant,
    /// The theoretical arrival time, in nanoseconds since `origin`.
    tat: AtomicU64,
    /// The two numbers of a [`Rate`], in nanoseconds.
    interval: AtomicU64,
    tolerance: AtomicU64,
}

impl RateLimiter {
    /// Allows `per_second` events a second, 0 = no limit, and `burst` at once.
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        Self::with_rate(Rate::new(NANOSECONDS_PER_SECOND, per_second, burst))
    }

    /// Allows one event in each `interval`; zero = no limit.
    pub(crate) fn every(interval: Duration) -> Self {
        let interval = nanoseconds(interval);
        Self::with_rate(Rate { interval, tolerance: interval })
    }

    fn with_rate(rate: Rate) -> Self {
        Self { origin: Instant::now(), tat: 0.into(), interval: rate.interval.into(), tolerance: rate.tolerance.into() }
    }

    /// Changes the rate; 0 = no limit. The part of the burst that is used stays used.
    pub(crate) fn set(&self, per_second: u32, burst: u32) {
        let rate = Rate::new(NANOSECONDS_PER_SECOND, per_second, burst);
        self.interval.store(rate.interval, Relaxed);
        self.tolerance.store(rate.tolerance, Relaxed);
    }

    /// Returns whether one more event may happen now, and counts it if so.
    pub(crate) fn allow(&self, now: Instant) -> bool {
        let rate = Rate { interval: self.interval.load(Relaxed), tolerance: self.tolerance.load(Relaxed) };
        if rate.is_unlimited() {
            return true;
        }
        let now = nanoseconds(now.saturating_duration_since(self.origin));
        let spend = |tat: u64| Some(now + rate.spend(tat.saturating_sub(now), 1)?);
        self.tat.fetch_update(Relaxed, Relaxed, spend).is_ok()
    }
}

/// The time in nanoseconds, of which 64 bits last for 584 years.
fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_burst_passes_at_once_and_then_the_rate() {
        let limiter = RateLimiter::new(10, 5);
        let start = limiter.origin;
        assert_eq!((0..100).filter(|_| limiter.allow(start)).count(), 5);
        let passed = (0..1000).filter(|step| limiter.allow(start + Duration::from_millis(10 * step))).count();
        assert!((99..=100).contains(&passed), "10 seconds at 10 a second passed {passed}");
    }

    #[test]
    fn zero_is_no_limit_and_an_interval_passes_one() {
        let free = RateLimiter::new(0, 0);
        assert_eq!((0..1000).filter(|_| free.allow(free.origin)).count(), 1000);
        let once = RateLimiter::every(Duration::from_secs(30));
        let passed = (0..90).filter(|&second| once.allow(once.origin + Duration::from_secs(second))).count();
        assert_eq!(passed, 3);
    }
}
