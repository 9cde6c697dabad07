//! Who got no reply, and why: for each reason an example that the operator can be shown, and a line at level debug.
//!
//! A stranger can cause any number of drops. What is kept is one address for each reason, and the lines have a rate.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::Level;

use crate::ledger::DropReason;
use crate::message;
use crate::pace::Pace;

/// For each reason the first peer since it was last asked for; shared by the workers of a server.
#[derive(Debug, Default)]
pub(crate) struct DropExamples([Example; DropReason::ALL.len()]);

#[derive(Debug, Default)]
struct Example {
    /// So that a flood reads one word, and locks nothing.
    noted: AtomicBool,
    peer: Mutex<Option<SocketAddr>>,
}

impl DropExamples {
    fn note(&self, reason: DropReason, peer: SocketAddr) {
        let example = &self.0[reason as usize];
        if !example.noted.load(Relaxed) {
            *example.peer.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer);
            example.noted.store(true, Relaxed);
        }
    }

    /// Takes the example, so that the next drop for this reason is the next one.
    pub(crate) fn take(&self, reason: DropReason) -> Option<SocketAddr> {
        let example = &self.0[reason as usize];
        let peer = example.peer.lock().unwrap_or_else(PoisonError::into_inner).take();
        example.noted.store(false, Relaxed);
        peer
    }
}

/// One worker's record of drops.
#[derive(Debug)]
pub(crate) struct DropLog {
    examples: Arc<DropExamples>,
    pace: Pace,
}

impl DropLog {
    /// A record with up to 100 lines a second, and 500 at once.
    pub(crate) fn new(examples: Arc<DropExamples>) -> Self {
        Self { examples, pace: Pace::new(100, 500) }
    }

    /// Records that a datagram of `peer` to the address `local` gets no reply.
    pub(crate) fn record(&self, reason: DropReason, peer: SocketAddr, local: SocketAddr) {
        self.examples.note(reason, peer);
        if tracing::enabled!(Level::DEBUG) && self.pace.allow(Instant::now()) {
            tracing::debug!(
                message_id = message::DROPPED_ONE,
                peer_address = %peer.ip(),
                peer_port = peer.port(),
                local_address = %local.ip(),
                local_port = local.port(),
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
        let examples = Arc::<DropExamples>::default();
        let log = DropLog::new(Arc::clone(&examples));
        let peer = |port| SocketAddr::from(([192, 0, 2, 7], port));
        for port in 1..4 {
            log.record(DropReason::SourcePort, peer(port), peer(9000));
        }
        assert_eq!(examples.take(DropReason::Access), None);
        assert_eq!(examples.take(DropReason::SourcePort), Some(peer(1)));
        assert_eq!(examples.take(DropReason::SourcePort), None);
        log.record(DropReason::SourcePort, peer(4), peer(9000));
        assert_eq!(examples.take(DropReason::SourcePort), Some(peer(4)));
    }
}
