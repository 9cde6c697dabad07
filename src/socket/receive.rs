//! A batch of datagrams from one `recvmmsg(2)` call, each with its addresses.
//!
//! On a socket with UDP_GRO a message may be a run: datagrams of one flow and one size, the last of which may be
//! shorter (udp(7)). The datagrams are handed out one by one, however they came.
//!
//! A datagram shares the slot that it was received in. A slot is reused once its last sharer is gone; until then
//! another takes its place, and beyond [`MAX_PINNED_SLOTS`] such slots each datagram is copied to a buffer of its size.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use bytes::{Bytes, BytesMut};

use super::ancillary::ControlBuffer;
use super::messages::Messages;
use super::sockaddr::{SockAddrBuffer, canonical};
use super::{BATCH_SIZE, Datagram, Flow};

/// One byte more than any payload, so that nothing is cut off.
const SLOT_SIZE: usize = 65_536;
/// The number of slots that kept datagrams may hold before datagrams are copied.
const MAX_PINNED_SLOTS: usize = BATCH_SIZE;
/// The number of slots that the first call offers. If a call fills all of them, the next one offers twice as many, up
/// to [`BATCH_SIZE`].
const FIRST_SLOTS: usize = 4;
/// The number of calls in a row filling at most a quarter of the slots after which half as many are offered: each
/// offered slot costs a little before each call.
const SMALL_BATCHES: u32 = 64;

/// Receives up to [`BATCH_SIZE`] messages per call: datagrams, or runs of them. Takes 256 KiB of address space, and
/// under load up to 4 MiB, of which only what datagrams filled is resident; kept datagrams can raise that to 12 MiB,
/// and no more.
pub struct ReceiveBatch {
    slots: Vec<BytesMut>,
    messages: Messages,
    /// The number of slots that a call offers, and the number of calls in a row that filled at most a quarter of them.
    offered: usize,
    small: u32,
    /// The number of messages that the last call received, and the number of them that were taken.
    filled: usize,
    taken: usize,
    /// The rest of the message that was taken last, if that is a run.
    run: Option<Run>,
    pinned: Vec<BytesMut>,
    spare: Vec<BytesMut>,
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl ReceiveBatch {
    /// Creates an empty batch.
    #[must_use]
    pub fn new() -> Self {
        let mut batch = Self {
            slots: Vec::new(),
            messages: Messages::new(),
            offered: 0,
            small: 0,
            filled: 0,
            taken: 0,
            run: None,
            pinned: Vec::new(),
            spare: Vec::new(),
        };
        batch.offer(FIRST_SLOTS);
        batch
    }

    /// Receives the messages that wait in the socket, without blocking, and returns their number. What was not taken of
    /// the last call's is gone.
    ///
    /// # Errors
    /// Those of `recvmmsg(2)`; `WouldBlock` if nothing waits.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.call(socket, libc::MSG_DONTWAIT)
    }

    /// The same, but waits for the first message if the socket is a blocking one, for as long as its SO_RCVTIMEO says.
    ///
    /// # Errors
    /// Those of [`receive`](Self::receive); `WouldBlock` if nothing came in that time.
    pub(crate) fn receive_waiting(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.call(socket, libc::MSG_WAITFORONE)
    }

