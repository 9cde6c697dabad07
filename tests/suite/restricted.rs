//! Hosts that lack something: IPv6, a working receive call, a wake-up that arrives.

#![allow(unsafe_code, reason = "a seccomp filter is installed between fork and exec")]

use std::os::unix::process::CommandExt;
use std::time::Duration;

use echo_udpd::socket::{BindTarget, Families, SocketOptions, adopt, bind};

use crate::harness::namespace::Namespace;
use crate::harness::process::Counters;
use crate::harness::{
    Daemon, DaemonCommand, Running, ask, connected, has_program, loopback_hosts, need, run, sh, wait_for,
};

/// A filter that answers socket(AF_INET6, ...) with EAFNOSUPPORT, as `RestrictAddressFamilies=AF_INET AF_UNIX` does.
fn refuse_ipv6() -> std::io::Result<()> {
    const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt, jf, k }
    }
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let mut filter = [
        instruction(LOAD, 0, 0, 0),
        instruction(EQUAL, 0, 3, libc::SYS_socket as u32),
        instruction(LOAD, 0, 0, 16),
        instruction(EQUAL, 0, 1, libc::AF_INET6 as u32),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: PR_SET_NO_NEW_PRIVS takes integers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the program and the filter that it points to are alive during the call, which copies them.
    if unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

#[test]
fn without_ipv6_the_wildcard_still_serves_ipv4_and_says_so() {
    let (mut command, _) = DaemonCommand::default().listen("[::]:0").command();
    // SAFETY: refuse_ipv6 makes two system calls and nothing else, which is allowed between fork and exec.
    unsafe { command.pre_exec(refuse_ipv6) };
    let mut process = Running::start(&mut command);
    let address = process.find_line("its address", |line| {
        let (_, rest) = line.split_once("listening on ")?;
        rest.strip_suffix(" (IPv4), protocol json")?.parse::<std::net::SocketAddr>().ok()
    });
    process
        .find_line("the fall back", |line| line.contains("IPv6 is not available: listening on 0.0.0.0:").then_some(()));
    assert_eq!(ask(&connected(([127, 0, 0, 1], address.port()).into()), b"{}"), b"{}");
}

#[test]
fn without_ipv6_an_explicit_ipv6_address_is_an_error_that_names_it() {
    let (mut command, _) = DaemonCommand::default().listen("[::1]:0").command();
    // SAFETY: as above.
    unsafe { command.pre_exec(refuse_ipv6) };
    let finished = run(&mut command);
    assert_eq!(finished.code(), Some(1));
    assert!(
        finished.err.starts_with("echo-udpd: create socket for [::1]:0: Address family not supported"),
        "{finished:?}"
    );
}

#[test]
fn a_receive_error_that_persists_neither_ends_nor_spins_the_loop() {
    need!(has_program("strace"), "strace, to inject faults");
    let inject =
        ["strace", "-f", "-o", "/dev/null", "-e", "trace=recvmmsg", "-e", "inject=recvmmsg:error=EIO:when=2..12"];
    let mut daemon: Daemon = DaemonCommand::default().wrapped(&inject).start();
    let client = connected(daemon.at("127.0.0.1"));
    assert_eq!(ask(&client, b"[1]"), b"[1]");
    // Eleven failures, each pause twice as long as the one before: about a second and a half, then this is answered.
    let begun = std::time::Instant::now();
    assert_eq!(ask(&client, b"[2]"), b"[2]");
    assert!(begun.elapsed() > Duration::from_millis(500), "it did not wait between the tries");
    let pid = daemon.process.pid();
    let child = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    wait_for("both to be counted", || {
        daemon.process.forget_lines();
        sh(format!("kill -USR1 {}", child.trim())).success();
        let counters = Counters::parse(&daemon.wait_for_line("counters: "));
        ((counters.of("receive_errors"), counters.of("echoed")) == (11, 2)).then_some(())
    });
    daemon.process.end_child();
    assert_eq!(daemon.process.finish().code(), Some(0));
}

#[test]
fn a_shutdown_whose_first_wake_up_fails_ends_the_daemon() {
    need!(has_program("strace"), "strace, to inject faults");
    // The first write of each thread to an eventfd: by that the shutdown wakes the loop.
    let inject = ["strace", "-f", "-P", "anon_inode:[eventfd]", "-e", "trace=write"];
    let mut daemon =
        DaemonCommand::default().wrapped(&inject).wrapped(&["-e", "inject=write:error=EIO:when=1"]).start();
    assert_eq!(ask(&connected(daemon.at("127.0.0.1")), b"[1]"), b"[1]");
    daemon.process.end_child();
    let finished = daemon.process.finish();
    assert_eq!(finished.code(), Some(0), "{finished:?}");
    assert!(finished.err.contains("(INJECTED)"), "{finished:?}");
}

#[test]
fn valgrind_finds_nothing_in_an_echo_run() {
    need!(has_program("valgrind"), "valgrind");
    let valgrind = ["valgrind", "-q", "--error-exitcode=99", "--leak-check=no"];
    let mut daemon = DaemonCommand::default().wrapped(&valgrind).settings("workers = 2").start();
    for host in loopback_hosts() {
        let client = connected(daemon.at(host));
        for size in [0, 1, 100, 5000, 60_000] {
            let datagram = format!("\"{}\"", "x".repeat(size));
            assert_eq!(ask(&client, datagram.as_bytes()), datagram.as_bytes());
            assert!(ask(&client, &datagram.as_bytes()[1..]).starts_with(b"{\"error\""));
        }
    }
    daemon.reload("[log]\nlevel = 'debug'");
    daemon.wait_for_line("settings reloaded");
    let finished = daemon.stop();
    assert_eq!(finished.code(), Some(0), "{finished:?}");
}

#[test]
fn a_host_with_ipv6_switched_off_is_not_said_to_be_served_over_ipv6() {
    need!(Namespace::possible(), "root and ip, for network namespaces");
    let host = Namespace::new();
    let set = "for file in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 > $file; done";
    sh(format!("ip netns exec {} sh -ec '{set}'", host.name())).success();
    let mut daemon = DaemonCommand::default().within(&host).listen("[::]:9000").start();
    daemon.wait_for_line("listening on [::]:9000 (IPv4; this host has no IPv6 address)");
    let server = daemon.at("127.0.0.1");
    assert_eq!(host.run(|| ask(&connected(server), b"1")), b"1");
    host.run(|| {
        // A socket that was kept is known again, and one that was handed over is described alike.
        let address = "[::]:9001".parse().unwrap();
        let [bound] = bind(address, &SocketOptions::default()).unwrap().try_into().unwrap();
        assert!(BindTarget::resolve(address).unwrap().matches(&bound.socket));
        let adopted = adopt(bound.socket, &SocketOptions::default()).unwrap();
        assert_eq!(adopted.families, Families::NoIpv6Address);
    });
}

#[test]
fn a_listener_at_rest_takes_little_memory() {
    let resident = |listeners: usize| {
        let daemon = (0..listeners).fold(DaemonCommand::default(), |daemon, _| daemon.listen("127.0.0.1:0")).start();
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", daemon.process.pid())).unwrap();
        let line = text.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    let (few, many) = (resident(1), resident(201));
    assert!(many.saturating_sub(few) <= 200 * 64, "{few} KiB with one listener, {many} KiB with 201");
}
