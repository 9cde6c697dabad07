//! The trait that a program implements to handle requests.

use std::future::{Future, ready};
use std::sync::Arc;

use super::{Client, HandlerError, HandlerFailure, Requests};
use crate::running::ServerHandle;

/// Handles the requests of clients, one client at a time in each call.
///
/// Knows packets only: any protocol that receives its `Request` and sends its `Response` can carry them. Calls for
/// different clients run concurrently on one thread; a server with several workers shares the handler between their
/// threads. Futures are [`Send`]; work that is not can run in a separate task on a
/// [`LocalSet`](tokio::task::LocalSet).
///
/// An [`Arc`] of a handler is a handler too, so that a program can keep it and change it while it serves.
///
/// A failure is counted ([`DropReason::HandlerFailed`](crate::stats::DropReason::HandlerFailed)), and
/// [`failed`](Self::failed) reports it: with a warning through the [`tracing`] crate, unless the handler has its own.
/// **A program without a `tracing` subscriber sees nothing of that**: install one (`tracing_subscriber::fmt::init()`),
/// implement `failed`, or watch [`ServerHandle::stats`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle requests",
    label = "needs `impl DatagramRequestHandler for {Self}`",
    note = "`Request` is what the protocol receives, `Response` is what it sends"
)]
pub trait DatagramRequestHandler: Send + Sync + 'static {
    /// The packets that clients send: the protocol's `Received`.
    type Request;
    /// The packets that the handler sends to them: the protocol's `Sent`.
    type Response;

    /// Handles a datagram of `client`, and those that follow while it runs.
    ///
    /// The first call of [`requests.next()`](Requests::next) is ready at once. When this returns, the client's next
    /// datagram begins a new call.
    ///
    /// # Errors
    /// Any error: the server counts it (`handler_failed`), reports it to [`failed`](Self::failed) and continues. The
    /// same goes for a panic.
    fn handle(
        &self,
        client: Client<Self::Response>,
        requests: Requests<Self::Request>,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;

    /// Runs once, before the first datagram is received. A shutdown meanwhile interrupts it: its future is dropped.
    ///
    /// # Errors
    /// The server does not start; [`stop`](Self::stop) runs anyway.
    fn start(&self, server: &ServerHandle) -> impl Future<Output = Result<(), HandlerError>> + Send {
        let _ = server;
        ready(Ok(()))
    }

    /// Runs once if [`start`](Self::start) has begun, even if that failed or was interrupted: after the last datagram
    /// was handled and all sockets were closed.
    ///
    /// It runs on the task that serves, or on another thread where
    /// [`UdpServer::serve`](crate::server::UdpServer::serve) was dropped, as described there. Only a drop while `stop`
    /// itself runs interrupts it.
    fn stop(&self) -> impl Future<Output = ()> + Send {
        ready(())
    }

    /// Reports a call that failed, which has already been counted: by default with [`Client::log_failure`]. It runs on
    /// the worker and should be quick.
    fn failed(&self, client: &Client<Self::Response>, failure: &HandlerFailure) {
        client.log_failure(failure);
    }
}

impl<H: DatagramRequestHandler> DatagramRequestHandler for Arc<H> {
    type Request = H::Request;
    type Response = H::Response;

    fn handle(
        &self,
        client: Client<H::Response>,
        requests: Requests<H::Request>,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        (**self).handle(client, requests)
    }

    fn start(&self, server: &ServerHandle) -> impl Future<Output = Result<(), HandlerError>> + Send {
        (**self).start(server)
    }

    fn stop(&self) -> impl Future<Output = ()> + Send {
        (**self).stop()
    }

    fn failed(&self, client: &Client<H::Response>, failure: &HandlerFailure) {
        (**self).failed(client, failure);
    }
}
