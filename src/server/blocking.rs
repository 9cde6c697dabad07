//! The server for programs without a runtime: the asynchronous one, driven on this thread or in the background.

use std::future::{Future, poll_fn};
use std::net::{SocketAddr, UdpSocket};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::{Phase, ServeError, ServerHandle, ServerOptions};
use crate::handler::DatagramRequestHandler;
use crate::protocol::DatagramProtocol;
use crate::socket::BindError;

/// The pause before a thread is looked at again, and woken again: the first, and the longest.
const JOIN_PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// A UDP server that blocks the thread it serves on.
pub struct UdpServer<P, H>(super::UdpServer<P, H>);

impl<P, H> From<super::UdpServer<P, H>> for UdpServer<P, H> {
    fn from(server: super::UdpServer<P, H>) -> Self {
        Self(server)
    }
}

impl<P, H> UdpServer<P, H> {
    /// Binds one address, for one worker; [`ServerOptions`] and `From` give more.
    ///
    /// # Errors
    /// The socket could not be had.
    pub fn bind(address: SocketAddr, protocol: P, handler: H) -> Result<Self, BindError> {
        ServerOptions::new().listen(address).bind(protocol, handler).map(Self)
    }

    /// Serves a socket that is bound already.
    ///
    /// # Errors
    /// It is not a bound UDP socket.
    pub fn from_socket(socket: UdpSocket, protocol: P, handler: H) -> Result<Self, BindError> {
        super::UdpServer::from_socket(socket, protocol, handler).map(Self)
    }

    /// The addresses it listens on, with their real ports.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.0.local_addresses()
    }

    /// The handler.
    #[must_use]
    pub fn handler(&self) -> &Arc<H> {
        self.0.handler()
    }

    /// What to ask and stop the server with, from any thread.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.0.handle()
    }
}

impl<P, H> UdpServer<P, H>
where
    P: DatagramProtocol + Send + Sync + 'static,
    H: DatagramRequestHandler<P> + Send + Sync + 'static,
{
    /// Serves on this thread until [`ServerHandle::shutdown`] is called from another.
    ///
    /// # Errors
    /// Those of [`serve`](super::UdpServer::serve).
    ///
    /// # Panics
    /// On a thread that drives a tokio runtime: use the asynchronous server there.
    pub fn serve(self) -> Result<(), ServeError> {
        self.0.serve_blocking()
    }

    /// Serves on a thread of its own; returns once the server is up.
    ///
    /// # Errors
    /// Those of [`serve`](super::UdpServer::serve) that keep the server from coming up.
    ///
    /// # Panics
    /// On a thread that drives a tokio runtime.
    pub fn start(self) -> Result<BackgroundServer, ServeError> {
        let handle = self.handle();
        let (ending, mut ended) = oneshot::channel::<()>();
        let serve = move || {
            let _ending = ending;
            self.serve()
        };
        let thread = thread::Builder::new().name("worker-1".into()).spawn(serve).map_err(ServeError::StartWorker)?;
        let mut server = BackgroundServer { handle: handle.clone(), thread: Some(thread) };
        // Nothing but the two is waited for, so this runtime needs no events.
        let waiting = Builder::new_current_thread().build().map_err(ServeError::StartWorker)?;
        let mut up = pin!(handle.reached(Phase::Serving));
        waiting.block_on(poll_fn(|context| match Pin::new(&mut ended).poll(context) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => up.as_mut().poll(context),
        }));
        if handle.phase() != Phase::Serving {
            // It failed, or was asked to stop before it served.
            server.wait()?;
        }
        Ok(server)
    }
}

/// A server on a thread of its own; dropping it stops the server and waits for it.
#[derive(Debug)]
pub struct BackgroundServer {
    handle: ServerHandle,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl BackgroundServer {
    /// What to ask and stop the server with.
    #[must_use]
    pub fn handle(&self) -> &ServerHandle {
        &self.handle
    }

    /// Waits until the server has stopped.
    ///
    /// # Errors
    /// Those of [`serve`](super::UdpServer::serve).
    pub fn join(mut self) -> Result<(), ServeError> {
        self.wait()
    }

    /// Waits until a server that was asked to stop has stopped, but not longer than this: `None` then, and its thread
    /// is left to itself. Meanwhile the loops are woken again, should an earlier wake have failed.
    ///
    /// # Errors
    /// Those of [`serve`](super::UdpServer::serve).
    pub fn join_timeout(mut self, timeout: Duration) -> Option<Result<(), ServeError>> {
        let deadline = Instant::now() + timeout;
        let mut pause = JOIN_PAUSES.0;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if Instant::now() >= deadline {
                self.thread = None;
                return None;
            }
            thread::sleep(pause);
            pause = JOIN_PAUSES.1.min(2 * pause);
            self.handle.ask_for_proof();
        }
        Some(self.wait())
    }

    fn wait(&mut self) -> Result<(), ServeError> {
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap_or(Err(ServeError::WorkerPanicked)))
    }
}

impl Drop for BackgroundServer {
    fn drop(&mut self) {
        self.handle.shutdown();
        // Whoever wants to know joins.
        let _ = self.wait();
    }
}
