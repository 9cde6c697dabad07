//! Socket addresses as the kernel reads and writes them (`sockaddr_in`, `sockaddr_in6`; ip(7), ipv6(7)).
//!
//! They are handled as plain bytes in safe code, so that this can be tested without a socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Room for either kind of address, aligned for both.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(8))]
pub(super) struct SockAddrBuffer([u8; SockAddrBuffer::SIZE]);

impl SockAddrBuffer {
    /// The size of `sockaddr_in6`, the larger one.
    pub(super) const SIZE: usize = size_of::<libc::sockaddr_in6>();
    const SIZE_IPV4: usize = size_of::<libc::sockaddr_in>();

    /// Writes an address for a socket of the family AF_INET6 (with IPv4 in mapped form) or AF_INET; returns its length.
    pub(super) fn encode(&mut self, address: SocketAddr, ipv6_socket: bool) -> usize {
        let bytes = &mut self.0;
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        if let (SocketAddr::V4(v4), false) = (address, ipv6_socket) {
            bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            bytes[4..8].copy_from_slice(&v4.ip().octets());
            bytes[8..].fill(0);
            return Self::SIZE_IPV4;
        }
        let (ip, scope) = match address {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
        };
        bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        bytes[4..8].fill(0); // the flow label is not reflected
        bytes[8..24].copy_from_slice(&ip.octets());
        bytes[24..28].copy_from_slice(&scope.to_ne_bytes());
        Self::SIZE
    }

    /// The address in its first `length` bytes, as the kernel wrote it: IPv4 may be in mapped form.
    pub(super) fn decode(&self, length: usize) -> Option<SocketAddr> {
        let bytes = self.0.get(..length)?;
        let family = i32::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
        match family {
            libc::AF_INET => {
                let octets: [u8; 4] = *bytes.get(4..)?.first_chunk()?;
                Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(octets)), port))
            }
            libc::AF_INET6 => {
                let octets: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
                let scope = u32::from_ne_bytes(*bytes.get(24..)?.first_chunk()?);
                Some(SocketAddrV6::new(Ipv6Addr::from(octets), port, 0, scope).into())
            }
            _ => None,
        }
    }
}

/// Turns an IPv4-mapped address into its IPv4 form, so that nobody has to see `::ffff:127.0.0.1`.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(ip) => SocketAddr::new(ip.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_to_the_kernel_and_back() {
        let mut name = SockAddrBuffer([0xff; SockAddrBuffer::SIZE]);
        for text in ["[::1]:9000", "[fe80::1%7]:1", "[2001:db8::9]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            let length = name.encode(address, true);
            assert_eq!((length, name.decode(length)), (28, Some(address)));
        }
        let v4: SocketAddr = "192.0.2.1:9000".parse().unwrap();
        assert_eq!(name.encode(v4, false), 16);
        assert_eq!(name.decode(16), Some(v4));
        assert_eq!(name.encode(v4, true), 28);
        assert_eq!(name.decode(28), Some("[::ffff:192.0.2.1]:9000".parse().unwrap()));
    }

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!((SockAddrBuffer::SIZE, SockAddrBuffer::SIZE_IPV4), (28, 16));
        assert_eq!(std::mem::offset_of!(libc::sockaddr_in6, sin6_port), 2);
        assert_eq!(std::mem::offset_of!(libc::sockaddr_in6, sin6_addr), 8);
        assert_eq!(std::mem::offset_of!(libc::sockaddr_in6, sin6_scope_id), 24);
        assert_eq!(std::mem::offset_of!(libc::sockaddr_in, sin_addr), 4);
    }

    #[test]
    fn a_short_or_unknown_name_is_no_address() {
        let mut name = SockAddrBuffer::default();
        assert_eq!(name.decode(0), None);
        assert_eq!(name.decode(28), None);
        name.encode("[::1]:9000".parse().unwrap(), true);
        assert!((0..28).all(|length| name.decode(length).is_none()));
        assert_eq!(name.decode(29), None);
    }
}
