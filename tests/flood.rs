//! A flood of which each datagram has a source of its own, through the very code that serves them: memory stays as it
//! is, a modest source loses nothing, a heavy source gets its rate and no more.
//!
//! In process, with the engine that the server runs on each socket, and a clock of the test's own. A million datagrams;
//! ten million with `ECHO_UDPD_FULL=1`, as in CI.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic anywhere")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use echo_udpd::admission::{Admission, Policy, RateLimit};
use echo_udpd::handler::{DatagramRequestHandler, EchoRequestHandler, RequestLogSettings};
use echo_udpd::protocol::RawJsonProtocol;
use echo_udpd::serializer::RawJson;
use echo_udpd::server::engine::Engine;
use echo_udpd::socket::{Datagram, Destination, Flow, SendOutcome};
use echo_udpd::stats::{DropReason, Stats};

/// What the flood brings each second of the test's clock.
const FLOOD: u64 = 1_000_000;
const HEAVY: u64 = 5000;
const MODEST: u64 = 10;
const BATCH: u64 = 64;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

fn datagram(source: [u8; 4], payload: &Bytes) -> Datagram {
    let destination = Some(Destination { address: LOCAL, local: LOCAL, interface: 1 });
    Datagram::new(Flow { peer: (source, 40_000).into(), destination }, payload.clone())
}

/// Replies to each of these sources.
#[derive(Clone, Copy, Debug, Default)]
struct Replies {
    heavy: u64,
    modest: u64,
}

const HEAVY_SOURCE: [u8; 4] = [192, 0, 2, 1];
const MODEST_SOURCE: [u8; 4] = [192, 0, 2, 2];

/// How many seconds of the test's clock the flood lasts.
fn seconds() -> u64 {
    if std::env::var("ECHO_UDPD_FULL").as_deref() == Ok("1") { 10 } else { 1 }
}

/// Every `workers`th datagram of the flood, as one of the workers receives it.
fn flood(
    admission: Arc<Admission>,
    worker: u64,
    workers: u64,
    begin: Instant,
    barrier: &Barrier,
) -> (Replies, Stats, u64) {
    let handler = EchoRequestHandler::<RawJson>::new();
    handler.log().set(RequestLogSettings { enabled: false, ..RequestLogSettings::default() });
    let bound = (LOCAL, 9000).into();
    let mut engine =
        Engine::new(RawJsonProtocol::default(), admission, bound, |client, requests| handler.handle(client, requests));
    let payload = Bytes::from_static(b"{\"a\":1}");
    let mut replies = Replies::default();
    let mut batch = Vec::with_capacity(4 * BATCH as usize);
    let mut resident = 0;
    let rounds = seconds() * FLOOD / BATCH;
    for round in (worker..rounds).step_by(workers as usize) {
        // An odd factor makes every 32-bit source come once.
        let sources = (round * BATCH..(round + 1) * BATCH).map(|number| (number as u32).wrapping_mul(2_654_435_761));
        batch.extend(sources.map(|source| {
            datagram(
                [1 + (source >> 24) as u8 % 100, (source >> 16) as u8, (source >> 8) as u8, source as u8],
                &payload,
            )
        }));
        let every = |rate: u64| (round * BATCH * rate / FLOOD, (round + 1) * BATCH * rate / FLOOD);
        let (from, to) = every(HEAVY);
        batch.extend((from..to).map(|_| datagram(HEAVY_SOURCE, &payload)));
        let (from, to) = every(MODEST);
        batch.extend((from..to).map(|_| datagram(MODEST_SOURCE, &payload)));
        engine.receive(batch.drain(..), begin + Duration::from_nanos(round * BATCH * 1_000_000_000 / FLOOD));
        let queue = std::mem::take(engine.outgoing());
        for reply in &queue {
            let peer = reply.outgoing.flow.peer.ip();
            replies.heavy += u64::from(peer == IpAddr::from(HEAVY_SOURCE));
            replies.modest += u64::from(peer == IpAddr::from(MODEST_SOURCE));
            engine.sent(&SendOutcome::Sent(reply));
        }
        *engine.outgoing() = queue;
        engine.outgoing().clear();
        engine.publish();
        // Warm: every page of the table has been written to.
        if round / workers == rounds / workers / 4 {
            barrier.wait();
            resident = resident_pages();
            barrier.wait();
        }
    }
    barrier.wait();
    let grown = resident_pages().saturating_sub(resident);
    barrier.wait();
    (replies, engine.stats(), grown)
}

/// Pages of memory that this process has filled: proc(5), smaps_rollup, which counts exactly.
fn resident_pages() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 4
}

fn flood_with(workers: u64) {
    let mut policy = Policy::open();
    policy.rate_limit = RateLimit::per_source(200, 400).unwrap();
    policy.error_replies_per_second = 10;
    let admission = Arc::new(Admission::new([9000], &policy));
    let (begin, barrier) = (Instant::now(), Barrier::new(workers as usize));
    let flood = |worker| flood(Arc::clone(&admission), worker, workers, begin, &barrier);
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|worker| {
                let flood = &flood;
                scope.spawn(move || flood(worker))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut stats = Stats::default();
    let mut replies = Replies::default();
    for (of_worker, counted, grown) in results {
        replies.heavy += of_worker.heavy;
        replies.modest += of_worker.modest;
        stats += counted;
        // A thread's stack may take a page or two more.
        assert!(grown <= 8, "{grown} pages of memory grown by the flood, {workers} workers");
    }
    let seconds = seconds();
    assert_eq!(stats.received, seconds * (FLOOD + HEAVY + MODEST));
    assert_eq!(replies.modest, seconds * MODEST, "of the modest source");
    // Two workers' clocks differ by what one is ahead of the other, never by a whole burst.
    assert!(replies.heavy <= 400 + 200 * seconds, "{} of the heavy source", replies.heavy);
    assert!(replies.heavy >= 200 * seconds, "{} of the heavy source", replies.heavy);
    assert_eq!(stats.received, stats.handled + stats.dropped_before_handler());
    assert_eq!(stats.handled, stats.sent);
    assert_eq!(stats.dropped.total(), stats.dropped.of(DropReason::RateLimit));
}

/// One test, so that nothing else grows meanwhile.
#[test]
fn a_flood_from_everywhere_costs_no_memory_and_no_modest_source() {
    flood_with(1);
    flood_with(2);
}
