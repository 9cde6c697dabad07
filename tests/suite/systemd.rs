//! The package on a booted systemd, in containers of Debian 12 and 13: each proof with the service's own sockets, with
//! those of the socket unit, and without a network of its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::harness::container::{Container, releases};
use crate::harness::load::{Outcome, load};
use crate::harness::{ask, connected, is_silent, receive, wait_for};

/// Whose sockets the service answers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sockets {
    /// Its own, which the service manager keeps over a restart.
    Own,
    /// Those of the socket unit.
    Unit,
    /// The same, and the service has no network.
    UnitOnly,
}

const ALL_SOCKETS: [Sockets; 3] = [Sockets::Own, Sockets::Unit, Sockets::UnitOnly];

/// Lets the service have the receive buffer that it asks for, on whatever host this is.
const BUFFER_GRANTED: &str =
    "[Service]\nAmbientCapabilities=CAP_NET_ADMIN\nCapabilityBoundingSet=CAP_NET_ADMIN\nPrivateUsers=no";

const ANYWHERE: &str = "[::1]:9000";

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

impl Container {
    fn start_service(&self, sockets: Sockets) {
        match sockets {
            Sockets::Own => self.sh("systemctl start echo-udpd"),
            Sockets::Unit => self.sh("systemctl start echo-udpd.socket"),
            Sockets::UnitOnly => self.sh(
                "install -D /usr/share/doc/echo-udpd/examples/socket-only.conf -t /etc/systemd/system/echo-udpd.service.d
                 systemctl daemon-reload; systemctl start echo-udpd.socket",
            ),
        };
    }

    fn stop_service(&self) {
        self.sh("systemctl stop echo-udpd.socket echo-udpd.service; rm -rf /etc/systemd/system/echo-udpd.service.d
                 systemctl daemon-reload; journalctl --quiet --rotate --vacuum-time=1us");
    }

    /// Asks once, until there is an answer.
    fn is_answered(&self, address: &str, datagram: &str) {
        let reply = self.inside(|| {
            let socket = connected(at(address));
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let mut buffer = [0; 1000];
            wait_for("an answer", || {
                // Refused while nobody listens.
                let _ = socket.send(datagram.as_bytes());
                socket.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
            })
        });
        assert_eq!(reply, datagram, "{}", self.release);
    }

    /// A steady load on the service, while a script runs in the container.
    fn load(&self, rate: u32, count: usize, script: &str) -> Outcome {
        self.inside(|| load(at(ANYWHERE), rate, count, |_| drop(self.sh(script))))
    }

    fn main_pid(&self) -> u32 {
        self.property("MainPID").parse().unwrap()
    }
}

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
            for line in ["listening on [::]:9000 (IPv6 and IPv4)", "127.0.0.1 sent {\"a\":1}", "::1 sent {\"a\":2}"] {
                assert!(journal.lines().any(|logged| logged == line), "{place}: {line} is not in {journal}");
            }
            let from_unit = journal.contains("using 1 socket passed by a socket unit");
            assert_eq!(from_unit, sockets != Sockets::Own, "{place}: {journal}");
            assert_eq!(
                container.sh("journalctl -q -o cat PEER_ADDRESS=127.0.0.1"),
                "127.0.0.1 sent {\"a\":1}\n",
                "{place}"
            );
            let fields = container.sh("journalctl -q -o export PEER_ADDRESS=::1 | grep -a =");
            for field in ["PRIORITY=6", "BYTES=8", "LOCAL_ADDRESS=::1", "LOCAL_PORT=9000", "_TRANSPORT=journal"] {
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
            assert!(status.contains("Status: \"listening on [::]:9000 (IPv6 and IPv4); received 3,"), "{status}");
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
                socket.recv(&mut [0; 10]).unwrap_err().kind()
            });
            assert_eq!(refused, std::io::ErrorKind::ConnectionRefused, "{place}");
            container.stop_service();
        }
    }
}

