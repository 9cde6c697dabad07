//! The real EasyNetwork: its client against our daemon, our clients against its server.

use std::path::{Path, PathBuf};
use std::process::Command;

use echo_udpd::blocking::UdpClient as BlockingClient;
use echo_udpd::client::UdpClient;
use echo_udpd::protocol::JsonProtocol;
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Daemon, Running, has_ipv6, need, run, skipped};

/// A Python that has EasyNetwork: `ECHO_UDPD_PYTHON`, else `python3`. The test is skipped where there is none.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("ECHO_UDPD_PYTHON").map_or("python3".into(), PathBuf::from);
    let imported = Command::new(&python).args(["-c", "import easynetwork"]).output();
    if imported.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    skipped("EasyNetwork from PyPI (ECHO_UDPD_PYTHON names the Python that has it)");
    None
}

fn peer(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name)
}

fn packets() -> Vec<Value> {
    let nested = (0..40).fold(json!(null), |inner, level| json!({"level": level, "inner": [inner]}));
    vec![
        json!({"command-line arguments": ["Hello", "world!"]}),
        json!({"text": "\u{e9}\u{4e16}\u{1f600}\u{202e}\n\t\"\\"}),
        nested,
        json!({"large": "x".repeat(60_000 - 12)}),
    ]
}

#[test]
fn its_client_gets_its_packets_back_from_our_daemon() {
    let Some(python) = python() else { return };
    need!(has_ipv6(), "IPv6 on loopback");
    let mut daemon = Daemon::start();
    let input: String = packets().iter().map(|packet| format!("{packet}\n")).collect();
    for host in ["127.0.0.1", "::1"] {
        let mut command = Command::new(&python);
        command.arg(peer("easynetwork_client.py")).args([host, &daemon.port().to_string()]);
        let lines = Running::with_input(&mut command, input.as_bytes()).finish().success();
        assert_eq!(lines.lines().filter(|line| *line == "equal").count(), packets().len(), "{lines}");
        assert!(lines.starts_with(
            "Sent:     {\"command-line arguments\": [\"Hello\", \"world!\"]}\n\
             Received: {\"command-line arguments\": [\"Hello\", \"world!\"]}\n"
        ));
        daemon.wait_for_line(&format!(" {host} sent {{\"command-line arguments\":[\"Hello\",\"world!\"]}}"));
    }
}

#[test]
fn our_clients_get_their_packets_back_from_its_server() {
    let Some(python) = python() else { return };
    need!(has_ipv6(), "IPv6 on loopback");
    for host in ["127.0.0.1", "::1"] {
        let mut server = Running::start(Command::new(&python).arg(peer("easynetwork_server.py")).arg(host));
        let port: u16 = server.next_output().strip_prefix("port ").unwrap().parse().unwrap();

        let blocking = BlockingClient::connect((host, port), JsonProtocol::default()).unwrap();
        for packet in packets() {
            blocking.send_packet(packet.clone()).unwrap();
            assert_eq!(blocking.recv_packet_within(DEADLINE).unwrap(), packet);
            assert!(server.next_output().starts_with(&format!("{host} sent ")));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = UdpClient::connect((host, port), JsonProtocol::default()).await.unwrap();
            for packet in packets() {
                client.send_packet(packet.clone()).await.unwrap();
                assert_eq!(client.recv_packet_within(DEADLINE).await.unwrap(), packet);
            }
        });
        for packet in packets() {
            let (port, text) = (port.to_string(), packet.to_string());
            let words = ["send", "--host", host, "--port", &port, "--json", "-"];
            let mut command = Command::new(env!("CARGO_BIN_EXE_echo-udp"));
            let lines = Running::with_input(command.args(words), text.as_bytes()).finish().success();
            let received = lines.lines().nth(1).unwrap().strip_prefix("Received: ").unwrap();
            assert_eq!(serde_json::from_str::<Value>(received).unwrap(), packet);
        }
        let words = ["send", "--host", host, "--port", &port.to_string(), "--json", "{"];
        let finished = run(Command::new(env!("CARGO_BIN_EXE_echo-udp")).args(words));
        assert_eq!(finished.code(), Some(1));
        let received = "Received: {\"error\":\"Invalid JSON\",\"code\":\"parse_error\"}\n";
        assert!(finished.out.ends_with(received), "{finished:?}");
    }
}
