//! Where settings come from: which file, when the defaults, and files that do not come to an end or cannot be reached.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crate::harness::{
    Daemon, DaemonCommand, Finished, Running, ask, connected, has_program, is_root, is_silent, need, run, sh,
    temporary_file, temporary_folder,
};
use crate::notify::Manager;

const PROGRAM: &str = env!("CARGO_BIN_EXE_echo-udpd");
const INSTALLED: &str = "/etc/echo-udpd/echo-udpd.toml";

/// A host of its own as to `/etc`, which is this folder.
struct Host(PathBuf);

impl Host {
    fn new() -> Self {
        let host = Self(temporary_folder());
        fs::create_dir(host.folder()).unwrap();
        host
    }

    fn folder(&self) -> PathBuf {
        self.0.join("echo-udpd")
    }

    fn file(&self) -> PathBuf {
        self.folder().join("echo-udpd.toml")
    }

    /// The daemon without `--config`, run by root without the privilege to read what it may not.
    fn daemon(&self) -> Command {
        let script = format!("mount --bind {} /etc; exec \"$@\"", self.0.display());
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", &script, "sh", "setpriv", "--bounding-set=-all", "--inh-caps=-all"]);
        command.args([PROGRAM, "--listen", "127.0.0.1:0"]);
        command
    }
}

type Preparation = fn(&Host);

fn find(process: &mut Running, text: &str) -> String {
    process.find_line(text, |line| line.contains(text).then(|| line.to_owned()))
}

/// The address that it listens on.
fn address_of(process: &mut Running) -> SocketAddr {
    process.find_line("its address", |line| line.split_once("listening on ")?.1.split(' ').next()?.parse().ok())
}

fn mkfifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Waits until a process reads the pipe at this path, and holds its other end.
fn writer_of(pipe: &Path) -> fs::File {
    OpenOptions::new().write(true).open(pipe).unwrap()
}

#[test]
fn only_an_installed_file_that_does_not_exist_means_the_defaults() {
    need!(is_root() && has_program("unshare") && has_program("setpriv"), "root, unshare and setpriv");
    let absent: [Preparation; 3] = [
        |_| {},
        |host| fs::remove_dir(host.folder()).unwrap(),
        |host| {
            fs::rename(host.folder(), host.0.join("elsewhere")).unwrap();
            symlink("elsewhere", host.folder()).unwrap();
        },
    ];
    for prepare in absent {
        let host = Host::new();
        prepare(&host);
        let mut process = Running::start(&mut host.daemon());
        find(&mut process, &format!("settings read: no settings file at {INSTALLED}, using the defaults"));
        process.signal("TERM");
        assert_eq!(process.finish().code(), Some(0));
    }
    let unreachable: [(&str, Preparation); 7] = [
        ("is a dangling symbolic link", |host| symlink("nowhere", host.file()).unwrap()),
        ("is a dangling symbolic link", |host| {
            fs::remove_dir(host.folder()).unwrap();
            symlink("nowhere", host.folder()).unwrap();
        }),
        ("Too many levels of symbolic links (os error 40)", |host| symlink("echo-udpd.toml", host.file()).unwrap()),
        ("Permission denied (os error 13)", |host| {
            sh(format!("chmod 000 {}", host.folder().display())).success().clear()
        }),
        ("Permission denied (os error 13)", |host| {
            fs::write(host.file(), "").unwrap();
            sh(format!("chmod 000 {}", host.file().display())).success();
        }),
        ("Not a directory (os error 20)", |host| {
            fs::remove_dir(host.folder()).unwrap();
            fs::write(host.folder(), "").unwrap();
        }),
        ("Is a directory (os error 21)", |host| fs::create_dir(host.file()).unwrap()),
    ];
    for (reason, prepare) in unreachable {
        let host = Host::new();
        prepare(&host);
        let refused = run(&mut host.daemon());
        assert_eq!(refused.code(), Some(78), "{reason}: {refused:?}");
        assert!(refused.err.starts_with(&format!("echo-udpd: read {INSTALLED}: ")), "{refused:?}");
        assert!(refused.err.ends_with(reason), "{refused:?}");
    }
}

