//! Serves a handler on UDP sockets: binds them, runs a worker on each, closes and counts.
//!
//! One worker serves all addresses on the task that awaits [`UdpServer::serve`]; with more, each further one has a thread,
//! a runtime and sockets of its own. Knows no settings file and no service manager.

mod backlog;
pub mod blocking;
mod drive;
pub mod engine;
mod handle;
mod options;
mod worker;

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use futures_util::future::join_all;
use tokio::sync::oneshot;

pub use handle::{Listener, Phase, ServerHandle};
pub use options::ServerOptions;

use self::engine::{Engine, Surroundings};
use self::handle::{Open, Pulse, Shared, Watched};
use self::options::{BoundSockets, bind_first};
use self::worker::Worker;
use crate::admission::Admission;
use crate::handler::{DatagramRequestHandler, HandlerError};
use crate::ledger::Counters;
use crate::protocol::DatagramProtocol;
use crate::socket::{self, BindError, BoundSocket};

/// A UDP server: sockets that are bound, a protocol and a handler.
pub struct UdpServer<P, H> {
    /// For each worker its sockets.
    workers: Vec<Vec<Served>>,
    protocol: Arc<P>,
    handler: Arc<H>,
    shared: Arc<Shared>,
}

/// Says how a worker on another thread ended.
type WorkerEnd = oneshot::Receiver<Result<(), ServeError>>;

/// A server whose workers have been started.
struct Split {
    /// What the first worker serves, here.
    here: Vec<Served>,
    elsewhere: Vec<WorkerEnd>,
    /// Whether all of them are there.
    started: Result<(), ServeError>,
}

/// A socket with the counters of the worker that serves it.
struct Served {
    socket: Arc<UdpSocket>,
    address: SocketAddr,
    ipv6_socket: bool,
    counters: Arc<Counters>,
    pulse: Arc<Pulse>,
    /// Whether it has been received from.
    begun: AtomicBool,
    _open: Open,
}

/// A server that could not start, or did not end as asked.
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
        /// Why.
        source: io::Error,
    },
    /// A worker's thread or runtime could not be started.
    #[error("start a worker")]
    StartWorker(#[source] io::Error),
    /// A worker ended by a panic of its own, not of a handler.
    #[error("a worker panicked")]
    WorkerPanicked,
}

impl<P, H> UdpServer<P, H> {
    /// Binds an address for one worker, `"[::1]:9000"` say; [`ServerOptions`] has more.
    ///
    /// Where a name has several addresses, the first that can be bound is, as by [`UdpSocket::bind`]; resolving one blocks
    /// the thread.
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
        let BoundSockets { listeners, workers, policy } = bound;
        let ports = listeners.iter().map(|listener| listener.address.port());
        let admission = match socket::client_ports() {
            Some(client_ports) => Admission::with_client_ports(ports, &client_ports, &policy),
            None => Admission::new(ports, &policy),
        };
        let shared = Arc::new(Shared::new(listeners, admission, workers.iter().map(Vec::len).sum()));
        let serve = |bound: BoundSocket| Served {
            ipv6_socket: bound.families.ipv6_socket(),
            address: bound.address,
            counters: Counters::beyond(socket::kernel_drops(bound.socket.as_fd()).unwrap_or(0)).into(),
            socket: bound.socket.into(),
            pulse: Arc::default(),
            begun: AtomicBool::default(),
            _open: Open(Arc::clone(&shared)),
        };
        let workers: Vec<Vec<Served>> =
            workers.into_iter().map(|sockets| sockets.into_iter().map(serve).collect()).collect();
        shared.watch(workers.iter().flatten().map(|served| Watched {
            socket: Arc::downgrade(&served.socket),
            counters: Arc::clone(&served.counters),
            pulse: Arc::clone(&served.pulse),
        }));
        Self { workers, protocol: protocol.into(), handler: handler.into(), shared }
    }

    /// The addresses it listens on, with their real ports.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.shared.listeners.iter().map(|listener| listener.address).collect()
    }

    /// Its sockets, one or more an address.
    pub fn sockets(&self) -> impl Iterator<Item = (SocketAddr, BorrowedFd<'_>)> {
        self.workers.iter().flatten().map(|served| (served.address, served.socket.as_fd()))
    }

    /// How many workers it has: as many as were asked for, unless there are fewer sockets.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// What to ask and stop the server with while it serves; it can be cloned and sent.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        ServerHandle::new(Arc::clone(&self.shared))
    }

    /// The handler.
    #[must_use]
    pub fn handler(&self) -> &Arc<H> {
        &self.handler
    }
}

