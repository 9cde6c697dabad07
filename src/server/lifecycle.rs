//! The life of a server around its first worker: the handlers' `start`, the other workers, the handlers' `stop`.
//!
//! Once a handler's `start` has begun, its `stop` runs after all workers have ended, whichever way the server ends. If
//! the server was dropped, nobody awaits that: it runs in the background.

use std::collections::VecDeque;
use std::mem::take;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::thread;

use futures_util::future::{Either, FutureExt, select};
use tokio::runtime::{Handle, Runtime};

use super::park::wait;
use super::runtime::runtime;
use super::service::Service;
use super::workers::{ServedSocket, WorkerEnd, spawn_worker};
use super::{ServeError, UdpServer};
use crate::message_id;
use crate::running::{OpenGuard, ServerHandle, Shared};

/// A server that is being served.
pub(super) struct Lifecycle {
    pub(super) shared: Arc<Shared>,
    services: Vec<Service>,
    /// The sockets of the first worker.
    pub(super) here: Vec<ServedSocket>,
    /// The sockets of workers that are not started yet.
    others: Vec<Vec<ServedSocket>>,
    /// Dropped last, so that sockets are closed before a handler stops.
    ending: Ending,
}

impl Lifecycle {
    pub(super) fn new(server: UdpServer) -> Self {
        let UdpServer { workers, services, shared, open } = server;
        let mut workers = workers.into_iter();
        Self {
            services,
            here: workers.next().unwrap_or_default(),
            others: workers.collect(),
            ending: Ending {
                shared: Arc::clone(&shared),
                elsewhere: VecDeque::new(),
                started: Vec::new(),
                aside: Aside::BlockingPool,
                _open: open,
            },
            shared,
        }
    }

    /// Runs the handlers' `start`, one after the other, then starts all workers but the first. Ends early when the
    /// server closes.
    pub(super) async fn begin(&mut self) -> Result<(), ServeError> {
        let handle = ServerHandle::new(Arc::clone(&self.shared));
        for service in &self.services {
            if self.shared.is_closing() {
                return Ok(());
            }
            self.ending.started.push(service.clone());
            let closing = pin!(self.shared.closing());
            if let Either::Right((started, _)) = select(closing, service.start(&handle)).await {
                started.map_err(ServeError::StartHandler)?;
            }
        }
        if !self.shared.is_closing() {
            for (number, sockets) in self.others.drain(..).enumerate() {
                self.ending.elsewhere.push_back(spawn_worker(number + 2, &self.shared, sockets)?);
            }
        }
        Ok(())
    }

    /// Ends the server once its first worker `ran`.
    pub(super) async fn end(mut self, mut ran: Result<(), ServeError>) -> Result<(), ServeError> {
        self.close();
        while let Some(worker) = self.ending.elsewhere.front_mut() {
            ran = ran.and(worker.await.unwrap_or(Err(ServeError::WorkerPanicked)));
            self.ending.elsewhere.pop_front();
        }
        self.ending.stop_handlers().await;
        ran
    }

    /// Does the same as [`end`](Self::end) on a thread with a runtime.
    pub(super) fn end_blocking(mut self, runtime: &Runtime, ran: Result<(), ServeError>) -> Result<(), ServeError> {
        self.close();
        ran.and(self.ending.finish(runtime))
    }

    /// Asks the other workers to end, and closes the sockets here.
    fn close(&mut self) {
        self.shared.shutdown();
        self.here.clear();
        self.others.clear();
    }
}

/// The work that remains after the first worker: to wait for the others, then to stop the handlers. If it is dropped
/// before that is done, the rest runs in the background.
struct Ending {
    shared: Arc<Shared>,
    elsewhere: VecDeque<WorkerEnd>,
    /// The services whose handler's `start` has begun and `stop` has not.
    started: Vec<Service>,
    /// The place where the rest runs if this is dropped.
    aside: Aside,
    _open: OpenGuard,
}

/// The places for work that nobody awaits, in the order in which they are tried.
#[derive(Clone, Copy)]
enum Aside {
    /// A runtime's blocking pool: a runtime that is dropped waits for it, so the end of `main` does not cut it short.
    BlockingPool,
    /// A new thread, if there is no runtime or it is ending.
    Thread,
    /// No thread can be started: the handlers are not stopped.
    Nowhere,
}

impl Ending {
    /// Waits for the other workers and stops the handlers.
    fn finish(&mut self, runtime: &Runtime) -> Result<(), ServeError> {
        self.shared.shutdown();
        let mut ran = Ok(());
        while let Some(worker) = self.elsewhere.pop_front() {
            // Not on the runtime, whose wake-ups can fail; a thread's cannot.
            ran = ran.and(wait(worker).unwrap_or(Err(ServeError::WorkerPanicked)));
        }
        runtime.block_on(self.stop_handlers());
        ran
    }

