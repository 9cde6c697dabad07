//! The library's server with several services, and the ways to serve and to end: `serve_until`, `spawn`, `closing`.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use echo_udpd::handler::{Client, DatagramRequestHandler, EchoRequestHandler, HandlerError, HandlerFailure, Requests};
use echo_udpd::protocol::{BytesProtocol, DatagramProtocol, RawJsonProtocol};
use echo_udpd::serializer::RawJson;
use echo_udpd::server::{Phase, ServeError, ServerHandle, ServerOptions, Service, UdpServer};
use echo_udpd::stats::DropReason;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::harness::{DEADLINE, ask, connected, is_silent, wait_for};

const LOOPBACK: &str = "127.0.0.1:0";

fn loopback() -> SocketAddr {
    LOOPBACK.parse().unwrap()
}

fn echo() -> EchoRequestHandler<Bytes> {
    EchoRequestHandler::new()
}

fn runtime() -> tokio::runtime::Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// What was done, in order.
type Notes = Arc<Mutex<Vec<String>>>;

/// Notes what happens around requests.
struct Noted {
    name: &'static str,
    notes: Notes,
    fails: bool,
}

impl Noted {
    fn note(&self, what: &str) {
        self.notes.lock().unwrap().push(format!("{} {what}", self.name));
    }
}

impl DatagramRequestHandler for Noted {
    type Request = Bytes;
    type Response = Bytes;

    /// Waits until the server closes, then replies.
    async fn handle(&self, client: Client<Bytes>, _: Requests<Bytes>) -> Result<(), HandlerError> {
        self.note("waits");
        tokio::select! {
            () = client.closing() => {}
            () = pending() => {}
        }
        Ok(client.send_packet(Bytes::from_static(b"closing")).await?)
    }

    async fn start(&self, server: &ServerHandle) -> Result<(), HandlerError> {
        assert_eq!((server.phase(), server.listeners().len()), (Phase::Bound, 2));
        self.note("start");
        if self.fails { Err("not today".into()) } else { Ok(()) }
    }

    async fn stop(&self) {
        tokio::task::yield_now().await;
        self.note("stop");
    }
}

/// Two services that note what happens, on an address each.
fn two_noted(second_fails: bool) -> (UdpServer, Notes) {
    let notes = Notes::default();
    let service = |name, fails| Service::new(BytesProtocol::default(), Noted { name, notes: notes.clone(), fails });
    let options = ServerOptions::new().listen(loopback()).listen_with(loopback(), &service("second", second_fails));
    (options.bind_service(&service("first", false)).unwrap(), notes)
}

#[test]
fn each_address_answers_by_its_own_protocol_and_counts_for_itself() {
    let raw = Service::new(BytesProtocol::default(), echo()).with_name("raw");
    let options = ServerOptions::new().workers(2).listen(loopback()).listen_with(loopback(), &raw);
    let json = Service::new(RawJsonProtocol::default(), EchoRequestHandler::<RawJson>::new()).with_name("json");
    let server = options.bind_service(&json).unwrap();
    let handle = server.handle();
    let task = server.spawn().unwrap();
    let [first, second] = handle.listeners() else { panic!("two listeners") };
    assert_eq!((first.service, second.service), ("json", "raw"));
    for _ in 0..20 {
        assert_eq!(ask(&connected(first.address), b"[1]"), b"[1]");
        assert!(ask(&connected(first.address), b"{").starts_with(b"{\"error\""));
        assert_eq!(ask(&connected(second.address), b"{"), b"{");
    }
    let all = || handle.stats().sent + handle.stats().error_replies == 60;
    wait_for("all counted", || all().then_some(()));
    let by_listener = handle.listener_stats();
    let counts: Vec<_> = by_listener.iter().map(|stats| (stats.received, stats.sent, stats.error_replies)).collect();
    assert_eq!(counts, [(40, 20, 20), (20, 20, 0)]);
    let mut sum = by_listener[0];
    sum += by_listener[1];
    assert_eq!(sum, handle.stats());
    task.shutdown();
    runtime().block_on(task).unwrap();
}

