//! Binds and prepares sockets: one AF_INET6 socket with IPV6_V6ONLY off for `[::]`, so that it answers IPv4 as well.
//!
//! Never sets SO_REUSEADDR (a second process would steal datagrams). Sockets of several workers form a SO_REUSEPORT
//! group whose first member is bound plain, so that a second instance still gets "address in use".

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::name::canonical;

/// What a socket is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketOptions {
    /// Bytes of receive buffer (SO_RCVBUFFORCE, else SO_RCVBUF); `None` leaves the kernel's default.
    pub receive_buffer: Option<usize>,
    /// How many sockets share the address, one a worker; at least 1.
    pub sockets: usize,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self { receive_buffer: None, sockets: 1 }
    }
}

/// The IP families that a socket answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// One AF_INET6 socket bound to `[::]`, IPV6_V6ONLY off.
    Both,
    /// AF_INET6, one address.
    Ipv6,
    /// AF_INET.
    Ipv4,
    /// AF_INET where `[::]` was asked for: this host has no IPv6.
    Ipv4Only,
}

impl Families {
    /// Whether the socket is of the family AF_INET6.
    #[must_use]
    pub fn ipv6_socket(self) -> bool {
        matches!(self, Self::Both | Self::Ipv6)
    }
}

impl std::fmt::Display for Families {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Both => "IPv6 and IPv4",
            Self::Ipv6 => "IPv6",
            Self::Ipv4 | Self::Ipv4Only => "IPv4",
        })
    }
}

/// A socket that is ready for batches.
#[derive(Debug)]
pub struct BoundSocket {
    /// The socket, not blocking.
    pub socket: UdpSocket,
    /// Its address, with the real port.
    pub address: SocketAddr,
    /// What it answers.
    pub families: Families,
    /// Bytes of receive buffer that the kernel granted.
    pub receive_buffer: usize,
}

/// A socket that could not be had: which step failed, and for which address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Nothing was asked for.
    #[error("no address to listen on")]
    NoAddress,
    /// No socket of the family.
    #[error("create socket for {address}")]
    Create {
        /// The address to listen on.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// An option was refused.
    #[error("set {option} on the socket for {address}")]
    SetOption {
        /// The address to listen on.
        address: SocketAddr,
        /// The option's name.
        option: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Another socket holds the address.
    #[error("bind {address}: address in use")]
    AddressInUse {
        /// The address to listen on.
        address: SocketAddr,
    },
    /// The port is reserved.
    #[error(
        "bind {address}: permission denied; a port below 1024 needs the capability CAP_NET_BIND_SERVICE \
         (in a unit: AmbientCapabilities=CAP_NET_BIND_SERVICE)"
    )]
    PermissionDenied {
        /// The address to listen on.
        address: SocketAddr,
    },
    /// The address was refused for another reason.
    #[error("bind {address}")]
    Bind {
        /// The address to listen on.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A socket that was handed over is not a bound UDP socket.
    #[error("adopt file descriptor {descriptor}")]
    Adopt {
        /// The descriptor's number.
        descriptor: RawFd,
        /// Why.
        source: io::Error,
    },
}

/// What an address comes to on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address that is bound: an IPv4-mapped one is IPv4, and `[::]` is `0.0.0.0` where the host has no IPv6.
    address: SocketAddr,
    /// What a socket there answers.
    families: Families,
}

impl Target {
    /// Looks whether this host has the address's family.
    ///
    /// # Errors
    /// It has not.
    pub fn of(address: SocketAddr) -> Result<Self, BindError> {
        let address = canonical(address);
        match create(address) {
            Err(BindError::Create { source, .. })
                if source.raw_os_error() == Some(libc::EAFNOSUPPORT) && is_ipv6_wildcard(address) =>
            {
                let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
                Ok(Self { address, families: Families::Ipv4Only })
            }
            created => created.map(|_| Self { address, families: families(address) }),
        }
    }

    /// Whether this socket is what [`bind`](Self::bind) would make.
    #[must_use]
    pub fn is_of(&self, socket: &UdpSocket) -> bool {
        let same =
            |families| families == self.families || (families, self.families) == (Families::Ipv4, Families::Ipv4Only);
        identify(&SockRef::from(socket)).is_ok_and(|(address, families)| address == self.address && same(families))
    }

    /// Binds `options.sockets` sockets; port 0 takes a free one, the same for all.
    ///
    /// # Errors
    /// The step that failed, with the address.
    pub fn bind(self, options: &SocketOptions) -> Result<Vec<BoundSocket>, BindError> {
        let first = prepare(create(self.address)?, self, options, Group::Alone)?;
        let target = Self { address: first.address, ..self };
        let sockets = target.complete(vec![first], options)?;
        if sockets.len() < options.sockets {
            return Err(BindError::AddressInUse { address: target.address });
        }
        Ok(sockets)
    }

    /// Binds what is missing when an earlier run left some sockets, at least one.
    ///
    /// The kernel lets only the user who bound them join; where that is another, those that are left have to do.
    ///
    /// # Errors
    /// The step that failed, with the address.
    pub fn bind_rest(self, left: Vec<UdpSocket>, options: &SocketOptions) -> Result<Vec<BoundSocket>, BindError> {
        let adopt = |socket| adopt(socket, options).map(|bound| BoundSocket { families: self.families, ..bound });
        self.complete(left.into_iter().map(adopt).collect::<Result<_, _>>()?, options)
    }

