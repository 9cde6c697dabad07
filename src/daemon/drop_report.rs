//! What the operator is told of datagrams that got no reply: one line for each reason, at most once a minute while it
//! lasts.
//!
//! However many strangers cause drops, there are no more lines than reasons. Each single drop is a line at level debug.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::ledger::{DropReason, Drops};
use crate::message;
use crate::server::ServerHandle;

/// The least time between two lines on the same reason.
const INTERVAL: Duration = Duration::from_secs(60);

/// What has been reported so far.
#[derive(Default)]
pub(super) struct DropReport([Reported; DropReason::ALL.len()]);

#[derive(Clone, Copy, Default)]
struct Reported {
    drops: u64,
    at: Option<Instant>,
}

impl DropReport {
    /// Reports what is new and due; called each second.
    pub(super) fn tick(&mut self, now: Instant, drops: &Drops, server: &ServerHandle) {
        for (reason, reported) in DropReason::ALL.into_iter().zip(&mut self.0) {
            let total = drops.of(reason);
            let since = reported.at.map(|at| now.duration_since(at));
            if total == reported.drops || since.is_some_and(|since| since < INTERVAL) {
                continue;
            }
            // After a quiet time they have come since the last tick.
            let lasts = since.is_some_and(|since| since < 2 * INTERVAL);
            report(reason, total - reported.drops, lasts, server.take_dropped_example(reason));
            *reported = Reported { drops: total, at: Some(now) };
        }
    }
}

fn report(reason: DropReason, count: u64, lasts: bool, example: Option<SocketAddr>) {
    let time = if lasts { "minute" } else { "second" };
    let shown = example.map_or_else(String::new, |peer| format!(", e.g. {peer}"));
    let line = format!("dropped {} ({reason}) in the last {time}{shown}{}", describe(reason, count), advice(reason));
    macro_rules! event {
        ($level:ident, $message_id:expr) => {
            tracing::$level!(
                message_id = $message_id,
                drop_reason = reason.name(),
                drop_count = count,
                peer_address = example.map(|peer| tracing::field::display(peer.ip())),
                peer_port = example.map(|peer| peer.port()),
                "{line}"
            )
        };
    }
    match reason {
        DropReason::RateLimit => event!(warn, message::LIMITED),
        DropReason::SendBuffer => event!(warn, message::SEND_BUFFER_FULL),
        _ => event!(info, message::DROPPED),
    }
}

fn describe(reason: DropReason, count: u64) -> String {
    let s = if count == 1 { "" } else { "s" };
    match reason {
        DropReason::Truncated => format!("{count} datagram{s} that did not fit the buffer"),
        DropReason::SourcePort => format!("{count} datagram{s} from source ports that could loop"),
        DropReason::SourceAddress => format!("{count} datagram{s} from addresses that no client has"),
        DropReason::Destination => format!("{count} datagram{s} to broadcast or multicast addresses"),
        DropReason::Access => format!("{count} datagram{s} from sources that [access] denies"),
        DropReason::RateLimit => format!("{count} datagram{s} over the rate limit"),
        DropReason::HandlerBusy => format!("{count} datagram{s} while the handler was busy"),
        DropReason::OwnError => format!("{count} datagram{s} with the error reply of an echo service"),
        DropReason::Invalid => format!("{count} datagram{s} that are not JSON"),
        DropReason::ErrorLimit => format!("{count} datagram{s} that are not JSON, over the limit of error replies"),
        DropReason::HandlerFailed => format!("{count} datagram{s} because the handler failed"),
        DropReason::SendBuffer => {
            format!("{count} repl{} that found no room in the send buffer", if count == 1 { "y" } else { "ies" })
        }
        DropReason::Send => format!("{count} repl{} that the kernel refused", if count == 1 { "y" } else { "ies" }),
    }
}

fn advice(reason: DropReason) -> &'static str {
    match reason {
        DropReason::RateLimit => "; if it is trusted, raise rate-limit.per-second or add it to rate-limit.exempt",
        DropReason::SendBuffer => {
            ": replies to neighbours that do not answer fill it, or the network is too slow; see FORGED NEIGHBOURS in \
             echo-udpd(8)"
        }
        _ => "",
    }
}
