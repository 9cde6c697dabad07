//! What the fuzzer began with and what it found, replayed: every input in `tests/fuzz/corpus`.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic anywhere")]

use std::collections::HashSet;
use std::path::Path;

use echo_udpd::stats::DropReason;
use proptest::prelude::*;

#[path = "fuzz/properties.rs"]
mod properties;

/// The inputs of a target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|file| std::fs::read(file).unwrap()).collect()
}

fn replay(target: &str, property: impl Fn(&[u8])) {
    let inputs = corpus(target);
    assert!(!inputs.is_empty());
    inputs.iter().for_each(|input| property(input));
}

#[test]
fn settings_hold_their_property() {
    replay("settings", properties::settings);
}

#[test]
fn the_shipped_settings_are_in_the_corpus() {
    assert_eq!(include_str!("fuzz/corpus/settings/shipped"), include_str!("../config/echo-udpd.toml"));
}

/// What settings files are made of, well and badly put together.
const WORDS: [&str; 48] = [
    "listen",
    "listen=",
    "[[listen]]",
    "address",
    "protocol=",
    "{address='[::]:7'",
    "raw",
    "workers",
    "receive-buffer-bytes",
    "receive_buffer_bytes",
    "log",
    "level",
    "rate-limit",
    "burst",
    "exempt",
    "per-second",
    "access",
    "deny",
    "requests",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    "\n",
    "\n",
    "\n",
    " ",
    ",",
    ".",
    "'",
    "\"",
    "\"\"\"",
    "\\",
    "#",
    "1",
    "0x",
    "-",
    "1e999",
    "true",
    "info",
    "8MiB",
    "'[::]:9000'",
    "'192.0.2.0/24'",
    "\u{e9}",
    "\u{202e}\r",
];

proptest! {
    #[test]
    fn settings_hold_their_property_whatever_the_text(
        words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..40),
    ) {
        properties::settings(words.concat().as_bytes());
    }

    #[test]
    fn settings_hold_their_property_whatever_is_changed_in_the_shipped_file(
        changes in prop::collection::vec(
            (any::<prop::sample::Index>(), 0..4usize, prop::sample::select(&WORDS[..])), 1..5,
        ),
    ) {
        let mut text = include_str!("../config/echo-udpd.toml").as_bytes().to_vec();
        for (place, removed, word) in changes {
            let at = place.index(text.len());
            let end = (at + removed).min(text.len());
            text.splice(at..end, word.bytes());
        }
        properties::settings(&text);
    }
}

#[test]
fn printable_holds_its_property() {
    replay("printable", properties::printable);
}

#[test]
fn control_messages_hold_their_property() {
    replay("control", properties::control);
}

#[test]
fn datagrams_hold_their_property_and_reach_every_reason() {
    let reached: HashSet<DropReason> =
        corpus("datagrams").iter().flat_map(|input| properties::reasons(&properties::run_datagrams(input))).collect();
    let missing: Vec<_> = DropReason::ALL.into_iter().filter(|reason| !reached.contains(reason)).collect();
    assert!(missing.is_empty(), "no input reaches {missing:?}");
}
