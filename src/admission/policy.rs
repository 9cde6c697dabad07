//! What the operator decides.

use std::ops::RangeInclusive;

use super::prefix::Prefix;
use super::rate_limit::RateLimit;

/// What the operator decides; the rules against loops and reflection hold whatever it says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// Sources that are answered; empty = everyone.
    pub allow: Vec<Prefix>,
    /// Sources that are not; the longest prefix of both lists decides, deny wins a tie.
    pub deny: Vec<Prefix>,
    /// Source ports that are not answered, beside 0 and those that the server listens on.
    pub deny_source_ports: Vec<RangeInclusive<u16>>,
    /// How much one source may spend.
    pub rate_limit: RateLimit,
    /// Error replies to one source, each second and at once; 0 = no limit, and none on the total of 100 a second
    /// either. Exempt sources have none.
    pub error_replies_per_second: u32,
}

impl Policy {
    /// Answers everyone, without limits: for a server that is not reached from outside.
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
