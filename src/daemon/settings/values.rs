//! The kinds of values in the settings file: each holds only what makes sense, and says what it expects.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::admission::LARGEST_COST;

/// Declares a choice between names.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $(#[$first_doc:meta])* $first:ident = $first_text:literal
     $(, $(#[$other_doc:meta])* $other:ident = $other_text:literal)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name {
            #[default]
            $(#[$first_doc])*
            $first,
            $($(#[$other_doc])* $other,)*
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Name;
                impl Visitor<'_> for Name {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("one of \"", $first_text, "\"" $(, ", \"", $other_text, "\"")*))
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        match text {
                            $first_text => Ok($name::$first),
                            $($other_text => Ok($name::$other),)*
                            _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                        }
                    }
                }
                deserializer.deserialize_str(Name)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(match self {
                    Self::$first => $first_text,
                    $(Self::$other => $other_text,)*
                })
            }
        }
    };
}

named! {
    /// What a datagram must be.
    Protocol,
    /// Valid JSON.
    Json = "json",
    /// Anything (RFC 862).
    Raw = "raw"
}
named! {
    /// The answer to what is not JSON.
    InvalidJson,
    /// An error reply.
    Error = "error",
    /// None.
    Ignore = "ignore"
}
named! {
    /// Where the log goes.
    LogTarget,
    /// To journald when stderr is connected to it, else to stderr.
    Auto = "auto",
    /// To journald.
    Journald = "journald",
    /// To standard error.
    Stderr = "stderr"
}
named! {
    /// The least severe level that is logged.
    LogLevel,
    /// What is told without being asked for.
    Info = "info",
    /// Only what the operator should act on.
    Error = "error",
    /// Also what the operator should know.
    Warn = "warn",
    /// Also what helps to find a fault.
    Debug = "debug",
    /// Everything.
    Trace = "trace"
}

/// At least one address, none twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listen(Vec<SocketAddr>);

impl Default for Listen {
    fn default() -> Self {
        Self(vec![SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), 9000)])
    }
}

impl Listen {
    /// These addresses, if they can be listened on together.
    ///
    /// # Errors
    /// None, or the same one twice.
    pub fn new(addresses: Vec<SocketAddr>) -> Result<Self, &'static str> {
        let repeated = |(at, address): (usize, &SocketAddr)| address.port() != 0 && addresses[..at].contains(address);
        if addresses.is_empty() {
            return Err("at least one address is needed, such as \"[::]:9000\"");
        }
        if addresses.iter().enumerate().any(repeated) {
            return Err("an address is there twice");
        }
        Ok(Self(addresses))
    }

    /// The addresses.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let addresses = Vec::<Text<ListenAddress>>::deserialize(deserializer)?;
        Self::new(addresses.into_iter().map(|address| address.0.0).collect()).map_err(D::Error::custom)
    }
}

/// An address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

impl FromStr for ListenAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| "not an address and a port, such as `[::]:9000` or `192.0.2.1:9000`")
    }
}

/// Declares a whole number that holds only what is within a range.
macro_rules! ranged {
    ($(#[$doc:meta])* $name:ident, $range:expr, $default:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(u32);

        impl $name {
            /// The number.
            #[must_use]
            pub fn value(self) -> u32 {
                self.0
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self($default)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Whole;
                impl Visitor<'_> for Whole {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "a whole number from {} to {}", $range.start(), $range.end())
                    }
                    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$name, E> {
                        let within = u32::try_from(number).ok().filter(|number| $range.contains(number));
                        within.map($name).ok_or_else(|| {
                            E::invalid_value(serde::de::Unexpected::Signed(number), &self)
                        })
                    }
                }
                deserializer.deserialize_i64(Whole)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_u32(self.0)
            }
        }
    };
}

ranged! {
    /// Threads that serve; 0 = one per CPU.
    Workers, 0..=256, 1
}
ranged! {
    /// Receive buffer to ask for, in bytes.
    ReceiveBufferBytes, 4096..=1_073_741_823, 8 << 20
}
ranged! {
    /// A rate of log lines; 0 = no limit.
    RequestsPerSecond, 0..=1_000_000, 100
}
ranged! {
    /// Characters of a payload in a log line.
    MaxPayloadBytes, 16..=16_384, 512
}

ranged! {
    /// Tokens that one source gains each second; 0 = off.
    PerSecond, 0..=100_000, 200
}
ranged! {
    /// Tokens that one source may spend at once; the largest datagram costs 54.
    Burst, LARGEST_COST..=30_000_000, 400
}
ranged! {
    /// Datagrams of all sources together each second; 0 = off.
    TotalPerSecond, 0..=10_000_000, 0
}
ranged! {
    /// Bits of an IPv4 address.
    Ipv4Prefix, 1..=32, 32
}
ranged! {
    /// Bits of an IPv6 address.
    Ipv6Prefix, 1..=128, 64
}
ranged! {
    /// Error replies to one source each second; 0 = no limit.
    ErrorRepliesPerSecond, 0..=100, 10
}

/// A value that is written as a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<T>(pub T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parsed<T>(PhantomData<T>);
        impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Parsed<T> {
            type Value = Text<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text<T>, E> {
                let parsed = text.parse().map(Text);
                parsed.map_err(|reason| E::custom(format!("`{}` is {reason}", text.escape_debug())))
            }
        }
        deserializer.deserialize_str(Parsed(PhantomData))
    }
}

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A range of ports, or one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(pub(super) RangeInclusive<u16>);

impl FromStr for Ports {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self(first..=last)),
            _ => Err("not a port or a range of ports from 0 to 65535, such as `1900` or `1-1023`"),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.0.start(), self.0.end());
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}
