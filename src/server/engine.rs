//! Datagram in, datagrams out, without a socket or a runtime: shared by the server, its tests and its fuzzers.
//!
//! Admits each datagram, calls the handler and polls it in place, in a pinned slot that is reused. A handler that is
//! not ready is moved aside with its slot and polled when it is woken. Both kinds leave their replies in one queue.

use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{Ordering::Acquire, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream};
use tokio::sync::mpsc;

use crate::admission::{Admission, Gate};
use crate::handler::{
    AdmitErrorReply, BuildPacket, Client, HandlerError, HandlerFailure, Inbox, LocalOutbox, MakeDatagram, Outbox,
    QueueLimits, Reply, ReplyKind, Requests, WorkerContext,
};
use crate::protocol::DatagramProtocol;
use crate::rate::RateLimiter;
use crate::running::{Closing, DropLog};
use crate::socket::{Datagram, Flow, SendOutcome};
use crate::stats::{Counters, DropReason, Stats};

/// The most datagrams that a worker handles before it sends the replies and lets others have the thread, in however few
/// messages they came.
pub(super) const MAX_TURN: usize = 256;
/// The most datagrams in a worker's queue before a send waits: a turn's requests with several replies each.
const OUTBOX_CAPACITY: usize = 4 * MAX_TURN;
/// The most handlers of one worker that may wait at once; a further one is dropped when it has to wait
/// (`handler_busy`).
const MAX_WAITING_HANDLERS: usize = 1024;
/// The number of references to the worker's state that the engine itself holds: `receiving`, `sending`, and the inbox.
const OWN_CONTEXTS: usize = 3;
/// The minimum interval between warnings about handlers that fail.
const WARNING_INTERVAL: Duration = Duration::from_secs(1);
/// Limits on what may be queued for waiting handlers: datagrams of one client, and bytes of all clients.
const QUEUE: QueueLimits = QueueLimits { datagrams: 16, bytes: 16 << 20 };

/// The parts of the surrounding server that an engine needs.
#[derive(Default)]
pub(crate) struct EngineContext {
    pub(crate) counters: Arc<Counters>,
    pub(crate) drops: Arc<DropLog>,
    pub(crate) closing: Arc<Closing>,
    /// The name of the service; empty if it has none.
    pub(crate) service: &'static str,
}

/// A worker without its socket, for requests of type `Q` and responses of type `R`: `M` makes the future `F` that
/// handles a client's requests. It may borrow the handler, for `'h`.
pub struct Engine<'h, Q, R, M, F> {
    outbox: LocalOutbox,
    core: Core<'h, Q, R, M, F>,
}

/// Everything except the queue, which handlers fill while the core polls them.
struct Core<'h, Q, R, M, F> {
    /// The worker's state as requests see it; `sending` is the same state as responses see it.
    receiving: Arc<WorkerContext<dyn BuildPacket<Q>>>,
    sending: Arc<WorkerContext<dyn MakeDatagram<R>>>,
    gate: Gate,
    handle: M,
    failed: Box<Failed<'h, R>>,
    elsewhere: mpsc::Receiver<Reply>,
    /// The slot in which a handler is polled first; empty between datagrams.
    slot: Pin<Box<Option<F>>>,
    /// The inbox of that handler, kept only if it waits.
    inbox: Arc<Inbox<Q>>,
    active: HashMap<Flow, Arc<Inbox<Q>>>,
    waiting: FuturesUnordered<Waiting<F>>,
    /// Counts since the last publication.
    pending: Stats,
}

/// Reports a call that failed.
type Failed<'h, R> = dyn Fn(&Client<R>, &HandlerFailure) + Send + 'h;
type Outcome = Result<Result<(), HandlerError>, Box<dyn Any + Send>>;

