//! The engine without a socket: what it counts, what becomes of handlers that wait, and how a client looks to one.

use std::collections::HashSet;
use std::future::{Future, pending, ready};
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use echo_udpd::admission::{Admission, Policy, RateLimit};
use echo_udpd::handler::{Client, HandlerError, Requests, SendPacketError};
use echo_udpd::protocol::BytesProtocol;
use echo_udpd::server::engine::Engine;
use echo_udpd::socket::{Datagram, Destination, Flow, SendOutcome};
use echo_udpd::stats::DropReason;

/// The handlers of one worker that may wait.
const MOST_THAT_WAIT: u16 = 1024;

/// The way from a port of one peer to an address of this host, through the interface 7.
fn flow(port: u16) -> Flow {
    let local = [203, 0, 113, 1].into();
    let destination = Some(Destination { address: local, local, interface: 7 });
    Flow { peer: ([192, 0, 2, 1], port).into(), destination }
}

fn request(port: u16, payload: &'static [u8]) -> Datagram {
    Datagram::new(flow(port), Bytes::from_static(payload))
}

fn engine_with<'h, M, F>(policy: &Policy, handle: M) -> Engine<'h, Bytes, Bytes, M, F>
where
    M: Fn(Client<Bytes>, Requests<Bytes>) -> F,
    F: Future<Output = Result<(), HandlerError>>,
{
    let bound: SocketAddr = ([0, 0, 0, 0], 9000).into();
    Engine::new(BytesProtocol::default(), Arc::new(Admission::new([9000], policy)), bound, handle)
}

fn engine<'h, M, F>(handle: M) -> Engine<'h, Bytes, Bytes, M, F>
where
    M: Fn(Client<Bytes>, Requests<Bytes>) -> F,
    F: Future<Output = Result<(), HandlerError>>,
{
    engine_with(&Policy::open(), handle)
}

fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

async fn echo(client: Client<Bytes>, mut requests: Requests<Bytes>) -> Result<(), HandlerError> {
    let Some(packet) = requests.next().await.transpose()? else { return Ok(()) };
    Ok(client.send_packet(packet).await?)
}

/// Panics when it is dropped.
struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("told to, when dropped");
    }
}

#[test]
fn each_datagram_and_its_bytes_are_counted_as_they_come_and_go() {
    let mut engine = engine(echo);
    engine.receive([request(1024, b"one"), request(1025, b""), request(0, b"other")], Instant::now());
    let replies = std::mem::take(engine.outgoing());
    let outcomes = [
        SendOutcome::Sent(&replies[0]),
        SendOutcome::Sent(&replies[1]),
        SendOutcome::Sent(&replies[0]),
        SendOutcome::Refused(&replies[0], ErrorKind::WouldBlock.into()),
        SendOutcome::Refused(&replies[0], Error::from_raw_os_error(libc::ENOBUFS)),
        SendOutcome::Refused(&replies[0], Error::from_raw_os_error(libc::EHOSTUNREACH)),
        SendOutcome::Refused(&replies[0], Error::from_raw_os_error(libc::EPERM)),
        SendOutcome::Refused(&replies[0], Error::from_raw_os_error(libc::EMSGSIZE)),
    ];
    outcomes.iter().for_each(|outcome| engine.sent(outcome));
    engine.publish();
    let stats = engine.stats();
    assert_eq!((stats.received, stats.received_bytes, stats.handled), (3, 8, 2));
    assert_eq!((stats.sent, stats.sent_bytes), (3, 6));
    let drops = [DropReason::SourcePort, DropReason::SendBuffer, DropReason::Send, DropReason::HandlerBusy];
    assert_eq!(drops.map(|reason| stats.dropped.of(reason)), [1, 2, 3, 0]);
    assert_eq!(stats.dropped.total(), 6);
}

#[test]
fn a_rate_goes_by_the_time_of_each_batch() {
    let mut policy = Policy::open();
    policy.rate_limit = RateLimit::per_source(1, 60).unwrap();
    let mut engine = engine_with(&policy, echo);
    let begin = Instant::now();
    engine.receive((0..61).map(|_| request(1024, b"x")), begin);
    engine.receive((0..3).map(|_| request(1024, b"x")), begin + Duration::from_secs(2));
    engine.publish();
    assert_eq!((engine.stats().handled, engine.stats().dropped.of(DropReason::RateLimit)), (62, 2));
}

#[test]
fn a_handler_beyond_those_that_may_wait_is_dropped_and_counted_and_the_next_ones_go_on() {
    let kept = Mutex::new(Vec::new());
    let mut engine = engine(|_, requests: Requests<Bytes>| {
        let mut kept = kept.lock().unwrap();
        kept.push(requests);
        let busy = (kept.len() > usize::from(MOST_THAT_WAIT)).then(|| PanicsOnDrop);
        async move {
            let _busy = busy;
            pending().await
        }
    });
    engine.receive((1..=MOST_THAT_WAIT + 1).map(|number| request(1024 + number, b"x")), Instant::now());
    engine.publish();
    assert_eq!(engine.waiting(), usize::from(MOST_THAT_WAIT));
    let stats = engine.stats();
    assert_eq!((stats.received, stats.handled), (1025, 1024));
    assert_eq!(stats.dropped.of(DropReason::HandlerBusy), 1);
    let mut requests = kept.lock().unwrap().pop().unwrap();
    assert!(matches!(poll_once(requests.next()), Poll::Ready(Some(Ok(_)))), "the one that began the call");
    assert!(matches!(poll_once(requests.next()), Poll::Ready(None)), "nobody would wake it");
}

