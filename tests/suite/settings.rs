//! What the program says of a settings file, and that this is true: what passes runs, what is refused cannot.

use std::process::Command;

use echo_udpd::daemon::settings::{Listen, ListenAddress};
use echo_udpd::socket::{self, SocketOptions};

use crate::harness::namespace::Namespace;
use crate::harness::{Daemon, DaemonCommand, Finished, ask, connected, need, run, temporary_file};

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
        "1:1: receive_buffer_bytes: unknown key `receive_buffer_bytes`; did you mean `receive-buffer-bytes`?",
        "2:11: listen[0]: `224.0.0.1:9000` is a multicast address, and only datagrams to one host get a reply",
        "3:21: send-buffer-bytes: sizes with a unit are strings: \"8MiB\"",
        "5:9: rate-limit.burst: expected a whole number from 0 to 30000000, not `\"many\"`",
        "7:9: log.level: expected \"error\", \"warn\", \"info\", \"debug\" or \"trace\", not `\"loud\"`",
    ];
    let expected = expected.map(|fault| format!("echo-udpd: {path}:{fault}")).join("\n");
    assert_eq!((finished.code(), &*finished.err, &*finished.out), (Some(78), &*expected, ""));
}

#[test]
fn check_shows_no_more_than_twenty_faults_and_counts_the_others() {
    let keys: String = (0..30).map(|number| format!("key{number} = 1\n")).collect();
    let (finished, path) = check(&keys);
    assert_eq!(finished.code(), Some(78));
    let lines: Vec<_> = finished.err.lines().collect();
    assert_eq!(lines.len(), 21, "{lines:#?}");
    assert!(lines[19].starts_with(&format!("echo-udpd: {path}:20:1: key19: unknown key `key19`; ")), "{}", lines[19]);
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
        "[fe80::1%1]",
    ];
    host.run(|| {
        let bind = |address| socket::bind(address, &SocketOptions::default());
        let pairs = hosts.iter().flat_map(|one| hosts.iter().map(move |other| (one, other)));
        // A port for each: until a child of another test has called exec, it holds the sockets of all tests.
        for (port, (one, other)) in (9000..).zip(pairs) {
            let parse = |host: &str| format!("{host}:{port}").parse::<ListenAddress>().unwrap().0;
            let passed = Listen::new(vec![parse(one), parse(other)]);
            let bound = bind(parse(one)).and_then(|first| Ok((first, bind(parse(other))?)));
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
            let mut daemon = command.start();
            let mut addresses = 0;
            daemon.process.find_line("all that it listens on", |line| {
                addresses += usize::from(line.contains("listening on "));
                (addresses == listen.len()).then_some(())
            });
            assert_eq!(daemon.stop().code(), Some(0), "{listen:?}");
        }
    }
    for (listen, reason) in [
        (&["224.0.0.1:9000"][..], "is a multicast address"),
        (&["[ff02::1%veth0]:9000"], "is a multicast address"),
        (&["255.255.255.255:9000"], "is the broadcast address"),
        (&["[fe80::1]:9000"], "needs its interface"),
        (&["[::1%lo]:9000"], "names an interface, which only a link-local address (fe80::/10) takes"),
        (&["[fe80::1%eth9]:9000"], "there is no interface `eth9`"),
        (&["[fe80::1%99]:9000"], "there is no interface `99`"),
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
fn print_config_keeps_the_name_of_an_interface() {
    need!(Namespace::possible(), "root and ip, to make network namespaces");
    let (host, other) = (Namespace::new(), Namespace::new());
    host.join(&other);
    let index = host.run(|| socket::interface_index("veth0")).unwrap();
    let by_name = "listen = [\"[fe80::1%veth0]:9000\"]";
    for listen in [by_name, &format!("listen = [\"[fe80::1%{index}]:9000\"]")] {
        let command = DaemonCommand::default().within(&host).settings(listen);
        let printed = run(command.command().0.arg("--print-config")).success();
        assert!(printed.contains(by_name), "{printed}");
        let again = DaemonCommand::default().within(&host).settings(&printed);
        assert_eq!(run(again.command().0.arg("--print-config")).success(), printed);
    }
}
