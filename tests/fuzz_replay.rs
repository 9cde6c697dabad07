//! What the fuzzer began with and what it found, replayed: every input in `tests/fuzz/corpus`.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic anywhere")]

use std::collections::HashSet;
use std::path::Path;

use echo_udpd::ledger::DropReason;

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
