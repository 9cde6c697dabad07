//! May this datagram be answered? Rules on its source and destination, the cheap ones first.
//!
//! Plain functions over addresses, and one fixed table of ports: nothing here parses, logs or allocates once built. A rule
//! exists because an answer would loop, or reach somebody who did not ask (CERT CA-1996-01, CVE-2024-2169).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::ledger::DropReason;
use crate::socket::Datagram;

/// The rules of one server, shared by its workers.
#[derive(Debug)]
pub struct Admission {
    denied_ports: PortSet,
}

impl Admission {
    /// Rules that deny these source ports (every port that the server itself listens on) beside port 0.
    #[must_use]
    pub fn new(listening: impl IntoIterator<Item = u16>) -> Self {
        let mut denied_ports = PortSet::default();
        denied_ports.insert(0);
        listening.into_iter().for_each(|port| denied_ports.insert(port));
        Self { denied_ports }
    }

    /// Lets the datagram pass, or says why not.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn admit(&self, datagram: &Datagram) -> Result<(), DropReason> {
        if datagram.truncated {
            return Err(DropReason::Truncated);
        }
        if self.denied_ports.contains(datagram.peer.port()) {
            return Err(DropReason::SourcePort);
        }
        let destination = datagram.destination.map(|destination| destination.address);
        if datagram.mapped_over_ipv6 || !is_client(datagram.peer.ip(), destination) {
            return Err(DropReason::SourceAddress);
        }
        if datagram.destination.is_some_and(|destination| !destination.is_unicast()) {
            return Err(DropReason::Destination);
        }
        Ok(())
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self::new([])
    }
}

/// Whether this can be the address of a client that sent to `destination`.
fn is_client(source: IpAddr, destination: Option<IpAddr>) -> bool {
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

/// A set of UDP ports, one bit each: 8 KiB.
#[derive(Debug)]
struct PortSet(Box<[u64]>);

impl Default for PortSet {
    fn default() -> Self {
        Self(vec![0; 65_536 / 64].into())
    }
}

impl PortSet {
    fn insert(&mut self, port: u16) {
        self.0[usize::from(port / 64)] |= 1 << (port % 64);
    }

    fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port / 64)] & (1 << (port % 64)) != 0
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::socket::Destination;

    fn datagram(peer: &str, local: &str) -> Datagram {
        let address: IpAddr = local.parse().unwrap();
        Datagram {
            peer: peer.parse().unwrap(),
            destination: Some(Destination { address, local: address, interface: 1 }),
            payload: Bytes::new(),
            truncated: false,
            mapped_over_ipv6: false,
        }
    }

    fn judge(peer: &str, local: &str) -> Result<(), DropReason> {
        Admission::new([9000, 9001]).admit(&datagram(peer, local))
    }

    #[test]
    fn ordinary_clients_pass() {
        for (peer, local) in [
            ("192.0.2.1:40000", "192.0.2.2"),
            ("127.0.0.1:40000", "127.0.0.1"),
            ("127.0.0.1:40000", "127.9.9.9"),
            ("[2001:db8::1]:40000", "2001:db8::2"),
            ("[fe80::1%3]:40000", "fe80::2"),
            ("[::1]:40000", "::1"),
            ("192.0.2.2:40000", "192.0.2.2"),
            ("223.255.255.255:1", "192.0.2.2"),
        ] {
            assert_eq!(judge(peer, local), Ok(()), "{peer} to {local}");
        }
    }

    #[test]
    fn source_port_zero_and_our_own_ports_are_denied() {
        for port in [0, 9000, 9001] {
            assert_eq!(judge(&format!("192.0.2.1:{port}"), "192.0.2.2"), Err(DropReason::SourcePort));
            assert_eq!(judge(&format!("[::1]:{port}"), "::1"), Err(DropReason::SourcePort));
        }
        assert_eq!(judge("192.0.2.1:9002", "192.0.2.2"), Ok(()));
    }

    #[test]
    fn sources_that_cannot_be_clients_are_denied() {
        for (peer, local) in [
            ("0.0.0.0:40000", "192.0.2.2"),
            ("0.1.2.3:40000", "192.0.2.2"),
            ("127.0.0.1:40000", "192.0.2.2"),
            ("224.0.0.1:40000", "192.0.2.2"),
            ("240.0.0.1:40000", "192.0.2.2"),
            ("255.255.255.255:40000", "192.0.2.2"),
            ("[::]:40000", "2001:db8::2"),
            ("[::1]:40000", "2001:db8::2"),
            ("[::192.0.2.2]:40000", "2001:db8::2"),
            ("[::127.0.0.1]:40000", "2001:db8::2"),
            ("[ff02::1]:40000", "2001:db8::2"),
            ("[fec0::1]:40000", "2001:db8::2"),
        ] {
            assert_eq!(judge(peer, local), Err(DropReason::SourceAddress), "{peer} to {local}");
        }
    }

    #[test]
    fn an_ipv4_source_on_the_ipv6_wire_is_denied() {
        let mapped = Datagram { mapped_over_ipv6: true, ..datagram("192.0.2.1:40000", "2001:db8::2") };
        assert_eq!(Admission::default().admit(&mapped), Err(DropReason::SourceAddress));
    }

    #[test]
    fn broadcast_and_multicast_destinations_are_denied() {
        let mut broadcast = datagram("192.0.2.1:40000", "192.0.2.2");
        broadcast.destination.as_mut().unwrap().address = "192.0.2.255".parse().unwrap();
        assert_eq!(Admission::default().admit(&broadcast), Err(DropReason::Destination));
        assert_eq!(judge("[2001:db8::1]:40000", "ff02::1"), Err(DropReason::Destination));
    }

    #[test]
    fn the_cheapest_rule_is_named_first() {
        let all = Datagram { truncated: true, mapped_over_ipv6: true, ..datagram("[ff02::1]:0", "ff02::1") };
        let rules = Admission::default();
        assert_eq!(rules.admit(&all), Err(DropReason::Truncated));
        assert_eq!(rules.admit(&Datagram { truncated: false, ..all }), Err(DropReason::SourcePort));
    }
}
