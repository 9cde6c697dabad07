//! The lines of the log about a running server: the first ones, the counters, and what a second brought.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::settings::source::{INSTALLED, Loaded};
use super::settings::{Listen, Reloadable, Settings};
use crate::counted::counted;
use crate::message_id;
use crate::server::Listener;
use crate::socket::Families;
use crate::stats::{COUNTERS, Counter, Owner, Stats};

/// Bytes of receive buffer that a datagram of few bytes takes, as the kernel counts it: half of its 832 bytes, since it
/// also doubles the size that it is asked for (socket(7)).
const SMALL_DATAGRAM: usize = 416;

/// How many addresses or prefixes a line of the log names.
const ADDRESSES_SHOWN: usize = 8;

/// The first few of a list, with this between them, and how many more.
pub(super) fn first_few(shown: impl Iterator<Item = String>, limit: usize, between: &str) -> String {
    let mut shown: Vec<_> = shown.collect();
    let more = shown.len().saturating_sub(limit);
    shown.truncate(limit);
    let shown = shown.join(between);
    match (more, between) {
        (0, _) => shown,
        (_, ", ") => format!("{shown} and {more} more"),
        _ => format!("{shown}{between}and {more} more"),
    }
}

/// Where the sockets come from.
#[derive(Clone, Debug, Default)]
pub(super) struct SocketSource {
    /// The number that a socket unit passed.
    pub(super) handed_over: usize,
    /// The number that the service manager kept over a restart.
    pub(super) kept: usize,
    /// Of those, the addresses that the daemon could not bind itself.
    pub(super) not_bindable: BTreeSet<SocketAddr>,
    /// Datagrams that the kernel had dropped on them before.
    pub(super) dropped_before: u64,
}

/// A listener as lines show it: its address, the families that it answers, and its protocol.
pub(super) fn describe(listener: &Listener, listen: &Listen) -> String {
    format!("{} ({}), protocol {}", listen.shown(listener.address), listener.families, listener.service)
}

/// Where settings come from, as the end of a line that says what happened to them.
pub(super) fn origin(loaded: &Loaded) -> String {
    match &loaded.file {
        Some(path) => format!(" from {}", path.display()),
        None => format!(": no settings file at {INSTALLED}, using the defaults"),
    }
}

/// Where the settings of the start come from.
pub(super) fn settings_read(loaded: &Loaded) {
    tracing::info!(message_id = message_id::SETTINGS_READ, "settings read{}", origin(loaded));
}

/// The first lines of the log.
pub(super) fn listeners(listeners: &[Listener], settings: &Settings) {
    for listener in listeners {
        if listener.families == Families::Ipv4Fallback {
            tracing::warn!(
                message_id = message_id::NO_IPV6,
                "IPv6 is not available: listening on {} instead of [::]:{}",
                listener.address,
                listener.address.port()
            );
        }
        tracing::info!(
            message_id = message_id::LISTENING,
            local_address = %listener.address.ip(),
            local_port = listener.address.port(),
            listener_protocol = listener.service,
            receive_buffer = listener.receive_buffer,
            send_buffer = listener.send_buffer,
            "listening on {}",
            describe(listener, &settings.listen)
        );
    }
    for listener in listeners {
        receive_buffer(listener, settings);
        send_buffer(listener, settings);
    }
}

/// Returns whether the kernel granted what was asked for, but for rounding.
fn is_enough(granted: usize, wanted: usize) -> bool {
    granted >= wanted / 10 * 9
}

fn receive_buffer(listener: &Listener, settings: &Settings) {
    let wanted = settings.receive_buffer_bytes.value() as usize;
    let (address, granted) = (settings.listen.shown(listener.address), listener.receive_buffer);
    let room = granted / SMALL_DATAGRAM;
    if is_enough(granted, wanted) {
        tracing::info!(
            message_id = message_id::LISTENING,
            "receive buffer of {address}: {granted} bytes, room for about {room} small datagrams"
        );
    } else {
        tracing::warn!(
            message_id = message_id::RECEIVE_BUFFER_SMALL,
            "receive buffer of {address}: the kernel granted {granted} of {wanted} bytes (about {room} small \
             datagrams; larger bursts are dropped); raise net.core.rmem_max to {wanted}"
        );
    }
}

fn send_buffer(listener: &Listener, settings: &Settings) {
    let wanted = settings.send_buffer_bytes.value() as usize;
    let (address, granted) = (settings.listen.shown(listener.address), listener.send_buffer);
    if is_enough(granted, wanted) {
        tracing::info!(message_id = message_id::LISTENING, "send buffer of {address}: {granted} bytes");
    } else {
        tracing::warn!(
            message_id = message_id::SEND_BUFFER_SMALL,
            "send buffer of {address}: the kernel granted {granted} of {wanted} bytes (replies to neighbours \
             that do not answer can fill it, and others are dropped); raise net.core.wmem_max to {wanted}"
        );
    }
}

