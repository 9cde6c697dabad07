//! Forged packets on the wire: what could loop, reflect or amplify gets no answer, and is counted under its own name.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::harness::namespace::Namespace;
use crate::harness::wire::Wire;
use crate::harness::{Daemon, DaemonCommand, need, wait_for};

/// The server's host 10.99.0.1, fd99::1, fe80::1 and the attacker's, to whom everything is routed so that any reply
/// shows.
pub(crate) fn hosts() -> (Namespace, Namespace) {
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
    daemon.reload("# nobody is denied");
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
    let line = daemon.wait_for_line("over the rate limit (rate_limit) in the last second, e.g. 198.51.100.1:2");
    assert!(
        line.contains("WARN dropped ") && line.contains("; for a trusted source, raise rate-limit.per-second"),
        "{line}"
    );
    daemon.wait_for_line("over the error reply limit (error_limit) in the last second, e.g. 198.51.100.2:2");
    // A source that was over its limits is in again after a while.
    let replied = counters.of("error_replies");
    wait_for("another error reply", || {
        wire.send("198.51.100.2:40000".parse().unwrap(), to, b"nonsense");
        (daemon.counters_now().of("error_replies") > replied + 1).then_some(())
    });
    // What others send meanwhile is answered.
    wire.drain();
    wire.send("198.51.100.3:40000".parse().unwrap(), to, b"[\"other\"]");
    assert_eq!(
        std::iter::repeat_with(|| wire.capture()).find(|reply| reply.payload == b"[\"other\"]").unwrap().from,
        to
    );
}

#[test]
fn our_own_error_reply_is_not_answered() {
    let mut daemon = Daemon::start();
    let client = crate::harness::connected(daemon.at("127.0.0.1"));
    for request in ["nonsense", "nonsense\n"] {
        let reply = crate::harness::ask(&client, request.as_bytes());
        assert_eq!(reply.ends_with(b"\n"), request.ends_with('\n'));
        client.send(&reply).unwrap();
    }
    assert_eq!(crate::harness::ask(&client, b"1"), b"1");
    assert!(crate::harness::is_silent(&client));
    let counters = daemon.counters();
    let counted = ["dropped_own_error", "echoed", "error_replies"].map(|name| counters.of(name));
    assert_eq!(counted, [2, 1, 2]);
    counters.assert_balance();
    // In raw mode it is bytes like any others.
    let raw = Daemon::with_settings("[reply]\nprotocol = 'raw'");
    let client = crate::harness::connected(raw.at("127.0.0.1"));
    let reply = br#"{"error":"Invalid JSON","code":"parse_error"}"#;
    assert_eq!(crate::harness::ask(&client, reply), reply);
}

/// How many of a datagram from each of these sources get through a rate of one a second and a burst of 54.
fn passed(daemon: &mut Daemon, wire: &Wire, sources: &[String]) -> u64 {
    let (before, to) = (daemon.counters(), daemon.at("fd99::1"));
    let mut sent = before.of("received");
    // No more at once than the cable holds on a busy machine.
    for sources in sources.chunks(100) {
        sources.iter().for_each(|source| wire.send(SocketAddr::new(source.parse().unwrap(), 40_000), to, b"1"));
        sent += sources.len() as u64;
        wait_for("all of them", || (daemon.counters_now().of("received") == sent).then_some(()));
    }
    let counters = daemon.counters();
    counters.assert_balance();
    counters.of("handled") - before.of("handled")
}

#[test]
fn one_host_behind_many_addresses_has_one_budget_and_many_hosts_behind_one_prefix_have_their_own() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let (server, attacker) = hosts();
    let settings = "[rate-limit]\nper-second = 1\nburst = 54\n[log]\nrequests = false";
    let mut daemon = DaemonCommand::default().within(&server).settings(settings).start();
    let wire = Wire::between(&attacker, &server);
    let begun = Instant::now();
    // A 6to4 host with as many /64s, and a Teredo client with as many servers, flags and ports.
    for (host, address) in [("6to4", "2002:c000:201:{}::1"), ("Teredo", "2001:0:{}:1:{}:{}:3fff:fdd2")] {
        let sources: Vec<_> = (1..=500).map(|number| address.replace("{}", &format!("{number:x}"))).collect();
        let passed = passed(&mut daemon, &wire, &sources);
        assert!(passed <= 54 + begun.elapsed().as_secs() + 1, "{host}: {passed}");
    }
    // IPv4 clients behind the local NAT64 prefix of RFC 8215.
    let sources = (0..2000).map(|number| format!("64:ff9b:1::{:x}:{:x}", 0x0a00 + number / 200, number % 200));
    assert_eq!(passed(&mut daemon, &wire, &sources.collect::<Vec<_>>()), 2000);
}

#[test]
fn two_daemons_on_loopback_circle_no_faster_than_the_rate() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    // Also where the ports that services use are given to clients.
    for range in ["32768 60999", "1024 65535"] {
        let host = Namespace::new();
        let set = format!("echo {range} > /proc/sys/net/ipv4/ip_local_port_range");
        crate::harness::sh(format!("ip netns exec {} sh -ec '{set}'", host.name())).success();
        let settings = "[log]\nrequests = false";
        let start = |address: &str| DaemonCommand::default().within(&host).settings(settings).listen(address).start();
        for ip in ["127.0.0.1", "[::1]"] {
            let (mut first, mut second) = (start(&format!("{ip}:9000")), start(&format!("{ip}:9001")));
            // Forged by a raw socket: as if the second had sent it.
            let begun = Instant::now();
            host.run(|| forge_on_loopback(first.addresses[0], second.addresses[0]));
            let counters = wait_for("the end of the loop", || {
                let (first, second) = (first.counters_now(), second.counters_now());
                let dropped = first.of("dropped_rate_limit") + second.of("dropped_rate_limit");
                (dropped > 0).then_some([first, second])
            });
            for counters in counters {
                let most = 400 + 200 * (begun.elapsed().as_secs() + 1);
                assert!((100..=most).contains(&counters.of("received")), "{ip}, {range}: {counters:?}");
            }
        }
    }
}

