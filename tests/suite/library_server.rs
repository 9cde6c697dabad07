//! The library's server: handlers that wait, fail and see the server close; its life from bind to stop.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use echo_udpd::blocking;
use echo_udpd::handler::{Client, DatagramRequestHandler, EchoRequestHandler, HandlerError, Requests, SendPacketError};
use echo_udpd::protocol::{BytesProtocol, JsonProtocol, RawJsonProtocol};
use echo_udpd::serializer::RawJson;
use echo_udpd::server::{Phase, ServeError, ServerHandle, ServerOptions, UdpServer};
use echo_udpd::stats::DropReason;
use serde_json::Value;
use tokio::sync::Notify;

use crate::harness::{DEADLINE, ask, connected, is_silent, receive, wait_for, wait_until_free};

type Server = blocking::UdpServer;

/// Starts a server of plain bytes on loopback, in the background.
fn serve<H>(handler: H) -> blocking::BackgroundServer
where
    H: DatagramRequestHandler<Request = Bytes, Response = Bytes>,
{
    Server::bind("127.0.0.1:0", BytesProtocol::default(), handler).unwrap().start().unwrap()
}

fn client_of(server: &ServerHandle) -> UdpSocket {
    connected(server.listeners()[0].address)
}

/// A conversation: answers `open` and each packet after it until `close`, with the packets in order.
struct Conversation(Arc<AtomicUsize>);

impl DatagramRequestHandler for Conversation {
    type Request = Bytes;
    type Response = Bytes;

    async fn handle(&self, client: Client<Bytes>, mut requests: Requests<Bytes>) -> Result<(), HandlerError> {
        self.0.fetch_add(1, SeqCst);
        let mut said = Vec::new();
        while let Some(packet) = requests.next().await {
            let packet = packet?;
            if packet == "close" {
                break;
            }
            said.extend_from_slice(&packet);
            client.send_packet(Bytes::copy_from_slice(&said)).await?;
        }
        Ok(())
    }
}

#[test]
fn a_handler_that_waits_gets_its_clients_packets_in_order_and_others_go_on() {
    let calls = Arc::new(AtomicUsize::new(0));
    let server = serve(Conversation(Arc::clone(&calls)));
    let clients = [client_of(server.handle()), client_of(server.handle())];
    for (packet, expected) in [("a", "a"), ("b", "ab"), ("c", "abc")] {
        for client in &clients {
            assert_eq!(ask(client, packet.as_bytes()), expected.as_bytes());
        }
    }
    assert_eq!(calls.load(SeqCst), 2, "one call a client");
    clients[0].send(b"close").unwrap();
    assert_eq!(ask(&clients[1], b"d"), b"abcd");
    assert_eq!(ask(&clients[0], b"new"), b"new", "a new call");
    assert_eq!(calls.load(SeqCst), 3);
}

/// Holds the first packet of each client until told to go on; then answers it, and what follows in later calls.
struct Held(Arc<Notify>);

impl DatagramRequestHandler for Held {
    type Request = Bytes;
    type Response = Bytes;

    async fn handle(&self, client: Client<Bytes>, mut requests: Requests<Bytes>) -> Result<(), HandlerError> {
        let Some(Ok(packet)) = requests.next().await else { return Ok(()) };
        if packet.starts_with(b"hold") {
            self.0.notified().await;
        }
        client.send_packet(packet).await?;
        Ok(())
    }
}

#[test]
fn what_a_client_sends_while_its_handler_is_busy_is_queued_within_a_bound() {
    let go_on = Arc::new(Notify::new());
    let server = serve(Held(Arc::clone(&go_on)));
    let (busy, other) = (client_of(server.handle()), client_of(server.handle()));
    busy.send(b"hold").unwrap();
    for number in 0..20 {
        busy.send(format!("{number}").as_bytes()).unwrap();
    }
    assert_eq!(ask(&other, b"other"), b"other", "the loop goes on meanwhile");
    go_on.notify_one();
    assert_eq!(receive(&busy), b"hold");
    for number in 0..16 {
        assert_eq!(receive(&busy), format!("{number}").as_bytes());
    }
    assert!(is_silent(&busy));
    assert_eq!(ask(&other, b"again"), b"again");
    let stats = wait_for("the counters", || Some(server.handle().stats()).filter(|stats| stats.sent == 19));
    assert_eq!((stats.received, stats.handled, stats.dropped.of(DropReason::HandlerBusy)), (23, 19, 4));
}

