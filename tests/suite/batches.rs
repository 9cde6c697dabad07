//! Batches and runs: each datagram is judged by itself, and a reply that cannot be sent costs no other client its own.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use bytes::Bytes;
use echo_udpd::socket::{Flow, Outgoing, SendBatch};

use crate::harness::namespace::Namespace;
use crate::harness::process::Counters;
use crate::harness::{DEADLINE, Daemon, DaemonCommand, ask, has_program, is_silent, need, receive, sh, wait_for};

/// A server host and a client host with ten addresses a family.
fn hosts() -> (Namespace, Namespace) {
    let (server, client) = (Namespace::new(), Namespace::new());
    server.join(&client);
    server.ip("addr add 10.99.0.1/16 dev veth0
               addr add 10.99.0.2/16 dev veth0
               addr add fd99::1/32 dev veth0 nodad
               addr add fd99::2/32 dev veth0 nodad");
    for number in 10..20 {
        client.ip(&format!("addr add 10.99.9.{number}/16 dev veth0\naddr add fd99::{number}/32 dev veth0 nodad"));
    }
    (server, client)
}

fn client(at: &str, server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((at, 0)).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Lets ten clients of each family send while the daemon stands still, so that all are one batch; does `then` before it
/// goes on; expects replies for all but `without`.
fn one_batch(
    daemon: &mut Daemon,
    hosts: &(Namespace, Namespace),
    asked: impl Fn(usize) -> usize + Sync,
    then: &str,
    without: &[usize],
) {
    let (server_host, client_host) = hosts;
    daemon.process.freeze();
    let port = daemon.port();
    let clients: Vec<UdpSocket> = client_host.run(|| {
        (0..20)
            .map(|number| {
                let last = asked(number);
                let (at, server) = match number {
                    0..10 => (format!("10.99.9.{}", number + 10), format!("10.99.0.{last}")),
                    _ => (format!("fd99::{number}"), format!("fd99::{last}")),
                };
                let client = client(&at, SocketAddr::new(server.parse().unwrap(), port));
                client.send(format!("[{number}]").as_bytes()).unwrap();
                client
            })
            .collect()
    });
    server_host.ip(then);
    daemon.process.signal("CONT");
    for (number, client) in clients.iter().enumerate().filter(|(number, _)| !without.contains(number)) {
        assert_eq!(receive(client), format!("[{number}]").as_bytes());
    }
    for &number in without {
        assert!(is_silent(&clients[number]), "client {number}");
    }
    let counters = daemon.counters();
    assert_eq!(counters.of("dropped_send"), without.len() as u64);
    assert_eq!(counters.of("echoed"), 20 - without.len() as u64);
    counters.assert_balance();
}

#[test]
fn a_blackhole_route_costs_only_its_own_clients_the_reply() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let hosts = hosts();
    let mut daemon = DaemonCommand::default().within(&hosts.0).start();
    let routes = "route add blackhole 10.99.9.10/32
                  route add unreachable 10.99.9.14/32
                  route add prohibit 10.99.9.15/32
                  route add blackhole fd99::13/128
                  route add unreachable fd99::19/128";
    one_batch(&mut daemon, &hosts, |_| 1, routes, &[0, 4, 5, 13, 19]);
}

#[test]
fn a_source_address_that_vanished_costs_only_its_own_clients_the_reply() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let hosts = hosts();
    let mut daemon = DaemonCommand::default().within(&hosts.0).start();
    let vanish = "addr del 10.99.0.2/16 dev veth0
                  addr del fd99::2/32 dev veth0";
    let asks_second = [0, 7, 8, 12, 19];
    let asked = |number| if asks_second.contains(&number) { 2 } else { 1 };
    one_batch(&mut daemon, &hosts, asked, vanish, &asks_second);
}

/// A daemon behind a link of this rate, with a send buffer of a few replies, and a client whom it knows.
struct SlowLink {
    daemon: Daemon,
    client: UdpSocket,
    _hosts: (Namespace, Namespace),
}

