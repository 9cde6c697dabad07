//! What the program says of a settings file, and that this is true: what passes runs, what is refused cannot.

use std::net::SocketAddrV6;
use std::process::Command;

use echo_udpd::daemon::settings::{Listen, ListenAddress, ListenEntry};
use echo_udpd::socket::{self, SocketOptions};

use crate::harness::namespace::Namespace;
use crate::harness::{
    Daemon, DaemonCommand, Finished, Running, ask, connected, has_program, is_silent, need, receive, run,
    temporary_file,
};

fn check(settings: &str) -> (Finished, String) {
    let file = temporary_file("settings.toml", settings);
    let path = file.to_str().unwrap().to_owned();
    (run(Command::new(env!("CARGO_BIN_EXE_echo-udpd")).args(["--check", "--config", &path])), path)
}

#[test]
fn check_shows_every_fault_on_a_line_of_its_own() {
    let (finished, path) = check(
        "receive_buffer_bytes = 1\n\
         listen = [\"224.0.0.1:9000\", \"[::]:9000\"]\n\
         send-buffer-bytes = 8MiB\n\
         [rate-limit]\n\
         burst = \"many\"\n\
         [log]\n\
         level = \"loud\"\n",
    );
    let expected = [
        "1:1: receive_buffer_bytes: unknown key; did you mean `receive-buffer-bytes`?",
        "2:11: listen[0]: `224.0.0.1:9000` is a multicast address, and only datagrams to one host get a reply",
        "3:21: send-buffer-bytes: sizes with a unit are strings: \"8MiB\"",
        "5:9: rate-limit.burst: expected a whole number from 0 to 30000000, not \"many\"",
        "7:9: log.level: expected \"error\", \"warn\", \"info\", \"debug\" or \"trace\", not \"loud\"",
    ];
    let expected = expected.map(|fault| format!("echo-udpd: {path}:{fault}")).join("\n");
    assert_eq!((finished.code(), &*finished.err, &*finished.out), (Some(78), &*expected, ""));
}

#[test]
fn check_tells_a_slip_of_the_pen_on_one_short_line() {
    let keys = vec!["k".repeat(80); 70].join(".");
    let ports = format!("[access]\ndeny-source-ports = [\n{}]", "\"9\",\n".repeat(100_000));
    for (settings, expected) in [
        ("[access]\nallow = [\n\"::1\",\n[log]\n", "2:9: access.allow: the list that begins here has no closing ]"),
        ("[access]\nallow: [\"::1\"]\n", "2:6: access.allow: expected `=` after the key, not `:`"),
        ("[access]\nallow = [\"10.0.0.0/33\"]", "2:10: access.allow[0]: an IPv4 prefix has at most 32 bits"),
        ("[logging]\n", "1:2: logging: unknown table; did you mean [log]?"),
        (&format!("{keys} 1"), &format!("1:5671: {}...: expected `=` after the key", "k".repeat(80))),
        (&ports, "1027:1: access.deny-source-ports: the list is too long: at most 1024 entries"),
    ] {
        let (finished, path) = check(settings);
        assert_eq!((finished.code(), &*finished.err), (Some(78), &*format!("echo-udpd: {path}:{expected}")));
    }
}

#[test]
fn check_looks_at_each_key_of_each_listener() {
    let (finished, path) = check(
        "listen = [\n\
         \"[::]:9000\",\n\
         { adress = \"[::]:7\", protocol = \"udp\" },\n\
         { protocol = \"raw\" },\n\
         { address = 7, port = 7 },\n\
         \"raw:[::]:7\",\n\
         ]\n\
         workers = 300\n",
    );
    let table = "{ address = \"[::]:7\", protocol = \"raw\" }";
    let expected = [
        "3:3: listen[1].adress: unknown key; did you mean `address`?",
        "3:33: listen[1].protocol: expected \"json\" or \"raw\", not \"udp\"",
        &format!("4:1: listen[2]: the key `address` is missing; expected a table such as {table}"),
        "5:13: listen[3].address: expected an address and a port, such as \"[::]:9000\" or \"192.0.2.1:9000\", not `7`",
        "5:16: listen[3].port: unknown key; a listener has address, protocol",
        &format!("6:1: listen[4]: a listener with its own protocol is a table, such as {table}"),
        "8:11: workers: expected a whole number from 0 to 256, not `300`",
    ];
    let expected = expected.map(|fault| format!("echo-udpd: {path}:{fault}")).join("\n");
    assert_eq!((finished.code(), &*finished.err, &*finished.out), (Some(78), &*expected, ""));
}

