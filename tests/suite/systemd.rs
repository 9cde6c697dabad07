//! The unit on a booted systemd, in containers of Debian 12 and 13.
//!
//! `ECHO_UDPD_ROOTS` names a folder with the root folders `bookworm` and `trixie`, made by mmdebstrap; they are not
//! written to.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{has_program, is_root, run, skipped, temporary_folder};

/// Root folders that can be booted here. The test is skipped where there are none.
fn roots() -> Vec<PathBuf> {
    let folder = std::env::var_os("ECHO_UDPD_ROOTS").map(PathBuf::from).unwrap_or_default();
    let roots = ["bookworm", "trixie"].map(|release| folder.join(release));
    if is_root()
        && has_program("systemd-nspawn")
        && roots.iter().all(|root| root.join("usr/lib/systemd/systemd").exists())
    {
        return roots.into();
    }
    skipped("root, systemd-nspawn, and ECHO_UDPD_ROOTS with root folders to boot");
    Vec::new()
}

/// What a script in a container left in its `/results`.
struct Results(PathBuf);

impl Results {
    fn of(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.0.join(name));
        text.unwrap_or_else(|error| panic!("{name}: {error}; {}", self.boot_log()))
    }

    fn boot_log(&self) -> String {
        std::fs::read_to_string(self.0.join("boot")).unwrap_or_default()
    }
}

/// Boots a container in which the daemon and its unit are installed, runs a script there as root, and powers off.
fn boot(root: &Path, script: &str) -> Results {
    let folder = temporary_folder();
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let unit = "[Unit]\nAfter=multi-user.target\n[Service]\nType=oneshot\nExecStart=/bin/sh /results/script\n\
                ExecStopPost=/bin/systemctl poweroff\nTimeoutStartSec=120\n";
    let unit = write("test.service", unit);
    write("script", script);
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "150", "systemd-nspawn", "--quiet", "--boot", "--volatile=overlay"]);
    command.args(["--private-network", "--register=no", "--keep-unit", "--console=pipe"]);
    command.args(["--capability=all", "--system-call-filter=bpf"]);
    command.arg("-D").arg(root).arg(format!("--machine=echo-{}", folder.file_name().unwrap().display()));
    command.arg(format!("--bind={}:/results", folder.display()));
    for (from, to) in [
        (env!("CARGO_BIN_EXE_echo-udpd").into(), "/usr/bin/echo-udpd"),
        (env!("CARGO_BIN_EXE_echo-udp").into(), "/usr/bin/echo-udp"),
        (
            source.join("packaging/systemd/echo-udpd.service").display().to_string(),
            "/etc/systemd/system/echo-udpd.service",
        ),
        (unit, "/etc/systemd/system/test.service"),
    ] {
        command.arg(format!("--bind-ro={from}:{to}"));
    }
    command.arg("systemd.wants=test.service").env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
    let booted = run(&mut command);
    write("boot", &format!("{}\n{}", booted.out, booted.err));
    Results(folder)
}

const SCRIPT: &str = r#"
cd /results
systemctl start echo-udpd; echo $? > started
printf '{"a":1}\n' | nc -u -w1 127.0.0.1 9000 > ipv4
printf '{"a":2}\n' | nc -u -w1 ::1 9000 > ipv6
echo-udp send --host ::1 Hello world! > client
for i in $(seq 50); do
  systemctl status echo-udpd > status
  grep -q 'received 3' status && break
  sleep 0.2
done
mkdir -p /etc/echo-udpd
echo "[reply]
invalid-json = 'maybe'" > /etc/echo-udpd/echo-udpd.toml
systemctl reload echo-udpd; echo $? > bad-reload
printf 'nonsense' | nc -u -w1 ::1 9000 > after-bad-reload
systemctl show -P StatusText echo-udpd > bad-status
echo "[log]
level = 'warn'" > /etc/echo-udpd/echo-udpd.toml
systemctl reload echo-udpd; echo $? > good-reload
systemd-analyze security --no-pager echo-udpd.service > security
mkdir -p /run/systemd/system/echo-udpd.service.d
printf '[Service]\nWatchdogSec=2\n' > /run/systemd/system/echo-udpd.service.d/test.conf
systemctl daemon-reload; systemctl restart echo-udpd
sleep 3
systemctl show -P NRestarts echo-udpd > restarts-before
kill -STOP $(systemctl show -P MainPID echo-udpd)
for i in $(seq 30); do
  printf '[3]' | nc -u -w1 ::1 9000 > after-watchdog
  grep -q 3 after-watchdog && break
done
systemctl show -P NRestarts echo-udpd > restarts-after
systemctl stop echo-udpd; echo $? > stopped
systemctl show -P Result -P ExecMainStatus echo-udpd > result
journalctl -u echo-udpd -o cat > journal
journalctl -u echo-udpd PEER_ADDRESS=::1 -o cat > of-ipv6
journalctl -u echo-udpd -o verbose PEER_ADDRESS=127.0.0.1 > verbose
journalctl -u echo-udpd > plain
"#;

#[test]
fn the_unit_starts_answers_logs_reloads_and_stops() {
    for root in roots() {
        let results = boot(&root, SCRIPT);
        let place = root.display();
        assert_eq!(results.of("started"), "0\n", "{place}: {}", results.boot_log());
        assert_eq!((&*results.of("ipv4"), &*results.of("ipv6")), ("{\"a\":1}\n", "{\"a\":2}\n"), "{place}");
        assert_eq!(results.of("client").lines().count(), 2, "{place}");
        let status = results.of("status");
        assert!(status.contains("Status: \"listening on [::]:9000 (IPv6 and IPv4); received 3, echoed 3,"), "{status}");
        let journal = results.of("journal");
        for line in ["listening on [::]:9000 (IPv6 and IPv4)", "127.0.0.1 sent {\"a\":1}", "::1 sent {\"a\":2}"] {
            assert!(journal.lines().any(|logged| logged == line), "{place}: {line} is not in {journal}");
        }
        assert_eq!(results.of("of-ipv6").lines().next(), Some("::1 sent {\"a\":2}"), "{place}");
        let verbose = results.of("verbose");
        for field in ["PRIORITY=6", "BYTES=8", "LOCAL_ADDRESS=127.0.0.1", "LOCAL_PORT=9000", "_TRANSPORT=journal"] {
            assert!(verbose.contains(field), "{place}: {field} is not in {verbose}");
        }
        assert_ne!(results.of("bad-reload"), "0\n", "{place}");
        assert!(results.of("after-bad-reload").contains("parse_error"), "{place}: the old settings stay");
        let status = results.of("bad-status");
        assert!(status.contains("reload failed: /etc/echo-udpd/echo-udpd.toml:2:16: reply.invalid-json"), "{status}");
        assert_eq!(results.of("good-reload"), "0\n", "{place}");
        let exposure = results.of("security");
        let level = exposure.split("Overall exposure level for echo-udpd.service: ").nth(1).unwrap();
        let level: f64 = level.split(' ').next().unwrap().parse().unwrap();
        assert!(level <= 1.1, "{place}: {exposure}");
        // Answering, it is left alone; standing still, it is killed and comes back.
        assert_eq!((&*results.of("restarts-before"), &*results.of("restarts-after")), ("0\n", "1\n"), "{place}");
        assert_eq!(results.of("after-watchdog"), "[3]", "{place}");
        assert_eq!(results.of("stopped"), "0\n", "{place}");
        assert_eq!(results.of("result"), "success\n0\n", "{place}");
    }
}