impl SlowLink {
    fn new(rate: &str, wrapper: &[&str]) -> Self {
        let hosts = hosts();
        let shape = format!("tc qdisc add dev veth0 root tbf rate {rate} burst 3kb limit 1mb");
        sh(format!("ip netns exec {} {shape}", hosts.0.name())).success();
        let settings = "send-buffer-bytes = 4096\n[log]\nrequests = false\n[rate-limit]\nper-second = 0";
        let daemon = DaemonCommand::default().within(&hosts.0).wrapped(wrapper).settings(settings).start();
        let to = daemon.at("10.99.0.1");
        let client = hosts.1.run(|| client("10.99.9.10", to));
        assert_eq!(ask(&client, b"0"), b"0");
        Self { daemon, client, _hosts: hosts }
    }

    /// Lets 64 numbered requests of 1000 bytes wait, and the daemon answer them.
    fn send_at_once(&self) {
        self.daemon.process.freeze();
        for number in 0..64 {
            let datagram = format!("{number:<1000}");
            assert_eq!(self.client.send(datagram.as_bytes()).unwrap(), 1000);
        }
        self.daemon.process.signal("CONT");
    }

    /// Waits until all are handled; how many got a reply, each whole and in order.
    fn replies(&mut self) -> usize {
        let daemon = &mut self.daemon;
        let counters = wait_for("all of them", || Some(daemon.counters()).filter(|now| now.of("handled") == 65));
        counters.assert_balance();
        let numbers: Vec<usize> = (0..counters.of("echoed") - 1)
            .map(|_| {
                let reply = receive(&self.client);
                assert_eq!(reply.len(), 1000);
                String::from_utf8(reply).unwrap().trim_end().parse().unwrap()
            })
            .collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
        numbers.len()
    }
}

#[test]
fn replies_wait_for_a_slow_link_and_none_is_lost() {
    need!(Namespace::possible() && has_program("tc"), "root, ip and tc");
    // 64 kB take 6.5 ms. A busy machine may keep the worker waiting for longer than a reply may wait, but not each
    // time.
    let replies = || {
        let mut link = SlowLink::new("80mbit", &[]);
        link.send_at_once();
        link.replies()
    };
    let replies: Vec<_> = (0..5).map(|_| replies()).take_while(|&replies| replies < 64).collect();
    assert!(replies.len() < 5, "{replies:?}");
}

#[test]
fn replies_that_a_link_is_too_slow_for_are_dropped_and_the_log_says_why() {
    need!(Namespace::possible() && has_program("tc"), "root, ip and tc");
    // 64 kB take more than half a second.
    let mut link = SlowLink::new("800kbit", &[]);
    link.send_at_once();
    let replies = link.replies();
    assert!((1..64).contains(&replies), "{replies}");
    assert_eq!(link.daemon.counters().of("dropped_send_buffer") as usize, 64 - replies);
    let text = "replies that found no room in the send buffer (send_buffer) in the last second";
    let line = link.daemon.wait_for_line(text);
    assert!(line.contains("e.g. 10.99.9.10:") && line.contains("FORGED NEIGHBOURS in echo-udpd(8)"), "{line}");
}

#[test]
fn replies_that_wait_when_the_daemon_stops_are_sent_or_counted() {
    need!(Namespace::possible() && has_program("tc"), "root, ip and tc");
    let link = SlowLink::new("800kbit", &[]);
    link.send_at_once();
    let finished = link.daemon.stop();
    assert_eq!(finished.code(), Some(0));
    let totals = Counters::parse(finished.err.lines().last().unwrap());
    totals.assert_balance();
    assert_eq!(totals.of("echoed") + totals.of("dropped_send_buffer"), totals.of("handled"), "{totals:?}");
}