#[test]
fn no_listener_answers_the_port_of_another() {
    let raw = Service::new(BytesProtocol::default(), echo());
    let options = ServerOptions::new().listen(loopback()).listen_with("127.0.0.2:0".parse().unwrap(), &raw);
    let json = Service::new(RawJsonProtocol::default(), EchoRequestHandler::<RawJson>::new());
    let server = options.bind_service(&json).unwrap();
    let [json, raw] = server.local_addresses()[..] else { panic!("two listeners") };
    let _task = server.spawn().unwrap();
    // The port of the one, on an address where it does not listen.
    let client = std::net::UdpSocket::bind(("127.0.0.3", json.port())).unwrap();
    client.connect(raw).unwrap();
    client.send(b"[1]").unwrap();
    assert!(is_silent(&client));
}

#[test]
fn services_start_in_order_and_stop_in_reverse() {
    let (server, notes) = two_noted(false);
    let handle = server.handle();
    let task = server.spawn().unwrap();
    runtime().block_on(async { timeout(DEADLINE, handle.wait_for_phase(Phase::Serving)).await }).unwrap();
    task.shutdown();
    runtime().block_on(task).unwrap();
    assert_eq!(*notes.lock().unwrap(), ["first start", "second start", "second stop", "first stop"]);
}

#[test]
fn a_service_that_cannot_start_stops_those_before_it_too() {
    let (server, notes) = two_noted(true);
    let failed = runtime().block_on(server.serve()).unwrap_err();
    assert!(matches!(failed, ServeError::StartHandler(reason) if reason.to_string() == "not today"));
    assert_eq!(*notes.lock().unwrap(), ["first start", "second start", "second stop", "first stop"]);
}

/// Notes that it stops, and panics.
struct StopPanics(Noted);

impl DatagramRequestHandler for StopPanics {
    type Request = Bytes;
    type Response = Bytes;

    async fn handle(&self, _: Client<Bytes>, _: Requests<Bytes>) -> Result<(), HandlerError> {
        Ok(())
    }

    async fn stop(&self) {
        self.0.stop().await;
        panic!("told to");
    }
}

#[test]
fn services_whose_stop_panics_do_not_keep_the_others_from_stopping() {
    let notes = Notes::default();
    let noted = |name| Noted { name, notes: notes.clone(), fails: false };
    let panicking = |name| Service::new(BytesProtocol::default(), StopPanics(noted(name)));
    let options = ServerOptions::new().listen(loopback());
    let options = options.listen_with(loopback(), &panicking("second")).listen_with(loopback(), &panicking("third"));
    let server = options.bind_service(&panicking("first")).unwrap();
    let ended = runtime().block_on(async {
        let handle = server.handle();
        let task = server.spawn().unwrap();
        timeout(DEADLINE, handle.wait_for_phase(Phase::Serving)).await.unwrap();
        task.shutdown();
        let ended = timeout(DEADLINE, task).await.unwrap();
        timeout(DEADLINE, handle.wait_for_phase(Phase::Stopped)).await.unwrap();
        ended
    });
    assert!(matches!(ended, Err(ServeError::WorkerPanicked)));
    assert_eq!(*notes.lock().unwrap(), ["third stop", "second stop", "first stop"]);
}

#[test]
fn a_service_on_several_addresses_starts_and_stops_once() {
    let notes = Notes::default();
    let noted = Noted { name: "only", notes: notes.clone(), fails: false };
    let service = Service::new(BytesProtocol::default(), noted);
    let options = ServerOptions::new().listen(loopback()).listen_with(loopback(), &service);
    let server = options.bind_service(&service).unwrap();
    runtime().block_on(async { timeout(DEADLINE, server.serve_until(async {})).await.unwrap() }).unwrap();
    assert_eq!(*notes.lock().unwrap(), ["only start", "only stop"]);
}

#[test]
fn serving_until_a_signal_gives_handlers_that_wait_their_grace() {
    let (server, notes) = two_noted(false);
    let client = connected(server.local_addresses()[0]);
    let (signal, signalled) = oneshot::channel::<&str>();
    let asking = std::thread::spawn(move || {
        client.send(b"?").unwrap();
        wait_for("a request that waits", || {
            notes.lock().unwrap().iter().any(|note| note == "first waits").then_some(())
        });
        signal.send("whatever its output").unwrap();
        crate::harness::receive(&client)
    });
    runtime().block_on(async { timeout(DEADLINE, server.serve_until(signalled)).await.unwrap() }).unwrap();
    assert_eq!(asking.join().unwrap(), b"closing");
}

