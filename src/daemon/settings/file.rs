//! The file as it is written: its tables with their defaults, and the way from text and back.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::diagnosis;
use super::faults::Faults;
use super::listen::Listen;
use super::values::*;
use crate::admission::{MAX_DATAGRAM_COST, MAX_REFILL_SECONDS, Prefix};
use crate::handler::RequestLogSettings;

/// The file as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Settings {
    /// Addresses and ports to listen on, each with its protocol.
    pub listen: Listen,
    /// The number of worker threads; 0 = one per CPU.
    pub workers: Whole<0, 256>,
    /// Receive buffer to request for each socket.
    pub receive_buffer_bytes: BufferSize,
    /// Send buffer to request for each socket.
    pub send_buffer_bytes: BufferSize,
    /// Receives runs of datagrams as one message.
    pub udp_gro: bool,
    /// The replies.
    pub reply: Reply,
    /// The log.
    pub log: Log,
    /// The sources that get a reply.
    pub access: Access,
    /// The rate limit.
    pub rate_limit: RateLimit,
}

/// The size of a socket's buffer; the kernel takes no more.
pub type BufferSize = Size<4096, 1_073_741_824>;

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: Listen::everywhere(9000),
            workers: Whole::of(1),
            receive_buffer_bytes: Size::of(8 << 20),
            send_buffer_bytes: Size::of(8 << 20),
            udp_gro: true,
            reply: Reply::default(),
            log: Log::default(),
            access: Access::default(),
            rate_limit: RateLimit::default(),
        }
    }
}

/// The table `[reply]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Reply {
    /// The protocol of listeners that do not name one.
    pub protocol: Protocol,
    /// The reply to datagrams that are not JSON.
    pub invalid_json: InvalidJson,
}

impl Default for Reply {
    fn default() -> Self {
        Self { protocol: Protocol::Json, invalid_json: InvalidJson::Error }
    }
}

/// The table `[log]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Log {
    /// The destination of the log.
    pub target: LogTarget,
    /// The least severe level that is logged.
    pub level: LogLevel,
    /// Logs a line for each request.
    pub requests: bool,
    /// Request lines per second, on average; 0 = no limit.
    pub requests_per_second: Whole<0, 1_000_000>,
    /// The most bytes of payload that such a line shows.
    pub max_payload_bytes: Whole<16, 16_384>,
}

impl Default for Log {
    fn default() -> Self {
        // Those of the library.
        let RequestLogSettings { enabled, per_second, max_payload } = RequestLogSettings::default();
        Self {
            target: LogTarget::Auto,
            level: LogLevel::Info,
            requests: enabled,
            requests_per_second: Whole::of(per_second),
            max_payload_bytes: Whole::of(max_payload as u32),
        }
    }
}

/// The table `[access]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Access {
    /// Sources that get a reply; empty = everyone.
    pub allow: List<Prefix, 65_536>,
    /// Sources that get none.
    pub deny: List<Prefix, 65_536>,
    /// Source ports that get none.
    pub deny_source_ports: List<PortRange, 1024>,
}

impl Default for Access {
    fn default() -> Self {
        // Services that reply to anything, and so could loop with this one.
        let ports = [1..=1023, 1900..=1900, 2049..=2049, 3702..=3702, 5353..=5353, 11_211..=11_211];
        Self { allow: List::of([]), deny: List::of([]), deny_source_ports: List::of(ports.map(PortRange)) }
    }
}

