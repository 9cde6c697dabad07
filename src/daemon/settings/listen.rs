//! The addresses to listen on: what one may be, and which cannot be bound side by side.
//!
//! What passes here can be bound, as far as that is for the settings to say: an address that is not the host's yet, a
//! port that is taken or one that needs a privilege shows only when it is bound.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::FromText;
use super::faults::quoted;
use crate::socket::{interface_index, interface_name};

/// The most addresses of one daemon.
const MAX_ADDRESSES: usize = 1024;

/// At least one address; all of them can be listened on together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen(Vec<SocketAddr>);

impl Listen {
    /// Every address of the host, IPv6 and IPv4, on this port.
    pub(super) fn everywhere(port: u16) -> Self {
        Self(vec![SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)])
    }

    /// These addresses, if they can be listened on together.
    ///
    /// # Errors
    /// The first address that cannot be.
    pub fn new(addresses: Vec<SocketAddr>) -> Result<Self, ListenError> {
        if addresses.is_empty() {
            return Err(ListenError::None);
        }
        for (at, &address) in addresses.iter().enumerate() {
            if at == MAX_ADDRESSES {
                return Err(ListenError::TooMany);
            }
            check(address)?;
            if let Some(&earlier) = addresses[..at].iter().find(|&&earlier| overlap(earlier, address)) {
                return Err(ListenError::overlap(earlier, address));
            }
        }
        Ok(Self(addresses))
    }

    /// The addresses.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0
    }
}

/// Returns whether a server can listen on this address at all.
fn check(address: SocketAddr) -> Result<(), ListenError> {
    let shown = ListenAddress(address);
    let scope = scope(address);
    match address.ip().to_canonical() {
        ip if ip.is_multicast() => Err(ListenError::Multicast(shown)),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Err(ListenError::Broadcast(shown)),
        IpAddr::V6(ip) if ip.is_unicast_link_local() && scope == 0 => Err(ListenError::NoInterface(shown)),
        IpAddr::V6(ip) if ip.is_unicast_link_local() && interface_name(scope).is_none() => {
            Err(ListenError::UnknownInterface(scope.to_string()))
        }
        IpAddr::V6(ip) if !ip.is_unicast_link_local() && scope != 0 => Err(ListenError::NeedlessInterface(shown)),
        IpAddr::V4(_) if scope != 0 => Err(ListenError::NeedlessInterface(shown)),
        _ => Ok(()),
    }
}

/// Returns whether the kernel refuses to bind two sockets to these addresses, in either order: sockets without
/// SO_REUSEADDR, the one for `[::]` with IPV6_V6ONLY off (`inet_rcv_saddr_equal` in `net/ipv4/inet_connection_sock.c`).
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    if one.port() != other.port() || one.port() == 0 {
        return false;
    }
    match (one.ip().to_canonical(), other.ip().to_canonical()) {
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), _) | (_, IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => true,
        (IpAddr::V4(one), IpAddr::V4(other)) => one == other || one.is_unspecified() || other.is_unspecified(),
        (one_ip, other_ip) => one_ip == other_ip && scope(one) == scope(other),
    }
}

/// The index of a link-local address's interface; 0 = none is named.
fn scope(address: SocketAddr) -> u32 {
    if let SocketAddr::V6(v6) = address { v6.scope_id() } else { 0 }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let addresses = Vec::<FromText<ListenAddress>>::deserialize(deserializer)?;
        Self::new(addresses.into_iter().map(|address| address.0.0).collect()).map_err(D::Error::custom)
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|&address| FromText(ListenAddress(address))))
    }
}

/// An address and a port; the interface of a link-local address is read and shown by name, or else by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

impl FromStr for ListenAddress {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let Some((ip, interface, port)) = split_interface(text) else {
            return text.parse().map(Self).map_err(|_| ListenError::Syntax);
        };
        let ip: Ipv6Addr = ip.parse().map_err(|_| ListenError::Syntax)?;
        let port = port.parse().map_err(|_| ListenError::Syntax)?;
        // As getaddrinfo(3) does: an interface may be called `2`.
        let scope = interface_index(interface).or_else(|| interface.parse().ok());
        let scope = scope.ok_or_else(|| ListenError::UnknownInterface(interface.to_owned()))?;
        Ok(Self(SocketAddrV6::new(ip, port, 0, scope).into()))
    }
}

/// The parts of `[fe80::1%eth0]:9000`.
fn split_interface(text: &str) -> Option<(&str, &str, &str)> {
    let (ip, rest) = text.strip_prefix('[')?.split_once('%')?;
    let (interface, port) = rest.rsplit_once("]:")?;
    Some((ip, interface, port))
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match interface_name(scope(self.0)) {
            Some(name) => write!(f, "[{}%{name}]:{}", self.0.ip(), self.0.port()),
            None => self.0.fmt(f),
        }
    }
}

