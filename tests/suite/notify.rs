//! What the service manager hears: readiness, reloads, status and watchdog, over a socket of the test's own.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{
    DEADLINE, DaemonCommand, Running, ask, connected, has_program, need, retry, run, temporary_file, temporary_folder,
    wait_for,
};

fn next_message(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 8192];
    let length = retry(|| socket.recv(&mut buffer)).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

/// A service manager's side of the notify socket.
pub(crate) struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    pub(crate) fn new() -> Self {
        let path = temporary_folder().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { socket, path }
    }

    /// The variable that names it.
    pub(crate) fn variable(&self) -> String {
        format!("NOTIFY_SOCKET={}", self.path.display())
    }

    /// The command, watched with a beat of 100 ms; through env(1), since the harness takes the variable away.
    pub(crate) fn watched(&self, command: &Command) -> Command {
        let mut watched = Command::new("env");
        watched.args([&self.variable(), "WATCHDOG_USEC=200000"]).arg(command.get_program()).args(command.get_args());
        watched
    }

    /// The next datagram.
    pub(crate) fn next(&self) -> String {
        next_message(&self.socket)
    }

    /// Reads up to a datagram that begins so.
    pub(crate) fn wait_for(&self, start: &str) -> String {
        std::iter::repeat_with(|| self.next()).find(|message| message.starts_with(start)).unwrap()
    }

    /// Throws away what has come.
    pub(crate) fn forget(&self) {
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut [0; 8192]).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
    }

    /// Lets nothing more in: whoever sends waits until it is read.
    pub(crate) fn fill(&self) {
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        while sender.send_to(b"full", &self.path).is_ok() {}
    }
}

#[test]
fn readiness_reloads_and_status_are_datagrams_of_their_own() {
    let manager = Manager::new();
    let wrapper = ["env", &manager.variable()];
    let mut daemon = DaemonCommand::default().wrapped(&wrapper).listen("127.0.0.1:0").settings("").start();
    let first = manager.next();
    let status = format!("STATUS=listening on 127.0.0.1:{} (IPv4), protocol json; received 0, echoed 0", daemon.port());
    assert!(first.starts_with(&status) && first.lines().count() == 1, "{first}");
    assert_eq!(manager.next(), "READY=1\n");

    daemon.reload("workers = 'many'");
    let reloading = manager.next();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC=") && reloading.lines().count() == 2, "{reloading}");
    let status = manager.next();
    assert!(status.contains("; reload failed: ") && status.contains("workers"), "{status}");
    assert_eq!(manager.next(), "READY=1\n");

    let client = connected(daemon.at("127.0.0.1"));
    assert_eq!(ask(&client, b"1"), b"1");
    // First with a rate, which is none a second later.
    wait_for("the counters at rest", || manager.next().contains("received 1, echoed 1, ").then_some(()));
    daemon.reload("[reply]\ninvalid-json = 'ignore'");
    manager.wait_for("READY=1");
    client.send(b"nonsense").unwrap();
    wait_for("the reasons of drops", || manager.next().contains("dropped 1 (invalid 1), ").then_some(()));
    daemon.process.signal("TERM");
    assert_eq!(manager.wait_for("STOPPING=1"), "STOPPING=1\n");
    assert_eq!(manager.next(), "STATUS=stopping\n");
    assert_eq!(daemon.process.finish().code(), Some(0));
}

