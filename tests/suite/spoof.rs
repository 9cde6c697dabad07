//! Forged packets on the wire: what could loop, reflect or amplify gets no answer, and is counted under its own name.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::harness::namespace::Namespace;
use crate::harness::wire::Wire;
use crate::harness::{Daemon, DaemonCommand, need, wait_for};

/// The server's host 10.99.0.1, fd99::1, fe80::1 and the attacker's, to whom everything is routed so that any reply shows.
fn hosts() -> (Namespace, Namespace) {
    let (server, attacker) = (Namespace::new(), Namespace::new());
    server.join(&attacker);
    attacker.ip("link set veth0 address 02:00:00:00:00:99
                 addr add 10.99.0.9/16 dev veth0
                 addr add fd99::9/32 dev veth0 nodad");
    server.ip("addr add 10.99.0.1/16 broadcast 10.99.255.255 dev veth0
               addr add fd99::1/32 dev veth0 nodad
               addr add fe80::1/64 dev veth0 nodad
               neigh add 10.99.0.9 lladdr 02:00:00:00:00:99 dev veth0
               neigh add fd99::9 lladdr 02:00:00:00:00:99 dev veth0
               route add default via 10.99.0.9
               -6 route add default via fd99::9");
    (server, attacker)
}

/// Sends a forged datagram and then an honest one; the counters that the forged one moved.
fn inject(daemon: &mut Daemon, wire: &Wire, from: &str, to: &str) -> std::collections::BTreeMap<String, u64> {
    let before = daemon.counters();
    wire.send(from.parse().unwrap(), to.parse().unwrap(), b"[\"forged\"]");
    let honest: (SocketAddr, SocketAddr) = match to.starts_with('[') {
        true => ("[fd99::9]:40000".parse().unwrap(), daemon.at("fd99::1")),
        false => ("10.99.0.9:40000".parse().unwrap(), daemon.at("10.99.0.1")),
    };
    wire.send(honest.0, honest.1, b"[\"honest\"]");
    let reply = wire.capture();
    assert_eq!((reply.from, reply.to, &*reply.payload), (honest.1, honest.0, &b"[\"honest\"]"[..]), "{from} to {to}");
    let after = wait_for("the honest reply to be counted", || {
        let counters = daemon.counters();
        (counters.of("echoed") > before.of("echoed")).then_some(counters)
    });
    after.assert_balance();
    let mut moved = after.since(&before);
    for (name, honest) in [("received", 1), ("handled", 1), ("echoed", 1), ("received_bytes", 10), ("sent_bytes", 10)] {
        let more = moved.remove(name).unwrap() - honest;
        if more > 0 {
            moved.insert(name.into(), more);
        }
    }
    moved
}

#[test]
fn each_forged_packet_gets_no_reply_and_moves_its_own_counter() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let (server, attacker) = hosts();
    let mut daemon = DaemonCommand::default().within(&server).start();
    let port = daemon.port();
    let wire = Wire::between(&attacker, &server);
    let own = |ip: &str| format!("{ip}:{port}");
    let v4 = own("10.99.0.1");
    let v6 = own("[fd99::1]");

    let delivered = [
        ("10.99.0.9:0".into(), &v4, "source_port"),
        (own("10.99.0.9"), &v4, "source_port"),
        ("10.99.0.9:7".into(), &v4, "source_port"),
        ("10.99.0.9:19".into(), &v4, "source_port"),
        ("10.99.0.9:53".into(), &v4, "source_port"),
        ("10.99.0.9:1900".into(), &v4, "source_port"),
        ("10.99.0.9:11211".into(), &v4, "source_port"),
        ("10.99.0.9:40001".into(), &own("255.255.255.255"), "destination"),
        ("10.99.0.9:40001".into(), &own("10.99.255.255"), "destination"),
        ("240.0.0.1:40001".into(), &v4, "source_address"),
        ("[fd99::9]:0".into(), &v6, "source_port"),
        (own("[fd99::1]"), &v6, "source_port"),
        (own("[fe80::1]"), &v6, "source_port"),
        (own("[::]"), &v6, "source_port"),
        ("[::]:40001".into(), &v6, "source_address"),
        ("[::ffff:192.0.2.2]:40001".into(), &v6, "source_address"),
        (own("[::ffff:127.0.0.1]"), &v6, "source_port"),
        ("[::ffff:127.0.0.1]:40001".into(), &v6, "source_address"),
        (own("[::ffff:10.99.0.1]"), &v6, "source_port"),
        ("[::ffff:10.99.0.1]:40001".into(), &v6, "source_address"),
        (own("[::ffff:0.0.0.0]"), &v6, "source_port"),
        ("[::ffff:0.0.0.0]:40001".into(), &v6, "source_address"),
        ("[::192.0.2.2]:40001".into(), &v6, "source_address"),
        ("[::127.0.0.1]:40001".into(), &v6, "source_address"),
        ("[fec0::1]:40001".into(), &v6, "source_address"),
    ];
    for (from, to, reason) in &delivered {
        let moved = inject(&mut daemon, &wire, from, to);
        let expected = [(format!("dropped_{reason}"), 1), ("received".into(), 1), ("received_bytes".into(), 10)];
        assert_eq!(moved, expected.into(), "{from} to {to}");
    }

    // The subnet's broadcast address as the source is handed to us like any other; the kernel refuses the reply.
    let moved = inject(&mut daemon, &wire, "10.99.255.255:40001", &v4);
    let expected = [("dropped_send", 1), ("handled", 1), ("received", 1), ("received_bytes", 10)];
    assert_eq!(moved, expected.map(|(name, more)| (name.to_owned(), more)).into());

    // These never reach us.
    for (from, to) in [
        (own("10.99.0.1"), v4.clone()),
        ("127.0.0.1:40001".into(), v4.clone()),
        ("224.0.0.1:40001".into(), v4.clone()),
        ("255.255.255.255:40001".into(), v4.clone()),
        ("0.0.0.0:40001".into(), v4.clone()),
        ("[::1]:40001".into(), v6.clone()),
        ("[ff02::1]:40001".into(), v6.clone()),
        ("[fd99::9]:40001".into(), own("[ff02::1]")),
    ] {
        assert_eq!(inject(&mut daemon, &wire, &from, &to), [].into(), "{from} to {to}");
    }
}

#[test]
fn the_access_list_denies_on_the_wire_and_changes_with_a_reload() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let (server, attacker) = hosts();
    let denied =
        "[access]\ndeny = ['198.51.100.0/24', '2001:db8::/32']\nallow = ['198.51.100.7', '::/0', '10.99.0.0/16']";
    let mut daemon = DaemonCommand::default().within(&server).settings(denied).start();
    let wire = Wire::between(&attacker, &server);
    let (v4, v6) = (daemon.at("10.99.0.1").to_string(), daemon.at("fd99::1").to_string());
    for (from, to) in [("198.51.100.8:40001", &v4), ("203.0.113.1:40001", &v4), ("[2001:db8::1]:40001", &v6)] {
        let moved = inject(&mut daemon, &wire, from, to);
        assert_eq!(moved.get("dropped_access"), Some(&1), "{from}: {moved:?}");
    }
    wire.send("198.51.100.7:40001".parse().unwrap(), v4.parse().unwrap(), b"7");
    assert_eq!(wire.capture().payload, b"7");
    daemon.reload("");
    daemon.wait_for_line("settings reloaded");
    wire.send("198.51.100.8:40001".parse().unwrap(), v4.parse().unwrap(), b"8");
    assert_eq!(wire.capture().payload, b"8");
}

