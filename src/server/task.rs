//! A server on its own threads, and the future of its result.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;
use std::time::Instant;

use futures_util::future::{Either, select};
use tokio::sync::oneshot;

use super::park::{wait, wait_until};
use super::{Phase, ServeError, ServerHandle, UdpServer};

/// A server on its own threads: a future of its result, for any runtime.
///
/// Dropping it shuts the server down without waiting.
#[derive(Debug)]
#[must_use = "dropping it shuts the server down"]
pub struct ServerTask {
    handle: ServerHandle,
    /// `None` once it has returned the result.
    ended: Option<oneshot::Receiver<Result<(), ServeError>>>,
}

impl ServerTask {
    pub(super) fn spawn(server: UdpServer) -> Result<Self, ServeError> {
        let handle = server.handle();
        let (ending, ended) = oneshot::channel();
        // A thread that panics sends nothing; a caller that does not wait needs nothing.
        let serve = move || drop(ending.send(server.serve_blocking()));
        thread::Builder::new().name("worker-1".into()).spawn(serve).map_err(ServeError::StartWorker)?;
        Ok(Self { handle, ended: Some(ended) })
    }

    /// A handle to query and stop the server.
    #[must_use]
    pub fn handle(&self) -> &ServerHandle {
        &self.handle
    }

    /// Requests a shutdown; the task is ready once the server has stopped.
    pub fn shutdown(&self) {
        self.handle.shutdown();
    }

    /// Blocks this thread until the server is serving, or has ended without ever serving.
    pub(super) fn wait_for_start(&mut self) -> Result<(), ServeError> {
        let handle = self.handle.clone();
        let serving = std::pin::pin!(handle.wait_for_phase(Phase::Serving));
        match wait(select(&mut *self, serving)) {
            Either::Left((ended, _)) => ended,
            // It was asked to stop before it was serving, and may have failed.
            Either::Right(_) if handle.phase() != Phase::Serving => self.wait(),
            Either::Right(_) => Ok(()),
        }
    }

    /// Blocks this thread until the server has ended.
    pub(super) fn wait(&mut self) -> Result<(), ServeError> {
        wait(self)
    }

    /// Blocks this thread until the server has ended, but no longer than until the deadline.
    pub(super) fn wait_until(&mut self, deadline: Instant) -> Option<Result<(), ServeError>> {
        wait_until(deadline, self)
    }
}

impl Future for ServerTask {
    type Output = Result<(), ServeError>;

    /// Ready with the result; polled again, with `Ok`.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(ended) = &mut self.ended else { return Poll::Ready(Ok(())) };
        let result = std::task::ready!(Pin::new(ended).poll(context));
        self.ended = None;
        Poll::Ready(result.unwrap_or(Err(ServeError::WorkerPanicked)))
    }
}

impl Drop for ServerTask {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}
