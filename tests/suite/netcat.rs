//! Netcat in its kinds, over IPv4 and IPv6, against one daemon.

use std::process::Command;

use crate::harness::{Daemon, Running, has_ipv6, has_program, need};

/// What comes back for this input through a shell command with the address and port in it.
fn through(script: &str, input: &[u8]) -> String {
    let command = &mut Command::new("sh");
    Running::with_input(command.arg("-c").arg(script), input).finish().success()
}

fn echoes_through(script: impl Fn(&str, u16) -> String) {
    let mut daemon = Daemon::start();
    for host in ["127.0.0.1", "::1"] {
        let reply = through(&script(host, daemon.port()), b"{\"a\":1}\n");
        assert_eq!(reply, "{\"a\":1}\n", "through {host}");
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
    echoes_through(|host, port| format!("nc.openbsd -u -w1 {host} {port}"));
}

#[test]
fn ncat_gets_the_same_bytes_newline_included() {
    need!(has_ipv6(), "IPv6 on loopback");
    need!(has_program("ncat"), "ncat");
    // It ends with its input, reply or not.
    echoes_through(|host, port| format!("(cat; sleep 1) | ncat -u {host} {port}"));
}

#[test]
fn socat_gets_the_same_bytes_newline_included() {
    need!(has_ipv6(), "IPv6 on loopback");
    need!(has_program("socat"), "socat");
    echoes_through(|host, port| match host.contains(':') {
        true => format!("socat -t1 - UDP6:[{host}]:{port}"),
        false => format!("socat -t1 - UDP4:{host}:{port}"),
    });
}

#[test]
fn what_is_not_json_gets_the_error_reply_as_a_line_where_it_was_one() {
    need!(has_program("nc.openbsd"), "netcat-openbsd");
    let daemon = Daemon::start();
    let netcat = format!("nc.openbsd -u -w1 127.0.0.1 {}", daemon.port());
    for (request, size) in [("{\"a\":", 45), ("nonsense\n", 46)] {
        let reply = through(&netcat, request.as_bytes());
        assert_eq!(reply, "{\"error\":\"Invalid JSON\",\"code\":\"parse_error\"}\n");
        assert_eq!(through(&format!("{netcat} | wc -c"), request.as_bytes()), format!("{size}\n"));
    }
}
