//! The package itself: first use, upgrade, removal.

use super::{ALL_SOCKETS, Sockets};
use crate::harness::container::{ANYWHERE, Container, at, releases};
use crate::harness::{connected, retry, wait_for};

#[test]
fn a_new_user_starts_it_asks_it_with_netcat_and_reads_its_journal_and_status() {
    for release in releases() {
        let container = Container::boot(&release);
        let place = container.release;
        // Installed, it waits to be asked for.
        assert_eq!(container.shell("systemctl is-active echo-udpd echo-udpd.socket").out, "inactive\ninactive\n");
        assert_eq!(container.shell("systemctl is-enabled echo-udpd echo-udpd.socket").out, "disabled\ndisabled\n");
        for unit in ["service", "socket"] {
            let found =
                container.shell(&format!("systemd-analyze verify --man=no /usr/lib/systemd/system/echo-udpd.{unit}"));
            assert_eq!((found.code(), &*found.out, &*found.err), (Some(0), "", ""), "{place}: {unit}");
        }
        for sockets in ALL_SOCKETS {
            let place = format!("{place}, {sockets:?}");
            container.start_service(sockets);
            let ask = |packet: &str, host: &str| container.sh(&format!("printf '{packet}\\n' | nc -u -w1 {host} 9000"));
            assert_eq!(ask("{\"a\":1}", "127.0.0.1"), "{\"a\":1}\n", "{place}");
            assert_eq!(ask("{\"a\":2}", "::1"), "{\"a\":2}\n", "{place}");
            let said = container.sh("echo-udp send --host ::1 Hello world!");
            let words = "{\"command-line arguments\":[\"Hello\",\"world!\"]}";
            assert_eq!(said, format!("Sent:     {words}\nReceived: {words}\n"), "{place}");

            let journal = container.journal();
            let first = "listening on [::]:9000 (IPv6 and IPv4), protocol json";
            for line in [first, "127.0.0.1 sent {\"a\":1}", "::1 sent {\"a\":2}"] {
                assert!(journal.lines().any(|logged| logged == line), "{place}: {line} is not in {journal}");
            }
            let from_unit = journal.contains("socket unit");
            assert_eq!(from_unit, sockets != Sockets::Own, "{place}: {journal}");
            assert_eq!(
                container.sh("journalctl -q -o cat PEER_ADDRESS=127.0.0.1"),
                "127.0.0.1 sent {\"a\":1}\n",
                "{place}"
            );
            let fields = container.sh("journalctl -q -o export PEER_ADDRESS=::1 | grep -a =");
            let of_listener = ["LOCAL_ADDRESS=::1", "LOCAL_PORT=9000", "LISTENER_PROTOCOL=json"];
            for field in ["PRIORITY=6", "BYTES=8", "_TRANSPORT=journal"].into_iter().chain(of_listener) {
                assert!(fields.lines().any(|line| line == field), "{place}: {field} is not in {fields}");
            }
            // Its own lines but those of requests are explained.
            let explained = container.sh("journalctl -q -x -u echo-udpd");
            assert!(explained.contains("Subject: Listening\n"), "{place}: {explained}");
            let unexplained = container
                .sh("journalctl -q -o json _COMM=echo-udpd | grep -v PEER_ADDRESS | grep -vc MESSAGE_ID || true");
            assert_eq!(unexplained, "0\n", "{place}");

            let status = wait_for("the status line", || {
                Some(container.sh("systemctl status echo-udpd"))
                    .filter(|status| status.contains("received 3, echoed 3,"))
            });
            assert!(
                status.contains("Status: \"listening on [::]:9000 (IPv6 and IPv4), protocol json; received 3,"),
                "{status}"
            );
            let most = if sockets == Sockets::UnitOnly { 2 } else { 11 };
            container.sh(&format!("systemd-analyze security --no-pager --threshold={most} echo-udpd.service"));
            let resident = container.sh(&format!("grep VmRSS /proc/{}/status", container.main_pid()));
            let resident: u64 = resident.split_whitespace().nth(1).unwrap().parse().unwrap();
            assert!(resident <= 8192, "{place}: {resident} KiB");

            // Stopped for good, the port is closed.
            container.sh("systemctl stop echo-udpd.socket echo-udpd");
            assert_eq!(container.property("Result"), "success", "{place}");
            assert_eq!(container.property("ExecMainStatus"), "0", "{place}");
            let refused = container.inside(|| {
                let socket = connected(at(ANYWHERE));
                socket.send(b"1").unwrap();
                retry(|| socket.recv(&mut [0; 10])).unwrap_err().kind()
            });
            assert_eq!(refused, std::io::ErrorKind::ConnectionRefused, "{place}");
            container.stop_service();
        }
    }
}