#[test]
fn a_reload_loses_nothing_and_a_bad_one_changes_nothing() {
    const FILE: &str = "/etc/echo-udpd/echo-udpd.toml";
    const BAD: &str = "[reply]\ninvalid-json = \"maybe\"";
    for release in releases() {
        let container = Container::boot(&release);
        for sockets in ALL_SOCKETS {
            let place = format!("{}, {sockets:?}", container.release);
            container.sh(&format!("echo > {FILE}"));
            container.start_service(sockets);
            container.is_answered(ANYWHERE, "1");
            let under_load = container.load(1000, 5000, &format!(
                "printf '[reply]\\ninvalid-json = \"ignore\"\\n' > {FILE}; for i in 1 2 3; do systemctl reload echo-udpd; done"
            ));
            assert_eq!((under_load.lost, under_load.sent), (0, 5000), "{place}: {}", container.journal());
            container.wait_for_line("settings reloaded");
            // The status line tells of the present rate.
            container.load(
                500,
                500,
                "until systemctl show -P StatusText echo-udpd | grep '; received [0-9]* ([4-6][0-9][0-9]/s), echoed'
                do sleep 0.2; done",
            );
            let not_answered = || {
                container.inside(|| {
                    let socket = connected(at(ANYWHERE));
                    socket.send(b"nonsense").unwrap();
                    assert_eq!(ask(&socket, b"2"), b"2");
                    is_silent(&socket)
                })
            };
            assert!(not_answered(), "{place}: the new setting is in force");

            container.write(FILE, BAD);
            let failed = container.shell("systemctl reload echo-udpd");
            assert_ne!(failed.code(), Some(0), "{place}");
            let status = wait_for("the status of a failed reload", || {
                Some(container.property("StatusText")).filter(|status| status.contains("reload failed"))
            });
            assert!(status.contains(&format!("reload failed: {FILE}:2:16: reply.invalid-json")), "{place}: {status}");
            assert!(not_answered(), "{place}: the old settings stay");
            container.sh(&format!("echo > {FILE}; systemctl reload echo-udpd"));
            wait_for("the status of a good reload", || {
                Some(container.property("StatusText")).filter(|status| !status.contains("reload failed"))
            });
            container.stop_service();
        }
    }
}

#[test]
fn systemd_itself_may_reload_it_with_notify_reload() {
    // On 252 the type does not exist.
    for release in releases().into_iter().filter(|release| release.name != "bookworm") {
        let container = Container::boot(&release);
        container.drop_in("notify", "[Service]\nType=notify-reload\nExecReload=");
        container.sh("systemctl start echo-udpd");
        container.write("/etc/echo-udpd/echo-udpd.toml", "[log]\nlevel = \"debug\"");
        container.sh("systemctl reload echo-udpd");
        container.wait_for_line("settings reloaded");
        assert_eq!(container.property("ActiveState"), "active");
        // It returns once the daemon has judged the file.
        container.write("/etc/echo-udpd/echo-udpd.toml", "workers = true");
        container.sh("systemctl reload echo-udpd");
        assert!(container.property("StatusText").contains("reload failed"));
        container.is_answered(ANYWHERE, "1");
    }
}

#[test]
fn restart_upgrade_and_crash_lose_nothing_but_a_batch() {
    for release in releases() {
        let container = Container::boot(&release);
        for sockets in ALL_SOCKETS {
            let place = format!("{}, {sockets:?}", container.release);
            if sockets == Sockets::Own {
                container.drop_in("buffer", BUFFER_GRANTED);
            }
            container.start_service(sockets);
            container.is_answered(ANYWHERE, "1");
            assert!(
                container.journal().contains("receive buffer of [::]:9000: 8388608 bytes"),
                "{}",
                container.journal()
            );
            let nothing_lost = |rate, count, script: &str| {
                let pid = container.main_pid();
                let outcome = container.load(rate, count, script);
                assert_eq!(outcome.lost, 0, "{place}: {script} at {rate}/s: {}", container.journal());
                assert_ne!(container.main_pid(), pid, "{place}: {script}");
            };
            nothing_lost(1000, 4000, "systemctl restart echo-udpd");
            nothing_lost(5000, 10000, "systemctl restart echo-udpd");
            nothing_lost(1000, 4000, "dpkg -i /packages/later.deb");
            container.sh("dpkg -i /packages/now.deb");
            let restarts: u32 = container.property("NRestarts").parse().unwrap();
            let crash = container.load(1000, 4000, "kill -KILL $(systemctl show -P MainPID echo-udpd)");
            assert!(crash.lost <= 64, "{place}: {crash:?}");
            assert_eq!(container.property("NRestarts"), (restarts + 1).to_string(), "{place}");
            if sockets == Sockets::Own {
                container.wait_for_line("restored 1 socket from the previous run, including queued datagrams");
            }
            container.stop_service();
        }
    }
}

