//! Processes: started, listened to line by line, signalled by pid, and killed when a test ends early.

#![allow(unsafe_code, reason = "a session is made between fork and exec")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use echo_udpd::stats::DropReason;

use super::namespace::Namespace;
use super::{DEADLINE, sh, temporary_file, wait_for};

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Finished {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Its output, when it succeeded.
    pub(crate) fn success(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.out
    }
}

/// Runs a command to its end, within the deadline.
pub(crate) fn run(command: &mut Command) -> Finished {
    Running::start(command).finish()
}

/// A process that runs.
pub(crate) struct Running {
    child: Child,
    name: String,
    out: Receiver<String>,
    err: Receiver<String>,
    /// Lines of its standard error that were looked at.
    seen: Vec<String>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let name = format!("{command:?}");
        // SAFETY: own_session makes one system call, which is allowed between fork and exec.
        unsafe { command.pre_exec(own_session) };
        let command = command.env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM").stdin(Stdio::piped());
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
        let (out, err) = (lines(child.stdout.take().unwrap()), lines(child.stderr.take().unwrap()));
        Self { child, name, out, err, seen: Vec::new() }
    }

    /// Starts a command that reads this.
    pub(crate) fn with_input(command: &mut Command, input: &[u8]) -> Self {
        let running = Self::start(command);
        let mut pipe = running.child.stdin.as_ref().unwrap();
        pipe.write_all(input).unwrap();
        running
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.pid())).status().unwrap();
        assert!(status.success());
    }

    /// The first line of standard error, old or new, that `wanted` finds something in.
    pub(crate) fn find_line<T>(&mut self, what: &str, mut wanted: impl FnMut(&str) -> Option<T>) -> T {
        if let Some(found) = self.seen.iter().find_map(|line| wanted(line)) {
            return found;
        }
        let deadline = Instant::now() + DEADLINE;
        while let Ok(line) = self.err.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            let found = wanted(&line);
            self.seen.push(line);
            if let Some(found) = found {
                return found;
            }
        }
        panic!("{} never said {what}; it said {:#?}", self.name, self.seen)
    }

    /// The next line of standard output.
    pub(crate) fn next_output(&mut self) -> String {
        self.out.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("{} said no more", self.name))
    }

    /// Forgets the lines of standard error that were looked at.
    pub(crate) fn forget_lines(&mut self) {
        self.seen.clear();
    }

    /// Stops it with SIGSTOP, and waits until every thread stands still.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
        self.wait_for_threads("to stand still", 'T');
    }

    /// Waits until every thread sleeps: a thread that was woken and has not run yet does not.
    pub(crate) fn wait_until_idle(&self) {
        self.wait_for_threads("to sleep", 'S');
    }

    /// Waits until all threads are in this state of proc(5).
    fn wait_for_threads(&self, what: &str, state: char) {
        let state = format!("State:\t{state}");
        wait_for(&format!("all threads of {} {what}", self.name), || {
            let mut threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
            // A thread that has ended meanwhile is in no state.
            let status = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("status"));
            threads.all(|thread| status(thread.unwrap()).map_or(true, |status| status.contains(&state))).then_some(())
        });
    }

    /// Ends the process that this one traces or wraps.
    pub(crate) fn end_child(&mut self) {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        for child in children.split_whitespace() {
            sh(format!("kill -TERM {child}")).success();
        }
    }

    /// Returns whether it ends in time.
    pub(crate) fn wait_within(&mut self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            if self.child.try_wait().unwrap().is_some() {
                return true;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Finished {
        drop(self.child.stdin.take());
        let name = self.name.clone();
        let status = wait_for(&format!("the end of {name}"), || self.child.try_wait().unwrap());
        let (mut out, mut err) = (String::new(), std::mem::take(&mut self.seen));
        while let Ok(line) = self.out.recv_timeout(DEADLINE) {
            out.push_str(&line);
            out.push('\n');
        }
        while let Ok(line) = self.err.recv_timeout(DEADLINE) {
            err.push(line);
        }
        Finished { status, out, err: err.join("\n") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended or not, neither it nor what it traces may outlive its test.
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        if !children.trim().is_empty() {
            let _ = Command::new("sh").arg("-c").arg(format!("kill -KILL {children}")).status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Leaves the terminal of whoever runs the tests: with one, SIGHUP would mean that it is gone.
fn own_session() -> std::io::Result<()> {
    // SAFETY: setsid takes nothing and changes this process alone, which was forked just now and leads no group.
    match unsafe { libc::setsid() } {
        -1 => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Reads a pipe on a thread, so that the process never waits for the test.
pub(crate) fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n') {
            let Ok(line) = line else { return };
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// How a daemon is to be started.
#[derive(Default)]
pub(crate) struct DaemonCommand {
    settings: String,
    listen: Vec<String>,
    wrapper: Vec<String>,
}

impl DaemonCommand {
    /// Adds a listen address to the command line; `[::]:0` when none is added.
    pub(crate) fn listen(mut self, address: &str) -> Self {
        self.listen.push(address.into());
        self
    }

    pub(crate) fn settings(mut self, text: &str) -> Self {
        self.settings = text.into();
        self
    }

    /// Runs it in this network namespace.
    pub(crate) fn within(self, namespace: &Namespace) -> Self {
        self.wrapped(&["ip", "netns", "exec", namespace.name()])
    }

    /// Runs it through another program.
    pub(crate) fn wrapped(mut self, wrapper: &[&str]) -> Self {
        self.wrapper.extend(wrapper.iter().map(|&word| word.to_owned()));
        self
    }

    /// The command and its settings file.
    pub(crate) fn command(&self) -> (Command, PathBuf) {
        let file = temporary_file("echo-udpd.toml", &self.settings);
        let mut words = self.wrapper.clone();
        words.extend([env!("CARGO_BIN_EXE_echo-udpd"), "--config", file.to_str().unwrap()].map(String::from));
        for address in &self.listen {
            words.extend(["--listen".into(), address.clone()]);
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        (command, file)
    }

    /// Starts it and waits until it answers.
    pub(crate) fn start(mut self) -> Daemon {
        if self.listen.is_empty() && !self.settings.contains("listen") {
            self = self.listen("[::]:0");
        }
        let (mut command, settings) = self.command();
        let mut process = Running::start(&mut command);
        let mut addresses: Vec<SocketAddr> = Vec::new();
        process.find_line("that it has told where it listens", |line| {
            let told = line.split_once("INFO listening on ").and_then(|(_, rest)| rest.split(' ').next());
            addresses.extend(told.map(|address| address.parse::<SocketAddr>().unwrap()));
            line.contains("settings read").then_some(())
        });
        Daemon { process, addresses, settings }
    }
}

/// A daemon that answers.
pub(crate) struct Daemon {
    pub(crate) process: Running,
    pub(crate) addresses: Vec<SocketAddr>,
    settings: PathBuf,
}

impl Daemon {
    /// One on `[::]` and a free port, with the default settings.
    pub(crate) fn start() -> Self {
        DaemonCommand::default().start()
    }

    pub(crate) fn with_settings(text: &str) -> Self {
        DaemonCommand::default().settings(text).start()
    }

    /// Its settings file.
    pub(crate) fn settings(&self) -> &Path {
        &self.settings
    }

    pub(crate) fn port(&self) -> u16 {
        self.addresses[0].port()
    }

    pub(crate) fn at(&self, host: &str) -> SocketAddr {
        SocketAddr::new(host.parse().unwrap(), self.port())
    }

    /// Replaces its settings file and lets it reload.
    pub(crate) fn reload(&mut self, settings: &str) {
        std::fs::write(&self.settings, settings).unwrap();
        self.process.signal("HUP");
    }

    /// Waits for a line of its log.
    pub(crate) fn wait_for_line(&mut self, text: &str) -> String {
        self.process.find_line(text, |line| line.contains(text).then(|| line.to_owned()))
    }

    /// All counters, as SIGUSR1 logs them, once they stand still: a turn of the loop is counted when its replies are
    /// out.
    pub(crate) fn counters(&mut self) -> Counters {
        self.process.wait_until_idle();
        let mut last = self.counters_now();
        wait_for("the counters to stand still", || {
            thread::sleep(Duration::from_millis(25));
            self.process.wait_until_idle();
            let now = self.counters_now();
            let before = std::mem::replace(&mut last, now);
            (before == last).then(|| last.clone())
        })
    }

    /// All counters at this moment, at rest or not.
    pub(crate) fn counters_now(&mut self) -> Counters {
        self.process.forget_lines();
        self.process.signal("USR1");
        let line = self.wait_for_line("counters: ");
        Counters::parse(&line)
    }

    /// Stops it as systemd would.
    pub(crate) fn stop(self) -> Finished {
        self.process.signal("TERM");
        self.process.finish()
    }
}

/// The counters of a line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counters(HashMap<String, u64>);

impl Counters {
    pub(crate) fn parse(line: &str) -> Self {
        let pairs = line.split(' ').filter_map(|word| word.split_once('='));
        Self(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// The name of each.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn of(&self, name: &str) -> u64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no counter {name} in {self:?}"))
    }

    /// The counters that are more than they were before, and by how much.
    pub(crate) fn since(&self, before: &Self) -> std::collections::BTreeMap<String, u64> {
        let grown = self.0.iter().map(|(name, value)| (name.clone(), value - before.of(name)));
        grown.filter(|&(_, more)| more > 0).collect()
    }

    /// Every datagram is accounted for.
    pub(crate) fn assert_balance(&self) {
        let drops = |before: bool| {
            let reasons = DropReason::ALL.into_iter().filter(|reason| reason.is_before_handler() == before);
            reasons.map(|reason| self.of(&format!("dropped_{reason}"))).sum::<u64>()
        };
        assert_eq!(self.of("received"), self.of("handled") + drops(true), "{self:?}");
        assert_eq!(self.of("handled"), self.of("echoed") + self.of("error_replies") + drops(false), "{self:?}");
    }
}
