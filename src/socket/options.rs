//! Socket options: those that every socket needs, no matter who bound it, and what the kernel reports.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use socket2::{Domain, Socket, Type};

use super::bound::{BindError, BoundSocket, Families, SocketOptions};
use super::wait::receive_now;

/// The most queued messages that are discarded when UDP_GRO is turned off: more than any receive buffer holds.
const MAX_DISCARDED: u32 = 1 << 20;

/// The number of datagrams that the kernel has dropped on this socket since it was created, because of a full buffer or
/// a bad checksum: exact at once, unlike SO_RXQ_OVFL. After 2^32 it starts again at 0.
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

/// Switches off the error queue that a given socket may have (IP_RECVERR of ip(7)): while errors wait in it, the socket
/// is always ready but has no datagram.
pub(crate) fn disable_error_queue(socket: impl AsFd) -> io::Result<()> {
    set_integer(socket.as_fd(), libc::IPPROTO_IP, libc::IP_RECVERR, 0)?;
    // An IPv4 socket has no such option.
    let _ = set_integer(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 0);
    Ok(())
}

/// Sets the options that every socket of a server needs, no matter who bound it.
pub(super) fn finish(
    socket: Socket,
    address: SocketAddr,
    families: Families,
    options: &SocketOptions,
) -> Result<BoundSocket, BindError> {
    set(&socket, address, "O_NONBLOCK", |socket| socket.set_nonblocking(true))?;
    set(&socket, address, "SO_RCVTIMEO", |socket| socket.set_read_timeout(None))?;
    // A dual-stack socket accepts the IPv4 options too, and needs them for its IPv4 datagrams.
    for (name, level, option, value) in IPV4_OPTIONS {
        set(&socket, address, name, |socket| set_integer(socket.as_fd(), level, option, value))?;
    }
    if families.is_ipv6_socket() {
        for (name, level, option, value) in IPV6_OPTIONS {
            set(&socket, address, name, |socket| set_integer(socket.as_fd(), level, option, value))?;
        }
    }
    for (buffer, bytes) in [(RECEIVE_BUFFER, options.receive_buffer), (SEND_BUFFER, options.send_buffer)] {
        if let Some(bytes) = bytes {
            buffer.resize(&socket, address, bytes)?;
        }
    }
    set_gro(&socket, options.udp_gro);
    let granted = |buffer: Buffer| {
        let read = buffer.granted(&socket);
        read.map_err(|source| BindError::GetOption { address, option: buffer.name, source })
    };
    let (receive_buffer, send_buffer) = (granted(RECEIVE_BUFFER)?, granted(SEND_BUFFER)?);
    let socket = UdpSocket::from(socket);
    let address =
        socket.local_addr().map_err(|source| BindError::GetOption { address, option: "the local address", source })?;
    Ok(BoundSocket { socket, address, families, receive_buffer, send_buffer, bound_here: true })
}

/// Turns UDP_GRO on or off. A kernel without it (before Linux 5.0), or a socket that may not have it, does without.
fn set_gro(socket: &Socket, on: bool) {
    let was_on = get_integer(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO).is_ok_and(|value| value != 0);
    let _ = set_integer(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, on.into());
    if was_on && !on {
        // A run that is queued already would now look like one datagram.
        let discard = |_: &u32| receive_now(socket, &mut []).is_ok();
        let _ = (0..MAX_DISCARDED).take_while(discard).count();
    }
}

/// One of a socket's two buffers, given by its options.
#[derive(Clone, Copy)]
struct Buffer {
    name: &'static str,
    option: i32,
    /// The same option beyond the sysctl's limit, with CAP_NET_ADMIN.
    force: i32,
}

const RECEIVE_BUFFER: Buffer = Buffer { name: "SO_RCVBUF", option: libc::SO_RCVBUF, force: libc::SO_RCVBUFFORCE };
const SEND_BUFFER: Buffer = Buffer { name: "SO_SNDBUF", option: libc::SO_SNDBUF, force: libc::SO_SNDBUFFORCE };

impl Buffer {
    /// Requests this size; keeps a larger one that only a privileged process could restore.
    fn resize(self, socket: &Socket, address: SocketAddr, bytes: usize) -> Result<(), BindError> {
        let value = i32::try_from(bytes).unwrap_or(i32::MAX);
        if set_integer(socket.as_fd(), libc::SOL_SOCKET, self.force, value).is_ok() {
            return Ok(());
        }
        set(socket, address, self.name, |socket| {
            let grantable = self.grantable(value).unwrap_or(bytes);
            if grantable == bytes || grantable > self.granted(socket)? {
                set_integer(socket.as_fd(), libc::SOL_SOCKET, self.option, value)
            } else {
                Ok(())
            }
        })
    }