#[test]
fn dropping_a_task_shuts_its_server_down() {
    let server = UdpServer::bind(LOOPBACK, BytesProtocol::default(), echo()).unwrap();
    let handle = server.handle();
    runtime().block_on(async {
        let task = server.spawn().unwrap();
        timeout(DEADLINE, handle.wait_for_phase(Phase::Serving)).await.unwrap();
        drop(task);
        timeout(DEADLINE, handle.wait_for_phase(Phase::Stopped)).await.unwrap();
    });
}

/// Serves on a task of a multi-threaded runtime, whatever the handler.
async fn serve_on_a_task<P, H>(protocol: P, handler: H) -> Result<(), ServeError>
where
    H: DatagramRequestHandler,
    P: DatagramProtocol<Sent = H::Response, Received = H::Request> + Send + Sync + 'static,
{
    let server = UdpServer::bind(LOOPBACK, protocol, handler).unwrap();
    let handle = server.handle();
    let serving = tokio::spawn(server.serve());
    let asking = tokio::task::spawn_blocking(move || {
        assert_eq!(ask(&connected(handle.listeners()[0].address), b"x"), b"x");
        handle.shutdown();
    });
    asking.await.unwrap();
    serving.await.unwrap()
}

#[test]
fn any_handler_can_be_served_on_a_task_of_a_runtime_with_several_threads() {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let served = async { timeout(DEADLINE, serve_on_a_task(BytesProtocol::default(), echo())).await };
    runtime.block_on(served).unwrap().unwrap();
}

#[test]
fn a_client_that_a_handler_drops_is_an_example_of_its_reason() {
    let handler = EchoRequestHandler::<RawJson>::new();
    let server = UdpServer::bind(LOOPBACK, RawJsonProtocol::default(), handler).unwrap();
    let handle = server.handle();
    let _task = server.spawn().unwrap();
    let client = connected(handle.listeners()[0].address);
    client.send(br#"{"error":"Invalid JSON","code":"parse_error"}"#).unwrap();
    wait_for("the drop", || (handle.stats().dropped.of(DropReason::OwnError) == 1).then_some(()));
    assert_eq!(handle.take_dropped_example(DropReason::OwnError), Some(client.local_addr().unwrap()));
}

/// Fails at every request, and records each failure that is reported to it.
#[derive(Default)]
struct Failing(Mutex<Vec<String>>);

impl DatagramRequestHandler for Failing {
    type Request = Bytes;
    type Response = Bytes;

    async fn handle(&self, _: Client<Bytes>, mut requests: Requests<Bytes>) -> Result<(), HandlerError> {
        match requests.next().await {
            Some(Ok(packet)) if packet == "panic" => panic!("told to"),
            _ => Err("refused".into()),
        }
    }

    fn failed(&self, client: &Client<Bytes>, failure: &HandlerFailure) {
        let kind = match failure {
            HandlerFailure::Error(_) => "error",
            HandlerFailure::Panic(_) => "panic",
            _ => "other",
        };
        self.0.lock().unwrap().push(format!("{kind} of {}: {failure}", client.peer()));
        panic!("one that panics here changes nothing");
    }
}

#[test]
fn a_handler_can_report_its_failures_itself() {
    let handler = Arc::<Failing>::default();
    let server = UdpServer::bind(LOOPBACK, BytesProtocol::default(), Arc::clone(&handler)).unwrap();
    let handle = server.handle();
    let _task = server.spawn().unwrap();
    let client = connected(handle.listeners()[0].address);
    for (number, packet) in ["panic", "error"].iter().enumerate() {
        client.send(packet.as_bytes()).unwrap();
        let failed = || handle.stats().dropped.of(DropReason::HandlerFailed) == 1 + number as u64;
        wait_for("a failure", || failed().then_some(()));
    }
    let peer = client.local_addr().unwrap();
    assert_eq!(handle.take_dropped_example(DropReason::HandlerFailed), Some(peer));
    let expected = [format!("panic of {peer}: panic: told to"), format!("error of {peer}: refused")];
    assert_eq!(*handler.0.lock().unwrap(), expected);
}