/// Fails as it is told.
struct Failing;

impl DatagramRequestHandler for Failing {
    type Request = Bytes;
    type Response = Bytes;

    async fn handle(&self, client: Client<Bytes>, mut requests: Requests<Bytes>) -> Result<(), HandlerError> {
        let Some(packet) = requests.next().await else { return Ok(()) };
        match &packet?[..] {
            b"panic" => panic!("told to"),
            b"error" => Err("told to".into()),
            b"chain" => Err(Outer(std::io::ErrorKind::ConnectionRefused.into()).into()),
            b"late panic" => {
                tokio::time::sleep(Duration::from_millis(1)).await;
                panic!("told to, later")
            }
            other => Ok(client.send_packet(Bytes::copy_from_slice(other)).await?),
        }
    }
}

/// An error that leaves its cause to `source`.
#[derive(Debug, thiserror::Error)]
#[error("ask the database")]
struct Outer(#[source] std::io::Error);

#[test]
fn the_error_of_a_handler_is_reported_with_all_its_causes() {
    let (lines, guard) = subscribe();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = UdpServer::bind("127.0.0.1:0", BytesProtocol::default(), Failing).unwrap();
    let handle = server.handle();
    let asking = std::thread::spawn(move || {
        let client = client_of(&handle);
        client.send(b"chain").unwrap();
        assert_eq!(ask(&client, b"still here"), b"still here");
        handle.shutdown();
    });
    runtime.block_on(server.serve()).unwrap();
    drop(guard);
    asking.join().unwrap();
    let lines = lines.0.lock().unwrap();
    let expected = "the request handler failed for 127.0.0.1: ask the database: connection refused";
    assert!(lines.iter().any(|line| line.contains(expected)), "{lines:?}");
}

#[test]
fn a_panic_or_error_in_a_handler_is_caught_counted_and_reported_with_the_client() {
    let (lines, guard) = subscribe();
    // On this thread, so that it reports to this subscriber.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = UdpServer::bind("127.0.0.1:0", BytesProtocol::default(), Failing).unwrap();
    let handle = server.handle();
    let asking = std::thread::spawn(move || {
        let client = client_of(&handle);
        let address = client.local_addr().unwrap();
        for packet in ["panic", "error", "late panic"] {
            client.send(packet.as_bytes()).unwrap();
            assert_eq!(ask(&client_of(&handle), b"still here"), b"still here");
        }
        let stats = wait_for("three failures", || {
            Some(handle.stats()).filter(|stats| stats.dropped.of(DropReason::HandlerFailed) == 3)
        });
        handle.shutdown();
        (stats, address)
    });
    runtime.block_on(server.serve()).unwrap();
    drop(guard);
    let (stats, address) = asking.join().unwrap();
    assert_eq!((stats.handled, stats.sent), (6, 3));
    let lines = lines.0.lock().unwrap();
    let expected = format!("the request handler failed for {}: panic: told to", address.ip());
    assert!(lines.iter().any(|line| line.contains(&expected)), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains(&format!("peer_port={}", address.port()))), "{lines:?}");
}

fn warnings(lines: &Lines) -> Vec<String> {
    let lines = lines.0.lock().unwrap();
    lines.iter().filter(|line| line.contains("the request handler failed")).cloned().collect()
}

