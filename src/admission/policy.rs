//! The policy: what the operator decides about sources.

use std::ops::RangeInclusive;

use super::prefix::Prefix;
use super::rate_limit::RateLimit;

/// The operator's decisions about sources. The rules against loops and reflection hold regardless of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// Sources that get replies; empty = all.
    pub allow: Vec<Prefix>,
    /// Sources that get none. The longest matching prefix in either list decides; on a tie, deny wins.
    pub deny: Vec<Prefix>,
    /// Source ports that get no replies, besides 0 and those that the server listens on.
    pub deny_source_ports: Vec<RangeInclusive<u16>>,
    /// How much one source may spend.
    pub rate_limit: RateLimit,
    /// Error replies per second, and in a burst, to one source; 100 in total. 0 removes both limits. Exempt sources
    /// have neither.
    pub error_replies_per_second: u32,
}

impl Policy {
    /// Replies to all sources, without limits: for a server that cannot be reached from outside.
    #[must_use]
    pub fn open() -> Self {
        Self {
            allow: Vec::new(),
            deny: Vec::new(),
            deny_source_ports: Vec::new(),
            rate_limit: RateLimit::unlimited(),
            error_replies_per_second: 0,
        }
    }
}