    fn complete(self, mut sockets: Vec<BoundSocket>, options: &SocketOptions) -> Result<Vec<BoundSocket>, BindError> {
        if sockets.len() < options.sockets {
            for bound in &sockets {
                set(&SockRef::from(&bound.socket), self.address, "SO_REUSEPORT", |socket| socket.set_reuse_port(true))?;
            }
        }
        while sockets.len() < options.sockets {
            match prepare(create(self.address)?, self, options, Group::Joins) {
                Ok(bound) => sockets.push(bound),
                Err(BindError::AddressInUse { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sockets)
    }
}

/// Binds `options.sockets` sockets to one address; port 0 takes a free one, the same for all.
///
/// `[::]` answers IPv4 too, and becomes `0.0.0.0` where the host has no IPv6 (EAFNOSUPPORT). An address that is not
/// local yet is bound all the same (IP_FREEBIND).
///
/// # Errors
/// The step that failed, with the address.
pub fn bind(address: SocketAddr, options: &SocketOptions) -> Result<Vec<BoundSocket>, BindError> {
    Target::of(address)?.bind(options)
}

/// Prepares a bound socket that came from elsewhere. Its receive buffer is enlarged where it can be, and made smaller
/// only where that gives just what was asked for.
///
/// # Errors
/// It is not a bound UDP socket, or refuses an option.
pub fn adopt(socket: UdpSocket, options: &SocketOptions) -> Result<BoundSocket, BindError> {
    let descriptor = socket.as_raw_fd();
    let socket = Socket::from(socket);
    let (address, families) = identify(&socket).map_err(|source| BindError::Adopt { descriptor, source })?;
    free_bind(&socket, address, false)?;
    finish(socket, address, families, options)
}

/// Where a socket is bound, and what it answers.
fn identify(socket: &Socket) -> io::Result<(SocketAddr, Families)> {
    let refuse = |reason| io::Error::new(io::ErrorKind::InvalidInput, reason);
    if socket.r#type()? != Type::DGRAM || socket.protocol()? != Some(Protocol::UDP) {
        return Err(refuse("not a UDP socket"));
    }
    let address = socket.local_addr()?.as_socket().filter(|address| address.port() != 0);
    let address = address.ok_or_else(|| refuse("not bound to a port"))?;
    match families(address) {
        Families::Both if socket.only_v6()? => Ok((address, Families::Ipv6)),
        families => Ok((address, families)),
    }
}

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

/// How a socket relates to others at its address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Alone,
    Joins,
}

fn families(address: SocketAddr) -> Families {
    match address {
        SocketAddr::V4(_) => Families::Ipv4,
        SocketAddr::V6(_) if is_ipv6_wildcard(address) => Families::Both,
        SocketAddr::V6(_) => Families::Ipv6,
    }
}

fn is_ipv6_wildcard(address: SocketAddr) -> bool {
    address.is_ipv6() && address.ip().is_unspecified()
}

fn create(address: SocketAddr) -> Result<Socket, BindError> {
    Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))
        .map_err(|source| BindError::Create { address, source })
}

fn prepare(socket: Socket, target: Target, options: &SocketOptions, group: Group) -> Result<BoundSocket, BindError> {
    let Target { address, families } = target;
    if families.ipv6_socket() {
        set(&socket, address, "IPV6_V6ONLY", |socket| socket.set_only_v6(families != Families::Both))?;
    }
    free_bind(&socket, address, true)?;
    if group == Group::Joins {
        set(&socket, address, "SO_REUSEPORT", |socket| socket.set_reuse_port(true))?;
    }
    socket.bind(&address.into()).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::AddressInUse { address },
        io::ErrorKind::PermissionDenied => BindError::PermissionDenied { address },
        _ => BindError::Bind { address, source },
    })?;
    // It would also let replies leave from an address that is not the host's.
    free_bind(&socket, address, false)?;
    finish(socket, address, families, options)
}

fn free_bind(socket: &Socket, address: SocketAddr, allow: bool) -> Result<(), BindError> {
    match address {
        SocketAddr::V4(_) => set(socket, address, "IP_FREEBIND", |socket| socket.set_freebind_v4(allow)),
        SocketAddr::V6(_) => set(socket, address, "IPV6_FREEBIND", |socket| socket.set_freebind_v6(allow)),
    }
}

/// What a socket needs whoever bound it.
fn finish(
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
        // The service manager may have given more than net.core.rmem_max lets us ask for: another socket shows how much
        // that is. /proc/sys is invisible in a sandbox.
        let probe = Socket::new(Domain::UNIX, Type::DGRAM.cloexec(), None)?;
        probe.set_recv_buffer_size(bytes)?;
        let grantable = granted(&probe)?;
        if grantable == bytes || grantable > granted(socket)? { socket.set_recv_buffer_size(bytes) } else { Ok(()) }
    })
}

/// The receive buffer in bytes as they are asked for: the kernel doubles them, for its own book-keeping (socket(7)).
fn granted(socket: &Socket) -> io::Result<usize> {
    Ok(socket.recv_buffer_size()? / 2)
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

fn set(
    socket: &Socket,
    address: SocketAddr,
    option: &'static str,
    apply: impl FnOnce(&Socket) -> io::Result<()>,
) -> Result<(), BindError> {
    apply(socket).map_err(|source| BindError::SetOption { address, option, source })
}
