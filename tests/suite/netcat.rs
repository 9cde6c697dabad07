//! Netcat in its kinds, over IPv4 and IPv6, against one daemon.

use std::process::Command;

use crate::harness::{Daemon, Running, has_ipv6, has_program, need};

/// The line that comes back for a line through a shell command, whose input stays open meanwhile: the newline has come
/// back as well.
fn line_through(command: &str, line: &str) -> String {
    let mut process = Running::with_input(
        Command::new("sh").arg("-c").arg(format!("exec {command}")),
        format!("{line}\n").as_bytes(),
    );
    process.next_output()
}

fn echoes_through(command: impl Fn(&str, u16) -> String) {
    let mut daemon = Daemon::start();
    for host in ["127.0.0.1", "::1"] {
        let reply = line_through(&command(host, daemon.port()), "{\"a\":1}");
        assert_eq!(reply, "{\"a\":1}", "through {host}");
        let line = daemon.wait_for_line(&format!(" {host} sent "));
        assert!(line.ends_with(&format!("{host} sent {{\"a\":1}}")), "{line}");
        assert!(!line.contains("::ffff:"), "{line}");
        daemon.process.forget_lines();
    }
}

#[test]
fn openbsd_netcat_gets_the_same_bytes_newline_included() {
    need!(has_ipv6(), "IPv6 on loopback");
    need!(has_program("nc.openbsd"), "netcat-openbsd");
    echoes_through(|host, port| format!("nc.openbsd -u {host} {port}"));
}

#[test]
fn ncat_gets_the_same_bytes_newline_included() {
    need!(has_ipv6(), "IPv6 on loopback");
    need!(has_program("ncat"), "ncat");
    echoes_through(|host, port| format!("ncat -u {host} {port}"));
}

#[test]
fn socat_gets_the_same_bytes_newline_included() {
    need!(has_ipv6(), "IPv6 on loopback");
    need!(has_program("socat"), "socat");
    echoes_through(|host, port| match host.contains(':') {
        true => format!("socat - UDP6:[{host}]:{port}"),
        false => format!("socat - UDP4:{host}:{port}"),
    });
}

#[test]
fn a_line_that_is_not_json_gets_the_error_reply_as_a_line() {
    need!(has_program("nc.openbsd"), "netcat-openbsd");
    let daemon = Daemon::start();
    let reply = line_through(&format!("nc.openbsd -u 127.0.0.1 {}", daemon.port()), "nonsense");
    assert_eq!(reply, r#"{"error":"Invalid JSON","code":"parse_error"}"#);
}
