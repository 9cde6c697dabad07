//! The daemon's contract: command line, exit statuses, signals, reload.

use std::process::Command;

use crate::harness::{
    Daemon, DaemonCommand, Finished, ask, connected, has_program, is_root, is_silent, need, run, temporary_file,
};

fn echo_udpd(words: &[&str]) -> Finished {
    run(Command::new(env!("CARGO_BIN_EXE_echo-udpd")).args(words))
}

#[test]
fn a_second_daemon_on_the_port_exits_1_and_names_the_address() {
    for workers in [1, 2] {
        let settings = format!("workers = {workers}");
        let daemon = Daemon::with_settings(&settings);
        let address = format!("[::]:{}", daemon.port());
        let (mut second, _) = DaemonCommand::default().settings(&settings).listen(&address).command();
        let second = run(&mut second);
        assert_eq!(second.code(), Some(1), "workers = {workers}: {second:?}");
        assert_eq!(second.err, format!("echo-udpd: bind {address}: address in use"));
        assert_eq!(ask(&connected(daemon.at("127.0.0.1")), b"1"), b"1");
    }
}

#[test]
fn two_workers_both_answer_and_share_one_port() {
    let mut daemon = Daemon::with_settings("workers = 2");
    for _ in 0..64 {
        assert_eq!(ask(&connected(daemon.at("127.0.0.1")), b"[2]"), b"[2]");
    }
    let counters = daemon.counters();
    assert_eq!((counters.of("received"), counters.of("echoed")), (64, 64));
    let threads = std::fs::read_dir(format!("/proc/{}/task", daemon.process.pid())).unwrap();
    let names: Vec<_> = threads
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap().trim().to_owned())
        .collect();
    assert!(names.contains(&"worker-1".into()) && names.contains(&"worker-2".into()), "{names:?}");
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn several_listeners_answer_each_on_its_own_port() {
    let daemon = DaemonCommand::default().listen("127.0.0.1:0").listen("127.0.0.2:0").listen("[::1]:0").start();
    assert_eq!(daemon.addresses.len(), 3);
    for &address in &daemon.addresses {
        assert_eq!(ask(&connected(address), b"{}"), b"{}");
    }
}

#[test]
fn an_address_that_the_host_does_not_have_yet_can_be_listened_on() {
    // TEST-NET-3 (RFC 5737) is nobody's.
    let daemon = DaemonCommand::default().listen("203.0.113.9:0").start();
    assert_eq!(daemon.addresses[0].ip().to_string(), "203.0.113.9");
}

#[test]
fn our_own_ports_and_port_zero_get_no_answer() {
    let mut daemon = DaemonCommand::default().listen("127.0.0.1:0").listen("127.0.0.2:0").start();
    let (first, second) = (daemon.addresses[0], daemon.addresses[1]);
    // A client on 127.0.0.3 whose port is the one that we listen on at 127.0.0.2: the reply could loop.
    let twin = std::net::UdpSocket::bind(("127.0.0.3", second.port())).unwrap();
    twin.connect(first).unwrap();
    twin.send(b"1").unwrap();
    assert_eq!(ask(&connected(first), b"2"), b"2");
    assert!(is_silent(&twin));
    let counters = daemon.counters();
    assert_eq!(counters.of("dropped_source_port"), 1);
    counters.assert_balance();
}

#[test]
fn sigterm_and_sigint_stop_it_with_the_totals() {
    for signal in ["TERM", "INT"] {
        let daemon = Daemon::start();
        assert_eq!(ask(&connected(daemon.at("127.0.0.1")), b"null"), b"null");
        daemon.process.signal(signal);
        let finished = daemon.process.finish();
        assert_eq!(finished.code(), Some(0));
        let totals = finished.err.lines().last().unwrap();
        assert!(totals.contains("stopped: received=1 handled=1 echoed=1 error_replies=0"), "{totals}");
        assert!(totals.ends_with("log_dropped=0"), "{totals}");
    }
}

