//! The setting `listen`: the addresses that can be bound side by side, each with its protocol.
//!
//! What is accepted here can be bound, as far as the settings alone can tell. An address that the host does not have
//! yet, an interface that is missing or has two names, a port that is taken or needs a privilege: that shows only when
//! the address is bound.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::listen_address::{ListenAddress, ListenAddressError, scope};
use super::values::{FromText, OneOrMore, Protocol};
use crate::socket::BindError;

/// The most addresses of one daemon.
const MAX_ADDRESSES: usize = 1024;

/// At least one listener; all of them can be bound together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Listen(Vec<ListenEntry>);

impl Listen {
    /// Every address of the host, IPv6 and IPv4, on this port.
    pub(super) fn everywhere(port: u16) -> Self {
        Self(vec![ListenAddress::from(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)).into()])
    }

    /// These listeners, if they can be bound together.
    ///
    /// # Errors
    /// The first one that cannot.
    pub fn new(entries: Vec<ListenEntry>) -> Result<Self, ListenError> {
        if entries.is_empty() {
            return Err(ListenError::None);
        }
        for (at, ListenEntry { address, .. }) in entries.iter().enumerate() {
            if at == MAX_ADDRESSES {
                return Err(ListenError::TooMany);
            }
            address.check()?;
            if let Some(earlier) = entries[..at].iter().find(|earlier| earlier.address.overlaps(address)) {
                return Err(ListenError::overlap(&earlier.address, address));
            }
        }
        Ok(Self(entries))
    }

    /// The addresses.
    pub fn addresses(&self) -> impl Iterator<Item = &ListenAddress> {
        self.0.iter().map(|entry| &entry.address)
    }

    /// Each address with its protocol: its own, or this one.
    pub fn with_default(&self, protocol: Protocol) -> impl Iterator<Item = (&ListenAddress, Protocol)> {
        self.0.iter().map(move |entry| (&entry.address, entry.protocol.unwrap_or(protocol)))
    }

    /// Each address as a socket takes it, with the interfaces that this host has now, and its protocol: its own, or
    /// this one.
    ///
    /// # Errors
    /// The first interface that does not exist.
    pub fn resolve(&self, protocol: Protocol) -> Result<Vec<(SocketAddr, Protocol)>, BindError> {
        self.with_default(protocol).map(|(address, protocol)| Ok((address.resolve()?, protocol))).collect()
    }

    /// The address of a socket, with its interface as it is written in these settings.
    pub(in crate::daemon) fn shown(&self, bound: SocketAddr) -> ListenAddress {
        let mut shown = ListenAddress::from(bound);
        if shown.interface.is_some() {
            let is_it = |wanted: &&ListenAddress| {
                wanted.ip == shown.ip && wanted.resolve().is_ok_and(|wanted| scope(wanted) == scope(bound))
            };
            if let Some(wanted) = self.addresses().find(is_it) {
                shown.interface.clone_from(&wanted.interface);
            }
        }
        shown
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(OneOrMore::deserialize(deserializer)?.0).map_err(D::Error::custom)
    }
}

/// One listener: an address, and its protocol unless that is `reply.protocol`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenEntry {
    /// The address.
    pub address: ListenAddress,
    /// The protocol; `None` = that of `reply.protocol`.
    pub protocol: Option<Protocol>,
}

impl ListenEntry {
    /// The keys of its table in the settings file.
    pub(super) const KEYS: [&str; 2] = ["address", "protocol"];
}

impl From<ListenAddress> for ListenEntry {
    fn from(address: ListenAddress) -> Self {
        Self { address, protocol: None }
    }
}

impl FromStr for ListenEntry {
    type Err = ListenError;

    /// Reads the form of the command line: `[::]:9000` or `raw:[::]:7`.
    fn from_str(text: &str) -> Result<Self, ListenError> {
        let (name, rest) = text.split_once(':').ok_or(ListenAddressError::Syntax)?;
        if let Ok(protocol) = name.parse() {
            return Ok(Self { address: rest.parse()?, protocol: Some(protocol) });
        }
        text.parse().map(ListenAddress::into).map_err(|error| match rest.parse::<ListenAddress>() {
            Ok(_) => ListenError::UnknownProtocol(name.to_owned()),
            Err(_) => error.into(),
        })
    }
}

/// The table of a listener.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Table {
    address: FromText<ListenAddress>,
    protocol: Option<Protocol>,
}

impl<'de> Deserialize<'de> for ListenEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entry;
        impl<'de> Visitor<'de> for Entry {
            type Value = ListenEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an address and a port, such as \"[::]:9000\", or a table, such as {EXAMPLE}")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ListenEntry, E> {
                let is_of_the_command_line = || text.parse().is_ok_and(|entry: ListenEntry| entry.protocol.is_some());
                text.parse().map(ListenAddress::into).map_err(|error| match error {
                    ListenAddressError::Syntax if is_of_the_command_line() => E::custom(ListenError::NeedsTable),
                    error => E::custom(error),
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ListenEntry, A::Error> {
                let Table { address, protocol } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ListenEntry { address: address.0, protocol })
            }
        }
        deserializer.deserialize_any(Entry)
    }
}

impl Serialize for ListenEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let address = FromText(self.address.clone());
        match self.protocol {
            None => address.serialize(serializer),
            protocol => Table { address, protocol }.serialize(serializer),
        }
    }
}

/// An example of a listener's table, for messages.
pub(super) const EXAMPLE: &str = "{ address = \"[::]:7\", protocol = \"raw\" }";

