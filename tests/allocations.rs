//! Echoes through the public handler path allocate nothing: a hundred thousand of them, and a million with
//! `ECHO_UDPD_FULL=1`, as in CI.
//!
//! The real server serves real datagrams on a thread of its own, whose allocations are counted. Some are nested JSON,
//! deeper than one word of the validator's stack.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic anywhere")]
#![allow(unsafe_code, reason = "an allocator that counts is unsafe to write")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use echo_udpd::blocking::UdpServer;
use echo_udpd::handler::{EchoRequestHandler, RequestLogSettings};
use echo_udpd::protocol::RawJsonProtocol;
use echo_udpd::serializer::RawJson;

/// Allocations of all threads that count.
static COUNTED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static EXEMPT: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !EXEMPT.try_with(Cell::get).unwrap_or(true) {
            COUNTED.fetch_add(1, Relaxed);
        }
        // SAFETY: the caller's promises are those of this call.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are those of this call.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const WINDOW: usize = 64;
/// More than the first batches hold: they double from 4 to 64.
const WAITING: usize = 4 + 8 + 16 + 32 + 64 + 1;

/// Echoes `count` datagrams, some in flight at a time, and says how many allocations the rest of the process made.
fn allocations(server: SocketAddr, packet: &[u8], count: usize) -> u64 {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut buffer = [0; 4096];
    let before = COUNTED.load(Relaxed);
    let mut received = 0;
    for sent in 0..count {
        client.send(packet).unwrap();
        if sent - received + 1 == WINDOW || sent + 1 == count {
            while received <= sent {
                assert_eq!(client.recv(&mut buffer).unwrap(), packet.len());
                assert_eq!(&buffer[..packet.len()], packet);
                received += 1;
            }
        }
    }
    COUNTED.load(Relaxed) - before
}

#[test]
fn echoes_allocate_nothing() {
    EXEMPT.set(true);
    let count = if std::env::var("ECHO_UDPD_FULL").as_deref() == Ok("1") { 1_000_000 } else { 100_000 };
    let handler = EchoRequestHandler::<RawJson>::new();
    // As the daemon is by default, once its log's rate is used up.
    handler.log().set(RequestLogSettings::default());
    let server = UdpServer::bind("127.0.0.1:0", RawJsonProtocol::default(), handler).unwrap();
    let address = server.local_addresses()[0];
    let flat = format!("{{\"sequence\":123456,\"text\":\"\u{e9}\",\"padding\":\"{}\"}}\n", "x".repeat(100));
    // The first of all: what a thread or a channel makes at its first use, and what batches grow by until they are
    // full.
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    (0..WAITING).for_each(|_| assert_eq!(client.send_to(flat.as_bytes(), address).unwrap(), flat.len()));
    let server = server.start().unwrap();
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    (0..WAITING).for_each(|_| assert_eq!(client.recv(&mut [0; 4096]).unwrap(), flat.len()));
    assert_eq!(allocations(address, flat.as_bytes(), count), 0);

    let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
    for nested in ["{\"a\":{\"b\":[[1],[2]]}}", &deep] {
        assert_eq!(allocations(address, nested.as_bytes(), 10_000), 0, "nested");
    }
    // Each turn of the loop is counted once its replies are out.
    let handle = server.handle().clone();
    server.handle().shutdown();
    server.join().unwrap();
    assert_eq!(handle.stats().sent, (count + 2 * 10_000 + WAITING) as u64);
}
