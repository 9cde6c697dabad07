//! The settings file: TOML to settings that are valid by construction, and back.
//!
//! Every table refuses unknown keys; each kind of value is a type that holds only what makes sense. `Default` is the one
//! place where defaults are written; a test holds the shipped file against it. [`Start`] needs a restart to change,
//! [`Live`] takes effect on reload.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::handler::RequestLogSettings;

/// The file as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Settings {
    /// Addresses and ports to answer on.
    pub listen: Listen,
    /// Threads that serve.
    pub workers: Workers,
    /// Bytes of receive buffer for each socket.
    pub receive_buffer_bytes: ReceiveBufferBytes,
    /// How datagrams are answered.
    pub reply: Reply,
    /// What is logged, and where.
    pub log: Log,
}

/// The table `[reply]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Reply {
    /// What a datagram must be.
    pub protocol: Protocol,
    /// What happens to those that are not JSON.
    pub invalid_json: InvalidJson,
}

/// The table `[log]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Log {
    /// Where to.
    pub target: LogTarget,
    /// From which level on.
    pub level: LogLevel,
    /// Whether each request has a line.
    pub requests: bool,
    /// How many of those a second; 0 = no limit.
    pub requests_per_second: RequestsPerSecond,
    /// How much of the payload they show.
    pub max_payload_bytes: MaxPayloadBytes,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            target: LogTarget::default(),
            level: LogLevel::default(),
            requests: true,
            requests_per_second: RequestsPerSecond::default(),
            max_payload_bytes: MaxPayloadBytes::default(),
        }
    }
}

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
        let addresses = Vec::<ListenAddress>::deserialize(deserializer)?;
        Self::new(addresses.into_iter().map(|address| address.0).collect()).map_err(D::Error::custom)
    }
}

/// An address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!("`{}` is not an address and a port, such as `[::]:9000` or `192.0.2.1:9000`", text.escape_debug())
        })
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = ListenAddress;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address and a port as a string, such as \"[::]:9000\"")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ListenAddress, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
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

/// What needs a restart to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Addresses and ports.
    pub listen: Listen,
    /// Threads that serve; 0 = one per CPU.
    pub workers: Workers,
    /// Bytes of receive buffer.
    pub receive_buffer_bytes: ReceiveBufferBytes,
    /// What a datagram must be.
    pub protocol: Protocol,
    /// Where the log goes.
    pub log_target: LogTarget,
}

impl Start {
    /// The keys whose values differ.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let differs = [
            ("listen", self.listen != other.listen),
            ("workers", self.workers != other.workers),
            ("receive-buffer-bytes", self.receive_buffer_bytes != other.receive_buffer_bytes),
            ("reply.protocol", self.protocol != other.protocol),
            ("log.target", self.log_target != other.log_target),
        ];
        differs.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }
}

/// What takes effect on reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// What happens to datagrams that are not JSON.
    pub invalid_json: InvalidJson,
    /// The least severe level that is logged.
    pub log_level: LogLevel,
    /// The lines of requests.
    pub request_log: RequestLogSettings,
}

impl Settings {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or says something that it may not; the error names path, line and column.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|fault| SettingsError::Invalid { path: path.to_owned(), fault })
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// What is wrong first, and where.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let fault = |key: String, error: &toml::de::Error| Fault::new(text, &key, error);
        let file = toml::Deserializer::parse(text).map_err(|error| fault(String::new(), &error))?;
        serde_path_to_error::deserialize(file).map_err(|error| fault(error.path().to_string(), error.inner()))
    }

    /// What needs a restart to change.
    #[must_use]
    pub fn start(&self) -> Start {
        Start {
            listen: self.listen.clone(),
            workers: self.workers,
            receive_buffer_bytes: self.receive_buffer_bytes,
            protocol: self.reply.protocol,
            log_target: self.log.target,
        }
    }

    /// What takes effect on reload.
    #[must_use]
    pub fn live(&self) -> Live {
        Live {
            invalid_json: self.reply.invalid_json,
            log_level: self.log.level,
            request_log: RequestLogSettings {
                enabled: self.log.requests,
                per_second: self.log.requests_per_second.value(),
                max_payload: self.log.max_payload_bytes.value() as usize,
            },
        }
    }
}

