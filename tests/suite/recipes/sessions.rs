//! What README shows of a session is what the programs print, but for figures of a moment and of a host.

use std::process::Command;

use super::documents::{blocks, read, recipes};
use super::steps::FILE;
use crate::harness::container::{Container, releases};
use crate::harness::namespace::Namespace;
use crate::harness::{DaemonCommand, Running, has_program, need, run, temporary_file, wait_for};

/// The headings of README below which there are sessions.
const SESSIONS: [&str; 3] = ["## A session with netcat", "## As a service of systemd", "## Settings"];

/// A command of a session and what README shows below it.
struct Shown {
    command: String,
    output: Vec<String>,
}

/// The commands of a block, each with its output.
fn session(block: &str) -> Vec<Shown> {
    let mut shown: Vec<Shown> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => shown.push(Shown { command: command.to_owned(), output: Vec::new() }),
            None => shown.last_mut().expect("a block begins with a command").output.push(line.to_owned()),
        }
    }
    shown
}

/// Without CAP_NET_ADMIN, as a program that somebody tries or the service runs: the kernel's limits hold.
const UNPRIVILEGED: &str = "setpriv --inh-caps=-net_admin --bounding-set=-net_admin";

/// Returns whether the line is of a buffer that this kernel grants as a whole: README shows one that does not.
fn is_of_whole_buffer(line: &str) -> bool {
    let limits = [("receive buffer of [::]:9000: ", "rmem_max"), ("send buffer of [::]:9000: ", "wmem_max")];
    limits.iter().any(|(buffer, limit)| {
        let granted = || std::fs::read_to_string(format!("/proc/sys/net/core/{limit}")).unwrap();
        line.contains(buffer) && granted().trim_end().parse::<u64>().unwrap() >= 8_388_608
    })
}

/// A line without what differs from host to host and from moment to moment: times, process numbers, rates, and the
/// buffers that the kernel grants. Every other character counts.
fn normalized(line: &str) -> String {
    let is_of_whole_buffer = is_of_whole_buffer(line);
    let mut varies_after = vec![" since ", "Main PID: "];
    varies_after.extend(is_of_whole_buffer.then_some(" buffer of [::]:9000: "));
    let end = varies_after.iter().filter_map(|mark| Some(line.find(mark)? + mark.len())).min().unwrap_or(line.len());
    let (line, warning) = (&line[..end], if is_of_whole_buffer { "INFO" } else { "WARN" });
    let mut words: Vec<String> = Vec::new();
    for word in line.split(' ') {
        let is_granted = words.last().is_some_and(|last| ["granted", "(about"].contains(&&**last));
        let is_rate = word.starts_with('(') && word.trim_end_matches(',').ends_with("/s)");
        match words.last_mut() {
            // Not always there; the comma after a figure comes after its rate.
            Some(figure) if is_rate => figure.push_str(word.split_once(')').unwrap().1),
            _ if is_granted && is_number(word) => words.push("#".into()),
            _ if word == "WARN" => words.push(warning.into()),
            _ => words.push(without_figures(word)),
        }
    }
    // A line of the journal begins with month and day.
    let words = if words.get(2).is_some_and(|word| word == "#") { &words[2..] } else { &words };
    words.join(" ")
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A word in which a time, a process number or a client's port is a `#`.
fn without_figures(word: &str) -> String {
    let is_stamp = word.len() == 27 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
    let is_time = word.len() == 8 && word.split(':').count() == 3 && word.split(':').all(is_number);
    let of_process = |rest: &str| rest.strip_suffix("]:").is_some_and(is_number);
    match word.split_once('[') {
        _ if is_stamp || is_time => "#".into(),
        _ if word.strip_prefix("[::1]:").is_some_and(is_number) => "[::1]:#".into(),
        Some((program, rest)) if of_process(rest) => format!("{program}[#]:"),
        _ => word.to_owned(),
    }
}

/// Holds what README shows against what a program printed, word for word; `...` stands for lines that are left out.
fn assert_shown(shown: &[String], printed: &str) {
    let mut printed_lines = printed.lines().map(normalized);
    let mut left_out = false;
    for line in shown {
        if line == "..." {
            left_out = true;
            continue;
        }
        let wanted = normalized(line);
        let found = if left_out { printed_lines.find(|line| *line == wanted) } else { printed_lines.next() };
        assert_eq!(found.as_deref(), Some(&*wanted), "README shows `{line}`; printed was:\n{printed}");
        left_out = false;
    }
    assert!(left_out || printed_lines.next().is_none(), "README shows less than this:\n{printed}");
}

fn sorted<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut lines: Vec<_> = lines.map(normalized).collect();
    lines.sort();
    lines
}

#[test]
fn a_changed_letter_of_a_shown_line_is_noticed() {
    let mut letters = 0;
    for block in SESSIONS.iter().flat_map(|heading| blocks(heading, "console")) {
        let lines = block.lines().filter(|line| !line.starts_with("$ ") && !is_of_whole_buffer(line));
        for line in lines.map(|line| line.split(" since ").next().unwrap()) {
            for (at, letter) in line.match_indices(char::is_alphabetic) {
                let changed = format!("{}~{}", &line[..at], &line[at + letter.len()..]);
                let is_month_or_pid = at < 7 || line.contains("Main PID: ");
                assert!(normalized(&changed) != normalized(line) || is_month_or_pid, "{line}: {letter} at {at}");
                letters += 1;
            }
        }
    }
    assert!(letters > 500, "{letters}");
}