#[test]
fn a_file_that_was_in_force_and_is_gone_fails_a_reload_and_one_that_appears_is_read() {
    need!(is_root() && has_program("unshare") && has_program("setpriv"), "root, unshare and setpriv");
    let host = Host::new();
    let mut process = Running::start(&mut host.daemon());
    find(&mut process, "no settings file at");
    let mut reload = |expected: &str| {
        process.forget_lines();
        process.signal("HUP");
        find(&mut process, "reload");
        let line = process.find_line("what came of it", |line| line.contains("reload").then(|| line.to_owned()));
        assert!(line.contains(expected), "{line}");
    };
    reload(&format!("settings reloaded: no settings file at {INSTALLED}, using the defaults"));
    fs::write(host.file(), "[access]\nallow = ['192.0.2.0/24']").unwrap();
    reload(&format!("settings reloaded from {INSTALLED}"));
    fs::remove_file(host.file()).unwrap();
    for _ in 0..2 {
        reload(&format!(
            "reload failed: read {INSTALLED}: No such file or directory (os error 2), keeping the running settings"
        ));
    }
    fs::write(host.file(), "# back").unwrap();
    reload(&format!("settings reloaded from {INSTALLED}"));
}

#[test]
fn the_log_names_the_file_of_the_command_line() {
    let mut daemon = Daemon::with_settings("");
    let read = daemon.wait_for_line("settings read from ");
    let path = read.split("settings read from ").nth(1).unwrap().to_owned();
    assert!(path.ends_with("/echo-udpd.toml"), "{read}");
    daemon.reload("");
    daemon.wait_for_line(&format!("settings reloaded from {path}"));
}

#[test]
fn a_file_that_does_not_end_or_is_no_text_exits_78_however_it_is_read() {
    let folder = temporary_folder();
    let pipe = folder.join("pipe");
    mkfifo(&pipe);
    let binary = temporary_file("binary.toml", b"workers = 1 # \xff\n");
    let large = temporary_file("large.toml", "#".repeat((1 << 20) + 1));
    let cases = [
        (pipe.as_path(), "not read within 2 s"),
        (Path::new("/dev/zero"), "larger than 1048576 bytes"),
        (&large, "larger than 1048576 bytes"),
        (&folder, "Is a directory (os error 21)"),
        (&binary, "not UTF-8 text: byte 14 is invalid"),
    ];
    std::thread::scope(|scope| {
        for (file, reason) in cases {
            for mode in [&["--check"][..], &["--print-config"], &["--listen", "127.0.0.1:0"]] {
                scope.spawn(move || {
                    let refused = run(Command::new(PROGRAM).arg("--config").arg(file).args(mode));
                    assert_eq!(refused.code(), Some(78), "{mode:?}: {refused:?}");
                    assert_eq!(refused.err, format!("echo-udpd: read {}: {reason}", file.display()), "{mode:?}");
                });
            }
        }
    });
}

#[test]
fn an_empty_device_and_a_pipe_that_ends_are_files() {
    let check = |script: &str| -> Finished { sh(format!("{script} {PROGRAM} --print-config --config /dev/stdin")) };
    assert!(check("</dev/null").success().contains("listen = [\"[::]:9000\"]"));
    assert!(check("(sleep 0.1; echo 'workers = 3') |").success().contains("workers = 3"));
    let wrong = check("echo 'workers = true' |");
    assert_eq!(wrong.code(), Some(78));
    assert!(wrong.err.starts_with("echo-udpd: /dev/stdin:1:11: workers: "), "{wrong:?}");
}

#[test]
fn a_pipe_that_was_read_is_not_read_again_by_a_reload() {
    need!(has_program("bash"), "bash, to make a pipe of a command's output");
    let script = format!("exec {PROGRAM} --listen 127.0.0.1:0 --config <(echo \"access.deny = ['127.0.0.0/8']\")");
    let mut process = Running::start(Command::new("bash").arg("-c").arg(script));
    let client = connected(address_of(&mut process));
    for _ in 0..2 {
        process.forget_lines();
        process.signal("HUP");
        let failed = find(&mut process, "reload failed: read /dev/fd/");
        assert!(
            failed.ends_with(": not a regular file: it cannot be read a second time, keeping the running settings")
        );
        client.send(b"1").unwrap();
        assert!(is_silent(&client));
    }
    process.signal("TERM");
    assert_eq!(process.finish().code(), Some(0));
}

