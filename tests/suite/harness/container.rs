//! Booted systems: containers with a systemd of their own, in which the package is installed by dpkg.
//!
//! `ECHO_UDPD_ROOTS` names a folder with the root folders `bookworm` and `trixie`, made by mmdebstrap; they are not
//! written to. The package is made from this very source by `cargo deb`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use super::namespace::{Namespace, within_network_of};
use super::process::{Finished, Running, run};
use super::{DEADLINE, connected, has_program, is_root, skipped, temporary_folder, wait_for};

/// Where the service listens unless told otherwise.
pub(crate) const ANYWHERE: &str = "[::1]:9000";

pub(crate) fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// A release of Debian to boot.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    pub(crate) name: &'static str,
    root: PathBuf,
}

/// The releases that can be booted here: 12 with systemd 252 and 13 with 257. The test is skipped where there are none.
pub(crate) fn releases() -> Vec<Release> {
    let folder = std::env::var_os("ECHO_UDPD_ROOTS").map(PathBuf::from).unwrap_or_default();
    let releases = ["bookworm", "trixie"].map(|name| Release { name, root: folder.join(name) });
    let bootable = |release: &Release| release.root.join("usr/lib/systemd/systemd").exists();
    if is_root() && has_program("systemd-nspawn") && has_program("cargo-deb") && releases.iter().all(bootable) {
        return releases.into();
    }
    skipped("root, systemd-nspawn, cargo-deb, and ECHO_UDPD_ROOTS with root folders to boot");
    Vec::new()
}

/// The package, and the same as a later version.
fn packages() -> &'static [PathBuf; 2] {
    static PACKAGES: OnceLock<[PathBuf; 2]> = OnceLock::new();
    PACKAGES.get_or_init(|| {
        let folder = temporary_folder();
        let make = |name: &str, words: &[&str]| {
            let file = folder.join(name);
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["deb", "--quiet", "--fast", "--output"]).arg(&file).args(words);
            cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
            let made = cargo.output().unwrap();
            assert!(made.status.success(), "{made:?}");
            file
        };
        [make("now.deb", &["--", "--locked"]), make("later.deb", &["--no-build", "--deb-version", "9999-1"])]
    })
}

/// A system that runs; it is powered off when dropped.
pub(crate) struct Container {
    /// Scripts run in it from several threads.
    system: Mutex<Running>,
    /// Its first process, as this host sees it.
    init: u32,
    groups: Vec<String>,
    pub(crate) release: &'static str,
}

impl Container {
    /// Boots one, with the package installed.
    pub(crate) fn boot(release: &Release) -> Self {
        let folder = temporary_folder();
        for (package, name) in packages().iter().zip(["now.deb", "later.deb"]) {
            std::fs::copy(package, folder.join(name)).unwrap();
        }
        let groups = control_groups(&folder);
        let mut nspawn = Command::new("sh");
        nspawn.args(["-ec", "for group in $0; do mkdir $group; echo $$ > $group/cgroup.procs; done; exec \"$@\""]);
        nspawn.arg(groups.join(" ")).args(["systemd-nspawn", "--boot", "--volatile=overlay"]);
        nspawn.args(["--private-network", "--register=no", "--keep-unit"]);
        nspawn.args(["--console=pipe", "--capability=all", "--system-call-filter=bpf"]);
        nspawn.arg("-D").arg(&release.root).arg(format!("--machine=echo-{}", folder.file_name().unwrap().display()));
        nspawn.arg(format!("--bind-ro={}:/packages", folder.display())).env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        let system = Running::start(&mut nspawn);
        let init = wait_for("the container's first process", || init_of(system.pid()));
        let container = Self { system: system.into(), init, groups, release: release.name };
        wait_for("the container to boot", || {
            let state = container.shell("systemctl is-system-running").out;
            ["running\n", "degraded\n"].contains(&&*state).then_some(())
        });
        container.sh("dpkg -i /packages/now.deb");
        container
    }