#[test]
fn failures_beyond_one_a_second_are_counted_in_the_next_warning() {
    let (lines, guard) = subscribe();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = UdpServer::bind("127.0.0.1:0", BytesProtocol::default(), Failing).unwrap();
    let handle = server.handle();
    let failing = std::thread::spawn({
        let lines = lines.clone();
        move || {
            let client = client_of(&handle);
            let mut failures = 0;
            wait_for("a second warning", || {
                client.send(b"error").unwrap();
                failures += 1;
                wait_for("a failure", || (handle.stats().dropped.total() == failures).then_some(()));
                assert_eq!(ask(&client, b"still here"), b"still here");
                (warnings(&lines).len() == 2).then_some(())
            });
            handle.shutdown();
            failures
        }
    });
    runtime.block_on(server.serve()).unwrap();
    drop(guard);
    let failures = failing.join().unwrap();
    let [first, second] = &warnings(&lines)[..] else { panic!("two warnings") };
    assert!(!first.contains("not logged"), "{first}");
    assert!(second.contains(&format!(" ({} more failures were not logged)", failures - 2)), "{second}");
}

/// Subscribes this thread to what is logged.
///
/// tracing asks at the first event of a kind whether anyone wants it; a subscription that begins while another thread
/// is there can be overlooked. So a handler fails here until it is heard.
fn subscribe() -> (Lines, tracing::subscriber::DefaultGuard) {
    let lines = Lines::default();
    let guard = tracing::subscriber::set_default(lines.clone());
    wait_for("a subscription", || {
        let server = UdpServer::bind("127.0.0.1:0", BytesProtocol::default(), Failing).unwrap();
        let handle = server.handle();
        client_of(&handle).send(b"error").unwrap();
        let failed = async {
            while handle.stats().dropped.total() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(server.serve_until(failed)).unwrap();
        let heard = !warnings(&lines).is_empty();
        lines.0.lock().unwrap().clear();
        if !heard {
            tracing::callsite::rebuild_interest_cache();
        }
        heard.then_some(())
    });
    (lines, guard)
}

/// A subscriber that keeps what it is told.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!("{field}={value:?} "));
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Waits until the server closes, in the two ways that it can see that.
struct Patient {
    saw_closing: Arc<AtomicUsize>,
}

impl DatagramRequestHandler for Patient {
    type Request = Bytes;
    type Response = Bytes;

    async fn handle(&self, client: Client<Bytes>, mut requests: Requests<Bytes>) -> Result<(), HandlerError> {
        let Some(Ok(packet)) = requests.next().await else { return Ok(()) };
        assert!(!client.is_closing());
        client.send_packet(packet.clone()).await?;
        if packet == "polls" {
            while !client.is_closing() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        } else {
            assert!(requests.next().await.is_none());
        }
        assert!(client.is_closing());
        client.send_packet(Bytes::from_static(b"farewell")).await?;
        self.saw_closing.fetch_add(1, SeqCst);
        Ok(())
    }
}

#[test]
fn handlers_that_wait_see_the_server_close_and_may_still_answer() {
    let saw_closing = Arc::new(AtomicUsize::new(0));
    let server = serve(Patient { saw_closing: Arc::clone(&saw_closing) });
    let clients = [client_of(server.handle()), client_of(server.handle())];
    assert_eq!(ask(&clients[0], b"polls"), b"polls");
    assert_eq!(ask(&clients[1], b"waits"), b"waits");
    server.handle().shutdown();
    clients.iter().for_each(|client| assert_eq!(receive(client), b"farewell"));
    server.join().unwrap();
    assert_eq!(saw_closing.load(SeqCst), 2);
}

#[test]
fn a_handler_that_never_ends_does_not_keep_the_server_from_stopping() {
    let server = serve(Held(Arc::new(Notify::new())));
    let handle = server.handle().clone();
    let client = client_of(&handle);
    client.send(b"hold").unwrap();
    client.send(b"queued").unwrap();
    assert_eq!(ask(&client_of(&handle), b"1"), b"1");
    handle.shutdown();
    server.join().unwrap();
    assert_eq!(handle.phase(), Phase::Stopped);
    assert_eq!(handle.stats().dropped.of(DropReason::HandlerBusy), 1, "the queued one");
}

/// Keeps every packet that it gets.
struct Keeper(Mutex<Vec<Bytes>>);

impl DatagramRequestHandler for Keeper {
    type Request = Bytes;
    type Response = Bytes;

    async fn handle(&self, client: Client<Bytes>, mut requests: Requests<Bytes>) -> Result<(), HandlerError> {
        let Some(Ok(packet)) = requests.next().await else { return Ok(()) };
        self.0.lock().unwrap().push(packet.clone());
        client.send_packet(packet).await?;
        Ok(())
    }
}

#[test]
fn packets_that_are_kept_stay_what_they_were() {
    let inner = Arc::new(Keeper(Mutex::default()));
    let server = Server::bind("127.0.0.1:0", BytesProtocol::default(), Arc::clone(&inner)).unwrap();
    let server = server.start().unwrap();
    let client = client_of(server.handle());
    let packet = |number: usize| format!("{number:>width$}", width = 1 + number * 37 % 3000).into_bytes();
    for number in 0..1000 {
        assert_eq!(ask(&client, &packet(number)), packet(number));
    }
    drop(server);
    let kept = inner.0.lock().unwrap();
    assert_eq!(kept.len(), 1000);
    assert!((0..1000).all(|number| kept[number] == packet(number)));
}

/// Sends many replies for one request, more than the outbox holds, from within and from a task elsewhere.
struct Many;

impl DatagramRequestHandler for Many {
    type Request = Bytes;
    type Response = Bytes;

    async fn handle(&self, client: Client<Bytes>, mut requests: Requests<Bytes>) -> Result<(), HandlerError> {
        if let Some(Ok(packet)) = requests.next().await {
            let send = async move {
                for number in 0..2000 {
                    client.send_packet(Bytes::from(format!("{number}"))).await?;
                }
                Ok::<_, SendPacketError>(())
            };
            if packet == "here" { send.await? } else { tokio::spawn(send).await?? }
        }
        Ok(())
    }
}

#[test]
fn more_replies_than_the_outbox_holds_wait_and_keep_their_order() {
    let server = serve(Many);
    for place in ["here", "elsewhere"] {
        let client = client_of(server.handle());
        socket2::SockRef::from(&client).set_recv_buffer_size(4 << 20).unwrap();
        client.send(place.as_bytes()).unwrap();
        for number in 0..2000 {
            assert_eq!(receive(&client), format!("{number}").as_bytes(), "{place}");
        }
    }
}

/// Tells how a client looks to a handler.
struct Describes;

impl DatagramRequestHandler for Describes {
    type Request = Value;
    type Response = Value;

    async fn handle(&self, client: Client<Value>, mut requests: Requests<Value>) -> Result<(), HandlerError> {
        let packet = requests.next().await;
        assert!(client == client.clone() && client.interface() > 0);
        let reply = match packet {
            Some(Ok(packet)) => serde_json::json!([packet, client.peer().to_string(), client.local().to_string()]),
            Some(Err(error)) => serde_json::json!({"line": error.line(), "column": error.column()}),
            None => Value::Null,
        };
        let large = client.send_packet(Value::String("x".repeat(70_000))).await;
        assert!(matches!(large, Err(SendPacketError::TooLarge { size: 70_002, limit: 65_507 })));
        Ok(client.send_packet(reply).await?)
    }
}

#[test]
fn a_handler_sees_values_parse_errors_and_both_addresses_of_its_client() {
    let server = blocking::UdpServer::bind("[::]:0", JsonProtocol::default(), Describes);
    let server = server.unwrap().start().unwrap();
    let port = server.handle().listeners()[0].address.port();
    let client = connected(([127, 0, 0, 9], port).into());
    let local = client.local_addr().unwrap();
    let expected = format!("[{{\"a\":1}},\"{local}\",\"127.0.0.9:{port}\"]");
    assert_eq!(ask(&client, b" {\"a\": 1}"), expected.as_bytes());
    assert_eq!(ask(&client, b"{\"a\":\n ]"), br#"{"column":2,"line":2}"#);
}

#[test]
fn the_echo_handler_works_with_values_raw_json_and_bytes() {
    let at = "127.0.0.1:0";
    let values = blocking::UdpServer::bind(at, JsonProtocol::default(), EchoRequestHandler::<Value>::new());
    let values = values.unwrap().start().unwrap();
    let raw = blocking::UdpServer::bind(at, RawJsonProtocol::default(), EchoRequestHandler::<RawJson>::new());
    let raw = raw.unwrap().start().unwrap();
    let bytes = serve(EchoRequestHandler::<Bytes>::new());
    let packet: &[u8] = b"{\"b\" : 1.0,\"a\":2}\n";
    assert_eq!(ask(&client_of(values.handle()), packet), br#"{"a":2,"b":1.0}"#);
    assert_eq!(ask(&client_of(raw.handle()), packet), packet);
    assert_eq!(ask(&client_of(bytes.handle()), packet), packet);
    let broken = br#"{"error":"Invalid JSON","code":"parse_error"}"#;
    assert_eq!(ask(&client_of(raw.handle()), b"{"), broken);
    let reply: Value = serde_json::from_slice(&ask(&client_of(values.handle()), b"{")).unwrap();
    assert_eq!(reply, serde_json::from_slice::<Value>(broken).unwrap());
}

#[test]
fn a_server_goes_from_bound_to_serving_to_stopped() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let echo = EchoRequestHandler::<Bytes>::new();
    let server = UdpServer::from_socket(socket, BytesProtocol::default(), echo).unwrap();
    assert_eq!(server.local_addresses(), [address]);
    let handle = server.handle();
    assert_eq!((handle.phase(), handle.is_serving()), (Phase::Bound, false));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        // Spawned on a runtime of several threads: the future is Send.
        let serving = tokio::spawn(server.serve());
        handle.wait_for_phase(Phase::Serving).await;
        assert!(handle.is_serving());
        let asked = tokio::task::spawn_blocking(move || ask(&connected(address), b"x"));
        assert_eq!(asked.await.unwrap(), b"x");
        handle.shutdown();
        serving.await.unwrap().unwrap();
        handle.wait_for_phase(Phase::Stopped).await;
    });
    assert_eq!((handle.is_serving(), handle.stats().sent), (false, 1));
    wait_until_free(address);
}

