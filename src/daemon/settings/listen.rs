//! The addresses to listen on: what one may be, and which cannot be bound side by side.
//!
//! What passes here can be bound, as far as that is for the settings to say. An address that is not the host's yet, an
//! interface that is missing or has two names, a port that is taken or one that needs a privilege: that shows only when
//! it is bound.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::FromText;
use super::faults::quoted;
use crate::socket::{BindError, interface_index};

/// The most addresses of one daemon.
const MAX_ADDRESSES: usize = 1024;

/// The most bytes of an interface's name (IFNAMSIZ with its NUL, netdevice(7)).
const MAX_INTERFACE_NAME: usize = libc::IF_NAMESIZE - 1;

/// At least one address; all of them can be listened on together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen(Vec<ListenAddress>);

impl Listen {
    /// Every address of the host, IPv6 and IPv4, on this port.
    pub(super) fn everywhere(port: u16) -> Self {
        Self(vec![SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port).into()])
    }

    /// These addresses, if they can be listened on together.
    ///
    /// # Errors
    /// The first address that cannot be.
    pub fn new(addresses: Vec<ListenAddress>) -> Result<Self, ListenError> {
        if addresses.is_empty() {
            return Err(ListenError::None);
        }
        for (at, address) in addresses.iter().enumerate() {
            if at == MAX_ADDRESSES {
                return Err(ListenError::TooMany);
            }
            address.check()?;
            if let Some(earlier) = addresses[..at].iter().find(|earlier| earlier.overlaps(address)) {
                return Err(ListenError::overlap(earlier, address));
            }
        }
        Ok(Self(addresses))
    }

    /// The addresses.
    #[must_use]
    pub fn addresses(&self) -> &[ListenAddress] {
        &self.0
    }

    /// The addresses with the interfaces that this host has now.
    ///
    /// # Errors
    /// The first interface that does not exist.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, BindError> {
        self.0.iter().map(ListenAddress::resolve).collect()
    }

    /// An address of a socket, with its interface as these settings write it.
    pub(in crate::daemon) fn shown(&self, bound: SocketAddr) -> ListenAddress {
        let mut shown = ListenAddress::from(bound);
        if shown.interface.is_some() {
            let is_it = |wanted: &&ListenAddress| {
                wanted.ip == shown.ip && wanted.resolve().is_ok_and(|wanted| scope(wanted) == scope(bound))
            };
            if let Some(wanted) = self.0.iter().find(is_it) {
                shown.interface.clone_from(&wanted.interface);
            }
        }
        shown
    }
}

/// The index of a link-local address's interface; 0 = none is named.
fn scope(address: SocketAddr) -> u32 {
    if let SocketAddr::V6(v6) = address { v6.scope_id() } else { 0 }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let addresses = Vec::<FromText<ListenAddress>>::deserialize(deserializer)?;
        Self::new(addresses.into_iter().map(|address| address.0).collect()).map_err(D::Error::custom)
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|address| FromText(address.clone())))
    }
}

/// An address and a port, a link-local address with its interface: by name or by number, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListenAddress {
    ip: IpAddr,
    port: u16,
    interface: Option<String>,
}

impl ListenAddress {
    /// The port; 0 = a free one.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address as a socket takes it, with the index that its interface has now.
    ///
    /// # Errors
    /// There is no such interface now.
    pub fn resolve(&self) -> Result<SocketAddr, BindError> {
        let (IpAddr::V6(ip), Some(interface)) = (self.ip, &self.interface) else {
            return Ok(SocketAddr::new(self.ip, self.port));
        };
        let missing =
            |source| BindError::FindInterface { address: self.to_string(), interface: interface.clone(), source };
        let scope = interface_index(interface).map_err(missing)?;
        Ok(SocketAddrV6::new(ip, self.port, 0, scope).into())
    }

    /// Returns whether a server can listen on this address at all.
    fn check(&self) -> Result<(), ListenError> {
        let takes_interface = matches!(self.ip.to_canonical(), IpAddr::V6(ip) if ip.is_unicast_link_local());
        match self.ip.to_canonical() {
            ip if ip.is_multicast() => Err(ListenError::Multicast(self.clone())),
            IpAddr::V4(Ipv4Addr::BROADCAST) => Err(ListenError::Broadcast(self.clone())),
            _ if takes_interface && self.interface.is_none() => Err(ListenError::NoInterface(self.clone())),
            _ if !takes_interface && self.interface.is_some() => Err(ListenError::NeedlessInterface(self.clone())),
            _ => Ok(()),
        }
    }

