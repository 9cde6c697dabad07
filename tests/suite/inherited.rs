//! Sockets that a service manager hands over or kept: from systemd-socket-activate, and from a parent that is wrong.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use echo_udpd::blocking;
use echo_udpd::handler::EchoRequestHandler;
use echo_udpd::protocol::BytesProtocol;
use echo_udpd::server::ServerOptions;
use echo_udpd::socket::BindError;

use crate::harness::namespace::Namespace;
use crate::harness::process::Counters;
use crate::harness::wire::Wire;
use crate::harness::{DaemonCommand, Finished, Running, ask, connected, has_program, need, temporary_file, wait_for};

/// The daemon behind systemd-socket-activate, once it runs; it starts with the first datagram, which goes to the last.
pub(crate) fn activated(namespace: &Namespace, listen: &[&str], more: &[&str], settings: &str) -> Running {
    activated_with(namespace, listen, more, &temporary_file("echo-udpd.toml", settings))
}

pub(crate) fn activated_with(namespace: &Namespace, listen: &[&str], more: &[&str], file: &Path) -> Running {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace.name(), "systemd-socket-activate", "--datagram"]);
    command.args(listen.iter().map(|address| format!("--listen={address}"))).args(more);
    command.args([env!("CARGO_BIN_EXE_echo-udpd"), "--config", file.to_str().unwrap()]);
    let mut process = Running::start(&mut command);
    process.find_line("that it listens", |line| line.contains(listen.last().unwrap()).then_some(()));
    process
}

pub(crate) fn find(process: &mut Running, text: &str) -> String {
    process.find_line(text, |line| line.contains(text).then(|| line.to_owned()))
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

#[test]
fn sockets_that_are_handed_over_are_served_and_win_over_the_settings() {
    need!(Namespace::possible() && has_program("systemd-socket-activate"), "root and systemd-socket-activate");
    let namespace = Namespace::new();
    let listen = ["127.0.0.1:9001", "[::1]:9002", "[::]:9003"];
    let mut process = activated(&namespace, &listen, &["--fdname=a:b:c"], "workers = 2");
    namespace.run(|| {
        for address in ["[::1]:9003", "127.0.0.1:9003", "127.0.0.1:9001", "[::1]:9002"] {
            assert_eq!(ask(&connected(at(address)), b"[1]"), b"[1]");
        }
    });
    // The datagram that started it waits until all is told.
    let first = process.find_line("the first lines", |line| {
        ["listening on ", " sent "].into_iter().find(|text| line.contains(text) && !line.contains("Listening on"))
    });
    assert_eq!(first, "listening on ");
    find(&mut process, "listening on 127.0.0.1:9001 (IPv4)");
    find(&mut process, "listening on [::1]:9002 (IPv6)");
    find(&mut process, "listening on [::]:9003 (IPv6 and IPv4)");
    find(&mut process, "using 3 sockets passed by a socket unit");
    let warned = find(&mut process, "ignoring `listen`");
    assert!(
        warned.contains("([::]:9000): the socket unit passed 127.0.0.1:9001, [::]:9003, [::1]:9002; change"),
        "{warned}"
    );
    let threads = std::fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
    let names = threads.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
    assert_eq!(names.filter(|name| name.starts_with("worker-")).count(), 2);
    process.signal("TERM");
    assert_eq!(process.finish().code(), Some(0));
}

#[test]
fn one_socket_is_served_by_one_worker_and_the_settings_may_agree() {
    need!(Namespace::possible() && has_program("systemd-socket-activate"), "root and systemd-socket-activate");
    let namespace = Namespace::new();
    let settings = temporary_file("echo-udpd.toml", "workers = 4");
    let mut process = activated_with(&namespace, &["[::]:9000"], &[], &settings);
    assert_eq!(namespace.run(|| ask(&connected(at("127.0.0.1:9000")), b"{}")), b"{}");
    let fewer = find(&mut process, "not 4");
    assert!(fewer.contains("running 1 worker, not 4: there is one socket per worker"), "{fewer}");
    // A restart would not change where it listens.
    std::fs::write(&settings, "workers = 3\nlisten = ['[::]:9001']").unwrap();
    process.signal("HUP");
    let needed = find(&mut process, "need a restart");
    assert!(needed.ends_with("need a restart to take effect: workers"), "{needed}");
    process.signal("TERM");
    let finished = process.finish();
    assert!(!finished.err.contains("ignoring `listen`"), "{}", finished.err);
}

#[test]
fn a_stream_socket_is_refused_and_the_refusal_takes_its_time() {
    need!(Namespace::possible() && has_program("systemd-socket-activate"), "root and systemd-socket-activate");
    let namespace = Namespace::new();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace.name(), "systemd-socket-activate", "--listen=127.0.0.1:9000"]);
    let mut process = Running::start(command.arg(env!("CARGO_BIN_EXE_echo-udpd")));
    find(&mut process, "127.0.0.1:9000");
    let _stream = namespace.run(|| std::net::TcpStream::connect("127.0.0.1:9000").unwrap());
    let begun = Instant::now();
    let finished = process.finish();
    assert_eq!(finished.code(), Some(1), "{finished:?}");
    assert_eq!(finished.err.lines().last(), Some("echo-udpd: adopt file descriptor 3: not a UDP socket"));
    // systemd would start it again at once.
    assert!(begun.elapsed() >= Duration::from_secs(2));
}