#[test]
fn a_reload_takes_effect_at_once() {
    let mut daemon = Daemon::with_settings("");
    let client = connected(daemon.at("127.0.0.1"));
    assert_eq!(ask(&client, b"nonsense"), br#"{"error":"Invalid JSON","code":"parse_error"}"#);
    assert_eq!(ask(&client, br#"{"first":1}"#), br#"{"first":1}"#);
    daemon.wait_for_line(r#"127.0.0.1 sent {"first":1}"#);

    daemon.reload("[reply]\ninvalid-json = 'ignore'\n[log]\nmax-payload-bytes = 16");
    daemon.wait_for_line("settings reloaded");
    client.send(b"nonsense").unwrap();
    assert_eq!(ask(&client, b"[\"a long text that is cut\"]"), b"[\"a long text that is cut\"]");
    assert!(is_silent(&client));
    daemon.wait_for_line(r#"sent ["a long text th ... (11 bytes left out)"#);
    let counters = daemon.counters();
    assert_eq!((counters.of("dropped_invalid"), counters.of("error_replies")), (1, 1));
    counters.assert_balance();

    daemon.reload("[log]\nrequests = false");
    daemon.wait_for_line("settings reloaded");
    daemon.process.forget_lines();
    assert_eq!(ask(&client, b"\"not told\""), b"\"not told\"");
    let finished = daemon.stop();
    assert!(!finished.err.contains("not told"), "{}", finished.err);
}

#[test]
fn a_bad_reload_keeps_the_running_settings_and_says_why() {
    let mut daemon = Daemon::with_settings("[reply]\ninvalid-json = 'ignore'");
    daemon.reload("[reply]\ninvalid-json = 'maybe'");
    let line = daemon.wait_for_line("reload failed");
    assert!(
        line.contains("echo-udpd.toml:2:16: reply.invalid-json: expected \"error\" or \"ignore\", not 'maybe'"),
        "{line}"
    );
    assert!(line.ends_with("keeping the running settings"), "{line}");
    let client = connected(daemon.at("127.0.0.1"));
    client.send(b"nonsense").unwrap();
    assert_eq!(ask(&client, b"1"), b"1");
    assert!(is_silent(&client));
}

#[test]
fn a_reload_names_what_needs_a_restart_and_goes_on() {
    let mut daemon = DaemonCommand::default().settings("").listen("127.0.0.1:0").start();
    daemon.reload("workers = 2\nlisten = ['127.0.0.1:1']\n[reply]\nprotocol = 'raw'");
    let line = daemon.wait_for_line("need a restart to take effect");
    // The command line's address wins over the file's, so that `listen` has not changed.
    assert!(line.ends_with("need a restart to take effect: workers, reply.protocol"), "{line}");
    assert_eq!(ask(&connected(daemon.at("127.0.0.1")), b"1"), b"1");
}

#[test]
fn raw_mode_echoes_any_bytes_and_shows_them_escaped() {
    let mut daemon = Daemon::with_settings("[reply]\nprotocol = 'raw'");
    let client = connected(daemon.at("127.0.0.1"));
    assert_eq!(ask(&client, b"\x00\xff{\n"), b"\x00\xff{\n");
    assert_eq!(ask(&client, b""), b"");
    daemon.wait_for_line(r"127.0.0.1 sent \x00\xff{\x0a");
    let counters = daemon.counters();
    assert_eq!((counters.of("echoed"), counters.of("error_replies")), (2, 0));
}

#[test]
fn a_bad_settings_file_exits_78_with_path_line_column_and_what_was_expected() {
    let file = temporary_file("bad.toml", "workers = 1\n[log]\nlevel = 'loud'\n");
    let path = file.to_str().unwrap();
    let expected = format!(
        "echo-udpd: {path}:3:9: log.level: expected \"error\", \"warn\", \"info\", \"debug\" or \"trace\", not 'loud'"
    );
    for words in [&["-c", path][..], &["--config", path, "--check"], &["-c", path, "--print-config"]] {
        let finished = echo_udpd(words);
        assert_eq!((finished.code(), &*finished.err, &*finished.out), (Some(78), &*expected, ""), "{words:?}");
    }
    let missing = echo_udpd(&["-c", "/nonexistent/echo-udpd.toml"]);
    assert_eq!(missing.code(), Some(78));
    assert_eq!(missing.err, "echo-udpd: read /nonexistent/echo-udpd.toml: No such file or directory (os error 2)");
}

#[test]
fn check_is_silent_about_a_good_file_and_print_config_reads_back() {
    let file = temporary_file("good.toml", "listen = ['127.0.0.1:7007']\n[log]\nrequests-per-second = 0\n");
    let path = file.to_str().unwrap();
    let checked = echo_udpd(&["--check", "-c", path]);
    assert_eq!((checked.code(), &*checked.out, &*checked.err), (Some(0), "", ""));
    let printed = echo_udpd(&["--print-config", "-c", path]).success();
    assert!(printed.contains("listen = [\"127.0.0.1:7007\"]") && printed.contains("requests-per-second = 0"));
    let again = temporary_file("again.toml", &printed);
    assert_eq!(echo_udpd(&["--print-config", "-c", again.to_str().unwrap()]).success(), printed);
    let overridden = echo_udpd(&["--print-config", "-c", path, "--listen", "[::1]:1", "-l", "127.0.0.1:2"]).success();
    assert!(overridden.contains("listen = [\"[::1]:1\", \"127.0.0.1:2\"]"), "{overridden}");
}

#[test]
fn a_wrong_command_line_exits_2() {
    for words in [&["--listen", "nowhere"][..], &["--nonsense"], &["-l", "[::1]:1", "-l", "[::1]:1"], &["word"]] {
        let finished = echo_udpd(words);
        assert_eq!(finished.code(), Some(2), "{words:?}: {finished:?}");
        assert!(finished.err.starts_with("error: "), "{finished:?}");
    }
    assert_eq!(echo_udpd(&["--version"]).success().trim(), format!("echo-udpd {}", env!("CARGO_PKG_VERSION")));
    assert!(echo_udpd(&["--help"]).success().contains("SIGHUP reloads"));
}

#[test]
fn a_port_that_needs_a_privilege_gets_a_hint() {
    need!(is_root() && has_program("setpriv"), "root and setpriv, to take privileges away");
    need!(
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
            .is_ok_and(|port| port.trim() == "1024"),
        "ports below 1024 that need a privilege"
    );
    let (mut command, _) = DaemonCommand::default()
        .wrapped(&["setpriv", "--bounding-set=-all", "--inh-caps=-all"])
        .listen("127.0.0.1:7")
        .command();
    let refused = run(&mut command);
    assert_eq!(refused.code(), Some(1), "{refused:?}");
    assert!(
        refused.err.starts_with("echo-udpd: bind 127.0.0.1:7: permission denied; a port below 1024 needs"),
        "{refused:?}"
    );
    assert!(refused.err.contains("CAP_NET_BIND_SERVICE"), "{refused:?}");
}

#[test]
fn small_buffers_are_reported_with_the_sysctls_to_set() {
    need!(is_root() && has_program("setpriv"), "root and setpriv, to take privileges away");
    let wrapper = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let settings = "receive-buffer-bytes = 1000000000\nsend-buffer-bytes = 1000000000";
    let mut daemon = DaemonCommand::default().wrapped(&wrapper).settings(settings).start();
    let line = daemon.wait_for_line("receive buffer of");
    assert!(line.contains(" of 1000000000 bytes (about "), "{line}");
    assert!(line.ends_with("raise net.core.rmem_max to 1000000000"), "{line}");
    let line = daemon.wait_for_line("send buffer of");
    assert!(line.contains(" of 1000000000 bytes (replies to neighbours"), "{line}");
    assert!(line.ends_with("raise net.core.wmem_max to 1000000000"), "{line}");
}

#[test]
fn exempt_sources_are_warned_of_with_the_loop_that_they_allow() {
    let mut daemon = Daemon::with_settings("[rate-limit]\nexempt = ['192.0.2.0/24', '2001:db8::1']");
    let line = daemon.wait_for_line("WARN exempt from the rate limit");
    assert!(line.contains("limit: 192.0.2.0/24, 2001:db8::1; so is anyone who can spoof these addresses"), "{line}");
    assert!(line.ends_with("an echo service there could loop with this one at full speed"), "{line}");
    // However many there are, the line is short.
    let many: Vec<_> = (0..1000).map(|number| format!("'10.{}.{}.0/24'", number / 250, number % 250)).collect();
    let mut daemon = Daemon::with_settings(&format!("[rate-limit]\nexempt = [{}]", many.join(", ")));
    let line = daemon.wait_for_line("WARN exempt from the rate limit");
    assert!(line.contains("10.0.7.0/24 and 992 more; "), "{line}");
}
