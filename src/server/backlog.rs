//! Replies that did not fit in the socket's send buffer: they wait here for a short time, and the worker continues.
//!
//! The buffer is full if the network is slower than the worker, or if replies wait in it, up to three seconds, for
//! neighbours that do not answer (arp(7)). Anyone who forges addresses in a subnet of this host can cause the latter.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::handler::Reply;
use crate::socket::{SendBatch, SendOutcome};

/// The longest time that a reply may wait.
const MAX_WAIT: Duration = Duration::from_millis(20);
/// The most replies that may wait.
const CAPACITY: usize = 256;

/// Replies in order, each with the time at which it began to wait.
#[derive(Default)]
pub(super) struct Backlog {
    replies: Vec<Reply>,
    since: VecDeque<Instant>,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// Sends the waiting replies and then the new ones; those that do not fit wait. Replies that have waited too long
    /// or exceed the capacity are dropped. `report` gets each that was sent or dropped.
    pub(super) fn send(
        &mut self,
        batch: &mut SendBatch,
        socket: BorrowedFd<'_>,
        new: &mut Vec<Reply>,
        mut report: impl FnMut(SendOutcome<'_, Reply>),
    ) {
        if self.is_empty() {
            if batch.send(socket, new, &mut report).is_err() {
                self.keep(new, Instant::now(), report);
            }
            return;
        }
        let result = batch.send(socket, &mut self.replies, &mut report);
        self.since.drain(..self.since.len() - self.replies.len());
        if result.is_err() || batch.send(socket, new, &mut report).is_err() {
            let now = Instant::now();
            self.expire(now, &mut report);
            self.keep(new, now, report);
        }
    }

    /// Drops replies that have waited too long.
    fn expire(&mut self, now: Instant, mut report: impl FnMut(SendOutcome<'_, Reply>)) {
        let expired = self.since.iter().take_while(|&&since| now.duration_since(since) >= MAX_WAIT).count();
        self.since.drain(..expired);
        self.replies.drain(..expired).for_each(|reply| report(refused(&reply)));
    }

    /// Drops all replies, waiting and new.
    pub(super) fn drop_all(&mut self, new: &mut Vec<Reply>, mut report: impl FnMut(SendOutcome<'_, Reply>)) {
        self.since.clear();
        self.replies.drain(..).chain(new.drain(..)).for_each(|reply| report(refused(&reply)));
    }

    fn keep(&mut self, new: &mut Vec<Reply>, now: Instant, mut report: impl FnMut(SendOutcome<'_, Reply>)) {
        let room = CAPACITY - self.replies.len();
        new.drain(new.len().min(room)..).for_each(|reply| report(refused(&reply)));
        self.since.extend(new.iter().map(|_| now));
        self.replies.append(new);
    }
}

fn refused(reply: &Reply) -> SendOutcome<'_, Reply> {
    SendOutcome::Refused(reply, io::ErrorKind::WouldBlock.into())
}
