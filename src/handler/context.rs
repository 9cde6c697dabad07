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

/// The state that the clients of one worker share. Its last field is the protocol, or only one half of it, so that code
/// which handles packets of one type knows neither the other type nor the protocol.
pub(crate) struct WorkerContext<P: ?Sized> {
    pub(crate) outbox: Outbox,
    pub(crate) counters: Arc<Counters>,
    pub(crate) drops: Arc<DropLog>,
    pub(crate) admit_error_reply: Box<AdmitErrorReply>,
    pub(crate) closing: Arc<Closing>,
    /// The number of bytes queued for handlers that wait.
    pub(crate) queued_bytes: AtomicUsize,
    /// The address that the worker's socket is bound to.
    pub(crate) bound: SocketAddr,
    /// The name of the service; empty if it has none.
    pub(crate) service: &'static str,
    /// Limits the warnings about failed handlers; the next field counts the failures without one since the last.
    pub(crate) warnings: RateLimiter,
    pub(crate) failures_not_logged: AtomicUsize,
    pub(crate) protocol: P,
}

/// Decides whether a flow may have one more error reply at this time.
pub(crate) type AdmitErrorReply = dyn Fn(&Flow, Instant) -> Result<(), DropReason> + Send + Sync;

impl<P: ?Sized> WorkerContext<P> {
    /// The address that the request was sent to, with the port of the socket.
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
