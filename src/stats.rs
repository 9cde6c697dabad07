//! Every datagram is accounted for: one table of all counters and of the reasons for a drop.
//!
//! At rest `received = handled + drops before the handler`, and for the echo handler
//! `handled = sent + error_replies + drops by the handler or after it`. A worker writes only its own counters, which
//! have their own cache lines; snapshots add them up. The types here are generated from the table, and everything that
//! shows counters uses [`COUNTERS`]. When to count a reason is decided elsewhere.

use std::fmt;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Declares the counters, in the order in which they are shown. Each has a help text, a name (and a second one if the
/// echo daemon shows another), a unit and an owner; those in the status line of a service have a label for it. The drop
/// reasons are in the order in which they are checked, each with its side of the handler.
macro_rules! counters {
    (
        $(
            $(#[doc = $help:literal])+
            $field:ident $(as $shown:ident)?: $unit:ident of $owner:ident $(, $status:literal)?;
        )+
        dropped: $dropped_status:literal {
            $($(#[doc = $reason_help:literal])+ $reason:ident = $reason_name:ident, $side:ident;)+
        }
        $(
            $(#[doc = $last_help:literal])+
            $last:ident: $last_unit:ident of $last_owner:ident $(, $last_status:literal)?;
        )+
    ) => {
        /// Counts since the server was bound.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[doc = $help])+ pub $field: u64,)+
            /// Datagrams that got no reply, by reason.
            pub dropped: Drops,
            $($(#[doc = $last_help])+ pub $last: u64,)+
        }

        /// The reason why a datagram was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum DropReason {
            $($(#[doc = $reason_help])+ $reason,)+
        }

        impl DropReason {
            /// Every reason, in the order in which they are checked.
            pub const ALL: [Self; [$(stringify!($reason)),+].len()] = [$(Self::$reason),+];

            /// The name in counters: `source_port`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => stringify!($reason_name),)+
                }
            }

            /// Returns whether the drop happens before a handler sees the datagram.
            #[must_use]
            pub const fn is_before_handler(self) -> bool {
                match self {
                    $(Self::$reason => matches!(Side::$side, Side::Before),)+
                }
            }
        }

        /// All counters, in the order in which they are shown.
        pub const COUNTERS: &[Counter] = &[
            $(Counter {
                name: stringify!($field),
                echo_name: echo_name!($field $(as $shown)?),
                help: concat!($($help),+),
                unit: Unit::$unit,
                owner: Owner::$owner,
                reason: None,
                status: status!($($status)?),
                read: |stats| stats.$field,
            },)+
            $(Counter {
                name: concat!("dropped_", stringify!($reason_name)),
                echo_name: concat!("dropped_", stringify!($reason_name)),
                help: concat!($($reason_help),+),
                unit: Unit::Datagrams,
                owner: if DropReason::$reason.is_before_handler() { Owner::Listener } else { Owner::Handler },
                reason: Some(DropReason::$reason),
                status: Some($dropped_status),
                read: |stats| stats.dropped.of(DropReason::$reason),
            },)+
            $(Counter {
                name: stringify!($last),
                echo_name: stringify!($last),
                help: concat!($($last_help),+),
                unit: Unit::$last_unit,
                owner: Owner::$last_owner,
                reason: None,
                status: status!($($last_status)?),
                read: |stats| stats.$last,
            },)+
        ];

        impl AddAssign for Stats {
            fn add_assign(&mut self, other: Self) {
                $(self.$field += other.$field;)+
                for reason in DropReason::ALL {
                    self.dropped.count(reason, other.dropped.of(reason));
                }
                $(self.$last += other.$last;)+
            }
        }

        /// The same numbers, for several threads to add to.
        #[derive(Debug, Default)]
        struct Totals {
            $($field: AtomicU64,)+
            dropped: [AtomicU64; DropReason::ALL.len()],
            $($last: AtomicU64,)+
        }

        impl Totals {
            fn add(&self, stats: &Stats) {
                $(add(&self.$field, stats.$field);)+
                for (total, count) in self.dropped.iter().zip(stats.dropped.0) {
                    add(total, count);
                }
                $(add(&self.$last, stats.$last);)+
            }

            fn snapshot(&self) -> Stats {
                Stats {
                    $($field: self.$field.load(Relaxed),)+
                    dropped: Drops(DropReason::ALL.map(|reason| self.dropped[reason as usize].load(Relaxed))),
                    $($last: self.$last.load(Relaxed),)+
                }
            }
        }
    };
}

macro_rules! echo_name {
    ($name:ident) => {
        stringify!($name)
    };
    ($name:ident as $shown:ident) => {
        stringify!($shown)
    };
}

macro_rules! status {
    () => {
        None
    };
    ($label:literal) => {
        Some($label)
    };
}

counters! {
    /// Datagrams that the kernel delivered.
    received: Datagrams of Listener, "received";
    /// Datagrams that were passed to the handler.
    handled: Datagrams of Listener;
    /// Replies other than error replies that the kernel accepted; from the echo handler these are the echoes.
    sent as echoed: Datagrams of Handler, "echoed";
    /// Error replies that the kernel accepted.
    error_replies: Datagrams of Handler, "error replies";
    dropped: "dropped" {
        /// Longer than the receive buffer's slot (MSG_TRUNC).
        Truncated = truncated, Before;
        /// From port 0, a port that this server listens on, or one that the policy denies: a reply could loop.
        SourcePort = source_port, Before;
        /// From an address that no client can have.
        SourceAddress = source_address, Before;
        /// To a broadcast or multicast address, or to one that the kernel did not name.
        Destination = destination, Before;
        /// From a source that the access lists deny.
        Access = access, Before;
        /// Over the rate limit of its source, or of all sources together.
        RateLimit = rate_limit, Before;
        /// The queue of its client's handler was full, or too many handlers were waiting.
        HandlerBusy = handler_busy, Before;
        /// Byte for byte the server's own error reply: a reply could loop.
        OwnError = own_error, After;
        /// Not a valid packet, and the handler does not reply to those.
        Invalid = invalid, After;
        /// Not a valid packet, and over the limit of error replies to its source, or to all sources together.
        ErrorLimit = error_limit, After;
        /// The handler failed.
        HandlerFailed = handler_failed, After;
        /// The reply found no room in the send buffer: the network is too slow, or replies wait in the buffer for
        /// neighbours that do not respond.
        SendBuffer = send_buffer, After;
        /// The kernel refused the reply.
        Send = send, After;
    }
    /// Datagrams that the kernel dropped because of a full receive buffer or a bad checksum (SO_MEMINFO). A lower
    /// bound: with UDP_GRO the kernel counts a run of datagrams as one.
    kernel_drops: Datagrams of Listener, "kernel drops at least";
    /// Payload bytes received.
    received_bytes: Bytes of Listener;
    /// Payload bytes sent.
    sent_bytes: Bytes of Handler;
    /// Receive calls that failed; the worker continues.
    receive_errors: Calls of Listener;
    /// Request lines that were suppressed because they exceeded the log's limit on them.
    log_suppressed: Lines of Handler;
    /// Log lines that the daemon dropped because the queue in front of its log was full.
    log_dropped: Lines of Process, "log lines dropped";
}

/// A counter: its name, what it counts and how to read it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Counter {
    /// The name: `sent`, `dropped_source_port`.
    pub name: &'static str,
    /// The name that the echo daemon shows: `echoed` for `sent`, else the same.
    pub echo_name: &'static str,
    help: &'static str,
    /// The unit of what is counted.
    pub unit: Unit,
    /// The part that it belongs to.
    pub owner: Owner,
    /// The reason, if it counts drops.
    pub reason: Option<DropReason>,
    /// The label in the status line of a service, if it has one; the drops share theirs.
    pub status: Option<&'static str>,
    read: fn(&Stats) -> u64,
}

impl Counter {
    /// The help text: what is counted, in a sentence or two.
    #[must_use]
    pub fn help(&self) -> &'static str {
        self.help.trim_start()
    }

    /// The value in these stats.
    #[must_use]
    pub fn read(&self, stats: &Stats) -> u64 {
        (self.read)(stats)
    }
}

/// The unit of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unit {
    /// Datagrams.
    Datagrams,
    /// Bytes of payload.
    Bytes,
    /// System calls.
    Calls,
    /// Lines of the log.
    Lines,
}

/// The part that a counter belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Owner {
    /// A listener, before the handler.
    Listener,
    /// The handler that serves a listener.
    Handler,
    /// The process: there is one value, whatever the listener.
    Process,
}

/// A side of the handler.
enum Side {
    Before,
    After,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The number of datagrams that were dropped, by reason.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    /// The number for this reason.
    #[must_use]
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// The number for all reasons.
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

impl Stats {
    /// Drops before the handler: `received = handled + dropped_before_handler` at rest.
    #[must_use]
    pub fn dropped_before_handler(&self) -> u64 {
        let reasons = DropReason::ALL.into_iter().filter(|reason| reason.is_before_handler());
        reasons.map(|reason| self.dropped.of(reason)).sum()
    }
}

impl fmt::Display for Stats {
    /// The counters of a server on one line: `received=3 handled=2 ... dropped_send=0 ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counters = COUNTERS.iter().filter(|counter| counter.owner != Owner::Process);
        for (at, counter) in counters.enumerate() {
            let space = if at == 0 { "" } else { " " };
            write!(f, "{space}{}={}", counter.name, counter.read(self))?;
        }
        Ok(())
    }
}

/// Adds to a counter, unless there is nothing to add.
fn add(total: &AtomicU64, count: u64) {
    if count != 0 {
        total.fetch_add(count, Relaxed);
    }
}

/// The counters of one socket: written by its worker (rarely by a handler elsewhere), read by anyone.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    totals: Totals,
    /// The kernel's count when this one began.
    kernel_drops_before: u32,
}

