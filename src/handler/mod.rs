//! Handling requests: the trait [`DatagramRequestHandler`], the [`Client`] and [`Requests`] that it gets, and the
//! tutorial's [`EchoRequestHandler`].
//!
//! A handler knows packets only; the protocol, the socket and the scheduling are left to the server. A handler that is
//! ready at once runs in place. One that waits is kept, and gets the packets that its client sends meanwhile, in order.

mod client;
mod context;
mod echo;
mod echo_packet;
mod failure;
mod outbox;
mod request_handler;
mod request_log;
mod requests;

pub use client::{Client, SendPacketError};
pub(crate) use context::{AdmitErrorReply, BuildPacket, MakeDatagram, WorkerContext};
pub use echo::EchoRequestHandler;
pub use echo_packet::EchoPacket;
pub use failure::{HandlerError, HandlerFailure};
pub(crate) use outbox::{LocalOutbox, Outbox};
pub use outbox::{Reply, ReplyKind};
pub use request_handler::DatagramRequestHandler;
pub use request_log::{RequestLog, RequestLogSettings};
pub use requests::Requests;
pub(crate) use requests::{Inbox, QueueLimits};
