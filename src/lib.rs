//! UDP echo to leave facing the internet: request/reply over datagrams with packets, handlers, servers and clients.
//!
//! One datagram is one packet. A [`DatagramProtocol`](protocol::DatagramProtocol) says how a packet becomes bytes, a
//! [`DatagramRequestHandler`](handler::DatagramRequestHandler) says what to do with one, [`server::UdpServer`] serves it
//! over IPv4 and IPv6 from one socket, [`client::UdpClient`] asks. [`blocking`] has the twins for programs without an
//! asynchronous runtime.
//!
//! ```no_run
//! use echo_udpd::handler::{Client, DatagramRequestHandler, HandlerError, Requests};
//! use echo_udpd::protocol::JsonProtocol;
//! use echo_udpd::server::UdpServer;
//!
//! struct Echo;
//!
//! impl DatagramRequestHandler<JsonProtocol> for Echo {
//!     async fn handle(
//!         &self,
//!         client: Client<JsonProtocol>,
//!         mut requests: Requests<JsonProtocol>,
//!     ) -> Result<(), HandlerError> {
//!         if let Some(Ok(packet)) = requests.next().await {
//!             println!("{} sent {packet}", client.peer().ip());
//!             client.send_packet(packet).await?;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! UdpServer::bind("[::]:9000".parse()?, JsonProtocol::default(), Echo)?.serve().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # The rooms, and who may know whom
//! ```text
//!   bin/echo-udpd          bin/echo-udp
//!        |                      |
//!      daemon                  cli
//!        |                      |
//!      server                 client
//!     /      \                  |
//! admission  handler            |
//!     |     /   |   \           |
//!     |   pace  |   protocol ---+
//!     |         |       |       |
//!     |         |   serializer  |
//!      \________|_______________/
//!        socket, ledger, message, printable
//! ```
//! Arrows go down only; `server` and `client` do not know each other. Without default features the crate is the
//! library alone: no command line, settings file, log format or service manager.
//!
//! Linux only: `recvmmsg(2)`, `sendmmsg(2)` and packet information are used as Linux has them.

#[cfg(not(target_os = "linux"))]
compile_error!("echo-udpd runs on Linux only: it needs recvmmsg(2), sendmmsg(2) and Linux's packet information");

pub mod admission;
pub mod blocking;
#[cfg(feature = "cli")]
pub mod cli;
pub mod client;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
mod failure_chain;
pub mod handler;
pub mod ledger;
pub mod message;
mod pace;
pub mod printable;
pub mod protocol;
pub mod serializer;
pub mod server;
pub mod socket;

/// The README's program, compiled with the other examples of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