#[test]
fn a_broadcast_that_waited_in_a_socket_without_packet_information_is_not_answered() {
    need!(Namespace::possible() && has_program("systemd-socket-activate"), "root and systemd-socket-activate");
    let (server, client) = (Namespace::new(), Namespace::new());
    server.join(&client);
    server.ip("address add 192.0.2.1/24 broadcast 192.0.2.255 dev veth0");
    client.ip("address add 192.0.2.2/24 broadcast 192.0.2.255 dev veth0");
    let mut process = activated(&server, &["[::]:9000"], &[], "");
    client.run(|| {
        let asking = UdpSocket::bind("192.0.2.2:0").unwrap();
        asking.set_broadcast(true).unwrap();
        asking.set_read_timeout(Some(crate::harness::DEADLINE)).unwrap();
        asking.send_to(b"\"to all\"", "192.0.2.255:9000").unwrap();
        asking.send_to(b"\"to one\"", "192.0.2.1:9000").unwrap();
        let mut buffer = [0; 100];
        let (length, from) = crate::harness::retry(|| asking.recv_from(&mut buffer)).unwrap();
        assert_eq!((&buffer[..length], from), (&b"\"to one\""[..], at("192.0.2.1:9000")));
    });
    process.signal("TERM");
    find(&mut process, "stopped: received=2 handled=2 echoed=1 ");
    find(&mut process, " dropped_send=1 ");
}

/// The daemon with a socket `s` that a Python script made on port 9000, in a namespace.
fn handed_over_by(namespace: &Namespace, script: &str) -> Running {
    let script = format!(
        "import os, socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
{script}
os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.execve(sys.argv[1], sys.argv[1:], {{'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'}})"
    );
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace.name(), "python3", "-c", &script]);
    command.args([env!("CARGO_BIN_EXE_echo-udpd"), "--config"]).arg(temporary_file("echo-udpd.toml", ""));
    Running::start(&mut command)
}

