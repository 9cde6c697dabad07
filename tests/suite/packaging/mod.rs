//! What the package ships besides the programs says what the programs do.
//!
//! `ECHO_UDPD_WRITE=1 cargo test --test suite packaging` writes again what is generated.

mod generated;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use echo_udpd::{client_program, daemon, message_id};

use crate::harness::{Daemon, has_program, is_root, need, provided, run, temporary_folder};

fn packaging(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(path)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Holds a file against what it should be, or writes it when asked to.
fn assert_current(path: &str, expected: &str) {
    let path = packaging(path);
    if std::env::var_os("ECHO_UDPD_WRITE").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{} is not current: run ECHO_UDPD_WRITE=1 cargo test --test suite packaging, and look at the difference",
        path.display()
    );
}

const PAGES: [&str; 3] = ["man/echo-udp.1", "man/echo-udpd.8", "man/echo-udpd.toml.5"];

#[test]
fn man_pages_are_those_of_this_version_with_its_options_and_settings() {
    for page in PAGES {
        let text = read(&packaging(page));
        let version = format!("\"echo\\-udpd {}\"", env!("CARGO_PKG_VERSION"));
        assert!(text.lines().next().unwrap().contains(&version), "{page} is not of version {version}");
        assert_current(page, &generated::fill_in(&text));
    }
}

#[test]
fn man_pages_are_well_formed() {
    need!(has_program("mandoc"), "mandoc");
    for page in PAGES {
        let found = run(Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(packaging(page)));
        assert_eq!((found.code(), &*found.out), (Some(0), ""), "{page}");
    }
}

/// A section of a man page, as its reader sees it.
fn section(page: &str, name: &str) -> String {
    let text = read(&packaging(page)).replace("\\-", "-");
    let section = text.split_once(&format!("\n.SH {name}\n")).unwrap_or_else(|| panic!("{page} has no {name}")).1;
    section.split("\n.SH ").next().unwrap().to_owned()
}

#[test]
fn synopses_name_every_option() {
    let client = client_program::command_line();
    let send = client.find_subcommand("send").unwrap().clone();
    for (page, command) in [("man/echo-udpd.8", daemon::command_line()), ("man/echo-udp.1", send)] {
        let synopsis = section(page, "SYNOPSIS");
        for option in command.get_opts().filter(|option| !["help", "version"].contains(&option.get_id().as_str())) {
            let name = option.get_long().map(|long| format!("--{long}"));
            let name = name.unwrap_or_else(|| format!("-{}", option.get_short().unwrap()));
            assert!(synopsis.contains(&name), "{name} is not in the synopsis of {page}: {synopsis}");
        }
    }
}

#[test]
fn the_man_page_explains_every_counter() {
    let counters = Daemon::start().counters();
    let page = section("man/echo-udpd.8", "COUNTERS").replace("\\fB", " ").replace("\\fR", " ");
    for name in counters.names() {
        let is_word = |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name);
        assert!(is_word(&page), "{name} is not among the COUNTERS of echo-udpd(8)");
    }
}

#[test]
fn sysctl_sets_what_the_shipped_file_says() {
    need!(is_root(), "root");
    need!(has_program("sysctl"), "sysctl of procps");
    need!(has_program("unshare"), "unshare of util-linux");
    let folder = temporary_folder();
    let neighbours = ["ipv4/neigh/default", "ipv4/neigh/eth0", "ipv6/neigh/default", "ipv6/neigh/eth0"];
    let mut keys: Vec<_> = ["core/rmem_max", "core/wmem_max"].map(|key| (folder.join(key), "8388608")).into();
    keys.extend(neighbours.map(|of| (folder.join(of).join("unres_qlen_bytes"), "8192")));
    for (file, _) in &keys {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "212992\n").unwrap();
    }
    // The host's own are not touched: files stand in for them.
    let script = "mount --bind \"$0\" /proc/sys/net && exec sysctl --load=\"$1\"";
    let mut sysctl = Command::new("unshare");
    sysctl.args(["--mount", "sh", "-c", script]).arg(&folder).arg(packaging("sysctl.d/echo-udpd.conf"));
    run(&mut sysctl).success();
    for (file, value) in &keys {
        assert_eq!(read(file).trim_end(), *value, "{}", file.display());
    }
}

#[test]
fn completions_are_current() {
    for (name, command) in [("echo-udpd", daemon::command_line()), ("echo-udp", client_program::command_line())] {
        for shell in generated::SHELLS {
            let (file, text) = generated::completion(shell, command.clone(), name);
            assert_current(&format!("completions/{file}"), &text);
        }
    }
}

/// What bash offers for the last of these words.
fn complete_in_bash(words: &[&str]) -> String {
    let script = r#"
        . "$0"
        function=$(complete -p "$1" | sed 's/.*-F \([^ ]*\).*/\1/')
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        "$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let file = packaging("completions").join(words[0]);
    run(Command::new("bash").args(["-c", script]).arg(file).args(words)).success()
}

#[test]
fn completions_complete() {
    need!(has_program("bash"), "bash");
    assert_eq!(complete_in_bash(&["echo-udpd", "--pr"]), "--print-config\n");
    assert_eq!(complete_in_bash(&["echo-udp", "se"]), "send\n");
    assert_eq!(complete_in_bash(&["echo-udp", "send", "--ho"]), "--host\n");
    need!(has_program("fish"), "fish");
    let script = format!("source {}; complete -C 'echo-udpd --pr'", packaging("completions/echo-udpd.fish").display());
    let offered = run(Command::new("fish").args(["-c", &script])).success();
    assert!(offered.starts_with("--print-config\t"), "{offered}");
}

#[test]
fn completions_are_well_formed() {
    for (shell, files) in [("zsh", ["_echo-udpd", "_echo-udp"]), ("fish", ["echo-udpd.fish", "echo-udp.fish"])] {
        let files = if provided(has_program(shell), shell) { &files[..] } else { &[] };
        for file in files {
            run(Command::new(shell).arg("-n").arg(packaging("completions").join(file))).success();
        }
    }
}

#[test]
fn every_message_has_an_entry_in_the_catalog_and_no_other_is_there() {
    let catalog = read(&packaging("systemd/echo-udpd.catalog"));
    let entries: BTreeSet<&str> =
        catalog.lines().filter_map(|line| line.strip_prefix("-- ")?.split(' ').next()).collect();
    assert_eq!(entries, message_id::ALL.iter().copied().collect());
    for entry in catalog.split("\n-- ").skip(1) {
        let (header, text) = entry.split_once("\n\n").unwrap();
        assert!(header.contains("Subject: ") && header.contains("Defined-By: echo-udpd"), "{entry}");
        assert!(text.trim().len() > 40, "tell the operator what to do: {entry}");
    }
}
