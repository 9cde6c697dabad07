//! The client of a request, as the handler sees it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use bytes::Bytes;

use super::drop_log::DropLog;
use super::outbox::Outbox;
use crate::protocol::{DatagramProtocol, MAX_PAYLOAD_IPV4, MAX_PAYLOAD_IPV6};
use crate::serializer::SerializeError;
use crate::socket::{Destination, Outgoing, ReplyKind};
use crate::stats::{Counters, DropReason};

/// The state that the clients of one worker share.
pub(crate) struct WorkerContext<P> {
    pub(crate) protocol: Arc<P>,
    pub(crate) outbox: Outbox,
    pub(crate) counters: Arc<Counters>,
    pub(crate) drops: Arc<DropLog>,
    pub(crate) admit_error_reply: Box<AdmitErrorReply>,
    pub(crate) closing: Arc<AtomicBool>,
    /// Bytes that wait for handlers that wait.
    pub(crate) queued_bytes: AtomicUsize,
    /// The address that the worker's socket is bound to.
    pub(crate) bound: SocketAddr,
}

/// Judges whether a peer may have one more error reply, at this time.
pub(crate) type AdmitErrorReply =
    dyn Fn(SocketAddr, Option<Destination>, Instant) -> Result<(), DropReason> + Send + Sync;

impl<P> WorkerContext<P> {
    /// The address that was asked, with the port of the socket.
    pub(crate) fn local(&self, asked: Option<Destination>) -> SocketAddr {
        SocketAddr::new(asked.map_or(self.bound.ip(), |asked| asked.local), self.bound.port())
    }
}

/// The sender of a request, and the server's address that it asked; a reply goes back the same way.
///
/// Not the program that asks: that is [`UdpClient`](crate::client::UdpClient). Cheap to clone, and usable from any task
/// or thread while the server runs. Two clients are equal when their address, the asked address and the interface are.
/// There is no `close`: a datagram peer has no connection that could be closed.
pub struct Client<P> {
    context: Arc<WorkerContext<P>>,
    peer: SocketAddr,
    asked: Option<Destination>,
    received: Instant,
}

impl<P> Client<P> {
    pub(crate) fn new(
        context: Arc<WorkerContext<P>>,
        peer: SocketAddr,
        asked: Option<Destination>,
        received: Instant,
    ) -> Self {
        Self { context, peer, asked, received }
    }

    /// The client's address; an IPv4 one is never in mapped form.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The address that the client asked: where its replies leave from.
    #[must_use]
    pub fn asked(&self) -> SocketAddr {
        self.context.local(self.asked)
    }

    /// The index of the interface that the request came through; 0 when the kernel did not say.
    #[must_use]
    pub fn interface(&self) -> u32 {
        self.asked.map_or(0, |asked| asked.interface)
    }

    /// When the datagram that began this call was received; when the call began, if it had to wait for an earlier one.
    #[must_use]
    pub fn received(&self) -> Instant {
        self.received
    }

    /// Returns whether the server is closing: a handler that still waits then has the
    /// [grace](crate::server::ServerOptions::shutdown_grace) to end by itself.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.context.closing.load(Relaxed)
    }

    /// Counts the request as not answered, for this reason; one that belongs before the handler is `handler_failed`.
    pub fn count_drop(&self, reason: DropReason) {
        let reason = if reason.is_before_handler() { DropReason::HandlerFailed } else { reason };
        self.context.counters.count_drop(reason);
        self.context.drops.record(reason, self.peer, self.asked());
    }

    pub(crate) fn count_log_suppressed(&self) {
        self.context.counters.count_log_suppressed();
    }
}

impl<P: DatagramProtocol> Client<P> {
    /// Sends a packet to the client; ready at once unless the worker's outbox is full.
    ///
    /// Done means handed to the worker: what the kernel refuses is counted (`send`), not reported here.
    ///
    /// # Errors
    /// The packet cannot be serialized, is larger than a datagram may be (65 507 bytes over IPv4, 65 527 over IPv6), or
    /// the server has stopped.
    pub async fn send_packet(&self, packet: P::Sent) -> Result<(), SendPacketError> {
        self.send(packet, ReplyKind::Packet).await
    }

    /// Sends a packet as [`send_packet`](Self::send_packet) does, and counts it as an error reply. Returns whether it
    /// was sent: this client, or all together, may have had as many as they may, which counts the request as
    /// `error_limit`.
    ///
    /// # Errors
    /// Those of [`send_packet`](Self::send_packet).
    pub async fn send_error_reply(&self, packet: P::Sent) -> Result<bool, SendPacketError> {
        // A handler may have waited since; a test's clock may be ahead of the system's.
        let now = Instant::now().max(self.received);
        if let Err(reason) = (self.context.admit_error_reply)(self.peer, self.asked, now) {
            self.count_drop(reason);
            return Ok(false);
        }
        self.send(packet, ReplyKind::ErrorReply).await?;
        Ok(true)
    }

    async fn send(&self, packet: P::Sent, kind: ReplyKind) -> Result<(), SendPacketError> {
        let payload = self.context.protocol.make_datagram(packet)?;
        check_size(&payload, self.peer)?;
        let outgoing = Outgoing { peer: self.peer, asked: self.asked, payload, kind };
        if self.context.outbox.send(outgoing).await { Ok(()) } else { Err(SendPacketError::Stopped) }
    }
}

fn check_size(payload: &Bytes, peer: SocketAddr) -> Result<(), SendPacketError> {
    let limit = if peer.is_ipv4() { MAX_PAYLOAD_IPV4 } else { MAX_PAYLOAD_IPV6 };
    if payload.len() <= limit { Ok(()) } else { Err(SendPacketError::TooLarge { size: payload.len(), limit }) }
}

/// A packet that was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendPacketError {
    /// It has no form in bytes.
    #[error(transparent)]
    Serialize(#[from] SerializeError),
    /// It does not fit a datagram.
    #[error("packet of {size} bytes is over the {limit} that a datagram may carry")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The largest payload to this peer.
        limit: usize,
    },
    /// The server has stopped.
    #[error("the server has stopped")]
    Stopped,
}

impl<P> Clone for Client<P> {
    fn clone(&self) -> Self {
        Self { context: Arc::clone(&self.context), ..*self }
    }
}

impl<P> PartialEq for Client<P> {
    fn eq(&self, other: &Self) -> bool {
        self.peer == other.peer && self.asked == other.asked && self.context.bound.port() == other.context.bound.port()
    }
}

impl<P> Eq for Client<P> {}

impl<P> Hash for Client<P> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.peer.hash(state);
        self.asked.hash(state);
    }
}

impl<P> fmt::Debug for Client<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("peer", &self.peer).field("asked", &self.asked()).finish_non_exhaustive()
    }
}
