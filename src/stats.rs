//! Every datagram is accounted for: the reasons for a drop, the counters of a worker, and their sum.
//!
//! At rest `received = handled + drops before the handler`, and for the echo handler
//! `handled = echoed + error_replies + drops by the handler or after it`. A worker writes only its own counters, which
//! have cache lines of their own; a snapshot adds them up. What a reason means is decided elsewhere.

use std::fmt;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Declares the reasons for a drop, in the order of a datagram's way: its name in counters, and whether the drop
/// happens before a handler sees the datagram or after that.
macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $reason:ident = $name:literal, $when:ident;)*) => {
        /// Why a datagram was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum DropReason {
            $($(#[$doc])* $reason,)*
        }

        impl DropReason {
            /// Every reason, in the order of a datagram's way.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$reason),*];

            /// The name in counters: `source_port`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)*
                }
            }

            /// Returns whether the drop happens before a handler sees the datagram.
            #[must_use]
            pub fn is_before_handler(self) -> bool {
                /// Where a drop happens.
                #[derive(PartialEq)]
                enum When {
                    Before,
                    After,
                }
                let when = match self {
                    $(Self::$reason => When::$when,)*
                };
                when == When::Before
            }
        }
    };
}

drop_reasons! {
    /// It did not fit the buffer (`MSG_TRUNC`).
    Truncated = "truncated", Before;
    /// Its source port is 0, one that this server listens on, or one that the policy denies: the reply could loop.
    SourcePort = "source_port", Before;
    /// Its source address cannot be that of a client.
    SourceAddress = "source_address", Before;
    /// It was sent to a broadcast or multicast address, or the kernel did not say to which.
    Destination = "destination", Before;
    /// Its source may not use this service.
    Access = "access", Before;
    /// Its source, or all sources together, sent more than they may.
    RateLimit = "rate_limit", Before;
    /// Its client's queue was full; or its handler had to wait, and too many waited already.
    HandlerBusy = "handler_busy", Before;
    /// It is byte for byte the server's own error reply: a reply could loop.
    OwnError = "own_error", After;
    /// It is not a packet of the protocol, and the handler does not reply to those.
    Invalid = "invalid", After;
    /// It is not a packet of the protocol, and its source, or all together, had as many error replies as they may.
    ErrorLimit = "error_limit", After;
    /// The handler returned an error or panicked.
    HandlerFailed = "handler_failed", After;
    /// The send buffer stayed full: the network is too slow, or replies in it wait for neighbours that do not answer.
    SendBuffer = "send_buffer", After;
    /// The kernel refused the reply.
    Send = "send", After;
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How many datagrams were dropped, by reason.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    /// How many for this reason.
    #[must_use]
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// How many in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(crate) fn count(&mut self, reason: DropReason, times: u64) {
        self.0[reason as usize] += times;
    }
}

impl fmt::Debug for Drops {
    /// The reasons that are not zero: `Drops { source_port: 3, send: 1 }`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut drops = f.debug_struct("Drops");
        for reason in DropReason::ALL.into_iter().filter(|&reason| self.of(reason) > 0) {
            drops.field(reason.name(), &self.of(reason));
        }
        drops.finish()
    }
}

/// What happened since the server began, all workers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Datagrams that the kernel handed over.
    pub received: u64,
    /// Datagrams that were given to the handler.
    pub handled: u64,
    /// Packets sent by [`Client::send_packet`](crate::handler::Client::send_packet): in the echo server, the echoes.
    pub echoed: u64,
    /// Packets sent by [`Client::send_error_reply`](crate::handler::Client::send_error_reply).
    pub error_replies: u64,
    /// Datagrams that were not answered, by reason.
    pub dropped: Drops,
    /// Datagrams that the kernel dropped because the receive buffer was full, or for a bad checksum (`SO_MEMINFO`),
    /// since the server has the socket.
    pub kernel_drops: u64,
    /// Payload bytes received.
    pub received_bytes: u64,
    /// Payload bytes sent.
    pub sent_bytes: u64,
    /// Receive calls that failed; the loop goes on.
    pub receive_errors: u64,
    /// Requests that [`RequestLog`](crate::handler::RequestLog) left out for its rate.
    pub log_suppressed: u64,
}

