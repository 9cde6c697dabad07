//! Control messages: the address that a datagram was sent to, and the one that a reply leaves from.
//!
//! Read and written as plain bytes in safe code (cmsg(3), ip(7), ipv6(7); RFC 3542 s6.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Destination;

/// Room for the control messages of one datagram: both kinds of packet information take 72 bytes; the rest is for other
/// messages that may be enabled on a given socket.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct ControlBuffer([u8; ControlBuffer::SIZE]);

impl Default for ControlBuffer {
    fn default() -> Self {
        Self([0; Self::SIZE])
    }
}

/// The packet information in the control messages of a received datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketInfo {
    /// IP_PKTINFO: it came over IPv4.
    pub ipv4: Option<Destination>,
    /// IPV6_PKTINFO; for a datagram that came over IPv4, with a mapped address.
    pub ipv6: Option<Destination>,
}

const WORD: usize = size_of::<usize>();
/// `struct cmsghdr`: length (a word), level, type.
const HEADER: usize = WORD + 8;

const fn aligned(length: usize) -> usize {
    length.next_multiple_of(WORD)
}

impl PacketInfo {
    /// Reads control messages; skips those that are unknown or cut off.
    #[must_use]
    pub fn parse(mut messages: &[u8]) -> Self {
        let mut info = Self::default();
        while let Some((size, level, kind)) = header(messages) {
            if size < HEADER || size > messages.len() {
                break;
            }
            let data = &messages[HEADER..size];
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => info.ipv4 = ipv4_destination(data),
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => info.ipv6 = ipv6_destination(data),
                _ => {}
            }
            messages = messages.get(aligned(size)..).unwrap_or_default();
        }
        info
    }
}

impl ControlBuffer {
    pub(super) const SIZE: usize = 256;

    /// Reads the messages in the first `length` bytes.
    pub(super) fn decode(&self, length: usize) -> PacketInfo {
        PacketInfo::parse(&self.0[..length.min(Self::SIZE)])
    }

    /// Writes the message that makes a reply leave from `asked`; returns its length in bytes.
    ///
    /// The interface is named for link-local addresses only: elsewhere routing may be asymmetric.
    pub(super) fn encode(&mut self, asked: &Destination) -> usize {
        let interface = if is_link_local(asked.local) { asked.interface } else { 0 };
        let interface = interface.to_ne_bytes();
        match asked.local {
            IpAddr::V4(ip) => {
                let octets = ip.octets();
                self.message(libc::IPPROTO_IP, libc::IP_PKTINFO, &[&interface, &octets, &[0; 4]])
            }
            IpAddr::V6(ip) => self.message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &[&ip.octets(), &interface]),
        }
    }

    fn message(&mut self, level: i32, kind: i32, data: &[&[u8]]) -> usize {
        let mut at = HEADER;
        for part in data {
            self.0[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        self.0[..WORD].copy_from_slice(&at.to_ne_bytes());
        self.0[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        self.0[WORD + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        self.0[at..aligned(at)].fill(0);
        aligned(at)
    }
}

fn header(bytes: &[u8]) -> Option<(usize, i32, i32)> {
    let size = usize::from_ne_bytes(*bytes.first_chunk()?);
    let level = i32::from_ne_bytes(*bytes.get(WORD..)?.first_chunk()?);
    let kind = i32::from_ne_bytes(*bytes.get(WORD + 4..)?.first_chunk()?);
    Some((size, level, kind))
}

/// `struct in_pktinfo`: interface, local address, destination in the header.
///
/// The kernel records the local address when a datagram arrives, and only if the socket has requested it by then: for a
/// datagram that was already queued in a given socket it is 0.0.0.0. A reply then leaves from the destination, which
/// the kernel refuses if that was a broadcast address.
fn ipv4_destination(data: &[u8]) -> Option<Destination> {
    let interface = u32::from_ne_bytes(*data.first_chunk()?);
    let local: [u8; 4] = *data.get(4..)?.first_chunk()?;
    let address: [u8; 4] = *data.get(8..)?.first_chunk()?;
    let local = if local == [0; 4] { address } else { local };
    Some(Destination { address: Ipv4Addr::from(address).into(), local: Ipv4Addr::from(local).into(), interface })
}

/// `struct in6_pktinfo`: destination, interface.
fn ipv6_destination(data: &[u8]) -> Option<Destination> {
    let octets: [u8; 16] = *data.first_chunk()?;
    let interface = u32::from_ne_bytes(*data.get(16..)?.first_chunk()?);
    let address = IpAddr::V6(Ipv6Addr::from(octets));
    Some(Destination { address, local: address, interface })
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(local: &str, interface: u32) -> Destination {
        let local = local.parse().unwrap();
        Destination { address: local, local, interface }
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut control = ControlBuffer([0xff; ControlBuffer::SIZE]);
        let asked = destination("fe80::7", 3);
        let length = control.encode(&asked);
        assert_eq!(control.decode(length), PacketInfo { ipv4: None, ipv6: Some(asked) });

        let asked = destination("192.0.2.7", 3);
        let length = control.encode(&asked);
        let read = control.decode(length).ipv4.unwrap();
        assert_eq!((read.local, read.interface), (asked.local, 0), "the interface is left to routing");
        assert_eq!(length, 32);
    }

    #[test]
    fn both_messages_of_an_ipv4_datagram_are_read() {
        let mut first = ControlBuffer::default();
        let length = first.encode(&destination("::ffff:192.0.2.7", 3));
        let mut second = ControlBuffer::default();
        let more = second.encode(&destination("169.254.0.7", 3));
        first.0[length..length + more].copy_from_slice(&second.0[..more]);
        let info = first.decode(length + more);
        assert_eq!(info.ipv6.unwrap().address, "::ffff:192.0.2.7".parse::<IpAddr>().unwrap());
        assert_eq!(info.ipv4.unwrap().interface, 3);
    }

    #[test]
    fn a_local_address_that_the_kernel_did_not_note_is_the_destination() {
        let mut control = ControlBuffer::default();
        let length = control.message(libc::IPPROTO_IP, libc::IP_PKTINFO, &[&[0; 4], &[0; 4], &[192, 0, 2, 7]]);
        assert_eq!(control.decode(length).ipv4, Some(destination("192.0.2.7", 0)));
    }

    #[test]
    fn cut_off_and_senseless_messages_are_passed_over() {
        let mut control = ControlBuffer::default();
        let length = control.encode(&destination("2001:db8::7", 3));
        for short in 0..length - 4 {
            assert_eq!(control.decode(short), PacketInfo::default(), "{short} bytes");
        }
        for size in [0, 1, HEADER - 1, HEADER, HEADER + 3, ControlBuffer::SIZE + 1, usize::MAX] {
            control.0[..WORD].copy_from_slice(&size.to_ne_bytes());
            assert_eq!(control.decode(ControlBuffer::SIZE), PacketInfo::default(), "size {size}");
        }
        assert_eq!(control.decode(usize::MAX), PacketInfo::default());
    }

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!(size_of::<libc::cmsghdr>(), HEADER);
        assert_eq!((size_of::<libc::in_pktinfo>(), size_of::<libc::in6_pktinfo>()), (12, 20));
        assert_eq!(std::mem::offset_of!(libc::in_pktinfo, ipi_spec_dst), 4);
        assert_eq!(std::mem::offset_of!(libc::in6_pktinfo, ipi6_ifindex), 16);
    }
}
