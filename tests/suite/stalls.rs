//! What an outsider can stall or break stops nothing: a notify socket and a standard error that nobody reads, a
//! terminal that is gone, system calls that fail or do not return.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{
    Daemon, DaemonCommand, Running, ask, connected, has_program, is_root, need, run, sh, temporary_file,
    temporary_folder, wait_for,
};
use crate::log::Killed;
use crate::notify::Manager;

const PROGRAM: &str = env!("CARGO_BIN_EXE_echo-udpd");

/// Ways in which standard error takes no text.
fn bad_outputs() -> [(&'static str, Stdio); 3] {
    let (read, closed) = std::io::pipe().unwrap();
    drop(read);
    let (reader, mut full) = UnixStream::pair().unwrap();
    full.set_nonblocking(true).unwrap();
    while full.write(&[b'.'; 4096]).is_ok() {}
    full.set_nonblocking(false).unwrap();
    // Kept open until the test process ends: nobody reads it.
    std::mem::forget(reader);
    let device = std::fs::File::options().write(true).open("/dev/full").unwrap();
    [("full device", device.into()), ("closed pipe", closed.into()), ("full pipe", OwnedFd::from(full).into())]
}

/// How a program ends whose standard error is not read, within the deadline.
fn status(command: &mut Command) -> ExitStatus {
    let mut child = Killed(command.env_remove("NOTIFY_SOCKET").spawn().unwrap());
    wait_for("its end", || child.0.try_wait().unwrap())
}

#[test]
fn exit_statuses_hold_whatever_becomes_of_standard_error() {
    let bad = temporary_file("bad.toml", "workers = 'many'");
    let busy = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let cases = [
        (78, vec!["--config", bad.to_str().unwrap()]),
        (2, vec!["--nonsense"]),
        (1, vec!["--listen", &address]),
        (0, vec!["--help"]),
    ];
    for (expected, words) in &cases {
        for (what, stderr) in bad_outputs() {
            let ended = status(Command::new(PROGRAM).args(words).stdout(Stdio::null()).stderr(stderr));
            assert_eq!(ended.code(), Some(*expected), "{words:?} with a {what}");
        }
        let closed = sh(format!("exec {PROGRAM} {} 2>&- >&-", words.join(" ")));
        assert_eq!(closed.code(), Some(*expected), "{words:?} with none");
    }
    for words in [&["--help"][..], &["--version"], &["--print-config"]] {
        let [device, ..] = bad_outputs();
        let unwritten = status(Command::new(PROGRAM).args(words).stdout(device.1).stderr(Stdio::null()));
        assert_eq!(unwritten.code(), Some(1), "{words:?}");
    }
}

#[test]
fn a_failed_start_takes_its_time_without_a_standard_error_and_a_stop_ends_the_wait() {
    let manager = Manager::new();
    let busy = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = ["--listen".into(), busy.local_addr().unwrap().to_string()];
    for (what, stderr) in bad_outputs() {
        let begun = Instant::now();
        let mut command = manager.watched(Command::new(PROGRAM).args(&listen));
        assert_eq!(status(command.stderr(stderr)).code(), Some(1), "{what}");
        assert!(begun.elapsed() >= Duration::from_secs(2), "with a {what} it would be started again at once");
    }
    manager.forget();
    // On a busy machine some take longer, but not all.
    let at_once = (0..5).any(|_| {
        let begun = Instant::now();
        let process = Running::start(&mut manager.watched(Command::new(PROGRAM).args(&listen)));
        manager.wait_for("STATUS=bind ");
        process.signal("TERM");
        assert_eq!(process.finish().code(), Some(1));
        begun.elapsed() < Duration::from_secs(2)
    });
    assert!(at_once, "the stop had to wait");
}

#[test]
fn a_daemon_that_gets_no_thread_says_so_and_takes_its_time() {
    need!(has_program("strace"), "strace, to inject faults");
    let manager = Manager::new();
    let mut command = Command::new("strace");
    command.args(["-f", "-q", "-o", "/dev/null", "-e", "trace=clone3", "-e", "inject=clone3:error=EAGAIN:when=1+"]);
    command.args([PROGRAM, "--listen", "127.0.0.1:0"]);
    let begun = Instant::now();
    let refused = run(&mut manager.watched(&command));
    assert_eq!(refused.code(), Some(1), "{refused:?}");
    assert_eq!(refused.err, "echo-udpd: watch signals: Resource temporarily unavailable (os error 11)");
    assert!(begun.elapsed() >= Duration::from_secs(2), "it would be started again at once");

    // Neither a standard error that nobody reads keeps it, nor the wait a stop.
    let [.., (_, full)] = bad_outputs();
    let ended = status(manager.watched(&command).stderr(full));
    assert_eq!(ended.code(), Some(1));
    let at_once = (0..5).any(|_| {
        let begun = Instant::now();
        let mut process = Running::start(&mut manager.watched(&command));
        process.find_line("why", |line| line.contains("watch signals: ").then_some(()));
        process.end_child();
        assert_eq!(process.finish().code(), Some(1));
        begun.elapsed() < Duration::from_secs(2)
    });
    assert!(at_once, "the stop had to wait");
}

#[test]
fn a_text_that_nobody_reads_keeps_no_process_from_being_ended() {
    for words in ["--help", "--version", "--print-config"] {
        let [.., (_, full)] = bad_outputs();
        let mut command = Command::new(PROGRAM);
        let mut child = Killed(command.arg(words).stdout(full).env_remove("NOTIFY_SOCKET").spawn().unwrap());
        let pid = child.0.id();
        let writes = || {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let mut calls =
                threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("syscall")).ok());
            // write(2) to standard output.
            calls.any(|call| call.starts_with(&format!("{} 0x1 ", libc::SYS_write)))
        };
        wait_for("a write that does not return", || writes().then_some(()));
        sh(format!("kill -TERM {pid}")).success();
        let ended = wait_for("its end", || child.0.try_wait().unwrap());
        assert_eq!(ended.signal(), Some(libc::SIGTERM), "{words}: {ended:?}");
    }
}