/// Listeners that cannot be bound, or cannot be bound together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// An address that no server can listen on.
    #[error(transparent)]
    Address(#[from] ListenAddressError),
    /// The name before the address is not a protocol.
    #[error("expected {} before the address, not `{}`", Protocol::expected(), .0.escape_debug())]
    UnknownProtocol(String),
    /// The form of the command line, used in the settings file, where the protocol is a key.
    #[error("a listener with its own protocol is a table, such as {EXAMPLE}")]
    NeedsTable,
    /// No address.
    #[error("expected at least one address, such as [\"[::]:9000\"]")]
    None,
    /// Too many addresses.
    #[error("at most {MAX_ADDRESSES} addresses can be listened on")]
    TooMany,
    /// The same address again.
    #[error("`{0}` is listed twice")]
    Twice(ListenAddress),
    /// The same address in another form.
    #[error("`{0}` and `{1}` are the same address: list one of them")]
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

    /// Listeners in the form of the command line.
    fn listen(texts: &[&str]) -> Result<Listen, String> {
        let entries = texts.iter().map(|text| text.parse()).collect::<Result<_, ListenError>>();
        entries.and_then(Listen::new).map_err(|error| error.to_string())
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
            assert_eq!(listen(&[&format!("raw:{other}"), &format!("json:{one}")]), expected);
        }
        assert_eq!(listen(&["[::]:1", "raw:[::]:1"]), Err("`[::]:1` is listed twice".into()));
        let same = listen(&["127.0.0.1:1", "[::ffff:127.0.0.1]:1"]);
        assert_eq!(same, Err("`127.0.0.1:1` and `[::ffff:127.0.0.1]:1` are the same address: list one of them".into()));
    }

    #[test]
    fn what_does_not_overlap_is_accepted() {
        for texts in [
            &["[::]:1", "raw:[::]:2", "127.0.0.1:3"][..],
            &["[::]:0", "[::]:0", "127.0.0.1:0", "0.0.0.0:0"],
            &["0.0.0.0:9", "[::1]:9", "[fe80::1%lo]:9"],
            &["127.0.0.1:9", "127.0.0.2:9", "[::1]:9"],
            &["[::ffff:127.0.0.1]:9"],
        ] {
            assert!(listen(texts).is_ok(), "{:?}", listen(texts));
        }
    }

    #[test]
    fn there_is_at_least_one_listener_and_a_bounded_number() {
        assert_eq!(Listen::new(Vec::new()), Err(ListenError::None));
        let local = |port| ListenAddress::from(SocketAddr::from(([127, 0, 0, 1], port))).into();
        let many = |count| Listen::new((1..=count).map(local).collect());
        assert!(many(1024).is_ok());
        assert_eq!(many(1025), Err(ListenError::TooMany));
    }

    #[test]
    fn a_listener_of_the_command_line_may_name_its_protocol() {
        for (text, address, protocol) in [
            ("[::]:9000", "[::]:9000", None),
            ("raw:[::]:7", "[::]:7", Some(Protocol::Raw)),
            ("json:127.0.0.1:9000", "127.0.0.1:9000", Some(Protocol::Json)),
            ("RAW:[fe80::1%lo]:7", "[fe80::1%lo]:7", Some(Protocol::Raw)),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(text.parse(), Ok(ListenEntry { address, protocol }), "{text}");
        }
        let no_address = "expected an address and a port, such as \"[::]:9000\" or \"192.0.2.1:9000\"";
        for (text, expected) in [
            ("udp:[::]:7", "expected \"json\" or \"raw\" before the address, not `udp`"),
            (":[::]:7", "expected \"json\" or \"raw\" before the address, not ``"),
            ("\u{1b}:[::]:7", "expected \"json\" or \"raw\" before the address, not `\\u{1b}`"),
            ("raw:[fe80::1%a/b]:7", "`a/b` cannot be the name of an interface"),
            ("raw:[::]", no_address),
            ("raw:raw:[::]:7", no_address),
            ("raw", no_address),
            ("localhost:9", no_address),
            ("[::]", no_address),
        ] {
            assert_eq!(text.parse::<ListenEntry>().unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn a_listener_without_a_protocol_has_the_default_one() {
        let listen = listen(&["127.0.0.1:1", "raw:127.0.0.1:2", "json:127.0.0.1:3"]).unwrap();
        for default in [Protocol::Json, Protocol::Raw] {
            let protocols: Vec<_> = listen.with_default(default).map(|(_, protocol)| protocol).collect();
            assert_eq!(protocols, [default, Protocol::Raw, Protocol::Json]);
            let resolved = listen.resolve(default).unwrap();
            let expected = [(1, default), (2, Protocol::Raw), (3, Protocol::Json)];
            assert_eq!(resolved, expected.map(|(port, protocol)| (([127, 0, 0, 1], port).into(), protocol)));
        }
    }

    #[test]
    fn a_bound_address_is_shown_with_the_interface_as_it_was_written() {
        let bound: SocketAddr = "[fe80::1%1]:40000".parse().unwrap();
        for (wanted, expected) in [
            (&["[::1]:9", "[fe80::1%nowhere9]:0", "raw:[fe80::1%lo]:0"][..], "[fe80::1%lo]:40000"),
            (&["[fe80::1%1]:0"], "[fe80::1%1]:40000"),
            (&["[fe80::2%lo]:0"], "[fe80::1%1]:40000"),
        ] {
            assert_eq!(listen(wanted).unwrap().shown(bound).to_string(), expected);
        }
        assert_eq!(listen(&["[::]:0"]).unwrap().shown("[::]:9".parse().unwrap()).to_string(), "[::]:9");
    }
}
