//! Generates what the package ships from the definitions that the programs themselves use.

use clap_complete::{Shell, generate};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use echo_udpd::stats::COUNTERS;
use echo_udpd::{client_program, daemon};

pub(super) const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

const SETTINGS: &str = include_str!("../../../config/echo-udpd.toml");

/// The file that a shell looks for, and what it holds.
pub(super) fn completion(shell: Shell, mut command: clap::Command, name: &str) -> (String, String) {
    let mut text = Vec::new();
    generate(shell, &mut command, name, &mut text);
    let file = match shell {
        Shell::Zsh => format!("_{name}"),
        Shell::Fish => format!("{name}.fish"),
        _ => name.to_owned(),
    };
    // For bash, clap_complete 4.6 names a program with a hyphen differently where it looks at subcommands.
    let (named, meant) = (name.replace('-', "__subcmd__"), name.replace('-', "__"));
    (file, String::from_utf8(text).unwrap().replace(&named, &meant))
}

/// A man page with its generated regions as they should be.
pub(super) fn fill_in(page: &str) -> String {
    let mut filled = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        filled.push_str(line);
        filled.push('\n');
        if let Some(name) = line.strip_prefix(".\\\" begin generated: ") {
            filled.push_str(&region(name));
            let end = lines.find(|line| *line == ".\\\" end generated").expect("a region has an end");
            filled.push_str(end);
            filled.push('\n');
        }
    }
    filled
}

fn region(name: &str) -> String {
    match name {
        "options" => options(&daemon::command_line()),
        "commands" => client_program::command_line().get_subcommands().map(subcommand).collect(),
        "settings" => settings(),
        "counters" => counters(),
        _ => panic!("no region {name}"),
    }
}

/// The table of all counters.
fn counters() -> String {
    let mut text = Roff::new();
    for counter in COUNTERS {
        text.control("TP", []);
        text.text([bold(counter.echo_name)]);
        let side = counter.reason.map_or("", |reason| match reason.is_before_handler() {
            true => " Before the handler.",
            false => " After the handler.",
        });
        text.text([roman(format!("{}{side}", counter.help()))]);
    }
    text.to_roff()
}

fn options(command: &clap::Command) -> String {
    let mut text = Vec::new();
    Man::new(command.clone()).render_options_section(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    text.split_once(".SH OPTIONS\n").unwrap().1.replace("\\*(Aq", "\\(aq")
}

fn subcommand(command: &clap::Command) -> String {
    let mut text = Roff::new();
    text.control("SS", [&*format!("echo-udp {}", command.get_name())]);
    let about = command.get_long_about().or_else(|| command.get_about()).unwrap().to_string();
    for (number, paragraph) in about.split("\n\n").enumerate() {
        if number > 0 {
            text.control("PP", []);
        }
        text.text([roman(paragraph.replace('\n', " "))]);
    }
    text.to_roff() + &options(command)
}

/// The shipped file: each block of comments with the keys below it.
fn settings() -> String {
    let mut text = Roff::new();
    for block in SETTINGS.split("\n\n").skip(1) {
        let (comments, lines): (Vec<_>, Vec<_>) = block.lines().partition(|line| line.starts_with('#'));
        let mut tag = "TP";
        for line in lines {
            match line.split_once(" = ") {
                Some((key, value)) => {
                    text.control(tag, []);
                    text.text([bold(key), roman(format!(" = {value}"))]);
                    tag = "TQ";
                }
                None => {
                    text.control("SS", [line]);
                }
            }
        }
        let prose: Vec<_> = comments.iter().map(|line| line.trim_start_matches("# ")).collect();
        text.text([roman(prose.join(" "))]);
    }
    text.to_roff()
}
