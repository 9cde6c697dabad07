//! `echo-udp send`: one packet, and its reply.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde_json::json;

use super::{Failure, Server};
use crate::client::ClientError;
use crate::client::blocking::UdpClient;
use crate::printable::Printable;
use crate::protocol::BytesProtocol;
use crate::serializer::RawJson;

#[derive(Debug, Args)]
pub(super) struct Send {
    #[command(flatten)]
    server: Server,
    /// Seconds to wait for the reply, for each address that is tried
    #[arg(short = 'W', value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    wait: Duration,
    /// Send this text as it is instead, valid JSON or not; `-` reads it from standard input
    #[arg(long, value_name = "TEXT", conflicts_with = "words")]
    json: Option<String>,
    /// What to send
    #[arg(value_name = "WORD", required_unless_present = "json")]
    words: Vec<String>,
}

impl Send {
    pub(super) fn run(self) -> Result<(), Failure> {
        let packet = self.packet()?;
        let addresses = self.server.addresses()?;
        let (address, reply) = self.ask(&addresses, &packet)?;
        let lines = format!("Sent:     {}\nReceived: {}\n", Printable::json(&packet), Printable::json(&reply));
        std::io::stdout().lock().write_all(lines.as_bytes()).map_err(Failure::WriteOutput)?;
        match RawJson::parse(reply.clone()) {
            Ok(_) => Ok(()),
            // An echo of what was no JSON either: the server speaks of bytes.
            Err(_) if reply == packet => Ok(()),
            Err(error) => Err(Failure::Broken { address, what: error.to_string() }),
        }
    }

    fn packet(&self) -> Result<Bytes, Failure> {
        match self.json.as_deref() {
            Some("-") => {
                let mut input = Vec::new();
                std::io::stdin().lock().read_to_end(&mut input).map_err(Failure::ReadInput)?;
                Ok(input.into())
            }
            Some(text) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            None => Ok(json!({ "command-line arguments": self.words }).to_string().into()),
        }
    }

    /// The first address that answers, and its reply.
    fn ask(&self, addresses: &[SocketAddr], packet: &Bytes) -> Result<(SocketAddr, Bytes), Failure> {
        let mut failure = None;
        for &address in addresses {
            match self.ask_one(address, packet) {
                Ok(reply) => return Ok((address, reply)),
                // No answer from one address says more than that another could not be sent to.
                Err(next) => match &failure {
                    Some(Failure::NoAnswer { .. } | Failure::Refused { .. }) if next.status() == 2 => {}
                    _ => failure = Some(next),
                },
            }
        }
        Err(failure.unwrap_or(Failure::NoAddress { host: self.server.host.clone(), family: "IP" }))
    }

    fn ask_one(&self, address: SocketAddr, packet: &Bytes) -> Result<Bytes, Failure> {
        let ask = || {
            let client = UdpClient::connect(address, BytesProtocol::default())?;
            client.send_packet(packet.clone())?;
            client.recv_packet_within(self.wait)
        };
        ask().map_err(|error| match error {
            error if error.is_refused() => Failure::Refused { address },
            ClientError::TooLarge { size, limit } => Failure::TooLarge { size, limit },
            ClientError::Connect { source, .. } | ClientError::Send(source) | ClientError::Receive(source) => {
                Failure::Send { address, source }
            }
            _ => Failure::NoAnswer { address, seconds: self.wait.as_secs_f64() },
        })
    }
}

/// A time in seconds: more than 0, at most a day.
fn seconds(text: &str) -> Result<Duration, String> {
    let within = text.parse::<f64>().ok().filter(|seconds| (0.001..=86_400.0).contains(seconds));
    within.map(Duration::from_secs_f64).ok_or_else(|| "expected a number of seconds from 0.001 to 86400".into())
}
