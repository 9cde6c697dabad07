//! The settings in force: those that need a restart to change, and those that take effect on reload.

use std::num::NonZero;
use std::thread;

use super::file::{BufferSize, Settings};
use super::listen::Listen;
use super::values::*;
use crate::admission::{self, Policy};
use crate::handler::RequestLogSettings;

/// The settings that need a restart to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// Addresses and ports, each with its protocol.
    pub listen: Listen,
    /// The number of worker threads; 0 = one per CPU.
    pub workers: Whole<0, 256>,
    /// Receive buffer of each socket.
    pub receive_buffer_bytes: BufferSize,
    /// Send buffer of each socket.
    pub send_buffer_bytes: BufferSize,
    /// Receives runs of datagrams as one message.
    pub udp_gro: bool,
    /// The protocol of listeners that do not name one.
    pub protocol: Protocol,
    /// The destination of the log.
    pub log_target: LogTarget,
}

impl Fixed {
    /// The keys whose new values take effect only after a restart.
    ///
    /// `passed` has, for each socket that a socket unit passed, the protocol that its name specifies, if any. If there
    /// are such sockets, `listen` is ignored, now and at the next start.
    #[must_use]
    pub fn differences(&self, other: &Self, passed: &[Option<Protocol>]) -> Vec<&'static str> {
        let (listen, protocol) = self.listener_differences(other, passed);
        let differs = [
            ("listen", listen),
            ("workers", self.workers != other.workers),
            ("receive-buffer-bytes", self.receive_buffer_bytes != other.receive_buffer_bytes),
            ("send-buffer-bytes", self.send_buffer_bytes != other.send_buffer_bytes),
            ("udp-gro", self.udp_gro != other.udp_gro),
            ("reply.protocol", protocol),
            ("log.target", self.log_target != other.log_target),
        ];
        differs.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }

    /// Returns whether `listen` and whether `reply.protocol` differ in a way that changes the protocol of a listener,
    /// or where it listens.
    fn listener_differences(&self, other: &Self, passed: &[Option<Protocol>]) -> (bool, bool) {
        if !passed.is_empty() {
            return (false, self.protocol != other.protocol && passed.contains(&None));
        }
        let same = |one: &Listen, protocol, other: &Listen, other_protocol| {
            one.with_default(protocol).eq(other.with_default(other_protocol))
        };
        if same(&self.listen, self.protocol, &other.listen, other.protocol) {
            return (false, false);
        }
        // As if first `listen` changed, and then `reply.protocol`.
        let listen = !same(&self.listen, self.protocol, &other.listen, self.protocol);
        let protocol = !same(&other.listen, self.protocol, &other.listen, other.protocol);
        (listen, protocol)
    }
}

/// The settings that take effect on reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloadable {
    /// The reply to datagrams that are not JSON.
    pub invalid_json: InvalidJson,
    /// The least severe level that is logged.
    pub log_level: LogLevel,
    /// The request lines.
    pub request_log: RequestLogSettings,
    /// The sources that get replies, and their rate.
    pub policy: Policy,
}

impl Settings {
    /// The settings that need a restart to change.
    #[must_use]
    pub fn fixed(&self) -> Fixed {
        Fixed {
            listen: self.listen.clone(),
            workers: self.workers,
            receive_buffer_bytes: self.receive_buffer_bytes,
            send_buffer_bytes: self.send_buffer_bytes,
            udp_gro: self.udp_gro,
            protocol: self.reply.protocol,
            log_target: self.log.target,
        }
    }

    /// The settings that take effect on reload.
    #[must_use]
    pub fn reloadable(&self) -> Reloadable {
        Reloadable {
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

    /// The number of worker threads: one per CPU if `workers` is 0.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        match self.workers.value() {
            0 => thread::available_parallelism().map_or(1, NonZero::get),
            workers => workers as usize,
        }
    }

    fn policy(&self) -> Policy {
        let mut policy = Policy::open();
        policy.allow = self.access.allow.iter().copied().collect();
        policy.deny = self.access.deny.iter().copied().collect();
        policy.deny_source_ports = self.access.deny_source_ports.iter().map(|ports| ports.0.clone()).collect();
        let (rate, burst) = (self.rate_limit.per_second.value(), self.rate_limit.burst.value());
        let limit = admission::RateLimit::per_source(rate, burst);
        policy.rate_limit = limit.expect("both were checked when they were read");
        policy.rate_limit.total_per_second = self.rate_limit.total_per_second.value();
        policy.rate_limit.ipv4_prefix = self.rate_limit.ipv4_prefix.value() as u8;
        policy.rate_limit.ipv6_prefix = self.rate_limit.ipv6_prefix.value() as u8;
        policy.rate_limit.exempt = self.rate_limit.exempt.iter().copied().collect();
        policy.error_replies_per_second = self.rate_limit.error_replies_per_second.value();
        policy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differences(old: &str, new: &str, passed: &[Option<Protocol>]) -> Vec<&'static str> {
        let [old, new] = [old, new].map(|text| Settings::parse(text).unwrap().fixed());
        old.differences(&new, passed)
    }

    #[test]
    fn a_change_that_needs_a_restart_is_named() {
        let new = "workers = 2\nsend-buffer-bytes = '1M'\nudp-gro = false\n[log]\ntarget = 'stderr'\nlevel = 'debug'";
        assert_eq!(differences("", new, &[]), ["workers", "send-buffer-bytes", "udp-gro", "log.target"]);
        let [old, new] = ["", new].map(|text| Settings::parse(text).unwrap());
        assert_ne!(old.reloadable(), new.reloadable());
    }

    #[test]
    fn a_protocol_needs_a_restart_where_it_is_that_of_a_listener() {
        let raw = "reply.protocol = 'raw'\n";
        let (one, one_raw) = ("listen = ['[::]:1']", "listen = [{ address = '[::]:1', protocol = 'raw' }]");
        let one_json = "listen = [{ address = '[::]:1', protocol = 'json' }]";
        let with_raw = |listen: &str| format!("{raw}{listen}");
        for (old, new, expected) in [
            (one, one_json, &[][..]),
            (one, one_raw, &["listen"]),
            (one, &with_raw(one), &["reply.protocol"]),
            (one, &with_raw(one_json), &[]),
            (one_raw, &with_raw(one), &[]),
            (one_raw, &with_raw(one_raw), &[]),
            (one_raw, &with_raw(one_json), &["listen"]),
            (one, "listen = '[::]:2'", &["listen"]),
            (one, &with_raw("listen = '[::]:2'"), &["listen", "reply.protocol"]),
        ] {
            assert_eq!(differences(old, new, &[]), expected, "{old} and {new}");
            assert_eq!(differences(new, old, &[]).is_empty(), expected.is_empty(), "{new} and {old}");
        }
        // A socket unit says where to listen, and the names of its sockets may say the protocol.
        let (named, unnamed) = (Some(Protocol::Json), None);
        let new = with_raw("listen = '[::]:2'");
        assert_eq!(differences(one, &new, &[named, unnamed]), ["reply.protocol"]);
        assert_eq!(differences(one, &new, &[named, named]), [""; 0]);
        assert_eq!(differences(one, one_raw, &[unnamed]), [""; 0]);
        assert_eq!(differences(one_raw, &with_raw(one_raw), &[unnamed]), ["reply.protocol"]);
    }
}