#[test]
fn the_session_with_netcat_is_what_a_fresh_clone_prints() {
    need!(Namespace::possible(), "root, and ip of iproute2");
    need!(has_program("nc.openbsd"), "netcat-openbsd");
    need!(has_program("setpriv"), "setpriv of util-linux");
    need!(!std::path::Path::new(FILE).exists(), "a host without {FILE}");
    let host = Namespace::new();
    let mut blocks = blocks("## A session with netcat", "console").into_iter();
    let inside = |script: &str| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", host.name(), "sh", "-c", script]);
        command
    };
    // What cargo would run is the program of this build.
    let here = |command: &str| {
        let client = format!("{} send", env!("CARGO_BIN_EXE_echo-udp"));
        let command = command.replace("cargo run --release --quiet --bin echo-udp -- send", &client);
        assert!(!command.contains("cargo"), "{command}");
        command.replace("nc -u", "nc.openbsd -u")
    };

    let started = session(&blocks.next().unwrap()).remove(0);
    assert_eq!(started.command, "cargo run --release");
    let daemon = format!("exec {UNPRIVILEGED} {}", env!("CARGO_BIN_EXE_echo-udpd"));
    let mut daemon = Running::start(&mut inside(&daemon));
    daemon.find_line("what it listens on", |line| line.contains("listening on").then_some(()));
    for step in session(&blocks.next().unwrap()) {
        let printed = run(&mut inside(&here(&step.command))).success();
        // The error reply may end without a newline.
        assert_shown(&step.output, &printed);
    }
    daemon.signal("INT");
    let log = daemon.finish();
    assert_eq!(log.code(), Some(0), "{log:?}");
    let shown: Vec<String> =
        started.output.into_iter().chain(blocks.next().unwrap().lines().map(str::to_owned)).collect();
    assert_shown(&shown, &log.err);
}

#[test]
fn the_check_shows_what_readme_shows() {
    let file = temporary_file("test.toml", "");
    for step in session(&blocks("## Settings", "console").remove(0)) {
        if step.command == "cat test.toml" {
            std::fs::write(&file, step.output.join("\n")).unwrap();
            continue;
        }
        let words = step.command.strip_prefix("echo-udpd ").expect("the daemon is called");
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_echo-udpd"));
        let checked = run(daemon.args(words.split(' ')).current_dir(file.parent().unwrap()));
        assert_eq!((checked.code(), &*checked.out), (Some(78), ""));
        assert_shown(&step.output, &checked.err);
    }
}

#[test]
fn nping_gets_a_reply_from_the_port_that_readme_names_and_none_by_default() {
    need!(Namespace::possible(), "root, and ip of iproute2");
    need!(has_program("nping"), "nping of nmap");
    let host = Namespace::new();
    let mut daemon = DaemonCommand::default().listen("[::]:9000").within(&host).start();
    let recipes = recipes();
    let recipe = recipes.iter().find(|recipe| recipe.document == "README.md" && recipe.place == "The client").unwrap();
    let command = recipe.commands.iter().find(|command| command.contains(" -g ")).unwrap();
    let nping =
        |command: &str| run(Command::new("ip").args(["netns", "exec", host.name(), "sh", "-c", command])).success();
    assert!(nping(command).contains("RCVD"), "{command}");
    assert!(!nping(&command.replace(" -g 40000", "")).contains("RCVD"));
    assert_eq!(daemon.counters().of("dropped_source_port"), 1);
}

#[test]
fn the_session_as_a_service_is_what_debian_13_prints() {
    for release in releases().into_iter().filter(|release| release.name == "trixie") {
        let container = Container::boot(&release);
        container.sh("systemctl enable --now echo-udpd");
        for step in session(&blocks("## As a service of systemd", "console").remove(0)) {
            if step.command.starts_with("journalctl ") {
                container.wait_for_line("::1 sent {");
            }
            if step.command.contains("status") {
                wait_for("the status line", || container.property("StatusText").contains("received 1").then_some(()));
            }
            let printed = container.sh(&step.command);
            if step.command.starts_with("journalctl ") {
                // Lines of the service and of systemd reach the journal on different ways.
                assert_shown(&sorted(step.output.iter().map(String::as_str)), &sorted(printed.lines()).join("\n"));
            } else {
                assert_shown(&step.output, &printed);
            }
        }
    }
}

#[test]
fn readme_links_to_nothing_that_the_package_does_not_hold() {
    let readme = read("README.md");
    for (_, link) in readme.match_indices("](").map(|(at, _)| readme.split_at(at + 2)) {
        let target = link.split(')').next().unwrap();
        let heading = target.strip_prefix('#').unwrap_or_else(|| panic!("README links to {target}"));
        let is_heading = |line: &str| line.trim_start_matches(['#', ' ']).to_lowercase().replace(' ', "-") == heading;
        assert!(readme.lines().any(|line| line.starts_with('#') && is_heading(line)), "README has no {target}");
    }
}
