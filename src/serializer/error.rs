//! The errors of serializers, which hold any format's own.

use std::error::Error;
use std::fmt;

/// A packet that has no form in bytes.
#[derive(Debug, thiserror::Error)]
#[error("serialize packet")]
pub struct SerializeError(#[source] Box<dyn Error + Send + Sync>);

impl SerializeError {
    /// Creates the error from its cause: what was wrong with the packet.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

/// Bytes that are not a valid packet, with what was wrong and where.
#[derive(Debug)]
pub struct DeserializeError(Reason);

#[derive(Debug)]
enum Reason {
    Json(serde_json::Error),
    Custom { message: Box<str>, position: Option<(usize, usize)> },
}

impl DeserializeError {
    /// Creates the error from what was wrong, in lower case and without a full stop.
    pub fn new(message: impl Into<Box<str>>) -> Self {
        Self(Reason::Custom { message: message.into(), position: None })
    }

    /// Creates the error from what was wrong at this line and column, both counted from 1.
    pub fn at(line: usize, column: usize, message: impl Into<Box<str>>) -> Self {
        Self(Reason::Custom { message: message.into(), position: Some((line, column)) })
    }

    /// The line, counted from 1, when the format has lines.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.position().map(|(line, _)| line)
    }

    /// The column in bytes, counted from 1 (0: before the line's first byte), when the format has lines.
    #[must_use]
    pub fn column(&self) -> Option<usize> {
        self.position().map(|(_, column)| column)
    }

    fn position(&self) -> Option<(usize, usize)> {
        match &self.0 {
            Reason::Json(error) => (error.line() > 0).then(|| (error.line(), error.column())),
            Reason::Custom { position, .. } => *position,
        }
    }
}

impl From<serde_json::Error> for DeserializeError {
    fn from(error: serde_json::Error) -> Self {
        Self(Reason::Json(error))
    }
}

impl fmt::Display for DeserializeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Reason::Json(error) => error.fmt(f),
            Reason::Custom { message, position: None } => f.write_str(message),
            Reason::Custom { message, position: Some((line, column)) } => {
                write!(f, "{message} at line {line} column {column}")
            }
        }
    }
}

impl Error for DeserializeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_custom_error_says_where() {
        let error = DeserializeError::at(2, 7, "unknown verb");
        assert_eq!(error.to_string(), "unknown verb at line 2 column 7");
        assert_eq!((error.line(), error.column()), (Some(2), Some(7)));
        let error = DeserializeError::new("too short");
        assert_eq!((error.to_string(), error.line()), ("too short".into(), None));
        let elsewhere = serde_json::from_value::<u8>(serde_json::Value::Null).unwrap_err();
        assert_eq!(DeserializeError::from(elsewhere).line(), None, "an error of JSON that is not in a text");
    }
}
