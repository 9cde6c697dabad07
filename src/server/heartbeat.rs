//! The heartbeat of one loop: proof from it that it turns, and ways to wake it from outside.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use tokio::runtime::Handle;

/// Proof that a socket's loop turns: asked for from outside, given by the loop once it could ask the socket for
/// datagrams.
///
/// A wake-up is a `write(2)` to the eventfd of the loop's runtime, and tokio panics where that fails. The waker does
/// not write a second time, for it takes the loop for woken; a new task on the runtime does.
#[derive(Default)]
pub(super) struct Heartbeat {
    asked: AtomicBool,
    proofs: AtomicU64,
    waker: AtomicWaker,
    /// The runtime that the loop is on, while it runs.
    runtime: Mutex<Option<Handle>>,
}

/// Held while a loop runs.
pub(super) struct OnRuntime<'a>(&'a Heartbeat);

impl Heartbeat {
    /// Notes the runtime that the loop is on, until the guard is dropped.
    pub(super) fn on_runtime(&self) -> OnRuntime<'_> {
        *self.runtime() = Handle::try_current().ok();
        OnRuntime(self)
    }

    pub(super) fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        if !self.wake_loop() {
            self.wake_runtime();
        }
    }

    /// Wakes the loop in both ways.
    pub(super) fn wake(&self) {
        self.wake_loop();
        self.wake_runtime();
    }

    /// The number of proofs so far.
    pub(super) fn heartbeats(&self) -> u64 {
        self.proofs.load(Ordering::Relaxed)
    }

    /// Returns whether the loop is asked; it is woken with this when it will be.
    pub(super) fn poll_requested(&self, waker: &Waker) -> bool {
        self.waker.register(waker);
        self.asked.load(Ordering::Acquire)
    }

    /// The loop could ask its socket.
    pub(super) fn beat(&self) {
        if self.asked.load(Ordering::Relaxed) && self.asked.swap(false, Ordering::AcqRel) {
            self.proofs.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Wakes the loop if it is idle; returns whether that went well.
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
