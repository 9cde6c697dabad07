//! Packets that can be echoed, and the error reply to invalid ones.

use std::fmt::Display;

use bytes::Bytes;
use serde_json::Value;

use crate::printable::Printable;
use crate::serializer::RawJson;

/// The error reply to a datagram that is not JSON.
const INVALID_JSON: &str = r#"{"error":"Invalid JSON","code":"parse_error"}"#;
const INVALID_JSON_LINE: &str = "{\"error\":\"Invalid JSON\",\"code\":\"parse_error\"}\n";

/// The same as `serde_json::Value` serializes it: with its keys sorted.
const INVALID_JSON_SORTED: &str = r#"{"code":"parse_error","error":"Invalid JSON"}"#;

/// Returns whether a datagram is the error reply of this server, or of one with the other packet type, with or without
/// a newline.
fn is_invalid_json_reply(datagram: &[u8]) -> bool {
    let datagram = datagram.strip_suffix(b"\n").unwrap_or(datagram);
    [INVALID_JSON, INVALID_JSON_SORTED].iter().any(|reply| datagram == reply.as_bytes())
}

/// A packet that can be echoed: sent as it was received, and shown in a log.
pub trait EchoPacket: Clone + Send + Sync + Sized + 'static {
    /// The reply to an invalid packet, with a newline at the end if that had one, so that a terminal shows it as a
    /// line; `None` if every datagram is a valid packet.
    fn parse_error_reply(as_line: bool) -> Option<Self>;

    /// Returns whether a datagram is that error reply, byte for byte: two servers that replied to each other's would
    /// never stop.
    fn is_parse_error_reply(datagram: &[u8]) -> bool;

    /// The packet as one line of printable ASCII: at most `limit` bytes, plus a note on what was left out.
    fn log_line(&self, limit: usize) -> impl Display;
}

impl EchoPacket for RawJson {
    fn parse_error_reply(as_line: bool) -> Option<Self> {
        let text = if as_line { INVALID_JSON_LINE } else { INVALID_JSON };
        // The constant is valid JSON: no input leads to `None`.
        Self::parse(Bytes::from_static(text.as_bytes())).ok()
    }

    fn is_parse_error_reply(datagram: &[u8]) -> bool {
        is_invalid_json_reply(datagram)
    }

    fn log_line(&self, limit: usize) -> impl Display {
        Printable::json(self.as_bytes()).limit(limit)
    }
}

impl EchoPacket for Value {
    /// Never ends in a newline: a `Value` cannot hold one outside a string.
    fn parse_error_reply(_: bool) -> Option<Self> {
        serde_json::from_str(INVALID_JSON).ok()
    }

    fn is_parse_error_reply(datagram: &[u8]) -> bool {
        is_invalid_json_reply(datagram)
    }

    fn log_line(&self, limit: usize) -> impl Display {
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

    fn log_line(&self, limit: usize) -> impl Display {
        Printable::raw(self).limit(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{DatagramProtocol, JsonProtocol, RawJsonProtocol};

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
