//! How often one thing may happen: a rate with a burst, as one atomic word.
//!
//! The generic cell rate algorithm: the word is the theoretical arrival time, the moment at which the burst would be
//! whole again. An event that is refused writes nothing, so a flood of them shares the cache line in peace.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Allows `rate` events a second on average, and up to `burst` at once.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    origin: Instant,
    /// The theoretical arrival time, in nanoseconds since `origin`.
    tat: AtomicU64,
    /// Nanoseconds between two events at the rate; 0 = no limit.
    interval: AtomicU64,
    /// Nanoseconds that the arrival time may be ahead of now.
    tolerance: AtomicU64,
}

impl RateLimiter {
    pub(crate) fn new(rate: u32, burst: u32) -> Self {
        let limiter = Self::unlimited();
        limiter.set(rate, burst);
        limiter
    }

    /// At most one event in each `interval`.
    pub(crate) fn every(interval: Duration) -> Self {
        let limiter = Self::unlimited();
        let interval = nanoseconds(interval);
        limiter.interval.store(interval, Relaxed);
        limiter.tolerance.store(interval, Relaxed);
        limiter
    }

    fn unlimited() -> Self {
        Self { origin: Instant::now(), tat: 0.into(), interval: 0.into(), tolerance: 0.into() }
    }

    /// Changes the rate; 0 = no limit. What has been used of the burst stays used.
    pub(crate) fn set(&self, rate: u32, burst: u32) {
        let interval = if rate == 0 { 0 } else { 1_000_000_000 / u64::from(rate) };
        self.interval.store(interval, Relaxed);
        self.tolerance.store(interval * u64::from(burst.max(1)), Relaxed);
    }

    /// Returns whether one more event may happen now, and counts it if so.
    pub(crate) fn allow(&self, now: Instant) -> bool {
        let interval = self.interval.load(Relaxed);
        if interval == 0 {
            return true;
        }
        let now = nanoseconds(now.saturating_duration_since(self.origin));
        let limit = now + self.tolerance.load(Relaxed);
        self.tat
            .fetch_update(Relaxed, Relaxed, |tat| {
                let next = tat.max(now) + interval;
                (next <= limit).then_some(next)
            })
            .is_ok()
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
