//! JSON (RFC 8259): read into any serde type, or validated in place and kept as received.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use super::validate::is_json;
use super::{DeserializeError, SerializeError, Serializer};

/// JSON of any serde type: sends an `S`, receives an `R`; by default both are [`serde_json::Value`].
///
/// What is sent is compact: no blanks between tokens.
pub struct JsonSerializer<S = Value, R = S>(PhantomData<fn(S) -> R>);

impl<S, R> JsonSerializer<S, R> {
    /// Creates the serializer, which holds nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<S: Serialize, R: DeserializeOwned> Serializer for JsonSerializer<S, R> {
    type Sent = S;
    type Received = R;

    fn serialize(&self, packet: S) -> Result<Bytes, SerializeError> {
        serde_json::to_vec(&packet).map(Bytes::from).map_err(SerializeError::new)
    }

    fn deserialize(&self, bytes: Bytes) -> Result<R, DeserializeError> {
        Ok(serde_json::from_slice(&bytes)?)
    }
}

impl<S, R> Clone for JsonSerializer<S, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S, R> Copy for JsonSerializer<S, R> {}

impl<S, R> Default for JsonSerializer<S, R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S, R> fmt::Debug for JsonSerializer<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JsonSerializer")
    }
}

/// Valid JSON, kept exactly as received: blanks around the value, key order, digits and escapes included.
///
/// Validating allocates nothing, does not recurse and builds no value, so nesting is no danger; lone
/// surrogate escapes and numbers of any size are within the grammar (RFC 8259 s7, s6). A clone shares the bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RawJson(Bytes);

impl RawJson {
    /// Validates bytes and keeps them.
    ///
    /// # Errors
    /// The bytes are not exactly one JSON value in UTF-8 without a byte order mark.
    pub fn parse(bytes: Bytes) -> Result<Self, DeserializeError> {
        if !is_json(&bytes) {
            // It says where the fault is.
            let _: &RawValue = serde_json::from_slice(&bytes)?;
        }
        Ok(Self(bytes))
    }

    /// Serializes a value.
    ///
    /// # Errors
    /// The value has no JSON form.
    pub fn from_value<T: Serialize + ?Sized>(value: &T) -> Result<Self, SerializeError> {
        serde_json::to_vec(value).map(|bytes| Self(bytes.into())).map_err(SerializeError::new)
    }

    /// Reads the value.
    ///
    /// # Errors
    /// The JSON is not a `T`, or (for [`serde_json::Value`]) nested deeper than 128.
    pub fn value<T: DeserializeOwned>(&self) -> Result<T, DeserializeError> {
        Ok(serde_json::from_slice(&self.0)?)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, shared.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl AsRef<[u8]> for RawJson {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for RawJson {
    /// Writes the text as received, newlines and control characters included; for a log line or a terminal use
    /// [`Printable`](crate::printable::Printable).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawJson({:?})", self.0)
    }
}

/// Carries [`RawJson`] without copying a byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawJsonSerializer;

impl Serializer for RawJsonSerializer {
    type Sent = RawJson;
    type Received = RawJson;

    fn serialize(&self, packet: RawJson) -> Result<Bytes, SerializeError> {
        Ok(packet.0)
    }

    fn deserialize(&self, bytes: Bytes) -> Result<RawJson, DeserializeError> {
        RawJson::parse(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<RawJson, DeserializeError> {
        RawJson::parse(Bytes::copy_from_slice(text))
    }

    #[test]
    fn raw_json_keeps_every_byte_and_copies_none() {
        let bytes = Bytes::from_static(b" \r\n{\"b\":1.10, \"a\":1e400,\"b\":\"\\ud800\"}\n\n");
        let packet = RawJsonSerializer.deserialize(bytes.clone()).unwrap();
        let sent = RawJsonSerializer.serialize(packet).unwrap();
        assert_eq!((sent.as_ptr(), sent.len()), (bytes.as_ptr(), bytes.len()));
    }

    #[test]
    fn raw_json_shows_its_text_and_gives_its_bytes() {
        let packet = parse(b"[1]\n").unwrap();
        assert_eq!(format!("{packet}{packet:?}"), "[1]\nRawJson(b\"[1]\\n\")");
        assert_eq!((packet.as_bytes(), packet.as_ref()), (&b"[1]\n"[..], &b"[1]\n"[..]));
        assert_eq!(packet.into_bytes(), &b"[1]\n"[..]);
    }

    #[test]
    fn raw_json_is_validated_without_recursion() {
        let deep = [vec![b'['; 30_000], vec![b']'; 30_000]].concat();
        assert!(parse(&deep).is_ok());
        assert!(parse(&deep[1..]).is_err());
    }

    #[test]
    fn what_is_not_json_is_refused_with_line_and_column() {
        let invalid: [&[u8]; 12] = [
            b"",
            b" \n",
            b"{",
            b"{'a':1}",
            b"[1,]",
            b"1 2",
            b"nul",
            b"NaN",
            b"\xef\xbb\xbf1",
            b"\"\xff\"",
            b"\"a\nb\"",
            b"{\"a\":1}\0",
        ];
        for text in invalid {
            let error = parse(text).unwrap_err();
            assert!(error.line().is_some() && error.column().is_some(), "{text:?}: {error}");
        }
        let error = parse(b"{\"a\":1,\n \"b\":}").unwrap_err();
        assert_eq!((error.line(), error.column()), (Some(2), Some(6)));
        assert_eq!(error.to_string(), "expected value at line 2 column 6");
    }

    #[test]
    fn a_serde_type_goes_there_and_back() {
        #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
        struct Reading {
            sensor: String,
            value: f64,
        }
        let serializer = JsonSerializer::<Reading>::new();
        assert_eq!(format!("{serializer:?}"), "JsonSerializer");
        let bytes = serializer.serialize(Reading { sensor: "t\u{e9}".into(), value: 1.5 }).unwrap();
        assert_eq!(bytes, "{\"sensor\":\"t\u{e9}\",\"value\":1.5}".as_bytes());
        assert_eq!(serializer.deserialize(bytes).unwrap().value, 1.5);
        let error = serializer.deserialize(Bytes::from_static(b"{\"sensor\":1}")).unwrap_err();
        assert!(error.to_string().contains("expected a string at line 1"), "{error}");
    }

    #[test]
    fn a_value_without_json_form_is_refused() {
        let map = std::collections::HashMap::from([((1, 2), 3)]);
        assert_eq!(RawJson::from_value(&map).unwrap_err().to_string(), "serialize packet");
    }
}
