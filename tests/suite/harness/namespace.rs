//! Network namespaces: hosts of a test's own, joined by virtual cables.

#![allow(unsafe_code, reason = "setns has no safe wrapper")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::{has_program, is_root, sh};

/// A host of its own, with loopback up; gone when dropped.
pub(crate) struct Namespace(String);

impl Namespace {
    /// Whether namespaces can be made here.
    pub(crate) fn possible() -> bool {
        is_root() && has_program("ip")
    }

    pub(crate) fn new() -> Self {
        let new = Self::unused_name();
        sh(format!("ip netns add {}", new.0)).success();
        new.ip("link set lo up");
        new
    }

    /// The namespace of a process; dropping this takes only the name away.
    pub(crate) fn of_process(pid: u32) -> Self {
        let attached = Self::unused_name();
        sh(format!("ip netns attach {} {pid}", attached.0)).success();
        attached
    }

    /// A run that was killed leaves its names behind, and its process id comes again one day.
    fn unused_name() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut names =
            std::iter::repeat_with(|| format!("echo{}n{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        Self(names.find(|name| !file(name).exists()).unwrap())
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Runs `ip` commands in it, one a line.
    pub(crate) fn ip(&self, commands: &str) {
        for command in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
            sh(format!("ip -n {} {command}", self.0)).success();
        }
    }

    /// Lays a cable to another namespace: `veth0` at both ends, up.
    pub(crate) fn join(&self, other: &Self) {
        sh(format!("ip link add veth0 netns {} type veth peer name veth0 netns {}", self.0, other.0)).success();
        self.ip("link set veth0 up");
        other.ip("link set veth0 up");
    }

    /// Runs something with its sockets in this namespace.
    pub(crate) fn run<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        within_network_of(&file(&self.0), what)
    }
}

/// Where a named namespace is (ip-netns(8)).
fn file(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Runs something with its sockets in the namespace that a file stands for.
pub(crate) fn within_network_of<T: Send>(namespace: &Path, what: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(namespace).unwrap();
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: the descriptor is open, and setns changes this thread alone, which ends with the scope.
            let result = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(result, 0, "setns: {}", std::io::Error::last_os_error());
            what()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A test that failed is told of already.
        let _ = sh(format!("ip netns del {}", self.0));
    }
}
