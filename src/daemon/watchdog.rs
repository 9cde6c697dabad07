//! The service manager's watchdog: it hears of the service only while every loop of the server turns and can receive.

use std::time::{Duration, Instant};

use super::systemd;
use crate::server::ServerHandle;

/// Asks the loops for proofs, and says when all of them gave one.
pub(super) struct Watchdog {
    interval: Duration,
    due: Instant,
    proofs: Vec<u64>,
}

impl Watchdog {
    /// Asks for the first proofs; `None` when nobody watches.
    pub(super) fn start(server: &ServerHandle) -> Option<Self> {
        let interval = systemd::watchdog_interval()?;
        server.ask_for_proof();
        // The first time soon, so that the service manager has heard before its time is over.
        Some(Self { interval, due: Instant::now() + interval / 2, proofs: vec![0; server.proofs().len()] })
    }

    /// When the service manager is to hear next.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Returns whether every loop gave a proof since the last time, and asks again.
    pub(super) fn every_loop_turns(&mut self, server: &ServerHandle) -> bool {
        self.due = Instant::now() + self.interval;
        let proofs = server.proofs();
        let all = proofs.iter().zip(&self.proofs).all(|(now, before)| now > before);
        self.proofs = proofs;
        server.ask_for_proof();
        all
    }
}
