//! The contract of `echo-udp send`.

use std::net::UdpSocket;
use std::process::Command;
use std::thread;

use crate::harness::{
    DEADLINE, Daemon, DaemonCommand, Finished, Running, has_ipv6, has_program, is_root, need, run, temporary_file,
};

fn send(words: &[&str]) -> Finished {
    run(Command::new(env!("CARGO_BIN_EXE_echo-udp")).arg("send").args(words))
}

/// A server that answers one datagram with this.
fn answering(reply: &'static [u8]) -> (String, thread::JoinHandle<Vec<u8>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    let server = thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        let (length, peer) = socket.recv_from(&mut buffer).unwrap();
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
    for family in [&[][..], &["-4"], &["-6", "--host", "::1"], &["--host", "127.0.0.1"]] {
        need!(!family.contains(&"-6") || has_ipv6(), "IPv6 on loopback");
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
fn json_is_sent_as_it_is_valid_or_not() {
    let daemon = Daemon::start();
    let port = daemon.port().to_string();
    let valid = send(&["--port", &port, "--json", " {\"b\" : 1.10}\n"]).success();
    assert_eq!(valid, "Sent:     {\"b\" : 1.10}\nReceived: {\"b\" : 1.10}\n");
    let invalid = send(&["--port", &port, "--json", "{\"b\":"]).success();
    assert_eq!(invalid, "Sent:     {\"b\":\nReceived: {\"error\":\"Invalid JSON\",\"code\":\"parse_error\"}\n");
    let command = &mut Command::new(env!("CARGO_BIN_EXE_echo-udp"));
    let piped = Running::with_input(command.args(["send", "--port", &port, "--json", "-"]), b"[1,\n2]\n").finish();
    assert_eq!(piped.success(), "Sent:     [1, 2]\nReceived: [1, 2]\n");
}

#[test]
fn what_a_stranger_sends_stays_two_lines_of_ascii() {
    let (port, server) = answering("[\"\u{202e}\u{7f}\u{9b}\"\n,\r\"\u{1f600}\"]\n\n".as_bytes());
    let finished = send(&["--host", "127.0.0.1", "--port", &port, "x"]).success();
    assert_eq!(server.join().unwrap(), br#"{"command-line arguments":["x"]}"#);
    let received = "Received: [\"\\u202e\\u007f\\u009b\" , \"\\ud83d\\ude00\"]\n";
    assert_eq!(finished, format!("Sent:     {{\"command-line arguments\":[\"x\"]}}\n{received}"));
}

#[test]
fn a_broken_answer_exits_1_and_is_shown() {
    let (port, server) = answering(b"\xffnonsense\x1b[31m");
    let finished = send(&["--host", "127.0.0.1", "--port", &port, "x"]);
    server.join().unwrap();
    assert_eq!(finished.code(), Some(1));
    assert!(finished.out.ends_with("Received: \\xffnonsense\\u001b[31m\n"), "{finished:?}");
    assert!(finished.err.contains(&format!("the answer of 127.0.0.1:{port} is broken: expected value at line 1")));
}

#[test]
fn an_echo_of_what_is_no_json_is_no_broken_answer() {
    let daemon = Daemon::with_settings("[reply]\nprotocol = 'raw'");
    let lines = send(&["--port", &daemon.port().to_string(), "--json", "{nonsense"]).success();
    assert_eq!(lines, "Sent:     {nonsense\nReceived: {nonsense\n");
}

#[test]
fn nobody_and_silence_exit_1_with_nothing_printed() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let finished = send(&["--host", "127.0.0.1", "--port", &port, "-W", "0.05", "x"]);
    let expected = format!("echo-udp: no answer from 127.0.0.1:{port} within 0.05 s; a limit of the server may be");
    assert_eq!((finished.code(), &*finished.out), (Some(1), ""));
    assert!(finished.err.starts_with(&expected), "{finished:?}");
    drop(silent);
    let finished = send(&["--host", "127.0.0.1", "--port", &port, "x"]);
    let expected = format!("echo-udp: nobody listens on 127.0.0.1:{port}");
    assert_eq!((finished.code(), &*finished.out, &*finished.err), (Some(1), "", &*expected));
}

#[test]
fn what_cannot_even_be_sent_exits_2() {
    let long = "x".repeat(70_000);
    for words in [
        &["--host", "no such host.invalid", "x"][..],
        &["--host", "127.0.0.1", "-6", "x"],
        &["--json", "1", "word"],
        &["-W", "0", "x"],
        &["--port", "0", "x"],
        &["--host", "127.0.0.1", &long],
        &[],
    ] {
        let finished = send(words);
        assert_eq!((finished.code(), &*finished.out), (Some(2), ""), "{finished:?}");
        assert!(!finished.err.is_empty());
    }
    let finished = send(&["--host", "127.0.0.1", "-6", "x"]);
    assert_eq!(finished.err, "echo-udp: 127.0.0.1 has no IPv6 address");
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
