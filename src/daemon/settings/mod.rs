//! The settings file: TOML to settings that are valid by construction, and back.
//!
//! Every table refuses unknown keys; each kind of value is a type that holds only what makes sense. `Default` is the one
//! place where defaults are written; a test holds the shipped file against it. [`Start`] needs a restart to change,
//! [`Live`] takes effect on reload.

pub(super) mod source;
mod values;

use std::fmt;
use std::num::NonZero;
use std::thread;

use serde::{Deserialize, Serialize};

pub use self::values::*;
use crate::admission::{LONGEST_BURST, Policy, Prefix};
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
    /// Who is answered.
    pub access: Access,
    /// How often.
    pub rate_limit: RateLimit,
}

/// The table `[access]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Access {
    /// Sources that are answered; empty = everyone.
    pub allow: Vec<Text<Prefix>>,
    /// Sources that are not.
    pub deny: Vec<Text<Prefix>>,
    /// Source ports that are not.
    pub deny_source_ports: Vec<Text<Ports>>,
}

impl Default for Access {
    fn default() -> Self {
        // Services that answer anything, and so could loop with this one.
        let ports = [1..=1023, 1900..=1900, 2049..=2049, 3702..=3702, 5353..=5353, 11_211..=11_211];
        let deny_source_ports = ports.map(|range| Text(Ports(range))).into();
        Self { allow: Vec::new(), deny: Vec::new(), deny_source_ports }
    }
}

/// The table `[rate-limit]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct RateLimit {
    /// Tokens that one source gains each second; 0 = off.
    pub per_second: PerSecond,
    /// Tokens that it may spend at once.
    pub burst: Burst,
    /// Datagrams of all sources together each second; 0 = off.
    pub total_per_second: TotalPerSecond,
    /// Bits of an IPv4 address that make one source.
    pub ipv4_prefix: Ipv4Prefix,
    /// Bits of an IPv6 address that make one source.
    pub ipv6_prefix: Ipv6Prefix,
    /// Sources without a limit.
    pub exempt: Vec<Text<Prefix>>,
    /// Error replies to one source each second; 0 = no limit.
    pub error_replies_per_second: ErrorRepliesPerSecond,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// What happens to datagrams that are not JSON.
    pub invalid_json: InvalidJson,
    /// The least severe level that is logged.
    pub log_level: LogLevel,
    /// The lines of requests.
    pub request_log: RequestLogSettings,
    /// Who is answered, and how often.
    pub policy: Policy,
}

impl Settings {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// What is wrong first, and where.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let fault = |key: String, error: &toml::de::Error| Fault::new(text, &key, error);
        let file = toml::Deserializer::parse(text).map_err(|error| fault(String::new(), &error))?;
        let settings: Self =
            serde_path_to_error::deserialize(file).map_err(|error| fault(error.path().to_string(), error.inner()))?;
        let (rate, burst) = (settings.rate_limit.per_second.value(), settings.rate_limit.burst.value());
        if rate > 0 && burst > rate.saturating_mul(LONGEST_BURST) {
            return Err(Fault::of_burst(text, rate));
        }
        Ok(settings)
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
            policy: self.policy(),
        }
    }

    /// How many threads serve: one per CPU where `workers` is 0.
    #[must_use]
    pub fn worker_threads(&self) -> usize {
        match self.workers.value() {
            0 => thread::available_parallelism().map_or(1, NonZero::get),
            workers => workers as usize,
        }
    }

    fn policy(&self) -> Policy {
        let prefixes = |texts: &[Text<Prefix>]| texts.iter().map(|text| text.0).collect();
        let mut policy = Policy::open();
        policy.allow = prefixes(&self.access.allow);
        policy.deny = prefixes(&self.access.deny);
        policy.deny_source_ports = self.access.deny_source_ports.iter().map(|ports| ports.0.0.clone()).collect();
        policy.rate_limit.per_second = self.rate_limit.per_second.value();
        policy.rate_limit.burst = self.rate_limit.burst.value();
        policy.rate_limit.total_per_second = self.rate_limit.total_per_second.value();
        policy.rate_limit.ipv4_prefix = self.rate_limit.ipv4_prefix.value() as u8;
        policy.rate_limit.ipv6_prefix = self.rate_limit.ipv6_prefix.value() as u8;
        policy.rate_limit.exempt = prefixes(&self.rate_limit.exempt);
        policy.error_replies_per_second = self.rate_limit.error_replies_per_second.value();
        policy
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
        let named = !key.is_empty() && key != "." && !key.ends_with('?');
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        let message = if named { format!("{key}: {message}") } else { message };
        Self::at(text, error.span().map_or(0, |span| span.start), &message)
    }

    fn at(text: &str, offset: usize, message: &str) -> Self {
        // A quoted key may hold anything, and the message is one line.
        let message = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let before = text.get(..offset).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1, message }
    }
}

impl Fault {
    /// A burst that would take too long to become whole again: a fault of two keys, shown at the one that is written.
    fn of_burst(text: &str, rate: u32) -> Self {
        let document = toml::de::DeTable::parse(text).ok();
        let table = document.as_ref().and_then(|document| document.get_ref().get("rate-limit"));
        let value = |key| table.and_then(|table| table.get_ref().get(key));
        let at = value("burst").or_else(|| value("per-second")).map_or(0, |value| value.span().start);
        let most = rate.saturating_mul(LONGEST_BURST);
        let message = format!(
            "rate-limit.burst: expected at most {most}, what per-second = {rate} makes up for in {LONGEST_BURST} s"
        );
        Self::at(text, at, &message)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../config/echo-udpd.toml");

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
        assert_eq!(keys.len(), 20, "a new key belongs to this test by itself; count it");
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
                let expected = ["expected", "is not an address", "is not a port"];
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
    fn a_burst_must_pass_the_largest_datagram_and_be_made_up_for_in_time() {
        let text = "[rate-limit]\nburst = 53";
        let expected =
            "2:9: rate-limit.burst: invalid value: integer `53`, expected a whole number from 54 to 30000000";
        assert_eq!(fault(text), expected);
        assert_eq!(
            fault("[rate-limit]\nper-second = 1\n"),
            "2:14: rate-limit.burst: expected at most 300, what per-second = 1 makes up for in 300 s"
        );
        assert!(fault("[rate-limit]\nper-second = 10\nburst = 3001").starts_with("3:9: rate-limit.burst: "));
        assert!(Settings::parse("[rate-limit]\nper-second = 10\nburst = 3000").is_ok());
        assert!(Settings::parse("[rate-limit]\nper-second = 0\nburst = 30000000").is_ok());
    }

    #[test]
    fn prefixes_and_ports_say_what_is_wrong_with_them() {
        assert_eq!(
            fault("[access]\ndeny = ['::1', '192.0.2.7/24']"),
            "2:16: access.deny[1]: `192.0.2.7/24` is address bits beyond the prefix length, `192.0.2.0/24` is meant"
        );
        for ports in ["x", "1-", "-1", "9-8", "65536", "1-2-3"] {
            assert!(
                fault(&format!("[access]\ndeny-source-ports = ['{ports}']"))
                    .starts_with("2:22: access.deny-source-ports[0]")
            );
        }
    }

    #[test]
    fn a_change_that_needs_a_restart_is_named() {
        let old = Settings::default();
        let new = Settings::parse("workers = 2\n[log]\ntarget = 'stderr'\nlevel = 'debug'").unwrap();
        assert_eq!(old.start().differences(&new.start()), ["workers", "log.target"]);
        assert_ne!(old.live(), new.live());
    }
}
