//! Log lines about a running server: the first ones, the counters, and the once-a-second summaries.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::settings::source::{INSTALLED, Loaded};
use super::settings::{Listen, Reloadable, Settings};
use crate::counted::counted;
use crate::message_id;
use crate::server::Listener;
use crate::socket::Families;
use crate::stats::{COUNTERS, Counter, Owner, Stats};

/// The bytes of receive buffer that a small datagram takes. The kernel counts 832, but it also doubles the size that
/// was requested (socket(7)): half of that.
const SMALL_DATAGRAM: usize = 416;

/// The most addresses or prefixes that a log line names.
const ADDRESSES_SHOWN: usize = 8;

/// Joins the first few items of a list, and says how many more there are.
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

/// The origin of the sockets.
#[derive(Clone, Debug, Default)]
pub(super) struct SocketSource {
    /// The number of sockets that a socket unit passed.
    pub(super) handed_over: usize,
    /// The number of sockets that the service manager kept across a restart.
    pub(super) kept: usize,
    /// The addresses of kept sockets that the daemon could not bind itself.
    pub(super) not_bindable: BTreeSet<SocketAddr>,
    /// The number of datagrams that the kernel had already dropped on them.
    pub(super) dropped_before: u64,
}

/// A listener as log lines show it: its address, its address families, and its protocol.
pub(super) fn describe(listener: &Listener, listen: &Listen) -> String {
    format!("{} ({}), protocol {}", listen.shown(listener.address), listener.families, listener.service)
}

/// The origin of settings, as the end of a line that says what happened to them.
pub(super) fn origin(loaded: &Loaded) -> String {
    match &loaded.file {
        Some(path) => format!(" from {}", path.display()),
        None => format!(": no settings file at {INSTALLED}, using the defaults"),
    }
}

/// Logs where the settings were read from at the start.
pub(super) fn settings_read(loaded: &Loaded) {
    tracing::info!(message_id = message_id::SETTINGS_READ, "settings read{}", origin(loaded));
}

/// Logs the listeners and their buffers: the first lines of the log.
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

/// Returns whether the kernel granted what was requested, give or take its rounding.
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

/// Logs which sockets the daemon did not bind itself, and which settings they override.
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
            "{} works only while systemd keeps the socket: after a stop or a reboot it could not be bound; a port \
             below 1024 needs CAP_NET_BIND_SERVICE (in a unit: AmbientCapabilities=CAP_NET_BIND_SERVICE)",
            join(not_bindable)
        );
    }
}

/// Warns where `listen` differs from the sockets of a socket unit.
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

/// Warns if there are fewer workers than the settings ask for.
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

/// Logs all counters.
pub(super) fn counters(stats: &Stats) {
    tracing::info!(message_id = message_id::COUNTERS, "counters: {}", named(COUNTERS, stats));
}

/// Logs the counters of one listener.
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

/// Logs the last line.
pub(super) fn stopped(stats: &Stats) {
    tracing::info!(message_id = message_id::STOPPED, "stopped: {}", named(COUNTERS, stats));
}

/// Counters on one line: `received=3 handled=2 echoed=2 ...`.
fn named<'a>(counters: impl IntoIterator<Item = &'a Counter>, stats: &Stats) -> String {
    let values = counters.into_iter().map(|counter| format!("{}={}", counter.echo_name, counter.read(stats)));
    values.collect::<Vec<_>>().join(" ")
}

/// Logs how many request lines were suppressed since the last time, if any.
pub(super) fn suppressed(requests: u64) {
    if requests > 0 {
        tracing::info!(
            message_id = message_id::REQUESTS_SUPPRESSED,
            "suppressed {} (over log.requests-per-second)",
            counted(requests, "more request line")
        );
    }
}

/// Warns of sources that are exempt from the rate limit: anyone can spoof their addresses.
pub(super) fn exempt(reloadable: &Reloadable) {
    let exempt = &reloadable.policy.rate_limit.exempt;
    if !exempt.is_empty() {
        tracing::warn!(
            message_id = message_id::EXEMPT,
            "exempt from the rate limit: {}; so is anyone who can spoof these addresses, and an echo service there \
             could loop with this one at full speed",
            first_few(exempt.iter().map(ToString::to_string), ADDRESSES_SHOWN, ", ")
        );
    }
}