#[test]
fn an_empty_device_is_read_again_and_a_pipe_in_the_way_of_a_file_is_no_obstacle_later() {
    let mut process = Running::start(Command::new(PROGRAM).args(["--listen", "127.0.0.1:0", "--config", "/dev/null"]));
    find(&mut process, "settings read from /dev/null");
    process.signal("HUP");
    find(&mut process, "settings reloaded from /dev/null");
    process.signal("TERM");
    let finished = process.finish();
    assert!(!finished.err.contains("is empty"), "{finished:?}");

    let (mut command, file) = DaemonCommand::default().listen("127.0.0.1:0").settings("# some").command();
    let mut process = Running::start(&mut command);
    find(&mut process, "settings read from");
    fs::remove_file(&file).unwrap();
    mkfifo(&file);
    // More often than threads may be left behind.
    for _ in 0..6 {
        process.forget_lines();
        process.signal("HUP");
        find(&mut process, "cannot be read a second time, keeping the running settings");
    }
    fs::remove_file(&file).unwrap();
    fs::write(&file, "# some more").unwrap();
    process.signal("HUP");
    find(&mut process, "settings reloaded");
    process.signal("TERM");
    assert_eq!(process.finish().code(), Some(0));
}

#[test]
fn an_empty_file_starts_with_a_warning_and_empties_no_settings_in_force() {
    let mut daemon = Daemon::with_settings("");
    let warning = daemon.wait_for_line("is empty: using the defaults");
    assert!(warning.contains("WARN "), "{warning}");
    daemon.reload("");
    daemon.wait_for_line("settings reloaded");

    let mut daemon = Daemon::with_settings("access.deny = ['127.0.0.0/8']");
    let client = connected(daemon.at("127.0.0.1"));
    for _ in 0..2 {
        daemon.process.forget_lines();
        daemon.reload("");
        let failed = daemon.wait_for_line("reload failed: ");
        assert!(failed.ends_with(": the file is empty (is it being written?), keeping the running settings"));
        client.send(b"1").unwrap();
        assert!(is_silent(&client));
    }
    daemon.reload("# nobody is denied");
    daemon.wait_for_line("settings reloaded");
    assert_eq!(ask(&client, b"1"), b"1");
}

/// The result of a reload, which is under way or has ended.
fn result_of_reload(process: &mut Running) -> String {
    process.find_line("what came of it", |line| {
        ["settings reloaded", "reload failed"].iter().any(|result| line.contains(result)).then(|| line.to_owned())
    })
}

#[test]
fn a_file_that_is_being_written_in_place_is_read_once_it_is_whole() {
    const DENY: &str = "access.deny = ['127.0.0.0/8']";
    let manager = Manager::new();
    let wrapper = ["env", &manager.variable()];
    let mut daemon = DaemonCommand::default().wrapped(&wrapper).listen("127.0.0.1:0").settings(DENY).start();
    let client = connected(daemon.at("127.0.0.1"));
    // On a busy machine some writers are slow, but not all.
    let whole = (0..5).any(|_| {
        manager.wait_for("READY=1");
        daemon.process.forget_lines();
        daemon.reload("");
        manager.wait_for("RELOADING=1");
        fs::write(daemon.settings(), DENY).unwrap();
        let result = result_of_reload(&mut daemon.process);
        client.send(b"1").unwrap();
        assert!(is_silent(&client), "{result}");
        result.contains("settings reloaded")
    });
    assert!(whole, "it was never read whole");

    let unstable = (0..5).any(|_| {
        let writer = Writer::start(daemon.settings());
        daemon.process.forget_lines();
        daemon.process.signal("HUP");
        let result = result_of_reload(&mut daemon.process);
        drop(writer);
        result.ends_with(": still being written after 2 s, keeping the running settings")
    });
    assert!(unstable, "it was taken for whole while it was written");
}

