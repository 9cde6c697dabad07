//! A flood from neighbours that do not exist, and what good clients get from the server meanwhile.
//!
//! A reply to an address of the server's own subnets, where nobody is, waits up to three seconds for that neighbour and
//! takes room in the send buffer.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::namespace::Namespace;
use super::retry;
use super::wire::Wire;

/// What a good client asks of each family, and how often.
const REQUESTS: u32 = 200;
const REQUEST_INTERVAL: Duration = Duration::from_millis(20);
/// How long the last reply may take on a busy machine.
const LAST_REPLY_WITHIN: Duration = Duration::from_secs(3);
/// Of them must be replied to. Where the machine is short of CPU time the receive buffer overflows for a moment, for
/// everyone alike; forged neighbours that are not withstood cost 45 % and more.
const LEAST_REPLIES: u32 = REQUESTS * 4 / 5;

const SERVER: [&str; 2] = ["10.0.0.1", "fd00::1"];
const CLIENT: [&str; 2] = ["10.0.0.2", "fd00::2"];

/// The server's host and, on the same subnets of both families, one with good clients and the attacker.
pub(crate) struct Hosts {
    pub(crate) server: Namespace,
    other: Namespace,
}

impl Hosts {
    /// Lays the cable to a server's host.
    pub(crate) fn around(server: Namespace) -> Self {
        let other = Namespace::new();
        server.join(&other);
        for (host, [ipv4, ipv6]) in [(&server, SERVER), (&other, CLIENT)] {
            host.ip(&format!("addr add {ipv4}/16 dev veth0\naddr add {ipv6}/64 dev veth0 nodad"));
        }
        Self { server, other }
    }
}

/// A flood of valid datagrams from neighbours that do not exist.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flood {
    pub(crate) per_second: u32,
    pub(crate) bytes: usize,
    pub(crate) sources: Sources,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Sources {
    /// One IPv4 address.
    OneAddress,
    /// 240 addresses of an IPv4 /24.
    Ipv4Subnet,
    /// Each datagram another address of one IPv6 /64.
    Ipv6Subnet,
}

impl Flood {
    /// Floods the server on this port, which good clients of both families ask meanwhile and get their replies; returns
    /// how many datagrams the flood had.
    pub(crate) fn is_withstood(self, hosts: &Hosts, port: u16) -> u32 {
        let wire = Wire::between(&hosts.other, &hosts.server);
        let servers = SERVER.map(|host| SocketAddr::new(host.parse().unwrap(), port));
        let enough = AtomicBool::new(false);
        let (replies, sent) = thread::scope(|scope| {
            let flooding = scope.spawn(|| self.send(&wire, servers, &enough));
            let asking = servers.map(|server| scope.spawn(move || hosts.other.run(|| ask_steadily(server))));
            let replies = asking.map(|asking| asking.join().unwrap());
            enough.store(true, Relaxed);
            (replies, flooding.join().unwrap())
        });
        for times in &replies {
            let p99 = times.get(times.len() * 99 / 100);
            println!("{self:?}, {sent} sent: {} of {REQUESTS} replies, p99 {p99:?}", times.len());
        }
        for times in replies {
            assert!(times.len() as u32 >= LEAST_REPLIES, "{self:?}: {} of {REQUESTS} replies", times.len());
        }
        sent
    }

    fn source(self, number: u32) -> SocketAddr {
        let ip: IpAddr = match self.sources {
            Sources::OneAddress => [10, 0, 7, 1].into(),
            Sources::Ipv4Subnet => [10, 0, 7, 1 + (number % 240) as u8].into(),
            Sources::Ipv6Subnet => Ipv6Addr::new(0xfd00, 0, 0, 0, 7, 0, (number >> 16) as u16, number as u16).into(),
        };
        (ip, 40_000).into()
    }

    fn send(self, wire: &Wire, servers: [SocketAddr; 2], enough: &AtomicBool) -> u32 {
        let to = servers[usize::from(matches!(self.sources, Sources::Ipv6Subnet))];
        let payload = format!("\"{}\"", "x".repeat(self.bytes - 2));
        let begun = Instant::now();
        let mut sent = 0;
        while !enough.load(Relaxed) {
            thread::sleep(
                (begun + Duration::from_secs(1) / self.per_second * sent).saturating_duration_since(Instant::now()),
            );
            wire.send(self.source(sent), to, payload.as_bytes());
            sent += 1;
        }
        sent
    }
}

/// Asks at a steady rate, whatever comes back; returns the times of the replies, the shortest first.
fn ask_steadily(server: SocketAddr) -> Vec<Duration> {
    let socket = UdpSocket::bind((CLIENT[usize::from(server.is_ipv6())], 0)).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(LAST_REPLY_WITHIN)).unwrap();
    let begun = Instant::now();
    let due = |number: u32| begun + REQUEST_INTERVAL * number;
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..REQUESTS {
                thread::sleep(due(number).saturating_duration_since(Instant::now()));
                socket.send(number.to_string().as_bytes()).unwrap();
            }
        });
        let mut times = Vec::new();
        let mut buffer = [0; 100];
        while (times.len() as u32) < REQUESTS
            && let Ok(length) = retry(|| socket.recv(&mut buffer))
        {
            let number = std::str::from_utf8(&buffer[..length]).unwrap().parse().unwrap();
            times.push(Instant::now().saturating_duration_since(due(number)));
        }
        times.sort_unstable();
        times
    })
}