#[test]
fn whatever_options_a_socket_was_handed_over_with_it_is_served_as_one_of_our_own() {
    need!(Namespace::possible() && has_program("python3"), "root, ip and python3");
    let (server, client) = (Namespace::new(), Namespace::new());
    server.join(&client);
    server.ip("address add 192.0.2.1/24 broadcast 192.0.2.255 dev veth0");
    client.ip("address add 192.0.2.2/24 dev veth0");
    // What a parent process may turn on, each by its number: SO_REUSEADDR, SO_BROADCAST, SO_TIMESTAMPNS, SO_RXQ_OVFL,
    // and the error queue, TTL, TOS, options, original address, fragment size .. of both families; UDP_GRO.
    let options = "s.setsockopt(1, 2, 1)
for option in (6, 35, 40): s.setsockopt(1, option, 1)
s.setsockopt(1, 37, 0x7f & ~0x23)
for option in (6, 7, 11, 12, 13, 20, 23, 25): s.setsockopt(0, option, 1)
for option in (2, 3, 4, 5, 8, 11, 25, 51, 53, 56, 58, 60, 66, 74, 77): s.setsockopt(41, option, 1)
s.setsockopt(17, 104, 1)
s.bind(('::', 9000))";
    let mut process = handed_over_by(&server, options);
    find(&mut process, "listening on [::]:9000 (IPv6 and IPv4)");
    client.run(|| assert_eq!(ask(&connected(at("192.0.2.1:9000")), b"[1]"), b"[1]"));
    server.run(|| {
        assert_eq!(ask(&connected(at("[::1]:9000")), b"[2]"), b"[2]");
        // Three in one: the kernel would hand them over merged.
        let socket = connected(at("127.0.0.1:9000"));
        crate::harness::wire::send_segments(&socket, b"[1][2][3]", 3).unwrap();
        for expected in [b"[1]", b"[2]", b"[3]"] {
            assert_eq!(crate::harness::receive(&socket), expected);
        }
        // Nobody else gets the port, also who asks to share it.
        let thief = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None).unwrap();
        thief.set_reuse_address(true).unwrap();
        let refused = thief.bind(&at("[::]:9000").into()).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse);
    });
    // A source that is the subnet's broadcast address: the kernel refuses the reply.
    Wire::between(&client, &server).send(at("192.0.2.255:40000"), at("192.0.2.1:9000"), b"\"to all\"");
    wait_for("the refusal", || {
        process.forget_lines();
        process.signal("USR1");
        let counters = Counters::parse(&find(&mut process, "counters: "));
        (counters.of("received") == 6).then(|| assert_eq!((counters.of("echoed"), counters.of("dropped_send")), (5, 1)))
    });
    process.signal("TERM");
    assert_eq!(process.finish().code(), Some(0));
}

#[test]
fn a_connected_socket_is_refused_by_name_and_a_kept_one_is_closed() {
    need!(Namespace::possible() && has_program("python3"), "root, ip and python3");
    let namespace = Namespace::new();
    let connected = "s.bind(('::1', 9000)); s.connect(('::1', 4000))";
    let finished = handed_over_by(&namespace, connected).finish();
    assert_eq!(finished.code(), Some(1), "{finished:?}");
    assert_eq!(finished.err.lines().last(), Some("echo-udpd: adopt file descriptor 3: connected to [::1]:4000"));

    let kept = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = kept.local_addr().unwrap();
    kept.connect("127.0.0.1:4000").unwrap();
    let server = serve(ServerOptions::new().listen(address).reuse_socket(kept));
    assert_eq!(ask(&crate::harness::connected(address), b"new"), b"new");
    drop(server);
}

/// The daemon with these variables, and this open as descriptor 3; `$$` is its own process number.
fn with_environment(variables: &str, redirection: &str) -> Finished {
    let script = format!("{variables} exec {} --listen 127.0.0.1:0 {redirection}", env!("CARGO_BIN_EXE_echo-udpd"));
    let mut process = Running::start(Command::new("sh").args(["-c", &script]));
    let ended = process.find_line("whether it serves", |line| {
        if line.contains("listening on 127.0.0.1:") {
            Some(false)
        } else {
            line.contains("echo-udpd: ").then_some(true)
        }
    });
    if !ended {
        process.signal("TERM");
    }
    process.finish()
}

#[test]
fn what_another_process_was_handed_is_left_alone() {
    for variables in [
        "LISTEN_PID=1 LISTEN_FDS=1 LISTEN_FDNAMES=a",
        "LISTEN_PID=$$ LISTEN_FDS=0 LISTEN_FDNAMES=",
        "LISTEN_FDS=1",
        "LISTEN_PID=$$",
    ] {
        let finished = with_environment(variables, "3</dev/null");
        assert_eq!(finished.code(), Some(0), "{variables}: {finished:?}");
    }
}