/// Writes to a file all the time, until it is dropped.
struct Writer {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(file: &Path) -> Self {
        let mut file = OpenOptions::new().append(true).open(file).unwrap();
        let is_over = Arc::<AtomicBool>::default();
        let over = Arc::clone(&is_over);
        // Before it returns, a reload would find a file at rest.
        file.write_all(b"\n").unwrap();
        let thread = std::thread::spawn(move || {
            // A file of moderate size however fast it is written.
            while !over.load(SeqCst) {
                file.write_all(b"#").unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { is_over, thread: Some(thread) }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.is_over.store(true, SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn a_file_from_the_future_is_read_at_once() {
    let mut daemon = Daemon::with_settings("# then");
    fs::write(daemon.settings(), "# later").unwrap();
    let file = fs::File::options().write(true).open(daemon.settings()).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(3600)).unwrap();
    daemon.process.signal("HUP");
    daemon.wait_for_line("settings reloaded");
}

#[test]
fn a_file_system_that_does_not_answer_starves_no_watchdog_and_holds_few_threads() {
    need!(has_program("strace"), "strace, to let a file system not answer");
    let manager = Manager::new();
    let (command, file) = DaemonCommand::default().listen("127.0.0.1:0").settings("# some").command();
    let mut process = Running::start(&mut manager.watched(&command));
    let client = connected(address_of(&mut process));
    // Once the file was read: from here on no thread that opens it returns.
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", "trace=openat", "-P"]).arg(&file);
    strace.args(["-e", "inject=openat:delay_enter=600000000", "-p", &process.pid().to_string()]);
    let mut strace = Running::start(&mut strace);
    find(&mut strace, &format!("Process {} attached", process.pid()));
    for _ in 0..4 {
        process.forget_lines();
        process.signal("HUP");
        manager.wait_for("RELOADING=1");
        manager.forget();
        // Well within the two seconds that the file may take.
        for _ in 0..3 {
            manager.wait_for("WATCHDOG=1");
        }
        assert_eq!(ask(&client, b"1"), b"1");
        find(&mut process, "not read within 2 s, keeping the running settings");
    }
    process.signal("HUP");
    let refused = find(&mut process, "a restart is needed");
    assert!(
        refused.ends_with(": 4 earlier reads have not returned; a restart is needed, keeping the running settings")
    );
}

#[test]
fn a_stop_does_not_wait_for_a_file_neither_at_the_start_nor_at_a_reload() {
    let folder = temporary_folder();
    let pipe = folder.join("pipe");
    mkfifo(&pipe);
    let process = Running::start(Command::new(PROGRAM).args(["--listen", "127.0.0.1:0", "--config"]).arg(&pipe));
    let _writer = writer_of(&pipe);
    process.signal("TERM");
    let finished = process.finish();
    assert_eq!((finished.code(), &*finished.err), (Some(0), ""));

    let manager = Manager::new();
    let daemon = DaemonCommand::default().wrapped(&["env", &manager.variable()]).listen("127.0.0.1:0").start();
    let _writer = Writer::start(daemon.settings());
    daemon.process.signal("HUP");
    manager.wait_for("RELOADING=1");
    let finished = daemon.stop();
    assert_eq!(finished.code(), Some(0), "{finished:?}");
    assert!(finished.err.contains("stopped: ") && !finished.err.contains("reload failed"), "{finished:?}");
}

#[test]
fn a_check_that_is_interrupted_has_not_checked() {
    for mode in ["--check", "--print-config"] {
        let pipe = temporary_folder().join("pipe");
        mkfifo(&pipe);
        let process = Running::start(Command::new(PROGRAM).args([mode, "--config"]).arg(&pipe));
        let _writer = writer_of(&pipe);
        process.signal("TERM");
        let finished = process.finish();
        assert_eq!((finished.code(), &*finished.err), (Some(1), "echo-udpd: interrupted"), "{mode}");
    }
}

#[test]
fn a_thousand_reloads_that_wait_are_one() {
    let manager = Manager::new();
    let wrapper = ["env", &manager.variable()];
    let mut daemon = DaemonCommand::default().wrapped(&wrapper).listen("127.0.0.1:0").settings("# some").start();
    let writer = Writer::start(daemon.settings());
    daemon.process.signal("HUP");
    manager.wait_for("RELOADING=1");
    sh(format!("for n in $(seq 1000); do kill -HUP {}; done", daemon.process.pid())).success();
    drop(writer);
    let mut reloads = 0;
    daemon.process.find_line("the second reload", |line| {
        reloads += usize::from(line.contains("settings reloaded"));
        (reloads == 2).then_some(())
    });
    daemon.counters();
    let finished = daemon.stop();
    assert!(!finished.err.contains("reload"), "{}", finished.err);
}

#[test]
fn check_warns_root_of_a_file_that_the_service_could_not_read() {
    need!(is_root(), "root");
    // Where everybody may come.
    let folder = std::env::temp_dir().join(format!("echo-udpd-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("echo-udpd.toml");
    fs::write(&file, "").unwrap();
    let check = |mode: &str| {
        sh(format!("chmod {mode}")).success();
        let checked = run(Command::new(PROGRAM).arg("--check").arg("--config").arg(&file));
        assert_eq!((checked.code(), &*checked.out), (Some(0), ""), "{mode}");
        checked.err
    };
    let (folder, file) = (folder.display(), file.display());
    assert_eq!(check(&format!("755 {folder}; chmod 644 {file}")), "");
    for (mode, private) in [(format!("640 {file}"), format!("{file}")), (format!("700 {folder}"), format!("{folder}"))]
    {
        let warning = check(&mode);
        assert!(warning.starts_with(&format!("echo-udpd: warning: not everyone can read {private}")), "{warning}");
        sh(format!("chmod 644 {file}")).success();
    }
    sh(format!("rm -r {folder}")).success();
}
