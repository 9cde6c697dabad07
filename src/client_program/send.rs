//! `echo-udp send`: one packet, and its reply.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::failure::Failure;
use super::same_json::is_same;
use super::server::Server;
use crate::client::blocking::UdpClient;
use crate::printable::Printable;
use crate::protocol::BytesProtocol;
use crate::serializer::RawJson;
use crate::socket::max_payload;

/// The most characters of an error reply's text that are repeated.
const ERROR_TEXT: usize = 200;

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
    /// Words to send; without any, an empty list is sent
    #[arg(value_name = "WORD")]
    words: Vec<String>,
}

impl Send {
    pub(super) fn run(self) -> Result<(), Failure> {
        let addresses = self.server.addresses()?;
        let packet = self.packet(addresses.iter().copied().map(max_payload).max().unwrap_or(0))?;
        let (address, reply) = self.ask(&addresses, &packet)?;
        let lines = format!("Sent:     {}\nReceived: {}\n", printable(&packet), printable(&reply));
        let mut output = io::stdout().lock();
        output.write_all(lines.as_bytes()).and_then(|()| output.flush()).map_err(Failure::WriteOutput)?;
        judge(self.server.show(address), &packet, &reply)
    }

    /// The packet to send; standard input is read up to this limit.
    fn packet(&self, limit: usize) -> Result<Bytes, Failure> {
        match self.json.as_deref() {
            Some("-") => {
                let mut input = Vec::new();
                // One byte over the limit is enough to know: the input may never end.
                let limited = &mut io::stdin().lock().take(limit as u64 + 1);
                limited.read_to_end(&mut input).map_err(Failure::ReadInput)?;
                if input.len() <= limit { Ok(input.into()) } else { Err(Failure::InputTooLarge { limit }) }
            }
            Some(text) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            None => Ok(json!({ "command-line arguments": self.words }).to_string().into()),
        }
    }

    /// The first address that replies, and its reply.
    fn ask(&self, addresses: &[SocketAddr], packet: &Bytes) -> Result<(SocketAddr, Bytes), Failure> {
        let mut failure: Option<Failure> = None;
        for &address in addresses {
            match self.ask_one(address, packet) {
                Ok(reply) => return Ok((address, reply)),
                // An address that did not reply says more than one that could not be sent to.
                Err(next) if next.status() == 2 && failure.as_ref().is_some_and(|failure| failure.status() == 1) => {}
                Err(next) => failure = Some(next),
            }
        }
        Err(failure.unwrap_or_else(|| self.server.no_address()))
    }

    fn ask_one(&self, address: SocketAddr, packet: &Bytes) -> Result<Bytes, Failure> {
        let ask = || {
            let client = UdpClient::connect(address, BytesProtocol::default())?;
            client.send_packet(packet.clone())?;
            client.recv_packet_within(self.wait)
        };
        ask().map_err(|error| Failure::of_client(error, self.server.show(address), self.wait))
    }
}

/// The bytes on one line: as JSON if they are, else as the daemon shows raw bytes.
fn printable(bytes: &Bytes) -> Printable<'_> {
    if RawJson::parse(bytes.clone()).is_ok() { Printable::json(bytes) } else { Printable::raw(bytes) }
}

/// Accepts the reply if it is what was sent; a server may write the same JSON differently.
fn judge(address: String, packet: &Bytes, reply: &Bytes) -> Result<(), Failure> {
    let json = serde_json::from_slice::<&RawValue>;
    match (json(packet), json(reply)) {
        _ if reply == packet => Ok(()),
        (Ok(sent), Ok(received)) if is_same(sent, received) => Ok(()),
        (_, Ok(received)) => Err(match error_text(received) {
            Some(text) => Failure::ErrorReply { address, text },
            None => Failure::Different { address },
        }),
        (Ok(_), Err(source)) => Err(Failure::InvalidReply { address, source: source.into() }),
        (Err(_), Err(_)) => Err(Failure::Different { address }),
    }
}

/// The text of `{"error":"TEXT"}`, escaped as the line `Received:` shows it.
fn error_text(reply: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct ErrorReply<'a> {
        #[serde(borrow)]
        error: &'a RawValue,
    }
    let error = serde_json::from_str::<ErrorReply>(reply.get()).ok()?.error.get();
    let open = error.strip_suffix('"')?;
    // The opening quote makes it a string, within which blanks stay as they are.
    let shown = Printable::json(open.as_bytes()).limit(ERROR_TEXT + 1).to_string();
    shown.strip_prefix('"').map(String::from)
}

/// A time in seconds: more than 0, at most a day.
fn seconds(text: &str) -> Result<Duration, String> {
    let within = text.parse::<f64>().ok().filter(|seconds| (0.001..=86_400.0).contains(seconds));
    within.map(Duration::from_secs_f64).ok_or_else(|| "expected a number of seconds from 0.001 to 86400".into())
}
