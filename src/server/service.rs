//! A service, which a server offers at its addresses: a protocol and the handler of its packets, as one object.
//!
//! The types of packets are erased here: a server holds services of any packet types, each called once per socket and
//! never per datagram.

use std::fmt;
use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;

use super::ServeError;
use super::engine::{Engine, EngineContext};
use super::worker::Worker;
use crate::handler::{DatagramRequestHandler, HandlerError};
use crate::protocol::DatagramProtocol;
use crate::running::{Heartbeat, ServerHandle, Shared};
use crate::stats::Counters;

/// A protocol and the handler of its packets. Clones are the same service: a server that has it at several addresses
/// starts and stops its handler once.
#[derive(Clone)]
pub struct Service {
    name: &'static str,
    serve: Arc<dyn Serve>,
}

impl Service {
    /// Creates a service that handles packets of this protocol with this handler.
    pub fn new<P, H>(protocol: P, handler: H) -> Self
    where
        H: DatagramRequestHandler,
        P: DatagramProtocol<Sent = H::Response, Received = H::Request> + Send + Sync + 'static,
    {
        Self { name: "", serve: Arc::new(ProtocolHandler { protocol: Arc::new(protocol), handler }) }
    }

    /// Names the service; log events and [`Listener`](super::Listener)s show the name.
    #[must_use]
    pub fn with_name(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// The name; empty if it has none.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.serve, &other.serve)
    }

    /// Serves a socket until the server closes.
    pub(super) fn serve_socket<'a>(
        &'a self,
        socket: &'a SocketToServe,
        shared: &'a Shared,
        may_block: bool,
    ) -> Result<BoxFuture<'a, ()>, ServeError> {
        self.serve.serve_socket(self.name, socket, shared, may_block)
    }

    /// Runs the handler's `start`.
    pub(super) fn start<'a>(&'a self, server: &'a ServerHandle) -> BoxFuture<'a, Result<(), HandlerError>> {
        self.serve.start(server)
    }

    /// Runs the handler's `stop`.
    pub(super) fn stop(&self) -> BoxFuture<'_, ()> {
        self.serve.stop()
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The parts of a socket that a service needs to serve it.
pub(super) struct SocketToServe {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) address: SocketAddr,
    pub(super) is_ipv6: bool,
    pub(super) bound_here: bool,
    pub(super) counters: Arc<Counters>,
    pub(super) heartbeat: Arc<Heartbeat>,
}

pub(super) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A service without the types of its packets.
trait Serve: Send + Sync {
    fn serve_socket<'a>(
        &'a self,
        name: &'static str,
        socket: &'a SocketToServe,
        shared: &'a Shared,
        may_block: bool,
    ) -> Result<BoxFuture<'a, ()>, ServeError>;
    fn start<'a>(&'a self, server: &'a ServerHandle) -> BoxFuture<'a, Result<(), HandlerError>>;
    fn stop(&self) -> BoxFuture<'_, ()>;
}

struct ProtocolHandler<P, H> {
    protocol: Arc<P>,
    handler: H,
}

impl<P, H> Serve for ProtocolHandler<P, H>
where
    H: DatagramRequestHandler,
    P: DatagramProtocol<Sent = H::Response, Received = H::Request> + Send + Sync + 'static,
{
    fn serve_socket<'a>(
        &'a self,
        name: &'static str,
        socket: &'a SocketToServe,
        shared: &'a Shared,
        may_block: bool,
    ) -> Result<BoxFuture<'a, ()>, ServeError> {
        let handler = &self.handler;
        let context = EngineContext {
            counters: Arc::clone(&socket.counters),
            drops: Arc::clone(&shared.drops),
            closing: Arc::clone(&shared.closing),
            service: name,
        };
        let engine = Engine::with_context(
            context,
            Arc::clone(&self.protocol),
            Arc::clone(&shared.admission),
            socket.address,
            |client, requests| handler.handle(client, requests),
            Box::new(|client, failure| handler.failed(client, failure)),
        );
        let worker = Worker::new(engine, Arc::clone(&socket.socket), socket.is_ipv6, may_block)
            .map_err(|source| ServeError::Watch { address: socket.address, source })?;
        Ok(Box::pin(worker.run(&socket.heartbeat, shared.closing(), shared.grace)))
    }

    fn start<'a>(&'a self, server: &'a ServerHandle) -> BoxFuture<'a, Result<(), HandlerError>> {
        Box::pin(self.handler.start(server))
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.handler.stop())
    }
}
