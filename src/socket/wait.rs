//! Waits that block the thread, with a time limit that belongs to the call and not to the file.
//!
//! SO_RCVTIMEO and O_NONBLOCK are properties that all threads of a socket share; `ppoll(2)` and MSG_DONTWAIT are not.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::time::Duration;

/// Waits, for at most this time, until a socket has a datagram or an error, or a pipe has bytes or has ended; returns
/// whether that is so. A signal ends the wait early, too.
///
/// # Errors
/// The kernel cannot wait (`ppoll(2)`: no memory).
pub(crate) fn wait_readable(file: impl AsFd, limit: Option<Duration>) -> io::Result<bool> {
    wait_for(libc::POLLIN, file, limit)
}

/// Waits, for at most this time, until a pipe or a socket has room for some bytes, or an error; returns whether it has.
///
/// # Errors
/// Those of [`wait_readable`].
#[cfg(feature = "daemon")]
pub(crate) fn wait_writable(file: impl AsFd, limit: Option<Duration>) -> io::Result<bool> {
    wait_for(libc::POLLOUT, file, limit)
}

fn wait_for(events: libc::c_short, file: impl AsFd, limit: Option<Duration>) -> io::Result<bool> {
    let mut waiting = libc::pollfd { fd: file.as_fd().as_raw_fd(), events, revents: 0 };
    // SAFETY: a timespec is a plain C struct of integers; all zero is a valid value.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    if let Some(limit) = limit {
        time.tv_sec = libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX);
        // Below 10^9, which fits whatever type the platform gives it.
        time.tv_nsec = limit.subsec_nanos() as _;
    }
    let time = if limit.is_some() { &raw const time } else { ptr::null() };
    // SAFETY: `waiting` is one live pollfd, which is what the count says; `time` is null or a live timespec; a null
    // signal mask leaves the mask alone.
    let ready = unsafe { libc::ppoll(&raw mut waiting, 1, time, ptr::null()) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok(false) } else { Err(error) };
    }
    Ok(ready > 0)
}

/// Receives a datagram that has already arrived, whether the socket is blocking or not; returns its length.
///
/// # Errors
/// `WouldBlock` if there is none, else the kernel's error.
pub(crate) fn receive_now(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes only within the buffer, which is alive and exclusively ours during the call.
    let length = unsafe { libc::recv(descriptor, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_wait_ends_with_its_time_or_with_a_datagram() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let begun = Instant::now();
        assert!(!wait_readable(&socket, Some(Duration::from_micros(2500))).unwrap());
        assert!(begun.elapsed() >= Duration::from_micros(2500));
        let nothing = receive_now(&socket, &mut [0; 4]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        socket.send_to(b"abc", socket.local_addr().unwrap()).unwrap();
        assert!(wait_readable(&socket, None).unwrap());
        let mut buffer = [0; 4];
        assert_eq!((receive_now(&socket, &mut buffer).unwrap(), &buffer), (3, b"abc\0"));
    }
}
