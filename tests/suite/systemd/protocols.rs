//! Several protocols: by the names of socket units, and of the service's own sockets over a restart.

use echo_udpd::message_id;

use crate::harness::container::{ANYWHERE, Container, at, releases};
use crate::harness::{ask, connected, wait_for};

const NOT_JSON: &str = "any bytes";
const ERROR_REPLY: &str = "{\"error\":\"Invalid JSON\",\"code\":\"parse_error\"}";
const FILE: &str = "/etc/echo-udpd/echo-udpd.toml";

/// A second socket unit, on port 7.
const RAW_SOCKET: &str = "[Socket]
ListenDatagram=7
BindIPv6Only=both
Service=echo-udpd.service
FileDescriptorName=raw";

const MAY_BIND_PORT_7: &str = "[Service]
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
PrivateUsers=no";

/// What `listen` says of the two ports.
fn listen(container: &Container, [on_9000, on_7]: [&str; 2], more: &str) {
    let table = |port: u16, protocol: &str| format!("{{ address = \"[::]:{port}\", protocol = \"{protocol}\" }}");
    container.write(FILE, &format!("{more}\nlisten = [{}, {}]", table(9000, on_9000), table(7, on_7)));
}

/// Both ports reply by these protocols, over IPv6 and IPv4.
fn assert_protocols(container: &Container, protocols: [&str; 2]) {
    for (port, protocol) in [9000, 7].into_iter().zip(protocols) {
        for host in ["127.0.0.1", "[::1]"] {
            let reply = container.reply_to(&format!("{host}:{port}"), NOT_JSON);
            let expected = if protocol == "raw" { NOT_JSON } else { ERROR_REPLY };
            assert_eq!(reply, expected, "{}: {host}, port {port}", container.release);
        }
    }
}

fn ignored(container: &Container) -> String {
    container.sh(&format!("journalctl -q -o cat MESSAGE_ID={}", message_id::LISTEN_IGNORED))
}

#[test]
fn two_socket_units_say_their_protocols_by_their_names() {
    for release in releases() {
        let container = Container::boot(&release);
        let place = container.release;
        let start = "systemctl start echo-udpd.socket echo-udpd-raw.socket";
        container.write("/etc/systemd/system/echo-udpd-raw.socket", RAW_SOCKET);
        listen(&container, ["json", "raw"], "");
        container.sh(&format!("systemctl daemon-reload; {start}"));
        assert_protocols(&container, ["json", "raw"]);
        assert_eq!(ignored(&container), "", "{place}");
        // The file is the one that is wrong.
        listen(&container, ["json", "json"], "");
        container.sh("systemctl restart echo-udpd");
        assert_protocols(&container, ["json", "raw"]);
        let expected = "ignoring the protocol of [::]:7 in `listen` (json): the socket unit's is raw; change \
                        FileDescriptorName= there\n";
        assert_eq!(ignored(&container), expected, "{place}");
        // A name of the daemon's own sockets, and a second protocol on the first unit's port.
        for (unit, refusal) in [
            (RAW_SOCKET.replace("=raw", "=kept-7"), "FileDescriptorName=kept-7 of a socket unit is reserved"),
            (RAW_SOCKET.replace("=7", "=9000\nReusePort=yes"), "the socket units pass [::]:9000 as "),
        ] {
            container.sh("systemctl stop echo-udpd.socket echo-udpd-raw.socket echo-udpd");
            container.write("/etc/systemd/system/echo-udpd-raw.socket", &unit);
            container.sh(&format!("systemctl daemon-reload; {start}"));
            container.inside(|| connected(at(ANYWHERE)).send(b"1")).unwrap();
            container.wait_for_line(refusal);
            container.sh("systemctl stop echo-udpd.socket echo-udpd-raw.socket echo-udpd");
            assert_eq!(container.property("ExecMainStatus"), "78", "{place}");
        }
    }
}

#[test]
fn kept_sockets_have_the_protocols_of_the_file_after_a_restart_and_not_before() {
    for release in releases() {
        let container = Container::boot(&release);
        let place = container.release;
        container.drop_in("port", MAY_BIND_PORT_7);
        listen(&container, ["json", "raw"], "workers = 3");
        container.sh("systemctl start echo-udpd");
        assert_protocols(&container, ["json", "raw"]);
        container.sh("systemctl restart echo-udpd");
        assert_protocols(&container, ["json", "raw"]);
        container.wait_for_line("restored 6 sockets from the previous run");

        listen(&container, ["raw", "json"], "workers = 3");
        container.sh("systemctl reload echo-udpd");
        container.wait_for_line("these settings changed and need a restart to take effect: listen");
        assert_protocols(&container, ["json", "raw"]);
        container.sh("journalctl --quiet --rotate --vacuum-time=1us; systemctl restart echo-udpd");
        container.wait_for_line("restored 6 sockets from the previous run");
        // From many ports, so that each worker gets some.
        container.inside(|| {
            for _ in 0..60 {
                assert_eq!(ask(&connected(at("127.0.0.1:9000")), NOT_JSON.as_bytes()), NOT_JSON.as_bytes());
                assert_eq!(ask(&connected(at("[::1]:7")), b"1"), b"1");
            }
            assert_eq!(ask(&connected(at("[::1]:7")), NOT_JSON.as_bytes()), ERROR_REPLY.as_bytes());
        });
        // Each turn is counted when its replies are out.
        wait_for("the sum", || {
            let sum = container.counters();
            (["received", "echoed", "error_replies"].map(|name| sum.of(name)) == [121, 120, 1]).then_some(())
        });
        container
            .wait_for_line("counters of [::]:9000, protocol raw: received=60 handled=60 echoed=60 error_replies=0 ");
        container.wait_for_line("counters of [::]:7, protocol json: received=61 handled=61 echoed=60 error_replies=1 ");
        assert_eq!(container.property("NFileDescriptorStore"), "6", "{place}");
    }
}
