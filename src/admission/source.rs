//! Source addresses: which can be a client's, and which count as one source.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::prefix::mask;

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

/// The key under which a peer is counted. Addresses that many share, or that anybody on the link could have, are
/// counted individually; of what one IPv4 address gives its owner, all is one source.
pub(super) fn key(peer: SocketAddr, prefixes: (u8, u8)) -> (IpAddr, u32) {
    let ip = match peer.ip() {
        IpAddr::V4(ip) => return (mask(ip.into(), prefixes.0), 0),
        IpAddr::V6(ip) => ip,
    };
    if ip.is_unicast_link_local() {
        let scope = if let SocketAddr::V6(v6) = peer { v6.scope_id() } else { 0 };
        return (ip.into(), scope);
    }
    let ip = match ip.segments() {
        // NAT64 (RFC 6052, RFC 8215): all of IPv4 is behind it.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => ip.into(),
        // Teredo (RFC 4380): the client's IPv4 address is in the last 32 bits, before them what it can choose.
        [0x2001, 0, .., high, low] => Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, high, low).into(),
        // 6to4 (RFC 3056): each IPv4 address has a /48.
        [0x2002, ..] => mask(ip.into(), prefixes.1.min(48)),
        _ => mask(ip.into(), prefixes.1),
    };
    (ip, 0)
}
