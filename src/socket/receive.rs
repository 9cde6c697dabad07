//! A batch of datagrams from one `recvmmsg(2)` call, each with its addresses.
//!
//! A datagram shares the slot that it was received in. A slot comes back into use when the last of its sharers is gone;
//! until then another takes its place, and beyond [`PINNED`] such slots datagrams are copied to their own size.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use bytes::{Bytes, BytesMut};

use super::control::Control;
use super::name::{Name, canonical};
use super::{BATCH, Datagram};

/// One byte more than any payload, so that nothing is cut off.
const SLOT: usize = 65_536;
/// How many slots may be held by those who keep a datagram before datagrams are copied.
const PINNED: usize = BATCH;

/// Receives up to [`BATCH`] datagrams a call. Takes 4 MiB of address space, of which only what datagrams filled is resident;
/// kept datagrams can make that 12 MiB, and no more.
pub struct ReceiveBatch {
    slots: Box<[BytesMut]>,
    names: Box<[Name]>,
    controls: Box<[Control]>,
    parts: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    /// How many datagrams the last call brought, and how many of them were taken.
    filled: usize,
    taken: usize,
    pinned: Vec<BytesMut>,
    spare: Vec<BytesMut>,
}

// SAFETY: the raw pointers in `parts` and `headers` point into heap memory that this struct owns and that does not move
// with it (boxed slices, and the buffers of `slots`), so they stay valid on another thread.
unsafe impl Send for ReceiveBatch {}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl ReceiveBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        let mut slots: Box<[_]> = (0..BATCH).map(|_| empty_slot()).collect();
        let mut names = vec![Name::default(); BATCH].into_boxed_slice();
        let mut controls = vec![Control::default(); BATCH].into_boxed_slice();
        let mut parts: Box<[_]> = slots.iter_mut().map(part).collect();
        let headers = (0..BATCH)
            .map(|at| {
                // SAFETY: mmsghdr is a plain C struct of integers and pointers; all zero is a valid value.
                let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
                header.msg_hdr.msg_name = ptr::from_mut(&mut names[at]).cast();
                header.msg_hdr.msg_control = ptr::from_mut(&mut controls[at]).cast();
                header.msg_hdr.msg_iov = ptr::from_mut(&mut parts[at]);
                header.msg_hdr.msg_iovlen = 1;
                reset(&mut header);
                header
            })
            .collect();
        let (pinned, spare) = (Vec::with_capacity(PINNED + BATCH), Vec::with_capacity(PINNED + BATCH));
        Self { slots, names, controls, parts, headers, filled: 0, taken: 0, pinned, spare }
    }

    /// Receives what waits on the socket, without blocking: how many datagrams, at most [`BATCH`].
    ///
    /// Fewer than [`BATCH`] means that the socket was then empty (or that the next call will say what is wrong with it).
    ///
    /// # Errors
    /// Those of `recvmmsg(2)`; `WouldBlock` when nothing waits.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.recycle();
        // SAFETY: `headers` holds BATCH initialised mmsghdr; each points to a name, a control buffer and one part that
        // are alive, exclusively ours and as long as their lengths say (`reset`, `part`).
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        self.filled = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        Ok(self.filled)
    }

    /// Takes the datagrams of the last call, in order; each once.
    pub fn datagrams(&mut self) -> impl Iterator<Item = Datagram> {
        std::iter::from_fn(|| {
            while self.taken < self.filled {
                self.taken += 1;
                if let Some(datagram) = self.datagram(self.taken - 1) {
                    return Some(datagram);
                }
            }
            None
        })
    }

    fn datagram(&mut self, at: usize) -> Option<Datagram> {
        let header = &self.headers[at];
        let peer = self.names[at].decode(header.msg_hdr.msg_namelen as usize)?;
        let info = self.controls[at].decode(header.msg_hdr.msg_controllen as _);
        let mapped = matches!(peer, SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some());
        let (truncated, length) =
            (header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0, header.msg_len as usize);
        Some(Datagram {
            peer: canonical(peer),
            destination: info.ipv4.or(info.ipv6),
            payload: self.payload(at, length),
            truncated,
            mapped_over_ipv6: mapped && info.ipv4.is_none(),
        })
    }

    fn payload(&mut self, at: usize, length: usize) -> Bytes {
        let slot = &mut self.slots[at];
        let length = length.min(slot.capacity());
        // SAFETY: the kernel wrote `msg_len` bytes to the start of this slot's buffer in the last call, which `recycle`
        // had made SLOT bytes long; the slot is empty until now, for each datagram is taken once (`taken`).
        unsafe { slot.set_len(length) };
        if self.pinned.len() < PINNED {
            slot.split().freeze()
        } else {
            let copy = Bytes::copy_from_slice(slot);
            slot.clear();
            copy
        }
    }

    /// Makes the slots and headers that the last call used ready for the next.
    fn recycle(&mut self) {
        if !self.pinned.is_empty() {
            for mut slot in std::mem::take(&mut self.pinned) {
                if slot.try_reclaim(SLOT) { self.spare.push(slot) } else { self.pinned.push(slot) }
            }
            // More than one batch will never be needed at once.
            self.spare.truncate(BATCH);
        }
        self.taken = 0;
        for at in 0..std::mem::take(&mut self.filled) {
            reset(&mut self.headers[at]);
            let slot = &mut self.slots[at];
            slot.clear();
            if !slot.try_reclaim(SLOT) {
                let fresh = self.spare.pop().unwrap_or_else(empty_slot);
                self.pinned.push(std::mem::replace(slot, fresh));
            }
            self.parts[at] = part(slot);
        }
    }
}

/// An empty slot, made shareable now, so that its first datagram allocates nothing.
fn empty_slot() -> BytesMut {
    let mut slot = BytesMut::with_capacity(SLOT);
    drop(slot.split());
    slot
}

/// The whole of an empty slot, for the kernel to write to.
fn part(slot: &mut BytesMut) -> libc::iovec {
    let room = slot.spare_capacity_mut();
    libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len().min(SLOT) }
}

/// The kernel overwrites these with what it delivered.
fn reset(header: &mut libc::mmsghdr) {
    header.msg_hdr.msg_namelen = Name::SIZE as libc::socklen_t;
    header.msg_hdr.msg_controllen = Control::SIZE as _;
    header.msg_hdr.msg_flags = 0;
    header.msg_len = 0;
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

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
    fn kept_datagrams_pin_a_bounded_number_of_slots() {
        let (receiver, sender) = sockets();
        let mut batch = ReceiveBatch::new();
        let mut kept = Vec::new();
        for number in 0..20 * BATCH {
            sender.send(number.to_string().as_bytes()).unwrap();
            assert_eq!(batch.receive(receiver.as_fd()).unwrap(), 1);
            kept.extend(batch.datagrams());
            assert!(batch.pinned.len() <= PINNED + 1);
        }
        assert!(kept.iter().enumerate().all(|(number, datagram)| datagram.payload == number.to_string()));
        kept.clear();
        sender.send(b"last").unwrap();
        batch.receive(receiver.as_fd()).unwrap();
        assert!(batch.pinned.is_empty(), "all are back in use");
    }
}
