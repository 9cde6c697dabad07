//! The packets of one client, in order, for one call of a handler.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::context::{BuildPacket, WorkerContext};
use crate::protocol::DatagramProtocolParseError;

/// The packets of type `R` that one client sends while its handler runs.
///
/// Packets are parsed where they are awaited, so that a parse error arrives there.
pub struct Requests<R> {
    first: Option<Bytes>,
    inbox: Arc<Inbox<R>>,
}

impl<R> std::fmt::Debug for Requests<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requests").field("first", &self.first).finish_non_exhaustive()
    }
}

impl<R> Requests<R> {
    pub(crate) fn new(first: Bytes, inbox: Arc<Inbox<R>>) -> Self {
        Self { first: Some(first), inbox }
    }

    /// The datagram that began this call, as it was received, until it is taken.
    #[must_use]
    pub fn datagram(&self) -> Option<&Bytes> {
        self.first.as_ref()
    }

    /// Waits for the next packet of this client, or the error of an invalid one; `None` once the server is closing.
    ///
    /// Cancel-safe: a packet leaves the queue only when it is returned.
    pub async fn next(&mut self) -> Option<Result<R, DatagramProtocolParseError>> {
        let datagram = match self.first.take() {
            Some(datagram) => datagram,
            None => self.inbox.next().await?,
        };
        Some(self.build(datagram))
    }

    /// Waits for the next packet like [`next`](Self::next); `None` if none arrives within this time.
    ///
    /// # Panics
    /// On a runtime whose timer is not enabled.
    pub async fn next_within(&mut self, time: Duration) -> Option<Result<R, DatagramProtocolParseError>> {
        match self.first.take() {
            Some(datagram) => Some(self.build(datagram)),
            None => tokio::time::timeout(time, self.next()).await.ok().flatten(),
        }
    }

    fn build(&self, datagram: Bytes) -> Result<R, DatagramProtocolParseError> {
        self.inbox.context.protocol.build_packet(datagram)
    }
}

/// The queue of a client whose handler waits.
pub(crate) struct Inbox<R> {
    context: Arc<WorkerContext<dyn BuildPacket<R>>>,
    state: Mutex<State>,
}

/// Limits on what may be queued for handlers that wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    /// Datagrams of one client.
    pub(crate) datagrams: usize,
    /// Bytes of all clients of one worker.
    pub(crate) bytes: usize,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Bytes>,
    closed: bool,
    waker: Option<Waker>,
}

impl<R> Inbox<R> {
    pub(crate) fn new(context: Arc<WorkerContext<dyn BuildPacket<R>>>) -> Self {
        Self { context, state: Mutex::default() }
    }

    /// Queues a copy of a datagram for the handler; returns false if that would exceed a limit.
    pub(crate) fn push(&self, datagram: &[u8], limits: QueueLimits) -> bool {
        let mut state = self.state();
        let bytes = self.context.queued_bytes.load(Relaxed) + datagram.len();
        if state.queue.len() >= limits.datagrams || bytes > limits.bytes {
            return false;
        }
        self.context.queued_bytes.fetch_add(datagram.len(), Relaxed);
        state.queue.push_back(Bytes::copy_from_slice(datagram));
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        true
    }

    /// Takes the oldest datagram that no handler has taken.
    pub(crate) fn pop(&self) -> Option<Bytes> {
        let datagram = self.state().queue.pop_front()?;
        self.context.queued_bytes.fetch_sub(datagram.len(), Relaxed);
        Some(datagram)
    }

    pub(crate) fn len(&self) -> usize {
        self.state().queue.len()
    }

    /// Ends the handler's wait: it gets what is queued, then `None`.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Closes the queue and moves what it holds to another.
    pub(crate) fn move_to(&self, other: &Self) {
        self.close();
        other.state().queue = std::mem::take(&mut self.state().queue);
    }

    async fn next(&self) -> Option<Bytes> {
        poll_fn(|context| {
            let mut state = self.state();
            match state.queue.pop_front() {
                Some(datagram) => {
                    self.context.queued_bytes.fetch_sub(datagram.len(), Relaxed);
                    self.context.counters.count_handled();
                    Poll::Ready(Some(datagram))
                }
                None if state.closed || self.context.closing.has_begun() => Poll::Ready(None),
                None => {
                    state.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
