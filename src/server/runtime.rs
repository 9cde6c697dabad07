//! Runs a worker on a thread without a runtime: makes a runtime, and another one if it fails.
//!
//! tokio panics if it cannot wait for events (an `epoll_wait(2)` that fails, say). The sockets and counters survive
//! that: only requests in handlers that wait, and replies that were not sent yet, are dropped, and counted.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::ServeError;
use super::workers::{ServedSocket, Thread, run_worker};
use crate::message_id;
use crate::running::Shared;

/// The pause before a new runtime is made: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// Creates a runtime for one thread.
pub(super) fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Runs a worker on a runtime, which is replaced if it fails; only a failure before it ever served is an error.
pub(super) fn run_restarting(
    current: &mut Runtime,
    shared: &Shared,
    sockets: &[ServedSocket],
) -> Result<(), ServeError> {
    let [mut pause, longest] = PAUSES;
    loop {
        let failure = match run_once(current, shared, sockets) {
            Ok(()) => return Ok(()),
            Err(failure) if sockets.iter().any(|served| !served.started.load(Relaxed)) => return Err(failure),
            Err(failure) => failure,
        };
        if shared.is_closing() {
            return Ok(());
        }
        tracing::error!(message_id = message_id::WORKER_RESTARTED, "a worker failed ({failure}), restarting it");
        thread::sleep(pause);
        pause = longest.min(2 * pause);
        if let Ok(fresh) = runtime() {
            // A runtime that has failed may also fail when it is dropped.
            let failed = std::mem::replace(current, fresh);
            drop(catch_unwind(AssertUnwindSafe(|| drop(failed))));
        }
    }
}

fn run_once(runtime: &Runtime, shared: &Shared, sockets: &[ServedSocket]) -> Result<(), ServeError> {
    let ran = catch_unwind(AssertUnwindSafe(|| runtime.block_on(run_worker(shared, sockets, Thread::Own))));
    ran.unwrap_or(Err(ServeError::WorkerPanicked))
}