/// The table `[rate-limit]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct RateLimit {
    /// Tokens that one source gains per second; 0 = off.
    pub per_second: Whole<0, 100_000>,
    /// Tokens that it may spend at once: enough for the largest datagram, few enough to refill in time.
    pub burst: Whole<0, 30_000_000>,
    /// Datagrams per second from all sources together; 0 = off.
    pub total_per_second: Whole<0, 10_000_000>,
    /// Leading bits of an IPv4 address that identify a source.
    pub ipv4_prefix: Whole<1, 32>,
    /// Leading bits of an IPv6 address that identify a source.
    pub ipv6_prefix: Whole<1, 128>,
    /// Sources exempt from the limit.
    pub exempt: List<Prefix, 1024>,
    /// Error replies per second to one source; 0 = no limit.
    pub error_replies_per_second: Whole<0, 100>,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            per_second: Whole::of(200),
            burst: Whole::of(400),
            total_per_second: Whole::of(0),
            ipv4_prefix: Whole::of(32),
            ipv6_prefix: Whole::of(64),
            exempt: List::of([]),
            error_replies_per_second: Whole::of(10),
        }
    }
}

impl RateLimit {
    /// The bursts that are valid at this rate: the largest datagram passes, and a burst refills in time.
    pub(super) fn sensible_bursts(&self) -> RangeInclusive<u32> {
        match self.per_second.value() {
            0 => 0..=u32::MAX,
            rate => MAX_DATAGRAM_COST..=rate.saturating_mul(MAX_REFILL_SECONDS),
        }
    }
}

impl Settings {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// All faults of the text.
    pub fn parse(text: &str) -> Result<Self, Faults> {
        let settings = toml::Deserializer::parse(text).and_then(Self::deserialize);
        match settings {
            Ok(settings) if settings.rate_limit.sensible_bursts().contains(&settings.rate_limit.burst.value()) => {
                Ok(settings)
            }
            _ => Err(diagnosis::faults(text)),
        }
    }
}