#[test]
fn replies_that_wait_when_a_worker_is_restarted_are_counted() {
    need!(Namespace::possible() && has_program("tc") && has_program("strace"), "root, ip, tc and strace");
    let fails = ["-e", "trace=epoll_wait", "-e", "inject=epoll_wait:error=ENOMEM:when=20+20"];
    let mut link = SlowLink::new("800kbit", &[&["strace", "-f", "-q", "-o", "/dev/null"][..], &fails].concat());
    for _ in 0..1000 {
        link.client.send(&[b'1'; 1000]).unwrap();
        std::thread::sleep(std::time::Duration::from_micros(300));
    }
    link.daemon.wait_for_line("a worker failed");
    link.daemon.process.end_child();
    let finished = link.daemon.process.finish();
    let totals = Counters::parse(finished.err.lines().last().unwrap());
    assert!(totals.of("dropped_send_buffer") > 0, "{totals:?}");
    totals.assert_balance();
}

#[test]
fn no_datagram_is_left_waiting_however_many_come_at_once() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let hosts = hosts();
    let settings = "[rate-limit]\nper-second = 0\n[log]\nrequests = false";
    let daemon = DaemonCommand::default().within(&hosts.0).settings(settings).start();
    let to = daemon.at("10.99.0.1");
    let client = hosts.1.run(|| client("10.99.9.10", to));
    // A wake-up that was missed showed after some hundred rounds.
    for round in 0..1500 {
        let count = 1 + round % 120;
        (0..count).for_each(|_| assert_eq!(client.send(b"1").unwrap(), 1));
        (0..count).for_each(|_| assert_eq!(receive(&client), b"1"));
    }
}

#[test]
fn each_datagram_of_a_run_is_limited_parsed_counted_and_answered_by_itself() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    const OWN_ERROR: &str = r#"{"error":"Invalid JSON","code":"parse_error"}"#;
    const INVALID: [usize; 4] = [3, 10, 20, 30];
    let mut run: Vec<String> = (0..62).map(|number| format!("{:<45}", format!("[{number}]"))).collect();
    INVALID.iter().for_each(|&at| run[at] = format!("{:<45}", "not JSON"));
    run[40] = OWN_ERROR.into();
    run.push("[62]".into());
    assert!(run[..62].iter().all(|text| text.len() == 45), "one size, so that they leave as one message");
    for udp_gro in [true, false] {
        let hosts = hosts();
        let limits = "[rate-limit]\nper-second = 1\nburst = 60\nerror-replies-per-second = 3";
        let settings = format!("udp-gro = {udp_gro}\n{limits}");
        let mut daemon = DaemonCommand::default().settings(&settings).within(&hosts.0).start();
        let server = SocketAddr::new("10.99.0.1".parse().unwrap(), daemon.port());
        let client = hosts.1.run(|| client("10.99.9.10", server));
        let flow = Flow { peer: server, destination: None };
        let mut queue: Vec<_> =
            run.iter().map(|text| Outgoing { flow, payload: Bytes::copy_from_slice(text.as_bytes()) }).collect();
        SendBatch::new(false).send(client.as_fd(), &mut queue, |_| ()).unwrap();
        // The burst ends after 60, error replies after three; the own error gets no reply.
        for (at, text) in run[..60].iter().enumerate().filter(|&(at, _)| at != INVALID[3] && at != 40) {
            let expected = if INVALID.contains(&at) { OWN_ERROR } else { text };
            assert_eq!(String::from_utf8(receive(&client)).unwrap(), expected, "datagram {at}");
        }
        assert!(is_silent(&client));
        let counters = daemon.counters();
        for (name, count) in [
            ("received", 63),
            ("received_bytes", 62 * 45 + 4),
            ("echoed", 55),
            ("error_replies", 3),
            ("dropped_error_limit", 1),
            ("dropped_own_error", 1),
            ("dropped_rate_limit", 3),
        ] {
            assert_eq!(counters.of(name), count, "{name}");
        }
        counters.assert_balance();
    }
}
