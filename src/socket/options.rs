//! Socket options: what a socket needs whoever bound it, and what the kernel says of it.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use socket2::{Domain, Socket, Type};

use super::bound::{BindError, BoundSocket, Families, SocketOptions};

/// Datagrams that the kernel dropped on this socket since it was made, for a full buffer or a bad checksum: exact at once,
/// unlike SO_RXQ_OVFL. After 2^32 it begins anew.
///
/// # Errors
/// Those of `getsockopt(2)`.
pub fn kernel_drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    const SO_MEMINFO: i32 = 55;
    const SK_MEMINFO_DROPS: usize = 8;
    let mut words = [0u32; 16];
    let mut length = size_of_val(&words) as libc::socklen_t;
    // SAFETY: `words` is writable for the `length` bytes that the kernel is told, and any bytes are valid integers.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_MEMINFO, words.as_mut_ptr().cast(), &raw mut length)
    };
    if result == 0 { Ok(words[SK_MEMINFO_DROPS]) } else { Err(io::Error::last_os_error()) }
}

/// What a socket needs whoever bound it.
pub(super) fn finish(
    socket: Socket,
    address: SocketAddr,
    families: Families,
    options: &SocketOptions,
) -> Result<BoundSocket, BindError> {
    set(&socket, address, "O_NONBLOCK", |socket| socket.set_nonblocking(true))?;
    // A dual-stack socket takes the IPv4 options too, and needs them for its IPv4 datagrams.
    for (name, level, option, value) in IPV4_OPTIONS {
        set(&socket, address, name, |socket| set_integer(socket.as_fd(), level, option, value))?;
    }
    if families.ipv6_socket() {
        for (name, level, option, value) in IPV6_OPTIONS {
            set(&socket, address, name, |socket| set_integer(socket.as_fd(), level, option, value))?;
        }
    }
    if let Some(bytes) = options.receive_buffer {
        size_receive_buffer(&socket, address, bytes)?;
    }
    let read = |source| BindError::Bind { address, source };
    let receive_buffer = granted(&socket).map_err(read)?;
    let socket = UdpSocket::from(socket);
    let address = socket.local_addr().map_err(read)?;
    Ok(BoundSocket { socket, address, families, receive_buffer })
}

/// Asks for a receive buffer of this size; keeps a larger one that only a privileged process could give back.
fn size_receive_buffer(socket: &Socket, address: SocketAddr, bytes: usize) -> Result<(), BindError> {
    let value = i32::try_from(bytes).unwrap_or(i32::MAX);
    if set_integer(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, value).is_ok() {
        return Ok(());
    }
    set(socket, address, "SO_RCVBUF", |socket| {
        let grantable = grantable(bytes).unwrap_or(bytes);
        if grantable == bytes || grantable > granted(socket)? { socket.set_recv_buffer_size(bytes) } else { Ok(()) }
    })
}

/// How much of this a socket gets: the service manager may have given more than net.core.rmem_max lets us ask for, and
/// /proc/sys is invisible in a sandbox.
fn grantable(bytes: usize) -> io::Result<usize> {
    let probe = Socket::new(Domain::UNIX, Type::DGRAM.cloexec(), None)?;
    probe.set_recv_buffer_size(bytes)?;
    granted(&probe)
}

/// The receive buffer in bytes as they are asked for: the kernel doubles them, for its own book-keeping (socket(7)).
fn granted(socket: &Socket) -> io::Result<usize> {
    Ok(socket.recv_buffer_size()? / 2)
}

pub(super) fn free_bind(socket: &Socket, address: SocketAddr, allow: bool) -> Result<(), BindError> {
    match address {
        SocketAddr::V4(_) => set(socket, address, "IP_FREEBIND", |socket| socket.set_freebind_v4(allow)),
        SocketAddr::V6(_) => set(socket, address, "IPV6_FREEBIND", |socket| socket.set_freebind_v6(allow)),
    }
}

type IntegerOption = (&'static str, i32, i32, i32);

/// Say which address was asked; never trust a forged "packet too big"; hear no group that somebody else joined.
const IPV4_OPTIONS: [IntegerOption; 3] = [
    ("IP_PKTINFO", libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
    ("IP_MTU_DISCOVER", libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT),
    ("IP_MULTICAST_ALL", libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, 0),
];
const IPV6_OPTIONS: [IntegerOption; 3] = [
    ("IPV6_RECVPKTINFO", libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
    ("IPV6_MTU_DISCOVER", libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_OMIT),
    ("IPV6_MULTICAST_ALL", libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_ALL, 0),
];

fn set_integer(socket: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the option value is one live i32, and its size is what the kernel is told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(super) fn set(
    socket: &Socket,
    address: SocketAddr,
    option: &'static str,
    apply: impl FnOnce(&Socket) -> io::Result<()>,
) -> Result<(), BindError> {
    apply(socket).map_err(|source| BindError::SetOption { address, option, source })
}