#[test]
fn two_listeners_of_one_daemon_cannot_be_joined() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let (server, attacker) = hosts();
    let mut daemon = DaemonCommand::default().within(&server).listen("[::]:9000").listen("[::]:9001").start();
    let wire = Wire::between(&attacker, &server);
    for (from, to) in [
        ("[fd99::1]:9001", "[fd99::1]:9000"),
        ("[fe80::1]:9001", "[fd99::1]:9000"),
        ("10.99.0.9:9001", "10.99.0.1:9000"),
    ] {
        let moved = inject(&mut daemon, &wire, from, to);
        assert_eq!(moved.get("dropped_source_port"), Some(&1), "{from}: {moved:?}");
        assert_eq!(moved.get("echoed"), None);
    }
}

/// Two hosts that hear each other: 10.99.0.1 and 10.99.0.2.
fn neighbours() -> (Namespace, Namespace) {
    let (one, two) = (Namespace::new(), Namespace::new());
    one.join(&two);
    one.ip("addr add 10.99.0.1/16 dev veth0");
    two.ip("addr add 10.99.0.2/16 dev veth0");
    (one, two)
}

#[test]
fn two_daemons_joined_by_one_forged_packet_are_silent_within_the_burst() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    for ports in [[9000, 9000], [9000, 9001]] {
        let (one, two) = neighbours();
        let listen = |port: u16| format!("[::]:{port}");
        let mut first = DaemonCommand::default().within(&one).listen(&listen(ports[0])).start();
        let mut second = DaemonCommand::default().within(&two).listen(&listen(ports[1])).start();
        let wire = Wire::between(&two, &one);
        let begun = Instant::now();
        wire.send(([10, 99, 0, 2], ports[1]).into(), ([10, 99, 0, 1], ports[0]).into(), b"\"loop\"");
        wait_for("the forged packet", || (first.counters_now().of("received") > 0).then_some(()));
        let counters = [first.counters(), second.counters()];
        let most = if ports[0] == ports[1] { 0 } else { 400 + 200 * (begun.elapsed().as_secs() + 1) };
        for counters in &counters {
            counters.assert_balance();
            assert!(counters.of("echoed") <= most, "{ports:?}: {counters:?}");
        }
        let stopped: u64 = counters
            .iter()
            .map(|counters| counters.of("dropped_rate_limit") + counters.of("dropped_source_port"))
            .sum();
        assert_eq!(stopped, 1, "{counters:?}");
    }
}

