//! The echo client for a program without a runtime:
//! `cargo run --example blocking_client -- localhost:9000 Hello world!`

use std::error::Error;
use std::time::Duration;

use echo_udpd::blocking::UdpClient;
use echo_udpd::protocol::JsonProtocol;
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let server = arguments.next().unwrap_or("localhost:9000".into());
    let client = UdpClient::connect(server, JsonProtocol::default())?;

    let request = json!({"command-line arguments": arguments.collect::<Vec<_>>()});
    client.send_packet(request.clone())?;
    let reply = client.recv_packet_within(Duration::from_secs(5))?;

    println!("Sent:     {request}");
    println!("Received: {reply}");
    Ok(())
}