impl<'h, Q, R, M, F> Engine<'h, Q, R, M, F>
where
    Q: 'static,
    R: 'static,
    M: Fn(Client<R>, Requests<Q>) -> F,
    F: Future<Output = Result<(), HandlerError>>,
{
    /// Creates a stand-alone engine, as if its socket were bound to `bound`; calls that fail are logged.
    pub fn new<P>(protocol: P, admission: Arc<Admission>, bound: SocketAddr, handle: M) -> Self
    where
        P: DatagramProtocol<Sent = R, Received = Q> + Send + Sync + 'static,
    {
        let failed = |client: &Client<R>, failure: &HandlerFailure| client.log_failure(failure);
        Self::with_context(EngineContext::default(), protocol, admission, bound, handle, Box::new(failed))
    }

    pub(crate) fn with_context<P>(
        context: EngineContext,
        protocol: P,
        admission: Arc<Admission>,
        bound: SocketAddr,
        handle: M,
        failed: Box<Failed<'h, R>>,
    ) -> Self
    where
        P: DatagramProtocol<Sent = R, Received = Q> + Send + Sync + 'static,
    {
        let (shared, outbox, elsewhere) = Outbox::new(OUTBOX_CAPACITY);
        let EngineContext { counters, drops, closing, service } = context;
        let context = Arc::new(WorkerContext {
            outbox: shared,
            counters,
            drops,
            admit_error_reply: admit_error_reply(&admission),
            closing,
            queued_bytes: 0.into(),
            bound,
            service,
            warnings: RateLimiter::every(WARNING_INTERVAL),
            failures_not_logged: 0.into(),
            protocol,
        });
        let receiving: Arc<WorkerContext<dyn BuildPacket<Q>>> = context.clone();
        let core = Core {
            inbox: Arc::new(Inbox::new(Arc::clone(&receiving))),
            receiving,
            sending: context,
            gate: Gate::new(admission),
            handle,
            failed,
            elsewhere,
            slot: Box::pin(None),
            active: HashMap::new(),
            waiting: FuturesUnordered::new(),
            pending: Stats::default(),
        };
        Self { outbox, core }
    }

    /// Handles received datagrams; the replies are then in [`outgoing`](Self::outgoing).
    pub fn receive(&mut self, datagrams: impl IntoIterator<Item = Datagram>, now: Instant) {
        let Self { outbox, core } = self;
        core.gate.begin_batch(now);
        outbox.lend(|| datagrams.into_iter().for_each(|datagram| core.receive(datagram, now)));
    }

    /// Polls the handlers that wait and collects what was sent from elsewhere; ready if there was any progress.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Self { outbox, core } = self;
        let mut progress = Poll::Pending;
        // All of that before any handler is polled, or a handler's replies could overtake each other.
        loop {
            while !outbox.is_full()
                && let Ok(reply) = core.elsewhere.try_recv()
            {
                outbox.queue.push(reply);
            }
            if outbox.is_full() {
                break;
            }
            let Poll::Ready(Some(reply)) = core.elsewhere.poll_recv(context) else { break };
            outbox.queue.push(reply);
        }
        if !core.waiting.is_empty() && outbox.lend(|| core.poll_waiting(context)) {
            progress = Poll::Ready(());
        }
        // Even if all of it is dropped now: more may wait elsewhere, and nobody learns of it until the next poll.
        if !outbox.queue.is_empty() {
            progress = Poll::Ready(());
        }
        progress
    }

    /// The queue of datagrams to send; drain it, and report the outcome of each to [`sent`](Self::sent).
    pub fn outgoing(&mut self) -> &mut Vec<Reply> {
        &mut self.outbox.queue
    }

    /// The queue, and a function that counts the outcome of each datagram.
    pub(crate) fn outgoing_mut(&mut self) -> (&mut Vec<Reply>, impl FnMut(SendOutcome<'_, Reply>)) {
        let core = &mut self.core;
        (&mut self.outbox.queue, |sent| core.count_sent(&sent))
    }

    /// The same, with everything that was sent from elsewhere, however much that is; nothing more is accepted from
    /// there.
    pub(crate) fn all_outgoing_mut(&mut self) -> (&mut Vec<Reply>, impl FnMut(SendOutcome<'_, Reply>)) {
        self.core.elsewhere.close();
        while let Ok(reply) = self.core.elsewhere.try_recv() {
            self.outbox.queue.push(reply);
        }
        self.outgoing_mut()
    }

    /// Counts the outcome of a datagram that was to be sent.
    pub fn sent(&mut self, sent: &SendOutcome<'_, Reply>) {
        self.core.count_sent(sent);
    }

    pub(crate) fn count_receive_error(&mut self) {
        self.core.pending.receive_errors += 1;
    }

    /// Publishes in [`stats`](Self::stats) what was counted since the last call.
    pub fn publish(&mut self) {
        self.core.sending.counters.publish(&mut self.core.pending);
    }

    /// The counters as of the last [`publish`](Self::publish).
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.core.sending.counters.snapshot()
    }

    /// The number of handlers that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.core.waiting.len()
    }

    /// Returns whether only a datagram can make the engine do something: no handler waits, nobody else holds a client
    /// to send to, and nothing that was sent from elsewhere remains to be taken.
    pub(crate) fn is_idle(&self) -> bool {
        if !self.core.waiting.is_empty() || Arc::strong_count(&self.core.sending) != OWN_CONTEXTS {
            return false;
        }
        // Whatever the last holder sent before it let go is seen now.
        fence(Acquire);
        self.core.elsewhere.is_empty()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.core.sending.closing.has_begun()
    }

    /// The number of datagrams queued for them.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.core.active.values().map(|inbox| inbox.len()).sum()
    }

    /// Tells waiting handlers that there will be no more requests; [`poll`](Self::poll) still polls them.
    pub fn close(&mut self) {
        self.core.sending.closing.begin();
        self.core.active.values().for_each(|inbox| inbox.close());
    }

    /// Drops the handlers that still wait, and counts the requests that none of them took.
    pub fn drop_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.core.waiting) {
            drop(catch_unwind(AssertUnwindSafe(|| drop(waiting))));
        }
        for (flow, inbox) in std::mem::take(&mut self.core.active) {
            while inbox.pop().is_some() {
                self.core.drop_datagram(DropReason::HandlerBusy, &flow);
            }
        }
    }
}

