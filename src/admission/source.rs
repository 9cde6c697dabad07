//! Source addresses: which can be a client's, and which count as one source.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::prefix::{mask_ipv4, mask_ipv6};

/// Returns whether this can be the address of a client that sent to `destination`.
pub(super) fn is_client(source: IpAddr, destination: Option<IpAddr>) -> bool {
    match source {
        IpAddr::V4(ip) if ip.is_loopback() => destination.is_none_or(|to| to.is_loopback()),
        IpAddr::V4(ip) => is_client_ipv4(ip),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => destination.is_none_or(|to| to == Ipv6Addr::LOCALHOST),
        IpAddr::V6(ip) => is_client_ipv6(ip),
    }
}

/// Not "this network" (0/8), multicast (224/4), or reserved and broadcast (240/4): RFC 6890.
fn is_client_ipv4(ip: Ipv4Addr) -> bool {
    !matches!(ip.octets()[0], 0 | 224..)
}

/// Not unspecified or IPv4-compatible (::/96), multicast (ff00::/8), or site-local (fec0::/10): RFC 4291 s2.5.
fn is_client_ipv6(ip: Ipv6Addr) -> bool {
    let compatible = ip.segments()[..6] == [0; 6];
    let site_local = ip.segments()[0] & 0xffc0 == 0xfec0;
    !compatible && !ip.is_multicast() && !site_local
}

/// How many bits of an address make one source.
#[derive(Clone, Copy, Debug)]
pub(super) struct SourcePrefixes {
    pub(super) ipv4: u8,
    pub(super) ipv6: u8,
}

/// The bits of ::ffff:0:0/96, where IPv4 addresses are in mapped form (RFC 4291 s2.5.5.2).
const MAPPED: u128 = 0xffff << 32;

/// All that is limited as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source {
    /// The address, cut to its prefix; IPv4 in mapped form.
    address: u128,
    /// The interface, where the address means nothing without it.
    scope: u32,
}

impl Source {
    pub(super) fn of(peer: SocketAddr, prefixes: SourcePrefixes) -> Self {
        match peer {
            SocketAddr::V4(peer) => {
                let ip = mask_ipv4(*peer.ip(), prefixes.ipv4).to_bits();
                Self { address: MAPPED | u128::from(ip), scope: 0 }
            }
            // Anybody on the link could have any of them: each counts individually.
            SocketAddr::V6(peer) if peer.ip().is_unicast_link_local() => {
                Self { address: peer.ip().to_bits(), scope: peer.scope_id() }
            }
            SocketAddr::V6(peer) => Self { address: ipv6_source(*peer.ip(), prefixes.ipv6).to_bits(), scope: 0 },
        }
    }
}

/// The part of an address that makes one source. All that one IPv4 address gives its owner is one.
fn ipv6_source(ip: Ipv6Addr, prefix: u8) -> Ipv6Addr {
    match ip.segments() {
        // NAT64 (RFC 6052, RFC 8215): all of IPv4 is behind it.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => ip,
        // Teredo (RFC 4380): the client's IPv4 address is in the last 32 bits, before them what it can choose.
        [0x2001, 0, .., high, low] => Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, high, low),
        // 6to4 (RFC 3056): each IPv4 address has a /48.
        [0x2002, ..] => mask_ipv6(ip, prefix.min(48)),
        _ => mask_ipv6(ip, prefix),
    }
}
