//! Datagram in, datagrams out, without a socket or a runtime: what the server, its tests and fuzzers share.
//!
//! Admits each datagram, calls the handler and polls it in place, in a pinned slot that is used again. A handler that
//! is not ready is moved aside with its slot and driven when it is woken. Both kinds leave their replies in one queue.

use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream};
use tokio::sync::mpsc;

use crate::admission::{Admission, Gate};
use crate::failure_chain::FailureChain;
use crate::handler::{
    AdmitErrorReply, Client, DropLog, HandlerError, Inbox, LocalOutbox, Outbox, QueueLimits, Requests, WorkerContext,
};
use crate::message_id;
use crate::printable::Printable;
use crate::protocol::DatagramProtocol;
use crate::rate::RateLimiter;
use crate::socket::{BATCH_SIZE, Datagram, Destination, Outgoing, ReplyKind, SendOutcome};
use crate::stats::{Counters, DropReason, Stats};

/// Datagrams that a worker's queue holds before a send waits: a batch of requests with several replies each.
const OUTBOX_CAPACITY: usize = 4 * BATCH_SIZE;
/// Handlers of one worker that may wait at once; one beyond that is dropped where it begins to wait (`handler_busy`).
const MAX_WAITING_HANDLERS: usize = 1024;
/// What may wait for them: datagrams of one client, and bytes of all.
const QUEUE: QueueLimits = QueueLimits { datagrams: 16, bytes: 16 << 20 };

/// What an engine needs from the server around it.
pub(crate) struct EngineContext {
    pub(crate) admission: Arc<Admission>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) drops: Arc<DropLog>,
    pub(crate) closing: Arc<AtomicBool>,
    /// The address that the socket is bound to.
    pub(crate) bound: SocketAddr,
}

/// A worker less its socket: `M` makes the future `F` that handles a client's requests.
pub struct Engine<P, M, F> {
    outbox: LocalOutbox,
    core: Core<P, M, F>,
}

/// All but the queue, which handlers fill while the core polls them.
struct Core<P, M, F> {
    context: Arc<WorkerContext<P>>,
    gate: Gate,
    make: M,
    elsewhere: mpsc::Receiver<Outgoing>,
    /// Where a handler is polled first; empty between datagrams.
    slot: Pin<Box<Option<F>>>,
    /// The inbox of that handler, kept only when it waits.
    inbox: Arc<Inbox<P>>,
    active: HashMap<Key, Arc<Inbox<P>>>,
    waiting: FuturesUnordered<Waiting<F>>,
    turn: Stats,
    reports: RateLimiter,
}

type Key = (SocketAddr, Option<Destination>);
type Outcome = Result<Result<(), HandlerError>, Box<dyn Any + Send>>;

