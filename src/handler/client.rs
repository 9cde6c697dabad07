//! The client of a request, as the handler sees it.

use std::fmt;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use bytes::Bytes;

use super::context::{MakeDatagram, WorkerContext};
use super::failure::HandlerFailure;
use super::outbox::{Reply, ReplyKind};
use crate::failure_chain::FailureChain;
use crate::message_id;
use crate::printable::Printable;
use crate::serializer::SerializeError;
use crate::socket::{Flow, Outgoing, max_payload};
use crate::stats::DropReason;

/// The most bytes of a failure in a log line.
const MAX_FAILURE_BYTES: usize = 512;

/// The client of a request: its address, and the server's address that it sent the request to. Replies go back the same
/// way.
///
/// `S` is the type of the packets that are sent to it. This is the server's view of a client; a program that sends
/// requests uses [`UdpClient`](crate::client::UdpClient). Cheap to clone, and usable from any task or thread while the
/// server runs. Two clients are equal if their addresses, the server's addresses and the interfaces are. There is no
/// `close`: a datagram peer has no connection that could be closed.
pub struct Client<S> {
    context: Arc<WorkerContext<dyn MakeDatagram<S>>>,
    flow: Flow,
    received: Instant,
}

impl<S> Client<S> {
    pub(crate) fn new(context: Arc<WorkerContext<dyn MakeDatagram<S>>>, flow: Flow, received: Instant) -> Self {
        Self { context, flow, received }
    }

    /// The client's address; an IPv4 one is never in mapped form.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.flow.peer
    }

    /// The address of this host that the client sent to: its replies leave from there.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.context.local(self.flow.destination)
    }

    /// The index of the interface that the request came through; 0 if the kernel did not say.
    #[must_use]
    pub fn interface(&self) -> u32 {
        self.flow.destination.map_or(0, |destination| destination.interface)
    }

    /// The name of the [`Service`](crate::server::Service) that received the request; empty if it has none.
    #[must_use]
    pub fn service(&self) -> &'static str {
        self.context.service
    }

    /// The time at which the datagram that began this call was received, or at which the call began if it had to wait
    /// for an earlier one.
    #[must_use]
    pub fn received(&self) -> Instant {
        self.received
    }

    /// Returns whether the server is closing: a handler that still waits then has the
    /// [grace](crate::server::ServerOptions::shutdown_grace) to end by itself.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.context.closing.has_begun()
    }

    /// Waits until the server is closing: for a `select!` with whatever else the handler waits for.
    pub fn closing(&self) -> impl Future<Output = ()> + Send + use<S> {
        Arc::clone(&self.context.closing).wait()
    }

    /// Counts the request as dropped for this reason; a reason that applies before the handler counts as
    /// `handler_failed`.
    pub fn count_drop(&self, reason: DropReason) {
        let reason = if reason.is_before_handler() { DropReason::HandlerFailed } else { reason };
        self.context.counters.count_drop(reason);
        self.context.drops.record(reason, self.flow.peer, self.local(), self.context.service);
    }

    pub(crate) fn count_log_suppressed(&self) {
        self.context.counters.count_log_suppressed();
    }

    /// Logs a failure: a warning with all its causes, at most one per second for each socket; the next one says how
    /// many were not logged.
    pub fn log_failure(&self, failure: &HandlerFailure) {
        if !self.context.warnings.allow(Instant::now()) {
            self.context.failures_not_logged.fetch_add(1, Relaxed);
            return;
        }
        let chain = FailureChain(failure).to_string();
        let failure = Printable::raw(chain.as_bytes()).limit(MAX_FAILURE_BYTES);
        let others = match self.context.failures_not_logged.swap(0, Relaxed) {
            0 => String::new(),
            others => format!(" ({others} more failures were not logged)"),
        };
        let peer = self.flow.peer;
        tracing::warn!(
            message_id = message_id::HANDLER_FAILED,
            peer_address = %peer.ip(),
            peer_port = peer.port(),
            listener_protocol = self.context.service,
            "the request handler failed for {}: {failure}{others}",
            peer.ip(),
        );
    }

    /// Sends a packet to the client; ready at once unless the worker's outbox is full.
    ///
    /// `Ok` means that the worker has the packet: what the kernel then refuses is counted (`send`), not reported here.
    ///
    /// # Errors
    /// The packet cannot be serialized, is larger than a datagram may be (65 507 bytes over IPv4, 65 527 over IPv6), or
    /// the server has stopped.
    pub async fn send_packet(&self, packet: S) -> Result<(), SendPacketError> {
        let reply = self.reply(packet, ReplyKind::Packet)?;
        self.send(reply).await
    }

    /// Sends a packet as [`send_packet`](Self::send_packet) does, and counts it as an error reply. Returns whether it
    /// was sent: if this client, or all clients together, are over the error reply limit, the request counts as
    /// `error_limit` instead.
    ///
    /// # Errors
    /// Those of [`send_packet`](Self::send_packet).
    pub async fn send_error_reply(&self, packet: S) -> Result<bool, SendPacketError> {
        // The handler may have waited since; a test's clock may be ahead of the system's.
        let now = Instant::now().max(self.received);
        if let Err(reason) = (self.context.admit_error_reply)(&self.flow, now) {
            self.count_drop(reason);
            return Ok(false);
        }
        let reply = self.reply(packet, ReplyKind::Error)?;
        self.send(reply).await?;
        Ok(true)
    }

    fn reply(&self, packet: S, kind: ReplyKind) -> Result<Reply, SendPacketError> {
        let payload = self.context.protocol.make_datagram(packet)?;
        check_size(&payload, self.flow.peer)?;
        Ok(Reply { outgoing: Outgoing { flow: self.flow, payload }, kind })
    }

    async fn send(&self, reply: Reply) -> Result<(), SendPacketError> {
        if self.context.outbox.send(reply).await { Ok(()) } else { Err(SendPacketError::Stopped) }
    }
}

fn check_size(payload: &Bytes, peer: SocketAddr) -> Result<(), SendPacketError> {
    let limit = max_payload(peer);
    if payload.len() <= limit { Ok(()) } else { Err(SendPacketError::TooLarge { size: payload.len(), limit }) }
}

/// A packet that was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendPacketError {
    /// It cannot be serialized.
    #[error(transparent)]
    Serialize(#[from] SerializeError),
    /// It does not fit in a datagram.
    #[error("packet is {size} bytes; a datagram carries at most {limit}")]
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

impl<S> Clone for Client<S> {
    fn clone(&self) -> Self {
        Self { context: Arc::clone(&self.context), ..*self }
    }
}

impl<S> PartialEq for Client<S> {
    fn eq(&self, other: &Self) -> bool {
        self.flow == other.flow && self.context.bound.port() == other.context.bound.port()
    }
}

impl<S> Eq for Client<S> {}

impl<S> Hash for Client<S> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.flow.hash(state);
    }
}

impl<S> fmt::Debug for Client<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("peer", &self.peer()).field("local", &self.local()).finish_non_exhaustive()
    }
}