#[test]
fn dropping_the_serving_future_stops_all_workers() {
    let server = ServerOptions::new()
        .listen("127.0.0.1:0".parse().unwrap())
        .workers(3)
        .bind(BytesProtocol::default(), EchoRequestHandler::<Bytes>::new())
        .unwrap();
    let (handle, address) = (server.handle(), server.local_addresses()[0]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let serving = tokio::time::timeout(Duration::from_millis(50), server.serve());
        assert!(serving.await.is_err(), "it serves until it is dropped");
        tokio::time::timeout(DEADLINE, handle.wait_for_phase(Phase::Stopped)).await.unwrap();
    });
    wait_until_free(address);
}

#[test]
fn a_blocking_server_serves_this_thread_until_another_shuts_it_down() {
    let server = Server::bind("[::1]:0", BytesProtocol::default(), Failing).unwrap();
    let (handle, address) = (server.handle(), server.local_addresses()[0]);
    let other = std::thread::spawn(move || {
        assert_eq!(ask(&connected(address), b"1"), b"1");
        handle.shutdown();
        handle
    });
    server.serve().unwrap();
    let handle = other.join().unwrap();
    assert_eq!((handle.phase(), handle.stats().sent), (Phase::Stopped, 1));
}

#[test]
fn a_server_asked_to_stop_before_it_serves_ends_at_once() {
    let server = Server::bind("127.0.0.1:0", BytesProtocol::default(), Failing).unwrap();
    server.handle().shutdown();
    server.serve().unwrap();
}

