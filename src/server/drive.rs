//! Serves on a thread without a runtime: makes one, and makes another should it fail.
//!
//! tokio panics when it cannot wait for events (an `epoll_wait(2)` that fails, say). The sockets and counters outlive that:
//! only what waited in handlers is lost.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::{ServeError, Served, Split, StopOnDrop, UdpServer};
use crate::handler::DatagramRequestHandler;
use crate::message;
use crate::protocol::DatagramProtocol;

/// The pause before a runtime is made anew: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// A runtime for one thread.
pub(super) fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

impl<P, H> UdpServer<P, H>
where
    P: DatagramProtocol + Send + Sync + 'static,
    H: DatagramRequestHandler<P> + Send + Sync + 'static,
{
    /// Serves on this thread until the server is asked to stop.
    pub(super) fn serve_blocking(mut self) -> Result<(), ServeError> {
        // What the handler starts lives on the runtime of the first worker, as long as that does.
        let mut runtime = runtime().map_err(ServeError::StartWorker)?;
        runtime.block_on(self.handler.start()).map_err(ServeError::StartHandler)?;
        let _stop = StopOnDrop(self.handle());
        let Split { here, elsewhere, started } = self.split();
        let mut ran = started.and_then(|()| self.drive_on(&mut runtime, &here));
        self.shared.shutdown();
        for ended in elsewhere {
            ran = ran.and(ended.blocking_recv().unwrap_or(Err(ServeError::WorkerPanicked)));
        }
        runtime.block_on(self.handler.stop());
        ran
    }

    /// Runs a worker; only what fails before it ever served is an error.
    pub(super) fn drive(&self, sockets: &[Served]) -> Result<(), ServeError> {
        self.drive_on(&mut runtime().map_err(ServeError::StartWorker)?, sockets)
    }

    /// Runs a worker on a runtime, which is replaced when it fails.
    fn drive_on(&self, current: &mut Runtime, sockets: &[Served]) -> Result<(), ServeError> {
        let [mut pause, longest] = PAUSES;
        loop {
            let failure = match self.drive_once(current, sockets) {
                Ok(()) => return Ok(()),
                Err(failure) if sockets.iter().any(|served| !served.begun.load(Relaxed)) => return Err(failure),
                Err(failure) => failure,
            };
            if self.shared.closing.load(Relaxed) {
                return Ok(());
            }
            tracing::error!(
                message_id = message::WORKER_RESTARTED,
                "a worker could not go on ({failure}), starting it anew"
            );
            thread::sleep(pause);
            pause = longest.min(2 * pause);
            if let Ok(fresh) = runtime() {
                // A runtime that has failed may fail to end, too.
                let failed = std::mem::replace(current, fresh);
                drop(catch_unwind(AssertUnwindSafe(|| drop(failed))));
            }
        }
    }

    fn drive_once(&self, runtime: &Runtime, sockets: &[Served]) -> Result<(), ServeError> {
        let ran = catch_unwind(AssertUnwindSafe(|| runtime.block_on(self.run_worker(sockets))));
        ran.unwrap_or(Err(ServeError::WorkerPanicked))
    }
}
