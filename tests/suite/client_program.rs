//! The contract of `echo-udp send`.

use std::fs::File;
use std::io::pipe;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::harness::namespace::Namespace;
use crate::harness::{
    DEADLINE, Daemon, DaemonCommand, Finished, Running, has_ipv6, has_program, is_root, need, provided,
    refusing_socket, retry, run, temporary_file,
};

fn send(words: &[&str]) -> Finished {
    run(Command::new(env!("CARGO_BIN_EXE_echo-udp")).arg("send").args(words))
}

/// A server that replies to one datagram with this.
fn replying(reply: &'static [u8]) -> (String, thread::JoinHandle<Vec<u8>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    let server = thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        let (length, peer) = retry(|| socket.recv_from(&mut buffer)).unwrap();
        socket.send_to(reply, peer).unwrap();
        buffer.truncate(length);
        buffer
    });
    (port, server)
}

#[test]
fn it_prints_exactly_two_lines_once_the_reply_has_come() {
    let daemon = Daemon::start();
    let port = daemon.port().to_string();
    let mut families = vec![&[][..], &["-4"], &["--host", "127.0.0.1"]];
    if provided(has_ipv6(), "IPv6 on loopback") {
        families.extend([&["-6", "--host", "::1"][..], &["--host", "[::1]"]]);
    }
    for family in families {
        let words = [family, &["--port", &port, "Hello", "world!"]].concat();
        let finished = send(&words);
        assert_eq!((finished.code(), &*finished.err), (Some(0), ""), "{words:?}");
        assert_eq!(
            finished.out,
            "Sent:     {\"command-line arguments\":[\"Hello\",\"world!\"]}\n\
             Received: {\"command-line arguments\":[\"Hello\",\"world!\"]}\n"
        );
    }
}

#[test]
fn json_is_sent_as_it_is() {
    let daemon = Daemon::start();
    let port = daemon.port().to_string();
    let valid = send(&["--port", &port, "--json", " {\"b\" : 1.10}\n"]).success();
    assert_eq!(valid, "Sent:     {\"b\" : 1.10}\nReceived: {\"b\" : 1.10}\n");
    let command = &mut Command::new(env!("CARGO_BIN_EXE_echo-udp"));
    let piped = Running::with_input(command.args(["send", "--port", &port, "--json", "-"]), b"[1,\n2]\n").finish();
    assert_eq!(piped.success(), "Sent:     [1, 2]\nReceived: [1, 2]\n");
}

