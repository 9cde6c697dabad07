//! Serves handlers on UDP sockets: binds them, runs the workers, and shuts down.
//!
//! One worker serves all addresses on the task that awaits [`UdpServer::serve`]; each further one has its own thread,
//! runtime and sockets. Knows no settings file and no service manager.

mod backlog;
pub(crate) mod blocking;
pub mod engine;
mod input;
mod lifecycle;
mod options;
mod park;
mod runtime;
mod service;
mod task;
mod udp_server;
mod worker;
mod workers;

use std::io;
use std::net::SocketAddr;

pub use options::ServerOptions;
pub use service::Service;
pub use task::ServerTask;
pub use udp_server::UdpServer;

use crate::handler::HandlerError;
pub use crate::running::{Listener, Phase, ServerHandle};

/// The reason why a server could not start, or did not end as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The handler's `start` failed.
    #[error("start the request handler")]
    StartHandler(#[source] HandlerError),
    /// A socket could not be registered with the runtime.
    #[error("watch the socket of {address}")]
    Watch {
        /// The socket's address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// A worker's thread or runtime could not be started.
    #[error("start a worker")]
    StartWorker(#[source] io::Error),
    /// A worker panicked outside a handler's `handle`: in tokio, or in its `start` or `stop`.
    #[error("a worker panicked")]
    WorkerPanicked,
}
