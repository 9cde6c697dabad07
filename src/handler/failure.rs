//! The failure of a handler.

use std::any::Any;
use std::error::Error;

/// The reason why a handler gave up: any error.
pub type HandlerError = Box<dyn Error + Send + Sync>;

/// The way in which a call of a handler failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandlerFailure {
    /// It returned an error.
    #[error(transparent)]
    Error(HandlerError),
    /// It panicked, with this message.
    #[error("panic: {0}")]
    Panic(String),
}

impl HandlerFailure {
    /// Turns a caught panic into a failure.
    pub(crate) fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self::Panic(text.unwrap_or("of an unknown kind").to_owned())
    }
}