    /// Runs a shell script in it.
    pub(crate) fn shell(&self, script: &str) -> Finished {
        run(&mut self.command(script))
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.init));
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", "sh", "-c", script]);
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        command.env_clear().env("PATH", path).env("SYSTEMD_PAGER", "").env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// What a script writes that succeeds.
    pub(crate) fn sh(&self, script: &str) -> String {
        let finished = self.shell(script);
        assert!(finished.status.success(), "{}: {script}: {finished:?}\n{}", self.release, self.journal());
        finished.out
    }

    /// Writes a file.
    pub(crate) fn write(&self, path: &str, text: &str) {
        assert!(!text.contains('\''), "quoted for the shell");
        self.sh(&format!("mkdir -p $(dirname {path}) && printf '%s\\n' '{text}' > {path}"));
    }

    /// Adds a drop-in to the service.
    pub(crate) fn drop_in(&self, name: &str, text: &str) {
        self.write(&format!("/etc/systemd/system/echo-udpd.service.d/{name}.conf"), text);
        self.sh("systemctl daemon-reload");
    }

    /// Its network, as a host to join others to.
    pub(crate) fn network(&self) -> Namespace {
        Namespace::of_process(self.init)
    }

    /// Runs something whose sockets are on the container's network.
    pub(crate) fn inside<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        within_network_of(Path::new(&format!("/proc/{}/ns/net", self.init)), what)
    }

    /// Asks until there is a reply, which is this datagram.
    pub(crate) fn is_answered(&self, address: &str, datagram: &str) {
        assert_eq!(self.reply_to(address, datagram), datagram, "{}", self.release);
    }

    /// Asks until there is a reply.
    pub(crate) fn reply_to(&self, address: &str, datagram: &str) -> String {
        self.inside(|| {
            let socket = connected(at(address));
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let mut buffer = [0; 1000];
            wait_for("a reply", || {
                // Refused while nobody listens.
                let _ = socket.send(datagram.as_bytes());
                socket.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
            })
        })
    }

    /// Stops the service and its socket unit, and forgets drop-ins and the journal.
    pub(crate) fn stop_service(&self) {
        self.sh("systemctl stop echo-udpd.socket echo-udpd.service; rm -rf /etc/systemd/system/echo-udpd.service.d
                 systemctl daemon-reload; journalctl --quiet --rotate --vacuum-time=1us");
    }

    pub(crate) fn main_pid(&self) -> u32 {
        self.property("MainPID").parse().unwrap()
    }

    /// A property of the service.
    pub(crate) fn property(&self, name: &str) -> String {
        self.sh(&format!("systemctl show -P {name} echo-udpd")).trim_end().to_owned()
    }

    /// The service's own lines, as they read alone.
    pub(crate) fn journal(&self) -> String {
        self.shell("journalctl --no-pager -o cat -u echo-udpd").out
    }

    /// Waits until the service's journal has a line with this.
    pub(crate) fn wait_for_line(&self, text: &str) -> String {
        let mut journal = String::new();
        let deadline = std::time::Instant::now() + DEADLINE;
        while std::time::Instant::now() < deadline {
            journal = self.journal();
            if let Some(line) = journal.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{}: waited too long for `{text}` in {journal}", self.release)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Otherwise it is killed.
        let off = self.command("systemctl poweroff --force --force").output();
        if off.is_ok_and(|off| off.status.success()) {
            let _ = self.system.get_mut().map(|system| system.wait_within(DEADLINE));
        }
        let _ = Command::new("find").args(&self.groups).args(["-depth", "-type", "d", "-delete"]).output();
    }
}

/// Control groups for a container alone: two in the same one would put their filters on each other's services.
fn control_groups(folder: &Path) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let name = format!("echo-udpd-{}", folder.file_name().unwrap().display());
    let of_systemd =
        |fields: &[&str]| fields[2] == "cgroup2" || (fields[2] == "cgroup" && fields[3].contains("name=systemd"));
    let mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|fields| of_systemd(fields));
    mounts.map(|fields| format!("{}/{name}", fields[1])).collect()
}

/// The only child that is a systemd, once it is one.
fn init_of(nspawn: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
    let child = children.split_whitespace().next()?.parse().ok()?;
    let name = std::fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
    (name == "systemd\n").then_some(child)
}
