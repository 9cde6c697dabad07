//! The outside's view of a server: where it listens, whether it serves, its counters, and how to stop it.

use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::heartbeat::Heartbeat;
use crate::admission::{Admission, Policy};
use crate::handler::DropLog;
use crate::socket::{BoundSocket, Families, kernel_drops};
use crate::stats::{Counters, DropReason, Stats};

/// An address that a server listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listener {
    /// The address, with the real port.
    pub address: SocketAddr,
    /// The families that it answers.
    pub families: Families,
    /// Bytes of receive buffer that the kernel granted.
    pub receive_buffer: usize,
    /// Bytes of send buffer that the kernel granted.
    pub send_buffer: usize,
}

impl From<&BoundSocket> for Listener {
    fn from(bound: &BoundSocket) -> Self {
        Self {
            address: bound.address,
            families: bound.families,
            receive_buffer: bound.receive_buffer,
            send_buffer: bound.send_buffer,
        }
    }
}

/// The progress of a server; it never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Bound, not receiving yet.
    Bound,
    /// Every socket is being received from.
    Serving,
    /// Asked to stop.
    Closing,
    /// Every socket is closed, and the handler has stopped.
    Stopped,
}

/// The state that the workers and the handles of a server share.
pub(super) struct Shared {
    pub(super) listeners: Vec<Listener>,
    pub(super) admission: Arc<Admission>,
    pub(super) drops: Arc<DropLog>,
    pub(super) closing: Arc<AtomicBool>,
    /// The time that handlers which wait have left once the server closes.
    pub(super) grace: Duration,
    phase: watch::Sender<Phase>,
    watched: OnceLock<Vec<SocketMonitor>>,
    /// Sockets that are not received from yet.
    idle: AtomicUsize,
    /// Holds on the server: its open sockets, and its handler.
    open: AtomicUsize,
}

/// A socket, as the outside sees it.
pub(super) struct SocketMonitor {
    pub(super) socket: Weak<UdpSocket>,
    pub(super) counters: Arc<Counters>,
    pub(super) heartbeat: Arc<Heartbeat>,
}

/// Held with each open socket of a server, and by what stops its handler.
pub(super) struct OpenGuard(Arc<Shared>);

impl OpenGuard {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.advance(Phase::Stopped);
        }
    }
}

impl Shared {
    pub(super) fn new(listeners: Vec<Listener>, admission: Admission, sockets: usize, grace: Duration) -> Self {
        Self {
            listeners,
            admission: admission.into(),
            drops: Arc::default(),
            closing: Arc::default(),
            grace,
            phase: watch::Sender::new(Phase::Bound),
            watched: OnceLock::new(),
            idle: sockets.into(),
            open: AtomicUsize::new(0),
        }
    }

    /// Says which sockets make up the server.
    pub(super) fn watch(&self, sockets: impl Iterator<Item = SocketMonitor>) {
        self.watched.get_or_init(|| sockets.collect());
    }

    fn watched(&self) -> &[SocketMonitor] {
        self.watched.get().map_or(&[], Vec::as_slice)
    }

    /// Says that one more socket is received from.
    pub(super) fn now_serving(&self) {
        if self.idle.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.advance(Phase::Serving);
        }
    }

    /// Closes the server, and wakes its loops in two ways: one of them may fail.
    pub(super) fn shutdown(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.advance(Phase::Closing);
        self.wake();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    fn wake(&self) {
        self.watched().iter().for_each(|watched| watched.heartbeat.wake());
    }

    /// Ready once the server closes.
    pub(super) fn closing(&self) -> impl Future<Output = ()> + use<> {
        wait_for(self.phase.subscribe(), Phase::Closing)
    }

    fn advance(&self, phase: Phase) {
        let advance = || {
            self.phase.send_if_modified(|current| {
                let later = phase > *current;
                if later {
                    *current = phase;
                }
                later
            })
        };
        // The phase is another even where a waker of somebody who waits for it panics.
        let _ = catch_unwind(AssertUnwindSafe(advance));
    }
}

