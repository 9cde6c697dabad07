//! Binds and prepares sockets: one AF_INET6 socket with IPV6_V6ONLY off for `[::]`, so that it accepts IPv4 as well.
//!
//! Never sets SO_REUSEADDR (a second process would steal datagrams). Sockets of several workers form a SO_REUSEPORT
//! group whose first member is bound plain, so that a second instance still gets "address in use".

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::bound::{BindError, BoundSocket, Families, SocketOptions};
use super::options::{finish, free_bind, reset, set};
use super::sockaddr::canonical;

/// An address as this host can bind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindTarget {
    /// The address to bind: an IPv4-mapped one becomes IPv4, and `[::]` becomes `0.0.0.0` if the host has no IPv6.
    address: SocketAddr,
    /// The families that a socket there serves.
    families: Families,
}

impl BindTarget {
    /// Checks that this host has the address's family.
    ///
    /// # Errors
    /// It does not.
    pub fn resolve(address: SocketAddr) -> Result<Self, BindError> {
        let address = canonical(address);
        match create(address) {
            Err(BindError::Create { source, .. })
                if source.raw_os_error() == Some(libc::EAFNOSUPPORT) && is_ipv6_wildcard(address) =>
            {
                let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
                Ok(Self { address, families: Families::Ipv4Fallback })
            }
            created => created.map(|_| Self { address, families: families_here(address) }),
        }
    }

    /// Returns whether this socket is what [`bind`](Self::bind) would make.
    #[must_use]
    pub fn matches(&self, socket: &UdpSocket) -> bool {
        let wanted = match self.families {
            Families::Ipv4Fallback => Families::Ipv4,
            Families::NoIpv6Address => Families::Both,
            families => families,
        };
        identify(&SockRef::from(socket)).is_ok_and(|found| found == (self.address, wanted))
    }

    /// Binds `options.sockets` sockets; port 0 takes a free one, the same for all.
    ///
    /// # Errors
    /// The step that failed, with the address.
    pub fn bind(self, options: &SocketOptions) -> Result<Vec<BoundSocket>, BindError> {
        let first = prepare(create(self.address)?, self, options, ReusePort::No)?;
        let target = Self { address: first.address, ..self };
        let sockets = target.fill_group(vec![first], options)?;
        if sockets.len() < options.sockets {
            return Err(BindError::AddressInUse { address: target.address });
        }
        Ok(sockets)
    }

    /// Binds the missing sockets where some remain from an earlier run, at least one.
    ///
    /// The kernel lets only the user who bound those join their group; for any other user they have to suffice.
    ///
    /// # Errors
    /// The step that failed, with the address.
    pub fn bind_remaining(self, left: Vec<UdpSocket>, options: &SocketOptions) -> Result<Vec<BoundSocket>, BindError> {
        let adopt = |socket| {
            let adopted = adopt(socket, options);
            adopted.map(|bound| BoundSocket { families: self.families, bound_here: true, ..bound })
        };
        self.fill_group(left.into_iter().map(adopt).collect::<Result<_, _>>()?, options)
    }