    /// The size that a new socket gets for this request. The service manager may have given more than net.core.rmem_max
    /// or wmem_max lets us request, and /proc/sys is invisible in a sandbox.
    fn grantable(self, value: i32) -> io::Result<usize> {
        let probe = Socket::new(Domain::UNIX, Type::DGRAM.cloexec(), None)?;
        set_integer(probe.as_fd(), libc::SOL_SOCKET, self.option, value)?;
        self.granted(&probe)
    }

    /// The size in bytes as it is requested: the kernel doubles it for its own bookkeeping (socket(7)).
    fn granted(self, socket: &Socket) -> io::Result<usize> {
        let doubled = match self.option {
            libc::SO_RCVBUF => socket.recv_buffer_size(),
            _ => socket.send_buffer_size(),
        };
        Ok(doubled? / 2)
    }
}

pub(super) fn free_bind(socket: &Socket, address: SocketAddr, allow: bool) -> Result<(), BindError> {
    match address {
        SocketAddr::V4(_) => set(socket, address, "IP_FREEBIND", |socket| socket.set_freebind_v4(allow)),
        SocketAddr::V6(_) => set(socket, address, "IPV6_FREEBIND", |socket| socket.set_freebind_v6(allow)),
    }
}

/// Switches off options that the parent process may have left on and that would break an echo: replies to broadcasts,
/// sharing the port with any other process (SO_REUSEADDR), control messages that nobody reads and that leave no room
/// for the packet information, errors of one peer that fail the next reply to another, datagrams that are merged, cut
/// or sent without a checksum, routes other than the host's. What a socket unit sets on purpose stays: Mark=,
/// Priority=, IPTOS=, IPTTL=, BindToDevice=, ReusePort=.
pub(super) fn reset(socket: &Socket, address: SocketAddr, families: Families) -> Result<(), BindError> {
    let ipv6: &[IntegerOption] = if families.is_ipv6_socket() { &IPV6_RESETS } else { &[] };
    for &(name, level, option, value) in SOCKET_RESETS.iter().chain(&IPV4_RESETS).chain(ipv6) {
        set(socket, address, name, |socket| match set_integer(socket.as_fd(), level, option, value) {
            // An option that this kernel does not know cannot be on.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP)) => Ok(()),
            set => set,
        })?;
    }
    // Source routes that a parent put into each reply; an empty value removes them.
    set(socket, address, "IP_OPTIONS", |socket| set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_OPTIONS, &[]))?;
    if families.is_ipv6_socket() {
        set(socket, address, "IPV6_RTHDR", |socket| {
            set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &[])
        })?;
    }
    Ok(())
}

