//! The tutorial's handler: tells who sent what, and sends the packet back.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use serde_json::Value;
use tracing::Level;

use super::{Client, DatagramRequestHandler, HandlerError, Requests, SendPacketError};
use crate::printable::Printable;
use crate::protocol::{DatagramProtocol, DatagramProtocolParseError};
use crate::rate::RateLimiter;
use crate::serializer::RawJson;
use crate::stats::DropReason;

/// The reply to what is not JSON; it ends in a newline where the request did, so that a terminal shows it as a line.
const INVALID_JSON: &str = r#"{"error":"Invalid JSON","code":"parse_error"}"#;
const INVALID_JSON_LINE: &str = "{\"error\":\"Invalid JSON\",\"code\":\"parse_error\"}\n";

/// The same, as a value serializes it: its keys are sorted.
const INVALID_JSON_SORTED: &str = r#"{"code":"parse_error","error":"Invalid JSON"}"#;

/// The reply of this server, or of one whose packets are of the other type, as a line or not.
fn is_invalid_json_reply(datagram: &[u8]) -> bool {
    let datagram = datagram.strip_suffix(b"\n").unwrap_or(datagram);
    [INVALID_JSON, INVALID_JSON_SORTED].iter().any(|reply| datagram == reply.as_bytes())
}

/// Characters of a parse error in a log line.
const REASON_LENGTH: usize = 256;

/// A packet that can be echoed: it can be sent as it was received, and shown in a log.
pub trait EchoPacket: Sized {
    /// The reply to a datagram that is not a packet, as a line where that was one; `None` where every datagram is a
    /// packet.
    fn parse_error_reply(as_line: bool) -> Option<Self>;

    /// Returns whether a datagram is that reply, byte for byte: two servers that replied to each other's would never
    /// end.
    fn is_parse_error_reply(datagram: &[u8]) -> bool;

    /// One line of printable ASCII of at most `limit` characters, but for the note on what was left out.
    fn line(&self, limit: usize) -> impl Display;
}

impl EchoPacket for RawJson {
    fn parse_error_reply(as_line: bool) -> Option<Self> {
        let text = if as_line { INVALID_JSON_LINE } else { INVALID_JSON };
        // A constant that is valid: no input can reach the None.
        Self::parse(Bytes::from_static(text.as_bytes())).ok()
    }

    fn is_parse_error_reply(datagram: &[u8]) -> bool {
        is_invalid_json_reply(datagram)
    }

    fn line(&self, limit: usize) -> impl Display {
        Printable::json(self.as_bytes()).limit(limit)
    }
}

impl EchoPacket for Value {
    /// A value has no newline around it.
    fn parse_error_reply(_: bool) -> Option<Self> {
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
    fn parse_error_reply(_: bool) -> Option<Self> {
        None
    }

    fn is_parse_error_reply(_: &[u8]) -> bool {
        false
    }

    fn line(&self, limit: usize) -> impl Display {
        Printable::raw(self).limit(limit)
    }
}

/// Sends each packet back, and `{"error":"Invalid JSON","code":"parse_error"}` for what is not a packet, with a newline
/// where that had one; that reply itself gets none.
///
/// Each request is an event of the target [`RequestLog::TARGET`] at level info, as [`RequestLog`] allows.
#[derive(Debug)]
pub struct EchoRequestHandler<T> {
    /// As it is, and as a line.
    parse_error_replies: Option<[T; 2]>,
    answer_invalid: AtomicBool,
    /// What is logged of the requests; it can be changed while the server runs.
    pub log: RequestLog,
}

impl<T: EchoPacket> EchoRequestHandler<T> {
    /// A handler that logs up to 100 requests a second.
    #[must_use]
    pub fn new() -> Self {
        Self {
            parse_error_replies: T::parse_error_reply(false).zip(T::parse_error_reply(true)).map(<[T; 2]>::from),
            answer_invalid: AtomicBool::new(true),
            log: RequestLog::default(),
        }
    }