#[test]
fn what_a_stranger_sends_stays_two_lines_of_ascii() {
    let (port, server) = replying("[\"\u{202e}\u{7f}\u{9b}\"\n,\r\"\u{1f600}\"]\n\n".as_bytes());
    let finished = send(&["--host", "127.0.0.1", "--port", &port, "x"]);
    assert_eq!(server.join().unwrap(), br#"{"command-line arguments":["x"]}"#);
    let received = "Received: [\"\\u202e\\u007f\\u009b\" , \"\\ud83d\\ude00\"]\n";
    assert_eq!(finished.out, format!("Sent:     {{\"command-line arguments\":[\"x\"]}}\n{received}"));
}

#[test]
fn a_reply_other_than_what_was_sent_is_shown_and_exits_1() {
    for (sent, reply, shown, judged) in [
        (
            "[1]",
            &b"\xffnonsense\x1b[31m"[..],
            r"\xffnonsense\x1b[31m",
            "invalid reply from 127.0.0.1:P: expected value",
        ),
        ("[1]", b"", "", "invalid reply from 127.0.0.1:P: EOF while parsing a value"),
        ("[1]", b"[2]", "[2]", "the reply from 127.0.0.1:P differs from what was sent"),
        ("[1]", b"[1,1]", "[1,1]", "the reply from 127.0.0.1:P differs from what was sent"),
        ("{1\0\\", b"{1\0", r"{1\x00", "the reply from 127.0.0.1:P differs from what was sent"),
        ("[1]", b"{\"error\":\"\x1b\xc3\xa9!\"}", r#"{"error":"\x1b\xc3\xa9!"}"#, "invalid reply from 127.0.0.1:P"),
        ("[1]", br#"{"error":"\u001b!"}"#, r#"{"error":"\u001b!"}"#, r"127.0.0.1:P replied with an error: \u001b!"),
        (
            "[1]",
            "{\"error\":\"x\u{202e}  y\"}".as_bytes(),
            r#"{"error":"x\u202e  y"}"#,
            r"127.0.0.1:P replied with an error: x\u202e  y",
        ),
    ] {
        let (port, server) = replying(reply);
        let words = ["send", "--host", "127.0.0.1", "--port", &port, "--json", "-"];
        let command = &mut Command::new(env!("CARGO_BIN_EXE_echo-udp"));
        let finished = Running::with_input(command.args(words), sent.as_bytes()).finish();
        assert_eq!(server.join().unwrap(), sent.as_bytes());
        assert_eq!(finished.code(), Some(1), "{finished:?}");
        assert!(finished.out.ends_with(&format!("Received: {shown}\n")), "{finished:?}");
        let judged = format!("echo-udp: {}", judged.replace(":P", &format!(":{port}")));
        assert!(finished.err.starts_with(&judged), "{finished:?}");
    }
}

#[test]
fn json_with_other_digits_members_or_order_exits_1() {
    for (sent, reply) in [
        (r#"{"t":0.1}"#, r#"{"t":0.1000000000000000055511151231257827}"#),
        (r#"{"id":1.0000000000000000001}"#, r#"{"id":1.0000000000000000002}"#),
        (r#"{"a":1}"#, r#"{"a":1.0}"#),
        (r#"{"a":1}"#, r#"{"a":9,"a":1}"#),
        (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#),
    ] {
        let (port, server) = replying(reply.as_bytes());
        let finished = send(&["--host", "127.0.0.1", "--port", &port, "--json", sent]);
        server.join().unwrap();
        let expected = format!("echo-udp: the reply from 127.0.0.1:{port} differs from what was sent");
        assert_eq!((finished.code(), &*finished.err), (Some(1), &*expected), "{finished:?}");
    }
}

#[test]
fn the_same_json_written_differently_is_what_was_sent() {
    let (port, server) = replying(b"{ \"b\": \"\\u00e9\", \"a\": [1.50] }\n");
    let words = ["--host", "127.0.0.1", "--port", &port, "--json", "{\"b\":\"\u{e9}\",\"a\":[1.50]}"];
    send(&words).success();
    server.join().unwrap();
}

#[test]
fn the_error_reply_of_the_daemon_exits_1() {
    let daemon = Daemon::start();
    let finished = send(&["--port", &daemon.port().to_string(), "--json", "{\"b\":\n\u{e9}\\"]);
    assert_eq!(finished.code(), Some(1));
    let lines =
        "Sent:     {\"b\":\\x0a\\xc3\\xa9\\x5c\nReceived: {\"error\":\"Invalid JSON\",\"code\":\"parse_error\"}\n";
    assert_eq!(finished.out, lines);
    assert!(finished.err.ends_with(" replied with an error: Invalid JSON"), "{finished:?}");
}

#[test]
fn an_echo_of_any_bytes_is_what_was_sent() {
    let daemon = Daemon::with_settings("[reply]\nprotocol = 'raw'");
    let port = daemon.port().to_string();
    let lines = send(&["--port", &port, "--json", "{nonsense"]).success();
    assert_eq!(lines, "Sent:     {nonsense\nReceived: {nonsense\n");
    let command = &mut Command::new(env!("CARGO_BIN_EXE_echo-udp"));
    let piped = Running::with_input(command.args(["send", "--port", &port, "--json", "-"]), b"\0\xff\\\n").finish();
    assert_eq!(piped.success(), "Sent:     \\x00\\xff\\x5c\\x0a\nReceived: \\x00\\xff\\x5c\\x0a\n");
}

#[test]
fn no_word_at_all_is_an_empty_list() {
    let daemon = Daemon::start();
    let lines = send(&["--port", &daemon.port().to_string()]).success();
    assert_eq!(lines, "Sent:     {\"command-line arguments\":[]}\nReceived: {\"command-line arguments\":[]}\n");
}

#[test]
fn nobody_and_silence_exit_1_with_nothing_printed() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let finished = send(&["--host", "127.0.0.1", "--port", &port, "-W", "0.05", "x"]);
    let expected = format!("echo-udp: no reply from 127.0.0.1:{port} within 0.05 s (the server may be rate limiting; ");
    assert_eq!((finished.code(), &*finished.out), (Some(1), ""));
    assert!(finished.err.starts_with(&expected), "{finished:?}");
    let refusing = refusing_socket();
    let port = refusing.local_addr().unwrap().port().to_string();
    let finished = send(&["--host", "127.0.0.1", "--port", &port, "x"]);
    let expected = format!("echo-udp: connection refused by 127.0.0.1:{port} (nothing is listening there)");
    assert_eq!((finished.code(), &*finished.out, &*finished.err), (Some(1), "", &*expected));
}

#[test]
fn what_cannot_even_be_sent_exits_2() {
    let long = "x".repeat(70_000);
    for (words, expected) in [
        (&["--host", "no such host.invalid", "x"][..], "echo-udp: resolve no such host.invalid: "),
        (&["--host", "no\nsuch\u{202e}host.invalid", "x"], r"echo-udp: resolve no\x0asuch\xe2\x80\xaehost.invalid: "),
        (&["--host", "fe80::1", "x"], "echo-udp: a link-local address needs its interface: fe80::1%eth0"),
        (&["--host", "127.0.0.1", "-6", "x"], "echo-udp: 127.0.0.1 has no IPv6 address"),
        (&["--host", "224.0.0.1", "x"], "echo-udp: 224.0.0.1:9000 is not a unicast address"),
        (&["--host", "::ffff:224.0.0.1", "x"], "echo-udp: [::ffff:224.0.0.1]:9000 is not a unicast address"),
        (&["--host", "255.255.255.255", "x"], "echo-udp: 255.255.255.255:9000 is not a unicast address"),
        (&["--host", "127.255.255.255", "x"], "echo-udp: connect to 127.255.255.255:9000 (a broadcast address, or "),
        (&["--host", "", "x"], "error: invalid value '' for '--host <HOST>': expected a name or an address\n"),
        (
            &["--host", "127.0.0.1:9000", "x"],
            "error: invalid value '127.0.0.1:9000' for '--host <HOST>': the port has ",
        ),
        (&["--host", "[::1]:9000", "x"], "error: invalid value '[::1]:9000' for '--host <HOST>': the port has "),
        (
            &["--host", ":9000", "x"],
            "error: invalid value ':9000' for '--host <HOST>': expected a name or an address alone\n",
        ),
        (
            &["--host", "localhost:", "x"],
            "error: invalid value 'localhost:' for '--host <HOST>': expected a name or an address alone\n",
        ),
        (&["--json", "1", "word"], "error: the argument '--json <TEXT>' cannot be used with '[WORD]...'\n"),
        (&["-W", "0", "x"], "error: invalid value '0' for '-W <SECONDS>'"),
        (&["--port", "0", "x"], "error: invalid value '0' for '--port <PORT>'"),
        (&["--host", "127.0.0.1", &long], "echo-udp: packet is 70031 bytes; a datagram carries at most 65507"),
    ] {
        let finished = send(words);
        assert_eq!((finished.code(), &*finished.out), (Some(2), ""), "{finished:?}");
        assert!(finished.err.starts_with(expected), "{finished:?}");
    }
}

#[test]
fn an_input_without_end_is_too_large_and_takes_no_memory() {
    let script = "ulimit -v 1000000; exec \"$0\" send --host \"$1\" --json -";
    for (host, limit) in [("127.0.0.1", 65507), ("::ffff:127.0.0.1", 65507), ("::1", 65527)] {
        let command = &mut Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_echo-udp"), host]).stdin(File::open("/dev/zero").unwrap());
        let finished = command.output().unwrap();
        assert_eq!(finished.status.code(), Some(2), "{finished:?}");
        let expected =
            format!("echo-udp: standard input is more than {limit} bytes, the most that a datagram carries\n");
        assert_eq!(String::from_utf8(finished.stderr).unwrap(), expected);
    }
}

#[test]
fn a_file_at_its_size_limit_is_an_error_of_writing() {
    let daemon = Daemon::start();
    let file = temporary_file("output", "");
    let script = "ulimit -f 0; file=$1; shift; exec \"$0\" \"$@\" >\"$file\"";
    let send = ["send", "--port", &daemon.port().to_string(), "x"];
    for words in [&["--help"][..], &["--version"], &send] {
        let command = &mut Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_echo-udp"), file.to_str().unwrap()]).args(words);
        let finished = run(command);
        let expected = "echo-udp: write standard output: File too large (os error 27)";
        assert_eq!((finished.code(), &*finished.err), (Some(2), expected), "{words:?}");
    }
}

#[test]
fn the_exit_status_holds_where_nothing_can_be_written() {
    let daemon = Daemon::start();
    let refusing = refusing_socket();
    let nobody = refusing.local_addr().unwrap().port();
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    // Its reader has gone.
    let broken = || Stdio::from(pipe().unwrap().1);
    let send = |port: u16| ["send", "--host", "127.0.0.1", "--port", &port.to_string(), "x"].map(String::from).to_vec();
    for (words, without_output, otherwise) in [
        (send(daemon.port()), 2, 0),
        (send(nobody), 1, 1),
        (vec!["send".into(), "--no-such-option".into()], 2, 2),
        (vec!["--help".into()], 2, 0),
        (vec!["--version".into()], 2, 0),
    ] {
        let status = |out: Stdio, err: Stdio| {
            let command = &mut Command::new(env!("CARGO_BIN_EXE_echo-udp"));
            command.args(&words).stdin(Stdio::null()).stdout(out).stderr(err).status().unwrap().code()
        };
        assert_eq!(status(full(), full()), Some(without_output), "both full: {words:?}");
        assert_eq!(status(broken(), broken()), Some(without_output), "both broken: {words:?}");
        assert_eq!(status(Stdio::null(), full()), Some(otherwise), "standard error full: {words:?}");
        assert_eq!(status(Stdio::null(), broken()), Some(otherwise), "standard error broken: {words:?}");
        let closed = &mut Command::new("sh");
        closed.args(["-c", "exec \"$0\" \"$@\" >&- 2>&-", env!("CARGO_BIN_EXE_echo-udp")]).args(&words);
        assert_eq!(run(closed).code(), Some(otherwise), "both closed: {words:?}");
    }
}

#[test]
fn a_reader_that_has_gone_is_not_told_of() {
    let daemon = Daemon::start();
    let command = &mut Command::new(env!("CARGO_BIN_EXE_echo-udp"));
    command.args(["send", "--port", &daemon.port().to_string(), "x"]).stdout(pipe().unwrap().1);
    let finished = command.output().unwrap();
    assert_eq!((finished.status.code(), &*finished.stderr), (Some(2), &b""[..]));
    command.stdout(File::options().write(true).open("/dev/full").unwrap());
    let finished = command.output().unwrap();
    let expected = "echo-udp: write standard output: No space left on device (os error 28)\n";
    assert_eq!(String::from_utf8(finished.stderr).unwrap(), expected);
}

#[test]
fn a_dead_address_of_a_name_falls_back_to_the_next() {
    need!(is_root() && has_program("unshare") && has_ipv6(), "root, unshare and IPv6 on loopback");
    let hosts = temporary_file("hosts", "::1 twofold\n127.0.0.1 twofold\n");
    for living in ["127.0.0.1:0", "[::1]:0"] {
        let daemon = DaemonCommand::default().listen(living).start();
        let port = daemon.port();
        let program = env!("CARGO_BIN_EXE_echo-udp");
        let script =
            format!("mount --bind {} /etc/hosts; {program} send --host twofold --port {port} x", hosts.display());
        let finished = run(Command::new("unshare").args(["--mount", "sh", "-ec", &script]));
        assert_eq!((finished.code(), finished.out.lines().count()), (Some(0), 2), "{living}: {finished:?}");
    }
}

#[test]
fn localhost_is_this_host_where_no_resolver_knows_it() {
    let sources_are_named = Path::new("/etc/nsswitch.conf").exists();
    need!(is_root() && has_program("unshare") && sources_are_named, "root, unshare and nsswitch.conf(5)");
    let hosts = temporary_file("hosts", "");
    let sources = temporary_file("nsswitch.conf", "hosts: files\n");
    let mut listeners = vec!["127.0.0.1:0"];
    if provided(has_ipv6(), "IPv6 on loopback") {
        listeners.push("[::1]:0");
    }
    for living in listeners {
        let daemon = DaemonCommand::default().listen(living).start();
        let send = format!("{} send --port {} x", env!("CARGO_BIN_EXE_echo-udp"), daemon.port());
        let script = format!(
            "mount --bind {} /etc/hosts; mount --bind {} /etc/nsswitch.conf; \
             if getent hosts localhost; then exit 9; fi; {send}; {send} --host LocalHost",
            hosts.display(),
            sources.display(),
        );
        let finished = run(Command::new("unshare").args(["--mount", "sh", "-ec", &script]));
        assert_eq!((finished.code(), finished.out.lines().count()), (Some(0), 4), "{living}: {finished:?}");
    }
}

#[test]
fn an_interface_is_shown_as_it_was_typed() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let host = Namespace::new();
    host.ip("address add fe80::1/64 dev lo nodad");
    for typed in ["fe80::1%lo", "fe80::1%1", "[fe80::1%lo]"] {
        let words = ["netns", "exec", host.name(), env!("CARGO_BIN_EXE_echo-udp"), "send", "--host", typed];
        let finished = run(Command::new("ip").args(words));
        let shown = typed.trim_matches(['[', ']']);
        let expected = format!("echo-udp: connection refused by [{shown}]:9000 (nothing is listening there)");
        assert_eq!((finished.code(), &*finished.err), (Some(1), &*expected));
    }
    host.ip("link set lo down");
    let words = ["netns", "exec", host.name(), env!("CARGO_BIN_EXE_echo-udp"), "send", "--host", "fe80::1%lo"];
    let finished = run(Command::new("ip").args(words));
    assert_eq!(finished.code(), Some(2), "{finished:?}");
    assert!(finished.err.starts_with("echo-udp: connect to [fe80::1%lo]:9000: "), "{finished:?}");
}

#[test]
fn an_icmp_error_exits_1_and_a_missing_route_2_each_with_its_step() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let (client, router) = (Namespace::new(), Namespace::new());
    client.join(&router);
    client.ip("address add 192.0.2.2/24 dev veth0\n route add 198.51.100.0/24 via 192.0.2.1");
    router.ip("address add 192.0.2.1/24 dev veth0\n route add prohibit 198.51.100.1/32");
    router.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
    for (host, status, expected) in [
        ("198.51.100.1", 1, "echo-udp: receive from 198.51.100.1:9000: No route to host (os error 113)"),
        ("203.0.113.1", 2, "echo-udp: connect to 203.0.113.1:9000: Network is unreachable (os error 101)"),
    ] {
        let words =
            ["netns", "exec", client.name(), env!("CARGO_BIN_EXE_echo-udp"), "send", "-W", "30", "--host", host];
        let finished = run(Command::new("ip").args(words));
        assert_eq!((finished.code(), &*finished.out, &*finished.err), (Some(status), "", expected));
    }
}
