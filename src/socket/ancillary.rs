//! Control messages: the address that a datagram was sent to, the one that a reply leaves from, and the size of the
//! datagrams in a run that crosses the socket as one message.
//!
//! Read and written as plain bytes in safe code (cmsg(3), ip(7), ipv6(7), udp(7); RFC 3542 s6.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Destination;

/// Room for the control messages of one message: both kinds of packet information and the size of a run's datagrams
/// take 96 bytes; the rest is for others that may be enabled on a given socket.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct ControlBuffer([u8; ControlBuffer::SIZE]);

impl Default for ControlBuffer {
    fn default() -> Self {
        Self([0; Self::SIZE])
    }
}

/// The control messages of a received message, as far as they are known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ControlMessages {
    /// IP_PKTINFO: it came over IPv4.
    pub ipv4: Option<Destination>,
    /// IPV6_PKTINFO; for a datagram that came over IPv4, with a mapped address.
    pub ipv6: Option<Destination>,
    /// UDP_GRO: it is a run of datagrams with this many bytes each, the last of which may have fewer.
    pub segment_size: Option<usize>,
}

const WORD: usize = size_of::<usize>();
/// `struct cmsghdr`: length (a word), level, type.
const HEADER: usize = WORD + 8;

const fn aligned(length: usize) -> usize {
    length.next_multiple_of(WORD)
}

impl ControlMessages {
    /// Reads control messages; skips those that are unknown or cut off.
    #[must_use]
    pub fn parse(mut messages: &[u8]) -> Self {
        let mut read = Self::default();
        while let Some((size, level, kind)) = header(messages) {
            if size < HEADER || size > messages.len() {
                break;
            }
            let data = &messages[HEADER..size];
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => read.ipv4 = ipv4_destination(data),
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => read.ipv6 = ipv6_destination(data),
                (libc::SOL_UDP, libc::UDP_GRO) => read.segment_size = segment_size(data),
                _ => {}
            }
            messages = messages.get(aligned(size)..).unwrap_or_default();
        }
        read
    }
}

impl ControlBuffer {
    pub(super) const SIZE: usize = 256;

    /// Reads the messages in the first `length` bytes.
    pub(super) fn decode(&self, length: usize) -> ControlMessages {
        ControlMessages::parse(&self.0[..length.min(Self::SIZE)])
    }

    /// Writes the message that makes a reply leave from `asked`, and the one that has the kernel cut what is sent into
    /// datagrams of this size (UDP_SEGMENT); returns their length in bytes.
    ///
    /// The interface is named for link-local addresses only: elsewhere routing may be asymmetric.
    pub(super) fn encode(&mut self, asked: Option<&Destination>, segment_size: Option<u16>) -> usize {
        let length = asked.map_or(0, |asked| self.encode_source(asked));
        match segment_size {
            Some(size) => length + self.message(length, libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes()),
            None => length,
        }
    }

    fn encode_source(&mut self, asked: &Destination) -> usize {
        let interface = if is_link_local(asked.local) { asked.interface } else { 0 };
        let interface = interface.to_ne_bytes();
        match asked.local {
            IpAddr::V4(ip) => {
                let mut data = [0; size_of::<libc::in_pktinfo>()];
                data[..4].copy_from_slice(&interface);
                data[4..8].copy_from_slice(&ip.octets());
                self.message(0, libc::IPPROTO_IP, libc::IP_PKTINFO, &data)
            }
            IpAddr::V6(ip) => {
                let mut data = [0; size_of::<libc::in6_pktinfo>()];
                data[..16].copy_from_slice(&ip.octets());
                data[16..].copy_from_slice(&interface);
                self.message(0, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data)
            }
        }
    }

