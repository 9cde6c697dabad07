//! What a reload, a restart, an upgrade, a crash and a stuck journald cost: no datagram, or the batch in hand.

use super::{ALL_SOCKETS, Sockets};
use crate::harness::container::{ANYWHERE, Container, at, releases};
use crate::harness::load::load;
use crate::harness::{ask, connected, is_silent, wait_for};

/// Lets the service have the receive buffer that it asks for, on whatever host this is.
const BUFFER_GRANTED: &str =
    "[Service]\nAmbientCapabilities=CAP_NET_ADMIN\nCapabilityBoundingSet=CAP_NET_ADMIN\nPrivateUsers=no";

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
            let under_load = container.load(
                1000,
                5000,
                &format!(
                    "printf '[reply]\\ninvalid-json = \"ignore\"\\n' > {FILE}
                for i in 1 2 3; do systemctl reload echo-udpd; done"
                ),
            );
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
            container.wait_for_line("receive buffer of [::]:9000: 8388608 bytes");
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
                container.wait_for_line("1 socket ");
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
            let line = container.wait_for_line(": journald did not keep up");
            let lost: u64 = line.split(' ').nth(1).unwrap().parse().unwrap();
            assert!(lost > 1000, "{place}: {line}");
            let explained = container.sh("journalctl -q -x -u echo-udpd | grep -a ' lines did not fit' | head -n 1");
            assert!(explained.contains(&format!(" {lost} lines did not fit")), "{place}: {explained}");
            wait_for("the count in the status line", || {
                let status = container.property("StatusText");
                let (_, count) = status.rsplit_once("log lines ")?;
                (!count.ends_with(" 0")).then_some(())
            });
            container.stop_service();
        }
    }
}
