//! Signals: each sets the flag of its request and wakes the threads that check the flags.
//!
//! The signal handlers themselves set the flags, so that no request is missed even if the wake-up fails. A flag holds
//! one request however often it was made: a thousand SIGHUPs are one reload, and at most one more after it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::{flag, low_level::pipe};

/// The interval at which the flags are polled where nothing can wait for a signal.
const PAUSE: Duration = Duration::from_millis(100);

/// Signals could not be watched.
#[derive(Debug, thiserror::Error)]
#[error("watch signals")]
pub(super) struct SignalError(#[from] io::Error);

/// Requests that came as signals; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
    counters: Arc<AtomicBool>,
    /// Set once SIGTERM and SIGINT are to end the process at once.
    end: Arc<AtomicBool>,
}

impl Requests {
    /// Installs the handlers: from here on a signal is a request, not the end. Leaves no file open.
    pub(super) fn install(&self) -> Result<(), SignalError> {
        for signal in [SIGTERM, SIGINT] {
            flag::register_conditional_default(signal, Arc::clone(&self.end))?;
            flag::register(signal, Arc::clone(&self.stop))?;
        }
        let hangup = if hangup_stops() { &self.stop } else { &self.reload };
        flag::register(SIGHUP, Arc::clone(hangup))?;
        flag::register(SIGUSR1, Arc::clone(&self.counters))?;
        // With a handler of any kind, a log file that has reached its limit fails a write instead of ending the
        // process.
        flag::register(SIGXFSZ, Arc::<AtomicBool>::default())?;
        Ok(())
    }

    /// Lets SIGTERM and SIGINT end the process at once from here on, as they do without handlers.
    pub(super) fn end_at_once(&self) {
        self.end.store(true, SeqCst);
    }

    /// Starts the thread that calls `wake` after each signal, and once for those that came before.
    pub(super) fn watch(&self, mut wake: impl FnMut() + Send + 'static) -> Result<(), SignalError> {
        let (mut arrived, arriving) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGUSR1] {
            pipe::register(signal, arriving.try_clone()?)?;
        }
        thread::Builder::new().name("signals".into()).spawn(move || {
            loop {
                wake();
                if arrived.read(&mut [0; 64]).is_err() {
                    thread::sleep(PAUSE);
                }
            }
        })?;
        Ok(())
    }

    /// Returns whether the daemon was asked to stop; unlike the others, this request is never cleared.
    pub(super) fn stop(&self) -> bool {
        self.stop.load(SeqCst)
    }

    /// Waits until the daemon is asked to stop, for at most this time. Does not need the thread that wakes others.
    pub(super) fn wait_for_stop(&self, limit: Duration) {
        let end = Instant::now() + limit;
        while !self.stop() && Instant::now() < end {
            thread::sleep(PAUSE.min(end.saturating_duration_since(Instant::now())));
        }
    }

    /// Returns whether a reload was asked for since the last call.
    pub(super) fn take_reload(&self) -> bool {
        self.reload.swap(false, SeqCst)
    }

    /// Returns whether the counters were asked for since the last call.
    pub(super) fn take_counters(&self) -> bool {
        self.counters.swap(false, SeqCst)
    }
}

/// Returns whether SIGHUP means that the terminal is gone: a daemon in the foreground must not keep the port then. If
/// it was started with SIGHUP ignored (nohup(1)), it is meant to stay.
fn hangup_stops() -> bool {
    let has_terminal = File::open("/dev/tty").is_ok();
    has_terminal && !fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores(&status, SIGHUP))
}

/// Returns whether `/proc/PID/status` lists the signal as ignored (proc_pid_status(5)).
fn ignores(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// The side of a wake channel that wakes a thread.
#[derive(Clone)]
pub(super) struct Wake(SyncSender<()>);

/// The side of a wake channel that the thread waits on.
pub(super) struct Wakeups(Receiver<()>);

/// Makes a wake channel; two wakes before the thread looks count as one.
pub(super) fn wake_channel() -> (Wake, Wakeups) {
    let (wake, wakeups) = sync_channel(1);
    (Wake(wake), Wakeups(wakeups))
}

impl Wake {
    pub(super) fn wake(&self) {
        // Full: it will look anyway. Disconnected: it has ended.
        let _ = self.0.try_send(());
    }
}

impl Wakeups {
    /// Waits until this thread is woken, but no longer than until this time.
    pub(super) fn wait_until(&self, time: Instant) {
        let wait = time.saturating_duration_since(Instant::now());
        if let Err(std::sync::mpsc::RecvTimeoutError::Disconnected) = self.0.recv_timeout(wait) {
            thread::sleep(time.saturating_duration_since(Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        let status = "Name:\techo-udpd\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert!(ignores(status, SIGHUP));
        assert!(!ignores(status, SIGINT));
        assert!(!ignores("Name:\techo-udpd\n", SIGHUP));
    }

    #[test]
    fn a_wake_is_not_missed_and_many_are_one() {
        let (wake, wakeups) = wake_channel();
        (0..1000).for_each(|_| wake.wake());
        let soon = Instant::now() + Duration::from_secs(20);
        wakeups.wait_until(soon);
        assert!(Instant::now() < soon);
        let start = Instant::now();
        wakeups.wait_until(start + Duration::from_millis(20));
        assert!(start.elapsed() >= Duration::from_millis(20));
    }
}
