//! The library's clients, asynchronous and blocking: against our server, a stranger, and nobody.

use std::net::UdpSocket;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use echo_udpd::blocking;
use echo_udpd::client::{ClientError, ConnectOptions, Family, UdpClient};
use echo_udpd::protocol::{BytesProtocol, JsonProtocol, TypedJsonProtocol};
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Daemon, has_ipv6, need};

/// Runs a test of the asynchronous client.
fn on_a_runtime<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await.unwrap() })
}

fn json() -> JsonProtocol {
    JsonProtocol::default()
}

#[test]
fn both_clients_get_their_packets_back_over_both_families() {
    need!(has_ipv6(), "IPv6 on loopback");
    let daemon = Daemon::start();
    let packet = json!({"text": "\u{e9}\u{1f600}", "nested": [[{"deep": [1.5, null]}]], "long": "x".repeat(60_000)});
    for host in ["127.0.0.1", "::1"] {
        let client = blocking::UdpClient::connect((host, daemon.port()), json()).unwrap();
        client.send_packet(packet.clone()).unwrap();
        assert_eq!(client.recv_packet_within(DEADLINE).unwrap(), packet);
        assert_eq!(client.server_address().unwrap(), daemon.at(host));
        assert_eq!(client.local_address().unwrap().ip().to_string(), host);
        on_a_runtime(async {
            let client = UdpClient::connect((host, daemon.port()), json()).await.unwrap();
            client.send_packet(packet.clone()).await.unwrap();
            assert_eq!(client.recv_packet().await.unwrap(), packet);
            assert_eq!(client.server_address().unwrap(), daemon.at(host));
            assert_eq!(client.local_address().unwrap().ip().to_string(), host);
        });
    }
}

#[test]
fn options_choose_family_and_local_address() {
    need!(has_ipv6(), "IPv6 on loopback");
    let daemon = Daemon::start();
    let addresses = [daemon.at("::1"), daemon.at("127.0.0.1")];
    for (family, expected) in [(Family::Ipv4, addresses[1]), (Family::Ipv6, addresses[0])] {
        let options = ConnectOptions::new().family(family);
        let client = blocking::UdpClient::connect_with(&options, &addresses[..], json()).unwrap();
        assert_eq!(client.server_address().unwrap(), expected);
        let client =
            on_a_runtime(UdpClient::connect_with(&options, &addresses[..], json())).map(|c| c.server_address());
        assert_eq!(client.unwrap().unwrap(), expected);
    }
    let options = ConnectOptions::new().local_address("127.0.0.5:0".parse().unwrap());
    let client = blocking::UdpClient::connect_with(&options, &addresses[..], json()).unwrap();
    client.send_packet(json!(1)).unwrap();
    assert_eq!(client.recv_packet_within(DEADLINE).unwrap(), json!(1));
    assert_eq!(client.local_address().unwrap().ip().to_string(), "127.0.0.5");
    let neither = ConnectOptions::new().family(Family::Ipv6);
    let refused = blocking::UdpClient::connect_with(&neither, &addresses[1..], json());
    assert!(matches!(refused, Err(ClientError::NoAddress)));
    assert!(matches!(blocking::UdpClient::connect("no such host.invalid:1", json()), Err(ClientError::Resolve(_))));
}

#[test]
fn connecting_goes_on_to_the_next_address() {
    // Nothing is reached through the unspecified port 0 of a multicast source, so the first cannot be connected to.
    let daemon = Daemon::start();
    let options = ConnectOptions::new().local_address("127.0.0.1:0".parse().unwrap());
    let addresses = ["255.255.255.255:9".parse().unwrap(), daemon.at("127.0.0.1")];
    let client = blocking::UdpClient::connect_with(&options, &addresses[..], json()).unwrap();
    assert_eq!(client.server_address().unwrap(), addresses[1]);
}

#[test]
fn only_the_endpoint_that_was_connected_to_is_heard() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = blocking::UdpClient::connect(server.local_addr().unwrap(), json()).unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(b"\"stranger\"", client.local_address().unwrap()).unwrap();
    server.send_to(b"\"server\"", client.local_address().unwrap()).unwrap();
    assert_eq!(client.recv_packet_within(DEADLINE).unwrap(), json!("server"));
    let nothing = client.recv_packet_within(Duration::from_millis(20));
    assert!(matches!(nothing, Err(ClientError::TimedOut(_))), "{nothing:?}");
}

