//! Many datagrams, and datagrams of every size.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::thread;

use crate::harness::{Daemon, DaemonCommand, ask, connected, has_ipv6, loopback_hosts, need, receive, wait_for};

#[test]
fn a_hundred_thousand_datagrams_from_fifty_clients_come_back_byte_for_byte() {
    const CLIENTS: usize = 50;
    const EACH: usize = 2000;
    /// In flight for each client: what the default receive buffer of an unprivileged daemon holds for all of them.
    const WINDOW: usize = 2;
    let mut daemon = DaemonCommand::default().settings("workers = 2").start();
    let servers: Vec<SocketAddr> = loopback_hosts().into_iter().map(|host| daemon.at(host)).collect();
    let client = |number: usize| {
        let socket = connected(servers[number % servers.len()]);
        let mut expected = VecDeque::new();
        for sequence in 0..EACH {
            let padding = "x".repeat((number * 31 + sequence * 7) % 900);
            let datagram = format!(" {{\"client\":{number},\"sequence\":{sequence},\"padding\":\"{padding}\"}}\n");
            socket.send(datagram.as_bytes()).unwrap();
            expected.push_back(datagram);
            if expected.len() == WINDOW {
                assert_eq!(receive(&socket), expected.pop_front().unwrap().as_bytes());
            }
        }
        let sizes: usize = expected.iter().map(String::len).sum();
        for datagram in expected {
            assert_eq!(receive(&socket), datagram.as_bytes());
        }
        sizes
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        clients.into_iter().for_each(|client| assert!(client.join().unwrap() > 0));
    });
    let counters = daemon.counters();
    let total = (CLIENTS * EACH) as u64;
    assert_eq!((counters.of("received"), counters.of("handled"), counters.of("echoed")), (total, total, total));
    assert_eq!(counters.of("received_bytes"), counters.of("sent_bytes"));
    assert_eq!(counters.of("kernel_drops"), 0);
    counters.assert_balance();
}

#[test]
fn datagrams_of_every_size_come_back_whole() {
    need!(has_ipv6(), "IPv6 on loopback");
    let daemon = Daemon::with_settings("[reply]\nprotocol = 'raw'");
    for (host, largest) in [("127.0.0.1", 65_507), ("::1", 65_527)] {
        let client = connected(daemon.at(host));
        for size in [0, 1, 2, 1231, 1232, 1233, 4096, 16_384, 60_000, largest - 1, largest] {
            let datagram: Vec<u8> = (0..size).map(|at| (at * 7 % 251) as u8).collect();
            assert_eq!(ask(&client, &datagram), datagram, "{size} bytes through {host}");
        }
        assert!(client.send(&vec![0; largest + 1]).is_err());
    }
}

#[test]
fn the_largest_json_comes_back_whole() {
    let daemon = Daemon::start();
    for host in loopback_hosts() {
        let largest = if host == "::1" { 65_527 } else { 65_507 };
        let text = format!("[\"{}\"]", "\u{e9}".repeat((largest - 5) / 2));
        let client = connected(daemon.at(host));
        assert_eq!(ask(&client, text.as_bytes()), text.as_bytes());
        let deep = [vec![b'['; largest / 2], vec![b']'; largest / 2]].concat();
        assert_eq!(ask(&client, &deep), deep);
    }
}

#[test]
fn what_the_kernel_drops_is_counted_exactly() {
    const SENT: u64 = 5000;
    let mut daemon = Daemon::with_settings("receive-buffer-bytes = 65536\n[log]\nrequests = false");
    let client = connected(daemon.at("127.0.0.1"));
    daemon.process.freeze();
    for _ in 0..SENT {
        client.send(b"[1]").unwrap();
    }
    daemon.process.signal("CONT");
    let counters = wait_for("all of them", || {
        Some(daemon.counters()).filter(|counters| counters.of("received") + counters.of("kernel_drops") == SENT)
    });
    assert!(counters.of("kernel_drops") > 0 && counters.of("received") > 0, "{counters:?}");
    counters.assert_balance();
}
