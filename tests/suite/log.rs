//! A log whose reader stands still delays no echo, and tells exactly what was lost.

use std::io::Read;
use std::process::{Child, Stdio};

use crate::harness::journal::Journal;
use crate::harness::process::lines;
use crate::harness::{DEADLINE, Daemon, DaemonCommand, ask, connected, need, sh};

/// More lines than the queue and any pipe or socket buffer hold.
const REQUESTS: usize = 30_000;

/// Sends the requests one by one: each reply is there before the next is sent.
fn send_requests(daemon_port: u16) {
    let client = connected(([127, 0, 0, 1], daemon_port).into());
    for number in 0..REQUESTS {
        let packet = format!("{{\"number\":{number}}}");
        assert_eq!(ask(&client, packet.as_bytes()), packet.as_bytes());
    }
}

#[test]
fn a_pipe_that_nobody_reads_delays_no_echo_and_the_dropped_lines_are_counted() {
    let settings = "[log]\nrequests-per-second = 0\ntarget = 'stderr'";
    let (mut command, _) = DaemonCommand::default().settings(settings).listen("[::]:0").command();
    let mut child = Killed(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut log = child.0.stderr.take().unwrap();
    // From here on nobody reads.
    let listening = line_with("listening on ", &mut log);
    let port = listening.split_once("listening on [::]:").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    send_requests(port.unwrap_or_else(|| panic!("no port in {listening}")));

    // Now it is read: each line is there, or counted.
    let lines = lines(log);
    let (mut shown, mut lost) = (0, 0);
    while shown + lost < REQUESTS {
        let line = lines.recv_timeout(DEADLINE).unwrap();
        if let Some(dropped) = line.strip_prefix("dropped ") {
            lost += dropped.split(' ').next().unwrap().parse::<usize>().unwrap();
        } else if line.contains(" sent {\"number\":") {
            shown += 1;
        }
    }
    assert!(lost > 0, "the pipe held everything");
    assert_eq!(shown + lost, REQUESTS);
    sh(format!("kill -TERM {}", child.0.id())).success();
    let totals = lines.iter().find(|line| line.contains("stopped: ")).unwrap();
    assert!(totals.ends_with(&format!(" log_dropped={lost}")), "{totals}");
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
}

/// Reads a log up to the line with this text, and not a byte of the next.
fn line_with(text: &str, log: &mut impl Read) -> String {
    let (mut line, mut byte) = (Vec::new(), [0]);
    loop {
        log.read_exact(&mut byte).unwrap();
        if byte != *b"\n" {
            line.push(byte[0]);
        } else if line.windows(text.len()).any(|part| part == text.as_bytes()) {
            return String::from_utf8(line).unwrap();
        } else {
            line.clear();
        }
    }
}

/// A child that is killed when a test ends early.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_journal_socket_that_nobody_reads_delays_no_echo_and_the_fields_are_exact() {
    need!(Journal::possible(), "root and unshare, to put a socket where journald's is");
    let journal = Journal::new();
    let command = DaemonCommand::default().settings("[log]\nrequests-per-second = 0\ntarget = 'journald'");
    let (mut command, _) = journal.read_by(command.listen("[::]:0")).command();
    let child = Killed(command.spawn().unwrap());

    let listening = journal.next();
    assert_eq!(listening["PRIORITY"], "6");
    assert_eq!(listening["SYSLOG_IDENTIFIER"], "echo-udpd");
    assert_eq!(listening["MESSAGE_ID"].len(), 32);
    let port: u16 = listening["LOCAL_PORT"].parse().unwrap();
    assert_eq!(listening["MESSAGE"], format!("listening on [::]:{port} (IPv6 and IPv4), protocol json"));
    assert!(journal.next()["MESSAGE"].starts_with("receive buffer of "));

    // The socket's queue is short: from here on the writer stands still.
    send_requests(port);

    // Now it is read again: nothing is told twice, and what is missing is counted.
    let (mut shown, mut lost) = (0, 0);
    while shown + lost < REQUESTS {
        let entry = journal.next();
        if let Some(dropped) = entry.get("LOG_DROPPED") {
            assert_eq!(entry["PRIORITY"], "4");
            assert_eq!(entry["MESSAGE"], format!("dropped {dropped} log lines: journald did not keep up"));
            lost += dropped.parse::<usize>().unwrap();
        } else if entry["MESSAGE"].contains(" sent ") {
            assert_eq!(entry["MESSAGE"], format!("127.0.0.1 sent {{\"number\":{shown}}}"), "in order up to the loss");
            assert_eq!((&*entry["PEER_ADDRESS"], &*entry["LOCAL_ADDRESS"]), ("127.0.0.1", "127.0.0.1"));
            assert_eq!(entry["LOCAL_PORT"], port.to_string());
            assert_eq!(entry["BYTES"], format!("{{\"number\":{shown}}}").len().to_string());
            assert!(entry["PEER_PORT"].parse::<u16>().unwrap() > 0 && !entry.contains_key("MESSAGE_ID"));
            shown += 1;
        }
    }
    assert!(lost > 0, "the socket held everything");
    assert_eq!(shown + lost, REQUESTS);
    sh(format!("kill -USR1 {}", child.0.id())).success();
    let counters = journal.find("counters: ");
    assert!(counters["MESSAGE"].ends_with(&format!(" log_dropped={lost}")), "{counters:?}");
}

#[test]
fn requests_beyond_the_rate_are_one_line_a_second_with_their_number() {
    let mut daemon = Daemon::with_settings("[log]\nrequests-per-second = 1");
    let client = connected(daemon.at("127.0.0.1"));
    for _ in 0..50 {
        assert_eq!(ask(&client, b"7"), b"7");
    }
    daemon.wait_for_line(" (over log.requests-per-second)");
    let finished = daemon.stop();
    let shown = finished.err.lines().filter(|line| line.ends_with("127.0.0.1 sent 7")).count();
    let summed: usize = finished
        .err
        .lines()
        .filter(|line| line.contains(" (over log.requests-per-second)"))
        .map(|line| line.split_whitespace().find_map(|word| word.parse::<usize>().ok()).unwrap())
        .sum();
    assert!(shown >= 5, "{shown} shown");
    assert_eq!(shown + summed, 50);
}

#[test]
fn a_forged_line_stays_within_its_own() {
    let mut daemon = Daemon::start();
    let client = connected(daemon.at("127.0.0.1"));
    let forged = "{\"a\":\n\"\u{1b}[2J\u{202e}\u{85}\",\r\n\"b\":1}\n2026-01-01T00:00:00Z  INFO 192.0.2.1 sent {}";
    client.send(forged.as_bytes()).unwrap();
    let valid = "{\"a\":\n\"\u{7f}\u{202e}\u{85}\"\r\n}\n";
    client.send(valid.as_bytes()).unwrap();
    daemon.wait_for_line("127.0.0.1 sent {\"a\": \"\\u007f\\u202e\\u0085\" }");
    let finished = daemon.stop();
    assert!(finished.err.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)));
    // What looks like a line of its own is the end of another.
    let forged: Vec<_> = finished.err.lines().filter(|line| line.contains("192.0.2.1")).collect();
    assert_eq!(forged.len(), 1, "{forged:?}");
    assert!(forged[0].contains(" INFO 127.0.0.1:") && forged[0].contains("sent an invalid packet ("), "{forged:?}");
}
