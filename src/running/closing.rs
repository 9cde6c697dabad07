//! The sign that a server is closing: a flag to check, and a future to wait for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Set once, when a server begins to close.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    begun: AtomicBool,
    notify: Notify,
}

impl Closing {
    /// Sets the sign, and wakes everyone who waits for it.
    pub(crate) fn begin(&self) {
        if !self.begun.swap(true, Ordering::SeqCst) {
            // It is set even if the waker of somebody who waits for it panics.
            let _ = catch_unwind(AssertUnwindSafe(|| self.notify.notify_waiters()));
        }
    }

    /// Returns whether it is set.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    /// Waits until it is set.
    pub(crate) async fn wait(self: Arc<Self>) {
        // Registered before the check, so that a sign set between the check and the wait is not missed.
        let notified = self.notify.notified();
        if !self.has_begun() {
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn those_that_wait_and_those_that_come_later_see_it() {
        let closing = Arc::<Closing>::default();
        let context = &mut Context::from_waker(Waker::noop());
        let mut early = pin!(Arc::clone(&closing).wait());
        assert!(early.as_mut().poll(context).is_pending() && !closing.has_begun());
        closing.begin();
        let mut late = pin!(Arc::clone(&closing).wait());
        assert!(early.poll(context).is_ready() && late.as_mut().poll(context).is_ready() && closing.has_begun());
    }
}
