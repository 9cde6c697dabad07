//! The server: its bound sockets with their services, and the ways to run it.

use std::future::Future;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, select};

use super::lifecycle::Lifecycle;
use super::options::{BoundService, BoundSockets, bind_first};
use super::runtime::{run_restarting, runtime};
use super::workers::{ServedSocket, Thread, run_worker};
use super::{ServeError, ServerOptions, ServerTask, Service};
use crate::admission::Admission;
use crate::handler::DatagramRequestHandler;
use crate::protocol::DatagramProtocol;
use crate::running::{Listener, OpenGuard, ServerHandle, Shared};
use crate::socket::{self, BindError};

/// A UDP server: bound sockets, and the services on them.
pub struct UdpServer {
    /// The sockets of each worker.
    pub(super) workers: Vec<Vec<ServedSocket>>,
    /// The services, each once.
    pub(super) services: Vec<Service>,
    pub(super) shared: Arc<Shared>,
    pub(super) open: OpenGuard,
}

impl UdpServer {
    /// Binds an address such as `"[::1]:9000"`, for one worker; [`ServerOptions`] has more.
    ///
    /// Of several addresses (those of a name, say) it binds the first that can be bound, as [`UdpSocket::bind`] does.
    /// Resolving a name blocks the thread.
    ///
    /// # Errors
    /// The name has no address, or the socket of the last one could not be created or bound.
    pub fn bind<P, H>(address: impl ToSocketAddrs, protocol: P, handler: H) -> Result<Self, BindError>
    where
        H: DatagramRequestHandler,
        P: DatagramProtocol<Sent = H::Response, Received = H::Request> + Send + Sync + 'static,
    {
        Ok(Self::new(bind_first(address)?, &Service::new(protocol, handler)))
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
        ServerOptions::new().socket(socket).bind(protocol, handler)
    }

    pub(super) fn new(bound: BoundSockets, default: &Service) -> Self {
        let BoundSockets { sockets, workers, policy, grace } = bound;
        let service_of = |own: &Option<Service>| own.as_ref().unwrap_or(default).clone();
        let mut listeners: Vec<Listener> = Vec::new();
        let mut services: Vec<Service> = Vec::new();
        for BoundService { socket, service, .. } in &sockets {
            let service = service_of(service);
            let listener = Listener::new(socket, service.name());
            if listeners.iter().all(|known| !known.is_at(listener.address, listener.service)) {
                listeners.push(listener);
            }
            if !services.iter().any(|known| known.is(&service)) {
                services.push(service);
            }
        }
        let ports = listeners.iter().map(|listener| listener.address.port());
        let admission = match socket::client_ports() {
            Some(client_ports) => Admission::with_client_ports(ports, &client_ports, &policy),
            None => Admission::new(ports, &policy),
        };
        let shared = Arc::new(Shared::new(listeners, admission, sockets.len(), grace));
        let mut workers: Vec<Vec<ServedSocket>> = (0..workers).map(|_| Vec::new()).collect();
        for BoundService { socket, service, worker } in sockets {
            workers[worker].push(ServedSocket::new(socket, service_of(&service), &shared));
        }
        // There may be fewer given sockets than workers.
        workers.retain(|sockets| !sockets.is_empty());
        shared.monitor(workers.iter().flatten().map(ServedSocket::monitor));
        let open = OpenGuard::new(&shared);
        Self { workers, services, shared, open }
    }

    /// The addresses that the server listens on, with their real ports.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.shared.listeners.iter().map(|listener| listener.address).collect()
    }

    /// The sockets, one or more for each address.
    pub fn sockets(&self) -> impl Iterator<Item = (SocketAddr, BorrowedFd<'_>)> {
        self.workers.iter().flatten().map(|served| (served.address(), served.socket().as_fd()))
    }

    /// The number of workers: as many as requested, unless there are fewer sockets.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// A handle to query and stop the server while it runs; it can be cloned and sent to other threads.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        ServerHandle::new(Arc::clone(&self.shared))
    }

    /// Serves until [`ServerHandle::shutdown`] is called: runs each handler's
    /// [`start`](DatagramRequestHandler::start), the workers, and each handler's
    /// [`stop`](DatagramRequestHandler::stop).
    ///
    /// Needs a tokio runtime with I/O and time enabled.
    ///
    /// Dropping the future (in a `select!`, by a timeout) shuts down too: at once, without the grace period for
    /// handlers that wait on this task. The handlers' `stop` then runs after the other workers have ended, on a thread
    /// of the runtime's blocking pool (outside a runtime: on a new thread), in a small runtime.
    /// [`ServerHandle::wait_for_phase`] with [`Phase::Stopped`](super::Phase::Stopped) waits for that, and so does a
    /// runtime that is dropped.
    ///
    /// # Errors
    /// The server could not start, or a worker panicked. Failures of sockets and handlers are counted, not returned.
    pub async fn serve(self) -> Result<(), ServeError> {
        let mut life = Lifecycle::new(self);
        let ran = match life.begin().await {
            Ok(()) => run_worker(&life.shared, &life.here, Thread::Shared).await,
            Err(failure) => Err(failure),
        };
        life.end(ran).await
    }

    /// Serves like [`serve`](Self::serve) until `signal` is ready, whatever its output, or [`ServerHandle::shutdown`]
    /// is called; then closes with the grace period for handlers that wait.
    ///
    /// # Errors
    /// Those of [`serve`](Self::serve).
    pub async fn serve_until<S: Future>(self, signal: S) -> Result<(), ServeError> {
        let handle = self.handle();
        match select(pin!(self.serve()), pin!(signal)).await {
            Either::Left((ran, _)) => ran,
            Either::Right((_, serving)) => {
                handle.shutdown();
                serving.await
            }
        }
    }

    /// Serves on the server's own threads, inside or outside a runtime; the task is a future of the result, and shuts
    /// the server down when it is dropped.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn spawn(self) -> Result<ServerTask, ServeError> {
        ServerTask::spawn(self)
    }

    /// Serves on this thread, which has no runtime.
    pub(super) fn serve_blocking(self) -> Result<(), ServeError> {
        // Tasks that the handlers spawn run on the runtime of the first worker, for as long as it exists.
        let mut runtime = runtime().map_err(ServeError::StartWorker)?;
        let mut life = Lifecycle::new(self);
        let ran = runtime.block_on(life.begin());
        let ran = ran.and_then(|()| run_restarting(&mut runtime, &life.shared, &life.here));
        life.end_blocking(&runtime, ran)
    }
}

impl std::fmt::Debug for UdpServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let listeners = &self.shared.listeners;
        f.debug_struct("UdpServer").field("listeners", listeners).field("services", &self.services).finish()
    }
}
