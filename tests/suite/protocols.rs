//! One daemon with several protocols: each listener replies by its own, and what holds against strangers holds for all
//! listeners together.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use crate::harness::journal::{Fields, Journal};
use crate::harness::namespace::Namespace;
use crate::harness::process::Counters;
use crate::harness::wire::Wire;
use crate::harness::{
    Daemon, DaemonCommand, Running, ask, connected, has_program, is_silent, loopback_hosts, need, wait_for,
};
use crate::notify::Manager;
use crate::spoof::hosts;

/// A JSON and a raw listener, on free ports.
pub(crate) const BOTH: &str = "listen = [\"[::]:0\", { address = \"[::]:0\", protocol = \"raw\" }]\n";
/// The same on fixed ports, for a host of the test's own.
const BOTH_FIXED: &str = "listen = [\"[::]:9000\", { address = \"[::]:9007\", protocol = \"raw\" }]\n";

pub(crate) const NOT_JSON: &[u8] = b"\xff\x00 any bytes\n";
pub(crate) const ERROR_REPLY: &[u8] = b"{\"error\":\"Invalid JSON\",\"code\":\"parse_error\"}\n";

/// A client on loopback of each of the two listeners.
pub(crate) fn clients(daemon: &Daemon, host: &str) -> [UdpSocket; 2] {
    assert_eq!(daemon.addresses.len(), 2);
    [0, 1].map(|at| connected(SocketAddr::new(host.parse().unwrap(), daemon.addresses[at].port())))
}

/// The counters of all listeners and of each, from one SIGUSR1.
pub(crate) fn counters_of_each(daemon: &mut Daemon) -> (Counters, Vec<Counters>) {
    let sum = daemon.counters();
    let each = daemon.addresses.clone().into_iter().map(|address| {
        let line = daemon.wait_for_line(&format!("counters of {address}, protocol "));
        Counters::parse(&line)
    });
    let each: Vec<_> = each.collect();
    assert_sum(&sum, &each);
    (sum, each)
}

/// What listeners count is the sum of what each counts.
fn assert_sum(sum: &Counters, each: &[Counters]) {
    let names: BTreeSet<_> = each[0].names().collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert_eq!(sum.of(name), each.iter().map(|counters| counters.of(name)).sum::<u64>(), "{name}");
    }
    each.iter().for_each(Counters::assert_balance);
}

#[test]
fn each_listener_replies_by_its_own_protocol_and_the_first_lines_name_it() {
    let mut daemon = Daemon::with_settings(BOTH);
    let ports = [daemon.addresses[0].port(), daemon.addresses[1].port()];
    for (port, protocol) in ports.into_iter().zip(["json", "raw"]) {
        let line = daemon.wait_for_line(&format!("listening on [::]:{port} "));
        assert!(line.ends_with(&format!(" INFO listening on [::]:{port} (IPv6 and IPv4), protocol {protocol}")));
    }
    for host in loopback_hosts() {
        let [json, raw] = clients(&daemon, host);
        for client in [&json, &raw] {
            assert_eq!(ask(client, b"{\"a\": 1}\n"), b"{\"a\": 1}\n", "{host}");
        }
        assert_eq!(ask(&json, NOT_JSON), ERROR_REPLY, "{host}");
        for any in [NOT_JSON, b"", ERROR_REPLY] {
            assert_eq!(ask(&raw, any), any, "{host}");
        }
    }
    let shown = "sent \\xff\\x00 any bytes\\x0a";
    assert!(daemon.wait_for_line(shown).ends_with(&format!("INFO 127.0.0.1 {shown}")));
}

#[test]
fn the_command_line_gives_each_listener_its_protocol_whatever_the_file_says() {
    let settings = "listen = \"192.0.2.1:9000\"\nreply.protocol = \"raw\"";
    let command = DaemonCommand::default().settings(settings);
    let daemon = command.listen("json:[::]:0").listen("raw:127.0.0.1:0").listen("127.0.0.1:0").start();
    let [json, raw, default] = [0, 1, 2].map(|at| connected(([127, 0, 0, 1], daemon.addresses[at].port()).into()));
    assert_eq!(ask(&json, NOT_JSON), ERROR_REPLY);
    assert_eq!(ask(&raw, NOT_JSON), NOT_JSON);
    assert_eq!(ask(&default, NOT_JSON), NOT_JSON);
}