impl<P, H> UdpServer<P, H>
where
    P: DatagramProtocol + Send + Sync + 'static,
    H: DatagramRequestHandler<P> + Send + Sync + 'static,
{
    /// Serves until [`ServerHandle::shutdown`] is called; dropping the future shuts down too, without the handler's
    /// `stop`.
    ///
    /// Needs a tokio runtime with I/O and time enabled.
    ///
    /// # Errors
    /// It could not start, or a worker ended by a panic. A failing socket or handler is no error: those are counted.
    pub async fn serve(mut self) -> Result<(), ServeError> {
        self.handler.start().await.map_err(ServeError::StartHandler)?;
        let _stop = StopOnDrop(self.handle());
        let Split { here, elsewhere, started } = self.split();
        let mut ran = match started {
            Ok(()) => self.run_worker(&here).await,
            Err(failure) => Err(failure),
        };
        self.shared.shutdown();
        for ended in elsewhere {
            ran = ran.and(ended.await.unwrap_or(Err(ServeError::WorkerPanicked)));
        }
        self.handler.stop().await;
        ran
    }

    /// Starts all workers but the first.
    fn split(&mut self) -> Split {
        let mut workers = std::mem::take(&mut self.workers).into_iter();
        let mut split = Split { here: workers.next().unwrap_or_default(), elsewhere: Vec::new(), started: Ok(()) };
        for (number, sockets) in workers.enumerate() {
            match self.spawn_worker(number + 2, sockets) {
                Ok(end) => split.elsewhere.push(end),
                Err(failure) => {
                    split.started = Err(failure);
                    break;
                }
            }
        }
        split
    }

    /// Runs a worker on a thread of its own.
    fn spawn_worker(&self, number: usize, sockets: Vec<Served>) -> Result<WorkerEnd, ServeError> {
        let worker = Self {
            workers: Vec::new(),
            protocol: Arc::clone(&self.protocol),
            handler: Arc::clone(&self.handler),
            shared: Arc::clone(&self.shared),
        };
        let (done, ended) = oneshot::channel();
        thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                let _stop = StopOnDrop(worker.handle());
                let ran = worker.drive(&sockets);
                // Closed before the server says that it has ended.
                drop(sockets);
                // Nobody waits for it when `serve` was dropped.
                let _ = done.send(ran);
            })
            .map_err(ServeError::StartWorker)?;
        Ok(ended)
    }

    /// Serves some sockets on this task until the server closes.
    async fn run_worker(&self, sockets: &[Served]) -> Result<(), ServeError> {
        let loops = sockets.iter().map(|served| self.serve_socket(served)).collect::<Result<Vec<_>, _>>()?;
        join_all(loops).await;
        Ok(())
    }

    fn serve_socket(&self, served: &Served) -> Result<impl Future<Output = ()>, ServeError> {
        let handler = &*self.handler;
        let surroundings = Surroundings {
            admission: Arc::clone(&self.shared.admission),
            counters: Arc::clone(&served.counters),
            examples: Arc::clone(&self.shared.examples),
            closing: Arc::clone(&self.shared.closing),
            bound: served.address,
        };
        let engine = Engine::within(surroundings, Arc::clone(&self.protocol), |client, requests| {
            handler.handle(client, requests)
        });
        let worker = Worker::new(engine, Arc::clone(&served.socket), served.ipv6_socket)
            .map_err(|source| ServeError::Watch { address: served.address, source })?;
        Ok(async move {
            if !served.begun.swap(true, Relaxed) {
                self.shared.now_serving();
            }
            worker.run(&served.pulse, self.shared.closing()).await;
            served.remember_kernel_drops();
        })
    }
}

impl Served {
    /// The kernel's count is gone with the socket.
    fn remember_kernel_drops(&self) {
        if let Ok(drops) = socket::kernel_drops(self.socket.as_fd()) {
            self.counters.set_kernel_drops(drops);
        }
    }
}

/// Ends the other workers when one is gone.
struct StopOnDrop(ServerHandle);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}
