//! The life of a server around its first worker: the handler's `start`, the other workers, the handler's `stop`.
//!
//! Once `start` has started, `stop` runs, whichever way the server ends, and after all workers. Where the server was
//! dropped, nobody awaits that: it runs aside.

use std::collections::VecDeque;
use std::future::Future;
use std::mem::take;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::thread;

use futures_util::future::{Either, select};
use tokio::runtime::{Handle, Runtime};

use super::handle::{OpenGuard, Shared};
use super::park::wait;
use super::runtime::runtime;
use super::workers::{ServedSocket, Service, WorkerEnd};
use super::{ServeError, UdpServer};
use crate::handler::DatagramRequestHandler;
use crate::message_id;
use crate::protocol::DatagramProtocol;

/// A server that is being served.
pub(super) struct Lifecycle<P, H> {
    pub(super) service: Service<P, H>,
    /// The sockets of the first worker.
    pub(super) here: Vec<ServedSocket>,
    /// Those of the workers that are not started yet.
    others: Vec<Vec<ServedSocket>>,
    /// Dropped last: sockets are closed before the handler stops.
    ending: Ending,
}

impl<P, H> Lifecycle<P, H>
where
    P: DatagramProtocol + Send + Sync + 'static,
    H: DatagramRequestHandler<P> + Send + Sync + 'static,
{
    pub(super) fn new(server: UdpServer<P, H>) -> Self {
        let UdpServer { workers, service, open } = server;
        let shared = Arc::clone(&service.shared);
        let mut workers = workers.into_iter();
        Self {
            service,
            here: workers.next().unwrap_or_default(),
            others: workers.collect(),
            ending: Ending { shared, elsewhere: VecDeque::new(), stop: None, aside: Aside::BlockingPool, _open: open },
        }
    }

    /// Runs the handler's `start`, then starts all workers but the first. Ends early when the server closes.
    pub(super) async fn begin(&mut self) -> Result<(), ServeError> {
        if self.service.shared.is_closing() {
            return Ok(());
        }
        let handler = Arc::clone(&self.service.handler);
        self.ending.stop = Some(Box::new(|| Box::pin(async move { handler.stop().await })));
        let closing = pin!(self.service.shared.closing());
        let start = pin!(self.service.handler.start());
        if let Either::Right((started, _)) = select(closing, start).await {
            started.map_err(ServeError::StartHandler)?;
            for (number, sockets) in self.others.drain(..).enumerate() {
                self.ending.elsewhere.push_back(self.service.spawn_worker(number + 2, sockets)?);
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
        if self.ending.stop.take().is_some() {
            self.service.handler.stop().await;
        }
        ran
    }

    /// The same on a thread with a runtime.
    pub(super) fn end_blocking(mut self, runtime: &Runtime, ran: Result<(), ServeError>) -> Result<(), ServeError> {
        self.close();
        ran.and(self.ending.finish(runtime))
    }

    /// Asks the other workers to end, and closes the sockets here.
    fn close(&mut self) {
        self.service.shared.shutdown();
        self.here.clear();
        self.others.clear();
    }
}

/// Makes the future of the handler's `stop`.
type Stop = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync>;

/// The work that is left after the first worker: to wait for the others, then to stop the handler. Dropped before that
/// is done, it is done aside.
struct Ending {
    shared: Arc<Shared>,
    elsewhere: VecDeque<WorkerEnd>,
    /// Due once the handler's `start` has started.
    stop: Option<Stop>,
    /// Where it runs when it is dropped.
    aside: Aside,
    _open: OpenGuard,
}

/// Places to run what nobody awaits, in the order in which they are tried.
#[derive(Clone, Copy)]
enum Aside {
    /// A runtime that is dropped waits for it, so that the end of `main` does not cut it short.
    BlockingPool,
    /// Where there is no runtime, or one that is ending.
    Thread,
    /// There can be no more threads.
    Nowhere,
}

impl Ending {
    /// Waits for the other workers and stops the handler.
    fn finish(&mut self, runtime: &Runtime) -> Result<(), ServeError> {
        self.shared.shutdown();
        let mut ran = Ok(());
        while let Some(worker) = self.elsewhere.pop_front() {
            // Not on the runtime: its wake-ups can fail, a thread's cannot.
            ran = ran.and(wait(worker).unwrap_or(Err(ServeError::WorkerPanicked)));
        }
        if let Some(stop) = self.stop.take() {
            runtime.block_on(stop());
        }
        ran
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.shutdown();
        let Some(stop) = self.stop.take() else { return };
        let next = match self.aside {
            Aside::BlockingPool => Aside::Thread,
            Aside::Thread => Aside::Nowhere,
            Aside::Nowhere => {
                tracing::error!(message_id = message_id::HANDLER_FAILED, "no thread to stop the request handler on");
                return;
            }
        };
        let mut rest = Self {
            shared: Arc::clone(&self.shared),
            elsewhere: take(&mut self.elsewhere),
            stop: Some(stop),
            aside: next,
            _open: OpenGuard::new(&self.shared),
        };
        // Dropped where it is refused or can have no runtime, it tries the next place.
        let finish = move || {
            if let Ok(runtime) = runtime() {
                // How the workers ended is of no use to anybody now.
                let _ = rest.finish(&runtime);
            }
        };
        match self.aside {
            Aside::BlockingPool => {
                if let Ok(runtime) = Handle::try_current() {
                    // It panics where it can have no thread.
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

    use super::*;
    use crate::admission::{Admission, Policy};
    use crate::server::{Phase, ServerHandle};

    /// Drops what is left of a server; returns how often its handler was stopped.
    fn dropped(aside: Aside) -> (ServerHandle, Arc<AtomicUsize>) {
        let admission = Admission::new([], &Policy::open());
        let shared = Arc::new(Shared::new(Vec::new(), admission, 0, Duration::ZERO));
        let stopped = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&stopped);
        let stop: Stop = Box::new(|| {
            Box::pin(async move {
                tokio::task::yield_now().await;
                count.fetch_add(1, SeqCst);
            })
        });
        let (shared, open) = (Arc::clone(&shared), OpenGuard::new(&shared));
        let handle = ServerHandle::new(Arc::clone(&shared));
        drop(Ending { shared, elsewhere: VecDeque::new(), stop: Some(stop), aside, _open: open });
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
