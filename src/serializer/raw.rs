//! Packets that are any bytes.

use bytes::Bytes;

use super::{DeserializeError, SerializeError, Serializer};

/// Takes any bytes as a packet: the echo protocol of RFC 862.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BytesSerializer;

impl Serializer for BytesSerializer {
    type Sent = Bytes;
    type Received = Bytes;

    fn serialize(&self, packet: Bytes) -> Result<Bytes, SerializeError> {
        Ok(packet)
    }

    fn deserialize(&self, bytes: Bytes) -> Result<Bytes, DeserializeError> {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_bytes_are_carried_as_they_are() {
        let bytes = Bytes::from_static(b"\x00\xff any \n");
        let packet = BytesSerializer.deserialize(bytes.clone()).unwrap();
        assert_eq!(BytesSerializer.serialize(packet).unwrap().as_ptr(), bytes.as_ptr());
    }
}