/// Counts what happens around the requests.
#[derive(Default)]
struct Hooks {
    refuse: bool,
    started: AtomicUsize,
    stopped: AtomicUsize,
}

impl DatagramRequestHandler for Hooks {
    type Request = Bytes;
    type Response = Bytes;

    async fn handle(&self, client: Client<Bytes>, _: Requests<Bytes>) -> Result<(), HandlerError> {
        let told = format!("{} {}", self.started.load(SeqCst), self.stopped.load(SeqCst));
        Ok(client.send_packet(told.into()).await?)
    }
    async fn start(&self, _: &ServerHandle) -> Result<(), HandlerError> {
        self.started.fetch_add(1, SeqCst);
        if self.refuse { Err("not today".into()) } else { Ok(()) }
    }
    async fn stop(&self) {
        self.stopped.fetch_add(1, SeqCst);
    }
}

#[test]
fn start_and_stop_of_a_handler_run_once_around_the_requests() {
    let hooks = Arc::<Hooks>::default();
    let server = Server::bind("127.0.0.1:0", BytesProtocol::default(), Arc::clone(&hooks)).unwrap();
    let server = server.start().unwrap();
    assert_eq!(ask(&client_of(server.handle()), b"?"), b"1 0");
    drop(server);
    assert_eq!((hooks.started.load(SeqCst), hooks.stopped.load(SeqCst)), (1, 1));
    let refusing = Hooks { refuse: true, ..Hooks::default() };
    let refused = Server::bind("127.0.0.1:0", BytesProtocol::default(), refusing).unwrap().start();
    assert!(matches!(refused, Err(ServeError::StartHandler(reason)) if reason.to_string() == "not today"));
}

