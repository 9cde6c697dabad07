//! The workers of a server: the first runs on the task that serves, each further one on its own thread and runtime.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::ServeError;
use super::runtime::{run_restarting, runtime};
use super::service::{Service, SocketToServe};
use crate::running::{Heartbeat, OpenGuard, Shared, SocketMonitor};
use crate::socket::{self, BoundSocket};
use crate::stats::Counters;

/// The result of a worker on another thread; a worker that panicked sends none.
pub(super) type WorkerEnd = oneshot::Receiver<Result<(), ServeError>>;

/// The thread that a worker runs on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Thread {
    /// Its own.
    Own,
    /// One that it shares with other tasks.
    Shared,
}

/// A socket with its service, and the counters of the worker that serves it.
pub(super) struct ServedSocket {
    pub(super) service: Service,
    /// The index of its listener.
    listener: usize,
    inner: SocketToServe,
    /// Set once it has been received from.
    pub(super) started: AtomicBool,
    _open: OpenGuard,
}

impl ServedSocket {
    pub(super) fn new(bound: BoundSocket, service: Service, shared: &Arc<Shared>) -> Self {
        let inner = SocketToServe {
            is_ipv6: bound.families.is_ipv6_socket(),
            bound_here: bound.bound_here,
            address: bound.address,
            counters: Counters::beyond(socket::kernel_drops(bound.socket.as_fd()).unwrap_or(0)).into(),
            socket: bound.socket.into(),
            heartbeat: Arc::<Heartbeat>::default(),
        };
        let listener = shared.listeners.iter().position(|listener| listener.is_at(inner.address, service.name()));
        let listener = listener.expect("the listeners are those of the sockets");
        Self { service, listener, inner, started: AtomicBool::default(), _open: OpenGuard::new(shared) }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.inner.address
    }

    pub(super) fn socket(&self) -> &UdpSocket {
        &self.inner.socket
    }

    pub(super) fn monitor(&self) -> SocketMonitor {
        SocketMonitor {
            socket: Arc::downgrade(&self.inner.socket),
            listener: self.listener,
            counters: Arc::clone(&self.inner.counters),
            heartbeat: Arc::clone(&self.inner.heartbeat),
        }
    }
}

impl Drop for ServedSocket {
    /// Records the kernel's count of drops, which is gone with the socket.
    fn drop(&mut self) {
        if let Ok(drops) = socket::kernel_drops(self.inner.socket.as_fd()) {
            self.inner.counters.set_kernel_drops(drops);
        }
    }
}

/// Starts a worker on its own thread.
pub(super) fn spawn_worker(
    number: usize,
    shared: &Arc<Shared>,
    sockets: Vec<ServedSocket>,
) -> Result<WorkerEnd, ServeError> {
    let shared = Arc::clone(shared);
    let (done, ended) = oneshot::channel();
    thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || {
            let shutdown = ShutdownOnDrop(shared);
            let runtime = runtime().map_err(ServeError::StartWorker);
            let ran = runtime.and_then(|mut runtime| run_restarting(&mut runtime, &shutdown.0, &sockets));
            // The sockets are closed before the server reports that it has ended.
            drop(sockets);
            // The receiver is gone only if nobody is waiting any more.
            let _ = done.send(ran);
        })
        .map_err(ServeError::StartWorker)?;
    Ok(ended)
}

/// Serves some sockets on this task until the server closes.
pub(super) async fn run_worker(shared: &Shared, sockets: &[ServedSocket], thread: Thread) -> Result<(), ServeError> {
    // What others hold too they may make blocking without a limit, and the worker would never return from its call.
    let may_block = thread == Thread::Own && matches!(sockets, [only] if only.inner.bound_here);
    let mut loops = Vec::with_capacity(sockets.len());
    for served in sockets {
        let serve = served.service.serve_socket(&served.inner, shared, may_block)?;
        loops.push(async move {
            if !served.started.swap(true, Relaxed) {
                shared.now_serving();
            }
            let _on_runtime = served.inner.heartbeat.on_runtime();
            serve.await;
        });
    }
    join_all(loops).await;
    Ok(())
}

/// Ends the other workers once one has ended.
struct ShutdownOnDrop(Arc<Shared>);

impl Drop for ShutdownOnDrop {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}