#[test]
fn what_was_handed_over_wrongly_is_told_and_nothing_is_served() {
    let cases = [
        ("LISTEN_PID=nobody LISTEN_FDS=1", "", "receive sockets from the service manager: invalid LISTEN_PID"),
        ("LISTEN_PID=$$ LISTEN_FDS=many", "", "receive sockets from the service manager: invalid LISTEN_FDS"),
        ("LISTEN_PID=$$ LISTEN_FDS=4294967295", "", "receive sockets from the service manager: fd count overflowed"),
        (
            "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=a:b",
            "3</dev/null",
            "receive sockets from the service manager: invalid LISTEN_FDNAMES",
        ),
        (
            "LISTEN_PID=$$ LISTEN_FDS=1",
            "3<&-",
            "receive sockets from the service manager: Bad file descriptor (os error 9)",
        ),
        (
            "LISTEN_PID=$$ LISTEN_FDS=1",
            "3</dev/null",
            "adopt file descriptor 3: Socket operation on non-socket (os error 88)",
        ),
    ];
    std::thread::scope(|scope| {
        for (variables, redirection, expected) in cases {
            scope.spawn(move || {
                let finished = with_environment(variables, redirection);
                assert_eq!(finished.code(), Some(1), "{variables}: {finished:?}");
                assert_eq!(finished.err, format!("echo-udpd: {expected}"), "{variables}");
            });
        }
    });
}

/// The name under which the daemon lets the service manager keep a socket.
pub(crate) fn stored_as(address: &str) -> String {
    format!("--fdname=kept-{}", address.replace(':', "."))
}

#[test]
fn a_kept_socket_that_the_settings_do_not_name_is_closed() {
    need!(Namespace::possible() && has_program("systemd-socket-activate"), "root and systemd-socket-activate");
    let namespace = Namespace::new();
    let mut process =
        activated(&namespace, &["127.0.0.1:9001"], &[&stored_as("127.0.0.1:9001")], "listen = ['127.0.0.1:9000']");
    namespace.run(|| {
        let _ = connected(at("127.0.0.1:9001")).send(b"[1]");
        find(&mut process, "listening on 127.0.0.1:9000 (IPv4)");
        assert_eq!(ask(&connected(at("127.0.0.1:9000")), b"[2]"), b"[2]");
        UdpSocket::bind("127.0.0.1:9001").unwrap();
    });
    process.signal("TERM");
    let finished = process.finish();
    assert!(!finished.err.contains("from the previous run"), "{finished:?}");
}

#[test]
fn a_kept_socket_on_a_port_that_could_not_be_bound_again_is_served_with_a_warning() {
    need!(
        Namespace::possible() && has_program("systemd-socket-activate") && has_program("setpriv"),
        "root, systemd-socket-activate and setpriv"
    );
    let namespace = Namespace::new();
    let serve = |address: &str, wrapper: &[&str]| {
        let settings = temporary_file("echo-udpd.toml", format!("listen = ['{address}']"));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace.name(), "systemd-socket-activate", "--datagram"]);
        command.args([format!("--listen={address}"), stored_as(address)]).args(wrapper);
        command.args([env!("CARGO_BIN_EXE_echo-udpd"), "--config", settings.to_str().unwrap()]);
        let mut process = Running::start(&mut command);
        find(&mut process, address);
        assert_eq!(namespace.run(|| ask(&connected(at(address)), b"[1]")), b"[1]");
        find(&mut process, "restored 1 socket from the previous run");
        process.signal("TERM");
        process.finish().err
    };
    let unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let warning =
        "127.0.0.2:7 works only while systemd keeps the socket: after a stop or a reboot it could not be bound";
    let warned = serve("127.0.0.2:7", &unprivileged);
    assert!(warned.contains(warning), "{warned}");
    for (address, wrapper) in [("127.0.0.2:9000", &unprivileged[..]), ("127.0.0.2:7", &[])] {
        let quiet = serve(address, wrapper);
        assert!(!quiet.contains("works only while"), "{quiet}");
    }
}

