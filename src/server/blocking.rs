//! The server for programs without a runtime: the asynchronous one, driven on this thread or in the background.

use std::convert::Infallible;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures_util::future::select;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::park::{wait, wait_until};
use super::{Phase, ServeError, ServerHandle};
use crate::handler::DatagramRequestHandler;
use crate::protocol::DatagramProtocol;
use crate::socket::BindError;

/// A UDP server that blocks the thread it serves on.
pub struct UdpServer<P, H>(super::UdpServer<P, H>);

impl<P, H> From<super::UdpServer<P, H>> for UdpServer<P, H> {
    fn from(server: super::UdpServer<P, H>) -> Self {
        Self(server)
    }
}

impl<P, H> UdpServer<P, H> {
    /// Binds an address such as `"[::1]:9000"`, for one worker. For more, make the server of
    /// [`ServerOptions`](super::ServerOptions), and this one [`From`] it.
    ///
    /// # Errors
    /// Those of the asynchronous [`bind`](super::UdpServer::bind), which also says how names are treated.
    pub fn bind(address: impl ToSocketAddrs, protocol: P, handler: H) -> Result<Self, BindError> {
        super::UdpServer::bind(address, protocol, handler).map(Self)
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

    /// A handle to ask and stop the server with, from any thread.
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
    /// Serves until [`ServerHandle::shutdown`] is called from another thread.
    ///
    /// Serves on this thread, or, where it is in a tokio runtime, on a new one; it blocks this one all the same. In an
    /// asynchronous program use the asynchronous server, or [`start`](Self::start).
    ///
    /// # Errors
    /// Those of [`serve`](super::UdpServer::serve).
    pub fn serve(self) -> Result<(), ServeError> {
        match Handle::try_current() {
            Err(_) => self.0.serve_blocking(),
            // A runtime's thread cannot drive another runtime.
            Ok(_) => self.spawn()?.join(),
        }
    }

    /// Serves on a new thread; returns once the server is up, or has been shut down while the handler was starting.
    ///
    /// It blocks this thread for as long as the handler's `start` takes, and may be called in a runtime.
    ///
    /// # Errors
    /// Those of [`serve`](super::UdpServer::serve) that keep the server from coming up.
    pub fn start(self) -> Result<BackgroundServer, ServeError> {
        let mut server = self.spawn()?;
        let handle = server.handle.clone();
        let serving = pin!(handle.wait_for_phase(Phase::Serving));
        wait(select(serving, &mut server.ended));
        if handle.phase() != Phase::Serving {
            // It failed, or was asked to stop before it served.
            server.wait()?;
        }
        Ok(server)
    }

    fn spawn(self) -> Result<BackgroundServer, ServeError> {
        let handle = self.handle();
        let (ending, ended) = oneshot::channel();
        let serve = move || {
            let _ending = ending;
            self.0.serve_blocking()
        };
        let thread = thread::Builder::new().name("worker-1".into()).spawn(serve).map_err(ServeError::StartWorker)?;
        Ok(BackgroundServer { handle, ended, thread: Some(thread) })
    }
}

/// A server on its own thread; dropping it stops the server and waits until it has stopped.
#[derive(Debug)]
pub struct BackgroundServer {
    handle: ServerHandle,
    /// Closed when the thread is about to end.
    ended: oneshot::Receiver<Infallible>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl BackgroundServer {
    /// A handle to ask and stop the server with.
    #[must_use]
    pub fn handle(&self) -> &ServerHandle {
        &self.handle
    }

    /// Shuts the server down and waits until it has stopped.
    ///
    /// # Errors
    /// Those of [`serve`](super::UdpServer::serve).
    pub fn stop(self) -> Result<(), ServeError> {
        self.handle.shutdown();
        self.join()
    }

    /// Waits until the server has stopped, forever unless something calls [`ServerHandle::shutdown`];
    /// [`stop`](Self::stop) does both.
    ///
    /// # Errors
    /// Those of [`serve`](super::UdpServer::serve).
    pub fn join(mut self) -> Result<(), ServeError> {
        self.wait()
    }

    /// Waits at most this long until the server has stopped; `None` if it has not. An error is returned only once;
    /// later calls return `Ok`.
    pub fn join_timeout(&mut self, timeout: Duration) -> Option<Result<(), ServeError>> {
        if self.thread.is_some()
            && let Some(deadline) = Instant::now().checked_add(timeout)
        {
            let Err(_) = wait_until(deadline, &mut self.ended)?;
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
        // The error is for those who stop or join.
        let _ = self.wait();
    }
}
