//! Sends a batch of datagrams by `sendmmsg(2)`, each from the address that its request was sent to.
//!
//! Consecutive datagrams of one flow and one size leave as one message, which the kernel cuts (UDP_SEGMENT of udp(7)):
//! a run takes the way through the kernel once. Where a device or a route refuses a run, its datagrams go out one by
//! one.
//!
//! A datagram that cannot be sent does not affect the others: `sendmmsg` stops at the first message that fails, with a
//! short count or (if it is the first of the call) with its errno; that one is skipped and the rest is sent.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::messages::Messages;
use super::{BATCH_SIZE, Flow, Outgoing};

/// The number of times that a call interrupted by a signal is repeated before its datagram counts as refused.
const INTERRUPTIONS: u32 = 16;
/// The most datagrams in a run (`UDP_MAX_SEGMENTS` of the kernel's linux/udp.h; it was 64 before Linux 6.9).
const MAX_SEGMENTS: usize = 64;
/// The most bytes in a run: with its headers it has to fit in one packet of 65 535.
const MAX_RUN_BYTES: usize = 65_000;
/// The number of datagrams like those of a refused run that go out alone before a run of them is tried again.
const SINGLES_BEFORE_RETRY: u32 = 1024;

/// Sends queued datagrams, up to [`BATCH_SIZE`] messages per call.
pub struct SendBatch {
    ipv6_socket: bool,
    messages: Messages,
    /// The number of datagrams in each message of the next call.
    runs: Vec<usize>,
    refused: Option<RefusedRun>,
}

/// The run that was refused last. Usually its datagrams have to be fragmented, which depends on the path: those of the
/// same flow that are as large go out alone for a while.
struct RefusedRun {
    flow: Flow,
    size: usize,
    /// The number of such datagrams until a run is tried again.
    remaining: u32,
}