/// Addresses that cannot be listened on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Not an address with a port.
    #[error("expected an address and a port, such as `[::]:9000` or `192.0.2.1:9000`")]
    Syntax,
    /// No address.
    #[error("expected at least one address, such as [\"[::]:9000\"]")]
    None,
    /// Too many addresses.
    #[error("at most {MAX_ADDRESSES} addresses can be listened on")]
    TooMany,
    /// The address of a group.
    #[error("`{0}` is a multicast address, and only datagrams to one host get a reply")]
    Multicast(ListenAddress),
    /// The address of all hosts.
    #[error("`{0}` is the broadcast address, and only datagrams to one host get a reply")]
    Broadcast(ListenAddress),
    /// A link-local address, which means nothing without its interface.
    #[error("`{0}` is a link-local address, which needs its interface, such as `%eth0` before the bracket")]
    NoInterface(ListenAddress),
    /// An interface that the kernel would ignore.
    #[error("`{0}` names an interface, which only a link-local address (fe80::/10) takes")]
    NeedlessInterface(ListenAddress),
    /// The host has no such interface now.
    #[error("there is no interface {}", quoted(.0))]
    UnknownInterface(String),
    /// The same address again.
    #[error("`{0}` is listed twice")]
    Twice(ListenAddress),
    /// The same address in another form.
    #[error("`{0}` and `{1}` are the same address")]
    Same(ListenAddress, ListenAddress),
    /// An address that another one covers.
    #[error("`{wide}` includes `{narrow}`: list one of them")]
    Covered {
        /// The address of all addresses.
        wide: ListenAddress,
        /// One of these.
        narrow: ListenAddress,
    },
}

impl ListenError {
    fn overlap(earlier: SocketAddr, later: SocketAddr) -> Self {
        let canonical = |address: SocketAddr| address.ip().to_canonical();
        // `[::]` includes even `0.0.0.0`.
        let width = |address| (canonical(address).is_unspecified(), canonical(address).is_ipv6());
        let (wide, narrow) = if width(earlier) >= width(later) { (earlier, later) } else { (later, earlier) };
        match (ListenAddress(earlier), ListenAddress(later)) {
            (earlier, later) if earlier == later => Self::Twice(later),
            (earlier, later) if canonical(earlier.0) == canonical(later.0) => Self::Same(earlier, later),
            _ => Self::Covered { wide: ListenAddress(wide), narrow: ListenAddress(narrow) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(texts: &[&str]) -> Result<Listen, String> {
        let parsed = texts.iter().map(|text| text.parse::<ListenAddress>());
        let addresses = parsed.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        Listen::new(addresses.into_iter().map(|address| address.0).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_overlaps_is_refused_in_either_order() {
        for (one, other) in [
            ("[::]:9", "0.0.0.0:9"),
            ("[::]:9", "127.0.0.1:9"),
            ("[::]:9", "[::1]:9"),
            ("[::]:9", "[fe80::1%lo]:9"),
            ("[::]:9", "[::ffff:127.0.0.1]:9"),
            ("0.0.0.0:9", "127.0.0.1:9"),
            ("0.0.0.0:9", "[::ffff:127.0.0.1]:9"),
            ("[::ffff:0.0.0.0]:9", "127.0.0.1:9"),
        ] {
            let expected = Err(format!("`{one}` includes `{other}`: list one of them"));
            assert_eq!(listen(&[one, other]), expected);
            assert_eq!(listen(&[other, "[::1]:1", one]), expected);
        }
        assert_eq!(listen(&["[::]:1", "[::]:1"]), Err("`[::]:1` is listed twice".into()));
        let same = listen(&["127.0.0.1:1", "[::ffff:127.0.0.1]:1"]);
        assert_eq!(same, Err("`127.0.0.1:1` and `[::ffff:127.0.0.1]:1` are the same address".into()));
    }

    #[test]
    fn what_does_not_overlap_is_accepted() {
        for texts in [
            &["[::]:1", "[::]:2", "127.0.0.1:3"][..],
            &["[::]:0", "[::]:0", "127.0.0.1:0", "0.0.0.0:0"],
            &["0.0.0.0:9", "[::1]:9", "[fe80::1%lo]:9"],
            &["127.0.0.1:9", "127.0.0.2:9", "[::1]:9"],
            &["[::ffff:127.0.0.1]:9"],
        ] {
            assert!(listen(texts).is_ok(), "{:?}", listen(texts));
        }
    }

    #[test]
    fn what_no_server_can_listen_on_is_refused() {
        for (text, part) in [
            ("224.0.0.1:9", "is a multicast address"),
            ("[::ffff:224.0.0.1]:9", "is a multicast address"),
            ("[ff02::1%lo]:9", "is a multicast address"),
            ("255.255.255.255:9", "is the broadcast address"),
            ("[fe80::1]:9", "needs its interface"),
            ("[fe80::1%0]:9", "needs its interface"),
            ("[::1%lo]:9", "names an interface"),
            ("[::%1]:9", "names an interface"),
            ("[::ffff:127.0.0.1%lo]:9", "names an interface"),
            ("[fe80::1%nowhere9]:9", "there is no interface `nowhere9`"),
            ("[fe80::1%4000000000]:9", "there is no interface `4000000000`"),
            ("[fe80::1%\u{1b}]:9", "there is no interface `\\u{1b}`"),
            ("127.0.0.1", "expected an address and a port"),
            ("[fe80::1%lo]", "expected an address and a port"),
            ("[fe80::1%lo]:70000", "expected an address and a port"),
            ("[127.0.0.1%lo]:9", "expected an address and a port"),
            ("localhost:9", "expected an address and a port"),
        ] {
            let error = listen(&[text]).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(Listen::new(Vec::new()).is_err());
        let many = |count| Listen::new((1..=count).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect());
        assert!(many(1024).is_ok());
        assert_eq!(many(1025), Err(ListenError::TooMany));
    }

    #[test]
    fn an_interface_goes_by_name_or_index_and_is_shown_by_name() {
        let by_name: ListenAddress = "[fe80::1%lo]:9".parse().unwrap();
        assert_eq!("[fe80::1%1]:9".parse(), Ok(by_name));
        assert_eq!(by_name.to_string(), "[fe80::1%lo]:9");
        let SocketAddr::V6(address) = by_name.0 else { panic!("{by_name}") };
        assert_eq!(address.scope_id(), 1);
    }
}
