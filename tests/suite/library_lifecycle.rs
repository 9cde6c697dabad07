//! The life of the library's server: how it is bound, and how it starts and ends, with its handler's `start` and `stop`.

use std::net::{SocketAddr, UdpSocket};

use bytes::Bytes;
use echo_udpd::blocking;
use echo_udpd::handler::EchoRequestHandler;
use echo_udpd::protocol::BytesProtocol;
use echo_udpd::server::UdpServer;
use echo_udpd::socket::BindError;

const LOOPBACK: &str = "127.0.0.1:0";

fn echo() -> EchoRequestHandler<Bytes> {
    EchoRequestHandler::new()
}

#[test]
fn a_server_is_bound_by_text_by_name_and_to_the_first_address_that_can_be() {
    let bind = |address: &str| UdpServer::bind(address, BytesProtocol::default(), echo());
    let server = bind("localhost:0").unwrap();
    assert!(server.local_addresses()[0].ip().is_loopback());
    assert!(matches!(bind("localhost"), Err(BindError::Resolve(_))), "no port");
    let taken = bind(LOOPBACK).unwrap().local_addresses()[0];
    let _taken = UdpSocket::bind(taken).unwrap();
    let free: SocketAddr = "127.0.0.2:0".parse().unwrap();
    let server = UdpServer::bind(&[taken, free][..], BytesProtocol::default(), echo()).unwrap();
    assert_eq!(server.local_addresses()[0].ip(), free.ip());
    let refused = blocking::UdpServer::bind(&[taken, taken][..], BytesProtocol::default(), echo());
    assert!(matches!(refused, Err(BindError::AddressInUse { address }) if address == taken));
    let nothing = UdpServer::bind(&[][..], BytesProtocol::default(), echo());
    assert!(matches!(nothing, Err(BindError::NoAddress)));
}
