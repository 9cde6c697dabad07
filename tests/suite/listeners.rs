//! Several listeners of different protocols where something is in their way: a port that is taken or reserved, an
//! address that is absent, their number, several workers, and reloads in the middle of a flood.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use crate::harness::namespace::Namespace;
use crate::harness::{Daemon, DaemonCommand, ask, connected, has_program, need, run, wait_for};
use crate::protocols::{BOTH, ERROR_REPLY, NOT_JSON, clients, counters_of_each};

/// A JSON listener on 127.0.0.1 and a raw one here.
fn with_raw(address: &str) -> String {
    format!("listen = [\"127.0.0.1:9000\", {{ address = \"{address}\", protocol = \"raw\" }}]")
}

#[test]
fn a_listener_that_cannot_be_bound_is_named_and_none_is_served() {
    need!(Namespace::possible() && has_program("setpriv"), "root, ip, and setpriv of util-linux");
    let host = Namespace::new();
    let refused = |address: &str, wrapper: &[&str]| {
        let command = DaemonCommand::default().within(&host).wrapped(wrapper).settings(&with_raw(address));
        let refused = run(&mut command.command().0);
        assert_eq!(refused.code(), Some(1), "{address}: {refused:?}");
        refused.err
    };
    let busy = host.run(|| UdpSocket::bind("[::1]:9001").unwrap());
    assert_eq!(refused("[::1]:9001", &[]), "echo-udpd: bind [::1]:9001: address in use");
    assert_eq!(refused("[::]:9001", &[]), "echo-udpd: bind [::]:9001: address in use");
    drop(busy);
    let unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let denied = refused("[::]:7", &unprivileged);
    assert!(denied.starts_with("echo-udpd: bind [::]:7: permission denied; a port below 1024 needs"), "{denied}");
}

#[test]
fn a_raw_listener_on_an_address_that_is_absent_answers_once_that_is_there() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let host = Namespace::new();
    let daemon = DaemonCommand::default().within(&host).settings(&with_raw("192.0.2.7:9000")).start();
    host.run(|| assert_eq!(ask(&connected(daemon.addresses[0]), NOT_JSON), ERROR_REPLY));
    host.ip("address add 192.0.2.7/32 dev lo");
    host.run(|| assert_eq!(ask(&connected(daemon.addresses[1]), NOT_JSON), NOT_JSON));
}

#[test]
fn as_many_listeners_as_there_may_be_are_served_and_counted_each() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let host = Namespace::new();
    let entry = |number: u16| {
        let protocol = ["json", "raw"][usize::from(number % 2)];
        format!("{{ address = \"127.0.0.1:{}\", protocol = \"{protocol}\" }}", 10_000 + number)
    };
    let entries: Vec<_> = (0..1024).map(entry).collect();
    let files = ["sh", "-ec", "ulimit -n 4096; exec \"$@\"", "sh"];
    let settings = format!("listen = [{}]", entries.join(", "));
    let mut daemon = DaemonCommand::default().within(&host).wrapped(&files).settings(&settings).start();
    assert_eq!(daemon.addresses.len(), 1024);
    let asked: Vec<SocketAddr> = [0, 1, 1022, 1023].map(|at| daemon.addresses[at]).into();
    host.run(|| {
        for (address, reply) in asked.iter().zip([ERROR_REPLY, NOT_JSON, ERROR_REPLY, NOT_JSON]) {
            assert_eq!(ask(&connected(*address), NOT_JSON), reply, "{address}");
        }
    });
    let (sum, each) = counters_of_each(&mut daemon);
    assert_eq!((sum.of("received"), each.iter().filter(|counters| counters.of("received") == 1).count()), (4, 4));
    let finished = daemon.stop();
    assert_eq!(finished.code(), Some(0));
    assert!(finished.err.ends_with(" log_dropped=0"), "{finished:?}");
}

#[test]
fn what_several_workers_count_is_summed_for_each_listener() {
    let mut daemon = Daemon::with_settings(&format!("workers = 3\n{BOTH}"));
    for (requests, at) in [(40, 0), (70, 1)] {
        for _ in 0..requests {
            let [json, raw] = clients(&daemon, "127.0.0.1");
            let client = [json, raw].into_iter().nth(at).unwrap();
            assert_eq!(ask(&client, b"1"), b"1");
        }
    }
    let (sum, each) = counters_of_each(&mut daemon);
    assert_eq!((sum.of("echoed"), each[0].of("echoed"), each[1].of("echoed")), (110, 40, 70));
    assert_eq!(daemon.addresses.len(), 2);
}

#[test]
fn reloads_in_the_middle_of_a_flood_on_both_listeners_drop_nothing() {
    let mut daemon = Daemon::with_settings(&format!("{BOTH}[log]\nrequests = false"));
    let [json, raw] = clients(&daemon, "127.0.0.1");
    let enough = AtomicBool::new(false);
    let ask_until_enough = |client: UdpSocket, datagram: &'static [u8]| {
        let mut asked = 0;
        while !enough.load(Relaxed) {
            assert_eq!(ask(&client, datagram), datagram);
            asked += 1;
        }
        asked
    };
    let asked = thread::scope(|scope| {
        let floods = [(json, &b"{}\n"[..]), (raw, NOT_JSON)];
        let floods = floods.map(|(client, datagram)| scope.spawn(move || ask_until_enough(client, datagram)));
        for settings in ["reply.invalid-json = \"ignore\"\n", "workers = 2\n", "[access]\nallow = [\"127.0.0.0/8\"]\n"]
        {
            daemon.process.forget_lines();
            daemon.reload(&match settings.starts_with('[') {
                true => format!("{BOTH}{settings}[log]\nrequests = false"),
                false => format!("{settings}{BOTH}[log]\nrequests = false"),
            });
            daemon.wait_for_line("settings reloaded");
        }
        enough.store(true, Relaxed);
        floods.map(|flood| flood.join().unwrap())
    });
    let each = wait_for("all of it", || {
        let (sum, each) = counters_of_each(&mut daemon);
        (sum.of("received") == asked[0] + asked[1]).then_some(each)
    });
    assert_eq!([0, 1].map(|at| each[at].of("echoed")), asked);
    assert!(asked.iter().all(|&asked| asked > 0), "{asked:?}");
}