/// Decides on error replies with its own gate, not the engine's: handlers ask it while they are polled.
fn admit_error_reply(admission: &Arc<Admission>) -> Box<AdmitErrorReply> {
    let gate = Mutex::new(Gate::new(Arc::clone(admission)));
    Box::new(move |flow, now| {
        let mut gate = gate.lock().unwrap_or_else(PoisonError::into_inner);
        gate.begin_batch(now);
        gate.admit_error_reply(flow)
    })
}

impl<Q, R, M, F> Core<'_, Q, R, M, F>
where
    M: Fn(Client<R>, Requests<Q>) -> F,
    F: Future<Output = Result<(), HandlerError>>,
{
    fn receive(&mut self, datagram: Datagram, now: Instant) {
        self.pending.received += 1;
        self.pending.received_bytes += datagram.payload.len() as u64;
        let flow = datagram.flow;
        if let Err(reason) = self.gate.admit(&datagram) {
            self.drop_datagram(reason, &flow);
            return;
        }
        if !self.active.is_empty()
            && let Some(inbox) = self.active.get(&flow)
        {
            if !inbox.push(&datagram.payload, QUEUE) {
                self.drop_datagram(DropReason::HandlerBusy, &flow);
            }
            return;
        }
        self.call(flow, datagram.payload, now);
    }

    fn count_sent(&mut self, outcome: &SendOutcome<'_, Reply>) {
        match outcome {
            SendOutcome::Sent(Reply { outgoing, kind }) => {
                self.pending.sent_bytes += outgoing.payload.len() as u64;
                match kind {
                    ReplyKind::Packet => self.pending.sent += 1,
                    ReplyKind::Error => self.pending.error_replies += 1,
                }
            }
            SendOutcome::Refused(reply, error) => {
                // The second is reported for a large datagram of which only some fragments fit.
                let no_room = error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS);
                let reason = if no_room { DropReason::SendBuffer } else { DropReason::Send };
                self.drop_datagram(reason, &reply.outgoing.flow);
            }
        }
    }

    /// Counts and records a datagram that gets no reply.
    fn drop_datagram(&mut self, reason: DropReason, flow: &Flow) {
        self.pending.dropped.count(reason, 1);
        let context = &self.sending;
        context.drops.record(reason, flow.peer, context.local(flow.destination), context.service);
    }

    /// Calls the handler and polls it in place; keeps it if it waits. Returns whether it was kept.
    fn call(&mut self, flow: Flow, payload: Bytes, now: Instant) -> bool {
        let client = Client::new(Arc::clone(&self.sending), flow, now);
        let requests = Requests::new(payload, Arc::clone(&self.inbox));
        let (handle, slot) = (&self.handle, &mut self.slot);
        let polled = catch_unwind(AssertUnwindSafe(|| {
            slot.as_mut().set(Some(handle(client, requests)));
            // A handler that waits is polled again, with a real waker, once it has been moved aside.
            poll_and_clear(slot.as_mut(), &mut Context::from_waker(Waker::noop()))
        }));
        let outcome = match polled {
            Ok(Poll::Ready(result)) => Ok(result),
            Err(panic) => {
                // Drops what the panic left behind, so that the next call finds the slot empty.
                drop(catch_unwind(AssertUnwindSafe(|| self.slot.as_mut().set(None))));
                Err(panic)
            }
            Ok(Poll::Pending) => return self.keep(flow),
        };
        self.pending.handled += 1;
        self.finish(flow, outcome);
        // Somebody kept the requests: they get nothing more, and the next call gets a new inbox.
        if Arc::get_mut(&mut self.inbox).is_none() {
            self.renew_inbox().close();
        }
        false
    }

    /// Moves the handler in the slot aside, unless too many already wait.
    fn keep(&mut self, flow: Flow) -> bool {
        let future = std::mem::replace(&mut self.slot, Box::pin(None));
        let inbox = self.renew_inbox();
        if self.waiting.len() >= MAX_WAITING_HANDLERS {
            self.drop_datagram(DropReason::HandlerBusy, &flow);
            inbox.close();
            drop(catch_unwind(AssertUnwindSafe(|| drop(future))));
            return false;
        }
        self.pending.handled += 1;
        self.active.insert(flow, inbox);
        self.waiting.push(Waiting { flow, future });
        true
    }

    fn renew_inbox(&mut self) -> Arc<Inbox<Q>> {
        std::mem::replace(&mut self.inbox, Arc::new(Inbox::new(Arc::clone(&self.receiving))))
    }

    /// Polls the handlers that were woken; returns whether one ended.
    fn poll_waiting(&mut self, context: &mut Context<'_>) -> bool {
        let mut ended = false;
        while let Poll::Ready(Some((flow, outcome))) = Pin::new(&mut self.waiting).poll_next(context) {
            ended = true;
            self.finish(flow, outcome);
            self.call_queued(flow);
        }
        ended
    }

    /// Handles what a client sent while its handler was busy.
    fn call_queued(&mut self, flow: Flow) {
        loop {
            let Entry::Occupied(entry) = self.active.entry(flow) else { return };
            let Some(payload) = entry.get().pop() else {
                entry.remove().close();
                return;
            };
            let queue = entry.remove();
            queue.move_to(&self.inbox);
            let next = Arc::clone(&self.inbox);
            if self.call(flow, payload, Instant::now()) {
                return;
            }
            // The call ended in place: what is left in its inbox still has to be handled.
            let rest = Arc::new(Inbox::new(Arc::clone(&self.receiving)));
            next.move_to(&rest);
            self.active.insert(flow, rest);
        }
    }

    fn finish(&mut self, flow: Flow, outcome: Outcome) {
        let failure = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(error)) => HandlerFailure::Error(error),
            Err(panic) => HandlerFailure::of_panic(&*panic),
        };
        self.drop_datagram(DropReason::HandlerFailed, &flow);
        let client = Client::new(Arc::clone(&self.sending), flow, Instant::now());
        // `failed` is the program's code, and may panic too.
        let _ = catch_unwind(AssertUnwindSafe(|| (self.failed)(&client, &failure)));
    }
}

