//! A host of several addresses: each reply leaves from the address that was asked.

use std::net::IpAddr;
use std::process::Command;

use crate::harness::namespace::Namespace;
use crate::harness::{DaemonCommand, ask, connected, need, retry, run};

const SERVER: [&str; 6] = ["10.99.0.1", "10.99.0.2", "10.99.1.3", "fd99::1", "fd99::2", "fd99:0:1::3"];

/// A server host with three addresses a family, and a client host beside it.
fn hosts() -> (Namespace, Namespace) {
    let (server, client) = (Namespace::new(), Namespace::new());
    server.join(&client);
    server.ip("addr add 10.99.0.1/16 dev veth0
               addr add 10.99.0.2/16 dev veth0
               addr add 10.99.1.3/16 dev veth0
               addr add fd99::1/32 dev veth0 nodad
               addr add fd99::2/32 dev veth0 nodad
               addr add fd99:0:1::3/32 dev veth0 nodad");
    client.ip("addr add 10.99.9.9/16 dev veth0
               addr add fd99::9/32 dev veth0 nodad");
    (server, client)
}

#[test]
fn each_address_of_the_host_answers_as_itself() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let (server, client) = hosts();
    let mut daemon = DaemonCommand::default().within(&server).start();
    for host in [&client, &server] {
        for address in SERVER {
            // Connected sockets: the kernel passes on nothing that comes from elsewhere.
            let at = daemon.at(address);
            assert_eq!(host.run(|| ask(&connected(at), b"[1]")), b"[1]", "{address}");
        }
    }
    let counters = daemon.counters();
    assert_eq!(counters.of("echoed"), 2 * SERVER.len() as u64);
    counters.assert_balance();
}

#[test]
fn a_link_local_address_answers_through_its_own_interface() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let (server, client) = hosts();
    server.ip("addr add fe80::77/64 dev veth0 nodad");
    client.ip("addr add fe80::99/64 dev veth0 nodad");
    let daemon = DaemonCommand::default().within(&server).start();
    let index = ["netns", "exec", client.name(), "cat", "/sys/class/net/veth0/ifindex"];
    let interface = run(Command::new("ip").args(index)).success().trim().parse().unwrap();
    let link_local = std::net::SocketAddrV6::new("fe80::77".parse().unwrap(), daemon.port(), 0, interface);
    assert_eq!(client.run(|| ask(&connected(link_local.into()), b"[1]")), b"[1]");
}

#[test]
fn the_client_program_reaches_each_address() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let (server, client) = hosts();
    let daemon = DaemonCommand::default().within(&server).start();
    for address in SERVER {
        let port = daemon.port().to_string();
        let program = env!("CARGO_BIN_EXE_echo-udp");
        let words = ["netns", "exec", client.name(), program, "send", "--host", address, "--port", &port, "x"];
        let lines = run(Command::new("ip").args(words)).success();
        assert_eq!(lines.lines().count(), 2, "{address}: {lines}");
    }
}

#[test]
fn a_listener_on_one_address_leaves_the_others_alone() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let (server, client) = hosts();
    let daemon = DaemonCommand::default().within(&server).listen("10.99.0.2:0").listen("[fd99::2]:0").start();
    client.run(|| {
        for at in &daemon.addresses {
            assert_eq!(ask(&connected(*at), b"[1]"), b"[1]");
            let other: IpAddr = if at.is_ipv4() { "10.99.0.1" } else { "fd99::1" }.parse().unwrap();
            let refused = connected((other, at.port()).into());
            refused.send(b"[1]").unwrap();
            let reply = retry(|| refused.recv(&mut [0; 9]));
            assert_eq!(reply.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        }
    });
}