async fn wait_for(mut phase: watch::Receiver<Phase>, at_least: Phase) {
    // An error means that the server is gone, which is as far as it goes.
    let _ = phase.wait_for(|phase| *phase >= at_least).await;
}

/// Asks and stops a server; clones are of the same server, and outlive it.
#[derive(Clone)]
pub struct ServerHandle(Arc<Shared>);

impl std::fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerHandle").field("listeners", &self.listeners()).field("phase", &self.phase()).finish()
    }
}

impl ServerHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// The addresses that it listens on.
    #[must_use]
    pub fn listeners(&self) -> &[Listener] {
        &self.0.listeners
    }

    /// The phase that it has reached.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.phase.borrow()
    }

    /// Returns whether every socket is being received from.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.phase() == Phase::Serving
    }

    /// Asks the server to stop: a handler that is still starting is interrupted, batches in hand are finished, and
    /// handlers that wait have the [grace](super::ServerOptions::shutdown_grace) to end. Never panics.
    pub fn shutdown(&self) {
        self.0.shutdown();
    }

    /// Wakes every loop again. For a [`shutdown`](Self::shutdown) that shows no effect: its own wake-ups are system
    /// calls (`write(2)` to an eventfd), which can fail.
    pub fn wake(&self) {
        self.0.wake();
    }

    /// Changes which sources get a reply and how often, at once.
    pub fn set_policy(&self, policy: &Policy) {
        self.0.admission.set_policy(policy);
    }

    /// Takes an example of those who got no reply for this reason: the first since this was last called.
    #[must_use]
    pub fn take_dropped_example(&self, reason: DropReason) -> Option<SocketAddr> {
        self.0.drops.take_example(reason)
    }

    /// Waits until the server has come this far, or further.
    pub async fn wait_for_phase(&self, phase: Phase) {
        wait_for(self.0.phase.subscribe(), phase).await;
    }

    /// Asks every loop for a proof that it turns and can ask its socket for datagrams; an idle one wakes for it.
    pub fn request_heartbeats(&self) {
        self.0.watched().iter().for_each(|watched| watched.heartbeat.ask());
    }

    /// The number of proofs that each loop has given, one for each time that it was asked and could.
    #[must_use]
    pub fn heartbeats(&self) -> Vec<u64> {
        self.0.watched().iter().map(|watched| watched.heartbeat.heartbeats()).collect()
    }

    /// The counters of all workers together.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for SocketMonitor { socket, counters, .. } in self.0.watched() {
            if let Some(drops) = socket.upgrade().and_then(|socket| kernel_drops(socket.as_fd()).ok()) {
                counters.set_kernel_drops(drops);
            }
            stats += counters.snapshot();
        }
        stats
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Wake};

    use super::*;

    /// A waker whose system call fails, as tokio's may.
    struct Failing;

    impl Wake for Failing {
        fn wake(self: Arc<Self>) {
            panic!("failed to wake the loop");
        }
    }

    #[test]
    fn wakers_that_panic_do_not_keep_a_server_from_being_shut_down() {
        let admission = Admission::new([], &Policy::open());
        let server = ServerHandle::new(Shared::new(Vec::new(), admission, 1, Duration::ZERO).into());
        let heartbeat = Arc::<Heartbeat>::default();
        let watched =
            SocketMonitor { socket: Weak::new(), counters: Arc::default(), heartbeat: Arc::clone(&heartbeat) };
        server.0.watch([watched].into_iter());
        let waker = Arc::new(Failing).into();
        let mut closing = pin!(server.0.closing());
        assert!(closing.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        heartbeat.poll_requested(&waker);
        server.shutdown();
        heartbeat.poll_requested(&waker);
        server.request_heartbeats();
        heartbeat.poll_requested(&waker);
        server.wake();
        assert_eq!(server.phase(), Phase::Closing);
    }
}
