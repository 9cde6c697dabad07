//! Starts the real programs, waits for what they say with a deadline, and stops them.

pub(crate) mod container;
pub(crate) mod flood;
pub(crate) mod journal;
pub(crate) mod load;
pub(crate) mod namespace;
pub(crate) mod process;
pub(crate) mod wire;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(crate) use process::{Daemon, DaemonCommand, Finished, Running, run};

/// How long anything may take on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Leaves the test where something it needs is missing: says so, and fails in CI. In a loop, see [`provided`].
macro_rules! need {
    ($there:expr, $($what:tt)+) => {
        if !crate::harness::provided($there, &format!($($what)+)) {
            return;
        }
    };
}
pub(crate) use need;

/// Returns whether part of a test can run; says so where it cannot, and fails in CI.
pub(crate) fn provided(there: bool, what: &str) -> bool {
    if !there {
        skipped(what);
    }
    there
}

/// The loopback addresses that this host has, as text.
pub(crate) fn loopback_hosts() -> Vec<&'static str> {
    let mut hosts = vec!["127.0.0.1"];
    if provided(has_ipv6(), "IPv6 on loopback") {
        hosts.push("::1");
    }
    hosts
}

/// Says that a test is skipped, past the test runner's capture.
pub(crate) fn skipped(what: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "needed in CI: {what}");
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let _ = writeln!(io::stderr(), "skipped {name}: needs {what}");
}

/// Returns whether a program is on the search path.
pub(crate) fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|folder| folder.join(name).is_file())
}

/// Returns whether tests that take long are wanted whole.
pub(crate) fn is_full() -> bool {
    std::env::var("ECHO_UDPD_FULL").as_deref() == Ok("1")
}

/// Returns whether this host speaks IPv6 to itself.
pub(crate) fn has_ipv6() -> bool {
    UdpSocket::bind("[::1]:0").is_ok()
}

/// Returns whether tests may make namespaces and mounts.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::linux::fs::MetadataExt::st_uid(&own) == 0)
}

/// A file that no other test uses, with this content.
pub(crate) fn temporary_file(name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = temporary_folder().join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// A folder that no other test uses.
pub(crate) fn temporary_folder() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Waits until `there` gives something.
pub(crate) fn wait_for<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let mut left = DEADLINE;
    loop {
        let begun = Instant::now();
        if let Some(found) = there() {
            return found;
        }
        assert!(!left.is_zero(), "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(2));
        // A machine that was suspended meanwhile has not waited for anything: no turn counts more than a second.
        left = left.saturating_sub(begun.elapsed().min(Duration::from_secs(1)));
    }
}

/// A socket connected to a server, with a deadline on its reads.
pub(crate) fn connected(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// A socket on loopback that holds its port and hears nobody, so that whoever sends there is refused.
pub(crate) fn refusing_socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(socket.local_addr().unwrap()).unwrap();
    socket
}

/// Sends a datagram and returns the reply.
pub(crate) fn ask(socket: &UdpSocket, datagram: &[u8]) -> Vec<u8> {
    socket.send(datagram).unwrap();
    receive(socket)
}

pub(crate) fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 16];
    let length = retry(|| socket.recv(&mut buffer)).unwrap();
    buffer.truncate(length);
    buffer
}

/// Calls again what a signal interrupted: with a time limit on a socket, being stopped and continued is enough.
pub(crate) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Waits until an address can be bound: a program that another test starts has the socket as well, for a moment.
pub(crate) fn wait_until_free(address: SocketAddr) {
    wait_for("a closed socket", || UdpSocket::bind(address).ok());
}

/// Returns whether nothing comes for a while; ask something else first and wait for its reply, so that this need not be
/// long.
pub(crate) fn is_silent(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let silent = retry(|| socket.recv(&mut [0; 1 << 16])).is_err();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    silent
}

/// A shell command of the tests' own making.
pub(crate) fn sh(script: impl AsRef<OsStr>) -> Finished {
    run(std::process::Command::new("sh").arg("-ec").arg(script))
}
