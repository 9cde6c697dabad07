//! May this datagram be answered? Rules on its source and destination, the cheap ones first, then what its source may
//! spend.
//!
//! Plain functions over addresses and one fixed table: nothing here parses or logs, or allocates once it is built. A
//! rule exists because an answer would loop, or reach somebody who did not ask (CERT CA-1996-01, CVE-2024-2169).

mod access;
mod budget;
mod gate;
mod policy;
mod port_set;
mod prefix;
mod rate_limit;
mod rules;
mod source;

pub use self::gate::{Admission, Gate};
pub use self::policy::Policy;
pub use self::prefix::{Prefix, PrefixError};
pub use self::rate_limit::{MAX_DATAGRAM_COST, RateLimit, RateLimitError};
pub use crate::rate::MAX_REFILL_SECONDS;