/// Polls the future in a slot, and drops it in place once it is ready.
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
    flow: Flow,
    future: Pin<Box<Option<F>>>,
}

impl<F: Future<Output = Result<(), HandlerError>>> Future for Waiting<F> {
    type Output = (Flow, Outcome);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let future = &mut self.future;
        match catch_unwind(AssertUnwindSafe(|| poll_and_clear(future.as_mut(), context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(result)) => Poll::Ready((self.flow, Ok(result))),
            Err(panic) => {
                // What it left behind, which may panic too.
                drop(catch_unwind(AssertUnwindSafe(|| future.set(None))));
                Poll::Ready((self.flow, Err(panic)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::OnceLock;

    use super::*;
    use crate::admission::Policy;
    use crate::handler::SendPacketError;
    use crate::protocol::BytesProtocol;
    use crate::socket::Destination;

    /// An engine for plain bytes, open to everyone, that was handed one datagram.
    fn engine_with_one_request<M, F>(handle: M) -> Engine<'static, Bytes, Bytes, M, F>
    where
        M: Fn(Client<Bytes>, Requests<Bytes>) -> F,
        F: Future<Output = Result<(), HandlerError>>,
    {
        let admission = Arc::new(Admission::new([], &Policy::open()));
        let [bound, peer] = [9000, 40_000].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let destination = Some(Destination { address: bound.ip(), local: bound.ip(), interface: 1 });
        let mut engine = Engine::new(BytesProtocol::default(), admission, bound, handle);
        engine.receive([Datagram::new(Flow { peer, destination }, Bytes::from_static(b"x"))], Instant::now());
        engine
    }

    /// Waits once, then panics; and panics when it is dropped.
    struct PanicsTwice(bool);

    impl Future for PanicsTwice {
        type Output = Result<(), HandlerError>;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
            assert!(!self.0, "told to");
            self.0 = true;
            context.waker().wake_by_ref();
            Poll::Pending
        }
    }

    impl Drop for PanicsTwice {
        fn drop(&mut self) {
            panic!("told to, when dropped");
        }
    }

    #[test]
    fn a_future_that_panics_and_panics_again_when_it_is_dropped_is_one_failure() {
        let mut engine = engine_with_one_request(|_, _| PanicsTwice(false));
        assert_eq!(engine.waiting(), 1);
        for _ in 0..2 {
            let _ = engine.poll(&mut Context::from_waker(Waker::noop()));
        }
        engine.publish();
        let stats = engine.stats();
        assert_eq!((engine.waiting(), stats.handled, stats.dropped.of(DropReason::HandlerFailed)), (0, 1, 1));
    }

    #[test]
    fn an_engine_is_idle_when_no_handler_waits_and_nothing_can_come_from_elsewhere() {
        assert!(engine_with_one_request(|_, _| async { Ok(()) }).is_idle());
        assert!(!engine_with_one_request(|_, _| std::future::pending()).is_idle());
        let kept = Mutex::new(None);
        let mut engine = engine_with_one_request(|client, _| {
            *kept.lock().unwrap() = Some(client);
            async { Ok(()) }
        });
        assert!(!engine.is_idle(), "somebody may send");
        let client = kept.lock().unwrap().take().unwrap();
        let mut context = Context::from_waker(Waker::noop());
        let sent = pin!(client.send_packet(Bytes::from_static(b"y"))).as_mut().poll(&mut context).is_ready();
        drop(client);
        assert!(sent && !engine.is_idle(), "somebody has sent");
        assert!(engine.poll(&mut context).is_ready() && engine.is_idle());
    }

    #[test]
    fn what_is_sent_from_elsewhere_is_taken_out_or_refused() {
        let kept = OnceLock::new();
        let mut engine = engine_with_one_request(|client, _| {
            kept.set(client).unwrap();
            async { Ok(()) }
        });
        let send = || {
            let mut sending = pin!(kept.get().unwrap().send_packet(Bytes::from_static(b"y")));
            sending.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
        assert!(matches!(send(), Poll::Ready(Ok(()))));
        let (queue, _) = engine.all_outgoing_mut();
        assert_eq!(queue.len(), 1);
        assert!(matches!(send(), Poll::Ready(Err(SendPacketError::Stopped))));
    }
}
