//! A running server as seen from outside its loops: where it listens, its phase, its counters, how to stop it.
//!
//! The handle that a program keeps ([`ServerHandle`]), and what is behind it: the state that workers and handles share,
//! the sign that a server is closing, the heartbeat of each loop, and the record of drops. Receives and sends nothing.

mod closing;
mod drop_log;
mod handle;
mod heartbeat;
mod listener;

pub(crate) use closing::Closing;
pub(crate) use drop_log::DropLog;
pub(crate) use handle::{OpenGuard, Shared, SocketMonitor};
pub use handle::{Phase, ServerHandle};
pub(crate) use heartbeat::Heartbeat;
pub use listener::Listener;