#[test]
fn a_source_that_has_used_its_budget_on_one_listener_has_none_on_another() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let (server, attacker) = hosts();
    let settings = format!("{BOTH_FIXED}[rate-limit]\nper-second = 1\nburst = 60\n[log]\nrequests = false");
    let mut daemon = DaemonCommand::default().within(&server).settings(&settings).start();
    let wire = Wire::between(&attacker, &server);
    let begun = Instant::now();
    let mut spend = |port, received| {
        (0..60).for_each(|_| wire.send(at("198.51.100.1:40000"), ([10, 99, 0, 1], port).into(), b"1"));
        wait_for("all of them", || Some(daemon.counters()).filter(|all| all.of("received") == received))
    };
    spend(9000, 60);
    let all = spend(9007, 120);
    // What came back meanwhile.
    let most = 60 + begun.elapsed().as_secs() + 1;
    assert!((60..=most).contains(&all.of("echoed")), "{all:?}");
    let (_, each) = counters_of_each(&mut daemon);
    assert_eq!(each[0].of("echoed"), 60, "{each:?}");
    assert_eq!(each[0].of("dropped_rate_limit") + each[1].of("dropped_rate_limit"), 120 - all.of("echoed"));
    // Others have theirs, on both.
    wire.drain();
    for port in [9000, 9007] {
        let to = ([10, 99, 0, 1], port).into();
        wire.send(at("198.51.100.2:40000"), to, b"[2]");
        assert_eq!(wire.capture().from, to);
    }
}

#[test]
fn a_datagram_from_the_port_of_another_listener_gets_no_reply() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let (server, attacker) = hosts();
    let mut daemon = DaemonCommand::default().within(&server).settings(BOTH_FIXED).start();
    let wire = Wire::between(&attacker, &server);
    // As if a second daemon, or this one itself, had sent it.
    for (host, other) in [("10.99.0.1", "10.99.0.9"), ("[fd99::1]", "[fd99::9]")] {
        for source in [host, other] {
            for (from, to) in [(9000, 9007), (9007, 9000), (9007, 9007)] {
                let source = at(&format!("{source}:{from}"));
                // A host drops what seems to come from its own IPv4 address.
                if source.ip() != daemon.at("10.99.0.1").ip() {
                    wire.send(source, at(&format!("{host}:{to}")), b"\"loop\"");
                }
            }
        }
        for port in [9000, 9007] {
            let to = at(&format!("{host}:{port}"));
            wire.send(at(&format!("{other}:40000")), to, b"[1]");
            let reply = wire.capture();
            assert_eq!((reply.from, &*reply.payload), (to, &b"[1]"[..]));
        }
    }
    let (sum, each) = counters_of_each(&mut daemon);
    assert_eq!((sum.of("received"), sum.of("echoed"), sum.of("dropped_source_port")), (13, 4, 9));
    assert_eq!([&each[0], &each[1]].map(|counters| counters.of("dropped_source_port")), [3, 6]);
}

#[test]
fn the_lines_of_all_listeners_have_one_rate() {
    let mut daemon = Daemon::with_settings(&format!("{BOTH}[log]\nrequests-per-second = 1"));
    let begun = Instant::now();
    let [json, raw] = clients(&daemon, "127.0.0.1");
    for _ in 0..20 {
        assert_eq!(ask(&json, b"7"), b"7");
        assert_eq!(ask(&raw, b"7"), b"7");
    }
    daemon.process.signal("USR1");
    for address in daemon.addresses.clone() {
        let counters = Counters::parse(&daemon.wait_for_line(&format!("counters of {address}, protocol ")));
        assert!(counters.of("log_suppressed") > 0, "{address}: {counters:?}");
    }
    let most = 5 + begun.elapsed().as_secs() + 1;
    let finished = daemon.stop();
    let shown = finished.err.lines().filter(|line| line.ends_with("127.0.0.1 sent 7")).count() as u64;
    assert!((5..=most).contains(&shown), "{shown}, not {most} at most");
    let stopped = finished.err.lines().find(|line| line.contains("stopped: ")).unwrap();
    assert_eq!(shown + Counters::parse(stopped).of("log_suppressed"), 40);
}

