//! The places that a server listens on: addresses to bind, sockets that are bound already, and how they go to the
//! workers.

use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use super::{Listener, UdpServer};
use crate::admission::Policy;
use crate::socket::{self, BindError, BindTarget, BoundSocket, SocketOptions};

/// The pause before an address that is in use is tried again.
const BIND_PAUSE: Duration = Duration::from_millis(5);
/// The default time that handlers which wait have left once the server closes.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// Options of a server: where it listens, with how many workers, which sources get a reply.
#[derive(Debug)]
pub struct ServerOptions {
    addresses: Vec<SocketAddr>,
    sockets: Vec<UdpSocket>,
    left: Vec<UdpSocket>,
    patience: Duration,
    options: SocketOptions,
    policy: Policy,
    grace: Duration,
}

/// A server without its protocol and handler.
pub(super) struct BoundSockets {
    pub(super) listeners: Vec<Listener>,
    /// For each worker its own.
    pub(super) workers: Vec<Vec<BoundSocket>>,
    pub(super) policy: Policy,
    pub(super) grace: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ServerOptions {
    /// No address yet, one worker, the kernel's default receive buffer, open to everyone.
    #[must_use]
    pub fn new() -> Self {
        Self {
            addresses: Vec::new(),
            sockets: Vec::new(),
            left: Vec::new(),
            patience: Duration::ZERO,
            options: SocketOptions::default(),
            policy: Policy::open(),
            grace: SHUTDOWN_GRACE,
        }
    }

    /// Adds an address to listen on; `[::]` answers IPv4 too, port 0 takes a free port.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.addresses.push(address);
        self
    }

    /// Adds a socket that is bound already. Several go to the workers in turn, and a worker without one is not started.
    #[must_use]
    pub fn socket(mut self, socket: UdpSocket) -> Self {
        self.sockets.push(socket);
        self
    }

    /// Adds a socket that an earlier run bound. It is used, with the datagrams that wait in it, if it is bound to one
    /// of the addresses to [`listen`](Self::listen) on, and closed if not.
    #[must_use]
    pub fn reuse_socket(mut self, socket: UdpSocket) -> Self {
        self.left.push(socket);
        self
    }

    /// The time to wait for addresses that are in use, all together; none by default.
    #[must_use]
    pub fn bind_timeout(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The number of workers that share each address; at least 1.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.options.sockets = workers.max(1);
        self
    }

    /// Bytes of receive buffer to ask for, for each socket.
    #[must_use]
    pub fn receive_buffer(mut self, bytes: usize) -> Self {
        self.options.receive_buffer = Some(bytes);
        self
    }

    /// Bytes of send buffer to ask for, for each socket: replies wait in it while the kernel looks for the neighbour
    /// that they go to, up to three seconds for one that does not exist.
    #[must_use]
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.options.send_buffer = Some(bytes);
        self
    }

    /// The sources that get a reply, and how often.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// The time that handlers which still wait have left once the server shuts down, before they are dropped; 1 s by
    /// default.
    ///
    /// With zero they are polled once more: enough for one that awaits
    /// [`Requests::next`](crate::handler::Requests::next), which then gives `None`. A handler that blocks its thread
    /// cannot be interrupted.
    #[must_use]
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Binds all sockets; nothing is received until the server serves.
    ///
    /// # Errors
    /// There is neither an address nor a socket; or the first socket that could not be created or bound.
    pub fn bind<P, H>(self, protocol: P, handler: H) -> Result<UdpServer<P, H>, BindError> {
        Ok(UdpServer::new(self.bind_sockets()?, protocol, handler))
    }

    pub(super) fn bind_sockets(self) -> Result<BoundSockets, BindError> {
        let Self { addresses, sockets, left, patience, options, policy, grace } = self;
        if addresses.is_empty() && sockets.is_empty() {
            return Err(BindError::NoAddress);
        }
        let targets = addresses.iter().map(|&address| BindTarget::resolve(address)).collect::<Result<Vec<_>, _>>()?;
        // What is no longer listened on is closed before anything is bound: it could be in the way.
        let mut left: Vec<_> =
            left.into_iter().filter(|socket| targets.iter().any(|target| target.matches(socket))).collect();
        let deadline = Instant::now() + patience;
        let mut groups = Vec::new();
        for target in targets {
            let of_target: Vec<_> = left.extract_if(.., |socket| target.matches(socket)).collect();
            groups.push(match of_target.is_empty() {
                true => bind_within(target, &options, deadline)?,
                false => target.bind_remaining(of_target, &options)?,
            });
        }
        groups.push(sockets.into_iter().map(|socket| socket::adopt(socket, &options)).collect::<Result<_, _>>()?);
        let mut listeners: Vec<Listener> = Vec::new();
        for bound in groups.iter().flatten() {
            if listeners.iter().all(|listener| listener.address != bound.address) {
                listeners.push(bound.into());
            }
        }
        let mut workers: Vec<Vec<BoundSocket>> = (0..options.sockets).map(|_| Vec::new()).collect();
        for (number, bound) in groups.into_iter().flat_map(|group| group.into_iter().enumerate()) {
            workers[number % options.sockets].push(bound);
        }
        // Sockets that were handed over may be fewer than the workers.
        workers.retain(|sockets| !sockets.is_empty());
        Ok(BoundSockets { listeners, workers, policy, grace })
    }
}

/// Binds the first of these addresses that can be bound.
pub(super) fn bind_first(addresses: impl ToSocketAddrs) -> Result<BoundSockets, BindError> {
    let mut last = BindError::NoAddress;
    for address in addresses.to_socket_addrs().map_err(BindError::Resolve)? {
        match ServerOptions::new().listen(address).bind_sockets() {
            Ok(bound) => return Ok(bound),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Tries again while the address is in use.
fn bind_within(target: BindTarget, options: &SocketOptions, deadline: Instant) -> Result<Vec<BoundSocket>, BindError> {
    loop {
        match target.bind(options) {
            Err(BindError::AddressInUse { .. }) if Instant::now() < deadline => thread::sleep(BIND_PAUSE),
            bound => return bound,
        }
    }
}
