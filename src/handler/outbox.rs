//! The path of a reply from a handler to its worker.
//!
//! While a worker polls handlers, its queue is in a thread-local, where a send is a push: no lock, no allocation. A
//! send from elsewhere, or while that queue is full, goes through a bounded channel and waits while that is full too.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::mpsc;

use crate::socket::Outgoing;

/// A datagram that a handler sends, and the counter for it.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The datagram.
    pub outgoing: Outgoing,
    /// The counter for it.
    pub kind: ReplyKind,
}

/// The kind of a reply, by which it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// A packet.
    Packet,
    /// A reply to an invalid packet.
    Error,
}

impl AsRef<Outgoing> for Reply {
    fn as_ref(&self) -> &Outgoing {
        &self.outgoing
    }
}

thread_local! {
    /// The queue of the worker that is polling handlers on this thread.
    static CURRENT: RefCell<Option<LocalOutbox>> = const { RefCell::new(None) };
}

/// A worker's queue of datagrams to send.
#[derive(Debug)]
pub(crate) struct LocalOutbox {
    id: u64,
    capacity: usize,
    pub(crate) queue: Vec<Reply>,
}

impl LocalOutbox {
    pub(crate) fn is_full(&self) -> bool {
        self.queue.len() >= self.capacity
    }

    /// Lets handlers push into this queue while `poll` runs.
    pub(crate) fn lend<T>(&mut self, poll: impl FnOnce() -> T) -> T {
        /// Takes the queue back even if `poll` panics.
        struct Loan<'a> {
            owner: &'a mut LocalOutbox,
            outer: Option<LocalOutbox>,
        }
        impl Drop for Loan<'_> {
            fn drop(&mut self) {
                if let Some(lent) = CURRENT.replace(self.outer.take()) {
                    *self.owner = lent;
                }
            }
        }
        let empty = Self { id: self.id, capacity: self.capacity, queue: Vec::new() };
        let lent = std::mem::replace(self, empty);
        let outer = CURRENT.replace(Some(lent));
        let _loan = Loan { owner: self, outer };
        poll()
    }
}

/// The outbox in which handlers leave what is to be sent; shared by the clients of one worker.
#[derive(Debug)]
pub(crate) struct Outbox {
    id: u64,
    channel: mpsc::Sender<Reply>,
}

impl Outbox {
    /// Creates an outbox for `capacity` datagrams, the worker's queue, and the receiving end of the channel.
    pub(crate) fn new(capacity: usize) -> (Self, LocalOutbox, mpsc::Receiver<Reply>) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Relaxed);
        let (channel, receiver) = mpsc::channel(capacity);
        (Self { id, channel }, LocalOutbox { id, capacity, queue: Vec::with_capacity(capacity) }, receiver)
    }

    /// Passes the datagram to the worker; returns false if the worker is gone.
    pub(crate) async fn send(&self, reply: Reply) -> bool {
        match self.push(reply) {
            Ok(()) => true,
            Err(reply) => self.channel.send(reply).await.is_ok(),
        }
    }

    /// Returns whether the channel is empty: what is in it must not be overtaken.
    fn channel_is_empty(&self) -> bool {
        self.channel.capacity() == self.channel.max_capacity()
    }

    fn push(&self, reply: Reply) -> Result<(), Reply> {
        CURRENT.with_borrow_mut(|current| match current {
            Some(local) if local.id == self.id && !local.is_full() && self.channel_is_empty() => {
                local.queue.push(reply);
                Ok(())
            }
            _ => Err(reply),
        })
    }
}