#[test]
fn the_journal_names_the_protocol_of_each_listener_s_lines() {
    need!(Journal::possible(), "root and unshare, to put a socket where journald's is");
    let journal = Journal::new();
    let log = "[log]\ntarget = \"journald\"\nlevel = \"debug\"\n[access]\ndeny = [\"127.0.0.2\"]";
    let (mut command, _) = journal.read_by(DaemonCommand::default().settings(&format!("{BOTH}{log}"))).command();
    let process = Running::start(&mut command);
    let protocol = |entry: &Fields| (entry["LISTENER_PROTOCOL"].clone(), entry["LOCAL_PORT"].parse::<u16>().unwrap());
    let listeners = ["json", "raw"].map(|expected| {
        let (name, port) = protocol(&journal.find("listening on "));
        assert_eq!(name, expected);
        (name, port)
    });
    for listener in &listeners {
        let server = ([127, 0, 0, 1], listener.1).into();
        assert_eq!(ask(&connected(server), b"[1]"), b"[1]");
        assert_eq!(protocol(&journal.find("127.0.0.1 sent [1]")), *listener);
        let denied = UdpSocket::bind("127.0.0.2:0").unwrap();
        denied.send_to(b"[2]", server).unwrap();
        let dropped = journal.find("no reply to 127.0.0.2:");
        assert_eq!((protocol(&dropped), &*dropped["DROP_REASON"]), (listener.clone(), "access"));
    }
    assert_eq!(ask(&connected(([127, 0, 0, 1], listeners[0].1).into()), NOT_JSON), ERROR_REPLY);
    assert_eq!(protocol(&journal.find("sent an invalid packet")), listeners[0]);
    process.signal("USR1");
    assert!(!journal.find("counters: ").contains_key("LISTENER_PROTOCOL"));
    for listener in &listeners {
        assert_eq!(protocol(&journal.find("counters of [::]:")), *listener);
    }
}

#[test]
fn status_and_counters_show_each_listener_and_the_sum() {
    let manager = Manager::new();
    let command = DaemonCommand::default().wrapped(&["env", &manager.variable()]);
    let mut daemon = command.settings(BOTH).start();
    let [json_at, raw_at] = [0, 1].map(|at| daemon.addresses[at]);
    let status = |json: &str, raw: &str, sum: &str| {
        format!(
            "STATUS=listening on {json_at} (IPv6 and IPv4), protocol json: {json}; \
             {raw_at} (IPv6 and IPv4), protocol raw: {raw}; in total {sum}"
        )
    };
    let first = manager.next();
    let nothing = "received 0, echoed 0";
    assert!(
        first.starts_with(&status(nothing, nothing, "received 0, echoed 0, error replies 0, dropped 0,")),
        "{first}"
    );

    let [json, raw] = clients(&daemon, "127.0.0.1");
    assert_eq!(ask(&json, NOT_JSON), ERROR_REPLY);
    assert_eq!(ask(&json, b"1"), b"1");
    for _ in 0..3 {
        assert_eq!(ask(&raw, NOT_JSON), NOT_JSON);
    }
    json.send(ERROR_REPLY).unwrap();
    let sum = "received 6, echoed 4, error replies 1, dropped 1 (own_error 1), ";
    let expected = status("received 3, echoed 1", "received 3, echoed 3", sum);
    manager.wait_for(&expected);
    let (sum, each) = counters_of_each(&mut daemon);
    let shown = |counters: &Counters| ["received", "echoed", "error_replies"].map(|name| counters.of(name));
    assert_eq!((shown(&sum), shown(&each[0]), shown(&each[1])), ([6, 4, 1], [3, 1, 1], [3, 3, 0]));
    assert_eq!(each[1].of("received_bytes"), 3 * NOT_JSON.len() as u64);
    // What is the process's, and no listener's, stands in the sum alone.
    assert!(!each[0].names().any(|name| name == "log_dropped"), "{each:?}");
}

