//! The receiving half of a worker: batches of datagrams for its engine, turn by turn, and what to do about errors.

use std::future::Future;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::engine::{Engine, MAX_TURN};
use crate::handler::{Client, HandlerError, Requests};
use crate::message_id;
use crate::socket::ReceiveBatch;

/// The longest wait after a receive error that persists.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The number of times that a call interrupted by a signal is repeated at once.
const INTERRUPTIONS: u32 = 16;

/// What to do while the socket is empty.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenEmpty {
    /// Return at once.
    Return,
    /// Wait for as long as the socket's SO_RCVTIMEO says.
    Wait,
}

/// The outcome of one attempt to receive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// Some datagrams.
    Datagrams,
    /// The socket was empty.
    Nothing,
    /// The socket cannot be read.
    Failed,
}

/// The receiving half of a worker.
pub(super) struct Input {
    batch: ReceiveBatch,
    /// The number of receive errors in a row.
    failures: u32,
}

impl Input {
    pub(super) fn new() -> Self {
        Self { batch: ReceiveBatch::new(), failures: 0 }
    }

    /// Passes the datagrams of one turn to the engine: those that are left of the last batch, or else of the next one.
    pub(super) fn receive<Q, R, M, F>(
        &mut self,
        socket: &UdpSocket,
        engine: &mut Engine<'_, Q, R, M, F>,
        when_empty: WhenEmpty,
    ) -> Received
    where
        Q: 'static,
        R: 'static,
        M: Fn(Client<R>, Requests<Q>) -> F,
        F: Future<Output = Result<(), HandlerError>>,
    {
        let received = if self.batch.is_drained() { self.next_batch(socket, when_empty) } else { Received::Datagrams };
        match received {
            Received::Datagrams => engine.receive(self.batch.datagrams().take(MAX_TURN), Instant::now()),
            Received::Nothing => {}
            Received::Failed => engine.count_receive_error(),
        }
        received
    }

    fn next_batch(&mut self, socket: &UdpSocket, when_empty: WhenEmpty) -> Received {
        for _ in 0..INTERRUPTIONS {
            let received = match when_empty {
                WhenEmpty::Return => self.batch.receive(socket.as_fd()),
                WhenEmpty::Wait => self.batch.receive_waiting(socket.as_fd()),
            };
            let error = match received {
                Ok(_) => {
                    self.failures = 0;
                    return Received::Datagrams;
                }
                Err(error) => error,
            };
            match error.kind() {
                io::ErrorKind::WouldBlock => {
                    self.failures = 0;
                    return Received::Nothing;
                }
                // Whoever sent the signal may want something of this thread.
                io::ErrorKind::Interrupted if when_empty == WhenEmpty::Wait => return Received::Nothing,
                io::ErrorKind::Interrupted => {}
                _ => {
                    tracing::debug!(message_id = message_id::RECEIVE_FAILED, "receive failed, trying again: {error}");
                    break;
                }
            }
        }
        self.count_failure();
        Received::Failed
    }

    /// Counts a failure to wait for the socket or to read it.
    pub(super) fn count_failure(&mut self) {
        self.failures += 1;
    }

    /// Returns whether there is more to handle, or likely to be.
    pub(super) fn has_more(&self) -> bool {
        !self.batch.is_drained() || self.batch.is_full()
    }

    /// The pause after an error: one may be caused by an earlier packet (ICMP), a second in a row is likely to persist.
    pub(super) fn pause(&self) -> Duration {
        match self.failures {
            0..=1 => Duration::ZERO,
            failures => LONGEST_PAUSE.min(Duration::from_millis(1 << (failures - 1).min(10))),
        }
    }
}
