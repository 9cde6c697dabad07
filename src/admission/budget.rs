//! What may be spent: by each source, and by all of them together.

use std::time::Instant;

use super::source::Source;
use crate::rate::{Rate, RateLimiter, RateTable};

/// How much of something may be spent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// By one source.
    pub(super) rate: Rate,
    /// By all sources, each second and at once; 0 = no limit.
    pub(super) total_per_second: u32,
}

/// What was spent of something, such as requests.
#[derive(Debug)]
pub(super) struct Budget {
    sources: RateTable,
    total: RateLimiter,
}

/// The time of a batch, as the two limiters read it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) ticks: u64,
}

impl Now {
    pub(super) fn new(instant: Instant, origin: Instant) -> Self {
        Self { instant, ticks: RateTable::ticks(instant.saturating_duration_since(origin)) }
    }
}

impl Budget {
    /// Tells this many sources apart at once.
    pub(super) fn new(source_slots: usize, limit: Limit) -> Self {
        Self {
            sources: RateTable::new(source_slots),
            total: RateLimiter::new(limit.total_per_second, limit.total_per_second),
        }
    }

    /// Makes the limit hold for what was spent before as well: a source is at most one burst behind.
    pub(super) fn change_limit(&self, limit: Limit, now: Now) {
        self.total.set(limit.total_per_second, limit.total_per_second);
        self.sources.change_rate(limit.rate, now.ticks);
    }

    /// To be called with the time of each batch, before anything is spent.
    pub(super) fn begin_batch(&self, now: Now) {
        self.sources.sweep_if_due(now.ticks);
    }

    /// Returns whether a source may spend `tokens` now, and spends them if so.
    pub(super) fn spend(&self, source: Source, tokens: u32, limit: Limit, now: Now) -> bool {
        self.sources.allow(source, tokens, limit.rate, now.ticks) && self.total.allow(now.instant)
    }
}