#[test]
fn check_finds_listeners_that_cannot_be_bound_together_however_they_are_written() {
    for (listen, expected) in [
        (
            "[\"[::]:7\", { address = \"127.0.0.1:7\", protocol = \"raw\" }]",
            "1:21: listen: `[::]:7` includes `127.0.0.1:7`",
        ),
        ("[{ address = \"[::]:7\", protocol = \"raw\" }, \"[::]:7\"]", "1:53: listen: `[::]:7` is listed twice"),
        ("{ address = \"224.0.0.1:7\" }", "1:22: listen.address: `224.0.0.1:7` is a multicast address"),
    ] {
        let (finished, path) = check(&format!("listen = {listen}"));
        assert_eq!(finished.code(), Some(78), "{listen}");
        assert!(finished.err.starts_with(&format!("echo-udpd: {path}:{expected}")), "{listen}: {}", finished.err);
    }
}

#[test]
fn print_config_says_a_protocol_only_where_a_listener_has_its_own() {
    let print = |settings: &str, arguments: &[&str]| {
        let command = DaemonCommand::default().settings(settings);
        run(command.command().0.args(arguments).arg("--print-config")).success()
    };
    let mixed = "listen = [\"[::]:9000\", { address = \"[::]:7\", protocol = \"raw\" }]";
    for (settings, arguments, expected) in [
        (mixed, &[][..], mixed),
        ("listen = \"[::]:7\"", &[], "listen = [\"[::]:7\"]"),
        ("listen = { address = \"[::]:7\" }\n[reply]\nprotocol = \"raw\"", &[], "listen = [\"[::]:7\"]"),
        (
            "[listen]\naddress = \"[::]:7\"\nprotocol = \"RAW\"",
            &[],
            "[[listen]]\naddress = \"[::]:7\"\nprotocol = \"raw\"\n",
        ),
        ("", &["--listen=[::]:9000", "--listen", "raw:[::]:7"], mixed),
        (mixed, &["--listen=json:127.0.0.1:9"], "[[listen]]\naddress = \"127.0.0.1:9\"\nprotocol = \"json\"\n"),
        ("[access]\ndeny-source-ports = [1900, \"1-3\"]", &[], "deny-source-ports = [\"1900\", \"1-3\"]"),
        ("[access]\ndeny-source-ports = 1900\nallow = \"::1\"", &[], "allow = [\"::1\"]\n"),
    ] {
        let printed = print(settings, arguments);
        assert!(printed.contains(expected), "{settings} {arguments:?}: {printed}");
        assert_eq!(print(&printed, &[]), printed, "{settings}");
    }
}

#[test]
fn a_listener_of_the_command_line_is_refused_with_what_is_expected() {
    for (listen, expected) in [
        ("udp:[::]:7", "expected \"json\" or \"raw\" before the address, not `udp`"),
        ("raw:[::]", "expected an address and a port, such as \"[::]:9000\" or \"192.0.2.1:9000\""),
        ("raw:224.0.0.1:7", "`224.0.0.1:7` is a multicast address"),
    ] {
        let refused = run(&mut DaemonCommand::default().listen(listen).command().0);
        assert_eq!(refused.code(), Some(2), "{listen}: {refused:?}");
        assert!(refused.err.contains(expected), "{listen}: {refused:?}");
    }
    let twice = run(&mut DaemonCommand::default().listen("[::]:7").listen("raw:127.0.0.1:7").command().0);
    assert_eq!(twice.code(), Some(2), "{twice:?}");
    assert!(twice.err.contains("`[::]:7` includes `127.0.0.1:7`: list one of them"), "{twice:?}");
}