/// Sends one datagram to `to` that comes from `from`, whoever listens there: a raw socket on loopback.
fn forge_on_loopback(to: SocketAddr, from: SocketAddr) {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::UDP)).unwrap();
    let source = SocketAddr::new(from.ip(), 0);
    socket.bind(&source.into()).unwrap();
    let payload = b"\"loop\"";
    let mut datagram = Vec::new();
    for word in [from.port(), to.port(), 8 + payload.len() as u16, 0] {
        datagram.extend(word.to_be_bytes());
    }
    datagram.extend(payload);
    if to.is_ipv6() {
        // The checksum is at offset 6 of the header, and IPv6 does not go without: the kernel fills it in.
        let set = crate::harness::wire::set_ipv6_checksum(&socket, 6);
        set.unwrap();
    }
    socket.send_to(&datagram, &SocketAddr::new(to.ip(), 0).into()).unwrap();
}

#[test]
fn a_loopback_address_from_the_wire_is_limited() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let (server, attacker) = hosts();
    let allow = "for name in route_localnet accept_local; do echo 1 > /proc/sys/net/ipv4/conf/veth0/$name; done
                 for name in all veth0; do echo 0 > /proc/sys/net/ipv4/conf/$name/rp_filter; done";
    crate::harness::sh(format!("ip netns exec {} sh -ec '{allow}'", server.name())).success();
    let mut daemon = DaemonCommand::default().within(&server).settings("[log]\nrequests = false").start();
    let wire = Wire::between(&attacker, &server);
    let to = daemon.at("127.0.0.1");
    for number in 1..=1000 {
        wire.send("127.0.0.2:40000".parse().unwrap(), to, b"1");
        if number % 100 == 0 {
            wait_for("all of them", || (daemon.counters_now().of("received") == number).then_some(()));
        }
    }
    let counters = daemon.counters();
    assert!(counters.of("dropped_rate_limit") > 0, "{counters:?}");
}

#[test]
fn whoever_gets_no_reply_is_found_in_the_log() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let (server, attacker) = hosts();
    let settings = "[log]\nlevel = 'debug'\n[access]\ndeny = ['198.51.100.0/24']";
    let mut daemon = DaemonCommand::default().within(&server).settings(settings).start();
    let wire = Wire::between(&attacker, &server);
    let to = daemon.at("10.99.0.1");
    let everyone: SocketAddr = ([10, 99, 255, 255], to.port()).into();
    for (from, to, each, summary) in [
        ("10.99.0.9:53", to, "source_port", "1 datagram from source ports that could loop (source_port)"),
        ("240.0.0.1:40000", to, "source_address", "1 datagram from addresses that no client can have (source_address)"),
        ("10.99.0.9:40001", everyone, "destination", "1 datagram to broadcast or multicast addresses (destination)"),
        ("198.51.100.9:40000", to, "access", "1 datagram from sources that [access] denies (access)"),
    ] {
        wire.send(from.parse().unwrap(), to, b"1");
        let line = daemon.wait_for_line(&format!("DEBUG no reply to {from}, which asked 10.99.0.1:"));
        assert!(line.ends_with(each), "{line}");
        daemon.wait_for_line(&format!("INFO dropped {summary} in the last second, e.g. {from}"));
    }
    // A flood adds no more than its rate of lines, and the summary comes once a minute.
    (0..2000).for_each(|_| wire.send("10.99.0.9:53".parse().unwrap(), to, b"1"));
    wait_for("the flood", || (daemon.counters_now().of("dropped_source_port") == 2001).then_some(()));
    let begun = Instant::now();
    let finished = daemon.stop();
    let lines = |text: &str| finished.err.lines().filter(|line| line.contains(text)).count();
    let each = lines("DEBUG no reply to 10.99.0.9:53,");
    assert!(each <= 500 + 100 * (begun.elapsed().as_secs() as usize + 30), "{each}");
    assert_eq!(lines("could loop (source_port)"), 0, "{}", finished.err);
}

#[test]
fn an_invalid_packet_is_logged_with_its_sender_and_content_and_whether_it_got_a_reply() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let (server, attacker) = hosts();
    let mut daemon = DaemonCommand::default().within(&server).settings("").start();
    let wire = Wire::between(&attacker, &server);
    let to = daemon.at("10.99.0.1");
    (0..11).for_each(|_| wire.send("10.99.0.9:41000".parse().unwrap(), to, b"non\x1bsense\n"));
    let invalid = |outcome: &str| {
        format!(
            " 10.99.0.9:41000 sent an invalid packet{outcome} (expected ident at line 1 column 2): non\\x1bsense\\x0a"
        )
    };
    daemon.wait_for_line(&invalid(""));
    daemon.wait_for_line(&invalid(", over the error reply limit"));
    daemon.reload("[reply]\ninvalid-json = 'ignore'");
    daemon.wait_for_line("settings reloaded");
    wire.send("10.99.0.9:41000".parse().unwrap(), to, b"non\x1bsense\n");
    daemon.wait_for_line(&invalid(", no reply"));
}
