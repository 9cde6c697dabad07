//! What the operator is told of a running server: the first lines of the log, the status line, and what a second brought.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use super::settings::{Reloadable, Settings};
use crate::ledger::Stats;
use crate::message;
use crate::server::{Listener, ServerHandle};
use crate::socket::Families;

/// What a datagram of few bytes takes of a receive buffer, as the kernel counts it: half of its 832 bytes, since it also
/// doubles the size that it is asked for (socket(7)).
const SMALL_DATAGRAM: usize = 416;

/// The line of `systemctl status`.
pub(super) struct Status {
    listeners: String,
    /// What the last reload left to say.
    pub(super) note: String,
    /// The counters of the last tick but one and of the last, each with its time.
    ticks: [(Instant, Stats); 2],
}

impl Status {
    pub(super) fn new(server: &ServerHandle) -> Self {
        let listeners: Vec<_> = server.listeners().iter().map(describe).collect();
        let now = (Instant::now(), server.stats());
        Self { listeners: listeners.join(", "), note: String::new(), ticks: [now, now] }
    }

    /// Takes the counters of this moment; rates are those since the last time.
    pub(super) fn tick(&mut self, now: Instant, stats: Stats) {
        self.ticks.swap(0, 1);
        self.ticks[1] = (now, stats);
    }

    pub(super) fn line(&self, log_dropped: u64) -> String {
        let [(since, before), (now, stats)] = &self.ticks;
        let seconds = now.duration_since(*since).as_secs_f64();
        let count = |of: fn(&Stats) -> u64| match ((of(stats) - of(before)) as f64 / seconds).round() {
            rate if rate >= 1.0 => format!("{} ({rate}/s)", of(stats)),
            _ => of(stats).to_string(),
        };
        format!(
            "listening on {}; received {}, echoed {}, error replies {}, dropped {}, kernel drops {}, log lines lost \
             {log_dropped}{}",
            self.listeners,
            count(|stats| stats.received),
            count(|stats| stats.echoed),
            count(|stats| stats.error_replies),
            count(|stats| stats.dropped.total()),
            count(|stats| stats.kernel_drops),
            self.note
        )
    }
}

/// Where the sockets come from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Origin {
    /// How many are a socket unit's.
    pub(super) handed_over: usize,
    /// How many the service manager kept over a restart.
    pub(super) kept: usize,
    /// What the kernel had dropped on them before.
    pub(super) dropped_before: u64,
    /// How many workers serve them.
    pub(super) workers: usize,
}

fn describe(listener: &Listener) -> String {
    format!("{} ({})", listener.address, listener.families)
}

/// The first lines of the log.
pub(super) fn listeners(listeners: &[Listener], wanted: usize) {
    for listener in listeners {
        if listener.families == Families::Ipv4Only {
            tracing::warn!(
                message_id = message::NO_IPV6,
                "this host has no IPv6: {} is served instead of [::]:{}",
                listener.address,
                listener.address.port()
            );
        }
        let granted = listener.receive_buffer;
        tracing::info!(
            message_id = message::LISTENING,
            local_address = %listener.address.ip(),
            local_port = listener.address.port(),
            receive_buffer = granted,
            "listening on {}",
            describe(listener)
        );
    }
    for listener in listeners {
        let granted = listener.receive_buffer;
        let room = granted / SMALL_DATAGRAM;
        // A buffer of another size by rounding is no reason to warn.
        if granted < wanted / 10 * 9 {
            tracing::warn!(
                message_id = message::RECEIVE_BUFFER_SMALL,
                "receive buffer of {}: {granted} of {wanted} bytes granted, room for some {room} small datagrams, bursts \
                 beyond it are lost; set the sysctl net.core.rmem_max = {wanted}",
                listener.address
            );
        } else {
            tracing::info!(
                message_id = message::LISTENING,
                "receive buffer of {}: {granted} bytes, room for some {room} small datagrams",
                listener.address
            );
        }
    }
}

/// What of the settings the sockets' origin overrules.
pub(super) fn origin(origin: Origin, listeners: &[Listener], settings: &Settings) {
    let Origin { handed_over, kept, dropped_before, workers } = origin;
    let dropped = match dropped_before {
        0 => String::new(),
        drops => format!("; the kernel has dropped {drops} so far, for want of room"),
    };
    if handed_over > 0 {
        tracing::info!(
            message_id = message::INHERITED,
            "{} from a socket unit{dropped}",
            plural(handed_over, "socket")
        );
        let served: BTreeSet<SocketAddr> = listeners.iter().map(|listener| listener.address).collect();
        let listen: BTreeSet<SocketAddr> = settings.listen.addresses().iter().copied().collect();
        if served != listen {
            tracing::warn!(
                message_id = message::LISTEN_IGNORED,
                "the settings say to listen on {}, but the socket unit's {} is served: change its ListenDatagram=",
                join(&listen),
                join(&served)
            );
        }
    }
    if kept > 0 {
        tracing::info!(
            message_id = message::INHERITED,
            "{} of the last run, with the datagrams that waited{dropped}",
            plural(kept, "socket")
        );
    }
    let wanted = settings.worker_count();
    if workers < wanted {
        tracing::warn!(
            message_id = message::FEWER_WORKERS,
            "{} instead of {wanted}, one for each socket: a socket unit has more with ReusePort=yes and the same \
             ListenDatagram= several times",
            plural(workers, "worker")
        );
    }
}

fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn join(addresses: &BTreeSet<SocketAddr>) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// All counters.
pub(super) fn counters(stats: &Stats, log_dropped: u64) {
    tracing::info!(message_id = message::COUNTERS, "counters: {stats} log_dropped={log_dropped}");
}

/// The last line.
pub(super) fn stopped(stats: &Stats, log_dropped: u64) {
    tracing::info!(message_id = message::STOPPED, "stopped: {stats} log_dropped={log_dropped}");
}

/// Requests without a line of their own.
pub(super) fn unlogged(requests: u64) {
    if requests > 0 {
        tracing::info!(
            message_id = message::REQUESTS_NOT_LOGGED,
            "{requests} more requests, not logged each: over log.requests-per-second"
        );
    }
}

/// An address can be forged, a friend's too.
pub(super) fn exempt(live: &Reloadable) {
    let exempt: Vec<_> = live.policy.rate_limit.exempt.iter().map(ToString::to_string).collect();
    if !exempt.is_empty() {
        tracing::warn!(
            message_id = message::EXEMPT,
            "no rate limit for {}, nor for whoever can forge an address there",
            exempt.join(", ")
        );
    }
}