#[test]
fn counters_taken_under_load_add_up() {
    need!(has_program("strace"), "strace, to slow calls down");
    // Each look at a socket's counters takes a while.
    let slow = ["strace", "-D", "-f", "-o", "/dev/null", "-e", "trace=getsockopt"];
    let slow = DaemonCommand::default().wrapped(&slow).wrapped(&["-e", "inject=getsockopt:delay_enter=5000"]);
    let mut daemon = slow.settings(&format!("{BOTH}[log]\nrequests = false")).start();
    let clients = clients(&daemon, "127.0.0.1");
    let enough = AtomicBool::new(false);
    let taken = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !enough.load(Relaxed) {
                clients.iter().for_each(|client| assert_eq!(ask(client, b"1"), b"1"));
            }
        });
        let taken = [(); 5].map(|()| {
            let sum = daemon.counters_now();
            let each =
                daemon.addresses.clone().into_iter().map(|address| {
                    Counters::parse(&daemon.wait_for_line(&format!("counters of {address}, protocol ")))
                });
            (sum.of("received"), each.map(|counters| counters.of("received")).sum::<u64>())
        });
        enough.store(true, Relaxed);
        taken
    });
    assert!(taken.iter().all(|(sum, summed)| sum == summed) && taken[4].0 > taken[0].0, "{taken:?}");
}

#[test]
fn a_reload_names_what_of_a_listener_s_protocol_needs_a_restart() {
    let mut daemon = Daemon::with_settings(BOTH);
    let json_too = BOTH.replace("raw", "json");
    let default_raw = format!("{BOTH}reply.protocol = \"raw\"");
    let unused =
        "listen = [{ address = \"[::]:0\", protocol = \"json\" }, { address = \"[::]:0\", protocol = \"raw\" }]
        reply.protocol = \"raw\"";
    for (settings, expected) in
        [(&*json_too, "listen"), (&default_raw, "reply.protocol"), (unused, "workers"), (BOTH, "workers")]
    {
        daemon.process.forget_lines();
        let workers = if expected == "workers" { "workers = 2\n" } else { "" };
        daemon.reload(&format!("{workers}{settings}"));
        let line = daemon.wait_for_line("need a restart");
        assert!(line.ends_with(&format!("need a restart to take effect: {expected}")), "{settings}: {line}");
    }
    // Nothing of it is in force.
    let [json, raw] = clients(&daemon, "127.0.0.1");
    assert_eq!(ask(&json, NOT_JSON), ERROR_REPLY);
    assert_eq!(ask(&raw, NOT_JSON), NOT_JSON);
}

#[test]
fn what_a_reload_says_of_invalid_json_is_for_json_listeners_alone() {
    let mut daemon = Daemon::with_settings(BOTH);
    let [json, raw] = clients(&daemon, "127.0.0.1");
    assert_eq!(ask(&json, NOT_JSON), ERROR_REPLY);
    daemon.reload(&format!("{BOTH}reply.invalid-json = \"ignore\""));
    daemon.wait_for_line("settings reloaded");
    json.send(NOT_JSON).unwrap();
    assert_eq!(ask(&json, b"1"), b"1");
    assert!(is_silent(&json));
    assert_eq!(ask(&raw, NOT_JSON), NOT_JSON);
    let (_, each) = counters_of_each(&mut daemon);
    assert_eq!([0, 1].map(|at| each[at].of("dropped_invalid")), [1, 0]);
    daemon.process.forget_lines();
    daemon.reload(BOTH);
    daemon.wait_for_line("settings reloaded");
    assert_eq!(ask(&json, NOT_JSON), ERROR_REPLY);
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}
