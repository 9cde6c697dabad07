//! The life of the library's server: how it is bound, and how it starts and ends, with its handler's `start` and
//! `stop`.

use std::future::pending;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use echo_udpd::admission::{Policy, Prefix};
use echo_udpd::blocking;
use echo_udpd::handler::{Client, DatagramRequestHandler, EchoRequestHandler, HandlerError, Requests};
use echo_udpd::protocol::BytesProtocol;
use echo_udpd::server::{Phase, ServeError, ServerHandle, ServerOptions, UdpServer};
use echo_udpd::socket::BindError;
use echo_udpd::stats::DropReason;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::harness::{DEADLINE, ask, connected, is_silent, receive, wait_for, wait_until_free};

const LOOPBACK: &str = "127.0.0.1:0";

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// One address on loopback.
fn loopback() -> ServerOptions {
    ServerOptions::new().listen(LOOPBACK.parse().unwrap())
}

fn echo() -> EchoRequestHandler<Bytes> {
    EchoRequestHandler::new()
}

fn address_of(server: &ServerHandle) -> SocketAddr {
    server.listeners()[0].address
}

/// What its `start` does.
#[derive(Clone, Copy, Default, PartialEq)]
enum Start {
    #[default]
    Succeeds,
    Fails,
    /// Never ends.
    Waits,
}

/// Notes what happens around the requests, in order; echoes packets.
#[derive(Default)]
struct Noted {
    start: Start,
    /// Where the sockets must be closed when it stops.
    address: Mutex<Option<SocketAddr>>,
    events: Arc<Mutex<Vec<&'static str>>>,
}

impl Noted {
    fn note(&self, event: &'static str) {
        self.events.lock().unwrap().push(event);
    }
}

/// Notes that a `start` that never ends was dropped.
struct NotedOnDrop<'a>(&'a Noted);

impl Drop for NotedOnDrop<'_> {
    fn drop(&mut self) {
        self.0.note("start was dropped");
    }
}

impl DatagramRequestHandler for Noted {
    type Request = Bytes;
    type Response = Bytes;

    async fn handle(&self, client: Client<Bytes>, mut requests: Requests<Bytes>) -> Result<(), HandlerError> {
        let Some(packet) = requests.next().await else { return Ok(()) };
        Ok(client.send_packet(packet?).await?)
    }

    async fn start(&self, _: &ServerHandle) -> Result<(), HandlerError> {
        self.note("start");
        match self.start {
            Start::Succeeds => Ok(()),
            Start::Fails => Err("not today".into()),
            Start::Waits => {
                let _dropped = NotedOnDrop(self);
                pending().await
            }
        }
    }

    async fn stop(&self) {
        if let Some(address) = *self.address.lock().unwrap() {
            wait_until_free(address);
        }
        // It may need a runtime, wherever it runs.
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.note("stop");
    }
}

/// A server whose handler notes what happens, and the notes.
fn noted(options: ServerOptions, start: Start) -> (UdpServer, Arc<Mutex<Vec<&'static str>>>) {
    let handler = Arc::new(Noted { start, ..Noted::default() });
    let events = Arc::clone(&handler.events);
    let server = options.bind(BytesProtocol::default(), Arc::clone(&handler)).unwrap();
    *handler.address.lock().unwrap() = Some(server.local_addresses()[0]);
    (server, events)
}

fn wait_for_event(events: &Mutex<Vec<&'static str>>, event: &'static str) {
    wait_for(event, || events.lock().unwrap().contains(&event).then_some(()));
}

#[test]
fn a_shutdown_interrupts_a_handler_that_is_still_starting() {
    let (server, events) = noted(loopback(), Start::Waits);
    let handle = server.handle();
    let shutting_down = {
        let (handle, events) = (handle.clone(), Arc::clone(&events));
        std::thread::spawn(move || {
            wait_for_event(&events, "start");
            handle.shutdown();
        })
    };
    runtime().block_on(async { timeout(DEADLINE, server.serve()).await.expect("it ends") }).unwrap();
    shutting_down.join().unwrap();
    assert_eq!(*events.lock().unwrap(), ["start", "start was dropped", "stop"]);
    assert_eq!(handle.phase(), Phase::Stopped);
}