    fn fill_group(self, mut sockets: Vec<BoundSocket>, options: &SocketOptions) -> Result<Vec<BoundSocket>, BindError> {
        if sockets.len() < options.sockets {
            for bound in &sockets {
                set(&SockRef::from(&bound.socket), self.address, "SO_REUSEPORT", |socket| socket.set_reuse_port(true))?;
            }
        }
        while sockets.len() < options.sockets {
            match prepare(create(self.address)?, self, options, ReusePort::Join) {
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
/// `[::]` accepts IPv4 too, and becomes `0.0.0.0` if the host has no IPv6 (EAFNOSUPPORT). An address that the host does
/// not have yet is bound anyway (IP_FREEBIND).
///
/// # Errors
/// The step that failed, with the address.
pub fn bind(address: SocketAddr, options: &SocketOptions) -> Result<Vec<BoundSocket>, BindError> {
    BindTarget::resolve(address)?.bind(options)
}

/// Prepares a bound socket that came from elsewhere, whatever options it has. Its buffers are enlarged if possible, and
/// reduced only if that gives exactly what was requested.
///
/// # Errors
/// It is not a bound UDP socket, or is connected to a peer, or refuses an option.
pub fn adopt(socket: UdpSocket, options: &SocketOptions) -> Result<BoundSocket, BindError> {
    let descriptor = socket.as_raw_fd();
    let socket = Socket::from(socket);
    let (address, families) = identify(&socket).map_err(|source| BindError::Adopt { descriptor, source })?;
    let families = if families == Families::Both { families_here(address) } else { families };
    free_bind(&socket, address, false)?;
    reset(&socket, address, families)?;
    finish(socket, address, families, options).map(|bound| BoundSocket { bound_here: false, ..bound })
}

/// The ports that this host gives to clients that ask for none in particular (ip(7)); `None` if a sandbox hides them.
#[must_use]
pub fn client_ports() -> Option<RangeInclusive<u16>> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut words = text.split_whitespace().map(str::parse);
    Some(words.next()?.ok()?..=words.next()?.ok()?)
}

/// Reads where a socket is bound, and which families it accepts.
fn identify(socket: &Socket) -> io::Result<(SocketAddr, Families)> {
    let refuse = |reason: &str| io::Error::new(io::ErrorKind::InvalidInput, reason);
    if socket.r#type()? != Type::DGRAM || socket.protocol()? != Some(Protocol::UDP) {
        return Err(refuse("not a UDP socket"));
    }
    // It would receive from that peer and nobody else.
    if let Some(peer) = socket.peer_addr().ok().and_then(|peer| peer.as_socket()) {
        return Err(refuse(&format!("connected to {}", canonical(peer))));
    }
    let address = socket.local_addr()?.as_socket().filter(|address| address.port() != 0);
    let address = address.ok_or_else(|| refuse("not bound to a port"))?;
    match families(address) {
        Families::Both if socket.only_v6()? => Ok((address, Families::Ipv6)),
        families => Ok((address, families)),
    }
}

/// The relation of a socket to others at its address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReusePort {
    No,
    Join,
}

fn families(address: SocketAddr) -> Families {
    match address {
        SocketAddr::V4(_) => Families::Ipv4,
        SocketAddr::V6(_) if is_ipv6_wildcard(address) => Families::Both,
        SocketAddr::V6(_) => Families::Ipv6,
    }
}

/// Corrects the families for the present state of this host: with IPv6 switched off the kernel still binds `[::]`.
fn families_here(address: SocketAddr) -> Families {
    match families(address) {
        Families::Both if has_no_ipv6_address() => Families::NoIpv6Address,
        families => families,
    }
}

/// Returns whether no interface has an IPv6 address, loopback included; the sysctl disable_ipv6 is invisible in a
/// sandbox.
fn has_no_ipv6_address() -> bool {
    std::fs::read("/proc/thread-self/net/if_inet6").is_ok_and(|addresses| addresses.is_empty())
}

fn is_ipv6_wildcard(address: SocketAddr) -> bool {
    address.is_ipv6() && address.ip().is_unspecified()
}

fn create(address: SocketAddr) -> Result<Socket, BindError> {
    Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))
        .map_err(|source| BindError::Create { address, source })
}