#[test]
fn what_waits_for_handlers_is_bound_in_bytes_and_counted_as_handled_once_it_is_taken() {
    let payload = Bytes::from(vec![0; 1 << 16]);
    let mut engine = engine(|_, mut requests: Requests<Bytes>| async move {
        while requests.next().await.is_some() {}
        Ok(())
    });
    let mut handled = 0;
    let fill = |engine: &mut Engine<_, _, _, _>| {
        let ports = (0..17).cycle().take(17 * 17).map(|number| 1024 + number);
        let requests = ports.map(|port| Datagram::new(flow(port), payload.clone()));
        engine.receive(requests, Instant::now());
        assert_eq!((engine.waiting(), engine.queued()), (17, 256), "16 MiB");
    };
    for _ in 0..2 {
        fill(&mut engine);
        // They take what waits; then their ends are announced to nobody.
        let _ = engine.poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(engine.queued(), 0);
        engine.publish();
        handled += 17 + 256;
        assert_eq!(engine.stats().handled, handled);
        engine.drop_waiting();
    }
    fill(&mut engine);
    engine.drop_waiting();
    fill(&mut engine);
}

#[test]
fn requests_that_outlive_their_call_get_no_packet_of_a_later_one() {
    let kept = Mutex::new(Vec::new());
    let mut engine = engine(|_, mut requests: Requests<Bytes>| {
        assert!(poll_once(requests.next()).is_ready());
        kept.lock().unwrap().push(requests);
        ready(Ok(()))
    });
    engine.receive([request(1024, b"x")], Instant::now());
    let mut requests = kept.lock().unwrap().pop().unwrap();
    assert!(matches!(poll_once(requests.next()), Poll::Ready(None)));
}

#[test]
fn futures_that_panic_when_they_are_dropped_cost_nobody_else_anything() {
    let panics = HashSet::from([1024, 1026]);
    let mut engine = engine(move |client: Client<Bytes>, requests| {
        let mut bomb = panics.contains(&client.peer().port()).then(|| PanicsOnDrop);
        async move {
            if requests.datagram().is_some_and(|datagram| datagram == "wait") {
                pending::<()>().await;
            }
            drop(bomb.take());
            echo(client, requests).await
        }
    });
    engine.receive([request(1024, b"here"), request(1025, b"here")], Instant::now());
    assert_eq!(engine.outgoing().len(), 1);
    engine.receive((1026..1030).map(|port| request(port, b"wait")), Instant::now());
    engine.receive([request(1029, b"queued")], Instant::now());
    assert_eq!((engine.waiting(), engine.queued()), (4, 1));
    engine.drop_waiting();
    engine.publish();
    let stats = engine.stats();
    let drops = [DropReason::HandlerFailed, DropReason::HandlerBusy].map(|reason| stats.dropped.of(reason));
    assert_eq!((engine.waiting(), engine.queued(), drops), (0, 0, [1, 1]));
    assert_eq!((stats.received, stats.handled), (7, 6));
}

#[test]
fn a_future_that_is_ready_is_dropped_at_once() {
    let held = Arc::new(());
    let mut engine = engine(|_, _| {
        let held = Arc::clone(&held);
        // Captured, so that it lives as long as the future does.
        std::future::poll_fn(move |_| {
            let _ = &held;
            Poll::Ready(Ok(()))
        })
    });
    engine.receive([request(1024, b"x")], Instant::now());
    assert_eq!(Arc::strong_count(&held), 1);
}

#[test]
fn a_client_sees_its_engine_close() {
    let clients = Mutex::new(Vec::new());
    let mut engine = engine(|client: Client<Bytes>, _| {
        clients.lock().unwrap().push(client);
        ready(Ok(()))
    });
    engine.receive([request(1024, b"x")], Instant::now());
    let client = clients.lock().unwrap().pop().unwrap();
    let mut closing = pin!(client.closing());
    assert!(!client.is_closing() && poll_once(closing.as_mut()).is_pending());
    engine.close();
    assert!(client.is_closing() && poll_once(closing).is_ready());
}

#[test]
fn a_client_is_its_addresses_and_interface_and_knows_the_largest_packet_to_it() {
    let clients = Mutex::new(Vec::new());
    let mut engine = engine(|client: Client<Bytes>, _| {
        clients.lock().unwrap().push(client);
        ready(Ok(()))
    });
    let now = Instant::now();
    engine.receive([1024, 1024, 1025].map(|port| request(port, b"x")), now);
    let clients = clients.lock().unwrap();
    let [one, same, other] = &clients[..] else { panic!("three calls") };
    assert!(one == same && one != other);
    assert_eq!(clients.iter().collect::<HashSet<_>>().len(), 2);
    assert_eq!((one.interface(), one.local(), one.received()), (7, ([203, 0, 113, 1], 9000).into(), now));
    let send = |size| poll_once(one.send_packet(vec![0; size].into()));
    assert!(matches!(send(65_507), Poll::Ready(Ok(()))));
    let refused = send(65_508);
    assert!(matches!(refused, Poll::Ready(Err(SendPacketError::TooLarge { size: 65_508, limit: 65_507 }))));
}