    /// Stops the handlers in the reverse order of their start; if one panicked, panics likewise once all have stopped.
    /// If this is dropped meanwhile, only the handler that is stopping is interrupted.
    async fn stop_handlers(&mut self) {
        let mut stopped = Ok(());
        while let Some(service) = self.started.pop() {
            let stopping = AssertUnwindSafe(async { service.stop().await });
            stopped = stopped.and(stopping.catch_unwind().await);
        }
        if let Err(panic) = stopped {
            resume_unwind(panic);
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.shutdown();
        if self.started.is_empty() {
            return;
        }
        let next = match self.aside {
            Aside::BlockingPool => Aside::Thread,
            Aside::Thread => Aside::Nowhere,
            Aside::Nowhere => {
                tracing::error!(
                    message_id = message_id::HANDLER_FAILED,
                    "could not start a thread to stop the request handlers"
                );
                return;
            }
        };
        let mut rest = Self {
            shared: Arc::clone(&self.shared),
            elsewhere: take(&mut self.elsewhere),
            started: take(&mut self.started),
            aside: next,
            _open: OpenGuard::new(&self.shared),
        };
        // If it is refused, or gets no runtime, it is dropped there and tries the next place.
        let finish = move || {
            if let Ok(runtime) = runtime() {
                // Nobody is left to learn how the workers ended.
                let _ = rest.finish(&runtime);
            }
        };
        match self.aside {
            Aside::BlockingPool => {
                if let Ok(runtime) = Handle::try_current() {
                    // tokio panics if it cannot start a thread.
                    let _ = catch_unwind(AssertUnwindSafe(|| runtime.spawn_blocking(finish)));
                }
            }
            _ => drop(thread::Builder::new().name("stop".into()).spawn(finish)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::admission::{Admission, Policy};
    use crate::handler::{Client, DatagramRequestHandler, HandlerError, Requests};
    use crate::protocol::BytesProtocol;
    use crate::running::Phase;

    /// A handler that counts how often it is stopped.
    struct Stopping(Arc<AtomicUsize>);

    impl DatagramRequestHandler for Stopping {
        type Request = Bytes;
        type Response = Bytes;

        async fn handle(&self, _: Client<Bytes>, _: Requests<Bytes>) -> Result<(), HandlerError> {
            Ok(())
        }

        async fn stop(&self) {
            tokio::task::yield_now().await;
            self.0.fetch_add(1, SeqCst);
        }
    }

    /// Drops the remaining work of a server; returns how often its handler was stopped.
    fn dropped(aside: Aside) -> (ServerHandle, Arc<AtomicUsize>) {
        let admission = Admission::new([], &Policy::open());
        let shared = Arc::new(Shared::new(Vec::new(), admission, 0, Duration::ZERO));
        let stopped = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&stopped);
        let service = Service::new(BytesProtocol::default(), Stopping(count));
        let (shared, open) = (Arc::clone(&shared), OpenGuard::new(&shared));
        let handle = ServerHandle::new(Arc::clone(&shared));
        drop(Ending { shared, elsewhere: VecDeque::new(), started: vec![service], aside, _open: open });
        (handle, stopped)
    }

    #[test]
    fn a_handler_is_stopped_once_wherever_that_is_possible() {
        for aside in [Aside::BlockingPool, Aside::Thread] {
            let outside = dropped(aside);
            let inside = runtime().unwrap().block_on(async { dropped(aside) });
            for (handle, stopped) in [outside, inside] {
                wait(handle.wait_for_phase(Phase::Stopped));
                assert_eq!(stopped.load(SeqCst), 1);
            }
        }
    }

    #[test]
    fn a_runtime_that_takes_no_more_work_leaves_it_to_a_thread() {
        let runtime = runtime().unwrap();
        let handle = runtime.handle().clone();
        drop(runtime);
        let _ended = handle.enter();
        let (handle, stopped) = dropped(Aside::BlockingPool);
        wait(handle.wait_for_phase(Phase::Stopped));
        assert_eq!(stopped.load(SeqCst), 1);
    }

    #[test]
    fn a_server_stops_without_its_handler_where_there_is_no_thread() {
        let (handle, stopped) = dropped(Aside::Nowhere);
        assert_eq!((handle.phase(), stopped.load(SeqCst)), (Phase::Stopped, 0));
    }
}