impl Stats {
    /// Drops before the handler: `received = handled + dropped_before_handler` at rest.
    #[must_use]
    pub fn dropped_before_handler(&self) -> u64 {
        DropReason::ALL
            .into_iter()
            .filter(|reason| reason.is_before_handler())
            .map(|reason| self.dropped.of(reason))
            .sum()
    }
}

impl AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.handled += other.handled;
        self.echoed += other.echoed;
        self.error_replies += other.error_replies;
        for reason in DropReason::ALL {
            self.dropped.count(reason, other.dropped.of(reason));
        }
        self.kernel_drops += other.kernel_drops;
        self.received_bytes += other.received_bytes;
        self.sent_bytes += other.sent_bytes;
        self.receive_errors += other.receive_errors;
        self.log_suppressed += other.log_suppressed;
    }
}

impl fmt::Display for Stats {
    /// All counters on one line: `received=3 handled=2 ... dropped_send=0 ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { received, handled, echoed, error_replies, .. } = self;
        write!(f, "received={received} handled={handled} echoed={echoed} error_replies={error_replies}")?;
        for reason in DropReason::ALL {
            write!(f, " dropped_{reason}={}", self.dropped.of(reason))?;
        }
        let Self { kernel_drops, received_bytes, sent_bytes, receive_errors, log_suppressed, .. } = self;
        write!(
            f,
            " kernel_drops={kernel_drops} received_bytes={received_bytes} sent_bytes={sent_bytes} \
             receive_errors={receive_errors} log_suppressed={log_suppressed}"
        )
    }
}

/// One worker's counters: written by the worker (rarely by a handler elsewhere), read by anyone.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    received: AtomicU64,
    handled: AtomicU64,
    echoed: AtomicU64,
    error_replies: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    receive_errors: AtomicU64,
    log_suppressed: AtomicU64,
    kernel_drops: AtomicU64,
    /// What the kernel's own count was when this one began.
    kernel_drops_before: u32,
}

impl Counters {
    /// Counters of a socket on which the kernel has dropped this many already.
    pub(crate) fn beyond(kernel_drops_before: u32) -> Self {
        Self { kernel_drops_before, ..Self::default() }
    }

    /// Adds what a worker counted in one turn of its loop, and empties it.
    pub(crate) fn publish(&self, turn: &mut Stats) {
        fn add(counter: &AtomicU64, value: u64) {
            if value != 0 {
                counter.fetch_add(value, Relaxed);
            }
        }
        let turn = std::mem::take(turn);
        add(&self.received, turn.received);
        add(&self.handled, turn.handled);
        add(&self.echoed, turn.echoed);
        add(&self.error_replies, turn.error_replies);
        for (counter, value) in self.dropped.iter().zip(turn.dropped.0) {
            add(counter, value);
        }
        add(&self.received_bytes, turn.received_bytes);
        add(&self.sent_bytes, turn.sent_bytes);
        add(&self.receive_errors, turn.receive_errors);
        add(&self.log_suppressed, turn.log_suppressed);
    }

