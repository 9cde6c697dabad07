//! The state that the workers and the handles of a server share, and the handle itself.

use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::{Closing, DropLog, Heartbeat, Listener};
use crate::admission::{Admission, Policy};
use crate::socket::kernel_drops;
use crate::stats::{Counters, DropReason, Stats};

/// The phase of a server; it never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Phase {
    /// Bound, not receiving yet.
    Bound,
    /// Every socket is being received from.
    Serving,
    /// Asked to stop.
    Closing,
    /// Every socket is closed, and the handlers have stopped.
    Stopped,
}

/// The state that the workers and the handles of a server share.
pub(crate) struct Shared {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) drops: Arc<DropLog>,
    pub(crate) closing: Arc<Closing>,
    /// The time for which waiting handlers may continue once the server closes.
    pub(crate) grace: Duration,
    phase: watch::Sender<Phase>,
    sockets: OnceLock<Vec<SocketMonitor>>,
    /// The number of sockets that are not received from yet.
    idle: AtomicUsize,
    /// The number of open guards: for open sockets, and for handlers that are not stopped yet.
    open: AtomicUsize,
}

/// A socket as seen from outside its loop.
pub(crate) struct SocketMonitor {
    pub(crate) socket: Weak<UdpSocket>,
    /// The index of its listener.
    pub(crate) listener: usize,
    pub(crate) counters: Arc<Counters>,
    pub(crate) heartbeat: Arc<Heartbeat>,
}

impl SocketMonitor {
    fn stats(&self) -> Stats {
        if let Some(drops) = self.socket.upgrade().and_then(|socket| kernel_drops(socket.as_fd()).ok()) {
            self.counters.set_kernel_drops(drops);
        }
        self.counters.snapshot()
    }
}

/// A guard that exists for each open socket of a server, and until its handlers have stopped.
pub(crate) struct OpenGuard(Arc<Shared>);

impl OpenGuard {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
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
    pub(crate) fn new(listeners: Vec<Listener>, admission: Admission, sockets: usize, grace: Duration) -> Self {
        Self {
            listeners,
            admission: admission.into(),
            drops: Arc::default(),
            closing: Arc::default(),
            grace,
            phase: watch::Sender::new(Phase::Bound),
            sockets: OnceLock::new(),
            idle: sockets.into(),
            open: AtomicUsize::new(0),
        }
    }

    /// Registers the sockets of the server.
    pub(crate) fn monitor(&self, sockets: impl Iterator<Item = SocketMonitor>) {
        self.sockets.get_or_init(|| sockets.collect());
    }

    fn sockets(&self) -> &[SocketMonitor] {
        self.sockets.get().map_or(&[], Vec::as_slice)
    }

    /// Notes that one more socket is received from.
    pub(crate) fn now_serving(&self) {
        if self.idle.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.advance(Phase::Serving);
        }
    }

    /// Closes the server, and wakes its loops in two ways: one of them may fail.
    pub(crate) fn shutdown(&self) {
        self.closing.begin();
        self.advance(Phase::Closing);
        self.wake();
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.has_begun()
    }

    fn wake(&self) {
        self.sockets().iter().for_each(|socket| socket.heartbeat.wake());
    }

    /// Ready once the server closes.
    pub(crate) fn closing(&self) -> impl Future<Output = ()> + Send + use<> {
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
        // The phase has changed even if the waker of somebody who waits for it panics.
        let _ = catch_unwind(AssertUnwindSafe(advance));
    }
}

async fn wait_for(mut phase: watch::Receiver<Phase>, at_least: Phase) {
    // An error means that the server is gone: it can get no further.
    let _ = phase.wait_for(|phase| *phase >= at_least).await;
}

/// A handle to query and stop a server; clones are for the same server, and may outlive it.
#[derive(Clone)]
pub struct ServerHandle(Arc<Shared>);

impl std::fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerHandle").field("listeners", &self.listeners()).field("phase", &self.phase()).finish()
    }
}

impl ServerHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// The addresses that the server listens on.
    #[must_use]
    pub fn listeners(&self) -> &[Listener] {
        &self.0.listeners
    }

    /// The phase that the server has reached.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.phase.borrow()
    }

    /// Returns whether every socket is being received from.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.phase() == Phase::Serving
    }

    /// Requests a shutdown: a handler that is still starting is interrupted, batches in progress are finished, and
    /// waiting handlers have the [grace period](crate::server::ServerOptions::shutdown_grace) to end. Never panics.
    pub fn shutdown(&self) {
        self.0.shutdown();
    }

    /// Wakes every loop again, for a [`shutdown`](Self::shutdown) that has no effect: its own wake-ups are system calls
    /// (`write(2)` to an eventfd), which can fail.
    pub fn wake(&self) {
        self.0.wake();
    }

    /// Changes which sources get a reply and how often, at once.
    pub fn set_policy(&self, policy: &Policy) {
        self.0.admission.set_policy(policy);
    }

    /// Takes an example of the clients that got no reply for this reason: the first since the last call.
    #[must_use]
    pub fn take_dropped_example(&self, reason: DropReason) -> Option<SocketAddr> {
        self.0.drops.take_example(reason)
    }

    /// Waits until the server has reached this phase, or a later one.
    pub async fn wait_for_phase(&self, phase: Phase) {
        wait_for(self.0.phase.subscribe(), phase).await;
    }

    /// Requests a heartbeat of every loop, which shows that it runs and can ask its socket for datagrams; an idle loop
    /// wakes up for it.
    pub fn request_heartbeats(&self) {
        self.0.sockets().iter().for_each(|socket| socket.heartbeat.request());
    }

    /// The number of heartbeats of each loop: one for each request that it was able to meet.
    #[must_use]
    pub fn heartbeats(&self) -> Vec<u64> {
        self.0.sockets().iter().map(|socket| socket.heartbeat.beats()).collect()
    }

    /// The counters of all listeners together.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        self.0.sockets().iter().for_each(|socket| sum += socket.stats());
        sum
    }

    /// The counters of each of the [`listeners`](Self::listeners), in their order.
    #[must_use]
    pub fn listener_stats(&self) -> Vec<Stats> {
        let mut sums = vec![Stats::default(); self.0.listeners.len()];
        self.0.sockets().iter().for_each(|socket| sums[socket.listener] += socket.stats());
        sums
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
        let counters = Arc::default();
        let monitor = SocketMonitor { socket: Weak::new(), listener: 0, counters, heartbeat: Arc::clone(&heartbeat) };
        server.0.monitor([monitor].into_iter());
        let waker = Arc::new(Failing).into();
        let mut closing = pin!(server.0.closing());
        let mut sign = pin!(Arc::clone(&server.0.closing).wait());
        assert!(closing.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert!(sign.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        heartbeat.poll_requested(&waker);
        server.shutdown();
        heartbeat.poll_requested(&waker);
        server.request_heartbeats();
        heartbeat.poll_requested(&waker);
        server.wake();
        assert_eq!(server.phase(), Phase::Closing);
    }
}