#[test]
fn a_default_protocol_that_no_listener_has_changes_without_a_restart() {
    for (listen, expected) in [("127.0.0.1:0", "workers, reply.protocol"), ("json:127.0.0.1:0", "workers")] {
        let mut daemon = DaemonCommand::default().settings("").listen(listen).start();
        daemon.reload("workers = 2\n[reply]\nprotocol = \"raw\"");
        let line = daemon.wait_for_line("need a restart");
        assert!(line.ends_with(&format!("need a restart to take effect: {expected}")), "{listen}: {line}");
    }
}

#[test]
fn check_shows_no_more_than_twenty_faults_and_counts_the_others() {
    let keys: String = (0..30).map(|number| format!("key{number} = 1\n")).collect();
    let (finished, path) = check(&keys);
    assert_eq!(finished.code(), Some(78));
    let lines: Vec<_> = finished.err.lines().collect();
    assert_eq!(lines.len(), 21, "{lines:#?}");
    assert!(lines[19].starts_with(&format!("echo-udpd: {path}:20:1: key19: unknown key; ")), "{}", lines[19]);
    assert_eq!(lines[20], format!("echo-udpd: {path}: and 10 more"));
}

#[test]
fn a_failed_reload_names_the_first_fault_and_counts_the_others() {
    let mut daemon = Daemon::with_settings("");
    daemon.reload("workers = 300\n[log]\nlevle = 'info'\nrequests = 'no'");
    let line = daemon.wait_for_line("reload failed");
    let expected = "1:11: workers: expected a whole number from 0 to 256, not `300` (and 2 more)";
    assert!(line.contains(expected), "{line}");
    assert_eq!(ask(&connected(daemon.at("127.0.0.1")), b"1"), b"1");
}

#[test]
fn exactly_the_addresses_that_can_be_bound_together_pass() {
    need!(Namespace::possible(), "root and ip, to make network namespaces");
    let (host, other) = (Namespace::new(), Namespace::new());
    host.join(&other);
    let hosts = [
        "[::]",
        "0.0.0.0",
        "127.0.0.1",
        "127.0.0.2",
        "[::ffff:127.0.0.1]",
        "[::ffff:0.0.0.0]",
        "[::1]",
        "203.0.113.9",
        "[2001:db8::9]",
        "[fe80::1]",
        "[fe80::1%lo]",
        "[fe80::1%veth0]",
    ];
    host.run(|| {
        let bind = |address| socket::bind(address, &SocketOptions::default());
        let pairs = hosts.iter().flat_map(|one| hosts.iter().map(move |other| (one, other)));
        // A port for each: until a child of another test has called exec, it holds the sockets of all tests.
        for (port, (one, other)) in (9000..).zip(pairs) {
            let parse = |host: &str| format!("{host}:{port}").parse::<ListenAddress>().unwrap();
            let bind = |host: &str| bind(parse(host).resolve()?);
            let passed = Listen::new([one, other].map(|host| ListenEntry::from(parse(host))).into());
            let bound = bind(one).and_then(|first| Ok((first, bind(other)?)));
            assert_eq!(passed.is_ok(), bound.is_ok(), "{one} and {other}: {passed:?}, {bound:?}");
        }
    });
}