    fn call(&mut self, socket: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<usize> {
        self.adapt();
        self.recycle();
        self.prepare();
        let headers = self.messages.headers(0..self.offered);
        // SAFETY: `headers` are initialised mmsghdr; `prepare` has just made each point to a name, a control buffer and
        // one part that are alive, exclusively ours and as long as their lengths say.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as libc::c_uint,
                // An int in glibc, unsigned in musl.
                flags as _,
                ptr::null_mut(),
            )
        };
        self.filled = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        Ok(self.filled)
    }

    /// Returns whether the last call filled every slot, so that more datagrams are likely to wait; if not, the socket
    /// was then empty (or the next call will return its error).
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.filled == self.slots.len()
    }

    /// Returns whether every datagram of the last call was taken.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.taken == self.filled && self.run.is_none()
    }

    /// Takes the datagrams of the last call, in order, each once.
    pub fn datagrams(&mut self) -> impl Iterator<Item = Datagram> {
        std::iter::from_fn(|| {
            loop {
                if let Some(run) = &mut self.run {
                    let datagram = run.next();
                    if run.payload.is_empty() {
                        self.run = None;
                    }
                    return Some(datagram);
                }
                if self.taken == self.filled {
                    return None;
                }
                self.taken += 1;
                self.run = self.message(self.taken - 1);
            }
        })
    }

    /// The message in a slot, as a run of at least one datagram; `None` if the kernel named no sender.
    fn message(&mut self, at: usize) -> Option<Run> {
        let header = self.messages.header(at);
        let peer = self.messages.names[at].decode(header.msg_hdr.msg_namelen as usize)?;
        let control = self.messages.controls[at].decode(header.msg_hdr.msg_controllen as _);
        let mapped = matches!(peer, SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some());
        let truncated = header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
        let length = header.msg_len as usize;
        Some(Run {
            flow: Flow { peer: canonical(peer), destination: control.ipv4.or(control.ipv6) },
            payload: self.payload(at, length),
            segment_size: control.segment_size.unwrap_or(length),
            truncated,
            mapped_over_ipv6: mapped && control.ipv4.is_none(),
            copy: self.pinned.len() >= MAX_PINNED_SLOTS,
        })
    }

    fn payload(&mut self, at: usize, length: usize) -> Bytes {
        let slot = &mut self.slots[at];
        let length = length.min(slot.capacity());
        // SAFETY: the kernel wrote `msg_len` bytes to the start of this slot's buffer in the last call, which `recycle`
        // had made SLOT_SIZE bytes long; the slot is empty until now, since each message is taken once (`taken`).
        unsafe { slot.set_len(length) };
        slot.split().freeze()
    }

    /// Makes the slots that the last call used ready for the next.
    fn recycle(&mut self) {
        if !self.pinned.is_empty() {
            for mut slot in std::mem::take(&mut self.pinned) {
                if slot.try_reclaim(SLOT_SIZE) { self.spare.push(slot) } else { self.pinned.push(slot) }
            }
            // Never more than one batch is needed at once.
            self.spare.truncate(BATCH_SIZE);
        }
        (self.taken, self.run) = (0, None);
        for slot in &mut self.slots[..std::mem::take(&mut self.filled)] {
            slot.clear();
            if !slot.try_reclaim(SLOT_SIZE) {
                let fresh = self.spare.pop().unwrap_or_else(empty_slot);
                self.pinned.push(std::mem::replace(slot, fresh));
            }
        }
    }

    /// Chooses the number of slots that the next call offers.
    fn adapt(&mut self) {
        self.small = if self.filled <= self.offered / 4 { self.small + 1 } else { 0 };
        if self.is_full() {
            self.offer(BATCH_SIZE.min(2 * self.offered));
        } else if self.small >= SMALL_BATCHES {
            self.offer(FIRST_SLOTS.max(self.offered / 2));
        }
    }

    fn offer(&mut self, slots: usize) {
        if slots > self.slots.len() {
            self.slots.resize_with(slots, empty_slot);
            self.messages.grow(slots, slots);
        }
        (self.offered, self.small) = (slots, 0);
    }

    /// Tells the kernel where to write.
    fn prepare(&mut self) {
        for (at, slot) in self.slots[..self.offered].iter_mut().enumerate() {
            let room = slot.spare_capacity_mut();
            let part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len().min(SLOT_SIZE) };
            self.messages.set_part(at, part);
            self.messages.point(at, SockAddrBuffer::SIZE, ControlBuffer::SIZE, at..at + 1);
        }
    }
}

/// Datagrams that came as one message: all of one flow, and of one size except for the last.
struct Run {
    flow: Flow,
    /// What is left of them.
    payload: Bytes,
    segment_size: usize,
    truncated: bool,
    mapped_over_ipv6: bool,
    /// Too many slots are pinned: each datagram gets a buffer of its own.
    copy: bool,
}

impl Run {
    /// Takes the next datagram; all of a run that is empty is one empty datagram.
    fn next(&mut self) -> Datagram {
        let mut payload = match self.payload.len() <= self.segment_size {
            true => std::mem::take(&mut self.payload),
            false => self.payload.split_to(self.segment_size),
        };
        if self.copy {
            payload = Bytes::copy_from_slice(&payload);
        }
        Datagram { flow: self.flow, payload, truncated: self.truncated, mapped_over_ipv6: self.mapped_over_ipv6 }
    }
}