#[test]
fn a_notify_socket_that_nobody_reads_delays_neither_start_nor_reload_nor_stop() {
    let manager = Manager::new();
    manager.fill();
    let wrapper = ["env", &manager.variable(), "WATCHDOG_USEC=200000"];
    let mut daemon = DaemonCommand::default().wrapped(&wrapper).listen("127.0.0.1:0").settings("").start();
    assert_eq!(ask(&connected(daemon.at("127.0.0.1")), b"1"), b"1");
    for _ in 0..3 {
        daemon.process.forget_lines();
        daemon.reload("");
        daemon.wait_for_line("settings reloaded");
    }
    assert_eq!(daemon.counters().of("echoed"), 1);
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn a_log_file_at_its_limit_drops_lines_and_ends_nothing() {
    let manager = Manager::new();
    let folder = temporary_folder();
    let settings = temporary_file("settings.toml", "[log]\nrequests-per-second = 0");
    let script = format!(
        "ulimit -f 4; exec {PROGRAM} --listen 127.0.0.1:0 --config {} 2>{}/log",
        settings.display(),
        folder.display()
    );
    let process = Running::start(Command::new("env").arg(manager.variable()).args(["sh", "-c", &script]));
    let status = manager.wait_for("STATUS=listening on ");
    let address = status.split(' ').nth(2).unwrap().parse().unwrap();
    let client = connected(address);
    for number in 0..300 {
        let packet = format!("{{\"number\":{number},\"text\":\"a line of the log\"}}");
        assert_eq!(ask(&client, packet.as_bytes()), packet.as_bytes());
    }
    wait_for("the count of dropped lines", || {
        let status = manager.wait_for("STATUS=");
        (!status.contains("log lines dropped 0")).then_some(())
    });
    assert_eq!(ask(&client, b"1"), b"1");
    process.signal("TERM");
    assert_eq!(process.finish().code(), Some(0));
}

/// A program on a terminal of its own, which is gone once the process that made it has ended; with its own number.
fn on_a_terminal(script: &str) -> (Running, u32) {
    let mut terminal = Running::start(Command::new("script").args(["-qfec", script, "/dev/null"]));
    loop {
        // The terminal shows its log.
        let line = terminal.next_output();
        if line.contains("settings read from ") {
            break;
        }
    }
    let pid = terminal.pid();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    (terminal, children.trim().parse().unwrap())
}

#[test]
fn a_daemon_in_the_foreground_stops_with_its_terminal_unless_it_ignored_hangups() {
    need!(has_program("script"), "script, to make a terminal");
    let settings = temporary_file("settings.toml", "");
    let command = format!("{PROGRAM} --listen 127.0.0.1:0 --config {}", settings.display());
    // Whoever runs the tests may ignore hangups, as nohup(1) does.
    let (terminal, pid) = on_a_terminal(&format!("exec env --default-signal=HUP {command}"));
    terminal.signal("KILL");
    wait_for("its end", || std::fs::metadata(format!("/proc/{pid}")).is_err().then_some(()));

    let log = temporary_folder().join("log");
    let (terminal, pid) = on_a_terminal(&format!("trap '' HUP; exec {command} 2>&1 | tee {}", log.display()));
    // That one is the shell, whose first child is the daemon.
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let daemon: u32 = children.split(' ').next().unwrap().parse().unwrap();
    sh(format!("kill -HUP {daemon}")).success();
    wait_for("a reload", || std::fs::read_to_string(&log).unwrap().contains("settings reloaded").then_some(()));
    sh(format!("kill -TERM {daemon}")).success();
    drop(terminal);
    wait_for("its end", || std::fs::metadata(format!("/proc/{daemon}")).is_err().then_some(()));
}

/// The daemon with these faults injected into its system calls.
fn with_faults(faults: &[&str]) -> Daemon {
    let mut words = vec!["strace", "-f", "-q", "-o", "/dev/null"];
    words.extend(faults);
    DaemonCommand::default().wrapped(&words).listen("127.0.0.1:0").settings("").start()
}

/// Stops a daemon whose loops are not woken, for the write to their eventfd fails this often; returns its log.
fn stopped_without_wake_ups(when: &str) -> String {
    let fault = format!("inject=write:error=EIO:when={when}");
    let mut daemon = with_faults(&["-P", "anon_inode:[eventfd]", "-e", "trace=write", "-e", &fault]);
    assert_eq!(ask(&connected(daemon.at("127.0.0.1")), b"1"), b"1");
    daemon.process.end_child();
    let finished = daemon.process.finish();
    assert_eq!(finished.code(), Some(0), "{when}: {finished:?}");
    assert!(finished.err.contains("stopped: received=1"), "{when}: {finished:?}");
    finished.err
}

#[test]
fn a_loop_that_cannot_be_woken_keeps_no_process() {
    need!(has_program("strace"), "strace, to inject faults");
    stopped_without_wake_ups("1");
    // A loop that happens to be awake sees the request by itself.
    let is_left_behind = || {
        let log = stopped_without_wake_ups("1+");
        log.contains("the server did not stop within 4 s, exiting anyway").then_some(())
    };
    wait_for("a loop that sleeps", is_left_behind);
}

#[test]
fn a_call_of_control_that_does_not_return_keeps_no_process_and_delays_no_echo() {
    need!(has_program("strace"), "strace, to inject faults");
    // Which control makes once a second, for the kernel's drops; at the start it makes some ten.
    let mut daemon = with_faults(&["-e", "trace=getsockopt", "-e", "inject=getsockopt:delay_enter=60000000:when=20"]);
    let pid = daemon.process.pid();
    let child = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let client = connected(daemon.at("127.0.0.1"));
    let control = std::fs::read_dir(format!("/proc/{}/task", child.trim())).unwrap().map(|task| task.unwrap().path());
    let control = control.into_iter().find(|task| std::fs::read_to_string(task.join("comm")).unwrap() == "control\n");
    let status = control.unwrap().join("status");
    let stands_still = || {
        assert_eq!(ask(&client, b"1"), b"1");
        std::fs::read_to_string(&status).unwrap().contains("State:\tt")
    };
    wait_for("a call that does not return", || {
        // Makes another call.
        sh(format!("kill -USR1 {}", child.trim())).success();
        (0..50).all(|_| stands_still()).then_some(())
    });
    daemon.process.end_child();
    assert_eq!(ask(&client, b"2"), b"2");
    let last = daemon.wait_for_line("not stopped within");
    assert_eq!(last, "echo-udpd: not stopped within 8 s, exiting anyway");
    // Its tracer holds the thread that stands still until the delay is over; the process has ended.
    let status = format!("/proc/{}/status", child.trim());
    wait_for("its end", || std::fs::read_to_string(&status).unwrap().contains("State:\tZ").then_some(()));
}

#[test]
fn without_journald_the_log_goes_to_standard_error() {
    need!(is_root() && has_program("unshare"), "root and unshare, to take journald's socket away");
    let wrapper = ["unshare", "--mount", "sh", "-ec", "mount -t tmpfs none /run; exec \"$@\"", "sh"];
    let mut daemon =
        DaemonCommand::default().wrapped(&wrapper).listen("127.0.0.1:0").settings("[log]\ntarget = 'journald'").start();
    let line = daemon.wait_for_line("journald is not available");
    assert!(line.ends_with("(No such file or directory (os error 2)): logging to standard error"), "{line}");
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn a_terminal_that_shows_no_colours_gets_none() {
    need!(has_program("script"), "script, to make a terminal");
    let output = |term: &str| {
        let script = format!("TERM={term} exec {PROGRAM} --listen 127.0.0.1:0 --config /dev/null");
        let (terminal, pid) = on_a_terminal(&script);
        sh(format!("kill -TERM {pid}")).success();
        let finished = terminal.finish();
        assert_eq!(finished.code(), Some(0));
        assert!(finished.out.contains("stopped: "), "{finished:?}");
        finished.out
    };
    assert!(output("xterm").contains('\u{1b}'));
    assert!(!output("dumb").contains('\u{1b}'));
}
