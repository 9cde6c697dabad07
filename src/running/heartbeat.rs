//! The heartbeat of one loop: a sign that it runs, and ways to wake it from outside.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use tokio::runtime::Handle;

/// A sign that a socket's loop runs: requested from outside, given by the loop once it was able to ask the socket for
/// datagrams.
///
/// A wake-up is a `write(2)` to the eventfd of the loop's runtime, and tokio panics if that fails. The waker does not
/// write a second time, since it considers the loop woken; a new task on the runtime does.
#[derive(Default)]
pub(crate) struct Heartbeat {
    requested: AtomicBool,
    beats: AtomicU64,
    waker: AtomicWaker,
    /// The runtime of the loop, while it runs.
    runtime: Mutex<Option<Handle>>,
}

/// A guard that exists while a loop runs.
pub(crate) struct OnRuntime<'a>(&'a Heartbeat);

impl Heartbeat {
    /// Notes the runtime of the loop, until the guard is dropped.
    pub(crate) fn on_runtime(&self) -> OnRuntime<'_> {
        *self.runtime() = Handle::try_current().ok();
        OnRuntime(self)
    }

    pub(crate) fn request(&self) {
        self.requested.store(true, Ordering::Release);
        if !self.wake_loop() {
            self.wake_runtime();
        }
    }

    /// Wakes the loop in both ways.
    pub(crate) fn wake(&self) {
        self.wake_loop();
        self.wake_runtime();
    }

    /// The number of beats so far.
    pub(crate) fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Returns whether a beat is requested; if not, this waker is woken when one is.
    pub(crate) fn poll_requested(&self, waker: &Waker) -> bool {
        self.waker.register(waker);
        self.requested.load(Ordering::Acquire)
    }

    /// Counts a beat if one is requested: the loop was able to ask its socket.
    pub(crate) fn beat(&self) {
        if self.requested.load(Ordering::Relaxed) && self.requested.swap(false, Ordering::AcqRel) {
            self.beats.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Wakes the loop if it is idle; returns whether that succeeded.
    fn wake_loop(&self) -> bool {
        self.waker.take().is_some_and(|waker| catch_unwind(AssertUnwindSafe(|| waker.wake())).is_ok())
    }

    fn wake_runtime(&self) {
        if let Some(runtime) = &*self.runtime() {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(runtime.spawn(async {}))));
        }
    }

    fn runtime(&self) -> MutexGuard<'_, Option<Handle>> {
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OnRuntime<'_> {
    fn drop(&mut self) {
        // A handle keeps the descriptors of its runtime open.
        self.0.runtime().take();
    }
}