#[test]
fn a_parse_error_leaves_the_client_usable() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = blocking::UdpClient::connect(server.local_addr().unwrap(), json()).unwrap();
    let to = client.local_address().unwrap();
    for reply in ["{\"a\":", "", "[1]"] {
        server.send_to(reply.as_bytes(), to).unwrap();
    }
    for column in [5, 0] {
        match client.recv_packet_within(DEADLINE) {
            Err(ClientError::Parse(error)) => assert_eq!((error.line(), error.column()), (Some(1), Some(column))),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(client.recv_packet_within(DEADLINE).unwrap(), json!([1]));
    on_a_runtime(async {
        let client = UdpClient::connect(server.local_addr().unwrap(), json()).await.unwrap();
        let to = client.local_address().unwrap();
        server.send_to(b"nonsense", to).unwrap();
        server.send_to(b"[2]", to).unwrap();
        assert!(matches!(client.recv_packet().await, Err(ClientError::Parse(_))));
        assert_eq!(client.recv_packet().await.unwrap(), json!([2]));
    });
}

#[test]
fn connection_refused_surfaces() {
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = blocking::UdpClient::connect(nobody, json()).unwrap();
    client.send_packet(json!(1)).unwrap();
    assert!(client.recv_packet_within(DEADLINE).unwrap_err().is_refused());
    on_a_runtime(async {
        let client = UdpClient::connect(nobody, json()).await.unwrap();
        client.send_packet(json!(1)).await.unwrap();
        assert!(client.recv_packet().await.unwrap_err().is_refused());
    });
}

#[test]
fn a_packet_that_is_too_large_is_refused_with_both_sizes() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = blocking::UdpClient::connect(server.local_addr().unwrap(), BytesProtocol::default()).unwrap();
    let refused = client.send_packet(vec![0; 65_508].into());
    assert!(matches!(refused, Err(ClientError::TooLarge { size: 65_508, limit: 65_507 })), "{refused:?}");
    client.send_packet(vec![0; 65_507].into()).unwrap();
}

#[test]
fn a_closed_client_says_so_and_its_waiting_receiver_too() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = Arc::new(blocking::UdpClient::connect(server.local_addr().unwrap(), json()).unwrap());
    let local = client.local_address().unwrap();
    let waiting = thread::spawn({
        let client = Arc::clone(&client);
        move || client.recv_packet()
    });
    // The receiver may or may not wait already: closing ends it either way.
    thread::yield_now();
    client.close();
    client.close();
    assert!(matches!(waiting.join().unwrap(), Err(ClientError::Closed)));
    assert!(client.is_closed());
    assert!(matches!(client.send_packet(json!(1)), Err(ClientError::Closed)));
    assert!(matches!(client.recv_packet(), Err(ClientError::Closed)));
    assert!(matches!(client.local_address(), Err(ClientError::Closed)));
    UdpSocket::bind(local).expect("the port is free again");

    on_a_runtime(async {
        let client = Arc::new(UdpClient::connect(server.local_addr().unwrap(), json()).await.unwrap());
        let receiver = Arc::clone(&client);
        let mut waiting = tokio::spawn(async move { receiver.recv_packet().await });
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut waiting).await.is_err(), "it waits");
        client.close();
        assert!(matches!(waiting.await.unwrap(), Err(ClientError::Closed)));
        assert!(matches!(client.send_packet(json!(1)).await, Err(ClientError::Closed)));
        assert!(client.is_closed());
    });
}

#[test]
fn receiving_is_cancel_safe() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    on_a_runtime(async {
        let client = UdpClient::connect(server.local_addr().unwrap(), json()).await.unwrap();
        let to = client.local_address().unwrap();
        for number in 0..200 {
            // Whatever moment the receive is given up at, the packet is there for the next.
            let mut given_up = 0;
            let cancelled = tokio::time::timeout(Duration::from_micros(number * 7 % 50), client.recv_packet()).await;
            if cancelled.is_err() {
                given_up += 1;
            }
            server.send_to(number.to_string().as_bytes(), to).unwrap();
            assert_eq!(client.recv_packet().await.unwrap(), json!(number), "given up {given_up} times");
        }
        let nothing = client.recv_packet_within(Duration::from_millis(5)).await;
        assert!(matches!(nothing, Err(ClientError::TimedOut(_))));
    });
}

#[test]
fn a_connected_socket_can_be_handed_over_and_an_unconnected_one_not() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let unconnected = blocking::UdpClient::from_socket(socket.try_clone().unwrap(), json());
    assert!(matches!(unconnected, Err(ClientError::Adopt(_))));
    socket.connect(server.local_addr().unwrap()).unwrap();
    let client = blocking::UdpClient::from_socket(socket.try_clone().unwrap(), json()).unwrap();
    client.send_packet(json!("blocking")).unwrap();
    let mut buffer = [0; 100];
    assert_eq!(server.recv(&mut buffer).unwrap(), 10);
    on_a_runtime(async {
        let client = UdpClient::from_socket(socket, json()).unwrap();
        client.send_packet(json!("async")).await.unwrap();
    });
    assert_eq!(server.recv(&mut buffer).unwrap(), 7);
}

#[test]
fn a_value_of_ones_own_type_travels() {
    #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Order {
        words: Vec<String>,
        urgent: Option<bool>,
    }
    let daemon = Daemon::start();
    let order = Order { words: vec!["Hello".into(), "world!".into()], urgent: None };
    let client = blocking::UdpClient::connect(daemon.at("127.0.0.1"), TypedJsonProtocol::<Order>::default()).unwrap();
    client.send_packet(order.clone()).unwrap();
    assert_eq!(client.recv_packet_within(DEADLINE).unwrap(), order);
    let other =
        blocking::UdpClient::connect(daemon.at("127.0.0.1"), TypedJsonProtocol::<Value, Order>::default()).unwrap();
    other.send_packet(json!({"words": 7})).unwrap();
    assert!(matches!(other.recv_packet_within(DEADLINE), Err(ClientError::Parse(_))));
}
