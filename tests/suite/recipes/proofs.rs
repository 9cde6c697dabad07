//! What each recipe must achieve, in the words of the place that shows it.

use super::documents::{blocks, shown_line, shown_lines};
use super::steps::{FILE, Steps};
use super::{CATALOG, README, SERVICE, SERVICE_PAGE, SOCKET};
use crate::harness::container::{ANYWHERE, at};
use crate::harness::{ask, connected, is_silent, wait_for};

const IGNORE_INVALID: &str = "[reply]\ninvalid-json = \"ignore\"";
const OTHER_PORT: &str = "listen = [\"[::]:9001\"]";

/// Installs the package, which starts nothing, and enables the service.
pub(super) fn install(steps: &mut Steps) {
    steps.container.sh("dpkg --purge echo-udpd; mkdir -p /srv/clone/target/debian
         cp /packages/now.deb /srv/clone/target/debian/echo-udpd_0.1.0-1_amd64.deb");
    steps.run();
    assert_eq!(steps.states(), "inactive inactive", "{}", steps.place());
    steps.run_all();
    steps.container.is_answered(ANYWHERE, "1");
    assert_eq!(steps.container.sh("systemctl is-enabled echo-udpd"), "enabled\n");
}

/// Without the package, what it installs comes from a clone: the service replies, reloads, and its log is explained.
pub(super) fn install_by_hand(steps: &mut Steps) {
    steps.container.sh("cd /srv/clone; mkdir -p target/release config packaging/systemd
         cp /usr/bin/echo-udpd /usr/bin/echo-udp target/release
         cp /etc/echo-udpd/echo-udpd.toml config
         cp /usr/libexec/echo-udpd/check-running packaging/systemd
         cp /usr/lib/systemd/system/echo-udpd.* /usr/lib/systemd/catalog/echo-udpd.catalog packaging/systemd
         chmod a-x packaging/systemd/check-running; dpkg --purge echo-udpd; journalctl --update-catalog");
    steps.run_all();
    steps.container.is_answered(ANYWHERE, "1");
    steps.container.sh("systemctl reload echo-udpd");
    let explained = steps.container.sh("journalctl -x -u echo-udpd");
    assert!(explained.contains("Subject: Listening\n"), "{}: {explained}", steps.place());
    assert_eq!(steps.container.sh("systemctl is-enabled echo-udpd"), "enabled\n");
    steps.container.sh("systemctl disable --now echo-udpd
         rm -r /usr/bin/echo-udp* /etc/echo-udpd /usr/libexec/echo-udpd /usr/lib/systemd/system/echo-udpd.*
         rm /usr/lib/systemd/catalog/echo-udpd.catalog; dpkg -i /packages/now.deb; journalctl --update-catalog");
}

/// A file that only root can read keeps the service from starting; a score is what README says.
pub(super) fn readable_and_secure(steps: &mut Steps) {
    steps.container.sh(&format!("chmod 600 {FILE}"));
    assert_ne!(steps.container.shell("systemctl start echo-udpd").code(), Some(0), "{}", steps.place());
    steps.run();
    steps.container.sh("systemctl start echo-udpd");
    steps.container.is_answered(ANYWHERE, "1");
    assert!(steps.run().contains("Overall exposure level for echo-udpd.service: 1.1 OK"), "{}", steps.place());
}

/// A changed setting is in force.
pub(super) fn reload(steps: &mut Steps) {
    steps.container.sh("systemctl start echo-udpd");
    if steps.next().is_some_and(|command| command.starts_with("editor ")) {
        steps.editor_writes(IGNORE_INVALID);
    } else {
        steps.container.write(FILE, IGNORE_INVALID);
    }
    steps.run_all();
    wait_for("the new setting to be in force", || {
        steps.container.inside(|| {
            let socket = connected(at(ANYWHERE));
            socket.send(b"nonsense").unwrap();
            let _ = socket.send(b"[1]");
            let mut reply = [0; 100];
            let length = socket.recv(&mut reply).unwrap();
            (&reply[..length] == b"[1]" && is_silent(&socket)).then_some(())
        })
    });
}

/// The service listens where the file says, and nowhere else.
pub(super) fn other_port(steps: &mut Steps) {
    steps.container.sh("systemctl start echo-udpd");
    steps.container.write(FILE, OTHER_PORT);
    steps.run_all();
    steps.container.is_answered("127.0.0.1:9001", "1");
    assert_eq!(steps.open_ports(), "9001", "{}", steps.place());
}

/// Port 7 returns any bytes, and port 9000 valid JSON, with the settings that the page or README shows.
pub(super) fn port_seven(steps: &mut Steps) {
    let in_page = steps.document() == SERVICE_PAGE;
    steps.container.write(FILE, &shown_line(if in_page { SERVICE_PAGE } else { README }, "listen = "));
    let shown_in = if in_page { SERVICE_PAGE } else { SERVICE };
    steps.editor_writes(&shown_lines(shown_in, "[Service]", "AmbientCapabilities="));
    steps.run_all();
    steps.container.sh("systemctl start echo-udpd");
    steps.container.is_answered("127.0.0.1:7", "any bytes");
    steps.container.is_answered("[::1]:7", "any bytes");
    assert_is_json(steps, ANYWHERE);
}

/// Valid JSON comes back from this address, and other bytes do not.
fn assert_is_json(steps: &Steps, address: &str) {
    let replies =
        steps.container.inside(|| ["[1]", "any bytes"].map(|asked| ask(&connected(at(address)), asked.as_bytes())));
    assert_eq!(replies[0], b"[1]", "{}", steps.place());
    assert!(replies[1].starts_with(b"{\"error\""), "{}: {replies:?}", steps.place());
}

/// The socket unit listens on port 7 alone, which returns any bytes.
pub(super) fn socket_unit_on_port_seven(steps: &mut Steps) {
    let own_first = steps.next().is_some_and(|command| command == "systemctl disable --now echo-udpd");
    steps.container.sh(if own_first { "systemctl enable --now echo-udpd" } else { "systemctl start echo-udpd.socket" });
    assert_is_json(steps, ANYWHERE);
    steps.run_all();
    for address in ["127.0.0.1:7", "[::1]:7"] {
        steps.container.is_answered(address, "any bytes");
    }
    assert_eq!(steps.open_ports(), "7", "{}", steps.place());
}

/// Start, reload and the check of a reload read the other file.
pub(super) fn other_file(steps: &mut Steps) {
    const OTHER: &str = "/etc/echo-udpd/other.toml";
    steps.container.write(OTHER, OTHER_PORT);
    let lines = match steps.document() {
        README => blocks("## As a service of systemd", "ini").remove(0),
        page => shown_lines(page, "[Service]", "ExecStart="),
    };
    steps.editor_writes(lines.trim_end());
    steps.run_all();
    steps.container.is_answered("127.0.0.1:9001", "1");
    steps.container.sh("systemctl reload echo-udpd");
    steps.container.write(OTHER, "workers = true");
    let failed = steps.container.shell("systemctl reload echo-udpd");
    assert_ne!(failed.code(), Some(0), "{}", steps.place());
    // The default file plays no part.
    steps.container.write(OTHER, OTHER_PORT);
    steps.container.write(FILE, "workers = true");
    steps.container.sh("systemctl reload echo-udpd");
}

/// Each command shows the requests that it is said to show.
pub(super) fn read_log(steps: &mut Steps) {
    steps.container.sh("systemctl start echo-udpd");
    for host in ["127.0.0.1", "[::1]"] {
        steps.container.is_answered(&format!("{host}:9000"), "{\"a\":1}");
    }
    steps.container.wait_for_line("::1 sent {\"a\":1}");
    while let Some(command) = steps.next().map(str::to_owned) {
        let shown = steps.run();
        assert!(shown.contains(": ::1 sent {\"a\":1}\n"), "{}: {shown}", steps.place());
        let of_one_source = command.contains("PEER_ADDRESS");
        assert_eq!(!of_one_source, shown.contains(": 127.0.0.1 sent {"), "{}: {shown}", steps.place());
        assert_eq!(command.contains(" -x "), shown.contains("Subject: Listening\n"), "{}: {shown}", steps.place());
    }
}

/// The counters are logged.
pub(super) fn counters(steps: &mut Steps) {
    steps.container.sh("systemctl start echo-udpd");
    steps.container.is_answered(ANYWHERE, "1");
    steps.run_all();
    let line = steps.container.wait_for_line("counters: ");
    assert!(line.contains("received=") && line.contains(" kernel_drops=0"), "{}: {line}", steps.place());
}

/// The limits of the host are those of the shipped file, for each interface and, through `default`, those to come.
pub(super) fn whole_buffers(steps: &mut Steps) {
    const KEYS: [(&str, &str); 6] = [
        ("core/rmem_max", "8388608"),
        ("core/wmem_max", "8388608"),
        ("ipv4/neigh/default/unres_qlen_bytes", "8192"),
        ("ipv4/neigh/eth0/unres_qlen_bytes", "8192"),
        ("ipv6/neigh/default/unres_qlen_bytes", "8192"),
        ("ipv6/neigh/eth0/unres_qlen_bytes", "8192"),
    ];
    steps.container.sh("systemctl start echo-udpd");
    let pid = steps.container.main_pid();
    // Those that are the host's a container may not set: files stand in for them.
    for (key, _) in KEYS {
        steps.container.write(&format!("/run/sysctl/{key}"), "212992");
    }
    steps.container.sh("mount --bind /run/sysctl /proc/sys/net");
    steps.run_all();
    for (key, value) in KEYS {
        let set = steps.container.sh(&format!("head -n 1 /proc/sys/net/{key}"));
        assert_eq!(set.trim_end(), value, "{}: {key}", steps.place());
    }
    steps.container.sh("umount /proc/sys/net");
    assert_ne!(steps.container.main_pid(), pid, "{}", steps.place());
    steps.container.is_answered(ANYWHERE, "1");
}

/// The socket unit listens, now and at the next boot, and starts the service.
pub(super) fn socket_unit(steps: &mut Steps) {
    steps.container.sh("systemctl enable --now echo-udpd");
    steps.run_all();
    assert_eq!(steps.states(), "inactive active", "{}", steps.place());
    let enabled = steps.container.shell("systemctl is-enabled echo-udpd.service echo-udpd.socket").out;
    assert_eq!(enabled, "disabled\nenabled\n", "{}", steps.place());
    steps.container.is_answered("127.0.0.1:9000", "1");
    steps.wait_for_states("active active");
}

/// The socket unit listens on port 7 instead, while the service runs; then what else its place shows.
pub(super) fn port_of_socket_unit(steps: &mut Steps) {
    steps.container.sh("systemctl start echo-udpd.socket");
    steps.container.is_answered(ANYWHERE, "1");
    let shown_in = if [SERVICE_PAGE, CATALOG].contains(&steps.document()) { steps.document() } else { SOCKET };
    steps.editor_writes(&shown_lines(shown_in, "[Socket]", "ListenDatagram="));
    steps.run();
    steps.run();
    steps.container.is_answered("[::1]:7", "1");
    assert_eq!(steps.open_ports(), "7", "{}", steps.place());
    match steps.document() {
        SERVICE_PAGE => {
            steps.run();
            assert_eq!(steps.states(), "inactive active", "{}", steps.place());
            steps.container.is_answered("[::1]:7", "2");
            steps.wait_for_states("active active");
            steps.run();
            assert_eq!(steps.states(), "inactive inactive", "{}", steps.place());
            steps.container.sh("systemctl start echo-udpd.socket echo-udpd.service");
            let pid = steps.container.main_pid();
            steps.run();
            steps.container.is_answered("[::1]:7", "3");
            steps.wait_for_states("active active");
            assert_ne!(steps.container.main_pid(), pid, "{}", steps.place());
        }
        CATALOG => {
            steps.run();
            assert_eq!(steps.states(), "inactive inactive", "{}", steps.place());
            steps.run();
            steps.wait_for_states("active inactive");
            assert_eq!(steps.open_ports(), "9000", "{}", steps.place());
        }
        _ => {}
    }
}

/// The service replies and has no network.
pub(super) fn no_network(steps: &mut Steps) {
    let own_first = steps.next().is_some_and(|command| command == "systemctl disable --now echo-udpd");
    steps.container.sh(if own_first { "systemctl enable --now echo-udpd" } else { "systemctl start echo-udpd.socket" });
    steps.container.is_answered(ANYWHERE, "1");
    steps.run_all();
    steps.container.is_answered(ANYWHERE, "2");
    assert!(!has_network(steps), "{}", steps.place());
}

fn has_network(steps: &Steps) -> bool {
    let pid = steps.container.main_pid();
    let [own, of_all] = [pid, 1].map(|pid| steps.container.sh(&format!("readlink /proc/{pid}/ns/net")));
    own == of_all
}

/// The service binds again, now and at the next boot.
pub(super) fn own_sockets_again(steps: &mut Steps) {
    steps
        .container
        .sh("install -D /usr/share/doc/echo-udpd/examples/socket-only.conf -t /etc/systemd/system/echo-udpd.service.d
         systemctl daemon-reload; systemctl enable --now echo-udpd.socket");
    steps.container.is_answered(ANYWHERE, "1");
    assert!(!has_network(steps), "{}", steps.place());
    steps.run_all();
    steps.container.is_answered("127.0.0.1:9000", "2");
    assert!(has_network(steps), "{}", steps.place());
    steps.wait_for_states("active inactive");
    let enabled = steps.container.shell("systemctl is-enabled echo-udpd.service echo-udpd.socket").out;
    assert_eq!(enabled, "enabled\ndisabled\n", "{}", steps.place());
}

/// Nothing runs and nothing listens, with the service's own sockets and with the socket unit.
pub(super) fn stop(steps: &mut Steps) {
    for unit in ["echo-udpd", "echo-udpd.socket"] {
        if steps.next().is_none() {
            return;
        }
        steps.container.sh(&format!("systemctl start {unit}"));
        steps.container.is_answered(ANYWHERE, "1");
        steps.run();
        assert_eq!(steps.states(), "inactive inactive", "{}", steps.place());
        assert_eq!(steps.container.sh("ss -Hlun"), "", "{}", steps.place());
    }
}

/// Both show the port and who has it.
pub(super) fn who_listens(steps: &mut Steps) {
    steps.container.sh("systemctl start echo-udpd");
    let status = steps.run();
    assert!(status.contains("active (running)") && status.contains("listening on [::]:9000"), "{status}");
    let sockets = steps.run();
    assert!(sockets.contains("*:9000 ") && sockets.contains("(\"echo-udpd\","), "{}: {sockets}", steps.place());
}

/// The check names line and column; the list of sockets names who has the port.
pub(super) fn why_it_failed(steps: &mut Steps) {
    steps.container.write(FILE, "workers = true");
    assert_ne!(steps.container.shell("systemctl start echo-udpd").code(), Some(0), "{}", steps.place());
    let checked = steps.attempt();
    assert!(checked.code() == Some(78) && checked.err.contains(&format!("{FILE}:1:11: workers: ")), "{checked:?}");
    steps.container.sh("systemctl start echo-udpd.socket");
    let sockets = steps.run();
    assert!(sockets.contains("*:9000 ") && sockets.contains("(\"systemd\",pid=1,"), "{}: {sockets}", steps.place());
}

/// It is started, replies, and its log shows who asked.
pub(super) fn first_use(steps: &mut Steps) {
    steps.run();
    assert_eq!(steps.run(), "{\"a\":1}\n", "{}", steps.place());
    steps.container.wait_for_line("::1 sent {\"a\":1}");
    assert!(steps.run().contains(": ::1 sent {\"a\":1}\n"), "{}", steps.place());
}

/// It replies while it runs in the foreground.
pub(super) fn foreground(steps: &mut Steps) {
    std::thread::scope(|scope| {
        let place = steps.place();
        let container = steps.container;
        let asked = scope.spawn(move || {
            container.is_answered("[::1]:9001", "1");
            container.sh("kill -TERM $(pidof echo-udpd)");
        });
        let said = steps.attempt();
        asked.join().unwrap();
        assert!(said.status.success() && said.err.contains("listening on [::]:9001"), "{place}: {said:?}");
    });
}

/// What follows the command in the page is what it prints.
pub(super) fn say_hello(steps: &mut Steps) {
    // A minimal system has no such file.
    steps.container.sh("systemctl start echo-udpd; echo '::1 localhost' >> /etc/hosts");
    let first = "$ echo-udp send Hello world!";
    let shown = shown_lines(steps.document(), first, "Sent: ");
    assert_eq!(format!("{first}\n{}", steps.run().trim_end()), shown, "{}", steps.place());
}

/// The host of the example is one of ours here.
pub(super) fn send_file(steps: &mut Steps) {
    steps.container.sh("systemctl start echo-udpd; echo '::1 echo.example.net' >> /etc/hosts");
    steps.container.write("/srv/clone/packet.json", "{\"of\":\"a file\"}");
    let said = steps.run();
    assert!(said.contains("Received: {\"of\":\"a file\"}"), "{}: {said}", steps.place());
}

/// Each worker has a socket.
pub(super) fn more_workers(steps: &mut Steps) {
    steps.container.sh("systemctl start echo-udpd");
    steps.container.write(FILE, "workers = 3");
    steps.run_all();
    let threads = steps.container.sh(&format!("cat /proc/{}/task/*/comm", steps.container.main_pid()));
    assert_eq!(threads.matches("worker-").count(), 3, "{}: {threads}", steps.place());
    steps.container.inside(|| assert_eq!(ask(&connected(at(ANYWHERE)), b"1"), b"1"));
}