/// The outcome for a queued datagram.
#[derive(Debug)]
pub enum SendOutcome<'a, T = Outgoing> {
    /// The kernel took it.
    Sent(&'a T),
    /// The kernel refused it, with this error; it is not sent again.
    Refused(&'a T, io::Error),
}

/// How the messages that were prepared ended.
enum Sent {
    /// All were sent or refused.
    All,
    /// The next one is a run, which was refused as a whole.
    RunRefused(usize),
    /// The send buffer is full.
    Blocked(io::Error),
}

impl SendBatch {
    /// Creates a batch for sockets of the family AF_INET6 or AF_INET.
    #[must_use]
    pub fn new(ipv6_socket: bool) -> Self {
        Self { ipv6_socket, messages: Messages::new(), runs: Vec::with_capacity(BATCH_SIZE), refused: None }
    }

    /// Sends all of `queue`, in order, and reports the outcome for each datagram; those not sent or refused remain in
    /// the queue. `T` is a datagram with anything that its sender needs to know about it in the report.
    ///
    /// # Errors
    /// `WouldBlock` if the socket's send buffer is full: what remains in the queue can be sent once there is room.
    pub fn send<T: AsRef<Outgoing>>(
        &mut self,
        socket: BorrowedFd<'_>,
        queue: &mut Vec<T>,
        mut report: impl FnMut(SendOutcome<'_, T>),
    ) -> io::Result<()> {
        // The number of datagrams that were dealt with, and of those after them that must not form a run.
        let (mut done, mut singles) = (0, 0);
        let result = loop {
            let rest = &queue[done..];
            if rest.is_empty() {
                break Ok(());
            }
            self.prepare(rest, std::mem::take(&mut singles));
            let (count, sent) = self.send_prepared(socket, rest, &mut report);
            done += count;
            match sent {
                Sent::All => {}
                Sent::RunRefused(run) => singles = run,
                Sent::Blocked(error) => break Err(error),
            }
        };
        queue.drain(..done);
        result
    }

    /// Prepares the messages of the next call, up to [`BATCH_SIZE`]; the first `singles` datagrams each get their own.
    fn prepare<T: AsRef<Outgoing>>(&mut self, queue: &[T], singles: usize) {
        self.runs.clear();
        self.messages.grow(queue.len().min(BATCH_SIZE), queue.len().min(BATCH_SIZE * MAX_SEGMENTS));
        let mut done = 0;
        while done < queue.len() && self.runs.len() < BATCH_SIZE {
            let rest = &queue[done..];
            let count = if done < singles { 1 } else { self.run_length(rest) };
            let first = rest[0].as_ref();
            for (at, outgoing) in rest[..count].iter().map(AsRef::as_ref).enumerate() {
                let payload = &outgoing.payload;
                // The kernel only reads the payload; iovec has no const form.
                let part = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
                self.messages.set_part(done + at, part);
            }
            let segment_size = if count > 1 { u16::try_from(first.payload.len()).ok() } else { None };
            let Flow { peer, destination } = &first.flow;
            let at = self.runs.len();
            let name_length = self.messages.names[at].encode(*peer, self.ipv6_socket);
            let control_length = self.messages.controls[at].encode(destination.as_ref(), segment_size);
            self.messages.point(at, name_length, control_length, done..done + count);
            self.runs.push(count);
            done += count;
        }
    }

    /// The number of datagrams at the front of the queue that are to leave as one message.
    fn run_length<T: AsRef<Outgoing>>(&mut self, queue: &[T]) -> usize {
        let first = queue[0].as_ref();
        match &mut self.refused {
            Some(refused) if first.payload.len() >= refused.size && first.flow == refused.flow => {
                refused.remaining -= 1;
                if refused.remaining == 0 {
                    self.refused = None;
                }
                1
            }
            _ => run_length(queue),
        }
    }

    /// Sends the messages that were prepared for this queue; returns how many of its datagrams were dealt with.
    fn send_prepared<T: AsRef<Outgoing>>(
        &mut self,
        socket: BorrowedFd<'_>,
        queue: &[T],
        report: &mut impl FnMut(SendOutcome<'_, T>),
    ) -> (usize, Sent) {
        let (mut at, mut done, mut interrupted) = (0, 0, 0);
        while at < self.runs.len() {
            let headers = self.messages.headers(at..self.runs.len());
            // SAFETY: these headers were prepared for this queue, whose payloads, like the names, control buffers and
            // parts, are alive and not written to during the call.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    headers.as_mut_ptr(),
                    headers.len() as libc::c_uint,
                    // An int in glibc, unsigned in musl.
                    libc::MSG_DONTWAIT as _,
                )
            };
            match usize::try_from(sent) {
                Ok(sent) if sent > 0 => {
                    let datagrams: usize = self.runs[at..at + sent].iter().sum();
                    queue[done..done + datagrams].iter().for_each(|outgoing| report(SendOutcome::Sent(outgoing)));
                    at += sent;
                    done += datagrams;
                }
                _ => {
                    let error = io::Error::last_os_error();
                    match error.kind() {
                        io::ErrorKind::Interrupted if interrupted < INTERRUPTIONS => interrupted += 1,
                        io::ErrorKind::WouldBlock => return (done, Sent::Blocked(error)),
                        _ if self.runs[at] > 1 => {
                            let first = queue[done].as_ref();
                            let (flow, size) = (first.flow, first.payload.len());
                            self.refused = Some(RefusedRun { flow, size, remaining: SINGLES_BEFORE_RETRY });
                            return (done, Sent::RunRefused(self.runs[at]));
                        }
                        _ => {
                            report(SendOutcome::Refused(&queue[done], error));
                            at += 1;
                            done += 1;
                        }
                    }
                }
            }
        }
        (done, Sent::All)
    }
}

/// The number of datagrams at the front of a queue that are of one flow and one size; the last may be shorter. An empty
/// datagram is never part of a run: it would be no part of its bytes.
fn run_length<T: AsRef<Outgoing>>(queue: &[T]) -> usize {
    let first = queue[0].as_ref();
    let size = first.payload.len();
    let (mut count, mut bytes) = (1, size);
    for next in queue[1..].iter().take(MAX_SEGMENTS - 1).map(AsRef::as_ref) {
        let length = next.payload.len();
        bytes += length;
        if length == 0 || length > size || bytes > MAX_RUN_BYTES || next.flow != first.flow {
            break;
        }
        count += 1;
        if length < size {
            break;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsFd;

    use bytes::Bytes;

    use super::*;

    fn outgoing(peer: SocketAddr, payload: &'static str) -> Outgoing {
        Outgoing { flow: Flow { peer, destination: None }, payload: Bytes::from_static(payload.as_bytes()) }
    }

    #[test]
    fn a_short_count_skips_the_one_that_failed_and_no_other() {
        let (sender, receiver) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let good = receiver.local_addr().unwrap();
        // The kernel refuses port 0 with EINVAL: first of a call, in the middle and at the end of it.
        let bad = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut queue: Vec<_> = [bad, good, good, bad, bad, good, bad].map(|peer| outgoing(peer, "x")).into();
        let mut outcomes = Vec::new();
        SendBatch::new(false)
            .send(sender.as_fd(), &mut queue, |sent| {
                outcomes.push(match sent {
                    SendOutcome::Sent(outgoing) => (outgoing.flow.peer == good, true),
                    SendOutcome::Refused(outgoing, error) => {
                        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
                        (outgoing.flow.peer == good, false)
                    }
                });
            })
            .unwrap();
        let expected = [false, true, true, false, false, true, false].map(|good| (good, good));
        assert_eq!(outcomes, expected);
        assert!(queue.is_empty());
        receiver.set_nonblocking(true).unwrap();
        assert_eq!(std::iter::from_fn(|| receiver.recv(&mut [0; 9]).ok()).count(), 3);
    }

    #[test]
    fn more_than_a_batch_goes_out_in_order() {
        let (sender, receiver) = (UdpSocket::bind("[::1]:0").unwrap(), UdpSocket::bind("[::1]:0").unwrap());
        let peer = receiver.local_addr().unwrap();
        let texts: Vec<String> = (0..3 * BATCH_SIZE + 1).map(|number| number.to_string()).collect();
        let mut queue = Vec::new();
        queue.extend(texts.iter().map(|text| Outgoing { payload: Bytes::from(text.clone()), ..outgoing(peer, "") }));
        let mut sent = 0;
        SendBatch::new(true).send(sender.as_fd(), &mut queue, |_| sent += 1).unwrap();
        assert_eq!(sent, texts.len());
        let mut buffer = [0; 9];
        for text in texts {
            let length = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], text.as_bytes());
        }
    }

    /// Sends these payloads to a socket with UDP_GRO, each to the given one of two addresses that it has, and returns
    /// what it received: for each message its datagrams' sizes.
    fn messages_of(payloads: &[(usize, u8)]) -> Vec<Vec<usize>> {
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let receivers = [0; 2].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
        let mut queue = Vec::new();
        for (at, &(size, to)) in payloads.iter().enumerate() {
            let peer = receivers[usize::from(to)].local_addr().unwrap();
            queue.push(Outgoing { payload: Bytes::from(vec![at as u8; size]), ..outgoing(peer, "") });
        }
        let mut sent = Vec::new();
        let report = |outcome: SendOutcome<'_>| match outcome {
            SendOutcome::Sent(outgoing) => sent.push(outgoing.payload.len()),
            SendOutcome::Refused(_, error) => panic!("{error}"),
        };
        let mut batch = SendBatch::new(false);
        batch.send(sender.as_fd(), &mut queue, report).unwrap();
        assert!(sent.iter().copied().eq(payloads.iter().map(|&(size, _)| size)), "{sent:?}");
        for (to, receiver) in receivers.iter().enumerate() {
            let expected = payloads.iter().enumerate().filter(|(_, payload)| usize::from(payload.1) == to);
            receiver.set_nonblocking(true).unwrap();
            for (at, &(size, _)) in expected {
                let mut buffer = vec![0; 65_536];
                let length = receiver.recv(&mut buffer).unwrap();
                assert_eq!(buffer[..length], vec![at as u8; size]);
            }
            assert!(receiver.recv(&mut [0; 9]).is_err());
        }
        let mut at = 0;
        let cut = |&count: &usize| {
            at += count;
            payloads[at - count..at].iter().map(|payload| payload.0).collect()
        };
        batch.runs.iter().map(cut).collect()
    }

    #[test]
    fn consecutive_datagrams_of_one_flow_and_size_leave_as_one_message() {
        let sizes = |payloads: &[(usize, u8)]| messages_of(payloads).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(&[(64, 0); 5]), [5]);
        assert_eq!(sizes(&[(64, 0), (64, 0), (63, 0), (63, 0)]), [3, 1], "a shorter one is the last");
        assert_eq!(sizes(&[(64, 0), (65, 0), (65, 0), (1, 0), (2, 0)]), [1, 3, 1], "a longer one begins another");
        assert_eq!(sizes(&[(64, 0), (64, 1), (64, 1), (64, 0)]), [1, 2, 1], "another peer");
        assert_eq!(sizes(&[(0, 0), (0, 0), (5, 0), (0, 0), (5, 0)]), [1; 5], "empty ones go alone");
        assert_eq!(sizes(&[(3, 0); 130]), [64, 64, 2], "at most 64 datagrams");
        assert_eq!(sizes(&[(1300, 0); 52]), [50, 2], "at most 65 000 bytes");
        assert_eq!(sizes(&[(32_500, 0), (32_500, 0), (40_000, 0), (25_001, 0)]), [2, 1, 1]);
    }

    #[test]
    fn a_run_that_the_kernel_refuses_goes_out_one_by_one_and_only_its_like_for_a_while() {
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        // The kernel cuts nothing for a socket that sends no checksums (EINVAL), but takes each datagram.
        let no_checksums = |on: i32| {
            crate::socket::options::set_integer(sender.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, on).unwrap();
        };
        let receivers = [0; 2].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
        let [first, second] = [0, 1].map(|at: usize| receivers[at].local_addr().unwrap());
        let mut batch = SendBatch::new(false);
        let mut runs = |peers: &[SocketAddr]| {
            let mut queue: Vec<_> = peers.iter().map(|&peer| outgoing(peer, "payload")).collect();
            let mut sent = 0;
            let count = |outcome: SendOutcome<'_>| sent += u32::from(matches!(outcome, SendOutcome::Sent(_)));
            batch.send(sender.as_fd(), &mut queue, count).unwrap();
            assert_eq!((sent as usize, queue.len()), (peers.len(), 0));
            batch.runs.clone()
        };
        no_checksums(1);
        assert_eq!(runs(&[first, first, first]), [1, 1, 1]);
        no_checksums(0);
        for _ in 0..SINGLES_BEFORE_RETRY / 2 {
            assert_eq!(runs(&[first, first, second, second, second]), [1, 1, 3]);
        }
        assert_eq!(runs(&[first, first]), [2], "tried again");
        for (receiver, count) in receivers.iter().zip([5 + SINGLES_BEFORE_RETRY, 3 * SINGLES_BEFORE_RETRY / 2]) {
            receiver.set_nonblocking(true).unwrap();
            let received = std::iter::from_fn(|| receiver.recv(&mut [0; 9]).ok()).count();
            assert!(received == count as usize || received > 200, "{received}: more than its buffer holds");
        }
    }
}
