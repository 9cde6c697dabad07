//! The loop of one worker on one socket: receive a batch, let the engine handle it, send a batch.
//!
//! Only a shutdown ends it, and it waits only for its socket. A receive error is counted; while it persists the loop
//! waits longer and longer between two tries, up to a second. Replies that do not fit wait aside.

use std::future::{Future, poll_fn};
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::runtime::{Handle, RuntimeMetrics};
use tokio::task::{consume_budget, yield_now};
use tokio::time::{Sleep, sleep, sleep_until};

use super::backlog::Backlog;
use super::engine::Engine;
use super::input::{Input, Received, WhenEmpty};
use crate::handler::{Client, HandlerError, Requests};
use crate::running::Heartbeat;
use crate::socket::{SendBatch, watch_readable};

/// The interval at which waiting replies are tried again while nothing is received. The kernel announces room in the
/// send buffer only once half of it is free (`sock_writeable` in its net/sock.h), which forged neighbours can prevent.
const RETRY_INTERVAL: Duration = Duration::from_millis(1);
/// The longest time for which a worker blocks its own thread in a receive call.
const SLICE: Duration = Duration::from_millis(20);

/// The outcome of one turn of the loop.
enum Turn {
    /// Something was received or is to be sent.
    Progress,
    /// The socket cannot be read.
    ReceiveFailed,
    /// The server is closing.
    Closing,
}

pub(super) struct Worker<'h, Q, R, M, F>
where
    Q: 'static,
    R: 'static,
    M: Fn(Client<R>, Requests<Q>) -> F,
    F: Future<Output = Result<(), HandlerError>>,
{
    engine: Engine<'h, Q, R, M, F>,
    io: AsyncFd<Arc<UdpSocket>>,
    input: Input,
    /// The tasks of the thread's runtime, if the worker may block the thread while there are none.
    tasks: Option<RuntimeMetrics>,
    /// Datagrams have arrived of late: more are likely to.
    is_busy: bool,
    send: SendBatch,
    backlog: Backlog,
    /// The timer for trying the backlog again; created when there is one for the first time.
    retry: Option<Pin<Box<Sleep>>>,
}

