//! UDP echo that can be left facing the internet: request and reply over datagrams, with packets, handlers, servers and
//! clients.
//!
//! One datagram is one packet. A [`DatagramProtocol`](protocol::DatagramProtocol) turns packets into bytes and back, a
//! [`DatagramRequestHandler`](handler::DatagramRequestHandler) handles them, a [`server::UdpServer`] serves them over
//! IPv4 and IPv6 from one socket, and a [`client::UdpClient`] sends requests. [`blocking`] has the twins for programs
//! without an asynchronous runtime.
//!
//! ```no_run
//! use echo_udpd::handler::{Client, DatagramRequestHandler, HandlerError, Requests};
//! use echo_udpd::protocol::JsonProtocol;
//! use echo_udpd::server::UdpServer;
//! use serde_json::Value;
//!
//! struct Echo;
//!
//! impl DatagramRequestHandler for Echo {
//!     type Request = Value;
//!     type Response = Value;
//!
//!     async fn handle(&self, client: Client<Value>, mut requests: Requests<Value>) -> Result<(), HandlerError> {
//!         if let Some(Ok(packet)) = requests.next().await {
//!             println!("{} sent {packet}", client.peer().ip());
//!             client.send_packet(packet).await?;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! UdpServer::bind("[::]:9000", JsonProtocol::default(), Echo)?.serve().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A handler that fails is counted, and logged through the [`tracing`] crate: a program without a subscriber sees
//! nothing of it (see [`DatagramRequestHandler`](handler::DatagramRequestHandler)).
//!
//! # The rooms, and which uses which
//! ```text
//! bin/echo-udpd  -> daemon
//! bin/echo-udp   -> client_program
//!
//! daemon         -> server, handler, admission, protocol, serializer, socket, stats,
//!                   printable, counted, message_id, failure_chain
//! client_program -> client, protocol, serializer, socket, printable, failure_chain
//! blocking       -> server, client
//!
//! server         -> handler, running, admission, protocol, rate, socket, stats, message_id
//! client         -> protocol, serializer, socket
//!
//! handler        -> running, protocol, serializer, rate, socket, stats, printable, message_id, failure_chain
//! running        -> admission, rate, socket, stats, message_id
//! admission      -> rate, socket, stats
//! protocol       -> serializer
//! printable      -> counted
//!
//! serializer
//! rate
//! socket
//! stats
//! counted
//! message_id
//! failure_chain
//! ```
//! A room uses only rooms below it, and exactly those that its line names: a test holds this list against the code.
//! `server` and `client` do not know each other; `blocking` only puts their blocking twins in one place. Without
//! default features the crate is the library alone: no command line, settings file, log format or service manager.
//!
//! Linux only: `recvmmsg(2)`, `sendmmsg(2)` and packet information are used as Linux has them.

#[cfg(not(target_os = "linux"))]
compile_error!("echo-udpd runs on Linux only: it needs recvmmsg(2), sendmmsg(2) and Linux's packet information");

pub mod admission;
pub mod blocking;
pub mod client;
#[cfg(feature = "cli")]
pub mod client_program;
mod counted;
#[cfg(feature = "daemon")]
pub mod daemon;
mod failure_chain;
pub mod handler;
pub mod message_id;
pub mod printable;
pub mod protocol;
mod rate;
mod running;
pub mod serializer;
pub mod server;
pub mod socket;
pub mod stats;

/// The README's program, compiled with the other examples of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
