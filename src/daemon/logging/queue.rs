//! The bounded queue between those who log and the one thread that writes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// The most records that wait; each is a few hundred bytes, the largest about 50 kB.
const CAPACITY: usize = 4096;

/// The destination of records; it may block for any time.
pub(super) trait Sink: Send + 'static {
    /// Writes one record.
    fn write(&mut self, record: &[u8]) -> io::Result<()>;

    /// The record that reports how many records were dropped.
    fn dropped(&self, count: u64) -> Vec<u8>;
}

enum Item {
    Record(Vec<u8>),
    /// A mark whose sender is dropped once everything before it is written.
    Mark(#[expect(dead_code, reason = "being dropped is its message")] SyncSender<()>),
}

/// The side of those who log; it never waits.
#[derive(Clone)]
pub(super) struct Queue {
    records: SyncSender<Item>,
    drops: Arc<Drops>,
}

#[derive(Default)]
struct Drops {
    /// Drops that are not reported yet.
    unreported: AtomicU64,
    total: AtomicU64,
}

impl Queue {
    /// Starts the thread that writes.
    pub(super) fn start(sink: impl Sink) -> io::Result<Self> {
        let (records, queued) = sync_channel(CAPACITY);
        let drops = Arc::<Drops>::default();
        let writer = Writer { sink, drops: Arc::clone(&drops) };
        thread::Builder::new().name("log".into()).spawn(move || writer.run(&queued))?;
        Ok(Self { records, drops })
    }

    /// Queues a record, or counts it as dropped.
    pub(super) fn push(&self, record: Vec<u8>) {
        if self.records.try_send(Item::Record(record)).is_err() {
            self.drops.count();
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.drops.total.load(Relaxed)
    }

    /// Waits until everything queued is written, but no longer than this.
    pub(super) fn flush(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let (mark, written) = sync_channel(0);
        let mut item = Item::Mark(mark);
        while let Err(TrySendError::Full(back)) = self.records.try_send(item) {
            if Instant::now() >= deadline {
                return;
            }
            item = back;
            thread::sleep(Duration::from_millis(1));
        }
        // Disconnected: written. Timed out: the reader does not read, and the process need not wait for it.
        let _: Result<(), RecvTimeoutError> = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

impl Drops {
    fn count(&self) {
        self.unreported.fetch_add(1, Relaxed);
        self.total.fetch_add(1, Relaxed);
    }
}

struct Writer<S> {
    sink: S,
    drops: Arc<Drops>,
}

impl<S: Sink> Writer<S> {
    fn run(mut self, queued: &Receiver<Item>) {
        while let Ok(item) = queued.recv() {
            let Item::Record(record) = item else {
                self.report_drops();
                continue;
            };
            match self.sink.write(&record) {
                Ok(()) => self.report_drops(),
                Err(_) => self.drops.count(),
            }
        }
    }

    /// Reports the number of drops, now that something could be written.
    fn report_drops(&mut self) {
        let unreported = self.drops.unreported.swap(0, Relaxed);
        if unreported > 0 && self.sink.write(&self.sink.dropped(unreported)).is_err() {
            self.drops.unreported.fetch_add(unreported, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// A reader that reads only when it is allowed to.
    struct Held {
        allowed: Receiver<()>,
        written: Sender<String>,
    }

    impl Sink for Held {
        fn write(&mut self, record: &[u8]) -> io::Result<()> {
            self.allowed.recv().map_err(io::Error::other)?;
            self.written.send(String::from_utf8_lossy(record).into_owned()).map_err(io::Error::other)
        }

        fn dropped(&self, count: u64) -> Vec<u8> {
            format!("dropped {count}").into()
        }
    }

    #[test]
    fn a_stalled_reader_blocks_nobody_and_the_drops_are_counted_exactly() {
        let (allow, allowed) = channel();
        let (written, lines) = channel();
        let queue = Queue::start(Held { allowed, written }).unwrap();
        let sent = 3 * CAPACITY;
        (0..sent).for_each(|number| queue.push(number.to_string().into()));
        let dropped = queue.dropped();
        // The writer may have taken one out of the queue already.
        assert!((2 * CAPACITY as u64 - 1..=2 * CAPACITY as u64).contains(&dropped));

        (0..=sent).for_each(|_| allow.send(()).unwrap());
        queue.flush(Duration::from_secs(20));
        let lines: Vec<String> = lines.try_iter().collect();
        let reported: u64 =
            lines.iter().filter_map(|line| line.strip_prefix("dropped ")).map(|n| n.parse::<u64>().unwrap()).sum();
        assert_eq!(reported, dropped);
        let kept = lines.iter().filter(|line| !line.starts_with("dropped ")).count();
        assert_eq!(kept as u64 + reported, sent as u64);
    }

    #[test]
    fn a_flush_gives_up_on_a_reader_that_does_not_read() {
        let (_allow, allowed) = channel();
        let (written, _lines) = channel();
        let queue = Queue::start(Held { allowed, written }).unwrap();
        queue.push(b"stuck".into());
        queue.flush(Duration::from_millis(50));
        assert_eq!(queue.dropped(), 0);
    }
}