type IntegerOption = (&'static str, i32, i32, i32);

const SOCKET_RESETS: [IntegerOption; 13] = [
    ("SO_BROADCAST", libc::SOL_SOCKET, libc::SO_BROADCAST, 0),
    ("SO_REUSEADDR", libc::SOL_SOCKET, libc::SO_REUSEADDR, 0),
    ("SO_TIMESTAMP", libc::SOL_SOCKET, libc::SO_TIMESTAMP, 0),
    ("SO_TIMESTAMPNS", libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 0),
    ("SO_TIMESTAMPING", libc::SOL_SOCKET, libc::SO_TIMESTAMPING, 0),
    ("SO_RXQ_OVFL", libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 0),
    ("SO_WIFI_STATUS", libc::SOL_SOCKET, libc::SO_WIFI_STATUS, 0),
    ("SO_NO_CHECK", libc::SOL_SOCKET, libc::SO_NO_CHECK, 0),
    ("SO_DONTROUTE", libc::SOL_SOCKET, libc::SO_DONTROUTE, 0),
    ("UDP_NO_CHECK6_TX", libc::SOL_UDP, libc::UDP_NO_CHECK6_TX, 0),
    ("UDP_NO_CHECK6_RX", libc::SOL_UDP, libc::UDP_NO_CHECK6_RX, 0),
    ("UDP_CORK", libc::SOL_UDP, libc::UDP_CORK, 0),
    ("UDP_SEGMENT", libc::SOL_UDP, libc::UDP_SEGMENT, 0),
];
const IPV4_RESETS: [IntegerOption; 10] = [
    ("IP_RECVERR", libc::IPPROTO_IP, libc::IP_RECVERR, 0),
    ("IP_RECVTTL", libc::IPPROTO_IP, libc::IP_RECVTTL, 0),
    ("IP_RECVTOS", libc::IPPROTO_IP, libc::IP_RECVTOS, 0),
    ("IP_RECVOPTS", libc::IPPROTO_IP, libc::IP_RECVOPTS, 0),
    ("IP_RETOPTS", libc::IPPROTO_IP, libc::IP_RETOPTS, 0),
    ("IP_PASSSEC", libc::IPPROTO_IP, libc::IP_PASSSEC, 0),
    ("IP_RECVORIGDSTADDR", libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR, 0),
    ("IP_CHECKSUM", libc::IPPROTO_IP, libc::IP_CHECKSUM, 0),
    ("IP_RECVFRAGSIZE", libc::IPPROTO_IP, libc::IP_RECVFRAGSIZE, 0),
    ("IP_UNICAST_IF", libc::IPPROTO_IP, libc::IP_UNICAST_IF, 0),
];
const IPV6_RESETS: [IntegerOption; 17] = [
    ("IPV6_RECVERR", libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 0),
    ("IPV6_RECVHOPLIMIT", libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 0),
    ("IPV6_RECVTCLASS", libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 0),
    ("IPV6_RECVRTHDR", libc::IPPROTO_IPV6, libc::IPV6_RECVRTHDR, 0),
    ("IPV6_RECVHOPOPTS", libc::IPPROTO_IPV6, libc::IPV6_RECVHOPOPTS, 0),
    ("IPV6_RECVDSTOPTS", libc::IPPROTO_IPV6, libc::IPV6_RECVDSTOPTS, 0),
    ("IPV6_RECVPATHMTU", libc::IPPROTO_IPV6, libc::IPV6_RECVPATHMTU, 0),
    ("IPV6_FLOWINFO", libc::IPPROTO_IPV6, libc::IPV6_FLOWINFO, 0),
    ("IPV6_RECVORIGDSTADDR", libc::IPPROTO_IPV6, libc::IPV6_RECVORIGDSTADDR, 0),
    ("IPV6_RECVFRAGSIZE", libc::IPPROTO_IPV6, libc::IPV6_RECVFRAGSIZE, 0),
    ("IPV6_DONTFRAG", libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0),
    ("IPV6_UNICAST_IF", libc::IPPROTO_IPV6, libc::IPV6_UNICAST_IF, 0),
    ("IPV6_2292PKTINFO", libc::IPPROTO_IPV6, libc::IPV6_2292PKTINFO, 0),
    ("IPV6_2292HOPLIMIT", libc::IPPROTO_IPV6, libc::IPV6_2292HOPLIMIT, 0),
    ("IPV6_2292RTHDR", libc::IPPROTO_IPV6, libc::IPV6_2292RTHDR, 0),
    ("IPV6_2292HOPOPTS", libc::IPPROTO_IPV6, libc::IPV6_2292HOPOPTS, 0),
    ("IPV6_2292DSTOPTS", libc::IPPROTO_IPV6, libc::IPV6_2292DSTOPTS, 0),
];

/// Report the address that a datagram was sent to; never trust a forged "packet too big"; receive from no group that
/// another process joined.
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

pub(super) fn set_integer(socket: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    set_option(socket, level, option, &value.to_ne_bytes())
}

fn set_option(socket: BorrowedFd<'_>, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: the value is alive during the call, and its size is what the kernel is told; it is copied byte by byte.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, value.as_ptr().cast(), value.len() as libc::socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option that is a number.
pub(super) fn get_integer(socket: BorrowedFd<'_>, level: i32, option: i32) -> io::Result<i32> {
    let (mut value, mut length) = (0i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the value is writable for the length that the kernel is told, and any bytes are a valid integer.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut length) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

pub(super) fn set(
    socket: &Socket,
    address: SocketAddr,
    option: &'static str,
    apply: impl FnOnce(&Socket) -> io::Result<()>,
) -> Result<(), BindError> {
    apply(socket).map_err(|source| BindError::SetOption { address, option, source })
}