#[test]
fn what_check_passes_runs_and_what_it_refuses_is_refused_on_the_command_line_too() {
    need!(Namespace::possible(), "root and ip, to make network namespaces");
    let (host, other) = (Namespace::new(), Namespace::new());
    host.join(&other);
    for listen in [
        &["[::]:9000"][..],
        &["0.0.0.0:9000", "[::1]:9000", "[fe80::1%veth0]:9000"],
        &["127.0.0.1:9000", "127.0.0.2:9000", "[2001:db8::9]:9000"],
        &["[::ffff:127.0.0.1]:9000"],
        &["[fe80::1%lo]:9000", "[fe80::1%veth0]:9000"],
    ] {
        for workers in [1, 2] {
            let settings = format!("workers = {workers}\nlisten = {listen:?}");
            let command = DaemonCommand::default().within(&host).settings(&settings);
            let checked = run(command.command().0.arg("--check"));
            assert_eq!((checked.code(), &*checked.err), (Some(0), ""), "{listen:?}");
            let mut daemon = Running::start(&mut command.command().0);
            for address in listen {
                find(&mut daemon, &format!("listening on {} (", address.replace("[::ffff:127.0.0.1]", "127.0.0.1")));
            }
            daemon.signal("TERM");
            assert_eq!(daemon.finish().code(), Some(0), "{listen:?}");
        }
    }
    for (listen, reason) in [
        (&["224.0.0.1:9000"][..], "is a multicast address"),
        (&["[ff02::1%veth0]:9000"], "is a multicast address"),
        (&["255.255.255.255:9000"], "is the broadcast address"),
        (&["[fe80::1]:9000"], "needs its interface"),
        (&["[::1%lo]:9000"], "names an interface, which only a link-local address (fe80::/10) takes"),
        (&["[fe80::1%a/b]:9000"], "`a/b` cannot be the name of an interface"),
        (&["[::]:9000", "127.0.0.1:9000"], "`[::]:9000` includes `127.0.0.1:9000`"),
        (&["0.0.0.0:9000", "[::]:9000"], "`[::]:9000` includes `0.0.0.0:9000`"),
        (&["127.0.0.1:9000", "[::ffff:127.0.0.1]:9000"], "are the same address"),
    ] {
        let in_file = DaemonCommand::default().within(&host).settings(&format!("listen = {listen:?}"));
        let checked = run(in_file.command().0.arg("--check"));
        assert_eq!(checked.code(), Some(78), "{listen:?}: {checked:?}");
        assert!(checked.err.contains(reason), "{listen:?}: {checked:?}");
        let given =
            listen.iter().fold(DaemonCommand::default().within(&host), |command, address| command.listen(address));
        let refused = run(&mut given.command().0);
        assert_eq!(refused.code(), Some(2), "{listen:?}: {refused:?}");
        assert!(refused.err.contains(reason), "{listen:?}: {refused:?}");
    }
}

#[test]
fn print_config_keeps_an_interface_as_it_is_written() {
    for listen in ["[fe80::1%lo]:9000", "[fe80::1%1]:9000", "[fe80::1%nowhere9]:9000"] {
        let settings = format!("listen = [\"{listen}\"]");
        let command = DaemonCommand::default().settings(&settings);
        let printed = run(command.command().0.arg("--print-config")).success();
        assert!(printed.contains(&settings), "{printed}");
        let again = DaemonCommand::default().settings(&printed);
        assert_eq!(run(again.command().0.arg("--print-config")).success(), printed);
    }
}

fn find(process: &mut Running, text: &str) -> String {
    process.find_line(text, |line| line.contains(text).then(|| line.to_owned()))
}