#[test]
fn a_shutdown_ends_the_start_of_a_background_server() {
    let (server, events) = noted(loopback().workers(2), Start::Waits);
    let handle = server.handle();
    let starting = std::thread::spawn(move || blocking::UdpServer::from(server).start());
    wait_for_event(&events, "start");
    handle.shutdown();
    let server = starting.join().unwrap().unwrap();
    assert_eq!(handle.phase(), Phase::Stopped);
    server.join().unwrap();
    assert_eq!(*events.lock().unwrap(), ["start", "start was dropped", "stop"]);
}

#[test]
fn a_handler_whose_start_fails_is_stopped() {
    let (server, events) = noted(loopback(), Start::Fails);
    let failed = runtime().block_on(server.serve());
    assert!(matches!(failed, Err(ServeError::StartHandler(reason)) if reason.to_string() == "not today"));
    assert_eq!(*events.lock().unwrap(), ["start", "stop"]);
    let (server, events) = noted(loopback(), Start::Fails);
    assert!(matches!(blocking::UdpServer::from(server).start(), Err(ServeError::StartHandler(_))));
    assert_eq!(*events.lock().unwrap(), ["start", "stop"]);
}

#[test]
fn a_handler_is_neither_started_nor_stopped_by_a_server_that_was_shut_down_before() {
    let (server, events) = noted(loopback().workers(2), Start::Succeeds);
    let handle = server.handle();
    handle.shutdown();
    runtime().block_on(server.serve()).unwrap();
    assert_eq!(handle.phase(), Phase::Stopped);
    assert_eq!(events.lock().unwrap().len(), 0);
}

#[test]
fn dropping_the_serving_future_stops_the_handler_after_all_workers() {
    let (server, events) = noted(loopback().workers(3), Start::Succeeds);
    let handle = server.handle();
    runtime().block_on(async {
        tokio::select! {
            _ = server.serve() => panic!("it serves until it is dropped"),
            () = handle.wait_for_phase(Phase::Serving) => {}
        }
        timeout(DEADLINE, handle.wait_for_phase(Phase::Stopped)).await.unwrap();
    });
    assert_eq!(*events.lock().unwrap(), ["start", "stop"]);
}

#[test]
fn dropping_a_future_that_is_still_starting_stops_the_handler() {
    let (server, events) = noted(loopback(), Start::Waits);
    let handle = server.handle();
    runtime().block_on(async {
        assert!(timeout(Duration::from_millis(10), server.serve()).await.is_err());
        timeout(DEADLINE, handle.wait_for_phase(Phase::Stopped)).await.unwrap();
    });
    assert_eq!(*events.lock().unwrap(), ["start", "start was dropped", "stop"]);
}

#[test]
fn a_runtime_that_is_dropped_waits_for_the_handler_to_stop() {
    let (server, events) = noted(loopback(), Start::Succeeds);
    let handle = server.handle();
    let runtime = runtime();
    runtime.spawn(server.serve());
    runtime.block_on(handle.wait_for_phase(Phase::Serving));
    drop(runtime);
    assert_eq!((handle.phase(), &events.lock().unwrap()[..]), (Phase::Stopped, &["start", "stop"][..]));
}

#[test]
fn dropping_the_serving_future_outside_a_runtime_stops_the_handler() {
    let (server, events) = noted(loopback().workers(2), Start::Succeeds);
    let handle = server.handle();
    let mut serving = Box::pin(server.serve());
    let runtime = runtime();
    runtime.block_on(async {
        tokio::select! {
            _ = &mut serving => panic!("it serves until it is dropped"),
            () = handle.wait_for_phase(Phase::Serving) => {}
        }
    });
    drop(runtime);
    drop(serving);
    wait_for("the end", || (handle.phase() == Phase::Stopped).then_some(()));
    assert_eq!(*events.lock().unwrap(), ["start", "stop"]);
}

#[test]
fn an_awaited_server_ends_once_all_its_workers_have() {
    let (server, events) = noted(loopback().workers(3), Start::Succeeds);
    let handle = server.handle();
    let asking = std::thread::spawn({
        let handle = handle.clone();
        move || {
            wait_for("three workers", || handle.is_serving().then_some(()));
            // By its port, a client is one worker's.
            (0..50).for_each(|_| assert_eq!(ask(&connected(address_of(&handle)), b"x"), b"x"));
            handle.shutdown();
        }
    });
    runtime().block_on(async { timeout(DEADLINE, server.serve()).await.expect("it ends") }).unwrap();
    asking.join().unwrap();
    // The handler's `stop` has seen that every socket was closed.
    assert_eq!(*events.lock().unwrap(), ["start", "stop"]);
    assert_eq!((handle.phase(), handle.stats().sent), (Phase::Stopped, 50));
}