impl fmt::Display for Settings {
    /// As TOML that reads back as the same settings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&toml::to_string(self).map_err(|_| fmt::Error)?)
    }
}

/// What is wrong in a settings file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What was wrong and what was expected, naming the key.
    pub message: String,
}

impl Fault {
    fn new(text: &str, key: &str, error: &toml::de::Error) -> Self {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let before = text.get(..at).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let named = !key.is_empty() && key != "." && !key.ends_with('?');
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: if named { format!("{key}: {message}") } else { message },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// A settings file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It says something that it may not.
    #[error("{}:{fault}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What and where.
        fault: Fault,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../config/echo-udpd.toml");

    fn fault(text: &str) -> String {
        Settings::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_shipped_file_is_the_defaults_and_shows_every_key() {
        assert_eq!(Settings::parse(SHIPPED).unwrap(), Settings::default());
        let shown: toml::Table = SHIPPED.parse().unwrap();
        let every: toml::Table = Settings::default().to_string().parse().unwrap();
        assert_eq!(shown, every);
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        let text = "listen = ['127.0.0.1:1', '[fe80::1%2]:2']\nworkers = 0\n[log]\nlevel = 'trace'\nrequests = false";
        let settings = Settings::parse(text).unwrap();
        assert_eq!(Settings::parse(&settings.to_string()).unwrap(), settings);
        assert_ne!(settings, Settings::default());
    }

    #[test]
    fn every_key_of_the_shipped_file_refuses_a_wrong_type_and_a_wrong_value_by_name() {
        let shipped: toml::Table = SHIPPED.parse().unwrap();
        let mut keys = Vec::new();
        for (name, value) in &shipped {
            match value {
                toml::Value::Table(table) => keys.extend(table.iter().map(|(key, v)| (Some(name), key, v))),
                _ => keys.push((None, name, value)),
            }
        }
        assert_eq!(keys.len(), 10, "a new key belongs to this test by itself; count it");
        for (table, key, value) in keys {
            let wrong_type = if value.is_str() { "7" } else { "'seven'" };
            let wrong_value = match value {
                toml::Value::Integer(_) => "-1",
                toml::Value::Array(_) => "['nowhere']",
                toml::Value::String(_) => "'nonsense'",
                _ => "{}",
            };
            let (header, path) = table
                .map_or_else(|| (String::new(), key.clone()), |table| (format!("[{table}]"), format!("{table}.{key}")));
            for wrong in [wrong_type, wrong_value] {
                let message = fault(&format!("{header}\n{key} = {wrong}\n"));
                // Inside an array it is the element that is wrong.
                let column = key.len() + 4 + usize::from(wrong.starts_with('['));
                assert!(message.starts_with(&format!("2:{column}")), "{key} = {wrong}: {message}");
                assert!(message.contains(&path), "{key} = {wrong}: {message}");
                let expected = ["expected", "is not an address"];
                assert!(expected.iter().any(|text| message.contains(text)), "{key} = {wrong}: {message}");
            }
        }
    }

    #[test]
    fn a_fault_says_where_and_what_was_expected() {
        assert_eq!(
            fault("\n\nworkers = 300"),
            "3:11: workers: invalid value: integer `300`, expected a whole number from 0 to 256"
        );
        assert_eq!(
            fault("[log]\nlevle = 'info'").split(", expected").next(),
            Some("2:1: log.levle: unknown field `levle`")
        );
        assert_eq!(fault("listen = []"), "1:10: listen: at least one address is needed, such as \"[::]:9000\"");
        assert_eq!(fault("listen = ['[::]:1', '[::]:1']"), "1:10: listen: an address is there twice");
        assert!(
            fault("listen = ['127.0.0.1']").starts_with("1:11: listen[0]: `127.0.0.1` is not an address and a port")
        );
        assert!(fault("workers = \n").starts_with("1:11: "));
        assert!(fault("workers = 1\nworkers = 2").starts_with("2:1: "));
    }

    #[test]
    fn a_change_that_needs_a_restart_is_named() {
        let old = Settings::default();
        let new = Settings::parse("workers = 2\n[log]\ntarget = 'stderr'\nlevel = 'debug'").unwrap();
        assert_eq!(old.start().differences(&new.start()), ["workers", "log.target"]);
        assert_ne!(old.live(), new.live());
    }
}
