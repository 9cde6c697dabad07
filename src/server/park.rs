//! Waits for a future on a thread that runs no runtime, or that must not block the runtime it belongs to.
//!
//! For channels and the like: a future that needs a timer or a socket needs a runtime.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::task::unconstrained;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn this_thread() -> Waker {
    Arc::new(Unpark(thread::current())).into()
}

/// Waits for a future.
pub(super) fn wait<T>(future: impl Future<Output = T>) -> T {
    let waker = this_thread();
    // In a task that has used up its budget, the future would never be ready.
    let mut future = pin!(unconstrained(future));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Waits for a future, but no longer than until the deadline.
pub(super) fn wait_until<T>(deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
    let waker = this_thread();
    let mut future = pin!(unconstrained(future));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        match deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => return None,
            remaining => thread::park_timeout(remaining),
        }
    }
}
