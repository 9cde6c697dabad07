//! Datagrams with forged source addresses of the server's own subnet, where nobody is: each reply waits up to three
//! seconds for a neighbour that does not answer, and the others' replies go out all the same.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::namespace::Namespace;
use crate::harness::wire::Wire;
use crate::harness::{Daemon, DaemonCommand, has_program, need, sh};

/// What a good client asks of each family, and how often.
const REQUESTS: u32 = 200;
const REQUEST_INTERVAL: Duration = Duration::from_millis(20);
/// How long the last reply may take on a busy machine.
const LAST_REPLY_WITHIN: Duration = Duration::from_secs(3);
/// Of them must be answered.
const LEAST_REPLIES: u32 = REQUESTS * 97 / 100;

/// A flood of valid datagrams from neighbours that do not exist.
#[derive(Clone, Copy, Debug)]
struct Flood {
    per_second: u32,
    bytes: usize,
    from: From,
}

#[derive(Clone, Copy, Debug)]
enum From {
    /// One IPv4 address.
    OneAddress,
    /// 240 addresses of an IPv4 /24.
    Ipv4Subnet,
    /// Each datagram another address of one IPv6 /64.
    Ipv6Subnet,
}

impl Flood {
    fn source(self, number: u32) -> SocketAddr {
        let ip: IpAddr = match self.from {
            From::OneAddress => [10, 0, 7, 1].into(),
            From::Ipv4Subnet => [10, 0, 7, 1 + (number % 240) as u8].into(),
            From::Ipv6Subnet => Ipv6Addr::new(0xfd00, 0, 0, 0, 7, 0, (number >> 16) as u16, number as u16).into(),
        };
        (ip, 40_000).into()
    }

    fn send(self, wire: &Wire, servers: [SocketAddr; 2], enough: &AtomicBool) -> u32 {
        let to = servers[usize::from(matches!(self.from, From::Ipv6Subnet))];
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

/// The server's host, and one with a good client and the attacker.
fn hosts() -> (Namespace, Namespace) {
    let (server, other) = (Namespace::new(), Namespace::new());
    server.join(&other);
    server.ip("addr add 10.0.0.1/16 dev veth0\naddr add fd00::1/64 dev veth0 nodad");
    other.ip("addr add 10.0.0.2/16 dev veth0\naddr add fd00::2/64 dev veth0 nodad");
    (server, other)
}

/// Sets how many bytes wait for one neighbour.
fn set_neighbour_queue(namespace: &Namespace, bytes: u32) {
    let set = format!("for file in /proc/sys/net/ipv[46]/neigh/veth0/unres_qlen_bytes; do echo {bytes} > $file; done");
    sh(format!("ip netns exec {} sh -ec '{set}'", namespace.name())).success();
}

/// Asks at a steady rate, whatever comes back; returns the times of the replies, the shortest first.
fn ask(server: SocketAddr) -> Vec<Duration> {
    let socket = UdpSocket::bind((if server.is_ipv4() { "10.0.0.2" } else { "fd00::2" }, 0)).unwrap();
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
        while (times.len() as u32) < REQUESTS {
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    let number = std::str::from_utf8(&buffer[..length]).unwrap().parse().unwrap();
                    times.push(Instant::now().saturating_duration_since(due(number)));
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        times.sort_unstable();
        times
    })
}

/// Floods a daemon and counts what good clients of both families get meanwhile.
fn withstands(daemon: &mut Daemon, hosts: &(Namespace, Namespace), flood: Flood) {
    let wire = Wire::between(&hosts.1, &hosts.0);
    let (enough, servers) = (AtomicBool::new(false), ["10.0.0.1", "fd00::1"].map(|host| daemon.at(host)));
    let replies = thread::scope(|scope| {
        let flooding = scope.spawn(|| flood.send(&wire, servers, &enough));
        let asking = servers.map(|server| scope.spawn(move || hosts.1.run(|| ask(server))));
        let replies = asking.map(|asking| asking.join().unwrap());
        enough.store(true, Relaxed);
        let sent = flooding.join().unwrap();
        for times in &replies {
            let p99 = times.get(times.len() * 99 / 100);
            println!("{flood:?}, {sent} sent: {} of {REQUESTS} replies, p99 {p99:?}", times.len());
        }
        replies
    });
    for times in replies {
        assert!(times.len() as u32 >= LEAST_REPLIES, "{flood:?}: {} of {REQUESTS} replies", times.len());
    }
    let counters = daemon.counters();
    counters.assert_balance();
}

fn daemon(hosts: &(Namespace, Namespace), wrapper: &[&str], settings: &str) -> Daemon {
    let settings = format!("{settings}\n[log]\nrequests = false");
    DaemonCommand::default().within(&hosts.0).wrapped(wrapper).settings(&settings).start()
}

const ONE_ADDRESS: [Flood; 2] = [
    Flood { per_second: 200, bytes: 1200, from: From::OneAddress },
    Flood { per_second: 200, bytes: 64, from: From::OneAddress },
];

const SUBNETS: [Flood; 4] = [
    Flood { per_second: 200, bytes: 1200, from: From::Ipv6Subnet },
    Flood { per_second: 2000, bytes: 64, from: From::Ipv4Subnet },
    Flood { per_second: 6000, bytes: 1200, from: From::Ipv4Subnet },
    Flood { per_second: 12_000, bytes: 1200, from: From::Ipv4Subnet },
];

#[test]
fn one_forged_neighbour_silences_nobody_on_a_stock_kernel() {
    need!(Namespace::possible() && has_program("setpriv"), "root, ip and setpriv");
    let hosts = hosts();
    set_neighbour_queue(&hosts.0, 212_992);
    let unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let mut daemon = daemon(&hosts, &unprivileged, "receive-buffer-bytes = 212992\nsend-buffer-bytes = 212992");
    for flood in ONE_ADDRESS {
        withstands(&mut daemon, &hosts, flood);
    }
}

#[test]
fn a_subnet_of_forged_neighbours_silences_nobody_with_the_shipped_sysctls() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let hosts = hosts();
    set_neighbour_queue(&hosts.0, 8192);
    // With its privileges it has the buffers that the sysctls would grant, whatever this host's are.
    let mut daemon = daemon(&hosts, &[], "");
    for flood in ONE_ADDRESS.into_iter().chain(SUBNETS) {
        withstands(&mut daemon, &hosts, flood);
    }
}
