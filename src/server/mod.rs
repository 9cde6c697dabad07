//! Serves a handler on UDP sockets: binds them, runs a worker on each, closes and counts.
//!
//! One worker serves all addresses on the task that awaits [`UdpServer::serve`]; with more, each further one has its
//! own thread, runtime and sockets. Knows no settings file and no service manager.

mod backlog;
pub mod blocking;
pub mod engine;
mod handle;
mod heartbeat;
mod lifecycle;
mod options;
mod park;
mod runtime;
mod worker;
mod workers;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

pub use handle::{Listener, Phase, ServerHandle};
pub use options::ServerOptions;

use self::handle::{OpenGuard, Shared, SocketMonitor};
use self::lifecycle::Lifecycle;
use self::options::{BoundSockets, bind_first};
use self::workers::{ServedSocket, Service};
use crate::admission::Admission;
use crate::handler::{DatagramRequestHandler, HandlerError};
use crate::protocol::DatagramProtocol;
use crate::socket::{self, BindError};

/// A UDP server: sockets that are bound, a protocol and a handler.
pub struct UdpServer<P, H> {
    /// For each worker its sockets.
    workers: Vec<Vec<ServedSocket>>,
    service: Service<P, H>,
    open: OpenGuard,
}

/// The reason why a server could not start, or did not end as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The handler's `start` failed.
    #[error("start the request handler")]
    StartHandler(#[source] HandlerError),
    /// A socket could not be registered with the runtime.
    #[error("watch the socket of {address}")]
    Watch {
        /// The socket's address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// A worker's thread or runtime could not be started.
    #[error("start a worker")]
    StartWorker(#[source] io::Error),
    /// A worker panicked outside the handler's `handle`: in tokio, or in its `start` or `stop`.
    #[error("a worker panicked")]
    WorkerPanicked,
}

impl<P, H> UdpServer<P, H> {
    /// Binds an address such as `"[::1]:9000"`, for one worker; [`ServerOptions`] has more.
    ///
    /// Of several addresses (those of a name, say) the first that can be bound is bound, as [`UdpSocket::bind`] does.
    /// Resolving a name blocks the thread.
    ///
    /// # Errors
    /// The name has no address, or the socket of the last one could not be created or bound.
    pub fn bind(address: impl ToSocketAddrs, protocol: P, handler: H) -> Result<Self, BindError> {
        Ok(Self::new(bind_first(address)?, protocol, handler))
    }

    /// Serves a socket that is bound already.
    ///
    /// # Errors
    /// It is not a bound UDP socket.
    pub fn from_socket(socket: UdpSocket, protocol: P, handler: H) -> Result<Self, BindError> {
        ServerOptions::new().socket(socket).bind(protocol, handler)
    }

    fn new(bound: BoundSockets, protocol: P, handler: H) -> Self {
        let BoundSockets { listeners, workers, policy, grace } = bound;
        let ports = listeners.iter().map(|listener| listener.address.port());
        let admission = match socket::client_ports() {
            Some(client_ports) => Admission::with_client_ports(ports, &client_ports, &policy),
            None => Admission::new(ports, &policy),
        };
        let sockets = workers.iter().map(Vec::len).sum();
        let shared = Arc::new(Shared::new(listeners, admission, sockets, grace));
        let serve = |sockets: Vec<_>| sockets.into_iter().map(|bound| ServedSocket::new(bound, &shared)).collect();
        let workers: Vec<Vec<ServedSocket>> = workers.into_iter().map(serve).collect();
        shared.watch(workers.iter().flatten().map(|served| SocketMonitor {
            socket: Arc::downgrade(&served.socket),
            counters: Arc::clone(&served.counters),
            heartbeat: Arc::clone(&served.heartbeat),
        }));
        let open = OpenGuard::new(&shared);
        Self { workers, service: Service { protocol: protocol.into(), handler: handler.into(), shared }, open }
    }

    /// The addresses it listens on, with their real ports.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.service.shared.listeners.iter().map(|listener| listener.address).collect()
    }

    /// Its sockets, one or more an address.
    pub fn sockets(&self) -> impl Iterator<Item = (SocketAddr, BorrowedFd<'_>)> {
        self.workers.iter().flatten().map(|served| (served.address, served.socket.as_fd()))
    }

    /// The number of workers: as many as were asked for, unless there are fewer sockets.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// A handle to ask and stop the server with while it serves; it can be cloned and sent.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        ServerHandle::new(Arc::clone(&self.service.shared))
    }

    /// The handler.
    #[must_use]
    pub fn handler(&self) -> &Arc<H> {
        &self.service.handler
    }
}

impl<P, H> UdpServer<P, H>
where
    P: DatagramProtocol + Send + Sync + 'static,
    H: DatagramRequestHandler<P> + Send + Sync + 'static,
{
    /// Serves until [`ServerHandle::shutdown`] is called: runs the handler's
    /// [`start`](DatagramRequestHandler::start), the workers, and the handler's [`stop`](DatagramRequestHandler::stop).
    ///
    /// Needs a tokio runtime with I/O and time enabled.
    ///
    /// Dropping the future (in a `select!`, by a timeout) shuts down too: at once, without the grace for handlers that
    /// wait on this task. The handler's `stop` then runs after the other workers have ended, on a thread of the
    /// runtime's blocking pool (outside a runtime: on a new thread), with a small runtime around it.
    /// [`ServerHandle::reached`] with [`Phase::Stopped`] waits for that, and so does a runtime that is dropped.
    ///
    /// # Errors
    /// It could not start, or a worker ended by a panic. A failing socket or handler is no error: those are counted.
    pub async fn serve(self) -> Result<(), ServeError> {
        let mut life = Lifecycle::new(self);
        let ran = match life.begin().await {
            Ok(()) => life.service.run_worker(&life.here).await,
            Err(failure) => Err(failure),
        };
        life.end(ran).await
    }

    /// The same on this thread, which has no runtime.
    fn serve_blocking(self) -> Result<(), ServeError> {
        // What the handler starts lives on the runtime of the first worker, as long as that does.
        let mut runtime = runtime::runtime().map_err(ServeError::StartWorker)?;
        let mut life = Lifecycle::new(self);
        let ran = runtime.block_on(life.begin());
        let ran = ran.and_then(|()| life.service.run_restarting(&mut runtime, &life.here));
        life.end_blocking(&runtime, ran)
    }
}