#[test]
fn a_socket_without_a_path_is_notified_too() {
    let name = format!("echo-udpd-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let variable = format!("NOTIFY_SOCKET=@{name}");
    let daemon = DaemonCommand::default().wrapped(&["env", &variable]).settings("").start();
    assert!(next_message(&socket).starts_with("STATUS=listening on "));
    assert_eq!(next_message(&socket), "READY=1\n");
    daemon.process.signal("HUP");
    let reloading = next_message(&socket);
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC=") && reloading.lines().count() == 2, "{reloading}");
    let finished = daemon.stop();
    assert_eq!(finished.code(), Some(0));
    assert!(!finished.err.contains("could not notify"), "{}", finished.err);
}

#[test]
fn the_first_failure_to_notify_is_a_warning() {
    let wrapper = ["env", "NOTIFY_SOCKET=/nonexistent/notify"];
    let mut daemon = DaemonCommand::default().wrapped(&wrapper).settings("").start();
    let warning = daemon.wait_for_line("could not notify");
    assert!(warning.contains("WARN could not notify the service manager of "), "{warning}");
    assert!(warning.ends_with(": No such file or directory (os error 2)"), "{warning}");
    daemon.reload("");
    daemon.wait_for_line("settings reloaded");
    let finished = daemon.stop();
    assert_eq!(finished.err.matches("could not notify").count(), 1, "{}", finished.err);
}

#[test]
fn a_watchdog_of_no_time_is_none_and_one_of_hardly_any_does_not_take_all_of_it() {
    let manager = Manager::new();
    for (limit, most_per_second) in [("0", 0.0), ("1", 100.0)] {
        manager.forget();
        let limit = format!("WATCHDOG_USEC={limit}");
        let begun = Instant::now();
        let daemon = DaemonCommand::default().wrapped(&["env", &manager.variable(), &limit]).settings("").start();
        manager.wait_for("READY=1");
        assert_eq!(ask(&connected(daemon.at("127.0.0.1")), b"1"), b"1");
        // Up to the status of the next second.
        let beats = std::iter::repeat_with(|| manager.next()).take_while(|message| !message.starts_with("STATUS="));
        let beats = beats.filter(|message| message == "WATCHDOG=1\n").count() as f64;
        let most = (most_per_second * begun.elapsed().as_secs_f64()).ceil();
        assert!(beats <= most, "{limit}: {beats} beats, not {most} at most");
        assert_eq!(daemon.stop().code(), Some(0));
    }
}

#[test]
fn a_start_that_fails_says_why_and_the_nearest_errno() {
    let manager = Manager::new();
    let busy = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let failed = |words: &[&str], status| {
        let mut command = Command::new("env");
        command.arg(manager.variable()).arg(env!("CARGO_BIN_EXE_echo-udpd")).args(words);
        assert_eq!(run(&mut command).code(), Some(status));
        manager.next()
    };
    let expected = format!("STATUS=bind {address}: address in use\nERRNO={}\n", libc::EADDRINUSE);
    assert_eq!(failed(&["--listen", &address], 1), expected);
    let bad = temporary_file("bad.toml", "workers = 'many'");
    let message = failed(&["-c", bad.to_str().unwrap()], 78);
    assert!(message.starts_with(&format!("STATUS={}:1:11: workers: ", bad.display())), "{message}");
    assert!(message.ends_with(&format!("\nERRNO={}\n", libc::EINVAL)), "{message}");
    let expected = format!("STATUS=error: unexpected argument '--nonsense' found\nERRNO={}\n", libc::EINVAL);
    assert_eq!(failed(&["--nonsense"], 2), expected);
}

#[test]
fn no_status_is_longer_than_the_service_manager_takes() {
    let manager = Manager::new();
    let listen: Vec<_> = (1..=200).map(|host| format!("'127.0.1.{host}:0'")).collect();
    let settings = format!("listen = [{}]", listen.join(", "));
    let (command, file) = DaemonCommand::default().settings(&settings).command();
    let process = Running::start(&mut manager.watched(&command));
    let status = manager.wait_for("STATUS=");
    assert!(
        status.contains(" (IPv4), protocol json: received 0, echoed 0; and 197 more; in total received 0, "),
        "{status}"
    );
    assert_eq!(manager.next(), "READY=1\n");

    std::fs::write(&file, format!("{} = 1", "k".repeat(100_000))).unwrap();
    process.signal("HUP");
    let status = wait_for("the status of a failed reload", || {
        Some(manager.wait_for("STATUS=")).filter(|status| status.contains("; reload failed: "))
    });
    assert!(status.len() <= 1024 + "STATUS=\n".len(), "{}", status.len());
    manager.wait_for("READY=1");
    process.signal("TERM");
    assert_eq!(process.finish().code(), Some(0));
}

#[test]
fn the_watchdog_hears_of_workers_that_can_receive_and_of_no_others() {
    need!(has_program("strace"), "strace, to inject faults");
    let manager = Manager::new();
    let watched = ["env", &manager.variable(), "WATCHDOG_USEC=200000"];
    let daemon = DaemonCommand::default().wrapped(&watched).settings("workers = 2").start();
    manager.wait_for("READY=1");
    for _ in 0..3 {
        assert_eq!(manager.next().trim_end(), "WATCHDOG=1");
    }
    drop(daemon);
    manager.forget();

    let deaf = ["strace", "-f", "-o", "/dev/null", "-e", "trace=recvmmsg", "-e", "inject=recvmmsg:error=EIO:when=1+"];
    let mut daemon = DaemonCommand::default().wrapped(&watched).wrapped(&deaf).start();
    manager.wait_for("READY=1");
    // Ten times the interval.
    manager.socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let heard = retry(|| manager.socket.recv(&mut [0; 100]));
    assert!(heard.is_err(), "{heard:?}");
    let warning = daemon.wait_for_line("the watchdog is not fed");
    assert!(warning.contains("WARN a worker has not responded for "), "{warning}");
    daemon.process.end_child();
    let finished = daemon.process.finish();
    assert_eq!(finished.code(), Some(0));
    assert_eq!(finished.err.matches("the watchdog is not fed").count(), 1, "{}", finished.err);
}
