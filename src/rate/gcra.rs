//! The generic cell rate algorithm (ITU-T I.371), whatever the unit of time.
//!
//! All that it remembers is one moment, the theoretical arrival time: when the whole burst will be available again.
//! Here that moment is a lead, the time by which it is ahead of now. The two limiters differ in how they store it: one
//! as 64 bits of nanoseconds, the other as 32 bits of ticks, so that a table of many fits the cache.

/// A rate with a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// The time that one token takes to come back; 0 = no limit.
    pub(super) interval: u64,
    /// How far ahead of now the theoretical arrival time may be: a whole burst.
    pub(super) tolerance: u64,
}

impl Rate {
    /// Allows `per_second` tokens a second, 0 = no limit, and `burst` at once: at least one.
    pub(super) fn new(units_per_second: u64, per_second: u32, burst: u32) -> Self {
        // Rounded up: the rate is met or just missed, never exceeded.
        let interval = if per_second == 0 { 0 } else { units_per_second.div_ceil(per_second.into()) };
        Self { interval, tolerance: interval * u64::from(burst.max(1)) }
    }

    pub(super) fn is_unlimited(self) -> bool {
        self.interval == 0
    }

    /// Returns the lead after `tokens` more are spent at this one, or `None` when that is more than the burst allows.
    pub(super) fn spend(self, lead: u64, tokens: u32) -> Option<u64> {
        let lead = lead + self.interval * u64::from(tokens);
        (lead <= self.tolerance).then_some(lead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_rounded_down_and_a_burst_is_at_least_one() {
        let rates =
            [(0, 5), (3, 2), (1000, 0), (2000, 1)].map(|(per_second, burst)| Rate::new(1000, per_second, burst));
        assert_eq!(rates.map(|rate| (rate.interval, rate.tolerance)), [(0, 0), (334, 668), (1, 1), (1, 1)]);
        assert_eq!(rates.map(Rate::is_unlimited), [true, false, false, false]);
    }

    #[test]
    fn a_burst_is_spent_to_the_last_token() {
        let rate = Rate { interval: 10, tolerance: 50 };
        assert_eq!(
            [(0, 5), (0, 6), (40, 1), (41, 1), (60, 0)].map(|(lead, tokens)| rate.spend(lead, tokens)),
            [Some(50), None, Some(50), None, None]
        );
    }
}