#[test]
fn a_service_that_stands_still_is_killed_and_answers_again() {
    for release in releases() {
        let container = Container::boot(&release);
        for sockets in ALL_SOCKETS {
            let place = format!("{}, {sockets:?}", container.release);
            container.start_service(sockets);
            container.drop_in("watchdog", "[Service]\nWatchdogSec=2");
            container.sh("systemctl restart echo-udpd");
            container.is_answered(ANYWHERE, "1");
            // Answering, it is left alone.
            let quiet = container.load(100, 250, "true");
            assert_eq!((quiet.lost, &*container.property("NRestarts")), (0, "0"), "{place}");
            let stopped = container.load(
                100,
                100,
                "kill -STOP $(systemctl show -P MainPID echo-udpd)
                while [ $(systemctl show -P NRestarts echo-udpd) = 0 ]; do sleep 0.1; done",
            );
            assert!(stopped.lost <= 64, "{place}: {stopped:?}");
            container.is_answered(ANYWHERE, "2");
            assert_eq!(container.property("NRestarts"), "1", "{place}");
            container.stop_service();
        }
    }
}

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
fn a_bad_file_does_not_close_the_socket_unit_and_is_served_once_it_is_mended() {
    for release in releases() {
        let container = Container::boot(&release);
        for sockets in [Sockets::Unit, Sockets::UnitOnly] {
            let place = format!("{}, {sockets:?}", container.release);
            container.write("/etc/echo-udpd/echo-udpd.toml", "workers = true");
            container.start_service(sockets);
            let waiting = container.inside(|| connected(at("127.0.0.1:9000")));
            waiting.send(b"[\"waited\"]").unwrap();
            let starts = || -> Vec<f64> {
                let lines =
                    container.sh("journalctl -q -o short-monotonic -u echo-udpd | grep -a 'systemd.*: Starting'");
                lines.lines().map(|line| line[1..].split(']').next().unwrap().trim().parse().unwrap()).collect()
            };
            let times = wait_for("starts for eleven seconds", || {
                let times = starts();
                (times.last()? - times.first()? > 11.0).then_some(times)
            });
            for start in &times {
                let within = times.iter().filter(|&time| (*start..start + 10.0).contains(time)).count();
                assert!(within <= 5, "{place}: {times:?}");
            }
            // Both are gone while it is started again.
            wait_for("the status of a failed start", || {
                let told =
                    container.property("StatusText").starts_with("/etc/echo-udpd/echo-udpd.toml:1:11: workers: ");
                (told && container.property("StatusErrno") == libc::EINVAL.to_string()).then_some(())
            });
            let failed = container.sh("journalctl -q -o cat -p err _COMM=echo-udpd");
            assert!(failed.starts_with("/etc/echo-udpd/echo-udpd.toml:1:11: workers: "), "{place}: {failed}");
            container.write("/etc/echo-udpd/echo-udpd.toml", "workers = 1");
            let answered = receive(&waiting);
            assert_eq!(answered, b"[\"waited\"]", "{place}");
            container.stop_service();
        }
    }
}

#[test]
fn a_journald_that_stands_still_delays_no_echo_and_hears_later_what_was_lost() {
    for release in releases() {
        let container = Container::boot(&release);
        for sockets in ALL_SOCKETS {
            let place = format!("{}, {sockets:?}", container.release);
            container.write("/etc/echo-udpd/echo-udpd.toml", "[log]\nrequests-per-second = 0");
            container.start_service(sockets);
            container.is_answered(ANYWHERE, "1");
            let journald = container.sh("systemctl show -P MainPID systemd-journald");
            let outcome = container.inside(|| {
                load(at(ANYWHERE), 2000, 4000, |answered| {
                    container.sh(&format!("kill -STOP {journald}"));
                    // For five seconds. An echo that waited for journald would wait until it goes on.
                    answered.wait_for_more(10_000);
                    container.sh(&format!("kill -CONT {journald}"));
                })
            });
            assert_eq!(outcome.lost, 0, "{place}");
            let line = container.wait_for_line("log lines were dropped: journald did not keep up");
            let lost: u64 = line.split(' ').next().unwrap().parse().unwrap();
            assert!(lost > 1000, "{place}: {line}");
            let explained = container.sh("journalctl -q -x -u echo-udpd | grep -a 'dropped: ' | head -n 1");
            assert!(explained.contains("of them"), "{place}: {explained}");
            wait_for("the count in the status line", || {
                container.property("StatusText").contains("log lines dropped ").then_some(())
            });
            assert!(!container.property("StatusText").contains("log lines dropped 0"), "{place}");
            container.stop_service();
        }
    }
}