    /// Writes a message at this offset; returns the space that it takes.
    fn message<const N: usize>(&mut self, at: usize, level: i32, kind: i32, data: &[u8; N]) -> usize {
        let message = &mut self.0[at..at + const { aligned(HEADER + N) }];
        message[..WORD].copy_from_slice(&(HEADER + N).to_ne_bytes());
        message[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        message[WORD + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        message[HEADER..HEADER + N].copy_from_slice(data);
        message[HEADER + N..].fill(0);
        message.len()
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

/// The size of a run's datagrams, an int; anything else than a number above 0 is no run.
fn segment_size(data: &[u8]) -> Option<usize> {
    let size = i32::from_ne_bytes(*data.first_chunk()?);
    usize::try_from(size).ok().filter(|&size| size > 0)
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
        let length = control.encode(Some(&asked), None);
        assert_eq!(control.decode(length), ControlMessages { ipv6: Some(asked), ..ControlMessages::default() });

        let asked = destination("192.0.2.7", 3);
        let length = control.encode(Some(&asked), None);
        let read = control.decode(length).ipv4.unwrap();
        assert_eq!((read.local, read.interface), (asked.local, 0), "the interface is left to routing");
        assert_eq!(length, 32);
    }

    #[test]
    fn both_messages_of_an_ipv4_datagram_are_read() {
        let mut first = ControlBuffer::default();
        let length = first.encode(Some(&destination("::ffff:192.0.2.7", 3)), None);
        let mut second = ControlBuffer::default();
        let more = second.encode(Some(&destination("169.254.0.7", 3)), None);
        first.0[length..length + more].copy_from_slice(&second.0[..more]);
        let info = first.decode(length + more);
        assert_eq!(info.ipv6.unwrap().address, "::ffff:192.0.2.7".parse::<IpAddr>().unwrap());
        assert_eq!(info.ipv4.unwrap().interface, 3);
    }

    #[test]
    fn a_local_address_that_the_kernel_did_not_note_is_the_destination() {
        let mut control = ControlBuffer::default();
        let data = [0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 7];
        let length = control.message(0, libc::IPPROTO_IP, libc::IP_PKTINFO, &data);
        assert_eq!(control.decode(length).ipv4, Some(destination("192.0.2.7", 0)));
    }

    #[test]
    fn cut_off_and_senseless_messages_are_passed_over() {
        let mut control = ControlBuffer::default();
        let length = control.encode(Some(&destination("2001:db8::7", 3)), None);
        for short in 0..length - 4 {
            assert_eq!(control.decode(short), ControlMessages::default(), "{short} bytes");
        }
        for size in [0, 1, HEADER - 1, HEADER, HEADER + 3, ControlBuffer::SIZE + 1, usize::MAX] {
            control.0[..WORD].copy_from_slice(&size.to_ne_bytes());
            assert_eq!(control.decode(ControlBuffer::SIZE), ControlMessages::default(), "size {size}");
        }
        assert_eq!(control.decode(usize::MAX), ControlMessages::default());
    }

    #[test]
    fn the_size_of_a_runs_datagrams_is_read_and_written_behind_the_addresses() {
        let mut control = ControlBuffer::default();
        let asked = destination("2001:db8::7", 0);
        let length = control.encode(Some(&asked), None);
        let both = length + control.message(length, libc::SOL_UDP, libc::UDP_GRO, &1200i32.to_ne_bytes());
        let expected = ControlMessages { ipv6: Some(asked), segment_size: Some(1200), ..ControlMessages::default() };
        assert_eq!(control.decode(both), expected);
        assert_eq!(control.decode(length).segment_size, None);
        for none in [0, -1, i32::MIN] {
            let length = control.message(0, libc::SOL_UDP, libc::UDP_GRO, &none.to_ne_bytes());
            assert_eq!(control.decode(length).segment_size, None);
        }
        for (source, length) in [(Some(&asked), 40 + 24), (None, 24)] {
            assert_eq!(control.encode(source, Some(1200)), length);
            let written = &control.0[length - 24..length];
            let kind = [libc::SOL_UDP, libc::UDP_SEGMENT].map(i32::to_ne_bytes).concat();
            assert_eq!(
                (written[..WORD].first_chunk(), &written[WORD..HEADER]),
                (Some(&18usize.to_ne_bytes()), &kind[..])
            );
            assert_eq!(written[HEADER..], [&1200u16.to_ne_bytes()[..], &[0; 6]].concat());
        }
    }

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!(size_of::<libc::cmsghdr>(), HEADER);
        assert_eq!((size_of::<libc::in_pktinfo>(), size_of::<libc::in6_pktinfo>()), (12, 20));
        assert_eq!(std::mem::offset_of!(libc::in_pktinfo, ipi_spec_dst), 4);
        assert_eq!(std::mem::offset_of!(libc::in6_pktinfo, ipi6_ifindex), 16);
    }
}
