//! The server for programs without a runtime: the asynchronous one, run on this thread or in the background.

use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::{ServeError, ServerHandle, ServerTask};
use crate::handler::DatagramRequestHandler;
use crate::protocol::DatagramProtocol;
use crate::socket::BindError;

/// A UDP server that blocks the thread it serves on.
#[derive(Debug)]
pub struct UdpServer(super::UdpServer);

impl From<super::UdpServer> for UdpServer {
    fn from(server: super::UdpServer) -> Self {
        Self(server)
    }
}

impl UdpServer {
    /// Binds an address such as `"[::1]:9000"`, for one worker. For more, bind a server with
    /// [`ServerOptions`](super::ServerOptions) and convert it [`into`](Into::into) this one.
    ///
    /// # Errors
    /// Those of the asynchronous [`bind`](super::UdpServer::bind), which also explains how names are resolved.
    pub fn bind<P, H>(address: impl ToSocketAddrs, protocol: P, handler: H) -> Result<Self, BindError>
    where
        H: DatagramRequestHandler,
        P: DatagramProtocol<Sent = H::Response, Received = H::Request> + Send + Sync + 'static,
    {
        super::UdpServer::bind(address, protocol, handler).map(Self)
    }

    /// Creates a server on a socket that is already bound.
    ///
    /// # Errors
    /// It is not a bound UDP socket.
    pub fn from_socket<P, H>(socket: UdpSocket, protocol: P, handler: H) -> Result<Self, BindError>
    where
        H: DatagramRequestHandler,
        P: DatagramProtocol<Sent = H::Response, Received = H::Request> + Send + Sync + 'static,
    {
        super::UdpServer::from_socket(socket, protocol, handler).map(Self)
    }

    /// The addresses that the server listens on, with their real ports.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.0.local_addresses()
    }

    /// A handle to query and stop the server from any thread.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.0.handle()
    }

    /// Serves until [`ServerHandle::shutdown`] is called from another thread.
    ///
    /// Serves on this thread, or, inside a tokio runtime, on a new one; either way this thread is blocked. In an
    /// asynchronous program use the asynchronous server, or [`start`](Self::start).
    ///
    /// # Errors
    /// Those of [`serve`](super::UdpServer::serve).
    pub fn serve(self) -> Result<(), ServeError> {
        match Handle::try_current() {
            Err(_) => self.0.serve_blocking(),
            // A thread of a runtime cannot run another runtime.
            Ok(_) => self.0.spawn()?.wait(),
        }
    }

    /// Serves on a new thread; returns once the server is serving, or was shut down while a handler was starting.
    ///
    /// It blocks this thread for as long as the handlers' `start` takes, and may be called inside a runtime.
    ///
    /// # Errors
    /// Those of [`serve`](super::UdpServer::serve) that keep the server from starting.
    pub fn start(self) -> Result<BackgroundServer, ServeError> {
        let mut task = self.0.spawn()?;
        task.wait_for_start()?;
        Ok(BackgroundServer(task))
    }
}

/// A server on its own thread; dropping it stops the server and waits until it has stopped.
#[derive(Debug)]
pub struct BackgroundServer(ServerTask);

impl BackgroundServer {
    /// A handle to query and stop the server.
    #[must_use]
    pub fn handle(&self) -> &ServerHandle {
        self.0.handle()
    }

    /// Shuts the server down and waits until it has stopped.
    ///
    /// # Errors
    /// Those of [`serve`](super::UdpServer::serve).
    pub fn stop(self) -> Result<(), ServeError> {
        self.0.shutdown();
        self.join()
    }

    /// Waits until the server has stopped; forever, unless something calls [`ServerHandle::shutdown`].
    /// [`stop`](Self::stop) does both.
    ///
    /// # Errors
    /// Those of [`serve`](super::UdpServer::serve).
    pub fn join(mut self) -> Result<(), ServeError> {
        self.0.wait()
    }

    /// Waits at most this long until the server has stopped; `None` if it has not. An error is returned only once;
    /// later calls return `Ok`.
    pub fn join_timeout(&mut self, timeout: Duration) -> Option<Result<(), ServeError>> {
        match Instant::now().checked_add(timeout) {
            Some(deadline) => self.0.wait_until(deadline),
            None => Some(self.0.wait()),
        }
    }
}

impl Drop for BackgroundServer {
    fn drop(&mut self) {
        self.0.shutdown();
        // The error is for callers of `stop` or `join`.
        let _ = self.0.wait();
    }
}
