//! What the outside holds of a server: where it listens, whether it serves, its counters, and how to stop it.

use std::future::Future;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use tokio::sync::watch;

use crate::admission::{Admission, Policy};
use crate::ledger::{Counters, Stats};
use crate::socket::{BoundSocket, Families, kernel_drops};

/// An address that a server listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listener {
    /// The address, with the real port.
    pub address: SocketAddr,
    /// Which families it answers.
    pub families: Families,
    /// Bytes of receive buffer that the kernel granted.
    pub receive_buffer: usize,
}

impl From<&BoundSocket> for Listener {
    fn from(bound: &BoundSocket) -> Self {
        Self { address: bound.address, families: bound.families, receive_buffer: bound.receive_buffer }
    }
}

/// How far a server has come; it never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Bound, not receiving yet.
    Bound,
    /// Every socket is being received from.
    Serving,
    /// Asked to stop.
    Closing,
    /// Every socket is closed.
    Stopped,
}

/// What the workers and the handles of a server share.
pub(super) struct Shared {
    pub(super) listeners: Vec<Listener>,
    pub(super) admission: Arc<Admission>,
    pub(super) closing: Arc<AtomicBool>,
    phase: watch::Sender<Phase>,
    watched: OnceLock<Vec<Watched>>,
    /// Sockets that are not received from yet.
    idle: AtomicUsize,
    /// Sockets that are open.
    open: AtomicUsize,
}

/// What the outside sees of one socket.
pub(super) struct Watched {
    pub(super) socket: Weak<UdpSocket>,
    pub(super) counters: Arc<Counters>,
    pub(super) pulse: Arc<Pulse>,
}

/// Proof that a socket's loop turns: asked for from outside, given by the loop once it could ask the socket for
/// datagrams.
#[derive(Default)]
pub(super) struct Pulse {
    asked: AtomicBool,
    proofs: AtomicU64,
    waker: AtomicWaker,
}

impl Pulse {
    fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        let Some(waker) = self.waker.take() else { return };
        // tokio panics where it cannot wake a loop; whoever asks again tries again.
        if catch_unwind(AssertUnwindSafe(|| waker.wake_by_ref())).is_err() {
            self.waker.register(&waker);
        }
    }

    /// Whether the loop is asked; it is woken with this when it will be.
    pub(super) fn poll_asked(&self, waker: &Waker) -> bool {
        self.waker.register(waker);
        self.asked.load(Ordering::Acquire)
    }

    /// The loop could ask its socket.
    pub(super) fn prove(&self) {
        if self.asked.load(Ordering::Relaxed) && self.asked.swap(false, Ordering::AcqRel) {
            self.proofs.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Held with each open socket of a server.
pub(super) struct Open(pub(super) Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.advance(Phase::Stopped);
        }
    }
}

impl Shared {
    pub(super) fn new(listeners: Vec<Listener>, admission: Admission, sockets: usize) -> Self {
        Self {
            listeners,
            admission: admission.into(),
            closing: Arc::default(),
            phase: watch::Sender::new(Phase::Bound),
            watched: OnceLock::new(),
            idle: sockets.into(),
            open: sockets.into(),
        }
    }

    /// Says which sockets make up the server.
    pub(super) fn watch(&self, sockets: impl Iterator<Item = Watched>) {
        self.watched.get_or_init(|| sockets.collect());
    }

    fn watched(&self) -> &[Watched] {
        self.watched.get().map_or(&[], Vec::as_slice)
    }

    /// Says that one more socket is received from.
    pub(super) fn now_serving(&self) {
        if self.idle.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.advance(Phase::Serving);
        }
    }

    pub(super) fn shutdown(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.advance(Phase::Closing);
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
        // tokio panics where it cannot wake a loop (a `write(2)` to its eventfd that fails). The phase has changed by
        // then, and the loop sees it when it is woken again, for a proof say.
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

    /// What it listens on.
    #[must_use]
    pub fn listeners(&self) -> &[Listener] {
        &self.0.listeners
    }

    /// How far it has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.phase.borrow()
    }

    /// Whether every socket is being received from.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.phase() == Phase::Serving
    }

    /// Asks the server to stop: batches in hand are finished, handlers that wait have a second to end.
    pub fn shutdown(&self) {
        self.0.shutdown();
    }

    /// Changes who is answered and how often, at once.
    pub fn set_policy(&self, policy: &Policy) {
        self.0.admission.set_policy(policy);
    }

    /// A source that was over its rate: at most one in 30 s, and none twice.
    #[must_use]
    pub fn take_limited(&self) -> Option<IpAddr> {
        self.0.admission.take_limited()
    }

    /// Waits until the server has come this far, or further.
    pub async fn reached(&self, phase: Phase) {
        wait_for(self.0.phase.subscribe(), phase).await;
    }

    /// Asks every loop for a proof that it turns and can ask its socket for datagrams; an idle one wakes for it.
    pub fn ask_for_proof(&self) {
        self.0.watched().iter().for_each(|watched| watched.pulse.ask());
    }

    /// How many proofs each loop has given, one for each time that it was asked and could.
    #[must_use]
    pub fn proofs(&self) -> Vec<u64> {
        self.0.watched().iter().map(|watched| watched.pulse.proofs.load(Ordering::Relaxed)).collect()
    }

    /// The counters of all workers together.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for Watched { socket, counters, .. } in self.0.watched() {
            if let Some(drops) = socket.upgrade().and_then(|socket| kernel_drops(socket.as_fd()).ok()) {
                counters.set_kernel_drops(drops);
            }
            stats += counters.snapshot();
        }
        stats
    }
}
