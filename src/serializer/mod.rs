//! Packets to bytes and back.
//!
//! [`JsonSerializer`] carries any serde type, [`RawJsonSerializer`] JSON that is validated and kept as received,
//! [`BytesSerializer`] any bytes. Knows no sockets, no size limits and no conversations.

mod error;
mod json;
mod raw;
mod stops;
mod validate;

use bytes::Bytes;

pub use self::error::{DeserializeError, SerializeError};
pub use self::json::{JsonSerializer, RawJson, RawJsonSerializer};
pub use self::raw::BytesSerializer;

/// Turns a packet into the bytes of a datagram, and back.
///
/// Your own takes a few lines:
///
/// ```
/// use bytes::Bytes;
/// use echo_udpd::serializer::{DeserializeError, SerializeError, Serializer};
///
/// /// A number as four bytes in network order.
/// struct Big;
///
/// impl Serializer for Big {
///     type Sent = u32;
///     type Received = u32;
///     fn serialize(&self, packet: u32) -> Result<Bytes, SerializeError> {
///         Ok(Bytes::copy_from_slice(&packet.to_be_bytes()))
///     }
///     fn deserialize(&self, bytes: Bytes) -> Result<u32, DeserializeError> {
///         let four = bytes[..].try_into().map_err(|_| DeserializeError::new("expected four bytes"))?;
///         Ok(u32::from_be_bytes(four))
///     }
/// }
/// ```
pub trait Serializer {
    /// The packets that are sent.
    type Sent;
    /// The packets that are received.
    type Received;

    /// Turns a packet into bytes.
    ///
    /// # Errors
    /// The packet has no form in bytes: a JSON object with a key that is not a string, for example.
    fn serialize(&self, packet: Self::Sent) -> Result<Bytes, SerializeError>;

    /// Reads the packet in these bytes, which it may share.
    ///
    /// # Errors
    /// The bytes are not a packet; the error says where.
    fn deserialize(&self, bytes: Bytes) -> Result<Self::Received, DeserializeError>;
}
