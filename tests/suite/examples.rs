//! The examples, run as their reader would.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Daemon, Running, ask, connected, provided, run};

/// An example's program; built with the tests.
fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_echo-udpd")).with_file_name("examples").join(name)
}

#[test]
fn both_servers_print_who_sent_what_and_send_it_back() {
    for name in ["async_server", "blocking_server"] {
        if !provided(example(name).exists(), &format!("example {name}: cargo build --examples")) {
            continue;
        }
        let mut server = Running::start(Command::new(example(name)).arg("[::]:0"));
        let line = server.next_output();
        let port: u16 = line.rsplit(':').next().unwrap().parse().unwrap();
        let client = connected(([127, 0, 0, 1], port).into());
        assert_eq!(ask(&client, b"{\"a\":[1]}"), b"{\"a\":[1]}");
        assert_eq!(server.next_output(), "127.0.0.1 sent {\"a\":[1]}");
        let error: serde_json::Value = serde_json::from_slice(&ask(&client, b"{")).unwrap();
        assert_eq!(error["code"], "parse_error");
    }
}

#[test]
fn both_clients_print_what_they_sent_and_received() {
    let daemon = Daemon::start();
    for name in ["async_client", "blocking_client"] {
        if !provided(example(name).exists(), &format!("example {name}: cargo build --examples")) {
            continue;
        }
        let server = format!("127.0.0.1:{}", daemon.port());
        let lines = run(Command::new(example(name)).args([&server, "Hello", "world!"])).success();
        let packet = r#"{"command-line arguments":["Hello","world!"]}"#;
        assert_eq!(lines, format!("Sent:     {packet}\nReceived: {packet}\n"));
    }
}
