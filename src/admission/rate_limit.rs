//! The rate of each source, as the operator sets it.

use super::prefix::Prefix;
use crate::rate::MAX_REFILL_SECONDS;
use crate::socket::MAX_PAYLOAD_IPV6;

/// Bytes of payload that one token pays for: what fits the smallest packet that every IPv6 path carries.
const BYTES_PER_TOKEN: usize = 1232;
/// The tokens that the largest datagram costs: a burst must be at least this.
pub const MAX_DATAGRAM_COST: u32 = datagram_cost(MAX_PAYLOAD_IPV6);

/// The tokens that a datagram with this many bytes of payload costs: one for each [`BYTES_PER_TOKEN`] started.
pub(super) const fn datagram_cost(bytes: usize) -> u32 {
    if bytes == 0 { 1 } else { bytes.div_ceil(BYTES_PER_TOKEN) as u32 }
}

/// The rate of each source. Every started 1232 bytes of a datagram cost one token, and so does an empty datagram.
///
/// ```
/// use echo_udpd::admission::{Policy, RateLimit};
///
/// let mut policy = Policy::open();
/// policy.rate_limit = RateLimit::per_source(200, 400)?;
/// policy.rate_limit.total_per_second = 10_000;
/// # Ok::<(), echo_udpd::admission::RateLimitError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimit {
    pub(super) per_second: u32,
    pub(super) burst: u32,
    /// Datagrams per second, and in a burst, from all sources together that are not exempt; 0 = no limit.
    pub total_per_second: u32,
    /// Bits of an IPv4 address that make one source.
    pub ipv4_prefix: u8,
    /// Bits of an IPv6 address that make one source. Link-local and NAT64 addresses are counted individually, Teredo
    /// ones by the client's IPv4 address, 6to4 ones by at most 48 bits, which is what one IPv4 address has.
    pub ipv6_prefix: u8,
    /// Sources without a limit. Clients on this host that use a loopback address have none either: see
    /// [`Admission::with_client_ports`](super::Admission::with_client_ports).
    pub exempt: Vec<Prefix>,
}

/// A burst that is too small for the largest datagram, or takes too long to refill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid burst of {burst} at {per_second} per second: must be at least {MAX_DATAGRAM_COST}, the cost of the \
     largest datagram, and refill within {MAX_REFILL_SECONDS} s"
)]
pub struct RateLimitError {
    per_second: u32,
    burst: u32,
}

impl RateLimit {
    /// Sets no limit.
    #[must_use]
    pub fn unlimited() -> Self {
        Self { per_second: 0, burst: 0, total_per_second: 0, ipv4_prefix: 32, ipv6_prefix: 64, exempt: Vec::new() }
    }

    /// Gives each source `per_second` tokens a second, of which it can save up `burst`. A rate of 0 is no limit,
    /// whatever the burst. A source is one IPv4 address or one IPv6 /64.
    ///
    /// # Errors
    /// The burst is less than [`MAX_DATAGRAM_COST`], or more than the source gains in [`MAX_REFILL_SECONDS`] seconds.
    pub fn per_source(per_second: u32, burst: u32) -> Result<Self, RateLimitError> {
        let refills_in_time = burst <= per_second.saturating_mul(MAX_REFILL_SECONDS);
        if per_second == 0 || (MAX_DATAGRAM_COST <= burst && refills_in_time) {
            Ok(Self { per_second, burst, ..Self::unlimited() })
        } else {
            Err(RateLimitError { per_second, burst })
        }
    }

    /// The tokens that a source gains each second; 0 = no limit.
    #[must_use]
    pub fn per_second(&self) -> u32 {
        self.per_second
    }

    /// The tokens that a source can save up and spend at once.
    #[must_use]
    pub fn burst(&self) -> u32 {
        self.burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_the_largest_datagram_and_refills_in_time() {
        for (per_second, burst) in [(100, 54), (1, 300), (200, 400), (100_000, 30_000_000), (0, 0), (0, u32::MAX)] {
            let limit = RateLimit::per_source(per_second, burst).unwrap();
            assert_eq!((limit.per_second(), limit.burst()), (per_second, burst));
        }
        for (per_second, burst) in [(100, 0), (100, 53), (1, 301), (100, 30_001)] {
            let refused = RateLimit::per_source(per_second, burst).unwrap_err();
            assert_eq!(refused, RateLimitError { per_second, burst });
        }
        assert_eq!(
            RateLimit::per_source(100, 0).unwrap_err().to_string(),
            "invalid burst of 0 at 100 per second: must be at least 54, the cost of the largest datagram, and refill \
             within 300 s"
        );
    }
}
