//! Handling a request: the trait [`DatagramRequestHandler`], the [`Client`] and [`Requests`] that it is handed,
//! and the tutorial's [`EchoRequestHandler`].
//!
//! A handler speaks of packets; which protocol carries them, which socket they use, and when, is the server's business.
//! A handler that is ready at once is driven in place. One that waits is kept, and the packets that its client sends
//! meanwhile go to it in order.

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
