//! The echo server for a program without a runtime: `cargo run --example blocking_server -- [::]:9000`

use std::error::Error;

use echo_udpd::blocking::UdpServer;
use echo_udpd::handler::{Client, DatagramRequestHandler, HandlerError, Requests};
use echo_udpd::protocol::JsonProtocol;
use serde_json::{Value, json};

struct EchoRequestHandler;

impl DatagramRequestHandler for EchoRequestHandler {
    type Request = Value;
    type Response = Value;

    async fn handle(&self, client: Client<Value>, mut requests: Requests<Value>) -> Result<(), HandlerError> {
        match requests.next().await {
            Some(Ok(request)) => {
                println!("{} sent {request}", client.peer().ip());
                client.send_packet(request).await?;
            }
            Some(Err(_)) => client.send_packet(json!({"error": "Invalid JSON", "code": "parse_error"})).await?,
            None => {}
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("[::]:9000".into());
    let server = UdpServer::bind(address, JsonProtocol::default(), EchoRequestHandler)?;
    println!("listening on {}", server.local_addresses()[0]);
    Ok(server.serve()?)
}
