//! Handling a request: the trait [`DatagramRequestHandler`], the [`Client`] and [`Requests`] that it is handed,
//! and the tutorial's [`EchoRequestHandler`].
//!
//! A handler speaks of packets; which socket they use, and when, is the server's business. A handler that is ready at
//! once is driven in place. One that waits is kept, and the packets that its client sends meanwhile go to it in order.

mod client;
mod drop_log;
mod echo;
mod outbox;
mod requests;

use std::error::Error;
use std::future::{Future, ready};

pub(crate) use client::{AdmitErrorReply, WorkerContext};
pub use client::{Client, SendPacketError};
pub(crate) use drop_log::DropLog;
pub use echo::{EchoPacket, EchoRequestHandler, RequestLog, RequestLogSettings};
pub(crate) use outbox::{LocalOutbox, Outbox};
pub use requests::Requests;
pub(crate) use requests::{Inbox, QueueLimits};

use crate::protocol::DatagramProtocol;

/// The reason why a handler gave up: any error. The server counts it, and logs it with its causes and the client's
/// address.
pub type HandlerError = Box<dyn Error + Send + Sync>;

/// Handles the requests of clients, one client at a time in each call.
///
/// Calls for different clients run concurrently on one thread; a server with several workers shares the handler between
/// their threads. The future need not be `Send`.
///
/// A failure is counted ([`DropReason::HandlerFailed`](crate::stats::DropReason::HandlerFailed)) and logged through
/// the [`tracing`] crate: a warning that names the client and shows the error with all its causes, at most one a second
/// for each socket. **A program without a `tracing` subscriber sees nothing of that**: install one
/// (`tracing_subscriber::fmt::init()`), or watch [`ServerHandle::stats`](crate::server::ServerHandle::stats).
pub trait DatagramRequestHandler<P: DatagramProtocol> {
    /// Handles a datagram of `client`, and those that follow while it runs.
    ///
    /// The first call of [`requests.next()`](Requests::next) is ready at once. When this returns, the client's next
    /// datagram begins a new call.
    ///
    /// # Errors
    /// Whatever went wrong; the server counts it (`handler_failed`), logs it and goes on. A panic likewise.
    fn handle(&self, client: Client<P>, requests: Requests<P>) -> impl Future<Output = Result<(), HandlerError>>;

    /// Runs once, before the first datagram is received. A shutdown meanwhile interrupts it: its future is dropped.
    ///
    /// # Errors
    /// The server does not start; [`stop`](Self::stop) runs all the same.
    fn start(&self) -> impl Future<Output = Result<(), HandlerError>> {
        ready(Ok(()))
    }

    /// Runs once if [`start`](Self::start) has started, even if that failed or was interrupted: after the last datagram
    /// was handled and all sockets were closed.
    ///
    /// It runs on the task that serves, or on another thread where
    /// [`UdpServer::serve`](crate::server::UdpServer::serve) was dropped, as described there. Only a drop while `stop`
    /// itself runs interrupts it.
    fn stop(&self) -> impl Future<Output = ()> {
        ready(())
    }
}
