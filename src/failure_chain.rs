//! An error with all its causes on one line: `a: b: c`, as both programs print it and the server logs a handler's.

use std::error::Error;
use std::fmt;

/// Displays an error followed by its causes ([`Error::source`]), outermost first.
pub(crate) struct FailureChain<'a>(pub(crate) &'a dyn Error);

impl fmt::Display for FailureChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Step(&'static str, #[source] Option<Box<Step>>);

    #[test]
    fn an_error_is_followed_by_its_causes() {
        let failure = Step("a", Some(Step("b", Some(Step("c", None).into())).into()));
        assert_eq!(FailureChain(&failure).to_string(), "a: b: c");
        assert_eq!(FailureChain(&Step("alone", None)).to_string(), "alone");
    }
}