impl<'h, Q, R, M, F> Worker<'h, Q, R, M, F>
where
    Q: 'static,
    R: 'static,
    M: Fn(Client<R>, Requests<Q>) -> F,
    F: Future<Output = Result<(), HandlerError>>,
{
    /// Prepares to serve a socket on the current runtime, whose thread it may block if nothing but the socket needs it.
    pub(super) fn new(
        engine: Engine<'h, Q, R, M, F>,
        socket: Arc<UdpSocket>,
        ipv6_socket: bool,
        may_block: bool,
    ) -> io::Result<Self> {
        let tasks = (may_block && make_blocking(&socket).is_ok()).then(|| Handle::current().metrics());
        let io = watch_readable(socket)?;
        let send = SendBatch::new(ipv6_socket);
        let (input, backlog) = (Input::new(), Backlog::default());
        Ok(Self { engine, io, input, tasks, is_busy: false, send, backlog, retry: None })
    }

    /// Serves until `closing` is ready, then lets waiting handlers continue for at most `grace`.
    pub(super) async fn run(mut self, heartbeat: &Heartbeat, closing: impl Future<Output = ()>, grace: Duration) {
        let mut closing = pin!(closing);
        loop {
            let is_alone = self.is_busy && self.is_alone();
            let turn = match is_alone {
                true => self.turn_alone(heartbeat),
                false => poll_fn(|context| self.poll_turn(heartbeat, closing.as_mut(), context)).await,
            };
            self.flush();
            self.engine.publish();
            match turn {
                Turn::Progress if is_alone => {}
                // A flood must not starve the runtime's other tasks, such as those of other sockets.
                Turn::Progress if self.input.has_more() => yield_now().await,
                // Nor must handlers that send from other tasks.
                Turn::Progress => consume_budget().await,
                Turn::ReceiveFailed => {
                    let mut pause = pin!(sleep(self.input.pause()));
                    self.flush_until(poll_fn(|context| match closing.as_mut().poll(context) {
                        Poll::Ready(()) => Poll::Ready(()),
                        Poll::Pending => pause.as_mut().poll(context),
                    }))
                    .await;
                    if self.engine.is_closing() {
                        break;
                    }
                }
                Turn::Closing => break,
            }
        }
        self.close(grace).await;
    }

    /// Returns whether nothing but the socket needs this thread.
    fn is_alone(&self) -> bool {
        self.tasks.as_ref().is_some_and(|tasks| tasks.num_alive_tasks() == 0)
            && self.engine.is_idle()
            && self.backlog.is_empty()
    }

    /// Waits for datagrams in the receive call itself, which saves the system call that waits for readiness. Whoever
    /// wants something else of the worker gets it at the end of the call, within [`SLICE`].
    fn turn_alone(&mut self, heartbeat: &Heartbeat) -> Turn {
        if self.engine.is_closing() {
            return Turn::Closing;
        }
        match self.input.receive(self.io.get_ref(), &mut self.engine, WhenEmpty::Wait) {
            Received::Datagrams => {}
            Received::Nothing => self.is_busy = false,
            Received::Failed => return Turn::ReceiveFailed,
        }
        heartbeat.beat();
        Turn::Progress
    }

    fn poll_turn(
        &mut self,
        heartbeat: &Heartbeat,
        closing: Pin<&mut impl Future<Output = ()>>,
        context: &mut Context<'_>,
    ) -> Poll<Turn> {
        if self.engine.is_closing() {
            return Poll::Ready(Turn::Closing);
        }
        let mut received = self.poll_receive(context);
        let driven = self.engine.poll(context);
        if received.is_pending() && heartbeat.poll_requested(context.waker()) {
            received = match self.input.receive(self.io.get_ref(), &mut self.engine, WhenEmpty::Return) {
                Received::Nothing => {
                    heartbeat.beat();
                    Poll::Pending
                }
                Received::Datagrams => Poll::Ready(true),
                Received::Failed => Poll::Ready(false),
            };
        }
        match received {
            Poll::Ready(true) => {
                self.is_busy = true;
                heartbeat.beat();
                Poll::Ready(Turn::Progress)
            }
            Poll::Ready(false) => Poll::Ready(Turn::ReceiveFailed),
            Poll::Pending if driven.is_ready() || self.poll_retry(context).is_ready() => Poll::Ready(Turn::Progress),
            Poll::Pending => closing.poll(context).map(|()| Turn::Closing),
        }
    }

    /// Receives datagrams once the socket is readable; returns whether it could be read.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let Self { engine, io, input, .. } = self;
        loop {
            // Taken before the call, so that readiness announced during the call is not cleared.
            let Ok(mut ready) = std::task::ready!(io.poll_read_ready(context)) else {
                input.count_failure();
                return Poll::Ready(false);
            };
            let received = input.receive(io.get_ref(), engine, WhenEmpty::Return);
            // Only an empty socket is sure to announce what comes next; a socket after a short batch is not: with Linux
            // 6.18, datagrams that arrived during the call were seen to wait without ever being announced.
            if matches!(received, Received::Nothing) {
                ready.clear_ready();
            }
            match received {
                Received::Datagrams => return Poll::Ready(true),
                Received::Nothing => {}
                Received::Failed => return Poll::Ready(false),
            }
        }
    }

    /// Ready when the replies that wait for room are to be tried again.
    fn poll_retry(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.retry {
            Some(retry) if !self.backlog.is_empty() => retry.as_mut().poll(context),
            _ => Poll::Pending,
        }
    }

    /// Sends the backlog and then what the engine has queued; never waits.
    fn flush(&mut self) {
        let (queue, count) = self.engine.outgoing_mut();
        self.backlog.send(&mut self.send, self.io.get_ref().as_fd(), queue, count);
        if !self.backlog.is_empty() {
            let next = tokio::time::Instant::now() + RETRY_INTERVAL;
            match &mut self.retry {
                Some(retry) => retry.as_mut().reset(next),
                None => self.retry = Some(Box::pin(sleep_until(next))),
            }
        }
    }

    /// Waits for this future, and tries the backlog again meanwhile.
    async fn flush_until(&mut self, mut event: impl Future<Output = ()> + Unpin) {
        loop {
            let is_over = poll_fn(|context| match Pin::new(&mut event).poll(context) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending => self.poll_retry(context).map(|()| false),
            });
            if is_over.await {
                return;
            }
            self.flush();
        }
    }

    /// Lets waiting handlers continue for at most `grace`, and waiting replies for as long as they may wait.
    async fn close(&mut self, grace: Duration) {
        self.engine.close();
        let mut grace = pin!(sleep(grace));
        while self.engine.waiting() > 0 {
            let is_over = poll_fn(|context| {
                let progress = self.engine.poll(context).is_ready() | self.poll_retry(context).is_ready();
                match grace.as_mut().poll(context) {
                    Poll::Ready(()) => Poll::Ready(true),
                    Poll::Pending if progress => Poll::Ready(false),
                    Poll::Pending => Poll::Pending,
                }
            });
            if is_over.await {
                self.engine.drop_waiting();
            }
            self.flush();
        }
        // Replies that were sent from elsewhere meanwhile.
        let _ = self.engine.poll(&mut Context::from_waker(Waker::noop()));
        self.flush();
        while !self.backlog.is_empty() {
            poll_fn(|context| self.poll_retry(context)).await;
            self.flush();
        }
        self.engine.publish();
    }
}

/// Lets a worker wait in its receive call, for at most [`SLICE`]; its other calls never wait (MSG_DONTWAIT). Both
/// options belong to the open file description, so this is only for a socket that nobody else holds.
fn make_blocking(socket: &UdpSocket) -> io::Result<()> {
    socket.set_read_timeout(Some(SLICE))?;
    socket.set_nonblocking(false)
}

/// A worker also ends when it is dropped, because the server's future was dropped or the runtime failed: what it had in
/// progress is counted even then.
impl<Q, R, M, F> Drop for Worker<'_, Q, R, M, F>
where
    Q: 'static,
    R: 'static,
    M: Fn(Client<R>, Requests<Q>) -> F,
    F: Future<Output = Result<(), HandlerError>>,
{
    fn drop(&mut self) {
        self.engine.drop_waiting();
        let (queue, count) = self.engine.all_outgoing_mut();
        self.backlog.drop_all(queue, count);
        self.engine.publish();
        if self.tasks.is_some() {
            let _ = self.io.get_ref().set_nonblocking(true);
        }
    }
}