impl<P, M, F> Engine<P, M, F>
where
    P: DatagramProtocol,
    M: Fn(Client<P>, Requests<P>) -> F,
    F: Future<Output = Result<(), HandlerError>>,
{
    /// An engine on its own, as if its socket were bound to `bound`.
    pub fn new(protocol: P, admission: Arc<Admission>, bound: SocketAddr, make: M) -> Self {
        let around = EngineContext {
            admission,
            counters: Arc::default(),
            drops: Arc::default(),
            closing: Arc::default(),
            bound,
        };
        Self::with_context(around, protocol.into(), make)
    }

    pub(crate) fn with_context(around: EngineContext, protocol: Arc<P>, make: M) -> Self {
        let (shared, outbox, elsewhere) = Outbox::new(OUTBOX_CAPACITY);
        let context = Arc::new(WorkerContext {
            protocol,
            outbox: shared,
            counters: around.counters,
            drops: around.drops,
            admit_error_reply: admit_error_reply(&around.admission),
            closing: around.closing,
            bound: around.bound,
            queued_bytes: 0.into(),
        });
        let core = Core {
            inbox: Arc::new(Inbox::new(Arc::clone(&context))),
            context,
            gate: Gate::new(around.admission),
            make,
            elsewhere,
            slot: Box::pin(None),
            active: HashMap::new(),
            waiting: FuturesUnordered::new(),
            turn: Stats::default(),
            reports: RateLimiter::every(Duration::from_secs(1)),
        };
        Self { outbox, core }
    }

    /// Takes received datagrams in; their handlers' replies are then in [`outgoing`](Self::outgoing).
    pub fn receive(&mut self, datagrams: impl IntoIterator<Item = Datagram>, now: Instant) {
        let Self { outbox, core } = self;
        core.gate.begin_batch(now);
        outbox.lend(|| datagrams.into_iter().for_each(|datagram| core.receive(datagram, now)));
    }

    /// Drives the handlers that wait and collects what was sent from elsewhere; ready when there was any progress.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Self { outbox, core } = self;
        let mut progress = Poll::Pending;
        // All of it before any handler is polled, or a handler's replies could overtake each other.
        loop {
            while !outbox.is_full()
                && let Ok(outgoing) = core.elsewhere.try_recv()
            {
                outbox.queue.push(outgoing);
            }
            if outbox.is_full() {
                break;
            }
            let Poll::Ready(Some(outgoing)) = core.elsewhere.poll_recv(context) else { break };
            outbox.queue.push(outgoing);
        }
        if !core.waiting.is_empty() && outbox.lend(|| core.poll_waiting(context)) {
            progress = Poll::Ready(());
        }
        // Also when all of it is dropped now: more may wait elsewhere, of which nobody is told until the next poll.
        if !outbox.queue.is_empty() {
            progress = Poll::Ready(());
        }
        progress
    }

    /// What is to be sent; take it out, and tell [`sent`](Self::sent) what became of it.
    pub fn outgoing(&mut self) -> &mut Vec<Outgoing> {
        &mut self.outbox.queue
    }

    /// The queue, and the counting of what becomes of it.
    pub(crate) fn sending(&mut self) -> (&mut Vec<Outgoing>, impl FnMut(SendOutcome<'_>)) {
        let core = &mut self.core;
        (&mut self.outbox.queue, |sent| core.count_sent(&sent))
    }

    /// The same with all that was sent from elsewhere, however much it is.
    pub(crate) fn all_sending(&mut self) -> (&mut Vec<Outgoing>, impl FnMut(SendOutcome<'_>)) {
        while let Ok(outgoing) = self.core.elsewhere.try_recv() {
            self.outbox.queue.push(outgoing);
        }
        self.sending()
    }

    /// Counts what became of a datagram that was to be sent.
    pub fn sent(&mut self, sent: &SendOutcome<'_>) {
        self.core.count_sent(sent);
    }

    pub(crate) fn count_receive_error(&mut self) {
        self.core.turn.receive_errors += 1;
    }

    /// Makes what was counted since the last call visible in [`stats`](Self::stats).
    pub fn publish(&mut self) {
        self.core.context.counters.publish(&mut self.core.turn);
    }

    /// The counters as of the last [`settle`](Self::settle).
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.core.context.counters.snapshot()
    }

    /// How many handlers wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.core.waiting.len()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.core.context.closing.load(Relaxed)
    }

    /// How many datagrams are queued for them.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.core.active.values().map(|inbox| inbox.len()).sum()
    }

    /// Lets waiting handlers see that there will be no more requests; they are still driven by [`poll`](Self::poll).
    pub fn close(&mut self) {
        self.core.context.closing.store(true, Relaxed);
        self.core.active.values().for_each(|inbox| inbox.close());
    }

    /// Drops the handlers that still wait, and counts the requests that none of them took.
    pub fn drop_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.core.waiting) {
            drop(catch_unwind(AssertUnwindSafe(|| drop(waiting))));
        }
        for (key, inbox) in std::mem::take(&mut self.core.active) {
            while inbox.pop().is_some() {
                self.core.drop_datagram(DropReason::HandlerBusy, key);
            }
        }
    }
}

/// The judge of error replies, apart from the engine's own gate: handlers ask it while they are polled.
fn admit_error_reply(admission: &Arc<Admission>) -> Box<AdmitErrorReply> {
    let gate = Mutex::new(Gate::new(Arc::clone(admission)));
    Box::new(move |peer, asked, now| {
        let mut gate = gate.lock().unwrap_or_else(PoisonError::into_inner);
        gate.begin_batch(now);
        gate.admit_error_reply(peer, asked)
    })
}

