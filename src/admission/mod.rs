//! Decides which datagrams get a reply: by rules on source and destination, then by what the source may still spend.
//!
//! Plain functions over addresses, and tables of fixed size: nothing here reads a packet or writes a log, and judging a
//! datagram allocates nothing. A rule exists because a reply would loop, or reach somebody who did not ask (CERT
//! CA-1996-01, CVE-2024-2169).
//!
//! A [`Policy`] is what the operator says. `rules` holds it in the form in which it is looked up, `budget` what was
//! spent; [`Admission`] shares both among the workers, each of which asks through its [`Gate`].

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
