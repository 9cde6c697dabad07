//! One datagram is one packet.
//!
//! A server or client gets a [`DatagramProtocol`], so that it can work with packets; [`SerializerProtocol`] makes one
//! from a serializer and, if the packet is not what the serializer carries, a converter. Knows no sockets.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;

use crate::serializer::{
    BytesSerializer, DeserializeError, JsonSerializer, RawJsonSerializer, SerializeError, Serializer,
};

/// Turns packets into datagrams and back.
pub trait DatagramProtocol {
    /// The packets that are sent.
    type Sent;
    /// The packets that are received.
    type Received;

    /// The payload of the datagram that carries this packet.
    ///
    /// # Errors
    /// The packet cannot be serialized.
    fn make_datagram(&self, packet: Self::Sent) -> Result<Bytes, SerializeError>;

    /// The packet that this datagram carries; it may share the bytes.
    ///
    /// # Errors
    /// The datagram is not a valid packet of this protocol.
    fn build_packet(&self, datagram: Bytes) -> Result<Self::Received, DatagramProtocolParseError>;
}

impl<P: DatagramProtocol + ?Sized> DatagramProtocol for Arc<P> {
    type Sent = P::Sent;
    type Received = P::Received;

    fn make_datagram(&self, packet: P::Sent) -> Result<Bytes, SerializeError> {
        (**self).make_datagram(packet)
    }

    fn build_packet(&self, datagram: Bytes) -> Result<P::Received, DatagramProtocolParseError> {
        (**self).build_packet(datagram)
    }
}

/// A datagram that is not a valid packet: what was wrong, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramProtocolParseError {
    /// The serializer refused the bytes.
    #[error("{0}")]
    Deserialize(DeserializeError),
    /// The converter refused the serializer's result.
    #[error("{0}")]
    Convert(ConversionError),
}

impl DatagramProtocolParseError {
    /// The line of the fault, counted from 1, if the format has lines.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::Deserialize(error) => error.line(),
            Self::Convert(_) => None,
        }
    }

    /// The column of the fault in bytes, counted from 1, if the format has lines.
    #[must_use]
    pub fn column(&self) -> Option<usize> {
        match self {
            Self::Deserialize(error) => error.column(),
            Self::Convert(_) => None,
        }
    }
}

/// Turns a packet into what the serializer carries (a data transfer object), and back.
pub trait PacketConverter<S: Serializer> {
    /// The packets that the program sends.
    type Sent;
    /// The packets that the program receives.
    type Received;

    /// The object that the serializer sends for this packet.
    fn convert_to_dto(&self, packet: Self::Sent) -> S::Sent;

    /// The packet that was received.
    ///
    /// # Errors
    /// The object is well-formed but means nothing to the program.
    fn create_from_dto(&self, dto: S::Received) -> Result<Self::Received, ConversionError>;
}

/// A well-formed packet that means nothing to the program.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConversionError(Box<dyn Error + Send + Sync>);

impl ConversionError {
    /// Creates the error from what was wrong, in lower case and without a full stop.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

/// No conversion: the packet is what the serializer carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoConversion;

impl<S: Serializer> PacketConverter<S> for NoConversion {
    type Sent = S::Sent;
    type Received = S::Received;

    fn convert_to_dto(&self, packet: S::Sent) -> S::Sent {
        packet
    }

    fn create_from_dto(&self, dto: S::Received) -> Result<S::Received, ConversionError> {
        Ok(dto)
    }
}

/// A protocol made of a serializer and a converter.
///
/// ```
/// use echo_udpd::protocol::{DatagramProtocol, SerializerProtocol};
/// use echo_udpd::serializer::JsonSerializer;
///
/// let protocol = SerializerProtocol::new(JsonSerializer::<serde_json::Value>::new());
/// let datagram = protocol.make_datagram(serde_json::json!({"hello": "world"})).unwrap();
/// assert_eq!(datagram, r#"{"hello":"world"}"#);
/// let error = protocol.build_packet(datagram.slice(1..)).unwrap_err();
/// assert_eq!((error.line(), error.column()), (Some(1), Some(8)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SerializerProtocol<S, C = NoConversion> {
    serializer: S,
    converter: C,
}