#[test]
fn purged_it_leaves_nothing() {
    for release in releases() {
        let container = Container::boot(&release);
        let place = container.release;
        let traces = || {
            container.sh("find / -xdev -name '*echo-ud*' -not -path '/proc/*' -not -path '/packages/*' -not -path '/var/log/*' | sort")
        };
        assert!(traces().contains("/usr/bin/echo-udpd\n"));
        container.sh("systemctl enable --now echo-udpd.socket; systemctl enable echo-udpd");
        container.is_answered(ANYWHERE, "1");
        container.sh("apt-get purge --yes echo-udpd");
        assert_eq!(traces(), "", "{place}");
        assert_eq!(container.sh("ss -Hlun"), "", "{place}");
        let units = container.sh("systemctl list-units --all --no-legend 'echo-udpd*'; systemctl list-unit-files --no-legend 'echo-udpd*' || true");
        assert_eq!(units, "", "{place}");
        assert_eq!(container.shell("id echo-udpd; getent passwd echo-udpd").out, "", "{place}");
    }
}

#[test]
fn at_rest_it_wakes_for_the_tick_and_the_watchdog_alone() {
    for release in releases() {
        let container = Container::boot(&release);
        container.sh("systemctl start echo-udpd");
        container.is_answered(ANYWHERE, "1");
        let pid = container.main_pid();
        // The status line comes to rest within two ticks.
        let wakes = || -> u64 {
            let switches = container.sh(&format!("cat /proc/{pid}/task/*/status | grep ^voluntary"));
            switches.lines().map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum()
        };
        std::thread::sleep(Duration::from_secs(3));
        let (before, begun) = (wakes(), Instant::now());
        std::thread::sleep(Duration::from_secs(10));
        let (after, elapsed) = (wakes(), begun.elapsed().as_secs());
        // Each watchdog beat wakes the control thread, the one that notifies and, for its proof, the worker.
        let most = elapsed + 3 * (elapsed / 5 + 1) + 1;
        assert!(after - before <= most, "{}: {} wake-ups in {elapsed} s", container.release, after - before);
    }
}

#[test]
fn the_port_of_rfc_862_takes_the_three_lines_that_the_unit_shows_or_the_socket_unit() {
    for release in releases() {
        let container = Container::boot(&release);
        let place = container.release;
        let unit = container.sh("cat /usr/lib/systemd/system/echo-udpd.service");
        let lines: Vec<_> =
            unit.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| line.contains('=')).collect();
        let lines: Vec<_> = lines.into_iter().filter(|line| !line.starts_with(' ')).collect();
        assert_eq!(lines.len(), 3, "{place}: {lines:?}");
        container.write("/etc/echo-udpd/echo-udpd.toml", "listen = [\"[::]:7\"]\n[reply]\nprotocol = \"raw\"");
        let refused = container.shell("systemctl start echo-udpd");
        assert_ne!(refused.code(), Some(0), "{place}");
        container.wait_for_line("bind [::]:7: permission denied; a port below 1024 needs the capability");
        container.drop_in("port", &format!("[Service]\n{}", lines.join("\n")));
        container.sh("systemctl restart echo-udpd");
        container.is_answered("127.0.0.1:7", "\\x00any bytes");
        container.stop_service();

        let elsewhere = "mkdir -p /etc/systemd/system/echo-udpd.socket.d
            printf '[Socket]\\nListenDatagram=\\nListenDatagram=7\\n' > /etc/systemd/system/echo-udpd.socket.d/port.conf
            systemctl daemon-reload";
        container.sh(elsewhere);
        container.start_service(Sockets::UnitOnly);
        container.is_answered("[::1]:7", "any bytes");
        assert!(!container.journal().contains("ignoring `listen`"), "{place}: {}", container.journal());
    }
}
