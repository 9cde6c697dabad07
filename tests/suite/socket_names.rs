//! The protocol of a socket that a service manager passes: what its name says, and what `listen` says of a kept one.

use std::net::SocketAddr;
use std::process::Command;

use crate::harness::namespace::Namespace;
use crate::harness::process::Counters;
use crate::harness::{Running, ask, connected, has_program, need, temporary_file, wait_for};
use crate::inherited::{activated, activated_with, find, stored_as};

const NOT_JSON: &[u8] = b"any bytes";
const ERROR_REPLY: &[u8] = b"{\"error\":\"Invalid JSON\",\"code\":\"parse_error\"}";

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn activation_is_possible() -> bool {
    Namespace::possible() && has_program("systemd-socket-activate")
}

fn stopped(process: Running) -> String {
    process.signal("TERM");
    let finished = process.finish();
    assert_eq!(finished.code(), Some(0), "{finished:?}");
    finished.err
}

#[test]
fn the_names_of_a_socket_unit_s_sockets_say_their_protocols() {
    need!(activation_is_possible(), "root and systemd-socket-activate");
    let namespace = Namespace::new();
    let listen = ["127.0.0.1:9001", "[::1]:9002", "[::]:9003", "127.0.0.1:9004"];
    let json_differs =
        [("127.0.0.1:9001", "json", "raw"), ("[::]:9003", "raw", "json"), ("127.0.0.1:9004", "json", "raw")];
    let raw_differs = [("127.0.0.1:9001", "json", "raw"), ("[::1]:9002", "raw", "json")];
    for (default, of_default, differ) in [("json", ERROR_REPLY, &json_differs[..]), ("raw", NOT_JSON, &raw_differs)] {
        let settings = format!(
            "listen = [\"127.0.0.1:9004\", {{ address = \"127.0.0.1:9001\", protocol = \"json\" }}, \"[::1]:9002\", \
             {{ address = \"[::]:9003\", protocol = \"raw\" }}]\nreply.protocol = \"{default}\""
        );
        let mut process = activated(&namespace, &listen, &["--fdname=raw:json:echo-udpd.socket:RAW"], &settings);
        namespace.run(|| {
            for (address, reply) in [
                ("127.0.0.1:9004", NOT_JSON),
                ("127.0.0.1:9001", NOT_JSON),
                ("[::1]:9002", ERROR_REPLY),
                ("[::1]:9003", of_default),
                ("127.0.0.1:9003", of_default),
            ] {
                assert_eq!(ask(&connected(at(address)), NOT_JSON), reply, "{address}, {default}");
            }
        });
        process.signal("USR1");
        find(&mut process, "counters of 127.0.0.1:9004, protocol raw: received=1 ");
        let log = stopped(process);
        for (address, protocol) in listen.iter().zip(["raw", "json", default, "raw"]) {
            let (start, end) = (format!("INFO listening on {address} ("), format!("), protocol {protocol}"));
            let is_shown = log.lines().any(|line| line.contains(&start) && line.ends_with(&end));
            assert!(is_shown, "{address}, {protocol}: {log}");
        }
        let ignored: Vec<_> =
            log.lines().filter_map(|line| line.split_once("WARN ignoring the protocol of ")).collect();
        let expected = differ.iter().map(|(address, wanted, is)| {
            format!("{address} in `listen` ({wanted}): the socket unit's is {is}; change FileDescriptorName= there")
        });
        assert_eq!(ignored.iter().map(|(_, line)| *line).collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}

#[test]
fn a_protocol_that_is_ignored_is_told_also_where_some_addresses_are() {
    need!(activation_is_possible(), "root and systemd-socket-activate");
    let namespace = Namespace::new();
    let settings = "listen = [\"[::]:9000\", { address = \"[::]:9007\", protocol = \"raw\" }]";
    let mut process = activated(&namespace, &["[::]:9007"], &[], settings);
    assert_eq!(namespace.run(|| ask(&connected(at("[::1]:9007")), NOT_JSON)), ERROR_REPLY);
    find(
        &mut process,
        "ignoring `listen` ([::]:9000, [::]:9007): the socket unit passed [::]:9007; change ListenDatagram=",
    );
    find(&mut process, "ignoring the protocol of [::]:9007 in `listen` (raw): the socket unit's is json; change");
    stopped(process);
}

#[test]
fn sockets_of_one_address_with_two_protocols_are_refused() {
    need!(Namespace::possible() && has_program("python3"), "root, ip and python3");
    let namespace = Namespace::new();
    let expected = "echo-udpd: the socket units pass [::1]:9000 as json and as raw: give the sockets of one address \
                    the same FileDescriptorName=";
    for names in ["json:raw", "json:json:raw", "echo-udpd.socket:raw"] {
        let refused = passed(&namespace, names, "").finish();
        assert_eq!((refused.code(), refused.err.lines().last()), (Some(78), Some(expected)), "{names}: {refused:?}");
    }
    // Names that differ may mean the same.
    for (names, settings) in [("json:echo-udpd.socket", ""), ("a:raw", "reply.protocol = \"raw\"")] {
        let mut process = passed(&namespace, names, settings);
        find(&mut process, "settings read");
        assert_eq!(namespace.run(|| ask(&connected(at("[::1]:9000")), b"1")), b"1");
        let log = stopped(process);
        assert_eq!(log.matches("listening on ").count(), 1, "{log}");
    }
}

/// The daemon with as many sockets of `[::1]:9000` as there are names, as socket units with ReusePort=yes pass them.
fn passed(namespace: &Namespace, names: &str, settings: &str) -> Running {
    let script = "import os, socket, sys
names = sys.argv[1]
sockets = []
for number in range(len(names.split(':'))):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(('::1', 9000))
    sockets.append(os.dup2(s.fileno(), 100 + number))
for number, open in enumerate(sockets):
    os.dup2(open, 3 + number)
    os.close(open)
environment = {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': str(len(sockets)), 'LISTEN_FDNAMES': names}
os.execve(sys.argv[2], sys.argv[2:], environment)";
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace.name(), "python3", "-c", script, names]);
    command.args([env!("CARGO_BIN_EXE_echo-udpd"), "--config"]).arg(temporary_file("echo-udpd.toml", settings));
    Running::start(&mut command)
}

#[test]
fn a_kept_socket_has_the_protocol_that_the_file_gives_its_address_now() {
    need!(activation_is_possible(), "root and systemd-socket-activate");
    let namespace = Namespace::new();
    let listen = ["127.0.0.1:9001", "127.0.0.1:9002"];
    let names = format!("{}:kept-127.0.0.1.9002", stored_as(listen[0]));
    for (protocols, replies) in [(["raw", "json"], [NOT_JSON, ERROR_REPLY]), (["json", "raw"], [ERROR_REPLY, NOT_JSON])]
    {
        let entry = |at: usize| format!("{{ address = \"{}\", protocol = \"{}\" }}", listen[at], protocols[at]);
        let mut process = activated(&namespace, &listen, &[&names], &format!("listen = [{}, {}]", entry(1), entry(0)));
        namespace.run(|| {
            // The first waited in the socket before this daemon ran.
            for (address, reply) in listen.into_iter().zip(replies) {
                assert_eq!(ask(&connected(at(address)), NOT_JSON), reply, "{address}");
            }
        });
        find(&mut process, "restored 2 sockets from the previous run");
        // A turn of the loop is counted just after its replies are out.
        wait_for("both requests in the counters", || {
            process.signal("USR1");
            let sum = Counters::parse(&find(&mut process, "counters: "));
            ([sum.of("received"), sum.of("echoed"), sum.of("error_replies")] == [2, 1, 1]).then_some(())
        });
        for (address, protocol) in listen.iter().zip(protocols) {
            find(&mut process, &format!("counters of {address}, protocol {protocol}: received=1 "));
        }
        stopped(process);
    }
}

#[test]
fn a_socket_unit_may_not_name_its_socket_as_a_kept_one_is_named() {
    need!(Namespace::possible() && has_program("systemd-socket-activate"), "root and systemd-socket-activate");
    std::thread::scope(|scope| {
        for name in ["--fdname=kept-9001".into(), stored_as("127.0.0.1:9002"), stored_as("")] {
            scope.spawn(move || {
                let namespace = Namespace::new();
                let process = activated(&namespace, &["127.0.0.1:9001"], &[&name], "");
                namespace.run(|| connected(at("127.0.0.1:9001")).send(b"[1]")).unwrap();
                let finished = process.finish();
                assert_eq!(finished.code(), Some(78), "{finished:?}");
                let expected = format!(
                    "echo-udpd: FileDescriptorName={} of a socket unit is reserved: names that begin with kept- are \
                     for the daemon's own sockets; expected \"raw\", \"json\" or any other name",
                    name.trim_start_matches("--fdname=")
                );
                assert_eq!(finished.err.lines().last(), Some(&*expected));
            });
        }
    });
}

#[test]
fn a_socket_that_is_named_after_a_protocol_does_not_depend_on_the_default_one() {
    need!(Namespace::possible() && has_program("systemd-socket-activate"), "root and systemd-socket-activate");
    let namespace = Namespace::new();
    for (name, depends) in [("json", false), ("echo-udpd.socket", true)] {
        let settings = temporary_file("echo-udpd.toml", "");
        let mut process = activated_with(&namespace, &["127.0.0.1:9001"], &[&format!("--fdname={name}")], &settings);
        assert_eq!(namespace.run(|| ask(&connected(at("127.0.0.1:9001")), b"[1]")), b"[1]");
        std::fs::write(&settings, "workers = 2\nlisten = \"[::]:9002\"\n[reply]\nprotocol = \"raw\"").unwrap();
        process.signal("HUP");
        let needed = find(&mut process, "need a restart");
        let keys = if depends { "workers, reply.protocol" } else { "workers" };
        assert!(needed.ends_with(&format!("need a restart to take effect: {keys}")), "{name}: {needed}");
        process.signal("TERM");
        assert_eq!(process.finish().code(), Some(0), "{name}");
    }
}
