//! The server for programs without a runtime: the asynchronous one, driven on this thread or in the background.

use std::net::SocketAddr;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Runtime};

use super::{Phase, ServeError, ServerHandle, ServerOptions};
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
        runtime()?.block_on(self.0.serve())
    }

    /// Serves on a thread of its own; returns once the server is up.
    ///
    /// # Errors
    /// Those of [`serve`](super::UdpServer::serve) that keep the server from coming up.
    pub fn start(self) -> Result<BackgroundServer, ServeError> {
        let runtime = runtime()?;
        let handle = self.handle();
        let (up, came_up) = mpsc::channel();
        let watched = handle.clone();
        let serve = move || {
            runtime.block_on(async {
                tokio::spawn(async move {
                    watched.reached(Phase::Serving).await;
                    // Dropped unheard when the server never came up.
                    let _ = up.send(());
                });
                self.0.serve().await
            })
        };
        let thread = thread::Builder::new().name("worker-1".into()).spawn(serve).map_err(ServeError::StartWorker)?;
        let server = BackgroundServer { handle, thread: Some(thread) };
        match came_up.recv() {
            Ok(()) => Ok(server),
            Err(_) => server.join().and(Err(ServeError::WorkerPanicked)),
        }
    }
}

fn runtime() -> Result<Runtime, ServeError> {
    Builder::new_current_thread().enable_all().build().map_err(ServeError::StartWorker)
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