impl<P, M, F> Core<P, M, F>
where
    P: DatagramProtocol,
    M: Fn(Client<P>, Requests<P>) -> F,
    F: Future<Output = Result<(), HandlerError>>,
{
    fn receive(&mut self, datagram: Datagram, now: Instant) {
        self.turn.received += 1;
        self.turn.received_bytes += datagram.payload.len() as u64;
        let key = (datagram.peer, datagram.destination);
        if let Err(reason) = self.gate.admit(&datagram) {
            self.drop_datagram(reason, key);
            return;
        }
        if !self.active.is_empty()
            && let Some(inbox) = self.active.get(&key)
        {
            if !inbox.push(&datagram.payload, QUEUE) {
                self.drop_datagram(DropReason::HandlerBusy, key);
            }
            return;
        }
        self.call(key, datagram.payload, now);
    }

    fn count_sent(&mut self, sent: &SendOutcome<'_>) {
        match sent {
            SendOutcome::Sent(outgoing) => {
                self.turn.sent_bytes += outgoing.payload.len() as u64;
                match outgoing.kind {
                    ReplyKind::Packet => self.turn.echoed += 1,
                    ReplyKind::ErrorReply => self.turn.error_replies += 1,
                }
            }
            SendOutcome::Refused(outgoing, error) => {
                // The second is said of a large datagram of which some fragments found room.
                let no_room = error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS);
                let reason = if no_room { DropReason::SendBuffer } else { DropReason::Send };
                self.drop_datagram(reason, (outgoing.peer, outgoing.asked));
            }
        }
    }

    /// Counts and records a datagram that gets no reply.
    fn drop_datagram(&mut self, reason: DropReason, (peer, asked): Key) {
        self.turn.dropped.count(reason, 1);
        self.context.drops.record(reason, peer, self.context.local(asked));
    }

    /// Calls the handler and polls it in place; keeps it when it waits. Says whether it was kept.
    fn call(&mut self, key: Key, payload: Bytes, now: Instant) -> bool {
        let client = Client::new(Arc::clone(&self.context), key.0, key.1, now);
        let requests = Requests::new(payload, Arc::clone(&self.inbox));
        let (make, slot) = (&self.make, &mut self.slot);
        let polled = catch_unwind(AssertUnwindSafe(|| {
            slot.as_mut().set(Some(make(client, requests)));
            // Whoever waits is polled again, with a real waker, when it has been moved aside.
            poll_and_clear(slot.as_mut(), &mut Context::from_waker(Waker::noop()))
        }));
        let outcome = match polled {
            Ok(Poll::Ready(result)) => Ok(result),
            Err(panic) => {
                // What it left behind, so that the next call finds the slot empty.
                drop(catch_unwind(AssertUnwindSafe(|| self.slot.as_mut().set(None))));
                Err(panic)
            }
            Ok(Poll::Pending) => return self.keep(key),
        };
        self.turn.handled += 1;
        self.finish(key, outcome);
        // Somebody kept the requests: they get nothing more, and the next call an inbox of its own.
        if Arc::get_mut(&mut self.inbox).is_none() {
            self.renew_inbox().close();
        }
        false
    }

    /// Moves the handler in the slot aside, unless too many wait already.
    fn keep(&mut self, key: Key) -> bool {
        let future = std::mem::replace(&mut self.slot, Box::pin(None));
        let inbox = self.renew_inbox();
        if self.waiting.len() >= MAX_WAITING_HANDLERS {
            self.drop_datagram(DropReason::HandlerBusy, key);
            inbox.close();
            drop(catch_unwind(AssertUnwindSafe(|| drop(future))));
            return false;
        }
        self.turn.handled += 1;
        self.active.insert(key, inbox);
        self.waiting.push(Waiting { key, future });
        true
    }

    fn renew_inbox(&mut self) -> Arc<Inbox<P>> {
        std::mem::replace(&mut self.inbox, Arc::new(Inbox::new(Arc::clone(&self.context))))
    }

    /// Polls the handlers that were woken; says whether one ended.
    fn poll_waiting(&mut self, context: &mut Context<'_>) -> bool {
        let mut ended = false;
        while let Poll::Ready(Some((key, outcome))) = Pin::new(&mut self.waiting).poll_next(context) {
            ended = true;
            self.finish(key, outcome);
            self.call_queued(key);
        }
        ended
    }

    /// Handles what a client sent while its handler was busy.
    fn call_queued(&mut self, key: Key) {
        loop {
            let Entry::Occupied(entry) = self.active.entry(key) else { return };
            let Some(payload) = entry.get().pop() else {
                entry.remove().close();
                return;
            };
            let queue = entry.remove();
            queue.move_to(&self.inbox);
            let next = Arc::clone(&self.inbox);
            if self.call(key, payload, Instant::now()) {
                return;
            }
            // The call ended in place: what it left in its inbox is still to be handled.
            let rest = Arc::new(Inbox::new(Arc::clone(&self.context)));
            next.move_to(&rest);
            self.active.insert(key, rest);
        }
    }

    fn finish(&mut self, key: Key, outcome: Outcome) {
        let failure = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(error)) => FailureChain(&*error).to_string(),
            Err(panic) => format!("panic: {}", panic_message(&*panic)),
        };
        self.drop_datagram(DropReason::HandlerFailed, key);
        if self.reports.allow(Instant::now()) {
            let (peer, failure) = (key.0, Printable::raw(failure.as_bytes()).limit(512));
            tracing::warn!(
                message_id = message_id::HANDLER_FAILED,
                peer_address = %peer.ip(),
                peer_port = peer.port(),
                "the request handler failed for {}: {failure}",
                peer.ip(),
            );
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("of an unknown kind")
}

/// Polls the future in a slot, and drops it there once it is ready.
fn poll_and_clear<F: Future>(mut slot: Pin<&mut Option<F>>, context: &mut Context<'_>) -> Poll<F::Output> {
    let Some(future) = slot.as_mut().as_pin_mut() else { return Poll::Pending };
    let polled = future.poll(context);
    if polled.is_ready() {
        slot.set(None);
    }
    polled
}

/// A handler that was not ready at once.
struct Waiting<F> {
    key: Key,
    future: Pin<Box<Option<F>>>,
}

impl<F: Future<Output = Result<(), HandlerError>>> Future for Waiting<F> {
    type Output = (Key, Outcome);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let future = &mut self.future;
        match catch_unwind(AssertUnwindSafe(|| poll_and_clear(future.as_mut(), context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(result)) => Poll::Ready((self.key, Ok(result))),
            Err(panic) => Poll::Ready((self.key, Err(panic))),
        }
    }
}