    /// Sets whether a datagram that is not a packet gets an error reply, as it does at first.
    pub fn set_answer_invalid(&self, answer: bool) {
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
        let Some(datagram) = requests.datagram() else { return Ok(()) };
        if T::is_parse_error_reply(datagram) {
            client.count_drop(DropReason::OwnError);
            return Ok(());
        }
        let bytes = datagram.len();
        // Shares the bytes; what becomes a packet is not kept.
        let datagram = datagram.clone();
        match requests.next().await {
            Some(Ok(packet)) => {
                drop(datagram);
                self.log.packet(&client, bytes, &packet);
                client.send_packet(packet).await?;
            }
            Some(Err(error)) => {
                let dropped = self.reply_to_invalid(&client, &datagram).await?;
                self.log.invalid(&client, &datagram, &error, dropped);
            }
            None => {}
        }
        Ok(())
    }
}

impl<T: EchoPacket + Clone> EchoRequestHandler<T> {
    /// Sends the error reply, or returns why there is none.
    async fn reply_to_invalid<P>(
        &self,
        client: &Client<P>,
        datagram: &[u8],
    ) -> Result<Option<DropReason>, SendPacketError>
    where
        P: DatagramProtocol<Sent = T, Received = T>,
    {
        let Some([reply, line]) = self.parse_error_replies.as_ref().filter(|_| self.answer_invalid.load(Relaxed))
        else {
            client.count_drop(DropReason::Invalid);
            return Ok(Some(DropReason::Invalid));
        };
        let reply = if datagram.ends_with(b"\n") { line } else { reply };
        let sent = client.send_error_reply(reply.clone()).await?;
        Ok((!sent).then_some(DropReason::ErrorLimit))
    }
}

/// The line `127.0.0.1 sent {...}` of each request: whether, how long and how often. A request that was not a packet
/// has the line `192.0.2.7:41000 sent an invalid packet (expected value at line 1 column 1): ...`, which says so when
/// it got no reply.
///
/// The event has the fields `peer_address`, `peer_port`, `local_address`, `local_port` and `bytes`. Requests beyond the
/// rate are counted ([`Stats::log_suppressed`](crate::stats::Stats::log_suppressed)).
#[derive(Debug)]
pub struct RequestLog {
    enabled: AtomicBool,
    max_payload: AtomicUsize,
    limiter: RateLimiter,
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
        let log = Self {
            enabled: AtomicBool::default(),
            max_payload: AtomicUsize::default(),
            limiter: RateLimiter::new(0, 0),
        };
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
        self.limiter.set(settings.per_second, settings.per_second.saturating_mul(5));
    }

    fn packet<P, T: EchoPacket>(&self, client: &Client<P>, bytes: usize, packet: &T) {
        if self.may_tell(client) {
            let line = packet.line(self.max_payload.load(Relaxed));
            tell(client, bytes, format_args!("{} sent {line}", client.peer().ip()));
        }
    }

    fn invalid<P>(
        &self,
        client: &Client<P>,
        datagram: &[u8],
        error: &DatagramProtocolParseError,
        dropped: Option<DropReason>,
    ) {
        if self.may_tell(client) {
            let error = error.to_string();
            let reason = Printable::raw(error.as_bytes()).limit(REASON_LENGTH);
            let payload = Printable::raw(datagram).limit(self.max_payload.load(Relaxed));
            let outcome = match dropped {
                None => "",
                Some(DropReason::ErrorLimit) => ", over the limit of error replies",
                Some(_) => ", no reply",
            };
            let peer = client.peer();
            let line = format_args!("{peer} sent an invalid packet{outcome} ({reason}): {payload}");
            tell(client, datagram.len(), line);
        }
    }

    fn may_tell<P>(&self, client: &Client<P>) -> bool {
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

fn tell<P>(client: &Client<P>, bytes: usize, line: std::fmt::Arguments<'_>) {
    let (peer, local) = (client.peer(), client.asked());
    tracing::info!(
        target: RequestLog::TARGET,
        peer_address = %peer.ip(),
        peer_port = peer.port(),
        local_address = %local.ip(),
        local_port = local.port(),
        bytes,
        "{line}",
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{JsonProtocol, RawJsonProtocol};

    #[test]
    fn the_own_error_reply_is_known_in_every_form_that_it_is_sent_in() {
        for as_line in [false, true] {
            let raw = RawJsonProtocol::default().make_datagram(RawJson::parse_error_reply(as_line).unwrap()).unwrap();
            assert_eq!((raw.len(), raw.ends_with(b"\n")), (45 + usize::from(as_line), as_line));
            assert!(RawJson::is_parse_error_reply(&raw) && Value::is_parse_error_reply(&raw));
            assert!(!RawJson::is_parse_error_reply(&[&raw[..], b"\n\n"].concat()));
            let value = JsonProtocol::default().make_datagram(Value::parse_error_reply(as_line).unwrap()).unwrap();
            assert!(RawJson::is_parse_error_reply(&value) && Value::is_parse_error_reply(&value));
            assert!(!Bytes::is_parse_error_reply(&raw) && Bytes::parse_error_reply(as_line).is_none());
        }
    }
}