/// Plugs the interface `d0` in.
fn add_d0(host: &Namespace) {
    host.ip("link add d0 type veth peer name d0-peer
             link set d0 up");
}

#[test]
fn a_reload_does_not_look_for_the_interface_that_is_listened_on() {
    need!(Namespace::possible(), "root and ip, to make network namespaces");
    let host = Namespace::new();
    add_d0(&host);
    let listen = "listen = [\"[::1]:9000\", \"[fe80::1%d0]:9000\"]\n";
    let (mut command, file) = DaemonCommand::default().within(&host).settings(listen).command();
    let mut daemon = Running::start(&mut command);
    find(&mut daemon, "listening on [fe80::1%d0]:9000 (IPv6)");
    find(&mut daemon, "receive buffer of [fe80::1%d0]:9000: ");
    let at = "[::1]:9000".parse().unwrap();
    assert_eq!(host.run(|| ask(&connected(at), b"[1]")), b"[1]");

    host.ip("link del d0");
    std::fs::write(&file, format!("{listen}[access]\ndeny = [\"::1\"]")).unwrap();
    daemon.signal("HUP");
    find(&mut daemon, "settings reloaded");
    let denied = host.run(|| connected(at));
    denied.send(b"[1]").unwrap();
    assert!(is_silent(&denied));
    // Another one is a change, though neither exists.
    std::fs::write(&file, listen.replace("d0", "d1")).unwrap();
    daemon.signal("HUP");
    assert!(find(&mut daemon, "need a restart").ends_with(": listen"));
    daemon.signal("TERM");
    assert_eq!(daemon.finish().code(), Some(0));
}

#[test]
fn a_start_without_the_interface_fails_in_a_way_that_a_restart_heals() {
    need!(Namespace::possible(), "root and ip, to make network namespaces");
    let host = Namespace::new();
    for interface in ["d0", "99"] {
        let address = format!("[fe80::1%{interface}]:9000");
        let command = DaemonCommand::default().within(&host).settings(&format!("listen = [\"{address}\"]"));
        let checked = run(command.command().0.arg("--check"));
        assert_eq!((checked.code(), &*checked.err), (Some(0), ""));
        let given = DaemonCommand::default().within(&host).listen(&address);
        for command in [&command, &given] {
            let refused = run(&mut command.command().0);
            // 78 would keep systemd from another try.
            assert_eq!(refused.code(), Some(1), "{refused:?}");
            let expected = format!("echo-udpd: find interface {interface} of {address}: No such device");
            assert!(refused.err.lines().last().unwrap().starts_with(&expected), "{refused:?}");
        }
    }
    add_d0(&host);
    let command = DaemonCommand::default().within(&host).settings("listen = [\"[fe80::1%d0]:9000\"]");
    let mut daemon = Running::start(&mut command.command().0);
    find(&mut daemon, "listening on [fe80::1%d0]:9000 (IPv6)");
    daemon.signal("TERM");
    assert_eq!(daemon.finish().code(), Some(0));
}

#[test]
fn one_interface_under_two_names_shows_when_it_is_bound() {
    need!(Namespace::possible(), "root and ip, to make network namespaces");
    let (host, listen) = (Namespace::new(), "listen = [\"[fe80::1%lo]:9\", \"[fe80::1%1]:9\"]");
    let command = DaemonCommand::default().within(&host).settings(listen);
    assert_eq!(run(command.command().0.arg("--check")).code(), Some(0));
    let refused = run(&mut command.command().0);
    assert_eq!(refused.code(), Some(1), "{refused:?}");
    assert!(refused.err.ends_with("address in use"), "{refused:?}");
}

#[test]
fn a_kept_socket_is_that_of_the_named_interface_by_its_index() {
    need!(Namespace::possible() && has_program("systemd-socket-activate"), "root and systemd-socket-activate");
    let host = Namespace::new();
    add_d0(&host);
    host.ip("addr add fe80::1/64 dev d0 nodad");
    let index = host.run(|| socket::interface_index("d0")).unwrap();
    let at = SocketAddrV6::new("fe80::1".parse().unwrap(), 9000, 0, index);
    for (interface, other) in [("d0", false), (&*index.to_string(), false), ("lo", true)] {
        let settings = format!("listen = [\"[fe80::1%{interface}]:9000\"]");
        let (daemon, _file) = DaemonCommand::default().settings(&settings).command();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", host.name(), "systemd-socket-activate", "--datagram"]);
        command.args(["--listen=[fe80::1]:9000%d0", &format!("--fdname=kept-[fe80..1%{index}].9000")]);
        command.arg(daemon.get_program()).args(daemon.get_args());
        let mut process = Running::start(&mut command);
        find(&mut process, "Listening on");
        let client = host.run(|| connected(at.into()));
        client.send(b"[1]").unwrap();
        find(&mut process, &format!("listening on [fe80::1%{interface}]:9000 (IPv6)"));
        if !other {
            assert_eq!(receive(&client), b"[1]", "{interface}");
        }
        process.signal("TERM");
        let finished = process.finish();
        assert_eq!(finished.err.contains("restored 1 socket"), !other, "{finished:?}");
    }
}
