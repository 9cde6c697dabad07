//! Starts that fail, starts that are large, and what the service costs once it has started.

use std::time::{Duration, Instant};

use super::Sockets;
use crate::harness::container::{ANYWHERE, Container, at, releases};
use crate::harness::{connected, receive, wait_for};

const FILE: &str = "/etc/echo-udpd/echo-udpd.toml";

impl Container {
    /// Watches six seconds of starts that fail: systemd tries again, but not as fast as it can.
    fn is_started_every_two_seconds(&self, place: &str) {
        let starts = || -> Vec<f64> {
            let lines =
                self.sh("journalctl -q -o short-monotonic -u echo-udpd | grep -a 'systemd.*: Starting' || true");
            lines.lines().map(|line| line[1..].split(']').next().unwrap().trim().parse().unwrap()).collect()
        };
        let times = wait_for("starts for six seconds", || {
            let times = starts();
            (times.last()? - times.first()? > 6.0).then_some(times)
        });
        for time in &times {
            let within = times.iter().filter(|other| (*time..time + 5.0).contains(other)).count();
            assert!(within <= 3, "{place}: {times:?}");
        }
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
            container.is_started_every_two_seconds(&place);
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
fn a_program_that_cannot_be_executed_is_tried_every_two_seconds_until_it_can() {
    for release in releases() {
        let container = Container::boot(&release);
        for sockets in [Sockets::Own, Sockets::Unit] {
            let place = format!("{}, {sockets:?}", container.release);
            container.start_service(sockets);
            container.is_answered(ANYWHERE, "1");
            container.sh("journalctl --quiet --rotate --vacuum-time=1us; chmod a-x /usr/bin/echo-udpd");
            container.sh("systemctl kill -s KILL echo-udpd");
            let waiting = container.inside(|| connected(at("127.0.0.1:9000")));
            waiting.send(b"[\"waited\"]").unwrap();
            container.is_started_every_two_seconds(&place);
            container.sh("chmod a+x /usr/bin/echo-udpd");
            assert_eq!(receive(&waiting), b"[\"waited\"]", "{place}");
            container.stop_service();
        }
    }
}

#[test]
fn two_hundred_listeners_start_and_a_long_reason_ends_a_reload() {
    for release in releases() {
        let container = Container::boot(&release);
        let place = container.release;
        let listen: Vec<_> = (9000..9200).map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        let listen = format!("listen = [{}]", listen.join(", "));
        container.write(FILE, &listen);
        container.sh("timeout 20 systemctl start echo-udpd");
        for address in ["127.0.0.1:9000", "127.0.0.1:9199"] {
            container.is_answered(address, "1");
        }
        container.write(FILE, &format!("{listen}\n[log]\nlevel = \"{}\"", "loud".repeat(2000)));
        assert_ne!(container.shell("systemctl reload echo-udpd").code(), Some(0), "{place}");
        wait_for("the end of the reload", || {
            let failed = container.property("StatusText").contains("reload failed");
            (failed && container.property("ActiveState") == "active").then_some(())
        });
        container.is_answered("127.0.0.1:9199", "2");
    }
}

#[test]
fn all_workers_on_three_addresses_start_and_their_sockets_are_kept() {
    for release in releases() {
        let container = Container::boot(&release);
        let listen = "workers = 256\nlisten = [\"[::]:9000\", \"127.0.0.1:9001\", \"127.0.0.1:9002\"]";
        container.write(FILE, listen);
        for kept in ["768", "768"] {
            container.sh("systemctl restart echo-udpd");
            for address in [ANYWHERE, "127.0.0.1:9001", "127.0.0.1:9002"] {
                container.is_answered(address, "1");
            }
            assert_eq!(container.property("NFileDescriptorStore"), kept, "{}", container.release);
        }
        container.wait_for_line("768 sockets ");
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
