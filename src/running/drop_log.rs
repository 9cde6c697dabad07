//! Records of drops: one example of each reason for the operator, and a line at level debug for each drop.
//!
//! A stranger can cause any number of drops: only one address is kept for each reason, and the lines are rate limited.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tracing::Level;

use crate::message_id;
use crate::rate::RateLimiter;
use crate::stats::DropReason;

/// The record of drops of one server, shared by its workers.
#[derive(Debug)]
pub(crate) struct DropLog {
    examples: [Example; DropReason::ALL.len()],
    /// The rate of the lines.
    limiter: RateLimiter,
}

/// The first peer that was dropped for a reason since this was last taken.
#[derive(Debug, Default)]
struct Example {
    /// Set while there is an example, so that a flood reads one word and takes no lock.
    noted: AtomicBool,
    peer: Mutex<Option<SocketAddr>>,
}

impl Example {
    fn note(&self, peer: SocketAddr) {
        if !self.noted.load(Relaxed) {
            let mut example = self.peer.lock().unwrap_or_else(PoisonError::into_inner);
            *example = Some(peer);
            self.noted.store(true, Relaxed);
        }
    }

    fn take(&self) -> Option<SocketAddr> {
        let mut example = self.peer.lock().unwrap_or_else(PoisonError::into_inner);
        self.noted.store(false, Relaxed);
        example.take()
    }
}

impl Default for DropLog {
    /// Creates a record with up to 100 lines per second, and 500 at once.
    fn default() -> Self {
        Self { examples: Default::default(), limiter: RateLimiter::new(100, 500) }
    }
}

impl DropLog {
    /// Takes the example of a reason; the next drop becomes the next example.
    pub(crate) fn take_example(&self, reason: DropReason) -> Option<SocketAddr> {
        self.examples[reason as usize].take()
    }

    /// Records that a datagram from `peer` to the address `local` of `service` gets no reply.
    pub(crate) fn record(&self, reason: DropReason, peer: SocketAddr, local: SocketAddr, service: &'static str) {
        self.examples[reason as usize].note(peer);
        if tracing::enabled!(Level::DEBUG) && self.limiter.allow(Instant::now()) {
            tracing::debug!(
                message_id = message_id::DROPPED_ONE,
                peer_address = %peer.ip(),
                peer_port = peer.port(),
                local_address = %local.ip(),
                local_port = local.port(),
                listener_protocol = service,
                drop_reason = reason.name(),
                "no reply to {peer}, which asked {local}: {reason}",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_a_reason_is_its_first_peer_until_it_is_taken() {
        let log = DropLog::default();
        let peer = |port| SocketAddr::from(([192, 0, 2, 7], port));
        for port in 1..4 {
            log.record(DropReason::SourcePort, peer(port), peer(9000), "json");
        }
        assert_eq!(log.take_example(DropReason::Access), None);
        assert_eq!(log.take_example(DropReason::SourcePort), Some(peer(1)));
        assert_eq!(log.take_example(DropReason::SourcePort), None);
        log.record(DropReason::SourcePort, peer(4), peer(9000), "json");
        assert_eq!(log.take_example(DropReason::SourcePort), Some(peer(4)));
    }
}
