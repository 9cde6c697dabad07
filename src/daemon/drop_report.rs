//! The report on datagrams that got no reply: one line for each reason, at most once a minute while drops go on.
//!
//! However many strangers cause drops, there are no more lines than reasons. At level debug each drop has its own line.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::counted::counted;
use crate::message_id;
use crate::server::ServerHandle;
use crate::stats::{DropReason, Drops};

/// The minimum time between two lines for the same reason.
const INTERVAL: Duration = Duration::from_secs(60);

/// Drops reported so far.
#[derive(Default)]
pub(super) struct DropReport([Reported; DropReason::ALL.len()]);

/// Drops reported for one reason.
#[derive(Clone, Copy, Default)]
struct Reported {
    drops: u64,
    at: Option<Instant>,
    /// The time of the first drop that is not reported yet.
    pending_since: Option<Instant>,
}

impl DropReport {
    /// Reports the new drops of each reason that is due; called once a second.
    pub(super) fn tick(&mut self, now: Instant, drops: &Drops, server: &ServerHandle) {
        for (reason, reported) in DropReason::ALL.into_iter().zip(&mut self.0) {
            if let Some((count, time)) = reported.take_due(now, drops.of(reason)) {
                report(reason, count, time, server.take_dropped_example(reason));
            }
        }
    }
}

impl Reported {
    /// The number of drops to report now, and the period they fall in.
    fn take_due(&mut self, now: Instant, total: u64) -> Option<(u64, &'static str)> {
        let count = total - self.drops;
        if count == 0 {
            return None;
        }
        let since = *self.pending_since.get_or_insert(now);
        if self.at.is_some_and(|at| now.duration_since(at) < INTERVAL) {
            return None;
        }
        *self = Self { drops: total, at: Some(now), pending_since: None };
        Some((count, if since == now { "second" } else { "minute" }))
    }
}

fn report(reason: DropReason, count: u64, time: &str, example: Option<SocketAddr>) {
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
        DropReason::RateLimit => event!(warn, message_id::LIMITED),
        DropReason::SendBuffer => event!(warn, message_id::SEND_BUFFER_FULL),
        _ => event!(info, message_id::DROPPED),
    }
}

fn describe(reason: DropReason, count: u64) -> String {
    let (noun, which) = match reason {
        DropReason::Truncated => ("datagram", "that did not fit in the buffer"),
        DropReason::SourcePort => ("datagram", "from source ports that could loop"),
        DropReason::SourceAddress => ("datagram", "from addresses that no client can have"),
        DropReason::Destination => ("datagram", "to broadcast or multicast addresses"),
        DropReason::Access => ("datagram", "from sources that [access] denies"),
        DropReason::RateLimit => ("datagram", "over the rate limit"),
        DropReason::HandlerBusy => ("datagram", "while the handler was busy"),
        DropReason::OwnError => ("datagram", "identical to this server's own error reply"),
        DropReason::Invalid => ("datagram", "without valid JSON"),
        DropReason::ErrorLimit => ("datagram", "without valid JSON, over the error reply limit"),
        DropReason::HandlerFailed => ("datagram", "because the handler failed"),
        DropReason::SendBuffer => ("reply", "that found no room in the send buffer"),
        DropReason::Send => ("reply", "that the kernel refused"),
    };
    format!("{} {which}", counted(count, noun))
}

fn advice(reason: DropReason) -> &'static str {
    match reason {
        DropReason::RateLimit => "; for a trusted source, raise rate-limit.per-second or add it to rate-limit.exempt",
        DropReason::SendBuffer => {
            ": replies to neighbours that do not answer fill it, or the network is too slow; see FORGED NEIGHBOURS in \
             echo-udpd(8)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_reported_at_once_and_then_once_a_minute_while_it_lasts() {
        let start = Instant::now();
        let mut reported = Reported::default();
        let mut seen = Vec::new();
        for second in 0..300 {
            // One drop per second for 130 seconds, and one more much later.
            let total = second.min(130) + u64::from(second >= 250);
            let due = reported.take_due(start + Duration::from_secs(second), total);
            seen.extend(due.map(|(count, time)| (second, count, time)));
        }
        let expected =
            [(1, 1, "second"), (61, 60, "minute"), (121, 60, "minute"), (181, 9, "minute"), (250, 1, "second")];
        assert_eq!(seen, expected);
    }
}