/// JSON of any kind, as [`serde_json::Value`]. For your own types use [`TypedJsonProtocol`]; this one has no type
/// parameters.
pub type JsonProtocol = TypedJsonProtocol<serde_json::Value>;
/// JSON of serde types: sends an `S`, receives an `R` (the same type if only one is given).
///
/// ```
/// use echo_udpd::protocol::{DatagramProtocol, TypedJsonProtocol};
///
/// #[derive(serde::Deserialize)]
/// struct Question {
///     name: String,
/// }
/// #[derive(serde::Serialize)]
/// struct Greeting {
///     hello: String,
/// }
///
/// // A server sends greetings and receives questions; for its client, the other way round.
/// let protocol = TypedJsonProtocol::<Greeting, Question>::default();
/// let question = protocol.build_packet(r#"{"name": "world"}"#.into()).unwrap();
/// let reply = protocol.make_datagram(Greeting { hello: question.name }).unwrap();
/// assert_eq!(reply, r#"{"hello":"world"}"#);
/// ```
pub type TypedJsonProtocol<S, R = S> = SerializerProtocol<JsonSerializer<S, R>>;
/// JSON that is validated and kept as the bytes that were received: the daemon's protocol `json`.
pub type RawJsonProtocol = SerializerProtocol<RawJsonSerializer>;
/// Any bytes (RFC 862).
pub type BytesProtocol = SerializerProtocol<BytesSerializer>;

impl<S> SerializerProtocol<S> {
    /// Creates a protocol whose packets are what the serializer carries.
    pub const fn new(serializer: S) -> Self {
        Self { serializer, converter: NoConversion }
    }
}

impl<S, C> SerializerProtocol<S, C> {
    /// Creates a protocol whose packets are converted to and from what the serializer carries.
    pub const fn with_converter(serializer: S, converter: C) -> Self {
        Self { serializer, converter }
    }
}

impl<S: Serializer, C: PacketConverter<S>> DatagramProtocol for SerializerProtocol<S, C> {
    type Sent = C::Sent;
    type Received = C::Received;

    fn make_datagram(&self, packet: C::Sent) -> Result<Bytes, SerializeError> {
        self.serializer.serialize(self.converter.convert_to_dto(packet))
    }

    fn build_packet(&self, datagram: Bytes) -> Result<C::Received, DatagramProtocolParseError> {
        let dto = self.serializer.deserialize(datagram).map_err(DatagramProtocolParseError::Deserialize)?;
        self.converter.create_from_dto(dto).map_err(DatagramProtocolParseError::Convert)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Seconds;

    impl PacketConverter<JsonSerializer<f64>> for Seconds {
        type Sent = Duration;
        type Received = Duration;

        fn convert_to_dto(&self, packet: Duration) -> f64 {
            packet.as_secs_f64()
        }

        fn create_from_dto(&self, dto: f64) -> Result<Duration, ConversionError> {
            Duration::try_from_secs_f64(dto).map_err(ConversionError::new)
        }
    }

    #[test]
    fn a_converter_stands_between_packet_and_serializer() {
        let protocol = SerializerProtocol::with_converter(JsonSerializer::<f64>::new(), Seconds);
        let datagram = protocol.make_datagram(Duration::from_millis(1500)).unwrap();
        assert_eq!(datagram, "1.5");
        assert_eq!(protocol.build_packet(datagram).unwrap(), Duration::from_millis(1500));
    }

    #[test]
    fn a_parse_error_tells_a_malformed_datagram_from_a_meaningless_one() {
        let protocol = SerializerProtocol::with_converter(JsonSerializer::<f64>::new(), Seconds);
        let malformed = protocol.build_packet(Bytes::from_static(b"1.")).unwrap_err();
        assert!(matches!(malformed, DatagramProtocolParseError::Deserialize(_)));
        assert_eq!((malformed.line(), malformed.column()), (Some(1), Some(2)));
        let meaningless = protocol.build_packet(Bytes::from_static(b"-1.5")).unwrap_err();
        assert!(matches!(meaningless, DatagramProtocolParseError::Convert(_)));
        assert_eq!(meaningless.line(), None);
    }
}