impl fmt::Display for Settings {
    /// Writes TOML that reads back as the same settings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&toml::to_string(self).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::faults::quoted;
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
        let text = "workers = 0\n[log]\nlevel = 'trace'\nrequests = false";
        for listen in [
            "['127.0.0.1:1', '[fe80::1%lo]:2']",
            "['[::]:9000', { address = '[::]:7', protocol = 'raw' }]",
            "[{ address = '[::]:7', protocol = 'raw' }, { address = '[::]:8', protocol = 'json' }]",
        ] {
            let settings = Settings::parse(&format!("listen = {listen}\n{text}")).unwrap();
            assert_eq!(Settings::parse(&settings.to_string()).unwrap(), settings);
            assert_ne!(settings, Settings::default());
        }
    }

    #[test]
    fn a_single_value_needs_no_list_and_a_number_no_quotes() {
        let same = |one: &str, other: &str| assert_eq!(Settings::parse(one).unwrap(), Settings::parse(other).unwrap());
        same("listen = '[::]:7'", "listen = ['[::]:7']");
        let table = "listen = { address = '[::]:7', protocol = 'raw' }";
        same(table, "listen = [{ address = '[::]:7', protocol = 'RAW' }]");
        same(table, "[listen]\naddress = '[::]:7'\nprotocol = 'raw'");
        same(table, "[[listen]]\naddress = '[::]:7'\nprotocol = 'raw'");
        same("listen = { address = '[::]:7' }", "listen = '[::]:7'");
        same("access.allow = '::1'", "access.allow = ['::1']");
        same("rate-limit.exempt = '192.0.2.0/24'", "rate-limit.exempt = ['192.0.2.0/24']");
        same("access.deny-source-ports = 1900", "access.deny-source-ports = ['1900']");
        same("access.deny-source-ports = [1900, '1-3', 0x35]", "access.deny-source-ports = ['1900', '1-3', '53']");
        assert_ne!(Settings::parse("access.deny-source-ports = 1900").unwrap(), Settings::default());
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
        assert_eq!(keys.len(), 22, "a new key belongs to this test by itself; count it");
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
            for wrong in [wrong_type, wrong_value, "99999999999999999999999999999999999999999", "2026-11-24", "1e999"] {
                let message = fault(&format!("{header}\n{key} = {wrong}\n"));
                // Inside a list it is the element that is wrong.
                let inside = usize::from(wrong.starts_with('['));
                let place = format!("2:{}: {path}{}: expected ", key.len() + 4 + inside, ["", "[0]"][inside]);
                assert!(message.starts_with(&place), "{key} = {wrong}: {message}");
                let shown = quoted(wrong.trim_matches(['[', ']']));
                assert!(message.ends_with(&format!("not {shown}")), "{message}");
            }
        }
    }

    #[test]
    fn no_list_is_longer_than_it_may_be() {
        for (table, key, longest, element) in [
            ("access", "allow", 65_536, "'::1'"),
            ("access", "deny", 65_536, "'::1'"),
            ("access", "deny-source-ports", 1024, "'9'"),
            ("rate-limit", "exempt", 1024, "'::1'"),
        ] {
            let text = |length| format!("[{table}]\n{key} = [\n{}]", format!("{element},\n").repeat(length));
            assert!(Settings::parse(&text(longest)).is_ok(), "{key}");
            let too_long = format!("{}:1: {table}.{key}: the list is too long: at most {longest} entries", longest + 3);
            assert_eq!(fault(&text(longest + 1)), too_long);
        }
    }

    #[test]
    fn sizes_may_have_a_unit() {
        for size in ["8388608", "'8MiB'", "'8M'", "'8192 KiB'"] {
            assert_eq!(Settings::parse(&format!("receive-buffer-bytes = {size}")), Ok(Settings::default()), "{size}");
        }
        let settings = Settings::parse("send-buffer-bytes = '1GiB'").unwrap();
        assert_eq!(settings.send_buffer_bytes.value(), 1 << 30);
        assert!(settings.to_string().contains("send-buffer-bytes = 1073741824"));
        let expected =
            "expected 4096 to 1073741824 bytes, such as 8388608 or \"8MiB\" (units: KiB, MiB, GiB or K, M, G)";
        for wrong in ["4095", "1073741825", "'8MB'", "'3K'", "'2G'", "true"] {
            let fault = fault(&format!("send-buffer-bytes = {wrong}"));
            assert_eq!(fault, format!("1:21: send-buffer-bytes: {expected}, not {}", quoted(wrong)));
        }
    }

    #[test]
    fn choices_may_be_written_in_any_case() {
        for (level, expected) in [
            ("INFO", LogLevel::Info),
            ("Warning", LogLevel::Warn),
            ("warn", LogLevel::Warn),
            ("trace", LogLevel::Trace),
        ] {
            assert_eq!(Settings::parse(&format!("[log]\nlevel = '{level}'")).unwrap().log.level, expected);
        }
        assert_eq!(Settings::parse("[reply]\nprotocol = 'RAW'").unwrap().reply.protocol, Protocol::Raw);
    }

    #[test]
    fn a_burst_must_pass_the_largest_datagram_and_refill_in_time() {
        for (text, expected) in [
            (
                "burst = 53",
                "2:9: rate-limit.burst: must be at least 54, what the largest datagram costs, unless per-second = 0",
            ),
            (
                "per-second = 1",
                "2:14: rate-limit.per-second: must be at least 2: a burst has to refill within 300 s, with burst = 400 \
                 (the default)",
            ),
            (
                "per-second = 10\nburst = 3001",
                "3:9: rate-limit.burst: must be at most 3000: a burst has to refill within 300 s at per-second = 10",
            ),
            (
                "burst = 60001",
                "2:9: rate-limit.burst: must be at most 60000: a burst has to refill within 300 s at per-second = 200 \
                 (the default)",
            ),
        ] {
            assert_eq!(fault(&format!("[rate-limit]\n{text}")), expected);
        }
        for text in [
            "per-second = 10\nburst = 3000",
            "per-second = 0\nburst = 30000000",
            "per-second = 0\nburst = 0",
            "per-second = 2",
            "burst = 54",
        ] {
            assert!(Settings::parse(&format!("[rate-limit]\n{text}")).is_ok(), "{text}");
        }
    }
}
