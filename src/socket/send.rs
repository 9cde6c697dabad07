//! Sends a batch of datagrams by `sendmmsg(2)`, each from the address that its request was sent to.
//!
//! A datagram that cannot be sent does not affect the others: `sendmmsg` stops at the first that fails, with a short
//! count or (if it is the first of the call) with its errno; that one is skipped and the rest is sent.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::messages::Messages;
use super::{BATCH_SIZE, Flow, Outgoing};

/// The number of times that a call interrupted by a signal is repeated before its datagram counts as refused.
const INTERRUPTIONS: u32 = 16;

/// Sends queued datagrams, up to [`BATCH_SIZE`] per call.
pub struct SendBatch {
    ipv6_socket: bool,
    messages: Messages,
}

/// The outcome for a queued datagram.
#[derive(Debug)]
pub enum SendOutcome<'a, T = Outgoing> {
    /// The kernel took it.
    Sent(&'a T),
    /// The kernel refused it, with this error; it is not sent again.
    Refused(&'a T, io::Error),
}

impl SendBatch {
    /// Creates a batch for sockets of the family AF_INET6 or AF_INET.
    #[must_use]
    pub fn new(ipv6_socket: bool) -> Self {
        Self { ipv6_socket, messages: Messages::new() }
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
        let mut done = 0;
        let result = loop {
            let chunk = &queue[done..queue.len().min(done + BATCH_SIZE)];
            if chunk.is_empty() {
                break Ok(());
            }
            self.prepare(chunk);
            match self.send_chunk(socket, chunk, &mut report) {
                (sent, None) => done += sent,
                (sent, Some(blocked)) => {
                    done += sent;
                    break Err(blocked);
                }
            }
        };
        queue.drain(..done);
        result
    }

    fn prepare<T: AsRef<Outgoing>>(&mut self, chunk: &[T]) {
        self.messages.grow(chunk.len());
        for (at, outgoing) in chunk.iter().map(AsRef::as_ref).enumerate() {
            let Flow { peer, destination } = &outgoing.flow;
            let name_length = self.messages.names[at].encode(*peer, self.ipv6_socket);
            let control_length = destination.as_ref().map_or(0, |asked| self.messages.controls[at].encode(asked));
            // The kernel only reads the payload; iovec has no const form.
            let part =
                libc::iovec { iov_base: outgoing.payload.as_ptr().cast_mut().cast(), iov_len: outgoing.payload.len() };
            self.messages.point(at, name_length, control_length, part);
        }
    }

    /// The number of datagrams dealt with, and the error if the caller has to wait.
    fn send_chunk<T>(
        &mut self,
        socket: BorrowedFd<'_>,
        chunk: &[T],
        report: &mut impl FnMut(SendOutcome<'_, T>),
    ) -> (usize, Option<io::Error>) {
        let (mut at, mut interrupted) = (0, 0);
        while at < chunk.len() {
            let headers = self.messages.headers(at..chunk.len());
            // SAFETY: these headers were prepared for this chunk, whose payloads, like the names, control buffers and
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
                    chunk[at..at + sent].iter().for_each(|outgoing| report(SendOutcome::Sent(outgoing)));
                    at += sent;
                }
                _ => {
                    let error = io::Error::last_os_error();
                    match error.kind() {
                        io::ErrorKind::Interrupted if interrupted < INTERRUPTIONS => interrupted += 1,
                        io::ErrorKind::WouldBlock => return (at, Some(error)),
                        _ => {
                            report(SendOutcome::Refused(&chunk[at], error));
                            at += 1;
                        }
                    }
                }
            }
        }
        (at, None)
    }
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
}
