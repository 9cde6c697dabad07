//! The library's clients, asynchronous and blocking: against our server, a stranger, and nobody.

use std::error::Error;
use std::future::poll_fn;
use std::net::UdpSocket;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{channel, sync_channel};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use echo_udpd::blocking;
use echo_udpd::client::{ClientError, ConnectOptions, Family, UdpClient};
use echo_udpd::protocol::{BytesProtocol, JsonProtocol, TypedJsonProtocol};
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Daemon, has_ipv6, need, refusing_socket, wait_for};

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
    // A socket that may not send broadcasts cannot be connected to one, so the first address is of no use.
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
        let error = client.recv_packet().await.unwrap_err();
        assert_eq!(error.to_string(), "the reply is not a valid packet");
        assert!(error.source().unwrap().to_string().contains("line 1"), "the cause is not part of the text, but there");
        assert_eq!(client.recv_packet().await.unwrap(), json!([2]));
    });
}

#[test]
fn connection_refused_surfaces() {
    let refusing = refusing_socket();
    let nobody = refusing.local_addr().unwrap();
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
    // An address that no other test uses.
    let options = ConnectOptions::new().local_address("127.77.0.1:0".parse().unwrap());
    let client = blocking::UdpClient::connect_with(&options, server.local_addr().unwrap(), json()).unwrap();
    let client = Arc::new(client);
    // proc(5), net/udp: addresses are words in the host's order.
    let is_bound = || {
        let address = format!(" {:08X}:", u32::from_ne_bytes([127, 77, 0, 1]));
        std::fs::read_to_string("/proc/net/udp").unwrap().contains(&address)
    };
    assert!(is_bound());
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
    // A program that another test starts has it as well, for a moment.
    wait_for("the end of the socket", || (!is_bound()).then_some(()));

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

/// Polls a future this many times and then drops it, wherever it stands.
async fn give_up_after<T>(polls: u32, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut left) = (pin!(future), polls);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await
}

#[test]
fn receiving_is_cancel_safe() {
    const PACKETS: u64 = 20_000;
    /// On their way at once: what any receive buffer holds.
    const WINDOW: usize = 64;
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (received, room) = sync_channel::<()>(WINDOW);
    on_a_runtime(async {
        let client = UdpClient::connect(server.local_addr().unwrap(), json()).await.unwrap();
        let to = client.local_address().unwrap();
        let sender = thread::spawn(move || {
            for number in 0..PACKETS {
                if number >= WINDOW as u64 {
                    room.recv_timeout(DEADLINE).unwrap();
                }
                server.send_to(number.to_string().as_bytes(), to).unwrap();
            }
        });
        // Receives are given up before, while and after their datagram comes.
        let (mut next, mut given_up) = (0, 0);
        while next < PACKETS {
            match give_up_after(given_up % 4, client.recv_packet()).await {
                Some(packet) => {
                    assert_eq!(packet.unwrap(), json!(next), "after {given_up} receives that were given up");
                    next += 1;
                    // Nobody listens any longer once all are sent.
                    let _ = received.send(());
                }
                None => {
                    given_up += 1;
                    tokio::task::yield_now().await;
                }
            }
        }
        assert!(given_up > 0, "no receive was given up");
        sender.join().unwrap();
        let more = client.recv_packet_within(Duration::from_millis(5)).await;
        assert!(matches!(more, Err(ClientError::TimedOut(_))), "{more:?}");
    });
}

#[test]
fn no_time_at_all_takes_the_datagram_that_is_there() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = UdpClient::connect(server.local_addr().unwrap(), json()).await.unwrap();
        for number in 0..1000 {
            // From here on the runtime takes the socket for empty, until it hears otherwise.
            let nothing = give_up_after(0, client.recv_packet()).await;
            assert!(nothing.is_none(), "{nothing:?}");
            server.send_to(number.to_string().as_bytes(), client.local_address().unwrap()).unwrap();
            let packet = give_up_after(0, client.recv_packet_within(Duration::ZERO)).await;
            assert_eq!(packet.expect("it does not wait").unwrap(), json!(number));
            let nothing = give_up_after(0, client.recv_packet_within(Duration::ZERO)).await;
            assert!(matches!(nothing, Some(Err(ClientError::TimedOut(Duration::ZERO)))), "{nothing:?}");
            tokio::task::yield_now().await;
        }
    });
    let client = blocking::UdpClient::connect(server.local_addr().unwrap(), json()).unwrap();
    server.send_to(b"1", client.local_address().unwrap()).unwrap();
    assert_eq!(client.recv_packet_within(Duration::ZERO).unwrap(), json!(1));
    let nothing = client.recv_packet_within(Duration::ZERO);
    assert!(matches!(nothing, Err(ClientError::TimedOut(Duration::ZERO))), "{nothing:?}");
}

#[test]
fn threads_of_a_blocking_client_receive_each_with_its_own_time() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = blocking::UdpClient::connect(server.local_addr().unwrap(), json()).unwrap();
    let (results, next_result) = channel();
    thread::scope(|scope| {
        // Else a failure would leave them waiting.
        let _close = CloseOnDrop(&client);
        let receive = |time: Option<Duration>| {
            let (results, client) = (results.clone(), &client);
            move || loop {
                let result = time.map_or_else(|| client.recv_packet(), |time| client.recv_packet_within(time));
                let closed = matches!(result, Err(ClientError::Closed));
                if results.send((time, result)).is_err() || closed {
                    return;
                }
            }
        };
        scope.spawn(receive(None));
        scope.spawn(receive(Some(Duration::from_millis(1))));
        for number in 0..100 {
            server.send_to(number.to_string().as_bytes(), client.local_address().unwrap()).unwrap();
            // One of them takes it, then one of them runs out of time, again and again.
            let (mut taken, mut timed_out) = (false, 0);
            while !taken || timed_out < 3 {
                match next_result.recv_timeout(DEADLINE).unwrap() {
                    (_, Ok(packet)) => {
                        assert_eq!((packet, taken), (json!(number), false));
                        taken = true;
                    }
                    (Some(_), Err(ClientError::TimedOut(_))) => timed_out += u32::from(taken),
                    other => panic!("{other:?}"),
                }
            }
        }
    });
}

/// Closes a client whatever happens.
struct CloseOnDrop<'a>(&'a blocking::UdpClient<JsonProtocol>);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
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

#[test]
fn a_given_socket_with_an_error_queue_is_waited_on_without_spinning() {
    use std::os::fd::AsRawFd;
    let nobody = refusing_socket();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(nobody.local_addr().unwrap()).unwrap();
    crate::harness::wire::set_option(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_RECVERR, 1).unwrap();
    let client = blocking::UdpClient::from_socket(socket, json()).unwrap();
    client.send_packet(json!(1)).unwrap();
    assert!(client.recv_packet_within(DEADLINE).unwrap_err().is_refused());
    let cpu =
        || std::fs::read_to_string("/proc/thread-self/schedstat").unwrap().split(' ').next().unwrap().parse::<u64>();
    let before = cpu().unwrap();
    let nothing = client.recv_packet_within(Duration::from_millis(300));
    assert!(matches!(nothing, Err(ClientError::TimedOut(_))), "{nothing:?}");
    let spent = Duration::from_nanos(cpu().unwrap() - before);
    assert!(spent < Duration::from_millis(100), "{spent:?} of 300 ms");
}
