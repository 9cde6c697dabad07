//! The client program `echo-udp`: its command line, and the screens of its commands.

mod send;

use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint};

use crate::client::Family;
use crate::failure_chain::FailureChain;

/// Asks UDP echo servers.
#[derive(Debug, Parser)]
#[command(name = "echo-udp", version, about = "Sends datagrams to a UDP echo server and shows what comes back")]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send one packet and print it with its reply
    ///
    /// Sends {"command-line arguments":["WORD",...]} and prints two lines, `Sent:` and `Received:`, once the reply has
    /// come. Each address of the host is tried until one answers. Exits with 0 when answered, with 1 when there was no
    /// answer or a broken one (neither JSON nor what was sent), and with 2 when nothing could be sent.
    Send(send::Send),
}

/// Which server.
#[derive(Debug, Args)]
struct Server {
    /// The server's name or address
    #[arg(long, default_value = "localhost", value_hint = ValueHint::Hostname)]
    host: String,
    /// The server's port
    #[arg(long, default_value_t = 9000, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Use IPv4 only
    #[arg(short = '4', conflicts_with = "ipv6")]
    ipv4: bool,
    /// Use IPv6 only
    #[arg(short = '6')]
    ipv6: bool,
}

impl Server {
    /// The addresses to try, in order.
    fn addresses(&self) -> Result<Vec<SocketAddr>, Failure> {
        let family = if self.ipv4 { Some(Family::Ipv4) } else { self.ipv6.then_some(Family::Ipv6) };
        let resolved = (self.host.as_str(), self.port).to_socket_addrs();
        let resolved = resolved.map_err(|source| Failure::Resolve { host: self.host.clone(), source })?;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in resolved.filter(|&address| family.is_none_or(|family| family.includes(address))) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(Failure::NoAddress {
                host: self.host.clone(),
                family: if self.ipv4 { "IPv4" } else { "IPv6" },
            });
        }
        Ok(addresses)
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("resolve {host}")]
    Resolve { host: String, source: std::io::Error },
    #[error("{host} has no {family} address")]
    NoAddress { host: String, family: &'static str },
    #[error("read standard input")]
    ReadInput(#[source] std::io::Error),
    #[error("write standard output")]
    WriteOutput(#[source] std::io::Error),
    #[error("send to {address}")]
    Send { address: SocketAddr, source: std::io::Error },
    #[error("packet of {size} bytes is over the {limit} that a datagram may carry")]
    TooLarge { size: usize, limit: usize },
    #[error(
        "no answer from {address} within {seconds} s; a limit of the server may be the reason \
         (echo-udpd by default: 200 datagrams and 10 error replies a second to one source)"
    )]
    NoAnswer { address: SocketAddr, seconds: f64 },
    #[error("nobody listens on {address}")]
    Refused { address: SocketAddr },
    #[error("the answer of {address} is broken: {what}")]
    Broken { address: SocketAddr, what: String },
}

impl Failure {
    /// 1: no or a broken answer. 2: it could not even ask.
    fn status(&self) -> u8 {
        match self {
            Self::NoAnswer { .. } | Self::Refused { .. } | Self::Broken { .. } => 1,
            Self::Resolve { .. }
            | Self::NoAddress { .. }
            | Self::ReadInput(_)
            | Self::WriteOutput(_)
            | Self::Send { .. }
            | Self::TooLarge { .. } => 2,
        }
    }
}

/// The definition of the command line: for man pages and completions.
#[must_use]
pub fn command_line() -> clap::Command {
    CommandLine::command()
}

/// Runs the program; says how it exits.
#[must_use]
pub fn main() -> ExitCode {
    let result = match CommandLine::parse().command {
        Command::Send(send) => send.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("echo-udp: {}", FailureChain(&failure));
            ExitCode::from(failure.status())
        }
    }
}