#[test]
fn what_the_kernel_dropped_is_counted_however_a_server_ends() {
    let (server, _) = noted(loopback().receive_buffer(1), Start::Succeeds);
    let handle = server.handle();
    let client = connected(address_of(&handle));
    let flood = async {
        handle.wait_for_phase(Phase::Serving).await;
        // In one turn of the runtime: the worker receives nothing of it.
        (0..100).for_each(|_| assert_eq!(client.send(&[0; 1000]).unwrap(), 1000));
    };
    runtime().block_on(async {
        tokio::select! {
            _ = server.serve() => panic!("it serves until it is dropped"),
            () = flood => {}
        }
        timeout(DEADLINE, handle.wait_for_phase(Phase::Stopped)).await.unwrap();
    });
    assert!(handle.stats().kernel_drops > 0);
}

#[test]
fn a_future_that_was_never_polled_neither_starts_nor_stops_the_handler() {
    let (server, events) = noted(loopback(), Start::Succeeds);
    let handle = server.handle();
    drop(server.serve());
    assert_eq!((handle.phase(), events.lock().unwrap().len()), (Phase::Stopped, 0));
}

/// Waits on after it has echoed a packet: `"forever"`, for no more requests, or for some time once the server closes.
struct Lingers;

impl DatagramRequestHandler for Lingers {
    type Request = Bytes;
    type Response = Bytes;

    async fn handle(&self, client: Client<Bytes>, mut requests: Requests<Bytes>) -> Result<(), HandlerError> {
        let Some(packet) = requests.next().await.transpose()? else { return Ok(()) };
        client.send_packet(packet.clone()).await?;
        if packet == "forever" {
            pending::<()>().await;
        }
        assert!(requests.next().await.is_none(), "the server closes");
        if packet == "longer" {
            tokio::time::sleep(Duration::from_millis(1200)).await;
        }
        Ok(client.send_packet(Bytes::from_static(b"farewell")).await?)
    }
}

/// A server with this grace, whose handler for a client waits.
fn lingering(grace: Option<Duration>, packet: &str) -> (blocking::BackgroundServer, UdpSocket) {
    let options = grace.map_or(loopback(), |grace| loopback().shutdown_grace(grace));
    let server = blocking::UdpServer::from(options.bind(BytesProtocol::default(), Lingers).unwrap()).start().unwrap();
    let client = connected(address_of(server.handle()));
    assert_eq!(ask(&client, packet.as_bytes()), packet.as_bytes());
    (server, client)
}

#[test]
fn handlers_that_wait_have_a_second_or_what_the_options_say() {
    let time_to_stop = |grace| {
        let (server, _client) = lingering(grace, "forever");
        let begin = Instant::now();
        server.stop().unwrap();
        begin.elapsed()
    };
    assert!(time_to_stop(None) >= Duration::from_secs(1));
    assert!(time_to_stop(Some(Duration::ZERO)) < Duration::from_secs(1));
    let (server, client) = lingering(Some(DEADLINE), "longer");
    server.stop().unwrap();
    assert_eq!(receive(&client), b"farewell");
}

#[test]
fn without_grace_a_handler_still_hears_that_there_are_no_more_requests() {
    let (server, client) = lingering(Some(Duration::ZERO), "until the end");
    server.stop().unwrap();
    assert_eq!(receive(&client), b"farewell");
}

#[test]
fn each_loop_gives_one_heartbeat_for_each_request_for_one() {
    let (server, _) = noted(loopback().workers(2), Start::Succeeds);
    let server = blocking::UdpServer::from(server).start().unwrap();
    let handle = server.handle();
    for beats in 0..3 {
        wait_for("the heartbeats", || (handle.heartbeats() == [beats, beats]).then_some(()));
        // What is received without a request is none.
        (0..20).for_each(|_| assert_eq!(ask(&connected(address_of(handle)), b"x"), b"x"));
        assert_eq!(handle.heartbeats(), [beats, beats]);
        handle.request_heartbeats();
    }
}