/// Notes the port of each request.
struct Order(Mutex<Vec<u16>>);

impl DatagramRequestHandler for Order {
    type Request = Bytes;
    type Response = Bytes;

    async fn handle(&self, client: Client<Bytes>, _: Requests<Bytes>) -> Result<(), HandlerError> {
        self.0.lock().unwrap().push(client.local().port());
        Ok(())
    }
}

#[test]
fn a_flood_on_one_address_does_not_keep_a_worker_from_another() {
    let [flooded, other] = ["127.0.0.1:0"; 2].map(|address| address.parse().unwrap());
    let options = ServerOptions::new().listen(flooded).listen(other);
    let order = Arc::new(Order(Mutex::default()));
    let server = options.bind(BytesProtocol::default(), Arc::clone(&order)).unwrap();
    let [flooded, other] = server.local_addresses()[..] else { panic!("two addresses") };
    let client = connected(flooded);
    (0..250).for_each(|_| assert_eq!(client.send(b"flood").unwrap(), 5));
    connected(other).send(b"one").unwrap();
    let _server = Server::from(server).start().unwrap();
    let order = wait_for("all requests", || Some(order.0.lock().unwrap().clone()).filter(|order| order.len() == 251));
    let place = order.iter().position(|&port| port == other.port()).unwrap();
    assert!(place <= 64, "after {place} others: more than a batch");
}

/// Needs what its `start` began: a task that answers for it.
#[derive(Default)]
struct Helped(std::sync::OnceLock<tokio::sync::mpsc::Sender<tokio::sync::oneshot::Sender<Duration>>>);

impl DatagramRequestHandler for Helped {
    type Request = Bytes;
    type Response = Bytes;

    async fn handle(&self, client: Client<Bytes>, _: Requests<Bytes>) -> Result<(), HandlerError> {
        let (ask, answer) = tokio::sync::oneshot::channel();
        self.0.get().ok_or("not started")?.send(ask).await?;
        let slept = answer.await?;
        client.send_packet(format!("{}", slept.as_millis()).into()).await?;
        Ok(())
    }

    async fn start(&self, _: &ServerHandle) -> Result<(), HandlerError> {
        let (questions, mut asked) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<Duration>>(1);
        tokio::spawn(async move {
            while let Some(question) = asked.recv().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
                let _ = question.send(Duration::from_millis(5));
            }
        });
        self.0.set(questions).map_err(|_| "started twice".into())
    }
}

#[test]
fn what_a_handler_starts_runs_while_the_blocking_server_serves() {
    let server = serve(Helped::default());
    assert_eq!(ask(&client_of(server.handle()), b"?"), b"5");
}

/// Waits for a second packet, and says when there will be none.
struct Second(Arc<Notify>);

impl DatagramRequestHandler for Second {
    type Request = Bytes;
    type Response = Bytes;

    async fn handle(&self, client: Client<Bytes>, mut requests: Requests<Bytes>) -> Result<(), HandlerError> {
        let first = requests.next().await;
        if first.is_some_and(|first| first.is_ok_and(|first| first == "hold")) {
            self.0.notified().await;
        } else if requests.next().await.is_none() {
            client.send_packet(Bytes::from_static(b"no more")).await?;
        }
        Ok(())
    }
}

/// Echoes two packets, then says that there was no third.
struct Within;

