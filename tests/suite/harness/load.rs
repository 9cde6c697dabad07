//! A steady load: numbered datagrams at a fixed rate, whatever happens to the server, and which of them were answered.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::wire::set_option;
use super::{DEADLINE, wait_for};

/// How long the last replies may take.
const LAST_REPLIES_WITHIN: Duration = Duration::from_secs(3);

/// What became of a load.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) sent: usize,
    pub(crate) lost: usize,
}

/// How many replies have come so far.
#[derive(Clone, Default)]
pub(crate) struct Answered(Arc<AtomicUsize>);

impl Answered {
    /// Waits for so many more.
    pub(crate) fn wait_for_more(&self, replies: usize) {
        let enough = self.0.load(Relaxed) + replies;
        wait_for(&format!("{replies} more replies"), || (self.0.load(Relaxed) >= enough).then_some(()));
    }
}

/// Sends `rate` datagrams a second, at least `count` and until `meanwhile` is done, which begins once an eighth was
/// answered.
pub(crate) fn load(server: SocketAddr, rate: u32, count: usize, meanwhile: impl FnOnce(&Answered) + Send) -> Outcome {
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    // A second's replies may come at once.
    set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let (answered, total, done) = (Answered::default(), AtomicUsize::new(usize::MAX), AtomicBool::new(false));
    thread::scope(|scope| {
        let replies = scope.spawn(|| {
            let mut replies = Vec::new();
            let mut buffer = [0; 64];
            let mut last = Instant::now();
            let is_over = |last: Instant| total.load(Relaxed) < usize::MAX && last.elapsed() > LAST_REPLIES_WITHIN;
            while replies.len() < total.load(Relaxed) && !is_over(last) {
                if let Ok((length, _)) = socket.recv_from(&mut buffer) {
                    last = Instant::now();
                    let number: usize = std::str::from_utf8(&buffer[..length]).unwrap().parse().unwrap();
                    replies.push(number);
                    answered.0.fetch_add(1, Relaxed);
                }
            }
            replies
        });
        scope.spawn(|| {
            answered.wait_for_more(count / 8);
            meanwhile(&answered);
            done.store(true, Relaxed);
        });
        let begun = Instant::now();
        let mut sent = 0;
        while sent < count || !done.load(Relaxed) {
            assert!(begun.elapsed() < 2 * DEADLINE, "what happens meanwhile takes too long");
            let due = begun + Duration::from_secs(1) / rate * sent as u32;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // Whether it arrives anywhere is what is measured.
            let _ = socket.send_to(sent.to_string().as_bytes(), server);
            sent += 1;
        }
        total.store(sent, Relaxed);
        let mut replies = replies.join().unwrap();
        let answers = replies.len();
        replies.sort_unstable();
        replies.dedup();
        assert_eq!(replies.len(), answers, "a datagram was answered twice");
        Outcome { sent, lost: sent - answers }
    })
}
