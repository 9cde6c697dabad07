//! The workers of a server: the first runs where the server is served, each further one on a thread with a runtime.

use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::ServeError;
use super::engine::{Engine, EngineContext};
use super::handle::{OpenGuard, Shared};
use super::heartbeat::Heartbeat;
use super::runtime::runtime;
use super::worker::Worker;
use crate::handler::DatagramRequestHandler;
use crate::protocol::DatagramProtocol;
use crate::socket::{self, BoundSocket};
use crate::stats::Counters;

/// The end of a worker on another thread; one that panicked sends nothing.
pub(super) type WorkerEnd = oneshot::Receiver<Result<(), ServeError>>;

/// The protocol and handler that all workers of a server share.
pub(super) struct Service<P, H> {
    pub(super) protocol: Arc<P>,
    pub(super) handler: Arc<H>,
    pub(super) shared: Arc<Shared>,
}

impl<P, H> Clone for Service<P, H> {
    fn clone(&self) -> Self {
        Self {
            protocol: Arc::clone(&self.protocol),
            handler: Arc::clone(&self.handler),
            shared: Arc::clone(&self.shared),
        }
    }
}

/// A socket with the counters of the worker that serves it.
pub(super) struct ServedSocket {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) address: SocketAddr,
    ipv6_socket: bool,
    pub(super) counters: Arc<Counters>,
    pub(super) heartbeat: Arc<Heartbeat>,
    /// It has been received from.
    pub(super) started: AtomicBool,
    _open: OpenGuard,
}

impl ServedSocket {
    pub(super) fn new(bound: BoundSocket, shared: &Arc<Shared>) -> Self {
        Self {
            ipv6_socket: bound.families.is_ipv6_socket(),
            address: bound.address,
            counters: Counters::beyond(socket::kernel_drops(bound.socket.as_fd()).unwrap_or(0)).into(),
            socket: bound.socket.into(),
            heartbeat: Arc::default(),
            started: AtomicBool::default(),
            _open: OpenGuard::new(shared),
        }
    }

    /// The kernel's count is gone with the socket.
    fn remember_kernel_drops(&self) {
        if let Ok(drops) = socket::kernel_drops(self.socket.as_fd()) {
            self.counters.set_kernel_drops(drops);
        }
    }
}

impl<P, H> Service<P, H>
where
    P: DatagramProtocol + Send + Sync + 'static,
    H: DatagramRequestHandler<P> + Send + Sync + 'static,
{
    /// Starts a worker on its own thread.
    pub(super) fn spawn_worker(&self, number: usize, sockets: Vec<ServedSocket>) -> Result<WorkerEnd, ServeError> {
        let service = self.clone();
        let (done, ended) = oneshot::channel();
        thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                let _shutdown = ShutdownOnDrop(Arc::clone(&service.shared));
                let runtime = runtime().map_err(ServeError::StartWorker);
                let ran = runtime.and_then(|mut runtime| service.run_restarting(&mut runtime, &sockets));
                // Closed before the server says that it has ended.
                drop(sockets);
                // The receiver is gone only when nobody waits any longer.
                let _ = done.send(ran);
            })
            .map_err(ServeError::StartWorker)?;
        Ok(ended)
    }

    /// Serves some sockets on this task until the server closes.
    pub(super) async fn run_worker(&self, sockets: &[ServedSocket]) -> Result<(), ServeError> {
        let loops = sockets.iter().map(|served| self.serve_socket(served)).collect::<Result<Vec<_>, _>>()?;
        join_all(loops).await;
        Ok(())
    }

    fn serve_socket(&self, served: &ServedSocket) -> Result<impl Future<Output = ()>, ServeError> {
        let handler = &*self.handler;
        let surroundings = EngineContext {
            admission: Arc::clone(&self.shared.admission),
            counters: Arc::clone(&served.counters),
            drops: Arc::clone(&self.shared.drops),
            closing: Arc::clone(&self.shared.closing),
            bound: served.address,
        };
        let engine = Engine::with_context(surroundings, Arc::clone(&self.protocol), |client, requests| {
            handler.handle(client, requests)
        });
        let worker = Worker::new(engine, Arc::clone(&served.socket), served.ipv6_socket)
            .map_err(|source| ServeError::Watch { address: served.address, source })?;
        Ok(async move {
            if !served.started.swap(true, Relaxed) {
                self.shared.now_serving();
            }
            let _on_runtime = served.heartbeat.on_runtime();
            worker.run(&served.heartbeat, self.shared.closing(), self.shared.grace).await;
            served.remember_kernel_drops();
        })
    }
}

/// Ends the other workers when one is gone.
struct ShutdownOnDrop(Arc<Shared>);

impl Drop for ShutdownOnDrop {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}
