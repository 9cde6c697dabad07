//! Raw packets on a cable between two namespaces: sent with any source and destination, and captured.

#![allow(unsafe_code, reason = "a packet socket's address, and some options, have no safe wrapper")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::process::Command;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::namespace::Namespace;
use super::{DEADLINE, retry, run};

/// One end of a cable.
pub(crate) struct Wire {
    socket: Socket,
    own: [u8; 6],
    other: [u8; 6],
}

/// A UDP datagram that was captured.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Captured {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) payload: Vec<u8>,
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

fn read(namespace: &Namespace, file: &str) -> String {
    let words = ["netns", "exec", namespace.name(), "cat", file];
    run(Command::new("ip").args(words)).success().trim().to_owned()
}

fn hardware_address(namespace: &Namespace) -> [u8; 6] {
    let text = read(namespace, "/sys/class/net/veth0/address");
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

impl Wire {
    /// The end in `here` of the cable to `there`.
    pub(crate) fn between(here: &Namespace, there: &Namespace) -> Self {
        let interface: i32 = read(here, "/sys/class/net/veth0/ifindex").parse().unwrap();
        let every_protocol = (libc::ETH_P_ALL as u16).to_be();
        let socket =
            here.run(|| Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(every_protocol)))));
        let socket = socket.unwrap();
        // SAFETY: a sockaddr_ll is a plain C struct of integers; all zero is a valid value.
        let mut link: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        link.sll_family = libc::AF_PACKET as u16;
        link.sll_protocol = every_protocol;
        link.sll_ifindex = interface;
        let write = |storage: *mut socket2::SockAddrStorage, length: *mut libc::socklen_t| {
            // SAFETY: the storage is writable, and larger and no less aligned than a sockaddr_ll.
            unsafe { storage.cast::<libc::sockaddr_ll>().write(link) };
            // SAFETY: the length is writable.
            unsafe { length.write(size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
            Ok(())
        };
        // SAFETY: the closure writes an address and its length.
        let ((), address) = unsafe { SockAddr::try_init(write) }.unwrap();
        socket.bind(&address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { socket, own: hardware_address(here), other: hardware_address(there) }
    }

    /// Sends a UDP datagram in an IPv4 or IPv6 packet, as the addresses are; a mapped address goes over IPv6.
    pub(crate) fn send(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let mut frame = [self.other, self.own].concat();
        match (from.ip(), to.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend(IPV4.to_be_bytes());
                let length = 28 + payload.len() as u16;
                let mut header = vec![0x45, 0];
                header.extend(length.to_be_bytes());
                header.extend([0, 0, 0, 0, 64, 17, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                let sum = checksum(&header).to_be_bytes();
                header[10..12].copy_from_slice(&sum);
                frame.extend(header);
                frame.extend(udp(from, to, payload, 0));
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend(IPV6.to_be_bytes());
                let length = 8 + payload.len() as u16;
                frame.extend([0x60, 0, 0, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([17, 64]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                let mut pseudo = [source.octets(), destination.octets()].concat();
                pseudo.extend(u32::from(length).to_be_bytes());
                pseudo.extend([0, 0, 0, 17]);
                pseudo.extend(udp(from, to, payload, 0));
                let sum = checksum(&pseudo);
                frame.extend(udp(from, to, payload, if sum == 0 { 0xffff } else { sum }));
            }
            mixed => panic!("one packet has one family: {mixed:?}"),
        }
        (&self.socket).write_all(&frame).unwrap();
    }

    /// Forgets what was captured, so that there is room for what comes.
    pub(crate) fn drain(&self) {
        self.socket.set_nonblocking(true).unwrap();
        while (&self.socket).read(&mut [0; 2048]).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
    }

    /// The next UDP datagram that came from the other end.
    pub(crate) fn capture(&self) -> Captured {
        loop {
            let mut frame = vec![0; 1 << 16];
            let length = retry(|| (&self.socket).read(&mut frame)).expect("a datagram in time");
            frame.truncate(length);
            if frame[6..12] == self.other
                && let Some(captured) = parse(&frame[12..])
            {
                return captured;
            }
        }
    }
}

fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8], sum: u16) -> Vec<u8> {
    let words = [from.port(), to.port(), 8 + payload.len() as u16, sum];
    let mut datagram: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    datagram.extend(payload);
    datagram
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Lets the kernel fill in the checksum of what a raw IPv6 socket sends, at this offset (ipv6(7)).
pub(crate) fn set_ipv6_checksum(socket: &Socket, offset: i32) -> std::io::Result<()> {
    const IPV6_CHECKSUM: i32 = 7;
    set_option(socket.as_raw_fd(), libc::IPPROTO_IPV6, IPV6_CHECKSUM, offset)
}

/// Sends a datagram for each `size` bytes of the payload, in one call (UDP_SEGMENT of udp(7)).
pub(crate) fn send_segments(socket: &UdpSocket, payload: &[u8], size: i32) -> std::io::Result<()> {
    set_option(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, size)?;
    socket.send(payload).map(drop)
}

/// Sets an option that is a number.
pub(crate) fn set_option(socket: RawFd, level: i32, option: i32, value: i32) -> std::io::Result<()> {
    // SAFETY: the option value is one live i32, and its size is what the kernel is told.
    let result = unsafe {
        libc::setsockopt(socket, level, option, (&raw const value).cast(), size_of::<i32>() as libc::socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// A packet from its Ethernet type on.
fn parse(packet: &[u8]) -> Option<Captured> {
    let (kind, packet) = packet.split_at_checked(2)?;
    let (source, destination, udp): (IpAddr, IpAddr, _) = match u16::from_be_bytes(kind.try_into().ok()?) {
        IPV4 if packet.get(9) == Some(&17) => {
            let address = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).unwrap().into();
            (address(12), address(16), packet.get(20..usize::from(u16::from_be_bytes([packet[2], packet[3]])))?)
        }
        IPV6 if packet.get(6) == Some(&17) => {
            let address = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap().into();
            (address(8), address(24), packet.get(40..)?)
        }
        _ => return None,
    };
    let port = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    let payload = udp.get(8..usize::from(port(4)))?.to_vec();
    Some(Captured { from: (source, port(0)).into(), to: (destination, port(2)).into(), payload })
}