impl DatagramRequestHandler for Within {
    type Request = Bytes;
    type Response = Bytes;

    async fn handle(&self, client: Client<Bytes>, mut requests: Requests<Bytes>) -> Result<(), HandlerError> {
        for time in [Duration::ZERO, DEADLINE, Duration::from_millis(1)] {
            let packet = requests.next_within(time).await.transpose()?;
            client.send_packet(packet.unwrap_or(Bytes::from_static(b"none"))).await?;
        }
        Ok(())
    }
}

#[test]
fn a_handler_can_wait_for_a_packet_within_some_time() {
    let server = serve(Within);
    let client = client_of(server.handle());
    assert_eq!(ask(&client, b"first"), b"first");
    assert_eq!(ask(&client, b"second"), b"second");
    assert_eq!(receive(&client), b"none");
}

#[test]
fn a_call_that_begins_while_the_server_closes_hears_at_once_that_there_is_no_more() {
    let go_on = Arc::new(Notify::new());
    let server = serve(Second(Arc::clone(&go_on)));
    let client = client_of(server.handle());
    client.send(b"hold").unwrap();
    client.send(b"queued").unwrap();
    wait_for("both", || (server.handle().stats().received == 2).then_some(()));
    server.handle().shutdown();
    go_on.notify_one();
    assert_eq!(receive(&client), b"no more");
    server.join().unwrap();
}

#[test]
fn a_server_without_an_address_is_refused() {
    let refused = ServerOptions::new().bind(BytesProtocol::default(), Failing);
    assert!(matches!(refused, Err(echo_udpd::socket::BindError::NoAddress)));
}

#[test]
fn a_stream_or_unbound_socket_is_not_adopted() {
    let (stream, _) = std::os::unix::net::UnixStream::pair().unwrap();
    let stream = UdpSocket::from(std::os::fd::OwnedFd::from(stream));
    assert!(UdpServer::from_socket(stream, BytesProtocol::default(), Failing).is_err());
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = UdpSocket::from(std::os::fd::OwnedFd::from(tcp));
    assert!(UdpServer::from_socket(tcp, BytesProtocol::default(), Failing).is_err());
}

#[test]
fn a_flood_leaves_turns_to_the_other_tasks_of_its_runtime() {
    let server = UdpServer::bind("127.0.0.1:0", BytesProtocol::default(), EchoRequestHandler::<Bytes>::new()).unwrap();
    let handle = server.handle();
    let client = connected(server.local_addresses()[0]);
    // They wait in the socket, so that the server never has to wait for one.
    (0..200).for_each(|_| assert_eq!(client.send(b"1").unwrap(), 1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let most = runtime.block_on(async {
        let serving = tokio::spawn(server.serve());
        let (mut most, mut before) = (0, 0);
        while before < 200 {
            let now = handle.stats().received;
            most = most.max(now - before);
            before = now;
            tokio::task::yield_now().await;
        }
        handle.shutdown();
        serving.await.unwrap().unwrap();
        most
    });
    assert!(most <= 64, "{most} between two turns");
}

/// Lets threads send to one client for as long as the server runs.
struct Streaming;

impl DatagramRequestHandler for Streaming {
    type Request = Bytes;
    type Response = Bytes;

    async fn handle(&self, client: Client<Bytes>, mut requests: Requests<Bytes>) -> Result<(), HandlerError> {
        let Some(Ok(packet)) = requests.next().await else { return Ok(()) };
        if packet == "stream" {
            for _ in 0..2 {
                let (client, packet) = (client.clone(), packet.clone());
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    while runtime.block_on(client.send_packet(packet.clone())).is_ok() {}
                });
            }
        } else {
            client.send_packet(packet).await?;
        }
        Ok(())
    }
}

#[test]
fn handlers_that_send_from_elsewhere_without_end_do_not_keep_a_worker_from_receiving() {
    let server = serve(Streaming);
    client_of(server.handle()).send(b"stream").unwrap();
    let client = client_of(server.handle());
    for number in 0..100 {
        let packet = number.to_string();
        assert_eq!(ask(&client, packet.as_bytes()), packet.as_bytes());
    }
}