#[test]
fn an_upgrade_leaves_the_process_alone_whose_settings_the_new_version_does_not_accept() {
    const OTHER: &str = "/etc/echo-udpd/other.toml";
    for release in releases() {
        let container = Container::boot(&release);
        let place = container.release;
        let upgrade = |package: &str| {
            let upgraded = container.shell(&format!("dpkg -i /packages/{package}.deb"));
            assert_eq!(upgraded.code(), Some(0), "{place}: {upgraded:?}");
            upgraded.err
        };
        container.write(OTHER, "workers = 2");
        container.drop_in("other", &format!("[Service]\nExecStart=\nExecStart=/usr/bin/echo-udpd -c {OTHER}"));
        container.sh("systemctl start echo-udpd");
        let pid = container.main_pid();
        let invalid = format!("printf 'workers = true' > {OTHER}");
        for (fault, package, reason) in [
            (&*invalid, "later", "/etc/echo-udpd/other.toml:1:11: workers: "),
            (&format!("printf 'workers = 1' > {OTHER}; chmod 600 {OTHER}"), "now", "ermission denied"),
        ] {
            container.sh(fault);
            let said = upgrade(package);
            assert!(said.contains(reason) && said.contains("the service was not restarted"), "{place}: {said}");
            assert_eq!(container.main_pid(), pid, "{place}");
            container.is_answered(ANYWHERE, "1");
        }
        // The file that is not read plays no part.
        container.sh(&format!("chmod 644 {OTHER}; printf 'workers = true' > /etc/echo-udpd/echo-udpd.toml"));
        let said = upgrade("later");
        assert!(!said.contains("not restarted"), "{place}: {said}");
        assert_ne!(container.main_pid(), pid, "{place}");
        container.is_answered(ANYWHERE, "1");
    }
}

#[test]
fn dpkg_finds_what_was_changed() {
    for release in releases() {
        let container = Container::boot(&release);
        assert_eq!(container.sh("dpkg --verify echo-udpd"), "", "{}", container.release);
        container.sh("echo >> /usr/lib/systemd/system/echo-udpd.service");
        let found = container.shell("dpkg --verify echo-udpd").out;
        assert_eq!(found, "??5??????   /usr/lib/systemd/system/echo-udpd.service\n", "{}", container.release);
    }
}

#[test]
fn purged_it_leaves_nothing() {
    for release in releases() {
        let container = Container::boot(&release);
        let place = container.release;
        let traces = || {
            container.sh("find / -xdev -name '*echo-ud*' -not -path '/proc/*' -not -path '/packages/*' \
                     -not -path '/var/log/*' | sort")
        };
        assert!(traces().contains("/usr/bin/echo-udpd\n"));
        container.sh("systemctl enable --now echo-udpd.socket; systemctl enable echo-udpd");
        container.is_answered(ANYWHERE, "1");
        container.sh("apt-get purge --yes echo-udpd");
        assert_eq!(traces(), "", "{place}");
        assert_eq!(container.sh("ss -Hlun"), "", "{place}");
        let units = container.sh("systemctl list-units --all --no-legend 'echo-udpd*'
             systemctl list-unit-files --no-legend 'echo-udpd*' || true");
        assert_eq!(units, "", "{place}");
        assert_eq!(container.shell("id echo-udpd; getent passwd echo-udpd").out, "", "{place}");
    }
}