#[test]
fn a_policy_takes_effect_while_the_server_runs() {
    let server = blocking::UdpServer::bind(LOOPBACK, BytesProtocol::default(), echo()).unwrap().start().unwrap();
    let client = connected(address_of(server.handle()));
    assert_eq!(ask(&client, b"x"), b"x");
    let mut policy = Policy::open();
    policy.deny = vec![Prefix::of([127, 0, 0, 0].into(), 8)];
    server.handle().set_policy(&policy);
    client.send(b"x").unwrap();
    wait_for("the drop", || (server.handle().stats().dropped.of(DropReason::Access) == 1).then_some(()));
}

#[test]
fn a_background_server_starts_and_stops_inside_a_runtime() {
    runtime().block_on(async {
        let server = blocking::UdpServer::bind(LOOPBACK, BytesProtocol::default(), echo()).unwrap().start().unwrap();
        assert!(server.handle().is_serving());
        assert_eq!(ask(&connected(address_of(server.handle())), b"x"), b"x");
        server.stop().unwrap();
    });
}

#[test]
fn a_blocking_server_serves_inside_a_runtime() {
    let server = blocking::UdpServer::bind(LOOPBACK, BytesProtocol::default(), echo()).unwrap();
    let handle = server.handle();
    let asking = std::thread::spawn(move || {
        assert_eq!(ask(&connected(address_of(&handle)), b"x"), b"x");
        handle.shutdown();
    });
    runtime().block_on(async { server.serve().unwrap() });
    asking.join().unwrap();
}

#[test]
fn joining_with_a_timeout_says_whether_the_server_has_stopped() {
    let mut server = blocking::UdpServer::bind(LOOPBACK, BytesProtocol::default(), echo()).unwrap().start().unwrap();
    assert!(server.join_timeout(Duration::from_millis(1)).is_none());
    assert!(server.join_timeout(Duration::ZERO).is_none());
    assert_eq!(ask(&connected(address_of(server.handle())), b"x"), b"x");
    server.handle().shutdown();
    server.join_timeout(DEADLINE).expect("it ends").unwrap();
    assert_eq!(server.handle().phase(), Phase::Stopped);
    server.join_timeout(Duration::MAX).expect("it has ended").unwrap();
    server.join().unwrap();
}

/// Panics when it is stopped.
struct StopPanics(AtomicUsize);

impl DatagramRequestHandler for StopPanics {
    type Request = Bytes;
    type Response = Bytes;

    async fn handle(&self, _: Client<Bytes>, _: Requests<Bytes>) -> Result<(), HandlerError> {
        Ok(())
    }
    async fn stop(&self) {
        self.0.fetch_add(1, SeqCst);
        panic!("told to");
    }
}

#[test]
fn a_stop_that_panics_ends_the_server_and_runs_once() {
    let handler = Arc::new(StopPanics(AtomicUsize::new(0)));
    let server = UdpServer::bind(LOOPBACK, BytesProtocol::default(), Arc::clone(&handler)).unwrap();
    let handle = server.handle();
    let mut server = blocking::UdpServer::from(server).start().unwrap();
    handle.shutdown();
    assert!(matches!(server.join_timeout(DEADLINE), Some(Err(ServeError::WorkerPanicked))));
    assert_eq!((handle.phase(), handler.0.load(SeqCst)), (Phase::Stopped, 1));
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

#[test]
fn another_holder_of_a_socket_cannot_keep_its_server_from_stopping() {
    let socket = UdpSocket::bind(LOOPBACK).unwrap();
    let held = socket.try_clone().unwrap();
    let server = ServerOptions::new().socket(socket).bind(BytesProtocol::default(), echo()).unwrap();
    let mut server = blocking::UdpServer::from(server).start().unwrap();
    let client = connected(address_of(server.handle()));
    for _ in 0..20 {
        // A receive call that relied on the socket's own options would wait forever.
        held.set_read_timeout(None).unwrap();
        held.set_nonblocking(false).unwrap();
        assert_eq!(ask(&client, b"x"), b"x");
    }
    assert!(is_silent(&client), "meanwhile the worker waits again");
    server.handle().shutdown();
    let stopped = server.join_timeout(DEADLINE);
    // Ends such a call, so that a failure is seen.
    let _ = client.send(b"x");
    assert!(matches!(stopped, Some(Ok(()))), "{stopped:?}");
}
