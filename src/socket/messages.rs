//! The kernel's view of a batch: for each message an `mmsghdr`, and the name, control buffer and parts that it points
//! to. A message is one datagram or a run of them.
//!
//! The pointers are written before each call, so nothing has to stay where it was between two calls.

use std::ops::Range;
use std::ptr;

use super::ancillary::ControlBuffer;
use super::sockaddr::SockAddrBuffer;

/// Storage for the headers of one `recvmmsg(2)` or `sendmmsg(2)` call; it grows with the largest batch and is reused.
pub(super) struct Messages {
    pub(super) names: Vec<SockAddrBuffer>,
    pub(super) controls: Vec<ControlBuffer>,
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: the raw pointers in `parts` and `headers` are written before each call and are not followed otherwise.
unsafe impl Send for Messages {}

impl Messages {
    pub(super) const fn new() -> Self {
        Self { names: Vec::new(), controls: Vec::new(), parts: Vec::new(), headers: Vec::new() }
    }

    /// Makes room for at least this many messages with this many parts together.
    pub(super) fn grow(&mut self, messages: usize, parts: usize) {
        if self.headers.len() < messages {
            self.names.resize(messages, SockAddrBuffer::default());
            self.controls.resize(messages, ControlBuffer::default());
            // SAFETY: mmsghdr is a plain C struct of integers and pointers; all zero is a valid value.
            self.headers.resize(messages, unsafe { std::mem::zeroed() });
        }
        if self.parts.len() < parts {
            self.parts.resize(parts, libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 });
        }
    }

    /// Sets a part: the bytes that the kernel reads or writes.
    pub(super) fn set_part(&mut self, at: usize, part: libc::iovec) {
        self.parts[at] = part;
    }

    /// Points the header at `at` to its name and control buffer, with these lengths, and to these parts.
    pub(super) fn point(&mut self, at: usize, name_length: usize, control_length: usize, parts: Range<usize>) {
        let header = &mut self.headers[at];
        header.msg_len = 0;
        let header = &mut header.msg_hdr;
        header.msg_name = ptr::from_mut(&mut self.names[at]).cast();
        header.msg_namelen = name_length as libc::socklen_t;
        let parts = &mut self.parts[parts];
        header.msg_iov = parts.as_mut_ptr();
        header.msg_iovlen = parts.len() as _;
        header.msg_control =
            if control_length == 0 { ptr::null_mut() } else { ptr::from_mut(&mut self.controls[at]).cast() };
        header.msg_controllen = control_length as _;
        header.msg_flags = 0;
    }

    /// The header at `at`, as the kernel left it.
    pub(super) fn header(&self, at: usize) -> &libc::mmsghdr {
        &self.headers[at]
    }

    /// The headers for a call.
    pub(super) fn headers(&mut self, range: Range<usize>) -> &mut [libc::mmsghdr] {
        &mut self.headers[range]
    }
}