fn serve(options: ServerOptions) -> blocking::BackgroundServer {
    let server = options.bind(BytesProtocol::default(), EchoRequestHandler::new()).unwrap();
    blocking::UdpServer::from(server).start().unwrap()
}

#[test]
fn what_waited_in_a_socket_of_an_earlier_run_is_answered_and_other_sockets_are_closed() {
    let kept = UdpSocket::bind("127.0.0.1:0").unwrap();
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (address, gone_as) = (kept.local_addr().unwrap(), open_as(&gone));
    let client = connected(address);
    client.send(b"waited").unwrap();
    let options = ServerOptions::new().workers(3).listen(address).reuse_socket(gone).reuse_socket(kept);
    let server = options.bind(BytesProtocol::default(), EchoRequestHandler::<Bytes>::new()).unwrap();
    // The others joined it.
    assert_eq!((server.workers(), server.sockets().count()), (3, 3));
    assert_eq!(server.local_addresses(), [address]);
    let server = blocking::UdpServer::from(server).start().unwrap();
    assert_eq!(crate::harness::receive(&client), b"waited");
    for _ in 0..50 {
        assert_eq!(ask(&connected(address), b"new"), b"new");
    }
    assert!(!is_open(&gone_as));
    drop(server);
}

/// What this process calls an open socket: `socket:[12345]`.
fn open_as(socket: &UdpSocket) -> PathBuf {
    std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap()
}

fn is_open(socket: &Path) -> bool {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    open.filter_map(|descriptor| std::fs::read_link(descriptor.ok()?.path()).ok()).any(|open| open == socket)
}

#[test]
fn an_address_that_is_in_use_is_waited_for_when_asked_to() {
    let busy = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap();
    let bind = |options: ServerOptions| {
        options.listen(address).bind(BytesProtocol::default(), EchoRequestHandler::<Bytes>::new()).map(drop)
    };
    assert!(matches!(bind(ServerOptions::new()), Err(BindError::AddressInUse { .. })));
    let free = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        drop(busy);
    });
    bind(ServerOptions::new().bind_timeout(crate::harness::DEADLINE)).unwrap();
    free.join().unwrap();
}

#[test]
fn more_sockets_than_workers_are_all_served() {
    let sockets: Vec<_> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
    let server = serve(sockets.into_iter().fold(ServerOptions::new().workers(2), ServerOptions::socket));
    for &address in &addresses {
        assert_eq!(ask(&connected(address), b"?"), b"?");
    }
    let listeners: Vec<_> = server.handle().listeners().iter().map(|listener| listener.address).collect();
    assert_eq!(listeners, addresses);
    let stats = wait_for("the counters", || Some(server.handle().stats()).filter(|stats| stats.sent == 3));
    assert_eq!(stats.received, 3);
}

#[test]
fn as_many_small_datagrams_wait_as_the_log_says() {
    let mut daemon = DaemonCommand::default().settings("receive-buffer-bytes = 131072").listen("127.0.0.1:0").start();
    let line = daemon.wait_for_line("room for about ");
    let room = line.split("room for about ").nth(1).unwrap().split(' ').next().unwrap();
    let room: usize = room.parse().unwrap();
    daemon.process.freeze();
    let client = connected(daemon.at("127.0.0.1"));
    (0..2 * room).for_each(|_| assert_eq!(client.send(b"1").unwrap(), 1));
    daemon.process.signal("CONT");
    let counters = daemon.counters();
    let waited = counters.of("received") as usize;
    assert!(waited.abs_diff(room) <= room / 50 + 1, "{waited} waited, {room} were told");
    assert_eq!(counters.of("kernel_drops") as usize, 2 * room - waited);
}
