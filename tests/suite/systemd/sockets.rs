//! Where the service listens: ports and workers that change, addresses that come later, the socket unit beside it.

use echo_udpd::message_id;

use super::Sockets;
use crate::harness::container::{ANYWHERE, Container, releases};
use crate::harness::flood::{Flood, Hosts, Sources};

/// As the file itself says.
const APPLY_SYSCTLS: &str =
    "install -D -m 644 /usr/share/doc/echo-udpd/examples/sysctl.conf /etc/sysctl.d/echo-udpd.conf
    systemctl restart systemd-sysctl";

#[test]
fn port_and_workers_change_with_a_restart_and_the_old_port_is_closed() {
    for release in releases() {
        let container = Container::boot(&release);
        container.sh("systemctl start echo-udpd");
        container.is_answered("127.0.0.1:9000", "1");
        for (port, workers) in [(9001, 2), (9002, 1), (9002, 3), (9002, 1)] {
            let place = format!("{}, port {port}, {workers} workers", container.release);
            container.write(
                "/etc/echo-udpd/echo-udpd.toml",
                &format!("workers = {workers}\nlisten = [\"[::]:{port}\", \"127.0.0.1:9100\"]"),
            );
            container.sh("systemctl restart echo-udpd");
            for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}"), "127.0.0.1:9100".into()] {
                container.is_answered(&address, "2");
            }
            let threads = container.sh(&format!("cat /proc/{}/task/*/comm", container.main_pid()));
            assert_eq!(threads.matches("worker-").count(), workers, "{place}: {threads}");
            let open = container.sh("ss -Hlun | grep -o ':9[0-9]* ' | sort -u");
            assert_eq!(open, format!(":{port} \n:9100 \n"), "{place}");
            let kept: usize = container.property("NFileDescriptorStore").parse().unwrap();
            assert!((2..=6).contains(&kept), "{place}: {kept} sockets kept");
        }
        // The same port by other addresses: the sockets of before are in the way until systemd has closed them.
        for (listen, host) in [
            ("127.0.0.1:9002", "127.0.0.1"),
            ("[::1]:9002", "[::1]"),
            ("0.0.0.0:9002", "127.0.0.1"),
            ("[::]:9002", "[::1]"),
        ] {
            container.write("/etc/echo-udpd/echo-udpd.toml", &format!("workers = 2\nlisten = [\"{listen}\"]"));
            container.sh("systemctl restart echo-udpd");
            container.is_answered(&format!("{host}:9002"), "3");
        }
        assert_eq!(container.property("NRestarts"), "0", "{}", container.journal());
        container.sh("systemctl stop echo-udpd");
        assert_eq!(container.sh("ss -Hlun"), "", "{}", container.release);
    }
}

#[test]
fn an_address_that_appears_after_the_start_is_answered_then() {
    for release in releases() {
        let container = Container::boot(&release);
        container.write("/etc/echo-udpd/echo-udpd.toml", "listen = [\"192.0.2.7:9000\", \"[2001:db8::7]:9000\"]");
        container.sh("systemctl start echo-udpd");
        container.wait_for_line("listening on [2001:db8::7]:9000 (IPv6)");
        container.sh("ip address add 192.0.2.7/32 dev lo; ip address add 2001:db8::7/128 dev lo nodad");
        container.is_answered("192.0.2.7:9000", "1");
        container.is_answered("[2001:db8::7]:9000", "2");
    }
}

#[test]
fn a_port_below_1024_needs_a_capability_or_the_socket_unit() {
    for release in releases() {
        let container = Container::boot(&release);
        let place = container.release;
        container.write("/etc/echo-udpd/echo-udpd.toml", "listen = [\"[::]:7\"]\n[reply]\nprotocol = \"raw\"");
        let refused = container.shell("systemctl start echo-udpd");
        assert_ne!(refused.code(), Some(0), "{place}");
        container.wait_for_line("bind [::]:7: permission denied; a port below 1024 needs the capability");
        container.stop_service();

        let elsewhere = "mkdir -p /etc/systemd/system/echo-udpd.socket.d
            printf '[Socket]\\nListenDatagram=\\nListenDatagram=7\\n' > /etc/systemd/system/echo-udpd.socket.d/port.conf
            systemctl daemon-reload";
        container.sh(elsewhere);
        container.start_service(Sockets::UnitOnly);
        container.is_answered("[::1]:7", "any bytes");
        // The file and the unit say the same.
        let ignored = container.sh(&format!("journalctl -q -o cat MESSAGE_ID={}", message_id::LISTEN_IGNORED));
        assert_eq!(ignored, "", "{place}");
    }
}

