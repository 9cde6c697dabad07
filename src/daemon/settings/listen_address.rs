//! One address to listen on: its written form, and the addresses that no server can listen on.
//!
//! An interface is kept as it is written and looked up when the address is bound: interfaces come and go.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use super::faults::quoted;
use crate::socket::{BindError, interface_index};

/// The most bytes of an interface's name (IFNAMSIZ with its NUL, netdevice(7)).
const MAX_INTERFACE_NAME: usize = libc::IF_NAMESIZE - 1;

/// An address and a port, a link-local address with its interface: by name or by number, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListenAddress {
    pub(super) ip: IpAddr,
    pub(super) port: u16,
    pub(super) interface: Option<String>,
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
    /// The interface does not exist now.
    pub fn resolve(&self) -> Result<SocketAddr, BindError> {
        let (IpAddr::V6(ip), Some(interface)) = (self.ip, &self.interface) else {
            return Ok(SocketAddr::new(self.ip, self.port));
        };
        let missing =
            |source| BindError::FindInterface { address: self.to_string(), interface: interface.clone(), source };
        let scope = interface_index(interface).map_err(missing)?;
        Ok(SocketAddrV6::new(ip, self.port, 0, scope).into())
    }

    /// Fails if no server can listen on this address.
    pub(super) fn check(&self) -> Result<(), ListenAddressError> {
        let takes_interface = matches!(self.ip.to_canonical(), IpAddr::V6(ip) if ip.is_unicast_link_local());
        match self.ip.to_canonical() {
            ip if ip.is_multicast() => Err(ListenAddressError::Multicast(self.clone())),
            IpAddr::V4(Ipv4Addr::BROADCAST) => Err(ListenAddressError::Broadcast(self.clone())),
            _ if takes_interface && self.interface.is_none() => Err(ListenAddressError::NoInterface(self.clone())),
            _ if !takes_interface && self.interface.is_some() => {
                Err(ListenAddressError::NeedlessInterface(self.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Returns whether the kernel refuses to bind two sockets to these addresses, in either order: sockets without
    /// SO_REUSEADDR, the one for `[::]` with IPV6_V6ONLY off (`inet_rcv_saddr_equal` in
    /// `net/ipv4/inet_connection_sock.c`).
    pub(super) fn overlaps(&self, other: &Self) -> bool {
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
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        let Some((ip, interface, port)) = split_interface(text) else {
            return text.parse::<SocketAddr>().map(Self::from).map_err(|_| ListenAddressError::Syntax);
        };
        let ip: Ipv6Addr = ip.parse().map_err(|_| ListenAddressError::Syntax)?;
        let port = port.parse().map_err(|_| ListenAddressError::Syntax)?;
        if !is_interface_name(interface) {
            return Err(ListenAddressError::InterfaceName(interface.to_owned()));
        }
        // Number 0 means no interface.
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

/// Returns whether an interface may have this name (`dev_valid_name` in the kernel's `net/core/dev.c`) and a log line
/// can show it.
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

/// The index of a link-local address's interface; 0 = none.
pub(super) fn scope(address: SocketAddr) -> u32 {
    if let SocketAddr::V6(v6) = address { v6.scope_id() } else { 0 }
}

/// An address that cannot be listened on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenAddressError {
    /// Not an address with a port.
    #[error("expected an address and a port, such as \"[::]:9000\" or \"192.0.2.1:9000\"")]
    Syntax,
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let checked = text.parse().and_then(|address: ListenAddress| address.check());
            let error = checked.unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn an_interface_is_kept_as_it_is_written_and_found_when_it_is_bound() {
        for text in ["[fe80::1%lo]:9", "[fe80::1%1]:9"] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(scope(address.resolve().unwrap()), 1, "{text}");
        }
        for (text, interface) in [("[fe80::1%nowhere9]:9", "nowhere9"), ("[fe80::1%4000000000]:9", "4000000000")] {
            let absent: ListenAddress = text.parse().unwrap();
            let error = absent.resolve().unwrap_err().to_string();
            assert_eq!(error, format!("find interface {interface} of {text}"));
        }
    }
}