impl Counters {
    /// Creates the counters of a socket on which the kernel has already dropped this many datagrams.
    pub(crate) fn beyond(kernel_drops_before: u32) -> Self {
        Self { kernel_drops_before, ..Self::default() }
    }

    /// Adds what a worker counted in one turn of its loop, and empties it.
    pub(crate) fn publish(&self, turn: &mut Stats) {
        self.totals.add(&std::mem::take(turn));
    }

    pub(crate) fn count_drop(&self, reason: DropReason) {
        self.totals.dropped[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn count_handled(&self) {
        self.totals.handled.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_log_suppressed(&self) {
        self.totals.log_suppressed.fetch_add(1, Relaxed);
    }

    /// Records the kernel's count, which is gone with its socket and has only 32 bits.
    pub(crate) fn set_kernel_drops(&self, drops: u32) {
        let drops = drops.wrapping_sub(self.kernel_drops_before);
        // Failure: there are no more, or another thread has recorded a later count.
        let _ = self.totals.kernel_drops.fetch_update(Relaxed, Relaxed, |total| {
            let more = drops.wrapping_sub(total as u32);
            (1..1 << 31).contains(&more).then(|| total + u64::from(more))
        });
    }

    pub(crate) fn snapshot(&self) -> Stats {
        self.totals.snapshot()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_turn_is_added_once_and_shows_in_the_sum() {
        let (one, two) = (Counters::default(), Counters::default());
        let mut turn = Stats { received: 3, handled: 2, sent: 1, ..Stats::default() };
        turn.dropped.count(DropReason::SourcePort, 1);
        one.publish(&mut turn);
        one.publish(&mut turn);
        two.count_drop(DropReason::Invalid);
        two.count_handled();
        two.count_log_suppressed();
        let mut sum = one.snapshot();
        sum += two.snapshot();
        assert_eq!((sum.received, sum.handled, sum.sent, sum.log_suppressed), (3, 3, 1, 1));
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
            sent: 103,
            error_replies: 104,
            received_bytes: 105,
            sent_bytes: 106,
            receive_errors: 107,
            log_suppressed: 108,
            log_dropped: 110,
            ..Stats::default()
        };
        for (at, reason) in DropReason::ALL.into_iter().enumerate() {
            turn.dropped.count(reason, 1 + at as u64);
        }
        let counters = Counters::default();
        counters.publish(&mut turn);
        assert_eq!(turn, Stats::default());
        counters.count_drop(DropReason::Send);
        counters.set_kernel_drops(109);
        let mut sum = counters.snapshot();
        sum += counters.snapshot();
        assert_eq!(
            sum.to_string(),
            "received=202 handled=204 sent=206 error_replies=208 dropped_truncated=2 dropped_source_port=4 \
             dropped_source_address=6 dropped_destination=8 dropped_access=10 dropped_rate_limit=12 \
             dropped_handler_busy=14 dropped_own_error=16 dropped_invalid=18 dropped_error_limit=20 \
             dropped_handler_failed=22 dropped_send_buffer=24 dropped_send=28 kernel_drops=218 received_bytes=210 \
             sent_bytes=212 receive_errors=214 log_suppressed=216"
        );
        assert_eq!(sum.dropped_before_handler(), 2 + 4 + 6 + 8 + 10 + 12 + 14);
        assert_eq!(COUNTERS.last().map(|counter| (counter.name, counter.read(&sum))), Some(("log_dropped", 220)));
    }

    #[test]
    fn the_echo_daemon_shows_the_packets_sent_as_echoed() {
        let others: Vec<_> = COUNTERS.iter().filter(|counter| counter.echo_name != counter.name).collect();
        assert!(matches!(others[..], [Counter { name: "sent", echo_name: "echoed", .. }]), "{others:?}");
    }
}