#[test]
fn the_socket_unit_takes_the_service_along_and_not_the_other_way_round() {
    for release in releases() {
        let container = Container::boot(&release);
        let place = container.release;
        let states = || container.shell("systemctl is-active echo-udpd.service echo-udpd.socket").out;
        // With its own sockets the service has nothing to do with the socket unit, until that is told to stop or start.
        container.sh("systemctl start echo-udpd");
        assert_eq!(states(), "active\ninactive\n", "{place}");
        container.sh("systemctl restart echo-udpd");
        assert_eq!(states(), "active\ninactive\n", "{place}");
        assert_ne!(container.shell("systemctl start echo-udpd.socket").code(), Some(0), "{place}");
        container.is_answered(ANYWHERE, "1");
        container.sh("systemctl stop echo-udpd.socket");
        assert_eq!(states(), "inactive\ninactive\n", "{place}");

        container.start_service(Sockets::Unit);
        container.is_answered(ANYWHERE, "1");
        let since = || container.sh("systemctl show -P ActiveEnterTimestampMonotonic echo-udpd.socket");
        let (before, pid) = (since(), container.main_pid());
        container.sh("systemctl restart echo-udpd");
        assert_eq!(since(), before, "{place}: the service's restart is its own");
        assert_ne!(container.main_pid(), pid, "{place}");
        // Restarted often, it does not reach a limit of starts, which would close the port.
        container.sh("for i in 1 2 3 4 5 6 7 8; do systemctl restart echo-udpd.socket; done");
        container.is_answered(ANYWHERE, "2");
        container.sh("systemctl disable --now echo-udpd.socket");
        assert_eq!(states(), "inactive\ninactive\n", "{place}");
        assert_eq!(container.sh("ss -Hlun"), "", "{place}");
    }
}

#[test]
fn the_socket_unit_has_its_buffers_whatever_the_host_s_limits() {
    for release in releases() {
        let container = Container::boot(&release);
        container.start_service(Sockets::Unit);
        container.is_answered(ANYWHERE, "1");
        // The kernel counts twice what is asked for.
        let memory = container.sh("ss -Hlunm");
        let eight_mebibytes = 2 * 8 * 1024 * 1024;
        for buffer in ["rb", "tb"] {
            assert!(memory.contains(&format!(",{buffer}{eight_mebibytes},")), "{}: {memory}", container.release);
        }
    }
}

#[test]
fn a_subnet_of_forged_neighbours_silences_nobody_behind_the_socket_unit() {
    for release in releases() {
        let container = Container::boot(&release);
        let hosts = Hosts::around(container.network());
        container.sh(APPLY_SYSCTLS);
        container.sh("systemctl enable --now echo-udpd.socket");
        container.is_answered(ANYWHERE, "1");
        for per_second in [6000, 12_000] {
            let flood = Flood { per_second, bytes: 1200, sources: Sources::Ipv4Subnet };
            let before = container.counters();
            let sent = flood.is_withstood(&hosts, 9000);
            let grown = container.counters().since(&before);
            assert!(grown["handled"] > u64::from(sent) / 2, "{}: of {sent}: {grown:?}", container.release);
        }
    }
}

#[test]
fn the_sysctl_file_bounds_what_waits_for_a_neighbour_on_each_interface() {
    for release in releases() {
        let container = Container::boot(&release);
        let of = |interface: &str| {
            container.sh(&format!("cat /proc/sys/net/ipv[46]/neigh/{interface}/unres_qlen_bytes")).replace('\n', " ")
        };
        container.sh("ip link add there0 type veth peer name there1");
        assert_eq!(of("there0"), "212992 212992 ", "the kernel's default");
        container.sh(APPLY_SYSCTLS);
        assert_eq!((of("lo"), of("there0")), ("8192 8192 ".into(), "8192 8192 ".into()), "{}", container.release);
        // What udev runs for a new interface where the namespace has no `default` (99-systemd.rules).
        container.sh("ip link add later0 type veth peer name later1
             /usr/lib/systemd/systemd-sysctl --prefix=/net/ipv4/neigh/later0 --prefix=/net/ipv6/neigh/later0");
        assert_eq!(of("later0"), "8192 8192 ", "{}", container.release);
    }
}