#[test]
fn a_loop_through_a_slow_network_never_runs_faster_than_the_rate() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let (one, two) = neighbours();
    let settings = "[rate-limit]\nper-second = 100\nburst = 60\n[log]\nrequests = false";
    let mut first = DaemonCommand::default().within(&one).settings(settings).listen("[::]:9000").start();
    let second = DaemonCommand::default().within(&two).settings(settings).listen("[::]:9001").start();
    let (addresses, stop) = ([first.at("10.99.0.1"), second.at("10.99.0.2")], AtomicBool::new(false));
    // A network in between with 20 ms each way, on which a hundred datagrams circle.
    let relay = two.run(|| {
        let sockets = ["10.99.0.2:0"; 2].map(|at| UdpSocket::bind(at).unwrap());
        sockets.iter().zip(addresses).for_each(|(socket, address)| socket.connect(address).unwrap());
        sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        sockets
    });
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut under_way = std::collections::VecDeque::new();
            (0..100).for_each(|_| under_way.push_back((Instant::now(), 0, b"\"loop\"".to_vec())));
            while !stop.load(Relaxed) {
                for (side, socket) in relay.iter().enumerate() {
                    let mut buffer = [0; 100];
                    while let Ok(length) = socket.recv(&mut buffer) {
                        let due = Instant::now() + Duration::from_millis(20);
                        under_way.push_back((due, 1 - side, buffer[..length].to_vec()));
                    }
                }
                while under_way.front().is_some_and(|(due, ..)| *due <= Instant::now()) {
                    if let Some((_, side, datagram)) = under_way.pop_front() {
                        let _ = relay[side].send(&datagram);
                    }
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let circled = wait_for("three seconds of it", || {
            let elapsed = begun.elapsed();
            (elapsed > Duration::from_secs(3)).then(|| first.counters_now())
        });
        let most = 60.0 + 100.0 * begun.elapsed().as_secs_f64();
        stop.store(true, Relaxed);
        assert!(circled.of("echoed") as f64 <= most, "{} of {most}", circled.of("echoed"));
        assert!(circled.of("echoed") > 60 && circled.of("dropped_rate_limit") > 0, "{circled:?}");
    });
}

#[test]
fn one_source_gets_its_rate_and_the_log_says_what_to_set() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let (server, attacker) = hosts();
    let mut daemon = DaemonCommand::default().within(&server).settings("[log]\nrequests = false").start();
    let wire = Wire::between(&attacker, &server);
    let to = daemon.at("10.99.0.1");
    let begun = Instant::now();
    for number in 0..2000u16 {
        wire.send(([198, 51, 100, 1], 20_000 + number).into(), to, b"[1]");
    }
    for number in 0..300u16 {
        wire.send(([198, 51, 100, 2], 20_000 + number).into(), to, b"nonsense");
    }
    let counters = wait_for("all of it", || Some(daemon.counters()).filter(|counters| counters.of("received") == 2300));
    let most = 400 + 200 * (begun.elapsed().as_secs() + 1);
    assert!((400..=most).contains(&counters.of("echoed")), "{counters:?}");
    assert_eq!(counters.of("dropped_rate_limit"), 2000 - counters.of("echoed"));
    let most = 10 + 10 * (begun.elapsed().as_secs() + 1);
    assert!((10..=most).contains(&counters.of("error_replies")), "{counters:?}");
    assert_eq!(counters.of("dropped_error_limit"), 300 - counters.of("error_replies"));
    counters.assert_balance();
    let line = daemon.wait_for_line("exceeded its rate limit");
    assert!(line.contains("198.51.100.1 exceeded its rate limit") && line.contains("rate-limit.exempt"), "{line}");
    // What a friend sends meanwhile is answered.
    wire.drain();
    wire.send("198.51.100.3:40000".parse().unwrap(), to, b"[\"friend\"]");
    assert_eq!(
        std::iter::repeat_with(|| wire.capture()).find(|reply| reply.payload == b"[\"friend\"]").unwrap().from,
        to
    );
}

#[test]
fn our_own_error_reply_is_not_answered() {
    let mut daemon = Daemon::start();
    let client = crate::harness::connected(daemon.at("127.0.0.1"));
    client.send(br#"{"error":"Invalid JSON","code":"parse_error"}"#).unwrap();
    assert_eq!(crate::harness::ask(&client, b"1"), b"1");
    assert!(crate::harness::is_silent(&client));
    let counters = daemon.counters();
    assert_eq!((counters.of("dropped_own_error"), counters.of("echoed")), (1, 1));
    counters.assert_balance();
    // In raw mode it is bytes like any others.
    let raw = Daemon::with_settings("[reply]\nprotocol = 'raw'");
    let client = crate::harness::connected(raw.at("127.0.0.1"));
    let reply = br#"{"error":"Invalid JSON","code":"parse_error"}"#;
    assert_eq!(crate::harness::ask(&client, reply), reply);
}
