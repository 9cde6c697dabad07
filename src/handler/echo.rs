//! The tutorial's handler: tells who sent what, and sends the packet back.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use serde_json::Value;
use tracing::Level;

use super::{Client, DatagramRequestHandler, HandlerError, Requests};
use crate::ledger::DropReason;
use crate::pace::Pace;
use crate::printable::Printable;
use crate::protocol::{DatagramProtocol, DatagramProtocolParseError};
use crate::serializer::RawJson;

/// The reply to what is not JSON.
const INVALID_JSON: &str = r#"{"error":"Invalid JSON","code":"parse_error"}"#;

/// The same, as a value serializes it: its keys are sorted.
const INVALID_JSON_SORTED: &str = r#"{"code":"parse_error","error":"Invalid JSON"}"#;

/// The reply of this server, or of one whose packets are of the other type.
fn is_invalid_json_reply(datagram: &[u8]) -> bool {
    [INVALID_JSON, INVALID_JSON_SORTED].iter().any(|reply| datagram == reply.as_bytes())
}

/// Characters of a parse error in a log line.
const REASON_LENGTH: usize = 256;

/// A packet that can be echoed: it can be sent as it was received, and shown in a log.
pub trait EchoPacket: Sized {
    /// The reply to a datagram that is no packet; `None` where every datagram is one.
    fn parse_error_reply() -> Option<Self>;

    /// Whether a datagram is that reply, byte for byte: two servers that answered each other's would never end.
    fn is_parse_error_reply(datagram: &[u8]) -> bool;

    /// One line of printable ASCII of at most `limit` characters, but for the note on what was left out.
    fn line(&self, limit: usize) -> impl Display;
}

impl EchoPacket for RawJson {
    fn parse_error_reply() -> Option<Self> {
        // A constant that is valid: no input can reach the None.
        Self::parse(Bytes::from_static(INVALID_JSON.as_bytes())).ok()
    }

    fn is_parse_error_reply(datagram: &[u8]) -> bool {
        is_invalid_json_reply(datagram)
    }

    fn line(&self, limit: usize) -> impl Display {
        Printable::json(self.as_bytes()).limit(limit)
    }
}

impl EchoPacket for Value {
    fn parse_error_reply() -> Option<Self> {
        serde_json::from_str(INVALID_JSON).ok()
    }

    fn is_parse_error_reply(datagram: &[u8]) -> bool {
        is_invalid_json_reply(datagram)
    }

    fn line(&self, limit: usize) -> impl Display {
        Printable::json(self.to_string().as_bytes()).limit(limit).to_string()
    }
}

impl EchoPacket for Bytes {
    fn parse_error_reply() -> Option<Self> {
        None
    }

    fn is_parse_error_reply(_: &[u8]) -> bool {
        false
    }

    fn line(&self, limit: usize) -> impl Display {
        Printable::raw(self).limit(limit)
    }
}

/// Answers each packet with itself, and what is no packet with `{"error":"Invalid JSON","code":"parse_error"}`; that reply
/// itself gets none.
///
/// Each request is an event of the target [`RequestLog::TARGET`] at level info, as [`RequestLog`] allows.
#[derive(Debug)]
pub struct EchoRequestHandler<T> {
    parse_error_reply: Option<T>,
    answer_invalid: AtomicBool,
    /// What is told of the requests; it can be changed while the server runs.
    pub log: RequestLog,
}

impl<T: EchoPacket> EchoRequestHandler<T> {
    /// A handler that logs up to 100 requests a second.
    #[must_use]
    pub fn new() -> Self {
        Self {
            parse_error_reply: T::parse_error_reply(),
            answer_invalid: AtomicBool::new(true),
            log: RequestLog::default(),
        }
    }

    /// Whether a datagram that is no packet gets an error reply (as at first), or none.
    pub fn answer_invalid(&self, answer: bool) {
        self.answer_invalid.store(answer, Relaxed);
    }
}