    /// Returns whether the kernel refuses to bind two sockets to these addresses, in either order: sockets without
    /// SO_REUSEADDR, the one for `[::]` with IPV6_V6ONLY off (`inet_rcv_saddr_equal` in
    /// `net/ipv4/inet_connection_sock.c`).
    fn overlaps(&self, other: &Self) -> bool {
        if self.port != other.port || self.port == 0 {
            return false;
        }
        match (self.ip.to_canonical(), other.ip.to_canonical()) {
            (IpAddr::V6(Ipv6Addr::UNSPECIFIED), _) | (_, IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => true,
            (IpAddr::V4(one), IpAddr::V4(other)) => one == other || one.is_unspecified() || other.is_unspecified(),
            (one, another) => one == another && self.interface == other.interface,
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        let interface = Some(scope(address)).filter(|&scope| scope != 0).map(|scope| scope.to_string());
        Self { ip: address.ip(), port: address.port(), interface }
    }
}

impl FromStr for ListenAddress {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let Some((ip, interface, port)) = split_interface(text) else {
            return text.parse::<SocketAddr>().map(Self::from).map_err(|_| ListenError::Syntax);
        };
        let ip: Ipv6Addr = ip.parse().map_err(|_| ListenError::Syntax)?;
        let port = port.parse().map_err(|_| ListenError::Syntax)?;
        if !is_interface_name(interface) {
            return Err(ListenError::InterfaceName(interface.to_owned()));
        }
        // Number 0 stands for none.
        let interface = Some(interface.to_owned()).filter(|name| name.parse() != Ok(0));
        Ok(Self { ip: ip.into(), port, interface })
    }
}

/// The parts of `[fe80::1%eth0]:9000`.
fn split_interface(text: &str) -> Option<(&str, &str, &str)> {
    let (ip, rest) = text.strip_prefix('[')?.split_once('%')?;
    let (interface, port) = rest.rsplit_once("]:")?;
    Some((ip, interface, port))
}

/// Returns whether an interface may have this name (`dev_valid_name` in the kernel's `net/core/dev.c`), and a line of
/// the log can show it.
fn is_interface_name(name: &str) -> bool {
    (1..=MAX_INTERFACE_NAME).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control())
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ip, port, interface } = self;
        match interface {
            Some(interface) => write!(f, "[{ip}%{interface}]:{port}"),
            None => SocketAddr::new(*ip, *port).fmt(f),
        }
    }
}

/// Addresses that cannot be listened on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Not an address with a port.
    #[error("expected an address and a port, such as \"[::]:9000\" or \"192.0.2.1:9000\"")]
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
    /// No interface can have this name.
    #[error("{} cannot be the name of an interface", quoted(.0))]
    InterfaceName(String),
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
    fn overlap(earlier: &ListenAddress, later: &ListenAddress) -> Self {
        let canonical = |address: &ListenAddress| address.ip.to_canonical();
        // `[::]` includes even `0.0.0.0`.
        let width = |address| (canonical(address).is_unspecified(), canonical(address).is_ipv6());
        let (wide, narrow) = if width(earlier) >= width(later) { (earlier, later) } else { (later, earlier) };
        match (earlier.clone(), later.clone()) {
            (earlier, later) if earlier == later => Self::Twice(later),
            (earlier, later) if canonical(&earlier) == canonical(&later) => Self::Same(earlier, later),
            _ => Self::Covered { wide: wide.clone(), narrow: narrow.clone() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(texts: &[&str]) -> Result<Listen, String> {
        let parsed = texts.iter().map(|text| text.parse::<ListenAddress>());
        let addresses = parsed.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        Listen::new(addresses).map_err(|error| error.to_string())
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
            ("[fe80::1%]:9", "`` cannot be the name of an interface"),
            ("[fe80::1%sixteen-letters-]:9", "`sixteen-letters-` cannot be the name of an interface"),
            ("[fe80::1%a/b]:9", "`a/b` cannot be the name of an interface"),
            ("[fe80::1%\u{1b}]:9", "`\\u{1b}` cannot be the name of an interface"),
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
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port)).into();
        let many = |count| Listen::new((1..=count).map(local).collect());
        assert!(many(1024).is_ok());
        assert_eq!(many(1025), Err(ListenError::TooMany));
    }

    #[test]
    fn an_interface_is_kept_as_it_is_written_and_found_when_it_is_bound() {
        for text in ["[fe80::1%lo]:9", "[fe80::1%1]:9"] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(scope(address.resolve().unwrap()), 1, "{text}");
        }
        for (text, interface) in [("[fe80::1%nowhere9]:9", "nowhere9"), ("[fe80::1%4000000000]:9", "4000000000")] {
            let absent = listen(&["[::1]:9", text]).unwrap();
            let error = absent.resolve().unwrap_err().to_string();
            assert_eq!(error, format!("find interface {interface} of {text}"));
        }
    }

    #[test]
    fn a_bound_address_is_shown_with_the_interface_as_it_was_written() {
        let bound: SocketAddr = "[fe80::1%1]:40000".parse().unwrap();
        for (wanted, expected) in [
            (&["[::1]:9", "[fe80::1%nowhere9]:0", "[fe80::1%lo]:0"][..], "[fe80::1%lo]:40000"),
            (&["[fe80::1%1]:0"], "[fe80::1%1]:40000"),
            (&["[fe80::2%lo]:0"], "[fe80::1%1]:40000"),
        ] {
            assert_eq!(listen(wanted).unwrap().shown(bound).to_string(), expected);
        }
        assert_eq!(listen(&["[::]:0"]).unwrap().shown("[::]:9".parse().unwrap()).to_string(), "[::]:9");
    }
}
