//! A reply that cannot be sent costs no other client of the same batch its reply.

use std::net::{SocketAddr, UdpSocket};

use crate::harness::namespace::Namespace;
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

/// Lets 64 requests of 1000 bytes wait, and then be answered over a link of this rate with a send buffer of a few
/// replies.
fn answer_over_a_slow_link(rate: &str) -> (Daemon, usize) {
    let (server, client_host) = hosts();
    let shape = format!("tc qdisc add dev veth0 root tbf rate {rate} burst 3kb limit 1mb");
    sh(format!("ip netns exec {} {shape}", server.name())).success();
    let settings = "send-buffer-bytes = 4096\n[log]\nrequests = false";
    let mut daemon = DaemonCommand::default().within(&server).settings(settings).start();
    let to = daemon.at("10.99.0.1");
    let datagram = format!("\"{}\"", "x".repeat(998));
    // The neighbours know each other.
    let client = client_host.run(|| client("10.99.9.10", to));
    assert_eq!(ask(&client, b"0"), b"0");
    daemon.process.freeze();
    (0..64).for_each(|_| assert_eq!(client.send(datagram.as_bytes()).unwrap(), 1000));
    daemon.process.signal("CONT");
    let counters = wait_for("all of them", || {
        Some(daemon.counters()).filter(|counters| counters.of("received") == 65 && counters.of("handled") == 65)
    });
    counters.assert_balance();
    let replies = (0..counters.of("echoed") - 1).map(|_| receive(&client));
    assert!(replies.map(|reply| assert_eq!(reply, datagram.as_bytes())).count() <= 64);
    (daemon, counters.of("echoed") as usize - 1)
}

#[test]
fn replies_wait_for_a_slow_link_and_none_is_lost() {
    need!(Namespace::possible() && has_program("tc"), "root, ip and tc");
    // 64 kB take 6.5 ms. A busy machine may keep the worker waiting for longer than a reply may wait, but not each
    // time.
    let replies: Vec<_> =
        (0..5).map(|_| answer_over_a_slow_link("80mbit").1).take_while(|&replies| replies < 64).collect();
    assert!(replies.len() < 5, "{replies:?}");
}

#[test]
fn replies_that_a_link_is_too_slow_for_are_dropped_and_the_log_says_why() {
    need!(Namespace::possible() && has_program("tc"), "root, ip and tc");
    // 64 kB take more than half a second.
    let (mut daemon, replies) = answer_over_a_slow_link("800kbit");
    assert!((1..64).contains(&replies), "{replies}");
    assert_eq!(daemon.counters().of("dropped_send_buffer") as usize, 64 - replies);
    let line = daemon.wait_for_line("replies that found no room in the send buffer (send_buffer) in the last second");
    assert!(line.contains("e.g. 10.99.9.10:") && line.contains("FORGED NEIGHBOURS in echo-udpd(8)"), "{line}");
}
