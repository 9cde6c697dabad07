//! The kernel's view of a batch: for each datagram an `mmsghdr`, and the name, control buffer and part that it points
//! to.
//!
//! The pointers are written before each call, so nothing has to stay where it was between two calls.

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

    /// Makes room for at least this many datagrams.
    pub(super) fn grow(&mut self, datagrams: usize) {
        if self.headers.len() < datagrams {
            self.names.resize(datagrams, SockAddrBuffer::default());
            self.controls.resize(datagrams, ControlBuffer::default());
            // SAFETY: mmsghdr and iovec are plain C structs of integers and pointers; all zero is a valid value.
            let (header, part) = unsafe { std::mem::zeroed() };
            self.headers.resize(datagrams, header);
            self.parts.resize(datagrams, part);
        }
    }

    /// Points the header at `at` to its name and control buffer, with these lengths, and to this part.
    pub(super) fn point(&mut self, at: usize, name_length: usize, control_length: usize, part: libc::iovec) {
        self.parts[at] = part;
        let header = &mut self.headers[at];
        header.msg_len = 0;
        let header = &mut header.msg_hdr;
        header.msg_name = ptr::from_mut(&mut self.names[at]).cast();
        header.msg_namelen = name_length as libc::socklen_t;
        header.msg_iov = ptr::from_mut(&mut self.parts[at]);
        header.msg_iovlen = 1;
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
    pub(super) fn headers(&mut self, range: std::ops::Range<usize>) -> &mut [libc::mmsghdr] {
        &mut self.headers[range]
    }
}
