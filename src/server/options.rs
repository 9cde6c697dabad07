//! Options of a server: addresses to bind, sockets that are already bound, and how they are distributed to the workers.

use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use super::UdpServer;
use super::service::Service;
use crate::admission::Policy;
use crate::handler::DatagramRequestHandler;
use crate::protocol::DatagramProtocol;
use crate::socket::{self, BindError, BindTarget, BoundSocket, SocketOptions};

/// The pause before an address that is in use is tried again.
const BIND_PAUSE: Duration = Duration::from_millis(5);
/// The default time for which waiting handlers may continue once the server closes.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// Options of a server: where it listens, with how many workers, which sources get a reply.
#[derive(Debug)]
pub struct ServerOptions {
    /// Addresses without a service get the one that the server is bound with.
    addresses: Vec<(SocketAddr, Option<Service>)>,
    sockets: Vec<(UdpSocket, Option<Service>)>,
    inherited: Vec<UdpSocket>,
    bind_timeout: Duration,
    options: SocketOptions,
    policy: Policy,
    grace: Duration,
}

/// The sockets of a server in the order in which they were requested, each with its service.
pub(super) struct BoundSockets {
    pub(super) sockets: Vec<BoundService>,
    /// The number of workers requested.
    pub(super) workers: usize,
    pub(super) policy: Policy,
    pub(super) grace: Duration,
}

/// A socket with its service; `None`: the one that the server is bound with.
pub(super) struct BoundService {
    pub(super) socket: BoundSocket,
    pub(super) service: Option<Service>,
    /// The worker that serves it, counted from 0.
    pub(super) worker: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ServerOptions {
    /// Creates options without an address: one worker, the kernel's default buffers, open to everyone.
    #[must_use]
    pub fn new() -> Self {
        Self {
            addresses: Vec::new(),
            sockets: Vec::new(),
            inherited: Vec::new(),
            bind_timeout: Duration::ZERO,
            options: SocketOptions::default(),
            policy: Policy::open(),
            grace: SHUTDOWN_GRACE,
        }
    }

    /// Adds an address to listen on; `[::]` accepts IPv4 too, port 0 takes a free port.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.addresses.push((address, None));
        self
    }

    /// Adds an address with its own service, in place of the one that the server is bound with.
    #[must_use]
    pub fn listen_with(mut self, address: SocketAddr, service: &Service) -> Self {
        self.addresses.push((address, Some(service.clone())));
        self
    }

    /// Adds a socket that is already bound. Several are distributed to the workers in turn; a worker without one is not
    /// started.
    #[must_use]
    pub fn socket(mut self, socket: UdpSocket) -> Self {
        self.sockets.push((socket, None));
        self
    }

    /// Adds a socket that is already bound, with its own service in place of the one that the server is bound with.
    #[must_use]
    pub fn socket_with(mut self, socket: UdpSocket, service: &Service) -> Self {
        self.sockets.push((socket, Some(service.clone())));
        self
    }

    /// Adds a socket that an earlier run bound. If its address is one of those to listen on, it is used there, with the
    /// datagrams queued in it; if not, it is closed.
    #[must_use]
    pub fn reuse_socket(mut self, socket: UdpSocket) -> Self {
        self.inherited.push(socket);
        self
    }

    /// The total time to wait for addresses that are in use; zero by default.
    #[must_use]
    pub fn bind_timeout(mut self, timeout: Duration) -> Self {
        self.bind_timeout = timeout;
        self
    }

    /// The number of workers that share each address; at least 1.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.options.sockets = workers.max(1);
        self
    }

    /// Bytes of receive buffer to request for each socket.
    #[must_use]
    pub fn receive_buffer(mut self, bytes: usize) -> Self {
        self.options.receive_buffer = Some(bytes);
        self
    }

    /// Bytes of send buffer to request for each socket: replies wait in it while the kernel looks up the neighbour that
    /// they go to, up to three seconds for one that does not exist.
    #[must_use]
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.options.send_buffer = Some(bytes);
        self
    }

    /// Lets the kernel hand over a run of datagrams of one flow and size as one message (UDP_GRO of udp(7)), where it
    /// can: each costs less then, and handlers see no difference. The kernel counts such a run as one drop
    /// ([`Stats::kernel_drops`](crate::stats::Stats::kernel_drops)). On by default.
    #[must_use]
    pub fn udp_gro(mut self, on: bool) -> Self {
        self.options.udp_gro = on;
        self
    }

    /// The policy: which sources get a reply, and how often.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// The time for which waiting handlers may continue once the server shuts down, before they are dropped; 1 s by
    /// default.
    ///
    /// With zero they are polled once more: enough for one that awaits
    /// [`Requests::next`](crate::handler::Requests::next), which then returns `None`. A handler that blocks its thread
    /// cannot be interrupted.
    #[must_use]
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Binds all sockets, for this protocol and handler; nothing is received until the server serves.
    ///
    /// # Errors
    /// There is neither an address nor a socket, or a socket could not be created or bound: the first such error.
    pub fn bind<P, H>(self, protocol: P, handler: H) -> Result<UdpServer, BindError>
    where
        H: DatagramRequestHandler,
        P: DatagramProtocol<Sent = H::Response, Received = H::Request> + Send + Sync + 'static,
    {
        self.bind_service(&Service::new(protocol, handler))
    }

    /// Binds all sockets; those without their own service get this one.
    ///
    /// # Errors
    /// Those of [`bind`](Self::bind).
    pub fn bind_service(self, service: &Service) -> Result<UdpServer, BindError> {
        Ok(UdpServer::new(self.bind_sockets()?, service))
    }

    pub(super) fn bind_sockets(self) -> Result<BoundSockets, BindError> {
        let Self { addresses, sockets, mut inherited, bind_timeout, options, policy, grace } = self;
        if addresses.is_empty() && sockets.is_empty() {
            return Err(BindError::NoAddress);
        }
        let resolve = |(address, service)| BindTarget::resolve(address).map(|target| (target, service));
        let targets = addresses.into_iter().map(resolve).collect::<Result<Vec<_>, _>>()?;
        // Sockets that are no longer wanted are closed before anything is bound: they could be in the way.
        inherited.retain(|socket| targets.iter().any(|(target, _)| target.matches(socket)));
        let deadline = Instant::now() + bind_timeout;
        let workers = options.sockets;
        let mut bound = Vec::new();
        for (target, service) in targets {
            let remaining: Vec<_> = inherited.extract_if(.., |socket| target.matches(socket)).collect();
            let group = match remaining.is_empty() {
                true => bind_before(deadline, target, &options)?,
                false => target.bind_remaining(remaining, &options)?,
            };
            let group = group.into_iter().enumerate();
            bound.extend(group.map(|(number, socket)| BoundService {
                socket,
                service: service.clone(),
                worker: number % workers,
            }));
        }
        for (number, (socket, service)) in sockets.into_iter().enumerate() {
            let socket = socket::adopt(socket, &options)?;
            bound.push(BoundService { socket, service, worker: number % workers });
        }
        Ok(BoundSockets { sockets: bound, workers, policy, grace })
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
fn bind_before(deadline: Instant, target: BindTarget, options: &SocketOptions) -> Result<Vec<BoundSocket>, BindError> {
    loop {
        match target.bind(options) {
            Err(BindError::AddressInUse { .. }) if Instant::now() < deadline => thread::sleep(BIND_PAUSE),
            bound => return bound,
        }
    }
}
