//! Rates with a burst, by the generic cell rate algorithm: one bucket, and a table of fixed size with one for each key.
//!
//! Knows time and keys only: what an event is, who caused it and what a refusal means is the caller's business.

mod gcra;
mod limiter;
mod table;

pub(crate) use self::gcra::Rate;
pub(crate) use self::limiter::RateLimiter;
pub use self::table::MAX_REFILL_SECONDS;
pub(crate) use self::table::RateTable;
