//! Prefixes of addresses: read, shown and applied.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A prefix of addresses, such as `192.0.2.0/24` or `2001:db8::/32`; a whole address is one as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    pub(super) ip: IpAddr,
    pub(super) length: u8,
}

impl Prefix {
    /// Cuts an address to a prefix of this many bits; more than it has means all.
    #[must_use]
    pub fn of(ip: IpAddr, length: u8) -> Self {
        let ip = ip.to_canonical();
        let length = length.min(width(ip));
        Self { ip: mask(ip, length), length }
    }
}

/// Text that is not a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixError {
    /// Not an IP address, optionally followed by a slash and a number.
    #[error("expected an IP address or prefix, such as \"192.0.2.0/24\" or \"2001:db8::/32\"")]
    Syntax,
    /// More bits than an address has.
    #[error("an {} prefix has at most {} bits", if ip.is_ipv4() { "IPv4" } else { "IPv6" }, width(*ip))]
    TooLong {
        /// The address.
        ip: IpAddr,
    },
    /// An address with bits set beyond the prefix.
    #[error("`{ip}/{length}` has host bits set; did you mean `{}`?", Prefix::of(*ip, *length))]
    HostBits {
        /// The address; IPv4 is never in mapped form.
        ip: IpAddr,
        /// How many of its bits are the prefix.
        length: u8,
    },
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let mut ip: IpAddr = address.parse().map_err(|_| PrefixError::Syntax)?;
        let mut length = match length {
            None => width(ip),
            Some(length) => parse_length(length, ip)?,
        };
        // Sources are never in mapped form: in a prefix it can only stand for IPv4.
        if ip.is_ipv6()
            && let ipv4 @ IpAddr::V4(_) = ip.to_canonical()
        {
            (ip, length) = (ipv4, length.checked_sub(96).ok_or(PrefixError::Syntax)?);
        }
        let prefix = Self { ip: mask(ip, length), length };
        if prefix.ip == ip { Ok(prefix) } else { Err(PrefixError::HostBits { ip, length }) }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.length == width(self.ip) { write!(f, "{}", self.ip) } else { write!(f, "{}/{}", self.ip, self.length) }
    }
}

/// The number of bits behind the slash.
fn parse_length(text: &str, ip: IpAddr) -> Result<u8, PrefixError> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        _ if !is_number => Err(PrefixError::Syntax),
        Ok(length) if length <= width(ip) => Ok(length),
        _ => Err(PrefixError::TooLong { ip }),
    }
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// The address with the bits beyond `length` cleared.
pub(super) fn mask(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => mask_ipv4(ip, length).into(),
        IpAddr::V6(ip) => mask_ipv6(ip, length).into(),
    }
}

pub(super) fn mask_ipv4(ip: Ipv4Addr, length: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(ip.to_bits() & u32::MAX.unbounded_shl(32_u32.saturating_sub(length.into())))
}

pub(super) fn mask_ipv6(ip: Ipv6Addr, length: u8) -> Ipv6Addr {
    Ipv6Addr::from_bits(ip.to_bits() & u128::MAX.unbounded_shl(128_u32.saturating_sub(length.into())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in ["", "192.0.2/24", "::1/", "::1/x", "host", "1.2.3.4/-1", "1.2.3.4/+1", "::ffff:0:0/95"] {
            assert_eq!(text.parse::<Prefix>(), Err(PrefixError::Syntax), "{text}");
        }
        for (text, expected) in [
            ("192.0.2.0/33", "an IPv4 prefix has at most 32 bits"),
            ("192.0.2.0/999", "an IPv4 prefix has at most 32 bits"),
            ("::/129", "an IPv6 prefix has at most 128 bits"),
            ("192.0.2.7/24", "`192.0.2.7/24` has host bits set; did you mean `192.0.2.0/24`?"),
            ("::ffff:10.0.0.7/104", "`10.0.0.7/8` has host bits set; did you mean `10.0.0.0/8`?"),
        ] {
            assert_eq!(text.parse::<Prefix>().unwrap_err().to_string(), expected);
        }
        for text in ["192.0.2.0/24", "192.0.2.7", "0.0.0.0/0", "::/0", "2001:db8::/32", "::1"] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn ipv4_in_mapped_form_is_read_as_ipv4() {
        for (mapped, ipv4) in
            [("::ffff:10.0.0.0/104", "10.0.0.0/8"), ("::ffff:192.0.2.1", "192.0.2.1"), ("::ffff:0:0/96", "0.0.0.0/0")]
        {
            assert_eq!(mapped.parse::<Prefix>(), ipv4.parse(), "{mapped}");
        }
    }

    proptest! {
        #[test]
        fn every_prefix_reads_back(ip: u128, v4: bool, length in 0u8..=128) {
            let ip = if v4 { Ipv4Addr::from_bits(ip as u32).into() } else { Ipv6Addr::from_bits(ip).into() };
            let prefix = Prefix::of(ip, length);
            prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
        }
    }
}