fn prepare(
    socket: Socket,
    target: BindTarget,
    options: &SocketOptions,
    reuse_port: ReusePort,
) -> Result<BoundSocket, BindError> {
    let BindTarget { address, families } = target;
    if families.is_ipv6_socket() {
        set(&socket, address, "IPV6_V6ONLY", |socket| socket.set_only_v6(families == Families::Ipv6))?;
    }
    free_bind(&socket, address, true)?;
    if reuse_port == ReusePort::Join {
        set(&socket, address, "SO_REUSEPORT", |socket| socket.set_reuse_port(true))?;
    }
    socket.bind(&address.into()).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::AddressInUse { address },
        io::ErrorKind::PermissionDenied => BindError::PermissionDenied { address },
        _ => BindError::Bind { address, source },
    })?;
    // It would also let replies leave from an address that the host does not have.
    free_bind(&socket, address, false)?;
    finish(socket, address, families, options)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::super::options::{get_integer, set_integer};
    use super::*;

    /// Options that a parent may have turned on, by level and number: read in the kernel's headers, not from our own
    /// tables.
    const LEFT_ON: [(i32, &[i32]); 4] = [
        // SO_REUSEADDR, DONTROUTE, BROADCAST, NO_CHECK, TIMESTAMP, TIMESTAMPNS, RXQ_OVFL, WIFI_STATUS
        (1, &[2, 5, 6, 11, 29, 35, 40, 41]),
        // IP_RECVOPTS, RETOPTS, RECVERR, RECVTTL, RECVTOS, PASSSEC, RECVORIGDSTADDR, CHECKSUM, RECVFRAGSIZE
        (0, &[6, 7, 11, 12, 13, 18, 20, 23, 25]),
        // IPV6_2292PKTINFO .. 2292HOPLIMIT, FLOWINFO, RECVERR, RECVHOPLIMIT, RECVHOPOPTS, RECVRTHDR, RECVDSTOPTS,
        // RECVPATHMTU, DONTFRAG, RECVTCLASS, RECVORIGDSTADDR, RECVFRAGSIZE
        (41, &[2, 3, 4, 5, 8, 11, 25, 51, 53, 56, 58, 60, 62, 66, 74, 77]),
        // UDP_CORK, NO_CHECK6_TX, NO_CHECK6_RX, SEGMENT, GRO
        (17, &[1, 101, 102, 103, 104]),
    ];

    #[test]
    fn what_a_parent_left_on_is_off_after_adoption() {
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        let every = || LEFT_ON.iter().flat_map(|&(level, options)| options.iter().map(move |&option| (level, option)));
        let mut on = Vec::new();
        for (level, option) in every() {
            // Some need a privilege, or a kernel that knows them.
            if set_integer(socket.as_fd(), level, option, 1).is_ok()
                && get_integer(socket.as_fd(), level, option).is_ok_and(|value| value != 0)
            {
                on.push((level, option));
            }
        }
        assert!(on.len() > 25, "{on:?}");
        let adopted = adopt(socket, &SocketOptions { udp_gro: false, ..SocketOptions::default() }).unwrap();
        on.retain(|&(level, option)| get_integer(adopted.socket.as_fd(), level, option).unwrap() != 0);
        assert_eq!(on, [], "still on, by level and number");
        let adopted = adopt(adopted.socket, &SocketOptions::default()).unwrap();
        assert_eq!(get_integer(adopted.socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO).unwrap(), 1);
    }

    #[test]
    fn runs_that_are_queued_are_not_taken_for_datagrams_when_udp_gro_is_turned_off() {
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        set_integer(sender.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 100).unwrap();
        let adopt = |socket, udp_gro| adopt(socket, &SocketOptions { udp_gro, ..SocketOptions::default() }).unwrap();
        for (was_on, left) in [(true, 0), (false, 5)] {
            let socket = adopt(UdpSocket::bind("127.0.0.1:0").unwrap(), was_on).socket;
            sender.send_to(&[b'x'; 450], socket.local_addr().unwrap()).unwrap();
            let socket = adopt(socket, false).socket;
            let sizes: Vec<_> = std::iter::from_fn(|| socket.recv(&mut [0; 500]).ok()).collect();
            assert_eq!(sizes.len(), left, "{sizes:?}");
            assert!(sizes.iter().all(|&size| size <= 100));
        }
    }
}