/// Sockets that the daemon did not bind, and what of the settings they overrule.
pub(super) fn sockets(source: &SocketSource, listeners: &[Listener], settings: &Settings) {
    let SocketSource { handed_over, kept, not_bindable, dropped_before } = source;
    let dropped = match dropped_before {
        0 => String::new(),
        drops => format!("; the kernel has already dropped {}: the buffer was full", counted(*drops, "datagram")),
    };
    if *handed_over > 0 {
        tracing::info!(
            message_id = message_id::INHERITED,
            "using {} passed by a socket unit{dropped}",
            counted(*handed_over as u64, "socket")
        );
        listen_ignored(listeners, settings);
    }
    if *kept > 0 {
        tracing::info!(
            message_id = message_id::INHERITED,
            "restored {} from the previous run, including queued datagrams{dropped}",
            counted(*kept as u64, "socket")
        );
    }
    if !not_bindable.is_empty() {
        tracing::warn!(
            message_id = message_id::NOT_BINDABLE,
            "{} works only while systemd keeps the socket: after a stop or a boot it could not be bound, a port below \
             1024 needs the capability CAP_NET_BIND_SERVICE (in a unit: AmbientCapabilities=CAP_NET_BIND_SERVICE)",
            join(not_bindable)
        );
    }
}

/// Warns where `listen` says something else than the sockets of a socket unit.
fn listen_ignored(listeners: &[Listener], settings: &Settings) {
    let passed: BTreeSet<_> = listeners.iter().map(|listener| settings.listen.shown(listener.address)).collect();
    let listen: BTreeSet<_> = settings.listen.addresses().cloned().collect();
    if passed != listen {
        tracing::warn!(
            message_id = message_id::LISTEN_IGNORED,
            "ignoring `listen` ({}): the socket unit passed {}; change ListenDatagram= there",
            join(&listen),
            join(&passed)
        );
    }
    for listener in listeners {
        let address = settings.listen.shown(listener.address);
        let mut wanted = settings.listen.with_default(settings.reply.protocol);
        if let Some((_, protocol)) =
            wanted.find(|&(listen, protocol)| *listen == address && protocol.name() != listener.service)
        {
            tracing::warn!(
                message_id = message_id::LISTEN_IGNORED,
                "ignoring the protocol of {address} in `listen` ({protocol}): the socket unit's is {}; change \
                 FileDescriptorName= there",
                listener.service
            );
        }
    }
}

/// Fewer workers than the settings ask for.
pub(super) fn workers(running: usize, settings: &Settings) {
    let wanted = settings.worker_count();
    if running < wanted {
        tracing::warn!(
            message_id = message_id::FEWER_WORKERS,
            "running {}, not {wanted}: there is one socket per worker; to pass more, set ReusePort=yes and repeat \
             ListenDatagram=",
            counted(running as u64, "worker")
        );
    }
}

fn join(addresses: &BTreeSet<impl ToString>) -> String {
    first_few(addresses.iter().map(ToString::to_string), ADDRESSES_SHOWN, ", ")
}

/// All counters.
pub(super) fn counters(stats: &Stats) {
    tracing::info!(message_id = message_id::COUNTERS, "counters: {}", named(COUNTERS, stats));
}

/// The counters of one listener.
pub(super) fn listener_counters(listener: &Listener, stats: &Stats) {
    let Listener { address, service, .. } = listener;
    let counters = COUNTERS.iter().filter(|counter| counter.owner != Owner::Process);
    tracing::info!(
        message_id = message_id::COUNTERS,
        local_address = %address.ip(),
        local_port = address.port(),
        listener_protocol = service,
        "counters of {address}, protocol {service}: {}",
        named(counters, stats)
    );
}

/// The last line.
pub(super) fn stopped(stats: &Stats) {
    tracing::info!(message_id = message_id::STOPPED, "stopped: {}", named(COUNTERS, stats));
}

/// Counters on one line: `received=3 handled=2 echoed=2 ...`.
fn named<'a>(counters: impl IntoIterator<Item = &'a Counter>, stats: &Stats) -> String {
    let values = counters.into_iter().map(|counter| format!("{}={}", counter.echo_name, counter.read(stats)));
    values.collect::<Vec<_>>().join(" ")
}

/// Requests without a line of their own.
pub(super) fn suppressed(requests: u64) {
    if requests > 0 {
        tracing::info!(
            message_id = message_id::REQUESTS_SUPPRESSED,
            "{} not logged (over log.requests-per-second)",
            counted(requests, "more request")
        );
    }
}

/// Warns of sources that are exempt from the rate limit: anyone can spoof their addresses.
pub(super) fn exempt(live: &Reloadable) {
    let exempt = &live.policy.rate_limit.exempt;
    if !exempt.is_empty() {
        tracing::warn!(
            message_id = message_id::EXEMPT,
            "exempt from the rate limit, and so is anyone who can spoof their addresses: {}; an echo service there \
             could loop with this one at full speed",
            first_few(exempt.iter().map(ToString::to_string), ADDRESSES_SHOWN, ", ")
        );
    }
}
