//! The log line of each request: how much of the payload it shows, and how many lines there may be.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use tracing::Level;

use super::{Client, EchoPacket};
use crate::printable::Printable;
use crate::protocol::DatagramProtocolParseError;
use crate::rate::RateLimiter;
use crate::stats::DropReason;

/// The most bytes of a parse error in a log line.
const MAX_REASON_BYTES: usize = 256;

/// Writes the line `127.0.0.1 sent {...}` for each request. An invalid packet gets the line
/// `192.0.2.7:41000 sent an invalid packet (expected value at line 1 column 1): ...`, which also says if there was no
/// reply.
///
/// The event has the fields `peer_address`, `peer_port`, `local_address`, `local_port`, `listener_protocol` and
/// `bytes`. Lines over the rate are suppressed and counted
/// ([`Stats::log_suppressed`](crate::stats::Stats::log_suppressed)).
#[derive(Debug)]
pub struct RequestLog {
    enabled: AtomicBool,
    max_payload: AtomicUsize,
    limiter: RateLimiter,
}

/// Settings of a [`RequestLog`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLogSettings {
    /// Turns the lines on.
    pub enabled: bool,
    /// Lines per second, with a burst of five times that; 0 = no limit.
    pub per_second: u32,
    /// The most bytes of payload that a line shows, counted after escaping.
    pub max_payload: usize,
}

impl Default for RequestLogSettings {
    fn default() -> Self {
        Self { enabled: true, per_second: 100, max_payload: 512 }
    }
}

impl Default for RequestLog {
    fn default() -> Self {
        let limiter = RateLimiter::new(0, 0);
        let log = Self { enabled: AtomicBool::default(), max_payload: AtomicUsize::default(), limiter };
        log.set(RequestLogSettings::default());
        log
    }
}

impl RequestLog {
    /// The target of the events.
    pub const TARGET: &str = "echo_udpd::request";

    /// Changes the settings, at once.
    pub fn set(&self, settings: RequestLogSettings) {
        self.enabled.store(settings.enabled, Relaxed);
        self.max_payload.store(settings.max_payload, Relaxed);
        self.limiter.set(settings.per_second, settings.per_second.saturating_mul(5));
    }

    pub(super) fn packet<S, T: EchoPacket>(&self, client: &Client<S>, bytes: usize, packet: &T) {
        if self.allows(client) {
            let line = packet.log_line(self.max_payload.load(Relaxed));
            log_request(client, bytes, format_args!("{} sent {line}", client.peer().ip()));
        }
    }

    pub(super) fn invalid<S>(
        &self,
        client: &Client<S>,
        datagram: &[u8],
        error: &DatagramProtocolParseError,
        dropped: Option<DropReason>,
    ) {
        if self.allows(client) {
            let error = error.to_string();
            let reason = Printable::raw(error.as_bytes()).limit(MAX_REASON_BYTES);
            let payload = Printable::raw(datagram).limit(self.max_payload.load(Relaxed));
            let outcome = match dropped {
                None => "",
                Some(DropReason::ErrorLimit) => ", over the error reply limit",
                Some(_) => ", no reply",
            };
            let peer = client.peer();
            let line = format_args!("{peer} sent an invalid packet{outcome} ({reason}): {payload}");
            log_request(client, datagram.len(), line);
        }
    }

    /// Returns whether a request of this client is logged; counts it if it is over the rate.
    fn allows<S>(&self, client: &Client<S>) -> bool {
        if !self.enabled.load(Relaxed) || !tracing::enabled!(target: RequestLog::TARGET, Level::INFO) {
            return false;
        }
        let allowed = self.limiter.allow(client.received());
        if !allowed {
            client.count_log_suppressed();
        }
        allowed
    }
}

fn log_request<S>(client: &Client<S>, bytes: usize, line: fmt::Arguments<'_>) {
    let (peer, local) = (client.peer(), client.local());
    tracing::info!(
        target: RequestLog::TARGET,
        peer_address = %peer.ip(),
        peer_port = peer.port(),
        local_address = %local.ip(),
        local_port = local.port(),
        listener_protocol = client.service(),
        bytes,
        "{line}",
    );
}
