//! The state that the clients of one worker share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use bytes::Bytes;

use super::outbox::Outbox;
use crate::protocol::{DatagramProtocol, DatagramProtocolParseError};
use crate::rate::RateLimiter;
use crate::running::{Closing, DropLog};
use crate::serializer::SerializeError;
use crate::socket::{Destination, Flow};
use crate::stats::{Counters, DropReason};

/// The state that the clients of one worker share. Its last field is the protocol, whole or only one half of it: what
/// speaks of packets of one type knows nothing of the other, nor of the protocol.
pub(crate) struct WorkerContext<P: ?Sized> {
    pub(crate) outbox: Outbox,
    pub(crate) counters: Arc<Counters>,
    pub(crate) drops: Arc<DropLog>,
    pub(crate) admit_error_reply: Box<AdmitErrorReply>,
    pub(crate) closing: Arc<Closing>,
    /// Bytes that wait for handlers that wait.
    pub(crate) queued_bytes: AtomicUsize,
    /// The address that the worker's socket is bound to.
    pub(crate) bound: SocketAddr,
    /// The name of the service; empty where it has none.
    pub(crate) service: &'static str,
    /// Of warnings about handlers that failed, and how many failures had none since the last.
    pub(crate) warnings: RateLimiter,
    pub(crate) failures_not_logged: AtomicUsize,
    pub(crate) protocol: P,
}

/// Judges whether a flow may have one more error reply, at this time.
pub(crate) type AdmitErrorReply = dyn Fn(&Flow, Instant) -> Result<(), DropReason> + Send + Sync;

impl<P: ?Sized> WorkerContext<P> {
    /// The address that was asked, with the port of the socket.
    pub(crate) fn local(&self, destination: Option<Destination>) -> SocketAddr {
        SocketAddr::new(destination.map_or(self.bound.ip(), |asked| asked.local), self.bound.port())
    }
}

/// The half of a protocol that sends.
pub(crate) trait MakeDatagram<S>: Send + Sync {
    fn make_datagram(&self, packet: S) -> Result<Bytes, SerializeError>;
}

/// The half of a protocol that receives.
pub(crate) trait BuildPacket<R>: Send + Sync {
    fn build_packet(&self, datagram: Bytes) -> Result<R, DatagramProtocolParseError>;
}

impl<P: DatagramProtocol + Send + Sync> MakeDatagram<P::Sent> for P {
    fn make_datagram(&self, packet: P::Sent) -> Result<Bytes, SerializeError> {
        DatagramProtocol::make_datagram(self, packet)
    }
}

impl<P: DatagramProtocol + Send + Sync> BuildPacket<P::Received> for P {
    fn build_packet(&self, datagram: Bytes) -> Result<P::Received, DatagramProtocolParseError> {
        DatagramProtocol::build_packet(self, datagram)
    }
}