    pub(crate) fn count_drop(&self, reason: DropReason) {
        self.dropped[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn count_handled(&self) {
        self.handled.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_log_suppressed(&self) {
        self.log_suppressed.fetch_add(1, Relaxed);
    }

    /// Takes over the kernel's own count, which is gone with its socket and has 32 bits only.
    pub(crate) fn set_kernel_drops(&self, drops: u32) {
        let drops = drops.wrapping_sub(self.kernel_drops_before);
        // Failure: there are no more, or another thread has told of later ones.
        let _ = self.kernel_drops.fetch_update(Relaxed, Relaxed, |total| {
            let more = drops.wrapping_sub(total as u32);
            (1..1 << 31).contains(&more).then(|| total + u64::from(more))
        });
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let mut dropped = Drops::default();
        for reason in DropReason::ALL {
            dropped.count(reason, self.dropped[reason as usize].load(Relaxed));
        }
        Stats {
            received: self.received.load(Relaxed),
            handled: self.handled.load(Relaxed),
            echoed: self.echoed.load(Relaxed),
            error_replies: self.error_replies.load(Relaxed),
            dropped,
            kernel_drops: self.kernel_drops.load(Relaxed),
            received_bytes: self.received_bytes.load(Relaxed),
            sent_bytes: self.sent_bytes.load(Relaxed),
            receive_errors: self.receive_errors.load(Relaxed),
            log_suppressed: self.log_suppressed.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_turn_is_added_once_and_shows_in_the_sum() {
        let (one, two) = (Counters::default(), Counters::default());
        let mut turn = Stats { received: 3, handled: 2, echoed: 1, ..Stats::default() };
        turn.dropped.count(DropReason::SourcePort, 1);
        one.publish(&mut turn);
        one.publish(&mut turn);
        two.count_drop(DropReason::Invalid);
        let mut sum = one.snapshot();
        sum += two.snapshot();
        assert_eq!((sum.received, sum.handled, sum.echoed), (3, 2, 1));
        assert_eq!(sum.dropped_before_handler(), 1);
        assert_eq!(sum.dropped.total(), 2);
        assert!(sum.to_string().contains("dropped_source_port=1"));
    }

    #[test]
    fn the_kernels_drops_are_counted_from_where_they_were_and_past_their_32_bits() {
        let counters = Counters::beyond(u32::MAX - 5);
        let told = |drops| {
            counters.set_kernel_drops(drops);
            counters.snapshot().kernel_drops
        };
        assert_eq!([told(u32::MAX - 5), told(u32::MAX), told(4), told(u32::MAX), told(4)], [0, 5, 10, 10, 10]);
        assert_eq!(told(4 + (1 << 30)), 10 + (1 << 30));
        (2..=8).for_each(|step: u32| assert_eq!(told(4u32.wrapping_add(step << 30)), 10 + (u64::from(step) << 30)));
    }

    #[test]
    fn drops_are_shown_with_their_reasons() {
        let mut drops = Drops::default();
        assert_eq!(format!("{drops:?}"), "Drops");
        drops.count(DropReason::Send, 1);
        drops.count(DropReason::SourcePort, 3);
        assert_eq!(format!("{drops:?}"), "Drops { source_port: 3, send: 1 }");
    }

    #[test]
    fn every_counter_shows_under_its_own_name_what_was_counted() {
        let mut turn = Stats {
            received: 101,
            handled: 102,
            echoed: 103,
            error_replies: 104,
            received_bytes: 105,
            sent_bytes: 106,
            receive_errors: 107,
            log_suppressed: 108,
            ..Stats::default()
        };
        for (at, reason) in DropReason::ALL.into_iter().enumerate() {
            turn.dropped.count(reason, 1 + at as u64);
        }
        let counters = Counters::default();
        counters.publish(&mut turn);
        counters.count_drop(DropReason::Send);
        counters.set_kernel_drops(109);
        let mut sum = counters.snapshot();
        sum += counters.snapshot();
        assert_eq!(
            sum.to_string(),
            "received=202 handled=204 echoed=206 error_replies=208 dropped_truncated=2 dropped_source_port=4 \
             dropped_source_address=6 dropped_destination=8 dropped_access=10 dropped_rate_limit=12 \
             dropped_handler_busy=14 dropped_own_error=16 dropped_invalid=18 dropped_error_limit=20 \
             dropped_handler_failed=22 dropped_send_buffer=24 dropped_send=28 kernel_drops=218 received_bytes=210 \
             sent_bytes=212 receive_errors=214 log_suppressed=216"
        );
        assert_eq!(sum.dropped_before_handler(), 2 + 4 + 6 + 8 + 10 + 12 + 14);
    }
}