impl<T: EchoPacket> Default for EchoRequestHandler<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, P> DatagramRequestHandler<P> for EchoRequestHandler<T>
where
    T: EchoPacket + Clone,
    P: DatagramProtocol<Sent = T, Received = T>,
{
    async fn handle(&self, client: Client<P>, mut requests: Requests<P>) -> Result<(), HandlerError> {
        let bytes = requests.datagram().map_or(0, Bytes::len);
        if requests.datagram().is_some_and(|datagram| T::is_parse_error_reply(datagram)) {
            client.drop_request(DropReason::OwnError);
            return Ok(());
        }
        match requests.next().await {
            Some(Ok(packet)) => {
                self.log.packet(&client, bytes, &packet);
                client.send_packet(packet).await?;
            }
            Some(Err(error)) => {
                self.log.invalid(&client, bytes, &error);
                match &self.parse_error_reply {
                    Some(reply) if self.answer_invalid.load(Relaxed) => client.send_error_reply(reply.clone()).await?,
                    _ => client.drop_request(DropReason::Invalid),
                }
            }
            None => {}
        }
        Ok(())
    }
}

/// The line `127.0.0.1 sent {...}` of each request: whether, how long and how often.
///
/// The event has the fields `peer_address`, `peer_port`, `local_address`, `local_port` and `bytes`. Requests beyond the rate are counted ([`Stats::unlogged`](crate::ledger::Stats::unlogged)).
#[derive(Debug)]
pub struct RequestLog {
    enabled: AtomicBool,
    max_payload: AtomicUsize,
    pace: Pace,
}

/// How a [`RequestLog`] tells of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLogSettings {
    /// Whether at all.
    pub enabled: bool,
    /// How many a second, with a burst of five times that; 0 = no limit.
    pub per_second: u32,
    /// How many characters of the payload, counted after escaping.
    pub max_payload: usize,
}

impl Default for RequestLogSettings {
    fn default() -> Self {
        Self { enabled: true, per_second: 100, max_payload: 512 }
    }
}

impl Default for RequestLog {
    fn default() -> Self {
        let log = Self { enabled: AtomicBool::default(), max_payload: AtomicUsize::default(), pace: Pace::new(0, 0) };
        log.set(RequestLogSettings::default());
        log
    }
}

impl RequestLog {
    /// The target of the events.
    pub const TARGET: &str = "echo_udpd::request";

    /// Changes how requests are told of, at once.
    pub fn set(&self, settings: RequestLogSettings) {
        self.enabled.store(settings.enabled, Relaxed);
        self.max_payload.store(settings.max_payload, Relaxed);
        self.pace.set(settings.per_second, settings.per_second.saturating_mul(5));
    }

    fn packet<P, T: EchoPacket>(&self, client: &Client<P>, bytes: usize, packet: &T) {
        if self.may_tell(client) {
            let line = packet.line(self.max_payload.load(Relaxed));
            tell(client, bytes, format_args!("{line}"));
        }
    }

    fn invalid<P>(&self, client: &Client<P>, bytes: usize, error: &DatagramProtocolParseError) {
        if self.may_tell(client) {
            let error = error.to_string();
            let reason = Printable::raw(error.as_bytes()).limit(REASON_LENGTH);
            tell(client, bytes, format_args!("an invalid packet: {reason}"));
        }
    }

    fn may_tell<P>(&self, client: &Client<P>) -> bool {
        if !self.enabled.load(Relaxed) || !tracing::enabled!(target: RequestLog::TARGET, Level::INFO) {
            return false;
        }
        let allowed = self.pace.allow(client.received());
        if !allowed {
            client.count_unlogged();
        }
        allowed
    }
}

fn tell<P>(client: &Client<P>, bytes: usize, what: std::fmt::Arguments<'_>) {
    let (peer, local) = (client.peer(), client.asked());
    tracing::info!(
        target: RequestLog::TARGET,
        peer_address = %peer.ip(),
        peer_port = peer.port(),
        local_address = %local.ip(),
        local_port = local.port(),
        bytes,
        "{} sent {what}",
        peer.ip(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{JsonProtocol, RawJsonProtocol};

    #[test]
    fn the_own_error_reply_is_known_in_every_form_that_it_is_sent_in() {
        let raw = RawJsonProtocol::default().make_datagram(RawJson::parse_error_reply().unwrap()).unwrap();
        assert!(RawJson::is_parse_error_reply(&raw));
        let value = JsonProtocol::default().make_datagram(Value::parse_error_reply().unwrap()).unwrap();
        assert!(Value::is_parse_error_reply(&value));
        assert!(!Bytes::is_parse_error_reply(&raw) && Bytes::parse_error_reply().is_none());
    }
}