/// Creates an empty slot that is already shareable, so that its first datagram allocates nothing.
fn empty_slot() -> BytesMut {
    let mut slot = BytesMut::with_capacity(SLOT_SIZE);
    drop(slot.split());
    slot
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::super::options::set_integer;
    use super::*;

    /// A bound socket, and one that sends to it.
    fn sockets() -> (UdpSocket, UdpSocket) {
        let (receiver, sender) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        (receiver, sender)
    }

    #[test]
    fn each_datagram_is_taken_once_and_an_empty_socket_would_block() {
        let (receiver, sender) = sockets();
        let mut batch = ReceiveBatch::new();
        assert_eq!(batch.receive(receiver.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        for payload in ["one", "", "three"] {
            sender.send(payload.as_bytes()).unwrap();
        }
        assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 3);
        assert_eq!(batch.datagrams().next().unwrap().payload, "one");
        let rest: Vec<_> = batch.datagrams().map(|datagram| datagram.payload).collect();
        assert_eq!(rest, ["", "three"]);
        assert_eq!(batch.datagrams().count(), 0);
        assert!(batch.receive(receiver.as_fd()).is_err());
        assert_eq!(batch.datagrams().count(), 0);
    }

    #[test]
    fn a_batch_that_was_full_makes_room_for_more() {
        let (receiver, sender) = sockets();
        let mut batch = ReceiveBatch::new();
        (0..3 * BATCH_SIZE).for_each(|number| assert!(sender.send(number.to_string().as_bytes()).is_ok()));
        let (mut sizes, mut received) = (Vec::new(), Vec::new());
        while received.len() < 3 * BATCH_SIZE {
            sizes.push(batch.receive(receiver.as_fd()).unwrap());
            assert_eq!(batch.is_full(), received.len() + sizes.last().unwrap() < 3 * BATCH_SIZE, "{sizes:?}");
            received.extend(batch.datagrams());
        }
        assert_eq!(sizes, [4, 8, 16, 32, 64, 64, 4]);
        // It offers fewer again when little arrives.
        for (calls, offered) in [(64, 32), (64, 16), (64, 8), (64, 4), (200, 4)] {
            (0..calls).for_each(|_| assert!(batch.receive(receiver.as_fd()).is_err()));
            assert_eq!(batch.offered, offered);
        }
        assert!(received.iter().enumerate().all(|(number, datagram)| datagram.payload == number.to_string()));
    }

    #[test]
    fn kept_datagrams_pin_a_bounded_number_of_slots() {
        let (receiver, sender) = sockets();
        let mut batch = ReceiveBatch::new();
        let mut kept = Vec::new();
        for number in 0..20 * BATCH_SIZE {
            sender.send(number.to_string().as_bytes()).unwrap();
            assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 1);
            kept.extend(batch.datagrams());
            assert!(batch.pinned.len() <= MAX_PINNED_SLOTS + 1);
        }
        assert!(kept.iter().enumerate().all(|(number, datagram)| datagram.payload == number.to_string()));
        kept.clear();
        sender.send(b"last").unwrap();
        batch.receive(receiver.as_fd()).unwrap();
        assert!(batch.pinned.is_empty(), "all are back in use");
    }

    /// A receiver with UDP_GRO, and a sender whose datagrams are cut into such of 100 bytes.
    fn sockets_for_runs() -> (UdpSocket, UdpSocket) {
        let (receiver, sender) = sockets();
        set_integer(receiver.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).unwrap();
        set_integer(sender.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 100).unwrap();
        (receiver, sender)
    }

    #[test]
    fn a_run_is_handed_out_as_the_datagrams_that_it_is_made_of() {
        let (receiver, sender) = sockets_for_runs();
        let mut batch = ReceiveBatch::new();
        let bytes: Vec<u8> = (0..=255).cycle().take(6_350).collect();
        for size in [6_350, 70, 100, 101, 200] {
            sender.send(&bytes[..size]).unwrap();
        }
        assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 4);
        assert!(!batch.is_drained());
        let mut received: Vec<_> = batch.datagrams().take(60).collect();
        assert!(!batch.is_drained());
        received.extend(batch.datagrams());
        assert!(batch.is_drained() && batch.is_full());
        assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 1);
        received.extend(batch.datagrams());
        let expected = [6_350, 70, 100, 101, 200].map(|size| bytes[..size].chunks(100)).into_iter().flatten();
        assert!(received.iter().map(|datagram| &datagram.payload[..]).eq(expected));
        let peer = sender.local_addr().unwrap();
        assert!(received.iter().all(|datagram| datagram.flow.peer == peer && !datagram.truncated));
    }

    #[test]
    fn what_was_not_taken_is_gone_with_the_next_call() {
        let (receiver, sender) = sockets_for_runs();
        let mut batch = ReceiveBatch::new();
        sender.send(&[b'x'; 300]).unwrap();
        batch.receive(receiver.as_fd()).unwrap();
        assert_eq!(batch.datagrams().take(1).count(), 1);
        sender.send(b"next").unwrap();
        batch.receive(receiver.as_fd()).unwrap();
        assert_eq!(batch.datagrams().next().unwrap().payload, "next");
        assert!(batch.is_drained());
    }

    #[test]
    fn kept_datagrams_of_runs_pin_no_more_slots_than_others() {
        let (receiver, sender) = sockets_for_runs();
        let mut batch = ReceiveBatch::new();
        let mut kept = Vec::new();
        for _ in 0..3 * BATCH_SIZE {
            sender.send(&[b'x'; 300]).unwrap();
            batch.receive(receiver.as_fd()).unwrap();
            kept.extend(batch.datagrams().skip(1).take(1));
            assert!(batch.pinned.len() <= MAX_PINNED_SLOTS + 1);
        }
        assert!(kept.iter().all(|datagram| datagram.payload == [b'x'; 100][..]));
    }
}
